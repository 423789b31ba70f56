//! A CA in a folder of its own, and a host that talks to it.

mod ca;
mod client;
mod host;

pub(crate) use ca::{TestCa, command, contents, run};
pub(crate) use client::{Anonymous, Answer, Connection};
pub(crate) use host::Host;

use std::time::{Duration, SystemTime};

use countersign_certs::time::Clock;

/// The namespace of every test.
pub(crate) const TRUST_DOMAIN: &str = "prod.example";

/// An ID of the tests' namespace.
pub(crate) fn id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}{path}")
}

/// The system's clock.
#[expect(clippy::disallowed_methods, reason = "tests run beside a real CA, in real time")]
pub(crate) fn clock() -> Clock {
    Clock::new(SystemTime::now)
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} within {limit:?}");
}
