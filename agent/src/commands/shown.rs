//! Whom a route would believe in a question: those who are named are taken to have shown a credential that makes such a name.

use countersign_certs::san::San;

use super::question::{Question, QuestionError, RouteName};
use crate::authenticate::refusal::CredentialRefusal;
use crate::config::checked;
use crate::in_words::in_one_line;
use crate::policy::credential::{CredentialKind, CredentialSet, Demand};
use crate::policy::subject::SubjectNames;

/// Who asks, as far as the route looks at them.
pub(super) struct Shown {
    /// The names of the workload; none where no certificate is asked for.
    pub(super) names: Vec<San>,
    pub(super) subject: Option<SubjectNames>,
    /// Why nobody is believed, if that is so: a word for it, and the same in words.
    pub(super) refused: Option<(&'static str, String)>,
}

/// Those whom a question names, by what its route demands of its callers.
pub(super) fn to(config: &checked::Agent, question: &Question) -> Result<Shown, QuestionError> {
    let (names, subject) = (question.names()?, question.names_of_subject()?);
    let RouteName::Inbound(name) = &question.route else { return Ok(Shown { names, subject, refused: None }) };
    let Some(inbound) = config.inbounds.iter().find(|inbound| *inbound.name == **name) else {
        return Ok(Shown { names, subject, refused: None });
    };
    Ok(by_demand(config, inbound.demand, names, subject))
}

fn by_demand(config: &checked::Agent, demand: Demand, names: Vec<San>, subject: Option<SubjectNames>) -> Shown {
    let accepted = demand.accepted();
    // A certificate that is not asked for makes nobody a workload.
    let names = if accepted.has(CredentialKind::Mtls) { names } else { Vec::new() };
    let subject = subject.filter(|subject| is_looked_at(subject, accepted));
    let refused = refusal(config, demand, !names.is_empty(), subject.as_ref());
    Shown { names, subject, refused }
}

/// Where a certificate is all that is taken, what else a request shows is for the service; and so is a key in a header of its own where
/// no keys are taken.
fn is_looked_at(subject: &SubjectNames, accepted: CredentialSet) -> bool {
    match subject {
        SubjectNames::Key { .. } => accepted.has(CredentialKind::ApiKey),
        SubjectNames::Password { .. } | SubjectNames::Token(_) => !accepted.of_requests().is_empty(),
    }
}

fn refusal(
    config: &checked::Agent,
    demand: Demand,
    certificate: bool,
    subject: Option<&SubjectNames>,
) -> Option<(&'static str, String)> {
    // The handshake ends without a certificate that is required.
    if demand.needs_certificate() && !certificate {
        return Some(("certificate_missing", "it shows no certificate".to_owned()));
    }
    let of_certificate: CredentialSet = certificate.then_some(CredentialKind::Mtls).into_iter().collect();
    let missing = match subject.map(|subject| kinds(config, subject, demand.accepted())) {
        None => demand.missing(of_certificate),
        Some(Err(refusal)) => return Some(told(&refusal)),
        // A request carries one credential, which is of one kind.
        Some(Ok(kinds)) => {
            let missing: Vec<_> = kinds.kinds().map(|kind| demand.missing(of_certificate.with(kind))).collect();
            if missing.contains(&None) { None } else { missing.into_iter().flatten().next() }
        }
    };
    missing.map(|missing| told(&CredentialRefusal::Missing(missing)))
}

/// The kinds of credentials that can make such a name with this config: a token that only its issuer can read needs one that is asked.
fn kinds(
    config: &checked::Agent,
    subject: &SubjectNames,
    accepted: CredentialSet,
) -> Result<CredentialSet, CredentialRefusal> {
    let kinds = subject.kinds().within(accepted);
    let kinds = match subject {
        SubjectNames::Token(token) if !kinds.is_empty() => {
            let issuer = config.accepted.issuers.iter().find(|issuer| issuer.name == token.issuer);
            let issuer = issuer.ok_or(CredentialRefusal::IssuerUnknown)?;
            let unasked: CredentialSet = [CredentialKind::OpaqueToken].into_iter().collect();
            if issuer.introspection.is_some() { kinds } else { kinds.without(unasked) }
        }
        SubjectNames::Token(_) | SubjectNames::Key { .. } | SubjectNames::Password { .. } => kinds,
    };
    if kinds.is_empty() { Err(CredentialRefusal::NotAccepted) } else { Ok(kinds) }
}

fn told(refusal: &CredentialRefusal) -> (&'static str, String) {
    (refusal.reason(), in_one_line(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{RIGHT, checked};

    const ISSUERS: &str = r#"
[[issuer]]
name = "corp"
issuer = "https://login.example"
audiences = ["llm"]

[issuer.introspection]
client_id = "agent"
client_secret = "literal"

[[issuer]]
name = "signed"
issuer = "https://signed.example"
audiences = ["llm"]
"#;

    fn set(names: &str) -> CredentialSet {
        let named = |name| CredentialKind::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap();
        names.split_whitespace().map(named).collect()
    }

    /// `demand`: what is required, `|`, and what of which any will do. `who`: the names of a workload and of a subject.
    #[track_caller]
    fn check(demand: &str, who: &str, expected: Option<&str>) {
        let config = checked(&format!("{RIGHT}{ISSUERS}")).unwrap();
        let (require, any_of) = demand.split_once('|').unwrap();
        let names = who.split_whitespace().filter_map(|name| name.parse().ok()).collect();
        let subject = who.split_whitespace().find_map(|name| SubjectNames::recorded(name, &[]).ok());
        let shown = by_demand(&config, Demand::new(set(require), set(any_of)).unwrap(), names, subject);
        assert_eq!(shown.refused.map(|(reason, _)| reason), expected, "{demand} <- {who}");
    }

    const WEB: &str = "spiffe://prod.example/web/a";

    #[test]
    fn what_is_demanded_must_be_shown_by_those_who_are_named() {
        check("mtls|", WEB, None);
        check("mtls jwt|", WEB, Some("credential_missing"));
        check("mtls jwt|", "user:corp/alice", Some("certificate_missing"));
        check("mtls jwt|", "basic:admin", Some("certificate_missing"));
        check("mtls jwt|", &format!("{WEB} user:corp/alice"), None);
        check("|mtls api_key", "key:key_a", None);
        check("|api_key", WEB, Some("credential_missing"));
    }

    #[test]
    fn a_credential_of_another_kind_is_refused_where_any_of_requests_is_taken_and_else_not_looked_at() {
        check("|mtls jwt", &format!("{WEB} basic:admin"), Some("credential_not_accepted"));
        check("|mtls jwt", &format!("{WEB} key:key_a"), None);
        check("mtls|", &format!("{WEB} basic:admin"), None);
        check("|mtls", &format!("{WEB} user:corp/alice"), None);
    }

    #[test]
    fn a_token_is_one_credential_of_an_issuer_that_the_config_has() {
        check("opaque_token|", "user:corp/alice", None);
        check("opaque_token|", "user:signed/alice", Some("credential_not_accepted"));
        check("jwt|", "user:signed/alice", None);
        check("jwt|", "user:nobody-s/alice", Some("token_issuer"));
        check("jwt|mtls opaque_token", "user:corp/alice", Some("credential_missing"));
        check("jwt|mtls opaque_token", &format!("{WEB} user:corp/alice"), None);
    }
}
