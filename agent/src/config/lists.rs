//! Lists of who may come in, read again for a config that stays in use while a newer one is refused or still waits: what was taken out of
//! one of them counts at once, whatever else is wrong.

use std::sync::Arc;

use countersign_credentials::api_key::KeyIndex;

use super::check::credentials::{read_keys, read_passwords};
use super::check::{domains, issuers};
use super::checked::{Accepted, Agent, ApiKeys, ExtraTrustDomain, Issuer, KeySource, Passwords};
use crate::in_words::in_one_line;

/// The config with what its lists say now. One that cannot be used stays as it was; why is added to `unusable`.
pub(crate) fn read_again(config: &Agent, unusable: &mut Vec<String>) -> Agent {
    let Accepted { api_keys, passwords, issuers } = &*config.accepted;
    let accepted = Accepted {
        api_keys: api_keys.as_ref().map(|keys| or_before(keys_again(keys), keys, unusable)),
        passwords: passwords.as_ref().map(|known| or_before(passwords_again(known), known, unusable)),
        issuers: issuers.iter().map(|issuer| or_before(issuer_again(issuer), issuer, unusable)).collect(),
    };
    let domains = config.trust_domains.iter();
    let trust_domains = domains.map(|extra| or_before(bundle_again(extra), extra, unusable)).collect();
    Agent { accepted: Arc::new(accepted), trust_domains, ..config.clone() }
}

fn or_before<T: Clone>(again: Result<T, String>, before: &T, unusable: &mut Vec<String>) -> T {
    again.unwrap_or_else(|error| {
        unusable.push(error);
        before.clone()
    })
}

fn keys_again(before: &ApiKeys) -> Result<ApiKeys, String> {
    let keys = read_keys(&before.file).map_err(|error| in_one_line(&error))?;
    Ok(ApiKeys { index: KeyIndex::new(&keys), ..before.clone() })
}

fn passwords_again(before: &Passwords) -> Result<Passwords, String> {
    read_passwords(before.file.clone())
}

/// Keys that are fetched are followed by whoever fetches them.
fn issuer_again(before: &Arc<Issuer>) -> Result<Arc<Issuer>, String> {
    let KeySource::File { path, .. } = &before.keys else { return Ok(Arc::clone(before)) };
    let keys = issuers::read_keys(path.clone(), &before.tokens.settings().algorithms)?;
    Ok(Arc::new(Issuer { keys, ..Issuer::clone(before) }))
}

fn bundle_again(before: &ExtraTrustDomain) -> Result<ExtraTrustDomain, String> {
    let bundle = domains::read_bundle(before.bundle.trust_domain().clone(), &before.file)?;
    Ok(ExtraTrustDomain { bundle, ..before.clone() })
}
