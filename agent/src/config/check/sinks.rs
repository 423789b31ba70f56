//! `[[audit.sink]]`: who else gets every line.

use std::path::PathBuf;

use countersign_audit::format::Format;
use countersign_certs::settings::diagnostic::{Finding, did_you_mean};
use http::Uri;
use toml::Spanned;

use super::super::address::Endpoint;
use super::super::audit::{AuditSink, SinkFull, SinkTarget, SinkTls, WhenFull};
use super::super::file;
use super::scalars::{absolute, name, parsed, word};

/// Each has a thread and a queue.
const SINKS_MAX: usize = 16;

/// Where the journal listens.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The keys that only some kinds have.
const KEYS_OF_KINDS: &[(&str, &[&str])] = &[
    ("file", &["path"]),
    ("journald", &["path"]),
    ("otlp", &["url", "bundle", "chain", "key"]),
    ("syslog", &["address", "bundle", "chain", "key"]),
];

/// Checks every table.
pub(super) fn sinks(written: &[Spanned<file::AuditSink>], when_full: WhenFull) -> Result<Vec<AuditSink>, Finding> {
    if let Some(one_too_many) = written.get(SINKS_MAX) {
        return Err(Finding::new(one_too_many.span(), format!("{} sinks; at most {SINKS_MAX}", written.len())));
    }
    let mut sinks: Vec<AuditSink> = Vec::new();
    for written in written {
        let sink = sink(written, when_full)?;
        if sinks.iter().any(|other| other.name == sink.name) {
            let place = written.get_ref().name.span();
            return Err(Finding::new(place, format!("another sink is called {:?} already", sink.name)));
        }
        sinks.push(sink);
    }
    Ok(sinks)
}

fn sink(spanned: &Spanned<file::AuditSink>, when_full_of_record: WhenFull) -> Result<AuditSink, Finding> {
    let written = spanned.get_ref();
    only_keys_of_the_kind(written)?;
    let missing = |key: &str| Finding::new(spanned.span(), format!("this sink needs {key:?}"));
    let path = |default: Option<&str>| match (&written.path, default) {
        (Some(path), _) => absolute(path),
        (None, Some(default)) => Ok(PathBuf::from(default)),
        (None, None) => Err(missing("path")),
    };
    let target = match written.kind.get_ref().as_str() {
        "file" => SinkTarget::File(path(None)?),
        "journald" => SinkTarget::Journald(path(Some(JOURNAL))?),
        "otlp" => otlp(written, written.url.as_ref().ok_or_else(|| missing("url"))?)?,
        _ => syslog(written, written.address.as_ref().ok_or_else(|| missing("address"))?)?,
    };
    let full = [("drop", SinkFull::Drop), ("refuse", SinkFull::Refuse)];
    let when_full = word(written.when_full.as_ref(), "when_full", &full)?;
    if let (SinkFull::Refuse, WhenFull::Drop, Some(place)) = (when_full, when_full_of_record, &written.when_full) {
        let hint = "nothing is ever refused while when_full of [audit] is \"drop\"";
        return Err(Finding::with_hint(place.span(), "\"refuse\" has no effect here", hint));
    }
    let format = written.format.as_ref().map(parsed::<Format>).transpose()?.unwrap_or_default();
    Ok(AuditSink { name: name(&written.name)?, target, format, when_full })
}

fn only_keys_of_the_kind(written: &file::AuditSink) -> Result<(), Finding> {
    let kind = written.kind.get_ref();
    let Some((_, known)) = KEYS_OF_KINDS.iter().find(|(known, _)| known == kind) else {
        let kinds: Vec<&str> = KEYS_OF_KINDS.iter().map(|(kind, _)| *kind).collect();
        let mut finding =
            Finding::new(written.kind.span(), format!("unknown kind {kind:?}; it is one of {}", kinds.join(", ")));
        finding.hint = did_you_mean(kind, kinds);
        return Err(finding);
    };
    let given = [
        ("address", written.address.as_ref().map(Spanned::span)),
        ("url", written.url.as_ref().map(Spanned::span)),
        ("path", written.path.as_ref().map(Spanned::span)),
        ("bundle", written.bundle.as_ref().map(Spanned::span)),
        ("chain", written.chain.as_ref().map(Spanned::span)),
        ("key", written.key.as_ref().map(Spanned::span)),
    ];
    let odd = given.into_iter().find_map(|(key, span)| Some((key, span?)).filter(|(key, _)| !known.contains(key)));
    match odd {
        Some((key, span)) => Err(Finding::new(span, format!("a sink of kind {kind:?} has no {key:?}"))),
        None => Ok(()),
    }
}

fn syslog(written: &file::AuditSink, address: &Spanned<String>) -> Result<SinkTarget, Finding> {
    let refused = || {
        let hint = "without TLS only programs of this host are reached";
        let message = format!("{:?} is no receiver; write tls://HOST:PORT or tcp://127.0.0.1:PORT", address.get_ref());
        Finding::with_hint(address.span(), message, hint)
    };
    let (scheme, rest) = address.get_ref().split_once("://").ok_or_else(refused)?;
    let endpoint: Endpoint = rest.parse().map_err(|_no_endpoint| refused())?;
    match scheme {
        "tls" => Ok(SinkTarget::Syslog { endpoint, tls: Some(tls(written, address)?) }),
        "tcp" if endpoint.is_local() => {
            no_tls(written)?;
            Ok(SinkTarget::Syslog { endpoint, tls: None })
        }
        _ => Err(refused()),
    }
}

fn otlp(written: &file::AuditSink, url: &Spanned<String>) -> Result<SinkTarget, Finding> {
    let refused = || {
        let hint = "without TLS only programs of this host are reached";
        let message = format!(
            "{:?} is no collector; write https://HOST:PORT/v1/logs or http://127.0.0.1:PORT/v1/logs",
            url.get_ref()
        );
        Finding::with_hint(url.span(), message, hint)
    };
    let uri: Uri = url.get_ref().parse().map_err(|_no_uri| refused())?;
    let authority = uri.authority().ok_or_else(refused)?;
    let (endpoint, is_tls) = match uri.scheme_str() {
        Some("https") => (endpoint(authority.as_str(), 443), true),
        Some("http") => (endpoint(authority.as_str(), 80), false),
        Some(_) | None => return Err(refused()),
    };
    let endpoint = endpoint.ok_or_else(refused)?;
    if is_tls {
        let tls = Some(tls(written, url)?);
        return Ok(SinkTarget::Otlp { endpoint, uri, tls });
    }
    if !endpoint.is_local() {
        return Err(refused());
    }
    no_tls(written)?;
    Ok(SinkTarget::Otlp { endpoint, uri, tls: None })
}

fn endpoint(authority: &str, standard_port: u16) -> Option<Endpoint> {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let text = if has_port { authority.to_owned() } else { format!("{authority}:{standard_port}") };
    text.parse().ok()
}

fn tls(written: &file::AuditSink, place: &Spanned<String>) -> Result<SinkTls, Finding> {
    let Some(bundle) = &written.bundle else {
        let hint = "bundle = \"/etc/countersign/siem-ca.pem\" names the authorities by which the receiver is known";
        return Err(Finding::with_hint(place.span(), "TLS needs a \"bundle\"", hint));
    };
    let identity = match (&written.chain, &written.key) {
        (Some(chain), Some(key)) => Some((absolute(chain)?, absolute(key)?)),
        (None, None) => None,
        (Some(alone), None) => return Err(Finding::new(alone.span(), "\"chain\" needs \"key\" beside it")),
        (None, Some(alone)) => return Err(Finding::new(alone.span(), "\"key\" needs \"chain\" beside it")),
    };
    Ok(SinkTls { bundle: absolute(bundle)?, identity })
}

fn no_tls(written: &file::AuditSink) -> Result<(), Finding> {
    match [&written.bundle, &written.chain, &written.key].into_iter().flatten().next() {
        Some(needless) => Err(Finding::new(needless.span(), "this has no effect without TLS")),
        None => Ok(()),
    }
}
