//! Durations as people write them: `"250ms"`, `"30s"`, `"10m"`, `"2h"`, `"7d"`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write a whole number with ms, s, m, h or d, for example \"90m\"")]
pub struct DurationError(String);

/// Units from large to small, with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads one number and one unit.
///
/// # Errors
/// The text is something else, or the number is too large.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let refused = || DurationError(text.to_owned());
    let unit_start = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(unit_start);
    let number: u64 = number.parse().map_err(|_empty_or_huge| refused())?;
    let (_, milliseconds) = UNITS.iter().find(|(known, _)| *known == unit).ok_or_else(refused)?;
    number.checked_mul(*milliseconds).map(Duration::from_millis).ok_or_else(refused)
}

/// Writes a duration in the largest unit that fits it exactly; what is shorter than a millisecond is left out.
pub fn print(duration: Duration) -> String {
    let total = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let exact = UNITS.iter().find(|(_, milliseconds)| total >= *milliseconds && total.is_multiple_of(*milliseconds));
    let (unit, milliseconds) = exact.unwrap_or(&("s", 1_000));
    format!("{}{unit}", total / milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_print() {
        for text in ["250ms", "30s", "10m", "90m", "1h", "7d", "0s"] {
            assert_eq!(print(parse(text).unwrap()), text);
        }
        assert_eq!(print(parse("120m").unwrap()), "2h");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "5", "s", "-1s", "+1h", "1.5h", "1w", "1 s", "99999999999999999999s", "9999999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
