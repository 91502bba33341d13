//! The real app, both halves of it on the test's runtime, before two scripted machines.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use prometheus_parse::{Scrape, Value as Sample};
use serde_json::Value;
use tailhop::app::App as Product;
use tailhop::config::Environment;
use tailhop::reload::Inputs;
use tailhop::reload::watch::Mode;
use tailhop::request::record::{AccessLog, Line};
use tailhop::words::clock::Clock;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{Answer, Client};
use super::tailscaled::Tailscaled;
use super::time::{Held, soon, until};
use super::upstream::Upstream;

/// How the admin address is named where it is asked for.
pub(crate) const LOCAL: (&str, &str) = ("host", "127.0.0.1:9484");

/// Both services on both machines, reached directly.
pub(crate) struct Macs {
    pub(crate) ollama: [Upstream; 2],
    pub(crate) qdrant: [Upstream; 2],
}

/// The app.
pub(crate) struct App {
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    ports: Vec<(&'static str, SocketAddr)>,
    grpc: Option<SocketAddr>,
    dir: TempDir,
    lines: Mutex<Receiver<Line>>,
    draining: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
    control: JoinHandle<std::io::Result<()>>,
}

/// What a test needs: time, machines, app, in the order in which they must go.
pub(crate) struct Stage {
    pub(crate) app: App,
    pub(crate) macs: Macs,
    pub(crate) time: Held,
}

impl Macs {
    pub(crate) async fn start() -> Self {
        Self {
            ollama: Upstream::pair().await,
            qdrant: Upstream::pair().await,
        }
    }

    /// The configuration that leads to them; `more` is put under the top level, before the tables.
    pub(crate) fn toml(&self, more: &str) -> String {
        let port = |pair: &[Upstream; 2]| pair[0].place().port();
        let (ollama, qdrant) = (port(&self.ollama), port(&self.qdrant));
        format!(
            "{more}\n\
             listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
             tailnet.dial = \"direct\"\n\
             backends.m1.host = \"127.0.0.2\"\n\
             backends.m2.host = \"127.0.0.3\"\n\
             services.ollama.port = {ollama}\n\
             services.qdrant.port = {qdrant}\n"
        )
    }

    /// Both services of a machine end.
    pub(crate) async fn all_refuse(&mut self, machine: usize) {
        self.ollama[machine].die().await;
        self.qdrant[machine].die().await;
    }
}

/// The configuration of two machines behind `fake`, for which `port` of each stands for both
/// services.
pub(crate) fn behind(fake: &Tailscaled, more: &str) -> String {
    let socket = fake.socket();
    format!(
        "{more}\n\
         listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         tailnet.dial = \"localapi\"\n\
         tailnet.socket = \"{}\"\n\
         backends.m1 = {{}}\n\
         backends.m2 = {{}}\n\
         services.ollama = {{}}\n\
         services.qdrant.kind = \"qdrant\"\n",
        socket.display()
    )
}

/// The usual stage: held time, m1 active by default, both machines probed and well. `more` as in
/// [`Macs::toml`].
pub(crate) async fn stage(more: &str) -> Stage {
    stage_with(more, &[]).await
}

/// The same, with an environment.
pub(crate) async fn stage_with(more: &str, environment: &[(&str, &str)]) -> Stage {
    let time = Held::hold();
    let macs = Macs::start().await;
    let toml = macs.toml(&format!("schedule.default = \"m1\"\n{more}"));
    let app = App::start_with(&toml, environment, Clock::system()).await;
    for (service, pair) in [("ollama", &macs.ollama), ("qdrant", &macs.qdrant)] {
        for (backend, upstream) in ["m1", "m2"].iter().zip(pair) {
            app.judged(service, backend, "up").await;
            upstream.all_closed().await;
        }
    }
    Stage { app, macs, time }
}

impl App {
    pub(crate) async fn start(toml: &str) -> Self {
        Self::start_with(toml, &[], Clock::system()).await
    }

    pub(crate) async fn start_with(toml: &str, environment: &[(&str, &str)], clock: Clock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("routing.toml"), toml).unwrap();
        let environment = Environment::from_pairs(environment.iter().copied());
        Self::launch(dir, None, environment, clock).await
    }

    /// One whose file is broken, and which has a copy to stand in for it.
    pub(crate) async fn start_on_stand_in(
        broken: &str,
        copy: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("routing.toml"), broken).unwrap();
        let stand_in = dir.path().join("baked-in.toml");
        std::fs::write(&stand_in, copy).unwrap();
        let environment = Environment::from_pairs(environment.iter().copied());
        Self::launch(dir, Some(stand_in), environment, Clock::system()).await
    }

    async fn launch(
        dir: TempDir,
        stand_in: Option<PathBuf>,
        environment: Environment,
        clock: Clock,
    ) -> Self {
        let inputs = Inputs {
            truth: dir.path().join("routing.toml"),
            stand_in,
            environment,
            mode: Mode::Auto,
        };
        let product = match Product::build(inputs, clock, "instance-1".to_owned()).await {
            Ok(product) => product,
            Err(error) => panic!("{error:?}"),
        };
        let (data, admin) = (
            product.data_address().unwrap(),
            product.admin_address().unwrap(),
        );
        let own = |service| Some((service, product.service_address(service)?));
        let ports = ["ollama", "qdrant"].into_iter().filter_map(own).collect();
        let grpc = product.grpc_address("qdrant");
        let (log, lines) = AccessLog::channel(product.metrics());
        let (serve, control, draining) = product.split(log);
        Self {
            data,
            admin,
            ports,
            grpc,
            dir,
            lines: Mutex::new(lines),
            draining,
            serving: tokio::spawn(serve.serve()),
            control: tokio::spawn(control.run()),
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.data).await
    }

    /// The address of a service's own.
    pub(crate) fn port(&self, service: &str) -> SocketAddr {
        let own = self.ports.iter().find(|(name, _)| *name == service);
        own.unwrap().1
    }

    /// The address for qdrant's gRPC.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.grpc.unwrap()
    }

    /// Asks on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, target: &str, body: &[u8]) -> Answer {
        self.client().await.ask(method, target, &[], body).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, b"").await
    }

    /// Asks the admin listener.
    pub(crate) async fn admin(&self, method: &str, target: &str) -> Answer {
        let mut client = Client::connect(self.admin).await;
        client.ask(method, target, &[LOCAL], b"").await
    }

    /// Gives an order, as somebody with this token would.
    pub(crate) async fn order(&self, target: &str, token: &str, body: &str) -> Answer {
        let mut client = Client::connect(self.admin).await;
        let bearer = format!("Bearer {token}");
        let headers = [
            LOCAL,
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        client.ask("POST", target, &headers, body.as_bytes()).await
    }

    pub(crate) async fn status(&self) -> Value {
        self.admin("GET", "/status").await.json()
    }

    /// What `/metrics` says, by a parser that is not ours.
    pub(crate) async fn metrics(&self) -> Metrics {
        let answer = self.admin("GET", "/metrics").await;
        let lines = answer.text().lines().map(|line| Ok(line.to_owned()));
        Metrics(Scrape::parse(lines).unwrap())
    }

    /// The verdict on a service of a machine.
    pub(crate) async fn verdict(&self, service: &str, backend: &str) -> String {
        let labels = [("service", service), ("backend", backend)];
        let metrics = self.metrics().await;
        let held = metrics.samples("tailhop_backend_state", &labels);
        let held = held.iter().find(|(_, value)| *value > 0.5);
        held.map_or(String::new(), |(labels, _)| labels["state"].clone())
    }

    /// Waits until a verdict holds.
    pub(crate) async fn judged(&self, service: &str, backend: &str, verdict: &str) {
        soon(async {
            while self.verdict(service, backend).await != verdict {
                super::time::really(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// The next access line.
    pub(crate) async fn line(&self) -> Line {
        let mut next = None;
        until("an access line", || {
            next = next
                .take()
                .or_else(|| self.lines.lock().unwrap().try_recv().ok());
            next.is_some()
        })
        .await;
        next.unwrap()
    }

    /// The next `n` access lines, and any that came with them.
    pub(crate) async fn lines_after(&self, n: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        while lines.len() < n {
            lines.push(self.line().await);
        }
        lines.extend(self.lines());
        lines
    }

    /// The access lines so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().try_iter().collect()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("routing.toml")
    }

    /// Changes the file, written anew and renamed over it.
    pub(crate) fn edit(&self, change: impl FnOnce(String) -> String) {
        let text = change(std::fs::read_to_string(self.file()).unwrap());
        let beside = self.dir.path().join("routing.toml.new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.file()).unwrap();
    }

    /// Changes the file in place.
    pub(crate) fn edit_in_place(&self, change: impl FnOnce(String) -> String) {
        let text = change(std::fs::read_to_string(self.file()).unwrap());
        std::fs::write(self.file(), text).unwrap();
    }

    /// No new request begins from now on.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Ends it. Requests that run would end first; there must be none.
    pub(crate) async fn stop(self) {
        self.drain();
        soon(self.serving).await.unwrap().unwrap();
        self.control.abort();
        drop(soon(self.control).await);
    }
}

impl Stage {
    /// Ends the app and proves that nothing of it is left: no connection to a machine, no task.
    pub(crate) async fn ends_clean(self) {
        let Self { app, macs, time } = self;
        app.stop().await;
        for upstream in macs.ollama.iter().chain(&macs.qdrant) {
            upstream.all_closed().await;
        }
        // Two listeners a service, and the blocking task that holds the clock.
        let expected = 4 + 1;
        until("its tasks end", || {
            Handle::current().metrics().num_alive_tasks() <= expected
        })
        .await;
        drop((macs, time));
    }
}

/// A scrape.
pub(crate) struct Metrics(Scrape);

type Labels = std::collections::BTreeMap<String, String>;

impl Metrics {
    /// The samples of a family that have these labels.
    pub(crate) fn samples(&self, family: &str, labels: &[(&str, &str)]) -> Vec<(Labels, f64)> {
        let has = |sample: &&prometheus_parse::Sample| {
            sample.metric == family
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(key) == Some(value))
        };
        (self.0.samples.iter().filter(has))
            .map(|sample| {
                let labels = sample.labels.iter();
                let labels = labels
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                (labels, number(&sample.value))
            })
            .collect()
    }

    /// The sum of the samples of a family that have these labels. All are whole numbers.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of a test are small and never negative"
    )]
    pub(crate) fn sum(&self, family: &str, labels: &[(&str, &str)]) -> usize {
        let samples = self.samples(family, labels);
        samples
            .iter()
            .map(|(_, value)| value.round() as usize)
            .sum()
    }

    /// How many series there are.
    pub(crate) fn series(&self) -> usize {
        self.0.samples.len()
    }
}

fn number(value: &Sample) -> f64 {
    match value {
        Sample::Counter(value) | Sample::Gauge(value) | Sample::Untyped(value) => *value,
        Sample::Histogram(buckets) => buckets.last().map_or(0.0, |last| last.count),
        Sample::Summary(_) => panic!("there is no summary"),
    }
}
