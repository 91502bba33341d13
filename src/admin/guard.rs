//! Who may ask for what: every check between a request's head and its answer.
//!
//! In this order: framing, Host (against DNS rebinding), what a browser says of its page, token or
//! identity, scope. Invariants: a request is refused before its body is read; a token is looked at
//! in headers alone and compared in constant time; nothing said here tells what a token is.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};
use tokio::time::Instant;
use tracing::warn;

use super::Admin;
use super::identity::{Connection, Unknown};
use super::status::You;
use crate::config::snapshot::{Admin as Rules, DialWay, Scope, Snapshot, Token};

/// Largest body that an order may have, in bytes.
pub(super) const BODY_MAX: u64 = 16 * 1024;
/// Beside `Authorization`, for clients that cannot set it.
const OWN: &str = "x-tailhop-token";

/// Who asks, once it is settled that they may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody on another machine who presented nothing: told that we live, and no more.
    Stranger,
    /// A process of this machine.
    Local,
    /// Somebody with a name.
    Known {
        /// As orders name it.
        name: String,
        /// What they may do.
        scope: Scope,
    },
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A body where none belongs, or one whose length is not told.
    Framing,
    /// A larger body than any order has.
    Large,
    /// The Host is none of ours.
    Host,
    /// A page of another site asks.
    Site,
    /// What is no JSON could be a page's form.
    Form,
    /// Two tokens.
    TwoTokens,
    /// Too many wrong ones.
    TooMany(Duration),
    /// A wrong one, or an old one.
    WrongToken,
    /// Nothing was presented.
    NoToken,
    /// Somebody of the tailnet whom `admin.tailnet` does not name.
    NotListed,
    /// tailscaled does not say who it is.
    Unknown(String),
    /// A token that is for reading.
    Scope,
    /// Nobody is named who may give orders.
    Off,
}

/// The head of a request, as far as it decides.
pub(super) struct Head<'r> {
    pub(super) method: &'r Method,
    pub(super) version: Version,
    /// The host of a target that is a whole URI.
    pub(super) target: Option<&'r str>,
    pub(super) headers: &'r HeaderMap,
}

impl Admin {
    /// What holds for every request, whatever it asks for.
    pub(super) fn well_formed(&self, rules: &Rules, head: &Head<'_>) -> Result<(), Refusal> {
        framing(head)?;
        let own = self.tailnet.view().self_name.clone();
        let known = |host: &str| is_ours(host, rules, &own);
        let mut hosts = head.headers.get_all(HOST).iter();
        let host = hosts.next();
        let ours = match host {
            Some(host) => host.to_str().is_ok_and(known),
            // No browser is so old.
            None => head.version == Version::HTTP_10,
        };
        if !ours || hosts.next().is_some() || !head.target.is_none_or(known) {
            return Err(Refusal::Host);
        }
        site(head)
    }

    /// Who asks: by token, else by identity, else by where they are.
    pub(super) async fn caller(
        &self,
        snapshot: &Snapshot,
        connection: &Connection,
        headers: &HeaderMap,
    ) -> Result<Caller, Refusal> {
        if let Some(presented) = presented(headers)? {
            return self.by_token(&snapshot.admin.tokens, connection.source.ip(), presented);
        }
        let listed = &snapshot.admin.tailnet;
        if listed.is_empty() && !self.may_be_forwarded(snapshot) {
            return Ok(outside(connection.source));
        }
        let api = self.tailnet.localapi();
        match connection.who(&self.desk, &api).await {
            Ok(who) if *who == super::identity::Who::Outside => Ok(outside(connection.source)),
            Ok(who) => {
                let name = who.allowed(listed).ok_or(Refusal::NotListed)?;
                let scope = Scope::Orders;
                Ok(Caller::Known { name, scope })
            }
            // Without `admin.tailnet` it is shields up that protects; this was one more look.
            Err(_) if listed.is_empty() => Ok(outside(connection.source)),
            Err(Unknown(why)) => Err(Refusal::Unknown(why)),
        }
    }

    /// Whether what comes from this machine may come from the tailnet.
    fn may_be_forwarded(&self, snapshot: &Snapshot) -> bool {
        snapshot.tailnet.dial != DialWay::Direct && self.shields.up() != Some(true)
    }

    fn by_token(
        &self,
        tokens: &[Token],
        source: IpAddr,
        presented: &[u8],
    ) -> Result<Caller, Refusal> {
        let now = Instant::now();
        let mut failures = self.failures();
        if let Some(left) = failures.blocked(source, now) {
            return Err(Refusal::TooMany(left));
        }
        // All are compared, so that time does not tell which one came near.
        let mut fitting = None;
        for token in tokens {
            if token.secret.matches(presented) {
                fitting = Some(token);
            }
        }
        let Some(token) = fitting else {
            if failures.count(source, now) {
                warn!(%source, "a wrong token at the admin address");
            }
            return Err(Refusal::WrongToken);
        };
        Ok(Caller::Known {
            name: token.name.clone(),
            scope: token.scope,
        })
    }
}

impl Caller {
    /// Whether they may read what is shown.
    pub(super) fn may_read(&self) -> Result<(), Refusal> {
        match self {
            Self::Stranger => Err(Refusal::NoToken),
            Self::Local | Self::Known { .. } => Ok(()),
        }
    }

    /// Under which name they may give orders.
    pub(super) fn may_order(&self, rules: &Rules) -> Result<&str, Refusal> {
        let gives = |token: &Token| token.scope == Scope::Orders;
        let nobody = rules.tailnet.is_empty() && !rules.tokens.iter().any(gives);
        match self {
            Self::Known {
                name,
                scope: Scope::Orders,
            } => Ok(name),
            _ if nobody => Err(Refusal::Off),
            Self::Known { .. } => Err(Refusal::Scope),
            Self::Stranger | Self::Local => Err(Refusal::NoToken),
        }
    }

    /// The same for whoever asks, before they try.
    pub(super) fn you(&self, rules: &Rules) -> You {
        let gives = |token: &Token| token.scope == Scope::Orders;
        let token = rules.functions && rules.tokens.iter().any(gives);
        let why = match self.may_order(rules) {
            _ if !rules.functions => "ADMIN_FUNCTIONS_ENABLED=false takes them away".to_owned(),
            Ok(name) => {
                return You {
                    may_order: true,
                    name: Some(name.to_owned()),
                    token,
                    why: None,
                };
            }
            Err(Refusal::NoToken) if !token => {
                "ask over the tailnet as one whom admin.tailnet names: no token gives orders"
                    .to_owned()
            }
            Err(refusal) => refusal.sentence(),
        };
        You {
            may_order: false,
            name: None,
            token,
            why: Some(why),
        }
    }
}

/// Somebody who is not of the tailnet.
fn outside(source: SocketAddr) -> Caller {
    if source.ip().to_canonical().is_loopback() {
        Caller::Local
    } else {
        Caller::Stranger
    }
}

/// Only orders have a body, and its length is told: nothing is left to two readings.
fn framing(head: &Head<'_>) -> Result<(), Refusal> {
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::Framing);
    }
    let Some(length) = head.headers.get(CONTENT_LENGTH) else {
        return Ok(());
    };
    let length = length.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(0) => Ok(()),
        Some(1..=BODY_MAX) if head.method == Method::POST => Ok(()),
        Some(_) if head.method == Method::POST => Err(Refusal::Large),
        _ => Err(Refusal::Framing),
    }
}

/// Whether `host`, with or without a port, names this listener. An address cannot be rebound: a
/// page that has it was served from it.
fn is_ours(host: &str, rules: &Rules, own: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, port) = match bracketed {
        Some((name, rest)) => (name, rest),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    if bracketed.is_some() {
        return name.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let short = own.split('.').next().unwrap_or_default();
    name == "localhost"
        || name.parse::<std::net::Ipv4Addr>().is_ok()
        || (!own.is_empty() && (name == own || name == short))
        || rules.hosts.iter().any(|host| host == name)
}

/// What a browser says of the page that asks. Without a word of it, it is no browser's request, or
/// one of the same page.
fn site(head: &Head<'_>) -> Result<(), Refusal> {
    let word = |name: &str| head.headers.get(name).map(http::HeaderValue::as_bytes);
    let reads = matches!(*head.method, Method::GET | Method::HEAD);
    // Somebody may follow a link to here.
    let link = reads && word("sec-fetch-mode") == Some(b"navigate");
    let near = match word("sec-fetch-site") {
        None | Some(b"same-origin" | b"none") => true,
        Some(_) => link,
    };
    let mut origins = head.headers.get_all(ORIGIN).iter();
    let of_host = |origin: &http::HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        let own = origin
            .strip_prefix("http://")
            .or(origin.strip_prefix("https://"));
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        own.zip(host)
            .is_some_and(|(own, host)| own.eq_ignore_ascii_case(host))
    };
    if near && origins.all(of_host) {
        Ok(())
    } else {
        Err(Refusal::Site)
    }
}

/// Whether the body is said to be JSON. A page of another site can send that only after it was
/// allowed to, and it never is.
pub(super) fn json(headers: &HeaderMap) -> Result<(), Refusal> {
    let said = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = said.and_then(|kind| kind.split(';').next());
    if kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        Ok(())
    } else {
        Err(Refusal::Form)
    }
}

/// The one token that a request has.
fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let bearer = headers.get_all(AUTHORIZATION).iter();
    let own = headers.get_all(OWN).iter();
    let mut all = bearer
        .map(|value| of_bearer(value.as_bytes()))
        .chain(own.map(http::HeaderValue::as_bytes));
    match (all.next(), all.next()) {
        (one, None) => Ok(one),
        _ => Err(Refusal::TwoTokens),
    }
}

/// What follows `Bearer `; of another scheme nothing, which is no token of ours.
fn of_bearer(value: &[u8]) -> &[u8] {
    match value.split_at_checked("Bearer ".len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"Bearer ") => rest.trim_ascii(),
        _ => b"",
    }
}

impl Refusal {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Framing | Self::TwoTokens => StatusCode::BAD_REQUEST,
            Self::Large => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Form => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::WrongToken | Self::NoToken => StatusCode::UNAUTHORIZED,
            Self::Site | Self::NotListed | Self::Scope | Self::Off => StatusCode::FORBIDDEN,
            Self::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The word for it in the metric.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Framing => "framing",
            Self::Large => "large",
            Self::Host => "host",
            Self::Site => "site",
            Self::Form => "content-type",
            Self::TwoTokens => "two-tokens",
            Self::TooMany(_) => "too-many-failures",
            Self::WrongToken => "wrong-token",
            Self::NoToken => "no-token",
            Self::NotListed => "not-listed",
            Self::Unknown(_) => "identity-unknown",
            Self::Scope => "scope",
            Self::Off => "off",
        }
    }

    /// What is wrong and what to do.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Framing => "only orders have a body, with a Content-Length",
            Self::Large => "no order has more than 16 KiB",
            Self::Host => {
                "this Host is not served: ask by address, or name the host in admin.hosts"
            }
            Self::Site => "a page of another site may not ask",
            Self::Form => "send Content-Type: application/json",
            Self::TwoTokens => "present one token",
            Self::TooMany(left) => {
                let seconds = left.as_secs() + 1;
                return format!("too many wrong tokens; none is looked at for {seconds} s");
            }
            Self::WrongToken => "this token is none of ours, or no longer",
            Self::NoToken => "present a token, as Authorization: Bearer .. or x-tailhop-token: ..",
            Self::NotListed => "admin.tailnet does not name you",
            Self::Unknown(why) => return format!("who asks cannot be told: {why}"),
            Self::Scope => "this token is for reading: give it scope = \"orders\"",
            Self::Off => {
                "orders are off here, as nobody is named who may give them: set admin.token = \
                 { env = \"ADMIN_TOKEN\" }, or ADMIN_API_KEY, or admin.tailnet; or run \
                 `tailhop pin` where the file is"
            }
        }
        .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::secret::Secret;

    /// Who asks; the scope of the one token; whether `admin.tailnet` names somebody; whether there
    /// are orders at all: whether they may, whether a token would help, and why not.
    const YOU: &str = "
        orders orders named on   yes yes
        orders read   named on   yes no
        orders orders named off  no  no  ADMIN_FUNCTIONS_ENABLED=false
        read   orders none  on   no  yes this token is for reading
        read   read   none  on   no  no  orders are off here
        local  orders none  on   no  yes present a token
        local  read   named on   no  no  ask over the tailnet
        local  none   none  on   no  no  orders are off here
        local  orders none  off  no  no  ADMIN_FUNCTIONS_ENABLED=false";

    #[test]
    fn who_asks_is_told_whether_they_may_give_orders_and_what_it_takes() {
        let scope = |word: &str| {
            let scope = if word == "orders" {
                Scope::Orders
            } else {
                Scope::Read
            };
            (word == "orders" || word == "read").then_some(scope)
        };
        for row in YOU.trim().lines() {
            let words: Vec<_> = row.split_whitespace().collect();
            let name = "ann".to_owned();
            let caller =
                scope(words[0]).map_or(Caller::Local, |scope| Caller::Known { name, scope });
            let token = |scope| Token {
                name: "t".into(),
                secret: Secret::new("x"),
                scope,
            };
            let rules = Rules {
                tokens: scope(words[1]).map(token).into_iter().collect(),
                tailnet: (words[2] == "named")
                    .then(|| "ann@x.example".into())
                    .into_iter()
                    .collect(),
                functions: words[3] == "on",
                ..Rules::default()
            };
            let you = caller.you(&rules);
            let may = words[4] == "yes";
            assert_eq!(
                (you.may_order, you.token),
                (may, words[5] == "yes"),
                "{row}"
            );
            assert_eq!(you.name.as_deref(), may.then_some("ann"), "{row}");
            let why = you.why.unwrap_or_default();
            assert_eq!(why.is_empty(), may, "{row}");
            assert!(why.starts_with(&words[6..].join(" ")), "{row}: {why}");
        }
    }

    #[test]
    fn a_host_is_ours_by_address_or_by_a_name_that_was_given() {
        let rules = Rules {
            hosts: vec!["ops.internal".into()],
            ..Rules::default()
        };
        for (host, ours) in [
            ("127.0.0.1:9484", true),
            ("127.0.0.1", true),
            ("[::1]:9484", true),
            ("[::1]", true),
            ("localhost:9484", true),
            ("LOCALHOST", true),
            ("cr.tail1.ts.net:9484", true),
            ("cr", true),
            ("ops.internal", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("evil.example:127", false),
            ("localhost:x", false),
            ("localhost:1@evil.example", false),
            ("[evil.example]", false),
            ("", false),
            ("cr.tail1.ts.net.evil.example", false),
        ] {
            assert_eq!(is_ours(host, &rules, "cr.tail1.ts.net"), ours, "{host}");
        }
        assert!(!is_ours("", &Rules::default(), ""));
    }
}
