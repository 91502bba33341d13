//! `/ready` and `/health`: may traffic come, and is all well.

use http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;

use super::status::Status;
use super::{Admin, Answer, TEXT, json, reply};
use crate::words::verdict::{Tunnel, Verdict};

/// The whole answer of `/health`.
#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    instance: String,
    timestamp: String,
    checks: BTreeMap<String, Check>,
}

/// One check.
#[derive(Serialize)]
struct Check {
    ok: bool,
    status: Grade,
    detail: String,
}

/// How well it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Healthy,
    Degraded,
    Unhealthy,
}

impl Admin {
    /// Once it is asked, the configuration is loaded and the data listener accepts; a sleeping
    /// Mac is no reason to send traffic elsewhere, as there is no elsewhere. A tunnel of our own has
    /// to have been up once.
    /// Why not is told only to whom it is `shown`.
    pub(super) fn ready(&self, shown: bool) -> Answer {
        let (status, text) = if self.draining() {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
        } else if self.children.waits_for_tunnel() {
            let mut text = "waiting for the tailnet".to_owned();
            if shown {
                text = format!("{text}: {}", self.tailnet.view().detail);
            }
            text += "\n";
            (StatusCode::SERVICE_UNAVAILABLE, text)
        } else {
            (StatusCode::OK, "ready\n".to_owned())
        };
        reply(status, TEXT, text)
    }

    /// 503 only where no service can be served at all.
    pub(super) fn health(&self) -> Answer {
        let status = self.status();
        let checks = checks(&status);
        let worst = checks
            .values()
            .map(|check| check.status)
            .max()
            .unwrap_or(Grade::Healthy);
        let code = match worst {
            Grade::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
            Grade::Healthy | Grade::Degraded => StatusCode::OK,
        };
        let health = Health {
            status: worst.as_str(),
            version: env!("CARGO_PKG_VERSION"),
            instance: status.instance,
            timestamp: status.time,
            checks,
        };
        json(code, &health)
    }
}

fn checks(status: &Status) -> BTreeMap<String, Check> {
    let mut checks = BTreeMap::from([
        ("config".to_owned(), config(status)),
        ("tailnet".to_owned(), tailnet(status)),
    ]);
    for service in &status.services {
        let of = |name: &String| {
            service
                .backends
                .iter()
                .find(|backend| backend.name == *name)
        };
        let able = |backend: &super::status::Backend| !backend.drained && !lame(&backend.verdict);
        let active = of(&service.active.backend).is_some_and(able);
        let any = service.backends.iter().any(able);
        let waits = service.waits();
        let grade = match (active, any) {
            (true, _) if service.contradicts_schedule || waits.is_some() => Grade::Degraded,
            (true, _) => Grade::Healthy,
            (false, true) => Grade::Degraded,
            (false, false) => Grade::Unhealthy,
        };
        let mut detail = format!("active {}", service.active.backend);
        for backend in &service.backends {
            detail += &format!(", {} {}", backend.name, backend.verdict);
        }
        if service.contradicts_schedule {
            detail += "; ACTIVE_BACKEND contradicts the schedule";
        }
        if let Some(waits) = waits {
            detail += &format!("; {waits}");
        }
        checks.insert(
            format!("service:{}", service.name),
            Check::new(grade, detail),
        );
    }
    checks
}

fn config(status: &Status) -> Check {
    match (&status.config.rejected, status.config.stand_in) {
        (_, true) => Check::new(Grade::Degraded, "the stand-in copy is in use".to_owned()),
        (Some(rejected), _) => {
            let detail = format!("the file on disk has {} problems", rejected.count);
            Check::new(Grade::Degraded, detail)
        }
        (None, false) => Check::new(
            Grade::Healthy,
            format!("generation {}", status.config.generation),
        ),
    }
}

fn tailnet(status: &Status) -> Check {
    let grade = if status.tailnet.state == Tunnel::Up.as_str() {
        Grade::Healthy
    } else {
        Grade::Unhealthy
    };
    let detail = match status.tailnet.detail.as_str() {
        "" => status.tailnet.state.clone(),
        detail => format!("{}: {detail}", status.tailnet.state),
    };
    Check::new(grade, detail)
}

/// Whether a verdict means that work would rather go elsewhere.
fn lame(verdict: &str) -> bool {
    [Verdict::Suspect, Verdict::Asleep, Verdict::Down]
        .iter()
        .any(|lame| lame.as_str() == verdict)
}

impl Check {
    fn new(status: Grade, detail: String) -> Self {
        Self {
            ok: status == Grade::Healthy,
            status,
            detail,
        }
    }
}

impl Grade {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}
