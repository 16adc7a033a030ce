//! Pauses between attempts.

use std::time::Duration;

use crate::rng::entropy;

/// Attempts at a request after the first, when the server fails, asks to wait or is not reached.
pub(crate) const RETRIES: u32 = 4;
/// The first pause between two requests.
pub(crate) const FIRST: Duration = Duration::from_millis(200);
/// The longest pause between two requests.
pub(crate) const LONGEST: Duration = Duration::from_secs(10);
/// The longest pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// Exponential backoff with jitter: the bound doubles with every pause up to a limit, and a pause
/// is a random duration between half the bound and the bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    bound: Duration,
    longest: Duration,
    /// Pauses so far.
    retries: u32,
}

impl Backoff {
    /// A backoff whose first pause is at most `first` and whose other pauses are at most `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Backoff {
            bound: first,
            longest,
            retries: 0,
        }
    }

    /// The backoff of requests to a server.
    pub(crate) fn of_requests() -> Self {
        Backoff::new(FIRST, LONGEST)
    }

    /// Pauses so far.
    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// The duration of the next pause, which is `asked` where the server named one
    /// (`Retry-After`; at most a minute).
    pub(crate) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        self.retries += 1;
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.longest);
        let pause = match asked {
            Some(asked) => asked.min(LONGEST_ASKED),
            None => bound / 2 + (bound / 2).mul_f64(entropy() as f64 / u64::MAX as f64),
        };
        let pause_ms = pause.as_secs_f64() * 1e3;
        tracing::debug!(retry = self.retries, pause_ms, "back-off");
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(500));
        let mut backoff = Backoff::new(first, longest);
        for bound in [100, 200, 400, 500, 500] {
            let bound = Duration::from_millis(bound);
            let pause = backoff.pause(None);
            assert!(bound / 2 <= pause && pause <= bound, "{pause:?}");
        }
        assert_eq!(backoff.retries(), 5);
    }

    #[test]
    fn writers_that_begin_together_pause_differently() {
        let pauses = (0..8).map(|_| Backoff::of_requests().pause(None));
        let pauses: std::collections::BTreeSet<Duration> = pauses.collect();
        assert!(pauses.len() > 1, "{pauses:?}");
    }

    #[test]
    fn a_server_may_ask_for_a_pause_within_limits() {
        let mut backoff = Backoff::of_requests();
        let three = Duration::from_secs(3);
        assert_eq!(backoff.pause(Some(three)), three);
        assert_eq!(backoff.pause(Some(three * 1000)), LONGEST_ASKED);
    }
}
