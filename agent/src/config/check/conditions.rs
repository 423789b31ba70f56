//! Conditions: everything that they can speak of, as the config declares it, and each of them where it stands.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_certs::settings::diagnostic::Finding;
use countersign_certs::store;
use toml::Spanned;

use super::super::checked::Issuer;
use super::super::file;
use super::scalars::{absolute, is_observed};
use crate::in_words::in_one_line;
use crate::policy::condition::{Compiler, Condition, ServiceFacts};
use crate::policy::rule::NamedFile;

/// Compiles against everything that can exist in this config, for inbounds.
#[cfg(feature = "conditions")]
pub(super) fn compiler(file: &file::Agent, issuers: &[Arc<Issuer>]) -> Result<Compiler, Finding> {
    use countersign_conditions::clock::{Zone, Zones};
    use countersign_conditions::schema::Schema;

    let zone = match &file.conditions.zone {
        None => Zone::utc(),
        Some(name) => Zones::of_system().find(name.get_ref()).map_err(|error| Finding {
            span: name.span(),
            message: error.to_string(),
            hint: error.hint().map(ToOwned::to_owned),
        })?,
    };
    file.conditions.headers.iter().try_for_each(check_seen)?;
    let first = file.conditions.headers.iter().chain(&file.conditions.query).next().map(Spanned::span);
    let vocabulary = vocabulary(file, issuers)?;
    let schema = Schema::new(&vocabulary).map_err(|error| Finding::new(first.unwrap_or_default(), error))?;
    Ok(Compiler::new(schema, zone))
}

/// A condition on a header that is gone before conditions look would never hold.
#[cfg(feature = "conditions")]
fn check_seen(written: &Spanned<String>) -> Result<(), Finding> {
    use crate::request::{is_hop_by_hop, is_identity_header};
    use http::{HeaderName, header};

    let name = HeaderName::from_bytes(written.get_ref().as_bytes())
        .map_err(|_not_a_name| Finding::new(written.span(), format!("{:?} names no header", written.get_ref())))?;
    if name == header::HOST {
        let hint = "what a caller calls is resource.name";
        return Err(Finding::with_hint(written.span(), "conditions see no Host: HTTP/2 has none", hint));
    }
    if is_hop_by_hop(&name) || is_identity_header(&name) {
        let message = format!("conditions never see the header {name}: it is taken out of each request before");
        return Err(Finding::new(written.span(), message));
    }
    Ok(())
}

#[cfg(not(feature = "conditions"))]
pub(super) fn compiler(file: &file::Agent, _issuers: &[Arc<Issuer>]) -> Result<Compiler, Finding> {
    let file::Conditions { zone, headers, query } = &file.conditions;
    match zone.iter().chain(headers).chain(query).next() {
        Some(written) => Err(Compiler::refused(written.span())),
        None => Ok(Compiler),
    }
}

#[cfg(feature = "conditions")]
fn vocabulary(
    file: &file::Agent,
    issuers: &[Arc<Issuer>],
) -> Result<countersign_conditions::vocabulary::Vocabulary, Finding> {
    use std::collections::BTreeSet;

    use countersign_conditions::vocabulary::{ClaimKind, Vocabulary};

    use super::super::checked::ClaimType;
    use super::issuers::RESERVED_ISSUERS;

    let texts = |list: &[Spanned<String>]| list.iter().map(|text| text.get_ref().clone()).collect();
    let vouching = issuers.iter().map(|issuer| issuer.name.to_string());
    let inbound_labels = file.inbound.iter().flat_map(|inbound| inbound.labels.keys());
    let outbound_labels = file.outbound.iter().flat_map(|outbound| outbound.labels.keys());
    let labels: BTreeSet<&String> = inbound_labels.chain(outbound_labels).collect();
    let inbound_names = file.inbound.iter().map(|inbound| inbound.name.get_ref());
    // The two ends of one service may have one name.
    let names: BTreeSet<&String> =
        inbound_names.chain(file.outbound.iter().map(|outbound| outbound.name.get_ref())).collect();
    let mut claims = BTreeMap::new();
    for (issuer, place) in issuers.iter().zip(&file.issuer) {
        for (claim, kind) in &issuer.claims {
            let kind = match kind {
                ClaimType::Boolean => ClaimKind::Boolean,
                ClaimType::Number => ClaimKind::Number,
                ClaimType::Text => ClaimKind::Text,
                ClaimType::Texts => ClaimKind::Texts,
            };
            // A condition is about tokens of all issuers.
            if claims.insert(claim.to_string(), kind).is_some_and(|other| other != kind) {
                let message = format!("the claim {claim:?} has another type at another issuer");
                return Err(Finding::new(place.name.span(), message));
            }
        }
    }
    Ok(Vocabulary {
        roles: file.role.iter().map(|role| role.name.get_ref().clone()).collect(),
        services: names.into_iter().cloned().collect(),
        issuers: vouching.chain(RESERVED_ISSUERS.map(ToOwned::to_owned)).collect(),
        labels: labels.into_iter().cloned().collect(),
        claims: claims.into_iter().collect(),
        headers: texts(&file.conditions.headers),
        queries: texts(&file.conditions.query),
    })
}

/// The service as conditions see it.
pub(super) fn service(
    name: &Spanned<String>,
    labels: &BTreeMap<String, Spanned<String>>,
    compiler: &Compiler,
) -> Result<ServiceFacts, Finding> {
    let place = labels.values().next().map_or_else(|| name.span(), Spanned::span);
    let labels: Vec<(&str, &str)> =
        labels.iter().map(|(name, value)| (name.as_str(), value.get_ref().as_str())).collect();
    compiler.service(name.get_ref(), &labels).map_err(|error| Finding::new(place, error))
}

/// One `when`.
pub(super) fn condition(text: &Spanned<String>, compiler: &Compiler) -> Result<Condition, Finding> {
    compiler.condition(text.get_ref()).map_err(|finding| Finding {
        span: within(text, finding.span.clone()),
        message: format!("this condition cannot be used: {}", finding.message),
        hint: finding.hint,
    })
}

/// Where a part of a text stands in the file. The text is between quotes, of which TOML has several kinds; one with escapes is shown as
/// a whole.
fn within(text: &Spanned<String>, part: Range<usize>) -> Range<usize> {
    let whole = text.span();
    let quotes = match whole.len().checked_sub(text.get_ref().len()) {
        Some(2) => 1,
        Some(6) => 3,
        // After three quotes a line may end, which is no part of the text.
        Some(7) => 4,
        Some(_) | None => return whole,
    };
    let start = whole.start + quotes + part.start;
    start..(whole.start + quotes + part.end).max(start + 1)
}

/// The file of policies of an inbound or outbound.
pub(super) fn policy_file(
    written: &file::PolicyFile,
    compiler: &Compiler,
    files: &mut Vec<PathBuf>,
) -> Result<NamedFile, Finding> {
    let path = absolute(&written.file)?;
    files.push(path.clone());
    let at_file = |message: String| Finding::new(written.file.span(), message);
    let text = store::read(&path).map_err(|error| at_file(in_one_line(&error)))?;
    let text = std::str::from_utf8(&text).map_err(|_not_text| at_file(format!("{} is not UTF-8", path.display())))?;
    let file = compiler.file(&path.display().to_string(), text).map_err(at_file)?;
    Ok(NamedFile { file: Arc::new(file), is_observed: is_observed(written.mode.as_ref())? })
}
