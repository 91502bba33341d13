//! Who is behind a connection of the admin listener.
//!
//! tailscaled in userspace mode makes inbound connections of the tailnet itself, from 127.0.0.1 to
//! 127.0.0.1, so an address proves nothing: tailscaled is asked, once a connection. Invariant: one
//! question at a time, and each ends, so that a flood of connections does not hold tailscaled's
//! lock; what cannot be told is never taken for a permission.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use crate::tailnet::localapi::{LocalApi, Whois};

/// For one's turn and the answer together. The command line waits 2 s for the whole.
const PATIENCE: Duration = Duration::from_millis(1500);

/// One connection, and who is behind it as far as that was asked.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its other end.
    pub(super) source: SocketAddr,
    who: OnceCell<Who>,
}

/// Who is behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Nobody of the tailnet.
    Outside,
    /// A person's machine.
    Person(String),
    /// A machine with tags, which is nobody's.
    Tagged { tags: Vec<String>, machine: String },
}

/// tailscaled could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown(pub(super) String);

/// Lets one ask at a time.
#[derive(Debug)]
pub(super) struct Desk(Semaphore);

impl Connection {
    pub(super) fn from(source: SocketAddr) -> Self {
        Self {
            source,
            who: OnceCell::new(),
        }
    }

    /// Asks tailscaled, unless it has answered for this connection before.
    pub(super) async fn who(&self, desk: &Desk, api: &LocalApi) -> Result<&Who, Unknown> {
        let ask = async {
            let _turn = desk.0.acquire().await;
            // On the heap: it is large, and every request would carry it.
            let answer = Box::pin(api.whois(self.source)).await;
            answer.map(Who::of).map_err(|why| Unknown(why.text))
        };
        let bounded = async {
            let late = || Unknown("tailscaled did not say in time who asks".to_owned());
            timeout(PATIENCE, ask).await.map_err(|_| late())?
        };
        self.who.get_or_try_init(|| bounded).await
    }
}

impl Desk {
    pub(super) const fn new() -> Self {
        Self(Semaphore::const_new(1))
    }
}

impl Who {
    fn of(answer: Option<Whois>) -> Self {
        match answer {
            None => Self::Outside,
            // Its login is the same for all of them, and no person's.
            Some(who) if !who.node.tags.is_empty() => Self::Tagged {
                tags: who.node.tags,
                machine: who.node.name.trim_end_matches('.').to_owned(),
            },
            Some(who) => Self::Person(who.user.login),
        }
    }

    /// Under which name `allowed` (logins, and tags with `tag:`) lets it in; `None`: it does not.
    pub(super) fn allowed(&self, allowed: &[String]) -> Option<String> {
        let (tags, logins): (Vec<_>, Vec<_>) =
            allowed.iter().partition(|entry| entry.starts_with("tag:"));
        match self {
            Self::Outside => None,
            Self::Person(login) => {
                let known = logins.iter().any(|entry| entry.eq_ignore_ascii_case(login));
                known.then(|| login.clone())
            }
            Self::Tagged { tags: own, machine } => {
                let tag = own.iter().find(|tag| tags.contains(tag))?;
                Some(format!("{machine} ({tag})"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_no_user_and_a_user_is_no_tag() {
        let who = |text: &str| {
            let answer = serde_json::from_str(text).unwrap();
            Who::of(Some(answer)).allowed(&["u@x.example".into(), "tag:ops".into()])
        };
        for (answer, allowed) in [
            (
                r#"{"UserProfile":{"LoginName":"u@x.example"}}"#,
                Some("u@x.example"),
            ),
            (
                r#"{"UserProfile":{"LoginName":"U@X.example"}}"#,
                Some("U@X.example"),
            ),
            (r#"{"UserProfile":{"LoginName":"v@x.example"}}"#, None),
            (r#"{"UserProfile":{"LoginName":"tag:ops"}}"#, None),
            (
                r#"{"Node":{"Name":"m.t.ts.net.","Tags":["tag:ops"]},"UserProfile":{"LoginName":"tagged-devices"}}"#,
                Some("m.t.ts.net (tag:ops)"),
            ),
            (
                r#"{"Node":{"Name":"m.","Tags":["tag:dev"]},"UserProfile":{"LoginName":"u@x.example"}}"#,
                None,
            ),
            (
                r#"{"Node":{"Name":"tag:ops","Tags":["u@x.example"]}}"#,
                None,
            ),
        ] {
            assert_eq!(who(answer).as_deref(), allowed, "{answer}");
        }
        assert_eq!(Who::Outside.allowed(&[String::new()]), None);
    }
}
