//! How long whoever fetches a secret waits before the next try.

use std::time::Duration;

use tokio::sync::Notify;

/// After the first failure, and after many.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// How long after a try the next one may be made because a backend refuses what was fetched. Whoever may call can cause that.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// Doubles from one failure to the next.
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pause {
    /// The pause after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(LONGEST);
        now
    }

    /// Waits, less long if something newer is wanted. Whether it is.
    pub(super) async fn sleep(&self, whole: Duration, wanted: &Notify) -> bool {
        let asked_early = async {
            tokio::time::sleep(AFTER_REFUSAL).await;
            wanted.notified().await;
        };
        tokio::select! {
            () = tokio::time::sleep(whole) => false,
            () = asked_early => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute() {
        let mut pause = Pause::default();
        let pauses: Vec<u64> = (0..9).map(|_| pause.next().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
