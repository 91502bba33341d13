//! Every key of `routing.toml`: what it takes, what holds without it, what it is for.
//!
//! Owns the table that the parser accepts by, and from which the JSON Schema, the key tables of
//! `config/README.md` and `tailhop config` are made: what has no row here does not exist. A default
//! is written as TOML where it is one value, else in words.

use super::{Row, Shape};
use crate::config::snapshot::{DialWay, Fallback, Network, Policy, Scope};
use crate::words::effect::Effect;
use crate::words::names::Kind;

pub(super) const fn row(
    key: &'static str,
    shape: Shape,
    default: &'static str,
    about: &'static str,
) -> Row {
    Row {
        key,
        shape,
        default: Some(default),
        about,
        variable: None,
    }
}

const fn need(key: &'static str, shape: Shape, about: &'static str) -> Row {
    Row {
        key,
        shape,
        default: None,
        about,
        variable: None,
    }
}

impl Row {
    const fn or(mut self, variable: &'static str) -> Self {
        self.variable = Some(variable);
        self
    }
}

/// Every key that is accepted.
pub(in crate::config) const ROOT: &[Row] = &[
    row(
        "include",
        Shape::Texts,
        "none",
        "files whose values hold where this file has none, such as `env/${ENVIRONMENT:-production}.toml`",
    ),
    row(
        "listen",
        Shape::Table(LISTEN),
        "{}",
        "addresses we accept on; a change needs a restart",
    ),
    row(
        "admin",
        Shape::Table(ADMIN),
        "{}",
        "who may ask the admin address for what",
    ),
    row("log", Shape::Table(LOG), "{}", "the access lines"),
    row(
        "tailnet",
        Shape::Table(TAILNET),
        "{}",
        "the way to the machines",
    ),
    row("run", Shape::Table(RUN), "{}", "how `tailhop run` ends"),
    need(
        "backends",
        Shape::Named(BACKEND),
        "machines, each `NAME = {}` or a table",
    ),
    need(
        "services",
        Shape::Named(SERVICE),
        "what they offer, each `NAME = {}` or a table",
    ),
    row(
        "routes",
        Shape::Tables(ROUTE),
        "`/NAME` of each service",
        "path prefixes and the services they lead to",
    ),
    row(
        "timeouts",
        Shape::Table(TIMEOUTS),
        "{}",
        "bounds of every request; those of a service or a route come before",
    ),
    row(
        "schedule",
        Shape::Table(SCHEDULE),
        "{}",
        "who is active when",
    ),
    row(
        "pin",
        Shape::Tables(PIN),
        "[]",
        "orders that make a backend active until they end",
    ),
];

const LISTEN: &[Row] = &[
    row(
        "data",
        Shape::Address,
        "\"127.0.0.1:8484\"",
        "the app's; one that is not loopback is a warning without `token`",
    ),
    row(
        "admin",
        Shape::Address,
        "\"127.0.0.1:9484\"",
        "metrics, health, status, orders; one that is not loopback needs a token of `[admin]`",
    ),
    row(
        "token",
        Shape::Secret,
        "none",
        "a secret that every request to `data`, and to the services' own addresses, has to present; a change needs no restart",
    ),
];

const ADMIN: &[Row] = &[
    row(
        "tailnet",
        Shape::Texts,
        "nobody",
        "who may read and give orders over the tailnet: `[\"user@example.com\", \"tag:ops\"]`",
    ),
    row(
        "token",
        Shape::Secret,
        "none",
        "a secret that reads and gives orders; the variable `ADMIN_API_KEY` is one more",
    ),
    row(
        "tokens",
        Shape::Named(TOKEN),
        "none",
        "more of them by name: `NAME = { secret = { env = \"..\" }, scope = \"read\" }`",
    ),
    row(
        "hosts",
        Shape::Texts,
        "none",
        "names that `Host` may have, besides addresses, `localhost` and this machine's tailnet name",
    ),
];

const LOG: &[Row] = &[row(
    "sample",
    Shape::Count,
    "1",
    "of requests that went well, one in so many has an access line; all others always have one",
)];

const TOKEN: &[Row] = &[
    need("secret", Shape::Secret, "where it is kept"),
    row(
        "scope",
        Shape::Word(|| Scope::WORDS.map(|(word, _)| word).to_vec()),
        "\"read\"",
        "what it may do: `read`, or `orders` for reading and orders",
    ),
];

const TAILNET: &[Row] = &[
    row(
        "name",
        Shape::Text,
        "asked from tailscaled",
        "MagicDNS name; without a dot, `.ts.net` is added",
    )
    .or("TAILNET_NAME"),
    row(
        "dial",
        Shape::Word(|| DialWay::WORDS.map(|(word, _)| word).to_vec()),
        "\"auto\"",
        "the first of the three tailnet ways that tailscaled offers, one of them, or `direct`: no tailnet",
    ),
    row(
        "socket",
        Shape::Text,
        "\"/run/tailscale/tailscaled.sock\"",
        "tailscaled's LocalAPI",
    ),
    row(
        "proxy",
        Shape::Address,
        "\"127.0.0.1:1055\"",
        "tailscaled's SOCKS5 and HTTP proxy",
    ),
    row(
        "repair",
        Shape::Flag,
        "true",
        "repairs a broken tunnel through LocalAPI (`rebind`, `break-derp-conns`; after a freeze of a minute, in userspace mode, `down-up`)",
    ),
    row(
        "tailscaled",
        Shape::Text,
        "\"auto\"",
        "whether `run` starts tailscaled, see below; `off`, or a program's name or path",
    ),
    row(
        "auth_key",
        Shape::Secret,
        "`TS_AUTHKEY`, if set",
        "admits this machine: an auth key, or the secret of an OAuth client",
    ),
    row(
        "client_id",
        Shape::Text,
        "none",
        "instead of it: the client of workload identity",
    ),
    row(
        "audience",
        Shape::Text,
        "none",
        "of workload identity, with `client_id`",
    ),
    row(
        "hostname",
        Shape::Text,
        "\"tailhop\"",
        "this machine's name in the tailnet",
    ),
    row(
        "tags",
        Shape::Texts,
        "none",
        "such as `[\"tag:tailhop\"]`; required with an OAuth client or workload identity",
    ),
    row(
        "login_server",
        Shape::Text,
        "Tailscale's own",
        "another control server, such as Headscale",
    ),
];

const RUN: &[Row] = &[row(
    "stop",
    Shape::Duration,
    "\"9.5s\"",
    "from SIGTERM to the end of the process, at most; Cloud Run kills after 10 s",
)];

const BACKEND: &[Row] = &[
    row(
        "host",
        Shape::Text,
        "the name",
        "MagicDNS name, short or full, or IP address",
    ),
    row(
        "url",
        Shape::Text,
        "none",
        "instead of `host`: the origin of one service, such as `https://x.example:6333`, without a path",
    ),
    row(
        "dial",
        Shape::Word(|| Network::WORDS.map(|(word, _)| word).to_vec()),
        "\"tailnet\"; with `url` \"direct\"",
        "the network that leads to it: the tailnet, or this host's own",
    ),
    row(
        "headers",
        Shape::Secrets,
        "none",
        "with `url`: headers with secrets, such as `{ api-key = { env = \"QDRANT_KEY\" } }`",
    ),
    row(
        "read_headers",
        Shape::Secrets,
        "`headers`",
        "with `url`: what reads get instead while another backend is the active one, such as a read-only key",
    ),
    row(
        "ca",
        Shape::Text,
        "the public roots",
        "with an https `url`: a PEM file of those to trust instead",
    ),
    row(
        "drain",
        Shape::Table(DRAIN),
        "none",
        "an order: no new work goes to it",
    ),
];

const DRAIN: &[Row] = &[
    row(
        "until",
        Shape::Moment,
        "none",
        "when it ends; without it, when it is taken out",
    ),
    row("reason", Shape::Text, "none", "for people"),
    row("by", Shape::Text, "none", "who ordered it"),
];

const SERVICE: &[Row] = &[
    row(
        "kind",
        Shape::Word(|| Kind::ALL.map(Kind::as_str).to_vec()),
        "the name, if it is a kind; else \"http\"",
        "what tailhop knows of its requests",
    ),
    row(
        "port",
        Shape::Port,
        "ollama 11434, qdrant 6333",
        "the same on every backend with a `host`; required for http",
    ),
    row(
        "listen",
        Shape::Address,
        "none",
        "an address of its own, where the service is at `/`: `127.0.0.1:6333`; a change needs a restart",
    ),
    row(
        "listen_grpc",
        Shape::Address,
        "none",
        "kind qdrant: an address for its gRPC, HTTP/2 without TLS: `127.0.0.1:6334`; a change needs a restart",
    ),
    row(
        "grpc_port",
        Shape::Port,
        "6334",
        "kind qdrant: its gRPC port, the same on every backend, one with a `url` too: over TLS with ALPN `h2` if that is `https`",
    ),
    row(
        "fallback",
        Shape::Word(|| Fallback::WORDS.map(|(word, _)| word).to_vec()),
        "ollama \"all\", else \"reads\"",
        "what may go to a backend that is not active",
    ),
    row(
        "require",
        Shape::Table(REQUIRE),
        "none",
        "what a backend must have; one that is known to lack it gets no reads and no inference while another has it",
    ),
    row(
        "cache",
        Shape::Table(CACHE),
        "off",
        "kind ollama: keeps embeddings, and answers with them; `{}` has all its defaults",
    ),
    row(
        "prewarm",
        Shape::Texts,
        "none",
        "kind ollama: models that a backend loads in the 10 min before a planned switch to it, and after it woke",
    ),
    row(
        "policy",
        Shape::Word(|| Policy::WORDS.map(|(word, _)| word).to_vec()),
        "\"active\"",
        "kind ollama: whom inference prefers among the backends that may take it: the active one, or the one that will begin with it first",
    ),
    row(
        "limit",
        Shape::Table(LIMIT),
        "none",
        "kind ollama: how many inferences each backend works on at once, and how many wait",
    ),
    row(
        "timeouts",
        Shape::Table(TIMEOUTS),
        "those of the file",
        "bounds of its requests",
    ),
    row(
        "backends",
        Shape::Texts,
        "all without a `url`",
        "the backends that offer it",
    ),
    row(
        "effects",
        Shape::Tables(EFFECTS),
        "by method",
        "kind http: what its requests may do",
    ),
];

const ROUTE: &[Row] = &[
    need(
        "path",
        Shape::Text,
        "begins with `/`, compared by whole segments, byte by byte",
    ),
    need("service", Shape::Text, "where it leads"),
    row("strip", Shape::Flag, "true", "takes the prefix off"),
    row(
        "host",
        Shape::Text,
        "\"upstream\"",
        "the Host that the upstream sees: `upstream`, `preserve`, or one written here",
    ),
    row(
        "upgrade",
        Shape::Texts,
        "none",
        "protocols that a GET may switch to, such as `websocket`; kind http only",
    ),
    row(
        "timeouts",
        Shape::Table(TIMEOUTS),
        "those of the service",
        "bounds of its requests",
    ),
    row(
        "effects",
        Shape::Tables(EFFECTS),
        "those of the service",
        "kind http: what its requests may do",
    ),
];

const LIMIT: &[Row] = &[
    need(
        "in_flight",
        Shape::Count,
        "inferences at work on each backend at once, of this instance",
    ),
    row(
        "queue",
        Shape::Count,
        "100",
        "how many wait for a place on each backend; one more gets 503",
    ),
    row(
        "wait",
        Shape::Duration,
        "\"1m\"",
        "how long one waits for a place before its 503",
    ),
    row(
        "spill",
        Shape::Flag,
        "false",
        "sends one that finds the line full to another backend that may take it",
    ),
];

const REQUIRE: &[Row] = &[
    row(
        "models",
        Shape::Texts,
        "none",
        "kind ollama: names of models, with or without a tag, as `ollama list` shows them",
    ),
    row(
        "collections",
        Shape::Texts,
        "none",
        "kind qdrant: names of collections, or of aliases",
    ),
    row(
        "min_points",
        Shape::Many,
        "1",
        "how many points each of the collections must have; set it near what is there, as reads move to a backend that has so many, in the middle of a copy too",
    ),
    row(
        "if_not_ready",
        Shape::Word(|| IF_NOT_READY.to_vec()),
        "\"hold\"",
        "what a planned switch does while its backend lacks one: waits with `hold`, comes with `switch`",
    ),
];

/// Whether a planned switch waits, as `if_not_ready` says it: the first is the default.
pub(in crate::config) const IF_NOT_READY: [&str; 2] = ["hold", "switch"];

const CACHE: &[Row] = &[
    row("entries", Shape::Count, "10000", "embeddings at most"),
    row(
        "megabytes",
        Shape::Count,
        "64",
        "memory at most; 768 numbers take some 10 kB",
    ),
    row("ttl", Shape::Duration, "\"24h\"", "how long one is kept"),
];

const EFFECTS: &[Row] = &[
    row("methods", Shape::Texts, "every one", "in capitals"),
    row(
        "paths",
        Shape::Texts,
        "every one",
        "as the upstream sees them; `*` is one segment, `**` at the end all others",
    ),
    need(
        "effect",
        Shape::Word(|| Effect::ALL.map(Effect::as_str).to_vec()),
        "what a request that matches may do",
    ),
];

/// Bounds of a request.
const TIMEOUTS: &[Row] = &[
    row(
        "race",
        Shape::Duration,
        "\"250ms\"",
        "a dial's head start before a fresh one joins it; adapts to the backend's usual dials, from a quarter to twice of it",
    ),
    row("connect", Shape::Duration, "\"10s\"", "one dial"),
    row(
        "wait",
        Shape::Duration,
        "ollama \"15s\", else \"4s\"",
        "a request that no backend can take now, before its 503",
    ),
    row(
        "start",
        Shape::Duration,
        "\"15s\"; qdrant \"4s\"",
        "a request that finds tailscaled starting",
    ),
    row(
        "head",
        Shape::Duration,
        "inference \"10m\", reads \"30s\" (qdrant \"65s\"), writes `total`",
        "from request to answer's head",
    ),
    row(
        "idle",
        Shape::Duration,
        "inference \"5m\", else \"60s\"",
        "between two pieces of a body",
    ),
    row(
        "total",
        Shape::Bound,
        "\"none\"; on Cloud Run \"290s\"",
        "the whole request",
    ),
    row("probe", Shape::Duration, "\"2s\"", "one probe"),
];

const SCHEDULE: &[Row] = &[
    row(
        "timezone",
        Shape::Text,
        "\"UTC\"",
        "IANA name, for times without an offset",
    ),
    row(
        "default",
        Shape::Text,
        "the only backend",
        "active before the first switch; required if there are several",
    ),
    row(
        "switch",
        Shape::Tables(SWITCH),
        "[]",
        "planned changes of the active backend",
    )
    .or("SWITCH_DATE"),
];

const SWITCH: &[Row] = &[
    need(
        "at",
        Shape::Moment,
        "from then on; a date is its midnight in `timezone`",
    ),
    need("to", Shape::Text, "the backend that becomes active"),
    row("services", Shape::Texts, "all", "for these services"),
];

const PIN: &[Row] = &[
    need("to", Shape::Text, "the backend that it makes active"),
    row(
        "until",
        Shape::Moment,
        "none, a warning",
        "when it ends; then it does nothing any more",
    ),
    row("reason", Shape::Text, "none", "for people"),
    row("by", Shape::Text, "none", "who ordered it"),
    row(
        "services",
        Shape::Texts,
        "all",
        "at most one pin for each service",
    ),
    row(
        "writes",
        Shape::Flag,
        "false",
        "moves writes too; such a pin has no `until`",
    ),
    row(
        "hold_writes",
        Shape::Flag,
        "false",
        "as long as it holds, writes of data services get 503 and nothing is sent",
    ),
];
