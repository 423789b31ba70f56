//! Waiting on conditions, each with a bound.

use std::time::{Duration, Instant, SystemTime};

/// How long a condition that should hold soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` finds something.
///
/// # Panics
/// Not within [`SOON`].
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(SOON, what, look)
}

/// Waits until `look` finds something.
///
/// # Panics
/// Not within `bound`.
#[track_caller]
pub fn within<T>(bound: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = now() + bound;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now() < end, "{what}: not within {bound:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until something is so.
///
/// # Panics
/// Not within [`SOON`].
#[track_caller]
pub fn until_so(what: &str, mut look: impl FnMut() -> bool) {
    until(what, || look().then_some(()));
}

/// Checks that something stays so for a while: for what must not happen there is no event to wait for.
///
/// # Panics
/// As soon as it is not so.
#[track_caller]
pub fn stays_so(span: Duration, what: &str, mut look: impl FnMut() -> bool) {
    let end = now() + span;
    while now() < end {
        assert!(look(), "{what}: no longer");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The time for measuring.
#[allow(clippy::disallowed_methods, reason = "tests measure the real time that the programs took")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day, in seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "certificates are made for the real time that the programs go by")]
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
