//! What `pin`, `unpin`, `drain` and `undrain` share: they edit the file, and wait until the running
//! instance says that it holds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::run::render;
use super::{AdminArg, COULD_NOT_ASK, NO, ask, block_on, json, say};
use crate::admin::orders::{Giver, Order, Prepared, Refused, prepare};
use crate::admin::status::Status;
use crate::config::{Environment, Snapshot, load, read};
use crate::reload::store::short;
use crate::reload::watch::is_network;

/// An edit is seen at once, and on some mounts at the next poll of 2 s.
const CONFIRMED: Duration = Duration::from_secs(10);
/// On network file systems it is seen up to a minute later.
const CONFIRMED_NETWORK: Duration = Duration::from_secs(75);
const BETWEEN: Duration = Duration::from_millis(100);

/// Arguments of every order.
#[derive(Args)]
pub(super) struct Common {
    #[command(flatten)]
    admin: AdminArg,
    /// Refuse unless the file still has this hash, of which the beginning is enough, as
    /// `tailhop status` shows it.
    #[arg(long, value_name = "HASH")]
    base: Option<String>,
    /// Who gives the order [default: `USER`].
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Do not wait until the running instance confirms it.
    #[arg(long)]
    no_wait: bool,
    /// Print what became of it as JSON.
    #[arg(long)]
    json: bool,
    /// What is said of it is not the answer of the command.
    #[arg(skip)]
    aside: bool,
}

/// What became of an order.
#[derive(Debug, Default, Serialize)]
struct Told {
    result: &'static str,
    error: Option<String>,
    help: Option<String>,
    changes: Vec<String>,
    notes: Vec<String>,
    confirmed: bool,
    generation: Option<u64>,
    summary: Vec<String>,
    edit: Option<String>,
    instead: Option<String>,
}

/// How it went on after the file was written.
enum Confirmation {
    By(Box<Status>),
    /// An instance answers, and does not take the file.
    Rejected(String),
    /// None answers, or none in time.
    Nobody(String),
}

impl Common {
    /// Those of an order that another command gives.
    pub(super) fn of(config: super::ConfigArg, no_wait: bool) -> Self {
        Self {
            admin: AdminArg {
                config,
                admin: std::env::var("TAILHOP_ADMIN")
                    .ok()
                    .and_then(|address| address.parse().ok()),
            },
            base: None,
            by: None,
            no_wait,
            json: false,
            aside: true,
        }
    }

    /// Says what stands in the way of an order, if anything does; nothing is changed.
    pub(super) fn could(
        &self,
        order: impl FnOnce(&Snapshot, Timestamp) -> Result<Order, String>,
    ) -> u8 {
        if !self.no_wait {
            let address = self.admin.address();
            let Some(status) = self.running() else {
                eprintln!("error: no instance answers on {address} that would confirm the order");
                eprintln!("help: name its address in TAILHOP_ADMIN, or say --no-wait");
                return COULD_NOT_ASK;
            };
            let emergency = status.orders.iter().find(|it| it.kind == "active-backend");
            if let Some(order) = emergency {
                eprintln!(
                    "error: the instance on {address} runs with ACTIVE_BACKEND={}, which beats \
                     every pin: unset it first",
                    order.backend
                );
                return NO;
            }
        }
        self.with(order, |_, _| Ok(None))
    }

    /// Carries out what `order` makes of the configuration and the time.
    pub(super) fn carry_out(
        &self,
        order: impl FnOnce(&Snapshot, Timestamp) -> Result<Order, String>,
    ) -> u8 {
        self.with(order, |ready, environment| {
            ready.commit(environment).map(Some)
        })
    }

    /// Prepares what `order` makes of the configuration and the time, and gives it to `finish`.
    fn with(
        &self,
        order: impl FnOnce(&Snapshot, Timestamp) -> Result<Order, String>,
        finish: impl FnOnce(Prepared, &Environment) -> Result<Option<Prepared>, Refused>,
    ) -> u8 {
        let environment = Environment::from_process();
        let running = self.running();
        let path = self.file(running.as_ref(), &environment);
        let now = Timestamp::now();
        let loaded = read(&path).and_then(|source| load(&source, &environment));
        let snapshot = match loaded {
            Ok(snapshot) => snapshot,
            Err(report) => {
                eprint!("{}", render(&report));
                eprintln!("help: repair the file first; nothing was changed");
                return NO;
            }
        };
        if let Some(used) = running.and_then(|status| other_file(&status, &path, &snapshot)) {
            return self.elsewhere(&used, &path);
        }
        let order = match order(&snapshot, now) {
            Ok(order) => order,
            Err(why) => {
                eprintln!("error: {why}");
                return COULD_NOT_ASK;
            }
        };
        let by = self.by.clone().unwrap_or_else(user);
        let giver = Giver {
            path: &path,
            environment: &environment,
            by: &by,
            now,
            base: self.base.as_deref(),
        };
        match prepare(&order, &giver).and_then(|ready| finish(ready, &environment)) {
            Ok(Some(done)) => self.done(&path, &done),
            Ok(None) => 0,
            Err(refused) => self.refused(refused, &order, &snapshot),
        }
    }

    /// The running instance, if it is to confirm the order and answers.
    fn running(&self) -> Option<Status> {
        if self.no_wait {
            return None;
        }
        let (address, token) = (self.admin.address(), self.admin.token());
        let asked = block_on(async { ask::get_with(address, "/status", token.as_ref()).await });
        asked.and_then(|(_, text)| parsed(&text)).ok()
    }

    /// The file to edit: the one that is named, else that of the running instance, if it is the one
    /// that is here under its name, else the usual one.
    fn file(&self, running: Option<&Status>, environment: &Environment) -> PathBuf {
        let usual = self.admin.config.path();
        if self.admin.config.is_named() {
            return usual;
        }
        let used = running.map(|status| PathBuf::from(&status.config.path));
        let is_here = |path: &PathBuf| {
            let loaded = read(path).and_then(|source| load(&source, environment));
            let hash = loaded.map(|snapshot| short(&snapshot.origin.hash).to_owned());
            running.is_some_and(|status| hash.is_ok_and(|hash| hash == status.config.hash))
        };
        used.filter(is_here).unwrap_or(usual)
    }

    /// The instance that is to confirm it would never.
    fn elsewhere(&self, used: &str, path: &Path) -> u8 {
        let (path, address) = (path.display(), self.admin.address());
        let told = Told {
            result: "refused",
            error: Some(format!(
                "nothing was changed: this is {path}, and the instance on {address} uses {used}"
            )),
            help: Some(format!(
                "name its file with --config {used}, or another instance with --admin, or say --no-wait"
            )),
            ..Told::default()
        };
        self.tell(&told, NO)
    }

    fn done(&self, path: &Path, done: &Prepared) -> u8 {
        let mut told = Told {
            result: "written",
            changes: done.changes.clone(),
            notes: done.notes.clone(),
            ..Told::default()
        };
        if self.no_wait {
            return self.tell(&told, 0);
        }
        let asked = block_on(async { Ok(self.confirmation(path, done).await) });
        match asked.unwrap_or_else(Confirmation::Nobody) {
            Confirmation::By(status) => {
                told.result = "applied";
                told.confirmed = true;
                told.generation = Some(status.config.generation);
                let emergency = status
                    .orders
                    .iter()
                    .find(|one| one.kind == "active-backend");
                let known = told
                    .notes
                    .iter()
                    .any(|note| note.contains("ACTIVE_BACKEND"));
                if let Some(order) = emergency.filter(|_| !known) {
                    told.notes.push(format!(
                        "the instance runs with ACTIVE_BACKEND={}, which beats every pin",
                        order.backend
                    ));
                }
                told.summary = status.summary;
                self.tell(&told, 0)
            }
            Confirmation::Rejected(text) => {
                told.error = Some(format!("the instance does not take the file:\n{text}"));
                self.tell(&told, NO)
            }
            Confirmation::Nobody(why) => {
                told.error = Some(format!("written, and no instance confirms it: {why}"));
                told.help = Some("name its address with --admin, or say --no-wait".to_owned());
                self.tell(&told, COULD_NOT_ASK)
            }
        }
    }

    /// Asks the instance until it has the file, or does not take it.
    async fn confirmation(&self, path: &Path, done: &Prepared) -> Confirmation {
        let within = if is_network(path) {
            CONFIRMED_NETWORK
        } else {
            CONFIRMED
        };
        let until = Instant::now() + within;
        let (address, token) = (self.admin.address(), self.admin.token());
        loop {
            let asked = ask::get_with(address, "/status", token.as_ref()).await;
            let last = match asked.and_then(|(_, text)| parsed(&text)) {
                Ok(status) if status.config.hash == short(done.hash()) => {
                    return Confirmation::By(Box::new(status));
                }
                Ok(status) => match status.config.rejected {
                    Some(rejected) if Instant::now() > until => {
                        return Confirmation::Rejected(rejected.text);
                    }
                    _ => format!("the instance on {address} has another file"),
                },
                // It may be starting; but who is not there is not waited for.
                Err(why) => return Confirmation::Nobody(why),
            };
            if Instant::now() > until {
                return Confirmation::Nobody(last);
            }
            sleep(BETWEEN).await;
        }
    }

    fn refused(&self, refused: Refused, order: &Order, snapshot: &Snapshot) -> u8 {
        let mut told = Told {
            result: "refused",
            ..Told::default()
        };
        match refused {
            Refused::Wrong(wrong) => {
                told.error = Some(wrong.message);
                told.help = Some(wrong.help).filter(|help| !help.is_empty());
            }
            Refused::Invalid(report) => {
                told.error = Some(format!("nothing was changed:\n{}", report.render(false)));
            }
            Refused::Stale { did } => {
                told.error = Some("the file is not the one that you decided on".to_owned());
                told.help = Some("look at `tailhop status`, then decide again".to_owned());
                told.changes = did;
            }
            Refused::ReadOnly { why, edit } => {
                told.error = Some(format!("the file cannot be written here: {why}"));
                told.edit = Some(edit);
                told.instead = Some(instead(order, snapshot));
            }
            Refused::Failed(why) => told.error = Some(why),
        }
        self.tell(&told, NO)
    }

    fn tell(&self, told: &Told, code: u8) -> u8 {
        if self.json {
            say(&json(told));
            return code;
        }
        let say = |text: &str| {
            if self.aside {
                eprint!("{text}");
            } else {
                say(text);
            }
        };
        if told.result == "refused" && !told.changes.is_empty() {
            eprintln!("meanwhile: {}", told.changes.join("\nmeanwhile: "));
        } else {
            say(&told
                .changes
                .iter()
                .map(|line| line.clone() + "\n")
                .collect::<String>());
        }
        if let Some(error) = &told.error {
            eprintln!("error: {}", error.trim_end());
        }
        if let Some(edit) = &told.edit {
            say(&format!(
                "the edit to make where the file comes from:\n{edit}"
            ));
        }
        if let Some(instead) = &told.instead {
            say(&format!("{instead}\n"));
        }
        for note in &told.notes {
            eprintln!("note: {note}");
        }
        if let Some(help) = &told.help {
            eprintln!("help: {help}");
        }
        if let Some(generation) = told.generation {
            say(&format!("confirmed: generation {generation}\n"));
            say(&(told.summary.join("\n") + "\n"));
        }
        code
    }
}

/// The file that the instance uses, if it is another one than that at `path`. Under another name it
/// may be the same, as where it is mounted; under the same name it may be ahead of the instance.
fn other_file(status: &Status, path: &Path, snapshot: &Snapshot) -> Option<String> {
    let used = &status.config.path;
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let same =
        real(Path::new(used)) == real(path) || status.config.hash == short(&snapshot.origin.hash);
    (!same).then(|| used.clone())
}

fn parsed(text: &str) -> Result<Status, String> {
    serde_json::from_str(text).map_err(|error| format!("its answer is no status: {error}"))
}

/// What to do where the file is part of an image.
fn instead(order: &Order, snapshot: &Snapshot) -> String {
    let service = std::env::var("K_SERVICE").unwrap_or_else(|_| "SERVICE".to_owned());
    let update = format!("gcloud run services update {service}");
    match order {
        Order::Pin { to, .. } => format!(
            "or, at once, for reads and writes, without an end:\n  \
             {update} --update-env-vars=ACTIVE_BACKEND={to}\n\
             (--set-env-vars=ACTIVE_BACKEND={to} works too, and removes all other variables)"
        ),
        Order::Unpin { .. } if snapshot.active_backend.is_some() => {
            format!("or:\n  {update} --remove-env-vars=ACTIVE_BACKEND")
        }
        Order::Drain { backend, .. } => {
            let others = snapshot.backends.iter().map(|other| other.name.as_str());
            let other = others
                .clone()
                .find(|name| name != backend)
                .unwrap_or("OTHER");
            format!(
                "or make the other one active, for writes too:\n  \
                 {update} --update-env-vars=ACTIVE_BACKEND={other}"
            )
        }
        Order::Unpin { .. } | Order::Undrain { .. } => {
            format!("then deploy it:\n  {update} --image=IMAGE")
        }
    }
}

/// Who is at the keyboard.
fn user() -> String {
    let named = |name| {
        std::env::var(name)
            .ok()
            .filter(|user: &String| !user.is_empty())
    };
    named("USER")
        .or_else(|| named("LOGNAME"))
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
