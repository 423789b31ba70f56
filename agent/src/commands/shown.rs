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
    let kinds = subject.as_ref().map(|subject| kinds(config, subject).within(accepted));
    let not_accepted = || told(&CredentialRefusal::NotAccepted);
    let refused = match kinds {
        Some(none) if none.is_empty() => Some(not_accepted()),
        kinds => missing(demand, !names.is_empty(), kinds.unwrap_or_default()),
    };
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

/// The credentials that can make such a name with this config: a token that only its issuer can read needs one that is asked.
fn kinds(config: &checked::Agent, subject: &SubjectNames) -> CredentialSet {
    let SubjectNames::Token(token) = subject else { return subject.kinds() };
    let issuer = config.accepted.issuers.iter().find(|issuer| issuer.name == token.issuer);
    match issuer {
        Some(issuer) if issuer.introspection.is_some() => subject.kinds(),
        Some(_) => subject.kinds().within([CredentialKind::Jwt].into_iter().collect()),
        None => CredentialSet::default(),
    }
}

fn missing(demand: Demand, certificate: bool, kinds: CredentialSet) -> Option<(&'static str, String)> {
    // The handshake ends without a certificate that is required.
    if demand.needs_certificate() && !certificate {
        return Some(("certificate_missing", "it shows no certificate".to_owned()));
    }
    let shown = if certificate { kinds.with(CredentialKind::Mtls) } else { kinds };
    demand.missing(shown).map(|missing| told(&CredentialRefusal::Missing(missing)))
}

fn told(refusal: &CredentialRefusal) -> (&'static str, String) {
    (refusal.reason(), in_one_line(refusal))
}
