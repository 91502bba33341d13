//! Waiting for a fact: ask again until it holds, fail loudly at a deadline.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often a fact is asked for. Short against everything the rig measures.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer, at most for `within`; then panics with `what` did not come true,
/// which is put into words only then (`format_args!`), so that it may quote a log.
pub(crate) async fn eventually<T>(
    what: impl fmt::Display,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        sleep(PAUSE).await;
    }
}
