//! The ninth step: requests without a pause over the instant of a planned switch.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::super::stage::{ACTIVE, OTHER, Stage};
use super::ask::{CHAT, PAPERS, VERSION};
use super::teller::Step;
use super::{LOOK, PATIENCE};

/// How far ahead the switch is written: time for the file to be read and requests to come before.
const AHEAD: Duration = Duration::from_secs(2);
/// How long requests go on after it.
const AFTER: Duration = Duration::from_millis(700);
/// The stream begins this long before the switch and lasts over it.
const STREAM: Duration = Duration::from_millis(800);

/// One request.
struct Seen {
    began: Timestamp,
    ended: Timestamp,
    mac: String,
}

impl Stage {
    /// A switch is written ahead; requests go on over its instant.
    pub(super) async fn date_passes(&self) -> Step {
        let at = Timestamp::now() + AHEAD;
        self.replace(&self.routing(ACTIVE, Some(at)))?;
        self.planned().await?;
        let (stream, one, two, three) = tokio::join!(
            self.stream_over(at),
            self.ask_until(at + AFTER, VERSION),
            self.ask_until(at + AFTER, PAPERS),
            self.ask_until(at + AFTER, VERSION),
        );
        stream?;
        let seen: Vec<Seen> = [one?, two?, three?].into_iter().flatten().collect();
        let (before, after) = count(&seen, at)?;
        if before == 0 || after == 0 {
            return Err(format!(
                "{before} requests before the switch, {after} after it"
            ));
        }
        let shown = at.strftime("%H:%M:%S%.3f UTC");
        Ok(vec![
            format!(
                "{} requests over the switch at {shown}: 0 failed; all {before} before it by {ACTIVE}, all {after} after it by {OTHER}",
                seen.len()
            ),
            format!("a chat that began before it ended whole on {ACTIVE}"),
        ])
    }

    /// Returns when `/status` announces the switch.
    async fn planned(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let services = self.status().await?.services;
            if services.iter().all(|service| service.next_switch.is_some()) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err("/status announces no switch".to_owned());
            }
            sleep(LOOK).await;
        }
    }

    /// Asks for `path` again and again; the first failure ends it.
    async fn ask_until(&self, end: Timestamp, path: &str) -> Result<Vec<Seen>, String> {
        let mut seen = Vec::new();
        while Timestamp::now() < end {
            let began = Timestamp::now();
            let mac = self.get(path).await?.good()?.mac;
            let ended = Timestamp::now();
            seen.push(Seen { began, ended, mac });
            sleep(Duration::from_millis(1)).await;
        }
        Ok(seen)
    }

    async fn stream_over(&self, at: Timestamp) -> Result<(), String> {
        let until = Timestamp::now().duration_until(at - STREAM);
        sleep(Duration::try_from(until).unwrap_or_default()).await;
        let chat = self.post(CHAT.0, CHAT.1).await?.good_from(ACTIVE)?;
        chat.done()?;
        if Timestamp::now() < at {
            return Err("the chat ended before the switch".to_owned());
        }
        Ok(())
    }
}

/// How many were over before the switch and how many began after it, if the right Mac answered
/// each. Those that it fell into may be answered by either.
fn count(seen: &[Seen], at: Timestamp) -> Result<(usize, usize), String> {
    let (mut before, mut after) = (0, 0);
    for request in seen {
        let right = if request.ended < at {
            before += 1;
            ACTIVE
        } else if request.began >= at {
            after += 1;
            OTHER
        } else {
            continue;
        };
        if request.mac != right {
            let began = request.began.duration_since(at);
            return Err(format!(
                "a request that began {began:#} from the switch went to {}",
                request.mac
            ));
        }
    }
    Ok((before, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(began: i64, ended: i64, mac: &str) -> Seen {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        Seen {
            began: at(began),
            ended: at(ended),
            mac: mac.to_owned(),
        }
    }

    #[test]
    fn each_side_of_the_switch_has_its_mac_and_the_instant_itself_either() {
        let at = Timestamp::from_millisecond(100).unwrap();
        let story = [
            seen(97, 98, ACTIVE),
            seen(99, 101, ACTIVE),
            seen(99, 101, OTHER),
            seen(100, 102, OTHER),
        ];
        assert_eq!(count(&story, at), Ok((1, 1)));
        assert!(count(&[seen(97, 98, OTHER)], at).is_err());
        assert!(count(&[seen(100, 101, ACTIVE)], at).is_err());
    }
}
