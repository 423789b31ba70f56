//! Durations as people write them: `30s`, `10m`, `1h`, `7d`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration; write a whole number and s, m, h or d, for example \"90m\"")]
pub(crate) struct DurationError {
    text: String,
}

/// Units from large to small, with their seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// Reads one number and one unit.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let refused = || DurationError { text: text.to_owned() };
    let (unit, seconds) = UNITS.iter().find(|(unit, _)| text.ends_with(*unit)).ok_or_else(refused)?;
    let number = text.strip_suffix(*unit).unwrap_or_default();
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    let count: u64 = number.parse().map_err(|_empty_or_huge| refused())?;
    count.checked_mul(*seconds).map(Duration::from_secs).ok_or_else(refused)
}

/// Writes a duration in the largest unit that fits it exactly.
pub(crate) fn print(duration: Duration) -> String {
    let total = duration.as_secs();
    let exact = UNITS.iter().find(|(_, seconds)| total >= *seconds && total.is_multiple_of(*seconds));
    let (unit, seconds) = exact.unwrap_or(&('s', 1));
    format!("{}{unit}", total / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_print() {
        for text in ["30s", "10m", "90m", "1h", "7d", "0s"] {
            assert_eq!(print(parse(text).unwrap()), text);
        }
        assert_eq!(print(parse("120m").unwrap()), "2h");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "h", "1", "1.5h", "-1h", "+1h", "1 h", "1w", "99999999999999999999d", "300000000000000000d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
