//! What `tailhop run` starts besides itself: the keys of `[run]`, and those of `[tailnet]` that are
//! about a tailscaled of our own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Scope;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, Kept, Table};
use crate::config::snapshot::{Admin, Credential, Login, Run, Tailscaled};
use crate::config::{codes, defaults};

pub(super) fn read(scope: &Scope<'_>, admin: &Admin, problems: &mut Problems<'_>) -> Run {
    let stop = scope.root.table("run").get::<Duration>("stop");
    let table = scope.root.table("tailnet");
    Run {
        tailscaled: tailscaled(table, problems),
        login: Login {
            credential: credential(scope, table, problems),
            hostname: hostname(table, problems),
            tags: tags(table, problems),
            server: server(table, problems),
            // Who is named there could not come in through them.
            shields: admin.tailnet.is_empty(),
        },
        stop: stop.map_or(defaults::STOP, |stop| stop.value),
    }
}

fn tailscaled(table: &Table, problems: &mut Problems<'_>) -> Tailscaled {
    let Some(At { value, span }) = table.get::<&str>("tailscaled") else {
        return Tailscaled::Auto;
    };
    match value {
        "auto" => Tailscaled::Auto,
        "off" => Tailscaled::Off,
        name if name.is_empty() || (name.contains('/') && !Path::new(name).is_absolute()) => {
            let message = format!("tailnet.tailscaled cannot be {}", quote(name));
            problems
                .at(codes::VALUE, &span, message)
                .help("write \"auto\", \"off\", a program's name, or its whole path, from /");
            Tailscaled::Auto
        }
        program => Tailscaled::Program(PathBuf::from(program)),
    }
}

/// What admits the machine. It is not read here: an instance that has none still serves what is
/// not in the tailnet, and says what is missing.
fn credential(scope: &Scope<'_>, table: &Table, problems: &mut Problems<'_>) -> Option<Credential> {
    let key = table.get::<&Kept>("auth_key");
    let client = table.get::<&str>("client_id");
    if let (Some(_), Some(client)) = (&key, &client) {
        problems
            .at(
                codes::TWICE,
                &client.span,
                "tailnet.auth_key admits this machine already",
            )
            .help("keep one of the two");
    }
    if let (None, Some(audience)) = (&client, table.get::<&str>("audience")) {
        problems
            .at(
                codes::VALUE,
                &audience.span,
                "tailnet.audience is of no client",
            )
            .help("set tailnet.client_id, too");
    }
    if let Some(client) = &client
        && !table.has("tags")
    {
        problems
            .at(codes::VALUE, &client.span, "tailnet.client_id needs tags")
            .help("such a machine belongs to a tag: tags = [\"tag:tailhop\"]");
    }
    let in_variable = |name: &str| {
        let secret = scope
            .env
            .secret(name)
            .map(crate::words::secret::Secret::new);
        Credential::Env(name.to_owned(), secret)
    };
    match (key, client) {
        (Some(At { value, span }), _) => Some(match value {
            Kept::Env(name) => in_variable(name),
            Kept::File(path) => Credential::File(problems.beside(path, &span)),
        }),
        (None, Some(client)) => Some(Credential::Identity {
            client_id: client.value.to_owned(),
            audience: super::text(table, "audience"),
        }),
        (None, None) => (scope.env.secret(defaults::AUTH_KEY))
            .is_some()
            .then(|| in_variable(defaults::AUTH_KEY)),
    }
}

fn hostname(table: &Table, problems: &mut Problems<'_>) -> String {
    let Some(At { value, span }) = table.get::<&str>("hostname") else {
        return defaults::HOSTNAME.to_owned();
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if value.is_empty() || value.len() > 63 || !value.bytes().all(plain) {
        problems
            .at(
                codes::VALUE,
                &span,
                format!("tailnet.hostname cannot be {}", quote(value)),
            )
            .help("a name has 1 to 63 letters, digits or -, and no dot");
    }
    value.to_owned()
}

fn tags(table: &Table, problems: &mut Problems<'_>) -> Vec<String> {
    let tags = table.get::<&[At<String>]>("tags");
    let tags = tags.map(|tags| tags.value).unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    for At { value, span } in tags {
        let name = value.strip_prefix("tag:").unwrap_or_default();
        if name.is_empty() || !name.bytes().all(plain) {
            problems
                .at(codes::VALUE, span, format!("{} is no tag", quote(value)))
                .help("tags begin with \"tag:\", such as \"tag:tailhop\"");
        }
    }
    tags.iter().map(|tag| tag.value.clone()).collect()
}

fn server(table: &Table, problems: &mut Problems<'_>) -> Option<String> {
    let At { value, span } = table.get::<&str>("login_server")?;
    let url = value.trim_end_matches('/');
    let of_http = |url: &str| url.starts_with("https://") || url.starts_with("http://");
    if !of_http(url) || url.contains([' ', '@', '?', '#']) {
        problems
            .at(
                codes::VALUE,
                &span,
                format!("tailnet.login_server cannot be {}", quote(value)),
            )
            .help("write the origin of a control server, such as \"https://headscale.example\"");
    }
    Some(url.to_owned())
}
