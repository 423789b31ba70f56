//! The header fields that tell a caller of its limits (draft-ietf-httpapi-ratelimit-headers-10).
//!
//! Names are put between quotes as they are: a name of the config has no character that a String of Structured Fields would have
//! to escape (RFC 9651 §3.3.3).

use std::fmt::Write;

use crate::quota::{Quota, Standing, whole_seconds};

/// One limit as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'limit> {
    /// So many requests at once.
    Concurrent {
        /// The name of the limit.
        name: &'limit str,
        /// The most.
        limit: u32,
        /// How many are under way, the one that is answered included.
        under_way: u32,
    },
    /// So many requests in a window.
    Requests {
        /// The name of the limit.
        name: &'limit str,
        /// The quota.
        quota: &'limit Quota,
        /// What is left of it.
        standing: Standing,
    },
}

/// Both fields: `RateLimit-Policy`, which says what the limits are, and `RateLimit`, which says what is left of them.
///
/// What may be under way at once is a policy of its own in the unit `concurrent-requests`. Its name has a colon, which no limit's
/// own name has.
pub fn fields<'limit>(told: impl IntoIterator<Item = Told<'limit>>) -> (String, String) {
    let (mut policies, mut standings) = (String::new(), String::new());
    for one in told {
        if !policies.is_empty() {
            policies.push_str(", ");
            standings.push_str(", ");
        }
        // Writing into a String cannot fail.
        let _ = match one {
            Told::Concurrent { name, limit, under_way } => {
                let left = limit.saturating_sub(under_way);
                write!(policies, "\"{name}:concurrent\";q={limit};qu=\"concurrent-requests\"")
                    .and_then(|()| write!(standings, "\"{name}:concurrent\";r={left}"))
            }
            Told::Requests { name, quota, standing } => {
                let (window, reset) = (quota.window().as_secs(), whole_seconds(standing.reset));
                write!(policies, "\"{name}\";q={};w={window}", quota.requests())
                    .and_then(|()| write!(standings, "\"{name}\";r={};t={reset}", standing.remaining))
            }
        };
    }
    (policies, standings)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_fields_tell_each_limit() {
        let quota = Quota::parse("20/1m", Some(5)).unwrap();
        let standing = Standing { remaining: 3, next: Duration::ZERO, reset: Duration::from_millis(5001) };
        let (policy, left) = fields([
            Told::Requests { name: "team", quota: &quota, standing },
            Told::Concurrent { name: "team", limit: 4, under_way: 1 },
        ]);
        assert_eq!(policy, "\"team\";q=20;w=60, \"team:concurrent\";q=4;qu=\"concurrent-requests\"");
        assert_eq!(left, "\"team\";r=3;t=6, \"team:concurrent\";r=3");
    }
}
