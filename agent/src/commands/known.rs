//! What a config and its file of keys know of somebody who is asked about.

use countersign_credentials::api_key::KeyRecord;

use super::question::Question;
use super::shown::Shown;
use crate::config::{KeysError, checked, read_keys};
use crate::limit::definition::{Limit, Limitable};

/// What the file of keys has of the API key that is asked about.
pub(super) enum Known {
    /// No key is asked about, or one of which it is said what it grants.
    Unasked,
    /// There is none of this name.
    Unknown,
    Key(Box<KeyRecord>),
}

/// The API key that is asked about. Where something is said of it, that is what is asked about.
pub(super) fn key(config: &checked::Agent, question: &Question) -> Result<Known, KeysError> {
    let id = question.subject.as_deref().and_then(|subject| subject.strip_prefix("key:"));
    let file = config.accepted.api_keys.as_ref().map(|keys| &keys.file);
    let (Some(id), Some(file), true) = (id, file, question.facts.is_empty()) else { return Ok(Known::Unasked) };
    let key = read_keys(file)?.keys().iter().find(|key| key.id.as_str() == id).cloned();
    Ok(key.map_or(Known::Unknown, |key| Known::Key(Box::new(key))))
}

/// The names of the limits that would count it.
pub(super) fn limits(
    config: &checked::Agent,
    inbound: &str,
    Shown { names, subject, .. }: &Shown,
    key: Option<&KeyRecord>,
) -> Vec<String> {
    let of_workload = config.roles.of(names);
    let of_subject = subject.as_ref().map(|names| (names, config.roles.of_subject(names)));
    let caller = Limitable {
        workload: (!names.is_empty()).then_some((names.as_slice(), &of_workload)),
        subject: of_subject.as_ref().map(|(names, roles)| (*names, roles)),
        named: key.and_then(|key| key.limits.as_deref()).unwrap_or_default(),
    };
    let holds = |limit: &&Limit| limit.holds_on(inbound) && limit.holds_for(&caller) && limit.counts(&caller);
    config.rate_limits.iter().filter(holds).map(|limit| limit.name.to_string()).collect()
}
