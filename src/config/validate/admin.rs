//! `[admin]`: who may ask the admin listener, and what that asks of the other listeners.
//!
//! tailscaled in userspace mode hands what comes in for this machine to 127.0.0.1, whoever sent it:
//! once the tailnet is let in at all, a data listener there is open to it. Nothing is handed to
//! other loopback addresses (measured).

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::{Scope as Checks, addresses, secrets, variable};
use crate::config::codes;
use crate::config::env::{ADMIN_API_KEY, ADMIN_FUNCTIONS_ENABLED};
use crate::config::fix::Fix;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, Kept, Table};
use crate::config::snapshot::{Admin, Listen, Scope, Token};
use crate::words::secret::Secret;

/// What is shorter can be guessed, or was made by hand.
const TOKEN_SHORT: usize = 16;
/// The login that tailscaled gives to all tagged machines, whatever their tags.
const TAGGED: &str = "tagged-devices";

pub(super) fn read(checks: &Checks<'_>, problems: &mut Problems<'_>) -> Admin {
    let table = checks.root.table("admin");
    Admin {
        tailnet: tailnet(table, problems),
        tokens: tokens(checks, table, problems),
        hosts: hosts(table, problems),
        functions: functions(checks, problems),
    }
}

/// Logins and tags.
fn tailnet(table: &Table, problems: &mut Problems<'_>) -> Vec<String> {
    let mut who = Vec::new();
    for At { value, span } in table
        .get::<&[At<String>]>("tailnet")
        .map_or(&[][..], |list| list.value)
    {
        let tag = value.strip_prefix("tag:");
        let whole = tag.unwrap_or(value);
        let plain = |letter: char| letter.is_ascii_graphic();
        if whole.is_empty() || !whole.chars().all(plain) || whole == "*" || value == TAGGED {
            let message = format!("admin.tailnet cannot have {}", quote(value));
            problems.at(codes::VALUE, span, message).help(
                "write a login name such as \"user@example.com\", or a tag such as \"tag:ops\"",
            );
        } else {
            who.push(value.clone());
        }
    }
    who
}

fn tokens(checks: &Checks<'_>, table: &Table, problems: &mut Problems<'_>) -> Vec<Token> {
    let mut tokens = Vec::new();
    if let Some(kept) = table.get::<&Kept>("token") {
        let secret = secrets::read(checks, "admin.token", &kept, problems);
        tokens.extend(secret.and_then(|secret| {
            long(&secret, "admin.token", Some(&kept.span), problems);
            token("token", secret, Scope::Orders)
        }));
    }
    for (name, table) in table.table("tokens").named() {
        let what = format!("admin.tokens.{}", name.value);
        let Some(kept) = table.get::<&Kept>("secret") else {
            continue;
        };
        let word = table.get::<&str>("scope").map_or("read", |word| word.value);
        let scope = Scope::WORDS.iter().find(|(known, _)| *known == word);
        let secret = secrets::read(checks, &format!("{what}.secret"), &kept, problems);
        tokens.extend(secret.zip(scope).and_then(|(secret, (_, scope))| {
            long(&secret, &what, Some(&kept.span), problems);
            token(&name.value, secret, *scope)
        }));
    }
    if let Some(key) = checks.env.secret(ADMIN_API_KEY) {
        let secret = Secret::new(key.trim());
        long(&secret, ADMIN_API_KEY, None, problems);
        tokens.extend(token(ADMIN_API_KEY, secret, Scope::Orders));
    }
    tokens
}

/// `None`: one that is empty would let in everybody who presents nothing.
fn token(name: &str, secret: Secret, scope: Scope) -> Option<Token> {
    let name = name.to_owned();
    let filled = !secret.expose().is_empty();
    filled.then_some(Token {
        name,
        secret,
        scope,
    })
}

/// Warns of a token that can be guessed.
fn long(secret: &Secret, what: &str, span: Option<&Range<usize>>, problems: &mut Problems<'_>) {
    if secret.expose().len() >= TOKEN_SHORT {
        return;
    }
    let message = format!("{what} is shorter than {TOKEN_SHORT} characters");
    let problem = match span {
        Some(span) => problems.at(codes::SHORT_TOKEN, span, message),
        None => problems.outside(codes::SHORT_TOKEN, message),
    };
    problem.help("make one that nobody can guess, as with: openssl rand -hex 32");
}

fn hosts(table: &Table, problems: &mut Problems<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    for At { value, span } in table
        .get::<&[At<String>]>("hosts")
        .map_or(&[][..], |list| list.value)
    {
        if addresses::is_dns_name(value) {
            hosts.push(value.to_ascii_lowercase());
        } else {
            let message = format!("admin.hosts cannot have {}", quote(value));
            problems
                .at(codes::VALUE, span, message)
                .help("write a name without scheme and port, such as \"tailhop.internal\"");
        }
    }
    hosts
}

fn functions(checks: &Checks<'_>, problems: &mut Problems<'_>) -> bool {
    let Some(value) = checks.env.overlay(ADMIN_FUNCTIONS_ENABLED) else {
        return true;
    };
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => true,
        "false" | "0" | "no" | "off" => false,
        _ => {
            variable(
                codes::ADMIN_FUNCTIONS,
                ADMIN_FUNCTIONS_ENABLED,
                value,
                "is neither true nor false",
                "write true or false",
                problems,
            );
            false
        }
    }
}

/// Reports addresses that more can reach than should.
pub(super) fn exposure(
    checks: &Checks<'_>,
    admin: &Admin,
    listen: Listen,
    problems: &mut Problems<'_>,
) {
    let table = checks.root.table("listen");
    if !listen.admin.ip().is_loopback() && admin.tokens.is_empty() {
        let here = format!("127.0.0.1:{}", listen.admin.port());
        let fix = Fix::string(problems.text(), table.span_of("admin"), &here);
        problems
            .at(
                codes::OPEN_ADMIN,
                table.span_of("admin"),
                format!("listen.admin cannot be {} without a token", listen.admin),
            )
            .label("not loopback")
            .help("use 127.0.0.1, or set admin.token = { env = \"ADMIN_TOKEN\" }")
            .fix(fix);
    }
    if admin.tailnet.is_empty() || table.has("token") {
        return;
    }
    let who = checks.root.table("admin").span_of("tailnet");
    let elsewhere = aside(listen.data);
    let (span, fix) = if table.has("data") {
        let span = table.span_of("data");
        (span, Fix::string(problems.text(), span, &elsewhere))
    } else {
        (who, added(checks, &elsewhere, problems.text()))
    };
    reachable("listen.data", listen.data, span, fix, problems);
    let services = checks.root.table("services");
    for service in &checks.services {
        let own = [
            ("listen", service.listen),
            ("listen_grpc", service.listen_grpc),
        ];
        for (key, address) in own {
            let Some(address) = address else { continue };
            let span = services.table(service.name.as_str()).span_of(key);
            let key = format!("services.{}.{key}", service.name);
            let fix = Fix::string(problems.text(), span, &aside(address));
            reachable(&key, address, span, fix, problems);
        }
    }
}

/// The same port, where tailscaled hands nothing to.
fn aside(address: SocketAddr) -> String {
    format!("127.0.0.2:{}", address.port())
}

/// Writes `listen.data` into a file that has none.
fn added(checks: &Checks<'_>, address: &str, text: &str) -> Fix {
    let entry = format!("data = {address:?}");
    if checks.root.has("listen") {
        Fix::add_key(text, checks.root.span_of("listen"), &entry)
    } else {
        Fix::append(text, &format!("[listen]\n{entry}"))
    }
}

/// Reports a data address to which tailscaled hands what comes in.
fn reachable(
    key: &str,
    address: SocketAddr,
    span: &Range<usize>,
    fix: Fix,
    problems: &mut Problems<'_>,
) {
    if !takes_tailnet(address.ip()) {
        return;
    }
    let message = format!(
        "admin.tailnet lets the tailnet in, and {key} on {address} would be open to all of it"
    );
    let help = "write 127.0.0.2, to which tailscaled hands nothing; or let clients present a \
                token, with listen.token";
    problems
        .at(codes::OPEN_TO_TAILNET, span, message)
        .help(help)
        .fix(fix);
}

/// Whether what comes in over the tailnet can reach a listener on `ip`.
fn takes_tailnet(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_unspecified()
                || ip.octets() == [127, 0, 0, 1]
                || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tailscaled_hands_what_comes_in_to_these_addresses_alone() {
        for (ip, takes) in [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("0.0.0.0", true),
            ("::", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:127.0.0.2", false),
            ("100.64.0.1", true),
            ("100.127.255.255", true),
            ("100.128.0.1", false),
            ("fd7a:115c:a1e0::1", true),
            ("172.17.0.2", false),
        ] {
            assert_eq!(takes_tailnet(ip.parse().unwrap()), takes, "{ip}");
        }
    }
}
