//! A tailscaled for tests: LocalAPI on a unix socket, SOCKS5 and HTTP proxy on one port.
//!
//! Texts, codes and timings are those of tailscaled v1.102.3. It runs on the test's runtime and is
//! scripted by fault. As the real one, its proxies dial what is outside the tailnet from the host;
//! unlike the real one, only loopback addresses, so that no test can leave the machine.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tailhop::config::snapshot::{DialWay, Tailnet};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// The suffix of the tailnet.
pub(crate) const SUFFIX: &str = "tail1234.ts.net";

/// tailscaled's fixed limit of a SOCKS5 dial.
const SOCKS_LIMIT: Duration = Duration::from_secs(5);

/// How long a dial that was stuck in a broken tunnel stays so after its repair.
const STUCK: Duration = Duration::from_secs(3);
/// A ping of so many bytes is too large for what a direct path is known to carry.
const OVERSIZED: u32 = 1400;

/// What the proxy port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// Both, told apart by the first byte.
    Both,
    /// HTTP alone.
    Http,
    /// SOCKS5 alone.
    Socks,
    /// It accepts and says nothing, as during tailscaled's boot.
    Nothing,
}

/// The fake. Dropping it ends everything it runs.
pub(crate) struct Tailscaled {
    dir: TempDir,
    proxy: SocketAddr,
    /// Bound and not listening: keeps the port ours while nobody listens on it.
    _reserved: TcpSocket,
    net: Arc<Net>,
    running: JoinSet<()>,
}

/// What its tasks share.
struct Net {
    script: Mutex<Script>,
    open: watch::Sender<usize>,
    killed: watch::Sender<bool>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fault by itself")]
struct Script {
    backend_state: String,
    own: Ipv4Addr,
    machines: BTreeMap<String, Machine>,
    outside: HashMap<String, IpAddr>,
    proxy: Proxy,
    status_hangs: bool,
    status_takes: Duration,
    statuses: usize,
    pings_hang: bool,
    complaints: Vec<String>,
    shields_up: bool,
    /// How often it still fails to go up.
    ups_failing: usize,
    /// Whether it has a network interface.
    tun: bool,
    /// Who is behind connections that it makes, as it answers it; none: hangs.
    forwards: HashMap<SocketAddr, Option<String>>,
    whois_hangs: bool,
    whois_asked: usize,
    debug: Debug,
    relay_alive: bool,
    dialled: Vec<String>,
    pinged: Vec<(String, Instant)>,
    repaired: Vec<(String, Instant)>,
    left_by_host: Vec<SocketAddr>,
}

/// What LocalAPI's `debug` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Debug {
    Works,
    /// 403: neither root nor tailscaled's own user.
    Forbidden,
    /// 501: built without it.
    Absent,
    /// tailscaled dies of it.
    Kills,
}

#[derive(Clone)]
struct Machine {
    ip: Ipv4Addr,
    ports: HashMap<u16, SocketAddr>,
    greeting: Vec<u8>,
    stopped: bool,
    /// What a dial of it takes.
    far: Duration,
    path: Path,
    /// Whether there is a session with it.
    session: bool,
    /// Whether bytes pass between it and us now.
    awake: watch::Sender<bool>,
}

/// The way of the bytes to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Relay,
    Direct,
    /// It was direct, is lost, and tailscaled still trusts it.
    Lost,
    /// The same, and so does the machine's own end, which no repair here changes.
    LostThere,
}

impl Tailscaled {
    /// A running one, logged in, in a tailnet without other machines.
    pub(crate) async fn start() -> Self {
        let mut fake = Self::absent();
        fake.begin().await;
        fake
    }

    /// One that was not started yet: no socket file, nobody on the proxy port.
    pub(crate) fn absent() -> Self {
        let reserved = TcpSocket::new_v4().unwrap();
        reserved.set_reuseaddr(true).unwrap();
        reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let script = Script {
            backend_state: "Running".into(),
            own: Ipv4Addr::new(100, 64, 0, 3),
            machines: BTreeMap::new(),
            outside: HashMap::from([("localhost".into(), Ipv4Addr::LOCALHOST.into())]),
            proxy: Proxy::Both,
            status_hangs: false,
            status_takes: Duration::ZERO,
            statuses: 0,
            pings_hang: false,
            complaints: Vec::new(),
            shields_up: true,
            ups_failing: 0,
            tun: false,
            forwards: HashMap::new(),
            whois_hangs: false,
            whois_asked: 0,
            debug: Debug::Works,
            relay_alive: true,
            dialled: Vec::new(),
            pinged: Vec::new(),
            repaired: Vec::new(),
            left_by_host: Vec::new(),
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            proxy: reserved.local_addr().unwrap(),
            _reserved: reserved,
            net: Arc::new(Net {
                script: Mutex::new(script),
                open: watch::Sender::new(0),
                killed: watch::Sender::new(false),
            }),
            running: JoinSet::new(),
        }
    }

    /// Starts it, also after [`Self::stop`]: same socket path, same port.
    pub(crate) async fn begin(&mut self) {
        drop(std::fs::remove_file(self.socket()));
        self.net.killed.send_replace(false);
        let api = UnixListener::bind(self.socket()).unwrap();
        let proxy = TcpListener::bind(self.proxy).await.unwrap();
        self.running
            .spawn(serve_localapi(api, Arc::clone(&self.net)));
        self.running
            .spawn(serve_proxy(proxy, Arc::clone(&self.net)));
    }

    /// Ends it as a kill does: connections break, the socket file stays and is dead.
    pub(crate) async fn stop(&mut self) {
        self.running.shutdown().await;
    }

    /// Ends it and starts it again with another address and key, as `--state=mem:` does.
    pub(crate) async fn restart_elsewhere(&mut self) {
        self.stop().await;
        self.script().own = Ipv4Addr::new(100, 64, 0, 77);
        self.begin().await;
    }

    /// Takes the LocalAPI socket away and leaves the proxy, as where the socket is not mounted.
    pub(crate) fn hide_socket(&self) {
        std::fs::remove_file(self.socket()).unwrap();
    }

    /// The settings that lead here, without a configured suffix.
    pub(crate) fn settings(&self, dial: DialWay) -> Tailnet {
        Tailnet {
            suffix: None,
            dial,
            socket: self.socket(),
            proxy: self.proxy,
            repair: true,
        }
    }

    /// Adds the machine `name` to the tailnet, or its port `port`, which `to` stands for. Ports
    /// that were not added are closed.
    pub(crate) fn serve(&self, name: &str, port: u16, to: SocketAddr) {
        self.machine(name, |machine| {
            machine.ports.insert(port, to);
        });
    }

    /// Adds the machine `name` without an open port, or closes them all.
    pub(crate) fn refuse(&self, name: &str) {
        self.machine(name, |machine| machine.ports.clear());
    }

    /// Stops the machine `name`, as SIGSTOP of its tailscaled: nothing comes from it any more, on
    /// dials and on open connections.
    pub(crate) fn silence(&self, name: &str) {
        self.fault(|script| script.named(name).stopped = true);
    }

    /// Lets it go on.
    pub(crate) fn wake(&self, name: &str) {
        self.fault(|script| script.named(name).stopped = false);
    }

    /// Dials of the machine `name` take so long from now on.
    pub(crate) fn far(&self, name: &str, dial: Duration) {
        self.script().named(name).far = dial;
    }

    /// Reaches the machine `name` by a direct path from now on, as `status` says too.
    pub(crate) fn direct(&self, name: &str) {
        self.fault(|script| script.named(name).path = Path::Direct);
    }

    /// Loses the direct path to the machine `name`: nothing passes until `rebind`.
    pub(crate) fn path_lost(&self, name: &str) {
        self.fault(|script| script.named(name).path = Path::Lost);
    }

    /// The same, but the machine was sending and trusts the dead path too: nothing passes until
    /// [`Self::path_found`].
    pub(crate) fn path_lost_there(&self, name: &str) {
        self.fault(|script| script.named(name).path = Path::LostThere);
    }

    /// The machine's own end gave its direct path up: all goes by relay.
    pub(crate) fn path_found(&self, name: &str) {
        self.fault(|script| script.named(name).path = Path::Relay);
    }

    /// The relay connection is dead and nobody knows: nothing passes to machines without a direct
    /// path until `break-derp-conns`.
    pub(crate) fn relay_dead(&self) {
        self.fault(|script| script.relay_alive = false);
    }

    /// The relay works again by itself.
    pub(crate) fn relay_back(&self) {
        self.fault(|script| script.relay_alive = true);
    }

    /// All sessions ended in a freeze, and the first attempt at new ones failed: machines answer
    /// pings, and nothing else passes until `down` and `up`.
    pub(crate) fn sessions_over(&self) {
        self.sessions(false);
    }

    /// The next attempt succeeded.
    pub(crate) fn sessions_back(&self) {
        self.sessions(true);
    }

    fn sessions(&self, there: bool) {
        self.fault(|script| {
            for machine in script.machines.values_mut() {
                machine.session = there;
            }
        });
    }

    /// It fails to go up so often before it does.
    pub(crate) fn fail_ups(&self, times: usize) {
        self.script().ups_failing = times;
    }

    /// It has a network interface, which the whole machine uses.
    pub(crate) fn has_interface(&self) {
        self.script().tun = true;
    }

    /// `debug` and a change of preferences are refused: 403.
    pub(crate) fn forbid_debug(&self) {
        self.script().debug = Debug::Forbidden;
    }

    /// `debug` is not built in: 501.
    pub(crate) fn no_debug(&self) {
        self.script().debug = Debug::Absent;
    }

    /// The next `debug` kills it.
    pub(crate) fn die_in_repair(&self) {
        self.script().debug = Debug::Kills;
    }

    /// Pings are accepted and never answered, not even with an error.
    pub(crate) fn hang_ping(&self) {
        self.script().pings_hang = true;
    }

    /// How long `status` takes.
    pub(crate) fn slow_status(&self, takes: Duration) {
        self.script().status_takes = takes;
    }

    /// The machines it was asked to ping, and when.
    pub(crate) fn pinged(&self) -> Vec<(String, Instant)> {
        self.script().pinged.clone()
    }

    /// The debug actions and `down` and `up` it was asked for, refused ones too.
    pub(crate) fn repairs(&self) -> Vec<String> {
        let script = self.script();
        script.repaired.iter().map(|(act, _)| act.clone()).collect()
    }

    /// When they were asked for.
    pub(crate) fn repair_times(&self) -> Vec<Instant> {
        self.script().repaired.iter().map(|(_, at)| *at).collect()
    }

    /// Whether it lets nothing in.
    pub(crate) fn shields_up(&self, up: bool) {
        self.script().shields_up = up;
    }

    /// A connection from `source` is one that it made for somebody: what `whois` says of them.
    pub(crate) fn forwards(&self, source: SocketAddr, who: &Value) {
        let who = Some(who.to_string());
        self.script().forwards.insert(source, who);
    }

    /// Whether `whois` is accepted and never answered.
    pub(crate) fn hang_whois(&self, hangs: bool) {
        self.script().whois_hangs = hangs;
    }

    /// How often `whois` was asked.
    pub(crate) fn whois_asked(&self) -> usize {
        self.script().whois_asked
    }

    /// Takes it out of the tailnet: the name becomes unknown.
    pub(crate) fn unknown(&self, name: &str) {
        self.script().machines.remove(name);
    }

    /// Sends these bytes in the very write that answers a dial of this machine.
    pub(crate) fn greet(&self, name: &str, bytes: &[u8]) {
        self.machine(name, |machine| machine.greeting = bytes.to_vec());
    }

    /// Lets the system's resolver know a name that is not in the tailnet.
    pub(crate) fn outside(&self, name: &str, ip: IpAddr) {
        self.script().outside.insert(name.into(), ip);
    }

    /// Sets `BackendState`.
    pub(crate) fn backend_state(&self, state: &str) {
        self.script().backend_state = state.into();
    }

    /// Whether `status` is accepted and never answered.
    pub(crate) fn hang_status(&self, hangs: bool) {
        self.script().status_hangs = hangs;
    }

    /// What it says of its own health from now on.
    pub(crate) fn complain(&self, of: &[&str]) {
        self.script().complaints = of.iter().map(|text| (*text).to_owned()).collect();
    }

    /// Sets what the proxy port speaks from the next connection on.
    pub(crate) fn proxy_speaks(&self, proxy: Proxy) {
        self.script().proxy = proxy;
    }

    /// How often `status` was asked.
    pub(crate) fn statuses(&self) -> usize {
        self.script().statuses
    }

    /// What it was asked to dial, as `way host:port`, in order.
    pub(crate) fn dialled(&self) -> Vec<String> {
        self.script().dialled.clone()
    }

    /// What the proxies dialled, or would have dialled, outside the tailnet.
    pub(crate) fn left_by_host(&self) -> Vec<SocketAddr> {
        self.script().left_by_host.clone()
    }

    /// How many connections are open on which a dial was asked for.
    pub(crate) fn open(&self) -> watch::Receiver<usize> {
        self.net.open.subscribe()
    }

    /// Its LocalAPI socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("tailscaled.sock")
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.net.script.lock().unwrap()
    }

    fn machine(&self, name: &str, change: impl FnOnce(&mut Machine)) {
        change(self.script().named(name));
    }

    fn fault(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.script();
        change(&mut script);
        script.settle();
    }
}

impl Script {
    fn named(&mut self, name: &str) -> &mut Machine {
        let number = u8::try_from(self.machines.len() + 11).unwrap();
        self.machines.entry(name.into()).or_insert_with(|| Machine {
            ip: Ipv4Addr::new(100, 64, 0, number),
            ports: HashMap::new(),
            greeting: Vec::new(),
            stopped: false,
            far: Duration::ZERO,
            path: Path::Relay,
            session: true,
            awake: watch::Sender::new(true),
        })
    }

    /// Tells everything on its way to a machine whether it passes.
    fn settle(&self) {
        for machine in self.machines.values() {
            let by_relay = machine.path == Path::Relay;
            let lost = matches!(machine.path, Path::Lost | Path::LostThere);
            let way = !lost && (self.relay_alive || !by_relay);
            machine.awake.send_if_modified(|awake| {
                let passes = way && machine.session && !machine.stopped;
                std::mem::replace(awake, passes) != passes
            });
        }
    }

    fn repair(&mut self, action: &str) {
        match action {
            "rebind" => {
                for machine in self.machines.values_mut() {
                    // It finds its way over the relay first.
                    if machine.path != Path::LostThere {
                        machine.path = Path::Relay;
                    }
                }
            }
            "break-derp-conns" => self.relay_alive = true,
            _ => {}
        }
        self.settle();
    }
}

// LocalAPI.

async fn serve_localapi(listener: UnixListener, net: Arc<Net>) {
    let mut connections = JoinSet::new();
    loop {
        let Some((io, _)) = net.alive(listener.accept()).await else {
            return;
        };
        let net = Arc::clone(&net);
        connections.spawn(async move { drop(localapi(BufReader::new(io), &net).await) });
    }
}

async fn localapi(mut io: impl Io, net: &Net) -> std::io::Result<()> {
    while let Some(request) = Request::read(&mut io, Vec::new()).await? {
        let host = request.header("host").unwrap_or_default();
        let strange = request
            .header("origin")
            .or(request.header("referer"))
            .is_some();
        if strange || !["local-tailscaled.sock", ""].contains(&host) {
            io.write_all(&answer("403 Forbidden", "", "invalid localapi request\n"))
                .await?;
            continue;
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/localapi/v0/status") => {
                let (hangs, takes, status) = net.status();
                if hangs {
                    hung_up(&mut io).await;
                    return Ok(());
                }
                sleep(takes).await;
                let head = "Content-Type: application/json\r\n";
                io.write_all(&answer("200 OK", head, &status.to_string()))
                    .await?;
            }
            ("POST", "/localapi/v0/dial") => return net.localapi_dial(io, &request).await,
            ("POST", path) if path.starts_with("/localapi/v0/ping?") => {
                tokio::select! {
                    pong = net.ping(&request) => io.write_all(&pong).await?,
                    () = hung_up(&mut io) => return Ok(()),
                }
            }
            ("POST", path) if path.starts_with("/localapi/v0/debug?") => {
                io.write_all(&net.debug(&request)).await?;
            }
            ("GET", path) if path.starts_with("/localapi/v0/whois?") => {
                let Some(who) = net.whois(path) else {
                    hung_up(&mut io).await;
                    return Ok(());
                };
                io.write_all(&who).await?;
            }
            ("PATCH", "/localapi/v0/prefs") => {
                io.write_all(&net.edit_prefs(&request)).await?;
            }
            ("GET", "/localapi/v0/prefs") => {
                let prefs = format!(
                    "{{\"ShieldsUp\":{}}}",
                    net.script.lock().unwrap().shields_up
                );
                let head = "Content-Type: application/json\r\n";
                io.write_all(&answer("200 OK", head, &prefs)).await?;
            }
            _ => {
                let text = "404 page not found\n";
                io.write_all(&answer("404 Not Found", "", text)).await?;
            }
        }
    }
    Ok(())
}

impl Net {
    /// Who is behind the connection; `None`: no answer.
    fn whois(&self, path: &str) -> Option<Vec<u8>> {
        let mut script = self.script.lock().unwrap();
        script.whois_asked += 1;
        if script.whois_hangs {
            return None;
        }
        let source = path.split("addr=").nth(1).unwrap_or_default();
        assert!(path.contains("proto=tcp"), "a miss without it costs twice");
        let known = source.parse().ok();
        let who = known.and_then(|source| script.forwards.get(&source).cloned());
        Some(match who.flatten() {
            Some(who) => answer("200 OK", "Content-Type: application/json\r\n", &who),
            None => answer("404 Not Found", "", "no match for IP:port\n"),
        })
    }

    /// What `accepting` brings, until it is killed.
    async fn alive<T>(&self, accepting: impl Future<Output = std::io::Result<T>>) -> Option<T> {
        let mut killed = self.killed.subscribe();
        tokio::select! {
            accepted = accepting => Some(accepted.unwrap()),
            _ = killed.wait_for(|killed| *killed) => None,
        }
    }

    /// `POST ping`: answers when its peer does, in the shape of `ipnstate.PingResult`.
    async fn ping(&self, request: &Request) -> Vec<u8> {
        let query = |key| request.query(key).unwrap_or_default();
        let (ip, size) = (query("ip"), query("size").parse().unwrap_or(0));
        assert_eq!(
            query("type"),
            "disco",
            "only that asks the machine's own end"
        );
        let found = {
            let mut script = self.script.lock().unwrap();
            let mut all = script.machines.iter();
            let found = all.find(|(_, machine)| machine.ip.to_string() == ip);
            let found = found.map(|(name, _)| name.clone());
            let at = (found.clone().unwrap_or_default(), Instant::now());
            script.pinged.push(at);
            found
        };
        let Some(name) = found else {
            return pong(&json!({ "IP": ip, "Err": "no matching peer" }));
        };
        loop {
            if let Some(answer) = self.script.lock().unwrap().pong(&name, size) {
                return pong(&answer);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// `PATCH prefs` of `WantRunning`.
    fn edit_prefs(&self, request: &Request) -> Vec<u8> {
        let prefs: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(prefs["WantRunningSet"], true, "{prefs}");
        let up = prefs["WantRunning"].as_bool().unwrap();
        let mut script = self.script.lock().unwrap();
        let now = Instant::now();
        let action = if up { "up" } else { "down" };
        script.repaired.push((action.into(), now));
        if script.debug == Debug::Forbidden {
            return answer("403 Forbidden", "", "prefs write access denied\n");
        }
        if up && script.ups_failing > 0 {
            script.ups_failing -= 1;
            return answer("500 Internal Server Error", "", "not now\n");
        }
        if up && script.backend_state == "Stopped" {
            for machine in script.machines.values_mut() {
                machine.session = true;
            }
        }
        script.backend_state = if up { "Running" } else { "Stopped" }.into();
        script.settle();
        answer("200 OK", "Content-Type: application/json\r\n", "{}")
    }

    /// `POST debug`.
    fn debug(&self, request: &Request) -> Vec<u8> {
        let action = request.query("action").unwrap_or_default();
        let mut script = self.script.lock().unwrap();
        script.repaired.push((action.to_owned(), Instant::now()));
        match script.debug {
            Debug::Works => {
                script.repair(action);
                answer("200 OK", "", "done\n")
            }
            Debug::Forbidden => answer("403 Forbidden", "", "debug access denied\n"),
            Debug::Absent => answer("501 Not Implemented", "", "not built in\n"),
            Debug::Kills => {
                script.debug = Debug::Works;
                self.killed.send_replace(true);
                Vec::new()
            }
        }
    }

    async fn localapi_dial(&self, mut io: impl Io, request: &Request) -> std::io::Result<()> {
        let _open = Open::begin(&self.open);
        let upgrade = request.header("upgrade") == Some("ts-dial")
            && request.header("connection") == Some("upgrade")
            && request.header("dial-network") == Some("tcp");
        let host = request.header("dial-host").unwrap_or_default();
        let port = request
            .header("dial-port")
            .and_then(|port| port.parse().ok());
        let Some(port) = port.filter(|_| upgrade) else {
            return io
                .write_all(&answer("400 Bad Request", "", "bad ts-dial upgrade\n"))
                .await;
        };
        self.asked("localapi", host, port);
        let reached = match self.resolve(host) {
            Err(text) => {
                let text = format!("resolve failure: {text}\n");
                return io.write_all(&answer("502 Bad Gateway", "", &text)).await;
            }
            Ok(Place::Outside(ip)) => {
                let head = format!(
                    "Dial-Self: true\r\nDial-Addr: {}\r\n",
                    SocketAddr::new(ip, port)
                );
                return io.write_all(&answer("200 OK", &head, "")).await;
            }
            Ok(Place::Machine(machine)) => tokio::select! {
                reached = machine.reach(port) => reached,
                () = hung_up(&mut io) => return Ok(()),
            },
        };
        match reached {
            Ok(link) => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                    Tailscale-Cap: 142\r\nTailscale-Version: 1.102.3\r\nUpgrade: ts-dial\r\n\r\n";
                link.carry(io, head.as_bytes()).await
            }
            Err(text) => {
                let text = format!("dial failure: {text}\n");
                io.write_all(&answer("502 Bad Gateway", "", &text)).await
            }
        }
    }

    /// `ipnstate.Status` in the shape that tailscaled writes it.
    fn status(&self) -> (bool, Duration, Value) {
        let mut script = self.script.lock().unwrap();
        script.statuses += 1;
        let running = script.backend_state == "Running";
        let own = running.then_some(script.own);
        let peers: BTreeMap<String, Value> = script
            .machines
            .iter()
            .map(|(name, machine)| {
                let mut peer = node(name, Some(machine.ip));
                if machine.path != Path::Relay {
                    peer["CurAddr"] = DIRECT.into();
                }
                (format!("nodekey:{name}"), peer)
            })
            .collect();
        let suffix = if running { SUFFIX } else { "" };
        let status = json!({
            "Version": "1.102.3-tfake",
            "TUN": script.tun,
            "BackendState": script.backend_state,
            "HaveNodeKey": running,
            "AuthURL": "",
            "TailscaleIPs": own.map(|ip| [ip]),
            "Self": node("run", own),
            "Health": script.complaints,
            "MagicDNSSuffix": suffix,
            "CurrentTailnet": running.then(|| json!({
                "Name": "user@example.com", "MagicDNSSuffix": suffix, "MagicDNSEnabled": true,
            })),
            "CertDomains": null,
            "Peer": running.then_some(peers),
            "User": null,
            "ClientVersion": null,
        });
        (script.status_hangs, script.status_takes, status)
    }
}

/// The direct path of whatever machine has one.
const DIRECT: &str = "203.0.113.7:41641";

impl Script {
    /// What a ping of `size` bytes brings now, if anything.
    fn pong(&self, name: &str, size: u32) -> Option<Value> {
        let machine = &self.machines[name];
        let relayed = self.relay_alive && (size >= OVERSIZED || machine.path == Path::Relay);
        if machine.stopped || self.pings_hang {
            return None;
        }
        let (endpoint, region, code) = match machine.path {
            Path::Direct => (DIRECT, 0, ""),
            _ if relayed => ("", 900, "tok"),
            _ => return None,
        };
        Some(json!({
            "IP": machine.ip, "NodeIP": machine.ip, "NodeName": name, "Err": "",
            "LatencySeconds": 0.003, "Endpoint": endpoint, "PeerRelay": "",
            "DERPRegionID": region, "DERPRegionCode": code,
        }))
    }
}

fn pong(result: &Value) -> Vec<u8> {
    let head = "Content-Type: application/json\r\n";
    answer("200 OK", head, &result.to_string())
}

fn node(name: &str, ip: Option<Ipv4Addr>) -> Value {
    json!({
        "ID": format!("n{name}"),
        "PublicKey": format!("nodekey:{name}"),
        "HostName": name,
        "DNSName": ip.map_or(String::new(), |_| format!("{name}.{SUFFIX}.")),
        "OS": "macOS",
        "UserID": 1,
        "TailscaleIPs": ip.map(|ip| [ip]),
        "AllowedIPs": ip.map(|ip| [format!("{ip}/32")]),
        "Addrs": null,
        "CurAddr": "",
        "Relay": "tok",
        "PeerRelay": "",
        "RxBytes": 0,
        "TxBytes": 0,
        "LastSeen": "0001-01-01T00:00:00Z",
        "Online": ip.is_some(),
        "Active": false,
        "InNetworkMap": true,
    })
}

// The proxy port.

async fn serve_proxy(listener: TcpListener, net: Arc<Net>) {
    let mut connections = JoinSet::new();
    loop {
        let Some((io, _)) = net.alive(listener.accept()).await else {
            return;
        };
        let net = Arc::clone(&net);
        connections.spawn(async move { drop(proxy(io, &net).await) });
    }
}

async fn proxy(mut io: TcpStream, net: &Net) -> std::io::Result<()> {
    let speaks = net.script.lock().unwrap().proxy;
    if speaks == Proxy::Nothing {
        hung_up(&mut io).await;
        return Ok(());
    }
    let first = io.read_u8().await?;
    match (first == 5, speaks) {
        (true, Proxy::Both | Proxy::Socks) => net.socks(io).await,
        (false, Proxy::Both | Proxy::Http) => net.http(io, first).await,
        (false, _) => io.write_all(&[5, 0xff]).await,
        (true, _) => {
            io.write_all(&answer("400 Bad Request", "", "400 Bad Request"))
                .await
        }
    }
}

impl Net {
    async fn socks(&self, mut io: TcpStream) -> std::io::Result<()> {
        let mut methods = vec![0; usize::from(io.read_u8().await?)];
        io.read_exact(&mut methods).await?;
        if !methods.contains(&0) {
            return io.write_all(&[5, 0xff]).await;
        }
        io.write_all(&[5, 0]).await?;
        let mut head = [0; 4];
        if io.read_exact(&mut head).await.is_err() {
            return Ok(());
        }
        let _open = Open::begin(&self.open);
        let host = match head[3] {
            1 => Ipv4Addr::from(io.read_u32().await?).to_string(),
            3 => {
                let mut name = vec![0; usize::from(io.read_u8().await?)];
                io.read_exact(&mut name).await?;
                String::from_utf8(name).unwrap()
            }
            _ => std::net::Ipv6Addr::from(io.read_u128().await?).to_string(),
        };
        let port = io.read_u16().await?;
        self.asked("socks5", &host, port);
        let reached = tokio::select! {
            reached = timeout(SOCKS_LIMIT, self.reach(&host, port)) => reached,
            () = hung_up(&mut io) => return Ok(()),
        };
        match reached {
            // A reply with a name as its address: the longest form, and the real one uses it too.
            Ok(Ok(link)) => {
                link.carry(io, b"\x05\x00\x00\x03\x0a100.64.0.3\x12\x34")
                    .await
            }
            Ok(Err(_)) | Err(_) => io.write_all(&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0]).await,
        }
    }

    async fn http(&self, mut io: TcpStream, first: u8) -> std::io::Result<()> {
        let Some(request) = Request::read(&mut io, vec![first]).await? else {
            return Ok(());
        };
        if request.method != "CONNECT" {
            let text = "bogus RequestURI; must be absolute URL or CONNECT\n";
            return io.write_all(&answer("400 Bad Request", "", text)).await;
        }
        let _open = Open::begin(&self.open);
        let (host, port) = request.path.rsplit_once(':').unwrap();
        let host = host.trim_matches(['[', ']']);
        let port = port.parse().unwrap();
        self.asked("http-connect", host, port);
        let reached = tokio::select! {
            reached = self.reach(host, port) => reached,
            () = hung_up(&mut io) => return Ok(()),
        };
        match reached {
            Ok(link) => link.carry(io, b"HTTP/1.1 200 OK\r\n\r\n").await,
            Err(text) => {
                let head = format!("Tailscale-Connect-Error: {text}\r\n");
                let text = format!("{text}\n");
                io.write_all(&answer("500 Internal Server Error", &head, &text))
                    .await
            }
        }
    }

    /// What the proxies do with a target: outside the tailnet they dial from the host.
    async fn reach(&self, host: &str, port: u16) -> Result<Link, String> {
        let ip = match self.resolve(host)? {
            Place::Machine(machine) => return machine.reach(port).await,
            Place::Outside(ip) => ip,
        };
        let place = SocketAddr::new(ip, port);
        self.script.lock().unwrap().left_by_host.push(place);
        if !ip.is_loopback() {
            return Err("a test asked for an address outside this machine".into());
        }
        let io = TcpStream::connect(place)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Link {
            io,
            greeting: Vec::new(),
            awake: watch::Sender::new(true),
        })
    }
}

// The tailnet behind it.

enum Place {
    Machine(Machine),
    Outside(IpAddr),
}

impl Net {
    fn asked(&self, way: &str, host: &str, port: u16) {
        self.script
            .lock()
            .unwrap()
            .dialled
            .push(format!("{way} {host}:{port}"));
    }

    fn resolve(&self, host: &str) -> Result<Place, String> {
        let script = self.script.lock().unwrap();
        let machines = &script.machines;
        let up = script.backend_state == "Running";
        if let Ok(ip) = host.parse::<IpAddr>() {
            let known = machines
                .values()
                .find(|machine| up && IpAddr::V4(machine.ip) == ip);
            return Ok(known.map_or(Place::Outside(ip), |it| Place::Machine(it.clone())));
        }
        let name = host.to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        let short = name
            .strip_suffix(SUFFIX)
            .map_or(name, |short| short.trim_end_matches('.'));
        match (machines.get(short), script.outside.get(name)) {
            (Some(machine), _) if up => Ok(Place::Machine(machine.clone())),
            (_, Some(ip)) => Ok(Place::Outside(*ip)),
            _ => Err(format!("lookup {host} on 10.0.0.2:53: no such host")),
        }
    }
}

impl Machine {
    /// A connection to its port; never, while it is stopped.
    async fn reach(&self, port: u16) -> Result<Link, String> {
        sleep(self.far).await;
        let mut awake = self.awake.subscribe();
        if !*awake.borrow_and_update() {
            woken(&mut awake).await;
            // What was dialled into a broken tunnel stays stuck there for a while.
            sleep(if self.stopped { Duration::ZERO } else { STUCK }).await;
            woken(&mut awake).await;
        }
        let refused = || format!("connect tcp {}:{port}: connection was refused", self.ip);
        let to = self.ports.get(&port).ok_or_else(refused)?;
        let io = TcpStream::connect(to).await.map_err(|_| refused())?;
        Ok(Link {
            io,
            greeting: self.greeting.clone(),
            awake: self.awake.clone(),
        })
    }
}

/// Waits while a machine is stopped.
async fn woken(awake: &mut watch::Receiver<bool>) {
    awake.wait_for(|awake| *awake).await.unwrap();
}

/// A connection into the tailnet.
struct Link {
    io: TcpStream,
    greeting: Vec<u8>,
    awake: watch::Sender<bool>,
}

impl Link {
    /// Answers the dial and carries bytes until either side ends, as tailscaled up to v1.102.3,
    /// which does not know half-closed connections.
    async fn carry(self, client: impl Io, answer: &[u8]) -> std::io::Result<()> {
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_mac, mut to_mac) = self.io.into_split();
        to_client
            .write_all(&[answer, &self.greeting].concat())
            .await?;
        let mut awake = self.awake.subscribe();
        let up = async {
            let mut waiting = Vec::new();
            loop {
                tokio::select! {
                    // Reads on while the machine is stopped, as a client may leave then.
                    read = from_client.read_buf(&mut waiting) => if read? == 0 { return Ok(()) },
                    () = woken(&mut awake), if !waiting.is_empty() => {
                        to_mac.write_all(&waiting).await?;
                        waiting.clear();
                    }
                }
            }
        };
        let mut awake = self.awake.subscribe();
        let down = async {
            loop {
                let mut piece = Vec::with_capacity(16 << 10);
                let read = from_mac.read_buf(&mut piece).await;
                woken(&mut awake).await;
                match read? {
                    0 => return Ok(()),
                    _ => to_client.write_all(&piece).await?,
                }
            }
        };
        tokio::select! { ended = up => ended, ended = down => ended }
    }
}

/// Counts one open connection.
struct Open<'a>(&'a watch::Sender<usize>);

impl<'a> Open<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

// HTTP, as far as it is needed.

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// The next request of a connection, none at its end.
    async fn read(io: &mut impl Io, mut begun: Vec<u8>) -> std::io::Result<Option<Self>> {
        while !begun.ends_with(b"\r\n\r\n") {
            match io.read_u8().await {
                Ok(byte) => begun.push(byte),
                Err(_) => return Ok(None),
            }
        }
        let text = String::from_utf8_lossy(&begun);
        let mut lines = text.lines();
        let mut first = lines
            .next()
            .unwrap_or_default()
            .split(' ')
            .map(str::to_owned);
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let method = first.next().unwrap_or_default();
        let mut request = Self {
            method,
            path: first.next().unwrap_or_default(),
            headers,
            body: Vec::new(),
        };
        let length = request.header("content-length");
        let length = length.map_or(0, |length| length.parse().unwrap());
        request.body.resize(length, 0);
        io.read_exact(&mut request.body).await?;
        Ok(Some(request))
    }

    /// A parameter of the query.
    fn query(&self, key: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .into_iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

fn answer(status: &str, head: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Waits until the client leaves.
async fn hung_up(io: &mut impl Io) {
    let mut rest = [0; 256];
    while matches!(io.read(&mut rest).await, Ok(1..)) {}
}
