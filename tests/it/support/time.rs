//! Time under the test's hand.
//!
//! Tokio's paused time advances by itself as soon as every task is idle, and a task that waits for
//! a loopback socket counts as idle: between two hops of a request it would jump to the next
//! timer. So [`Held`] forbids that (a blocking task is running, as far as tokio can tell), sockets
//! work in real time, and the clock moves only when the test moves it, in steps so small that
//! none looks like a frozen process.

#![expect(clippy::disallowed_types, reason = "real time, beside the test's own")]

use std::sync::LazyLock;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than anything takes that ends at all, in real time.
const PATIENCE: Duration = Duration::from_secs(20);
/// One step of the clock, in the test's time.
const STEP: Duration = Duration::from_millis(50);
/// The longest step: one of 200 ms looks like a freeze.
const LONG_STEP: Duration = Duration::from_millis(150);
/// Turns of the runtime for each such step: as many as a probe has hops.
const TURNS: usize = 4;
/// Between two steps, in real time, so that sockets keep up.
const BREATH: Duration = Duration::from_millis(1);

/// Holds the clock for as long as it lives. For tests with `start_paused`.
pub(crate) struct Held {
    _release: Sender<()>,
    _blocking: JoinHandle<()>,
}

impl Held {
    pub(crate) fn hold() -> Self {
        let (release, held) = mpsc::channel();
        let blocking = tokio::task::spawn_blocking(move || {
            // Ends when the other side is dropped.
            let _ = held.recv();
        });
        Self {
            _release: release,
            _blocking: blocking,
        }
    }

    /// Lets time pass while `future` runs; what it took in the test's time.
    pub(crate) async fn run<T>(&self, future: impl Future<Output = T>) -> (T, Duration) {
        let began = tokio::time::Instant::now();
        let until = Instant::now() + PATIENCE;
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return (done, began.elapsed()),
                () = settled() => tokio::time::advance(STEP).await,
            }
            assert!(
                Instant::now() < until,
                "it does not end, however much time passes"
            );
        }
    }

    /// Lets a long `span` pass, in which little happens: in steps as long as none looks like a
    /// frozen process.
    pub(crate) async fn pass_long(&self, span: Duration) {
        self.pass_in(LONG_STEP, span).await;
    }

    /// Lets a very long `span` pass, in steps in which all timers fire a little late.
    pub(crate) async fn pass_hours(&self, span: Duration) {
        self.pass_in(Duration::from_millis(1900), span).await;
    }

    async fn pass_in(&self, step: Duration, span: Duration) {
        let end = tokio::time::Instant::now() + span;
        while tokio::time::Instant::now() < end {
            tokio::time::advance(step).await;
            for _ in 0..TURNS {
                // Lets the reactor run, too.
                tokio::task::yield_now().await;
            }
        }
    }

    /// The process stands still for `span`: timers fire late, all at once, before any socket is
    /// read.
    pub(crate) async fn freeze(&self, span: Duration) {
        tokio::time::advance(span).await;
    }

    /// Lets `span` pass.
    pub(crate) async fn pass(&self, span: Duration) {
        self.run(tokio::time::sleep(span)).await;
    }
}

/// Waits until sockets kept up and every task that was ready had its turn: however busy the
/// machine is, little happens at the test's time.
async fn settled() {
    really(BREATH).await;
    for _ in 0..TURNS {
        // It stands behind all that are ready.
        tokio::spawn(async {}).await.unwrap();
    }
}

/// What `future` comes to; a test that would hang fails.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = future => done,
        () = really(PATIENCE) => panic!("nothing came of it"),
    }
}

/// Waits until `done`, where there is no event to wait for.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        really(BREATH).await;
    }
}

/// Waits in real time, whatever tokio's clock does.
pub(crate) async fn really(span: Duration) {
    static TIMER: LazyLock<Sender<(Instant, oneshot::Sender<()>)>> = LazyLock::new(|| {
        let (to, from) = mpsc::channel();
        std::thread::spawn(move || serve_timers(&from));
        to
    });
    let (tell, told) = oneshot::channel();
    TIMER.send((Instant::now() + span, tell)).unwrap();
    told.await.unwrap();
}

fn serve_timers(from: &mpsc::Receiver<(Instant, oneshot::Sender<()>)>) {
    let mut timers: Vec<(Instant, oneshot::Sender<()>)> = Vec::new();
    loop {
        let now = Instant::now();
        for (_, tell) in timers.extract_if(.., |(due, tell)| *due <= now || tell.is_closed()) {
            let _ = tell.send(());
        }
        let next = timers.iter().map(|(due, _)| *due - now).min();
        match from.recv_timeout(next.unwrap_or(PATIENCE)) {
            Ok(timer) => timers.push(timer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
