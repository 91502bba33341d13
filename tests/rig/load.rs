//! A steady load from the container: requests at fixed times, whether the last one is back or not.

use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::client;
use super::hop::DATA;

/// What is asked, in turn, every tick.
#[derive(Debug)]
pub(crate) struct Load {
    paths: &'static [&'static str],
    every: Duration,
}

/// One request of a load, in wall time.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) path: &'static str,
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
    /// The Mac that answered, empty if none did.
    pub(crate) mac: String,
    /// The status, or why there is none.
    pub(crate) outcome: Result<u16, String>,
}

impl Asked {
    /// Anything but 200.
    pub(crate) fn failed(&self) -> bool {
        self.outcome != Ok(200)
    }
}

impl Load {
    /// `GET` of each path, 20 times a second.
    pub(crate) fn each_50_ms(paths: &'static [&'static str]) -> Self {
        Self {
            paths,
            every: Duration::from_millis(50),
        }
    }

    /// Runs until `end` and hands back every request, answered or not.
    pub(crate) async fn until(&self, end: Timestamp) -> Vec<Asked> {
        let mut requests = JoinSet::new();
        let mut ticks = interval(self.every);
        // A late tick is made up for: the load is a number of requests, not a politeness.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while Timestamp::now() < end {
            ticks.tick().await;
            for path in self.paths {
                requests.spawn(ask(path));
            }
        }
        requests.join_all().await
    }
}

async fn ask(path: &'static str) -> Asked {
    let began = Timestamp::now();
    let answer = client::get(DATA, path).await;
    let ended = Timestamp::now();
    match answer {
        Ok(answer) => {
            let (mac, outcome) = (answer.mac().to_owned(), Ok(answer.status.as_u16()));
            Asked {
                path,
                began,
                ended,
                mac,
                outcome,
            }
        }
        Err(why) => Asked {
            path,
            began,
            ended,
            mac: String::new(),
            outcome: Err(why.0),
        },
    }
}
