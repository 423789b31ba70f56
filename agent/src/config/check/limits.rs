//! Limits on what callers do. One that can never hold is refused: whoever wrote it believes that something is limited.

use std::ops::Range;
use std::sync::Arc;

use countersign_certs::settings::diagnostic::{Finding, did_you_mean};
use countersign_limits::quota::Quota;
use toml::Spanned;

use super::super::address::ListenAddress;
use super::super::checked::{Accepted, Inbound};
use super::super::file;
use super::credentials::KnownSubjects;
use super::domains::KnownDomains;
use super::routes::Places;
use super::scalars::{check_known, is_observed, name, number, parsed};
use crate::limit::definition::{CountedBy, Limit};
use crate::policy::credential::CredentialKind;
use crate::policy::member::MemberPattern;
use crate::policy::role::{RoleSet, Roles};

/// Most limits of one config. Each that can hold is looked at for each request.
const LIMITS_MAX: usize = 256;

/// Most requests at once that a limit can name.
const CONCURRENT_MAX: u32 = 1_000_000;

/// What limits name.
pub(super) struct Surroundings<'config> {
    pub(super) roles: &'config Roles,
    pub(super) known: &'config KnownDomains,
    pub(super) subjects: &'config KnownSubjects<'config>,
    pub(super) inbounds: &'config [(Inbound, Places)],
}

pub(super) fn limits(
    written: &[Spanned<file::RateLimit>],
    store: Option<&Spanned<file::Store>>,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<Limit>, Finding> {
    if let Some(one_too_many) = written.get(LIMITS_MAX) {
        let message = format!("{} limits; the most is {LIMITS_MAX}", written.len());
        return Err(Finding::new(one_too_many.span(), message));
    }
    let mut limits: Vec<Limit> = Vec::new();
    for limit in written {
        let checked = one(limit, store.is_some(), surroundings)?;
        if limits.iter().any(|other| other.name == checked.name) {
            let place = limit.get_ref().name.span();
            return Err(Finding::new(place, format!("two limits are called {:?}", checked.name)));
        }
        limits.push(checked);
    }
    Ok(limits)
}

fn one(written: &Spanned<file::RateLimit>, has_store: bool, surroundings: &Surroundings<'_>) -> Result<Limit, Finding> {
    let (span, written) = (written.span(), written.get_ref());
    let only_named = written.only_named.as_ref().is_some_and(|only| *only.get_ref());
    let limit = Limit {
        name: name(&written.name)?,
        by: counted_by(&written.by)?,
        quota: quota(written)?,
        concurrent: match written.concurrent.clone() {
            None => None,
            concurrent => Some(number(concurrent, 1, 1..=CONCURRENT_MAX)?),
        },
        members: written.members.as_ref().map(|list| members(list, surroundings)).transpose()?,
        roles: written.roles.as_ref().map(|list| roles(list, surroundings.roles)).transpose()?,
        inbounds: written.inbounds.as_ref().map(|list| inbounds(list, surroundings.inbounds)).transpose()?,
        only_named,
        is_enforced: !is_observed(written.mode.as_ref())?,
        is_shared: written.shared.as_ref().is_some_and(|shared| *shared.get_ref()),
    };
    if limit.quota.is_none() && limit.concurrent.is_none() {
        let hint = "write requests = \"20/1m\", or concurrent = 4";
        return Err(Finding::with_hint(span, "this limit limits nothing", hint));
    }
    if limit.is_shared {
        check_shared(written, has_store)?;
    }
    check_holds(&limit, written, surroundings)?;
    Ok(limit)
}

fn counted_by(text: &Spanned<String>) -> Result<CountedBy, Finding> {
    let words = || CountedBy::ALL.into_iter().map(CountedBy::as_str);
    CountedBy::ALL.into_iter().find(|by| by.as_str() == text.get_ref()).ok_or_else(|| {
        let known = words().collect::<Vec<_>>().join(", ");
        let hint = did_you_mean(text.get_ref(), words()).unwrap_or_else(|| format!("it is one of {known}"));
        Finding::with_hint(text.span(), format!("nothing is counted by {:?}", text.get_ref()), hint)
    })
}

fn quota(written: &file::RateLimit) -> Result<Option<Quota>, Finding> {
    let burst = written.burst.as_ref();
    match (&written.requests, burst) {
        (None, Some(burst)) => Err(Finding::new(burst.span(), "a burst of nothing: this limit has no requests")),
        (None, None) => Ok(None),
        (Some(requests), burst) => {
            let span = burst.map_or_else(|| requests.span(), Spanned::span);
            let rate = Quota::parse(requests.get_ref(), None);
            let rate = rate.map_err(|error| Finding::new(requests.span(), error))?;
            let burst = burst.map_or_else(|| rate.burst(), |burst| *burst.get_ref());
            let whole = Quota::new(rate.requests(), rate.window(), burst);
            whole.map(Some).map_err(|error| Finding::new(span, error))
        }
    }
}

fn members(
    list: &Spanned<Vec<Spanned<String>>>,
    surroundings: &Surroundings<'_>,
) -> Result<Box<[MemberPattern]>, Finding> {
    let member = |text: &Spanned<String>| {
        let member: MemberPattern = parsed(text)?;
        if member.is_local(true) || member.is_local(false) {
            return Err(Finding::new(text.span(), "this limit can never hold: programs of this host call no inbound"));
        }
        surroundings.known.check(member.trust_domain(), text.span(), "this member")?;
        member.subject().map_or(Ok(()), |pattern| surroundings.subjects.check(text, pattern))?;
        Ok(member)
    };
    not_empty(list, "member")?.iter().map(member).collect()
}

fn roles(list: &Spanned<Vec<Spanned<String>>>, roles: &Roles) -> Result<RoleSet, Finding> {
    let known = || roles.all_names().iter().map(|name| &**name);
    for role in not_empty(list, "role")? {
        check_known(role, "role", known)?;
    }
    let names = list.get_ref().iter().map(|role| role.get_ref().as_str());
    roles.set(names).map_err(|unknown| Finding::new(list.span(), format!("unknown role {unknown:?}")))
}

fn inbounds(list: &Spanned<Vec<Spanned<String>>>, inbounds: &[(Inbound, Places)]) -> Result<Box<[Arc<str>]>, Finding> {
    let known = || inbounds.iter().map(|(inbound, _)| &*inbound.name);
    for inbound in not_empty(list, "inbound")? {
        check_known(inbound, "inbound", known)?;
    }
    Ok(list.get_ref().iter().map(|inbound| inbound.get_ref().as_str().into()).collect())
}

fn not_empty<'list>(
    list: &'list Spanned<Vec<Spanned<String>>>,
    what: &str,
) -> Result<&'list [Spanned<String>], Finding> {
    if list.get_ref().is_empty() {
        let hint = format!("leave the key out to mean every {what}");
        return Err(Finding::with_hint(list.span(), format!("this limit can never hold: it names no {what}"), hint));
    }
    Ok(list.get_ref())
}

fn check_shared(written: &file::RateLimit, has_store: bool) -> Result<(), Finding> {
    let span = written.shared.as_ref().map(Spanned::span).unwrap_or_default();
    if let Some(concurrent) = &written.concurrent {
        let hint = "write a limit of its own for it, without shared";
        let message = "what is under way is counted by each agent alone, and this limit is shared";
        return Err(Finding::with_hint(concurrent.span(), message, hint));
    }
    if !has_store {
        let hint = "write a [store] with its url";
        return Err(Finding::with_hint(span, "there is no store in which several agents could count", hint));
    }
    Ok(())
}

/// Somewhere somebody must be able to call who is counted by it.
fn check_holds(limit: &Limit, written: &file::RateLimit, surroundings: &Surroundings<'_>) -> Result<(), Finding> {
    let mut candidates =
        surroundings.inbounds.iter().map(|(inbound, _)| inbound).filter(|inbound| limit.holds_on(&inbound.name));
    if limit.only_named && !candidates.clone().any(|inbound| is_counted(CountedBy::Key, inbound)) {
        let span = written.only_named.as_ref().map(Spanned::span).unwrap_or_default();
        let hint = "name \"api_key\" in require or any_of of an inbound";
        return Err(Finding::with_hint(span, "this limit can never hold: no inbound of it takes API keys", hint));
    }
    if candidates.any(|inbound| is_counted(limit.by, inbound)) {
        return Ok(());
    }
    let message = format!("this limit can never hold: no caller of its inbounds has a {:?}", limit.by.as_str());
    Err(Finding::new(written.by.span(), message))
}

fn is_counted(by: CountedBy, inbound: &Inbound) -> bool {
    let accepted = inbound.demand.accepted();
    match by {
        CountedBy::Address => !matches!(inbound.listen, ListenAddress::Unix(_)),
        CountedBy::All | CountedBy::Caller | CountedBy::Route => true,
        CountedBy::Identity => accepted.has(CredentialKind::Mtls),
        CountedBy::Key | CountedBy::Team => accepted.has(CredentialKind::ApiKey),
        CountedBy::Subject => !accepted.of_requests().is_empty(),
    }
}

/// A key that names a limit which is not there would be without it.
pub(super) fn check_keys(
    accepted: &Accepted,
    limits: &[Limit],
    keys_stand_at: Option<Range<usize>>,
) -> Result<(), Finding> {
    let Some(keys) = accepted.keys() else { return Ok(()) };
    let is_there = |name: &String| limits.iter().any(|limit| limit.only_named && *limit.name == **name);
    for key in keys.keys() {
        let Some(missing) = key.limits.iter().flatten().find(|name| !is_there(name)) else { continue };
        let hint = "add the limit, with only_named = true, or revoke the key";
        let message = format!("the API key {} names the limit {missing:?}, and there is no such limit", key.id);
        return Err(Finding::with_hint(keys_stand_at.unwrap_or_default(), message, hint));
    }
    Ok(())
}
