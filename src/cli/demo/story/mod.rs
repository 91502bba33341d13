//! `tailhop demo --story`: nine steps, each a claim that is checked before it is told.
//!
//! Everything goes over the wire and through the file, as an app and an operator would do it; what
//! a stand-in Mac itself saw counts as witness. Waits end on what is observed and are bounded, so
//! a step that does not come true fails and never hangs.

mod ask;
mod over;
mod teller;

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::mac::Power;
use super::stage::{ACTIVE, OTHER, Stage};
use ask::{CHAT, PAPERS, QUERY, VERSION};
use teller::{Step, Teller};

/// An edit is in use within this.
const EDIT: Duration = Duration::from_millis(100);
/// What a step waits for comes within this, or it does not come.
const PATIENCE: Duration = Duration::from_secs(12);
/// Between looks at something that is about to change.
const LOOK: Duration = Duration::from_millis(5);
/// qdrant-client gives up at 5 s; our refusal must come well before.
const REFUSAL: Duration = Duration::from_millis(4500);
/// A chat has about twenty words, a tenth of a second apart.
const PIECES: usize = 10;

const POINTS: &str = "/qdrant/collections/papers/points";
const UPSERT: &str = r#"{"points":[{"id":9,"vector":[0.5,0.5,0.1],"payload":{"title":"mine"}}]}"#;

/// Plays all steps and tells what was observed; whether each was right.
pub(super) async fn tell(stage: &Stage) -> bool {
    let mut teller = Teller::begin(stage);
    let went_right = steps(stage, &mut teller).await.is_ok();
    teller.end(went_right);
    went_right
}

async fn steps(stage: &Stage, teller: &mut Teller) -> Result<(), ()> {
    teller.step("ask", stage.asks()).await?;
    teller.step("stream", stage.streams()).await?;
    teller.step("edit the file", stage.edits()).await?;
    teller.step("break the file", stage.breaks()).await?;
    teller.step("a Mac dies", stage.dies()).await?;
    teller.step("a read goes on", stage.reads()).await?;
    teller.step("a write is refused", stage.writes()).await?;
    teller.step("the Mac returns", stage.returns()).await?;
    teller.step("the date passes", stage.date_passes()).await
}

impl Stage {
    async fn asks(&self) -> Step {
        let version = self.get(VERSION).await?.good_from(ACTIVE)?;
        let found = self.post(QUERY.0, QUERY.1).await?.good_from(ACTIVE)?;
        let nearest = &found.json()?["result"]["points"][0]["payload"]["title"];
        if nearest != "sleep and memory" {
            return Err(format!("the nearest paper is {nearest}"));
        }
        let reason = &version.reason;
        let version = &version.json()?["version"];
        Ok(vec![format!(
            "ollama says version {version}, qdrant finds {nearest}: both from {ACTIVE} ({reason})"
        )])
    }

    async fn streams(&self) -> Step {
        let chat = self.post(CHAT.0, CHAT.1).await?.good_from(ACTIVE)?;
        let (Some(first), Some(last)) = (chat.pieces.first(), chat.pieces.last()) else {
            return Err("no piece came".to_owned());
        };
        let (count, first, last) = (chat.pieces.len(), *first, *last);
        let told = format!(
            "{count} pieces: the first after {}, the last after {}",
            show(first),
            show(last)
        );
        chat.done()?;
        if count < PIECES || first * 2 > last {
            return Err(format!("{told}, which is no stream"));
        }
        Ok(vec![told + ", ended by done:true"])
    }

    async fn edits(&self) -> Step {
        let there = self.edit(OTHER).await?;
        let back = self.edit(ACTIVE).await?;
        let told = format!(
            "renamed into place: {OTHER} is active after {}, {ACTIVE} again after {}",
            show(there),
            show(back)
        );
        if there.max(back) > EDIT {
            return Err(format!("{told}; the limit is {}", show(EDIT)));
        }
        Ok(vec![told])
    }

    /// Makes `name` the active one; how long after the edit a request reached it.
    async fn edit(&self, name: &str) -> Result<Duration, String> {
        self.replace(&self.routing(name, None))?;
        let edited = Instant::now();
        loop {
            let asked = edited.elapsed();
            if self.get(VERSION).await?.good()?.mac == name {
                return Ok(asked);
            }
            if asked > PATIENCE {
                return Err(format!(
                    "{name} did not become active within {}",
                    show(PATIENCE)
                ));
            }
        }
    }

    async fn breaks(&self) -> Step {
        let good = self.routing(ACTIVE, None);
        let half = &good[..good.len() - 6];
        let typo = good.replace(&format!("default = \"{ACTIVE}"), "default = \"macbok-m1");
        let mut asked = 0;
        let mut told = Vec::new();
        for (what, text, place) in [
            ("half a file", half, "not TOML"),
            ("a typo", &typo, "macbok-m1"),
        ] {
            std::fs::write(&self.file, text).map_err(|error| error.to_string())?;
            let why = self.rejection(&mut asked, |why| why.is_some_and(|why| why.contains(place)));
            told.push(format!("{what}: {}", gist(&why.await?.unwrap_or_default())));
        }
        self.replace(&good)?;
        self.rejection(&mut asked, |why| why.is_none()).await?;
        told.push(format!(
            "{asked} requests meanwhile, all answered by {ACTIVE}; then repaired"
        ));
        Ok(told)
    }

    /// What `/status` says of the file, once it is `as_wanted`; traffic goes on meanwhile.
    async fn rejection(
        &self,
        asked: &mut u32,
        as_wanted: impl Fn(Option<&str>) -> bool,
    ) -> Result<Option<String>, String> {
        let began = Instant::now();
        loop {
            self.get(VERSION).await?.good_from(ACTIVE)?;
            self.get(PAPERS).await?.good_from(ACTIVE)?;
            *asked += 2;
            let rejected = self
                .status()
                .await?
                .config
                .rejected
                .map(|rejected| rejected.text);
            if as_wanted(rejected.as_deref()) {
                return Ok(rejected);
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("/status says of the file: {rejected:?}"));
            }
            sleep(LOOK).await;
        }
    }

    async fn dies(&self) -> Step {
        let mac = &self.macs[0];
        mac.set(Power::Off);
        let ports = [self.ports.ollama, self.ports.qdrant];
        for port in ports {
            let began = Instant::now();
            while TcpStream::connect((mac.ip, port)).await.is_ok() {
                if began.elapsed() > PATIENCE {
                    return Err(format!("{}:{port} still accepts", mac.ip));
                }
                sleep(LOOK).await;
            }
        }
        Ok(vec![format!(
            "{ACTIVE} refuses: {} ports {} and {}",
            mac.ip, ports[0], ports[1]
        )])
    }

    async fn reads(&self) -> Step {
        let began = Instant::now();
        let found = self.post(QUERY.0, QUERY.1).await?.good_from(OTHER)?;
        let took = began.elapsed();
        let chat = self.post(CHAT.0, CHAT.1).await?.good_from(OTHER)?;
        chat.done()?;
        for reason in [&found.reason, &chat.reason] {
            if !reason.starts_with("fallback") {
                return Err(format!("{OTHER} answered, and the reason is {reason}"));
            }
        }
        Ok(vec![format!(
            "{OTHER} answers a query after {} (x-tailhop-reason: {}) and a chat ({})",
            show(took),
            found.reason,
            chat.reason
        )])
    }

    async fn writes(&self) -> Step {
        let before = self.macs[1].writes();
        let began = Instant::now();
        let refused = self.put(POINTS, UPSERT).await?;
        let took = began.elapsed();
        let reached = self.macs[1].writes() - before;
        if refused.status != 503 || reached != 0 || took > REFUSAL {
            return Err(format!(
                "status {} after {}; {reached} writes reached {OTHER}",
                refused.status,
                show(took)
            ));
        }
        let text = refused.json()?["status"]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok(vec![
            format!(
                "503 after {}; no write reached {OTHER}. It says:",
                show(took)
            ),
            text,
        ])
    }

    async fn returns(&self) -> Step {
        self.macs[0].set(Power::Awake);
        let woken = Instant::now();
        self.put(POINTS, UPSERT).await?.good_from(ACTIVE)?;
        let write = woken.elapsed();
        let qdrant = self.back(woken, PAPERS).await?;
        let ollama = self.back(woken, VERSION).await?;
        Ok(vec![format!(
            "{ACTIVE} takes the write {} after it woke, reads of qdrant after {}, ollama's after {}",
            show(write),
            show(qdrant),
            show(ollama)
        )])
    }

    /// How long after `woken` the active Mac answers reads of `path` again.
    async fn back(&self, woken: Instant, path: &str) -> Result<Duration, String> {
        loop {
            let asked = woken.elapsed();
            if self.get(path).await?.good()?.mac == ACTIVE {
                return Ok(asked);
            }
            if asked > PATIENCE {
                return Err(format!("{path} is still answered by {OTHER}"));
            }
            sleep(LOOK).await;
        }
    }
}

/// The place of the first problem, what it is and what to do.
fn gist(rendered: &str) -> String {
    let mut lines = rendered.lines();
    let what = lines.next().unwrap_or_default();
    let place = lines.find_map(|line| line.trim_start().strip_prefix("--> "));
    let place = place.and_then(|place| place.rsplit('/').next());
    let help = lines.find_map(|line| line.trim_start().strip_prefix("= help: "));
    let help = help.map_or_else(String::new, |help| format!(" ({help})"));
    format!("{} {what}{help}", place.unwrap_or("?"))
}

/// Milliseconds, or seconds with as many digits as matter.
fn show(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gist_of_a_problem_is_its_place_what_it_is_and_what_to_do() {
        let rendered =
            "error[E016]: unknown\n --> /x/routing.toml:7:1\n  |\n  = help: write \"a\"\n";
        assert_eq!(
            gist(rendered),
            "routing.toml:7:1 error[E016]: unknown (write \"a\")"
        );
        assert_eq!(gist("error: no file"), "? error: no file");
    }

    #[test]
    fn times_have_the_digits_that_matter() {
        assert_eq!(show(Duration::from_micros(18_700)), "18 ms");
        assert_eq!(show(Duration::from_millis(3775)), "3.8 s");
    }
}
