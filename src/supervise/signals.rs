//! Which signals we take, and what each one means: the table is pure.
//!
//! Owns the handlers, but that SIGHUP is also a hint to look at our own file (`app`). Without an app
//! only SIGTERM and SIGINT are taken here: the others do what they do to any process.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is the app's, too: SIGHUP, by which servers read their files again, SIGUSR1, SIGUSR2.
    Forward,
    /// The end begins; the app gets the same signal.
    End,
    /// The end has begun already: it is to be quick. The app gets the signal once more.
    Hurry,
}

/// What `signal` means while the end has begun or not.
pub(super) fn meaning(signal: Signal, ending: bool) -> Meaning {
    let ends = [Signal::TERM, Signal::INT, Signal::QUIT].contains(&signal);
    match (ends, ending) {
        (false, _) => Meaning::Forward,
        (true, false) => Meaning::End,
        (true, true) => Meaning::Hurry,
    }
}

/// The signals that come to us.
#[derive(Debug)]
pub struct Signals(Vec<(Signal, Stream)>);

impl Signals {
    /// Takes them from now on; more of them where there is an app to forward them to.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn take(app: bool) -> io::Result<Self> {
        let end = [Signal::TERM, Signal::INT];
        let forwarded = [Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2];
        let forwarded = forwarded.into_iter().filter(|_| app);
        let streams = end.into_iter().chain(forwarded).map(|taken| {
            let stream = signal(SignalKind::from_raw(taken.as_raw()))?;
            Ok((taken, stream))
        });
        streams.collect::<io::Result<_>>().map(Self)
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*signal);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_server_ends_us_and_a_second_one_hurries() {
        use Meaning::{End, Forward, Hurry};
        for (signal, first, later) in [
            (Signal::TERM, End, Hurry),
            (Signal::INT, End, Hurry),
            (Signal::QUIT, End, Hurry),
            (Signal::HUP, Forward, Forward),
            (Signal::USR1, Forward, Forward),
            (Signal::USR2, Forward, Forward),
        ] {
            assert_eq!(meaning(signal, false), first, "{signal:?}");
            assert_eq!(meaning(signal, true), later, "{signal:?}");
        }
    }
}
