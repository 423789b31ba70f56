//! `[audit]`: where lines go, and what happens when they cannot go there.

use std::path::Path;
use std::time::Duration;

use countersign_audit::format::Format;
use countersign_certs::settings::diagnostic::Finding;
use countersign_certs::settings::duration;
use http::HeaderName;
use toml::Spanned;

use super::super::audit::{Audit, AuditFolder, AuditOutput, WhenFull};
use super::super::file;
use super::scalars::{absolute, parsed, word};
use super::sinks::sinks;
use crate::authenticate::shown::KeyPlaces;

/// Small enough that one segment is quickly verified, and so that few lines are without a signature.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

const SEGMENT_AGE: Duration = Duration::from_secs(86_400);

/// PCI DSS 10.5.1 wants three months at hand; what is kept for longer is better kept on another machine.
const RETENTION: Duration = Duration::from_secs(90 * 86_400);

/// Checks the whole table.
pub(super) fn audit(
    written: &file::Audit,
    state_dir: Option<&Path>,
    keys: Option<&KeyPlaces>,
) -> Result<Audit, Finding> {
    let when_full = when_full(written.when_full.as_ref())?;
    Ok(Audit {
        output: output(written, state_dir)?,
        format: format(written)?,
        when_full,
        patterns: written.patterns.unwrap_or(false),
        sinks: sinks(&written.sink, when_full)?,
        headers: headers(&written.headers, keys)?,
        query: query(&written.query, keys)?,
    })
}

/// Headers that hold a secret by their nature are never recorded.
const SECRET_HEADERS: &[&str] = &["authorization", "cookie", "dpop", "proxy-authorization", "set-cookie", "x-api-key"];

/// Parameters that hold a secret wherever they are in use.
const SECRET_PARAMETERS: &[&str] = &["access_token", "api_key", "apikey", "key", "password", "sig", "token"];

/// Most headers, and most keys of queries, that are recorded.
const RECORDED_MAX: usize = 32;

fn headers(written: &[Spanned<String>], keys: Option<&KeyPlaces>) -> Result<Vec<HeaderName>, Finding> {
    let has_key = |name: &HeaderName| keys.is_some_and(|keys| keys.headers.contains(name));
    let header = |text: &Spanned<String>| {
        let name: HeaderName = parsed(text)?;
        if SECRET_HEADERS.contains(&name.as_str()) || has_key(&name) {
            return Err(Finding::new(text.span(), format!("{name:?} holds a secret, and is not recorded")));
        }
        Ok(name)
    };
    few(written)?.iter().map(header).collect()
}

fn query(written: &[Spanned<String>], keys: Option<&KeyPlaces>) -> Result<Vec<String>, Finding> {
    let has_key = |name: &str| keys.and_then(|keys| keys.query.as_ref()).is_some_and(|key| **key == *name);
    let key = |text: &Spanned<String>| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        match text.get_ref().as_str() {
            key if SECRET_PARAMETERS.contains(&key) || has_key(key) => {
                Err(Finding::new(text.span(), format!("{key:?} holds a secret, and is not recorded")))
            }
            key if (1..=64).contains(&key.len()) && key.bytes().all(fits) => Ok(key.to_owned()),
            other => Err(Finding::new(
                text.span(),
                format!("{other:?} is no key of a query: 1 to 64 letters, digits, '-', '_', '.' or '~'"),
            )),
        }
    };
    few(written)?.iter().map(key).collect()
}

fn few(written: &[Spanned<String>]) -> Result<&[Spanned<String>], Finding> {
    match written.get(RECORDED_MAX) {
        Some(one_too_many) => Err(Finding::new(
            one_too_many.span(),
            format!("{} values; at most {RECORDED_MAX} are recorded", written.len()),
        )),
        None => Ok(written),
    }
}

fn output(written: &file::Audit, state_dir: Option<&Path>) -> Result<AuditOutput, Finding> {
    match (&written.output, &written.folder) {
        (Some(_), Some(folder)) => {
            Err(Finding::new(folder.span(), "\"output\" and \"folder\" are both given; the record is in one place"))
        }
        (_, Some(path)) => folder(written, absolute(path)?, state_dir),
        (output, None) => {
            no_keys_of_a_folder(written)?;
            let Some(output) = output else { return Ok(AuditOutput::Stdout) };
            match output.get_ref().as_str() {
                "stdout" => Ok(AuditOutput::Stdout),
                other => match other.strip_prefix("file:").map(Path::new).filter(|path| path.is_absolute()) {
                    Some(path) => Ok(AuditOutput::File(path.to_owned())),
                    None => Err(Finding::new(
                        output.span(),
                        format!("unknown output {other:?}; it is \"stdout\" or \"file:/PATH\""),
                    )),
                },
            }
        }
    }
}

fn folder(written: &file::Audit, path: std::path::PathBuf, state_dir: Option<&Path>) -> Result<AuditOutput, Finding> {
    Ok(AuditOutput::Folder(AuditFolder {
        key_folder: state_dir.unwrap_or(&path).to_owned(),
        segment_bytes: bytes(written.segment_bytes.as_ref(), 64 * 1024)?.unwrap_or(SEGMENT_BYTES),
        segment_age: days(written.segment_age.as_ref(), SEGMENT_AGE, Duration::from_secs(1))?,
        retention: days(written.retention.as_ref(), RETENTION, Duration::from_secs(3600))?,
        keep_bytes: bytes(written.keep_bytes.as_ref(), 1024 * 1024)?,
        path,
    }))
}

fn format(written: &file::Audit) -> Result<Format, Finding> {
    match (&written.format, &written.folder) {
        (Some(format), Some(_)) => {
            let hint = "countersign-agent audit show --format prints segments in other formats";
            Err(Finding::with_hint(format.span(), "\"format\" has no effect on a \"folder\"", hint))
        }
        (Some(format), None) => parsed(format),
        (None, _) => Ok(Format::default()),
    }
}

/// A key that would have no effect is a mistake.
fn no_keys_of_a_folder(written: &file::Audit) -> Result<(), Finding> {
    let file::Audit { segment_bytes, segment_age, retention, keep_bytes, .. } = written;
    let numbers = [("segment_bytes", segment_bytes), ("keep_bytes", keep_bytes)];
    let times = [("segment_age", segment_age), ("retention", retention)];
    let numbers = numbers.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?.span())));
    let times = times.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?.span())));
    match numbers.chain(times).next() {
        None => Ok(()),
        Some((key, span)) => {
            let hint = "segments are written where a folder is: folder = \"/var/log/countersign/audit\"";
            Err(Finding::with_hint(span, format!("\"{key}\" has no effect without \"folder\""), hint))
        }
    }
}

fn bytes(written: Option<&Spanned<u64>>, least: u64) -> Result<Option<u64>, Finding> {
    const MOST: u64 = 1 << 50;
    match written {
        Some(value) if !(least..=MOST).contains(value.get_ref()) => Err(Finding::new(
            value.span(),
            format!("{} bytes are out of range; it is {least} to {MOST}", value.get_ref()),
        )),
        Some(value) => Ok(Some(*value.get_ref())),
        None => Ok(None),
    }
}

fn days(written: Option<&Spanned<String>>, standard: Duration, least: Duration) -> Result<Duration, Finding> {
    let Some(text) = written else { return Ok(standard) };
    let most = Duration::from_secs(36_500 * 86_400);
    let value = duration::parse(text.get_ref()).map_err(|error| Finding::new(text.span(), error))?;
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let (least, most) = (duration::print(least), duration::print(most));
    Err(Finding::new(text.span(), format!("{:?} is out of range; it is {least} to {most}", text.get_ref())))
}

fn when_full(written: Option<&Spanned<String>>) -> Result<WhenFull, Finding> {
    let known = [("block", WhenFull::Block), ("drop", WhenFull::Drop), ("refuse", WhenFull::Refuse)];
    word(written, "when_full", &known)
}
