//! Durations as people write them: `"30s"`, `"10m"`, `"2h"`, `"7d"`, `"250ms"`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write a whole number with ms, s, m, h or d, for example \"30s\"")]
pub(crate) struct DurationError(String);

/// Reads a duration.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let refused = || DurationError(text.to_owned());
    let unit_start = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(unit_start);
    let number: u64 = number.parse().map_err(|_not_a_number| refused())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refused()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_whole_number_and_a_unit() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("2h"), Ok(Duration::from_secs(7200)));
        for text in ["", "5", "s", "-1s", "1.5h", "1w", "99999999999999999999s", "9999999999999999999d", "1 s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
