//! `tailhop migrate`.

mod over;

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{sleep, timeout};

use self::over::Handover;
use super::order::Common;
use super::run::render;
use super::{COULD_NOT_ASK, ConfigArg, NO, block_on, json, say};
use crate::config::snapshot::{DialWay, Network, Service, Snapshot, Tailnet as TailnetSettings};
use crate::config::{Environment, load, read};
use crate::migrate::{
    Address, Pass, Progress, Record, Report, Run, Site, State, StateFile, Stop, Verify, Wanted,
    of_url,
};
use crate::tailnet::Tailnet;
use crate::wire::Place;
use crate::wire::tls::Tls;
use crate::words::clock::Clock;
use crate::words::names::Kind;
use crate::words::secret::Secret;
use crate::words::units::parse_duration;
use crate::words::verdict::Tunnel;

/// How long tailscaled may take to be up.
const TUNNEL: Duration = Duration::from_secs(15);
/// Between two lines of progress on a terminal, where each replaces the one before.
const REDRAW: Duration = Duration::from_millis(200);
/// The same elsewhere, where all of them stay.
const LINE: Duration = Duration::from_secs(10);
const STATE: &str = "tailhop-migrate.json";

/// Arguments of `migrate`.
#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(super) struct Migrate {
    /// The source: a backend of the configuration, or a URL, which needs no configuration.
    #[arg(long, value_name = "BACKEND|URL")]
    from: String,
    /// The target, likewise.
    #[arg(long, value_name = "BACKEND|URL")]
    to: String,
    /// This collection only; may be repeated [default: all of the source].
    #[arg(long = "collection", value_name = "NAME")]
    collections: Vec<String>,
    /// Change nothing; say what would be done, and what is in the way.
    #[arg(long, conflicts_with_all = ["verify_only", "resume", "pin"])]
    dry_run: bool,
    /// How both sides are compared at the end: every point, or only how many there are, which does
    /// not find what was changed at the source meanwhile.
    #[arg(long, value_enum, default_value = "full")]
    verify: How,
    /// Change nothing; compare both sides.
    #[arg(long, conflicts_with_all = ["resume", "replace", "pin"])]
    verify_only: bool,
    /// Go on with the run whose state file is there.
    #[arg(long)]
    resume: bool,
    /// Make the target the same even where something else is there: points are written over or
    /// removed, and a collection that is made in another way is removed and made anew.
    #[arg(long)]
    replace: bool,
    /// Then make the target the active backend of that service, for writes too, as `tailhop pin
    /// --writes` does. Writes are held during a last pass before that, so that none is lost: they
    /// get 503.
    #[arg(long)]
    pin: bool,
    /// For how long writes are held at most during the last pass.
    #[arg(long, value_name = "DURATION", default_value = "15m", requires = "pin", value_parser = parse_duration)]
    hold: Duration,
    /// How long all instances may take to see that, and writes on their way to end.
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "pin", value_parser = parse_duration)]
    settle: Duration,
    /// Do not wait until a running instance confirms the pin.
    #[arg(long, requires = "pin")]
    no_wait: bool,
    /// The service, where the configuration has several of kind `qdrant`.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// The variable that holds the source's API key.
    #[arg(long, value_name = "VARIABLE")]
    from_api_key_env: Option<String>,
    /// The variable that holds the target's API key.
    #[arg(long, value_name = "VARIABLE")]
    to_api_key_env: Option<String>,
    /// Where is written down how far it is.
    #[arg(long, value_name = "FILE", default_value = STATE)]
    state: PathBuf,
    /// Ranges of points that are copied at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// For how long a side that does not answer is asked again, such as 10m.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    patience: Duration,
    #[command(flatten)]
    config: ConfigArg,
    /// Print what came of it as JSON.
    #[arg(long)]
    json: bool,
}

/// How both sides are compared.
#[derive(Clone, Copy, ValueEnum)]
enum How {
    Full,
    Counts,
}

/// Both sides, before they are asked anything.
struct Sides {
    from: Address,
    to: Address,
    tailnet: TailnetSettings,
    /// The service to pin, where both are backends of it.
    pin: Option<String>,
}

impl Migrate {
    pub(super) fn run(self) -> u8 {
        let sides = match self.sides() {
            Ok(sides) => sides,
            Err((code, why)) => return complain(&why, code),
        };
        let over = match self.handover(&sides) {
            Ok(over) => over,
            Err(code) => return code,
        };
        let record = match self.record(&sides) {
            Ok(record) => Arc::new(record),
            Err(why) => return complain(&why, COULD_NOT_ASK),
        };
        let Some(over) = over else {
            return self.told(self.pass(sides, &record, Pass::Only));
        };
        match self.pass(sides, &record, Pass::First) {
            Ok(report) if report.equal => self.hand_over(&over, &record),
            first => self.told(first),
        }
    }

    /// What must be so for `--pin`.
    fn handover(&self, sides: &Sides) -> Result<Option<Handover>, u8> {
        if !self.pin {
            return Ok(None);
        }
        let Some(service) = sides.pin.clone() else {
            let why = "--pin needs backends as --from and --to: a URL is none of the configuration";
            return Err(complain(why, COULD_NOT_ASK));
        };
        let over = Handover {
            common: Common::of(self.config.clone(), self.no_wait),
            service,
            from: self.from.clone(),
            to: self.to.clone(),
            length: self.hold,
            back: RefCell::default(),
        };
        match over.could() {
            0 => Ok(Some(over)),
            code => Err(code),
        }
    }

    /// The last pass, while writes are held.
    fn hand_over(&self, over: &Handover, record: &Arc<Record>) -> u8 {
        match over.hold() {
            0 => {}
            code => return code,
        }
        let settled = block_on(async {
            sleep(self.settle).await;
            Ok(())
        });
        if let Err(why) = settled {
            over.release();
            return complain(&why, COULD_NOT_ASK);
        }
        let came = match self.sides() {
            Ok(sides) => self.told(
                record
                    .again()
                    .and_then(|()| self.pass(sides, record, Pass::Last)),
            ),
            Err((code, why)) => complain(&why, code),
        };
        if came != 0 {
            over.release();
            return came;
        }
        match over.pin() {
            0 => record
                .remove()
                .map_or_else(|stop| self.told(Err(stop)), |()| 0),
            NO => {
                over.release();
                NO
            }
            code => code,
        }
    }

    fn pass(&self, sides: Sides, record: &Arc<Record>, pass: Pass) -> Result<Report, Stop> {
        let came = block_on(async { Ok(self.migrate(sides, Arc::clone(record), pass).await) });
        came.unwrap_or_else(|error| Err(Stop::Failed(error)))
    }

    fn told(&self, came: Result<Report, Stop>) -> u8 {
        match came {
            Ok(report) => self.tell(&report),
            Err(Stop::Refused(why)) => complain(&why, NO),
            Err(Stop::Differs(why)) if self.replace => complain(&why, NO),
            Err(Stop::Differs(why)) => {
                complain(&(why + "\nhelp: --replace makes the target the same"), NO)
            }
            Err(Stop::Failed(why)) => {
                let begun = matches!(StateFile::at(&self.state).read(), Ok(Some(_)));
                let help = if begun {
                    "\nhelp: --resume goes on where it stopped"
                } else {
                    ""
                };
                complain(&(why + help), COULD_NOT_ASK)
            }
        }
    }

    fn tell(&self, report: &Report) -> u8 {
        for note in &report.notes {
            eprintln!("note: {note}");
        }
        say(&if self.json {
            json(report)
        } else {
            report.show()
        });
        if report.equal { 0 } else { NO }
    }

    /// What the arguments and the configuration say of both sides.
    fn sides(&self) -> Result<Sides, (u8, String)> {
        let usage = |why| (COULD_NOT_ASK, why);
        let snapshot = if is_url(&self.from) && is_url(&self.to) {
            None
        } else {
            let source = read(&self.config.path());
            let loaded = source.and_then(|source| load(&source, &Environment::from_process()));
            Some(loaded.map_err(|report| (NO, render(&report)))?)
        };
        let service = match &snapshot {
            Some(snapshot) => Some(self.service(snapshot).map_err(usage)?),
            None => None,
        };
        let side = |named: &str, variable: Option<&str>| {
            let key = variable.map(key_of).transpose()?;
            match (&snapshot, service) {
                (Some(snapshot), Some(service)) if !is_url(named) => {
                    of_backend(snapshot, service, named, key)
                }
                _ => of_url(named, key),
            }
        };
        let from = side(&self.from, self.from_api_key_env.as_deref()).map_err(usage)?;
        let to = side(&self.to, self.to_api_key_env.as_deref()).map_err(usage)?;
        let same = (&from.place.host, from.place.port, &from.base)
            == (&to.place.host, to.place.port, &to.base);
        if same {
            return Err(usage("--from and --to are the same".to_owned()));
        }
        let pin = service.filter(|_| !is_url(&self.to) && !is_url(&self.from));
        Ok(Sides {
            from,
            to,
            pin: pin.map(|service| service.name.to_string()),
            tailnet: snapshot.map_or_else(without_tailnet, |snapshot| snapshot.tailnet),
        })
    }

    /// The service whose data is moved.
    fn service<'a>(&self, snapshot: &'a Snapshot) -> Result<&'a Service, String> {
        let all = snapshot.services.iter();
        let fits = |service: &&Service| match &self.service {
            Some(name) => service.name.as_str() == name,
            None => service.kind == Kind::Qdrant,
        };
        let found: Vec<_> = all.filter(fits).collect();
        match (found.as_slice(), &self.service) {
            ([service], _) if service.kind == Kind::Qdrant => Ok(service),
            ([service], _) => Err(format!("service {} is not of kind qdrant", service.name)),
            ([], Some(name)) => Err(format!("the configuration has no service {name}")),
            ([], None) => Err("the configuration has no service of kind qdrant".to_owned()),
            (several, _) => {
                let names: Vec<_> = several
                    .iter()
                    .map(|service| service.name.as_str())
                    .collect();
                Err(format!("say which with --service: {}", names.join(", ")))
            }
        }
    }

    /// What was written down by a run before, if this one goes on with it.
    fn record(&self, sides: &Sides) -> Result<Record, String> {
        let file = StateFile::at(&self.state);
        let (from, to) = (&sides.from.name, &sides.to.name);
        if self.verify_only || self.dry_run {
            return Ok(Record::new(file, State::new(from, to)));
        }
        let shown = self.state.display();
        let text = file.read().map_err(|error| format!("{shown}: {error}"))?;
        let state = match (text, self.resume) {
            (None, false) => State::new(from, to),
            (None, true) => {
                return Err(format!("{shown} is not there: no run can be gone on with"));
            }
            (Some(text), true) => State::parse(&text, from, to)
                .map_err(|why| format!("{shown}: {why}; name another file with --state"))?,
            (Some(_), false) => {
                return Err(format!(
                    "{shown} is there, of a run that did not end: --resume goes on with it; remove \
                     it to begin anew"
                ));
            }
        };
        Ok(Record::new(file, state))
    }

    async fn migrate(&self, sides: Sides, record: Arc<Record>, pass: Pass) -> Result<Report, Stop> {
        let progress = Arc::new(Progress::default());
        let needed = !(sides.from.place.direct && sides.to.place.direct)
            && sides.tailnet.dial != DialWay::Direct;
        let tailnet = Arc::new(Tailnet::new(sides.tailnet, Clock::system()));
        let watching = tokio::spawn(Arc::clone(&tailnet).watch());
        if needed {
            up(&tailnet).await?;
        }
        let site = |address| {
            let tailnet = Arc::clone(&tailnet);
            Site::new(address, tailnet, self.patience, Arc::clone(&progress))
                .map(Arc::new)
                .map_err(Stop::Failed)
        };
        let run = Run {
            source: site(sides.from)?,
            target: site(sides.to)?,
            progress: Arc::clone(&progress),
            record,
            wanted: Wanted {
                collections: self.collections.clone(),
                dry_run: self.dry_run,
                verify_only: self.verify_only,
                verify: match self.verify {
                    How::Full => Verify::Full,
                    How::Counts => Verify::Counts,
                },
                replace: self.replace,
                workers: self.workers.into(),
                pass,
            },
        };
        let came = tokio::select! {
            came = run.run() => came,
            never = show(&progress) => match never {},
        };
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        watching.abort();
        came
    }
}

fn complain(why: &str, code: u8) -> u8 {
    eprintln!("error: {}", why.trim_end());
    code
}

fn is_url(named: &str) -> bool {
    named.contains("://")
}

/// The secret in a variable. Its value is never shown.
fn key_of(variable: &str) -> Result<Secret, String> {
    match std::env::var(variable) {
        Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text.trim())),
        _ => Err(format!("the variable {variable} is not set")),
    }
}

/// A backend as traffic of `service` reaches it.
fn of_backend(
    snapshot: &Snapshot,
    service: &Service,
    named: &str,
    key: Option<Secret>,
) -> Result<Address, String> {
    let offering = service.backends.iter().map(|id| snapshot.backend(*id));
    let names: Vec<_> = offering
        .clone()
        .map(|backend| backend.name.as_str())
        .collect();
    let backend = offering
        .into_iter()
        .find(|backend| backend.name.as_str() == named)
        .ok_or_else(|| {
            let offered = names.join(", ");
            format!(
                "{named} does not offer {}: {offered} do, or write a URL",
                service.name
            )
        })?;
    let url = backend.url.as_deref();
    let port = url.map_or(service.port, |url| url.port);
    let mut headers = url.map(|url| url.headers.clone()).unwrap_or_default();
    if let Some(key) = key {
        headers.retain(|(name, _)| name != "api-key");
        headers.push((http::HeaderName::from_static("api-key"), key));
    }
    let host = &backend.host;
    let shown = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_string()
    };
    Ok(Address {
        name: named.to_owned(),
        place: Place {
            host: Arc::clone(host),
            port,
            direct: backend.network == Network::Direct,
            tls: url
                .filter(|url| url.secure)
                .map(|url| Tls::trusting(url.roots.clone())),
        },
        authority: url.map_or_else(|| format!("{shown}:{port}"), |url| url.authority.clone()),
        base: String::new(),
        headers,
    })
}

/// Where both sides are URLs, tailscaled is not asked for anything.
fn without_tailnet() -> TailnetSettings {
    TailnetSettings {
        suffix: None,
        dial: DialWay::Direct,
        socket: PathBuf::new(),
        proxy: ([127, 0, 0, 1], 0).into(),
        repair: false,
    }
}

async fn up(tailnet: &Tailnet) -> Result<(), Stop> {
    let mut changes = tailnet.changes();
    let up = changes.wait_for(|state| *state == Tunnel::Up);
    if timeout(TUNNEL, up).await.is_ok() {
        return Ok(());
    }
    let detail = tailnet.view().detail.clone();
    Err(Stop::Failed(format!("the tailnet is not up: {detail}")))
}

/// Shows how far it is until it is dropped.
async fn show(progress: &Progress) -> std::convert::Infallible {
    let terminal = std::io::stderr().is_terminal();
    loop {
        sleep(if terminal { REDRAW } else { LINE }).await;
        let Some(line) = progress.line() else {
            continue;
        };
        let mut out = std::io::stderr().lock();
        // Who closed it does not want to see it.
        let _ = if terminal {
            write!(out, "\r{line}\x1b[K").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }
}
