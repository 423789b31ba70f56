//! Single values: names, words, paths, numbers and durations within their bounds.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use crate::in_words::in_one_line;
use countersign_certs::settings::diagnostic::{Finding, did_you_mean};
use countersign_certs::settings::duration;

/// Longest name of a route or role in bytes.
const NAME_BYTES_MAX: usize = 64;

pub(super) fn number(
    written: Option<Spanned<u32>>,
    standard: u32,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32, Finding> {
    match written {
        None => Ok(standard),
        Some(value) if range.contains(value.get_ref()) => Ok(value.into_inner()),
        Some(value) => {
            let (least, most) = range.into_inner();
            Err(Finding::new(value.span(), format!("{} is out of range; it is {least} to {most}", value.get_ref())))
        }
    }
}

pub(super) fn span_of_time(written: Option<Spanned<String>>, standard: Duration) -> Result<Duration, Finding> {
    let Some(text) = written else { return Ok(standard) };
    let value = duration::parse(text.get_ref()).map_err(|error| Finding::new(text.span(), error))?;
    let range = Duration::from_millis(1)..=Duration::from_secs(7 * 86_400);
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(Finding::new(text.span(), format!("{:?} is out of range; it is 1ms to 7d", text.get_ref())))
    }
}

/// A time that is counted in ticks of one second.
pub(super) fn whole_seconds(written: Option<Spanned<String>>, standard: Duration) -> Result<Duration, Finding> {
    let span = written.as_ref().map(Spanned::span);
    let value = span_of_time(written, standard)?;
    match span {
        Some(span) if value.subsec_nanos() != 0 => {
            let hint = "idleness is looked at once a second; write \"1s\" or more";
            Err(Finding::with_hint(span, format!("{} is not in whole seconds", duration::print(value)), hint))
        }
        Some(_) | None => Ok(value),
    }
}

/// A time that is compared with points in time, which are whole seconds.
pub(super) fn seconds(
    written: Option<&Spanned<String>>,
    range: std::ops::RangeInclusive<Duration>,
) -> Result<Option<Duration>, Finding> {
    let Some(text) = written else { return Ok(None) };
    let value = duration::parse(text.get_ref()).map_err(|error| Finding::new(text.span(), error))?;
    if range.contains(&value) && value.subsec_nanos() == 0 {
        return Ok(Some(value));
    }
    let (least, most) = (duration::print(*range.start()), duration::print(*range.end()));
    let message = format!("{:?} is out of range; it is {least} to {most}, in whole seconds", text.get_ref());
    Err(Finding::new(text.span(), message))
}

pub(super) fn name(text: &Spanned<String>) -> Result<Arc<str>, Finding> {
    let value = text.get_ref();
    let fits = (1..=NAME_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if fits {
        Ok(value.as_str().into())
    } else {
        Err(Finding::new(
            text.span(),
            format!("{value:?} is no name: 1 to {NAME_BYTES_MAX} letters, digits, '_', '-' or '.'"),
        ))
    }
}

pub(super) fn absolute(path: &Spanned<PathBuf>) -> Result<PathBuf, Finding> {
    if path.get_ref().is_absolute() {
        Ok(path.get_ref().clone())
    } else {
        Err(Finding::new(path.span(), format!("{:?} is not absolute", path.get_ref())))
    }
}

pub(super) fn parsed<T>(text: &Spanned<String>) -> Result<T, Finding>
where
    T: FromStr,
    T::Err: std::error::Error,
{
    text.get_ref().parse().map_err(|error: T::Err| Finding::new(text.span(), in_one_line(&error)))
}

/// One of a few words.
pub(super) fn word<T: Copy + Default>(
    written: Option<&Spanned<String>>,
    key: &str,
    known: &[(&str, T)],
) -> Result<T, Finding> {
    let Some(text) = written else { return Ok(T::default()) };
    match known.iter().find(|(word, _)| word == text.get_ref()) {
        Some((_, value)) => Ok(*value),
        None => {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            let message = format!("unknown {key} {:?}; it is one of {}", text.get_ref(), words.join(", "));
            let mut finding = Finding::new(text.span(), message);
            finding.hint = did_you_mean(text.get_ref(), words);
            Err(finding)
        }
    }
}

/// Whether a `mode` says that what is decided is only recorded.
pub(super) fn is_observed(mode: Option<&Spanned<String>>) -> Result<bool, Finding> {
    let Some(mode) = mode else { return Ok(false) };
    match mode.get_ref().as_str() {
        "enforce" => Ok(false),
        "observe" => Ok(true),
        other => Err(Finding::new(mode.span(), format!("unknown mode {other:?}; it is enforce or observe"))),
    }
}

/// Refuses the name of something that there is not, with the nearest that there is.
pub(super) fn check_known<'name, I: Iterator<Item = &'name str>>(
    text: &Spanned<String>,
    what: &str,
    known: impl Fn() -> I,
) -> Result<(), Finding> {
    if known().any(|known| known == text.get_ref()) {
        return Ok(());
    }
    let hint = did_you_mean(text.get_ref(), known());
    Err(Finding { span: text.span(), message: format!("unknown {what} {:?}", text.get_ref()), hint })
}
