//! `tailhop explain`: asks the very functions that traffic asks.

use clap::Args;
use http::Method;
use jiff::Timestamp;

use super::run::render;
use super::{AdminArg, COULD_NOT_ASK, NO, ask, block_on, json, say};
use crate::admin::explain::{Explanation, Question, Told, explain, show_timeline};
use crate::admin::status::{Backend, Status, comings};
use crate::config::snapshot::{BackendId, Route, ServiceId, Snapshot};
use crate::config::{Environment, instant, load, read};
use crate::plan::known::{Known, Stocked};
use crate::words::verdict::Verdict;

/// Arguments of `explain`.
#[derive(Args)]
pub(super) struct Explain {
    /// The request's method.
    #[arg(required_unless_present = "timeline")]
    method: Option<Method>,
    /// The request's path, as the app sends it; of gRPC such as `/qdrant.Points/Query`.
    #[arg(required_unless_present = "timeline")]
    path: Option<String>,
    /// Sent to the address of this service's own (`listen` in its table), without a prefix.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// At another time, such as 2025-02-17, or 2025-02-17T00:00:00+09:00. Verdicts then count as
    /// unknown; without it they are asked from the running instance.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// List what changes by itself: switches to come, and orders that will end.
    #[arg(long, conflicts_with_all = ["method", "path", "service"])]
    timeline: bool,
    #[command(flatten)]
    admin: AdminArg,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self) -> u8 {
        let source = read(&self.admin.config.path());
        let snapshot = match source.and_then(|from| load(&from, &Environment::from_process())) {
            Ok(snapshot) => snapshot,
            Err(report) => {
                eprint!("{}", render(&report));
                return COULD_NOT_ASK;
            }
        };
        let at = self
            .at
            .as_ref()
            .map(|at| instant(at, &snapshot.schedule.zone));
        let at = match at.transpose() {
            Ok(at) => at,
            Err(why) => {
                eprintln!("error: --at: {why}");
                return COULD_NOT_ASK;
            }
        };
        let (Some(method), Some(path)) = (&self.method, &self.path) else {
            return self.timeline(&snapshot, at);
        };
        let explanation = self.explain(&snapshot, method, path, at);
        if self.json {
            say(&json(&explanation));
        } else {
            say(&explanation.show());
        }
        if explanation.candidates.is_empty() {
            NO
        } else {
            0
        }
    }

    fn timeline(&self, snapshot: &Snapshot, at: Option<Timestamp>) -> u8 {
        let status = self.running();
        let lacks = |service: ServiceId, backend| {
            let told = of_status(snapshot, service, backend, status.as_ref());
            told.map_or_else(Vec::new, |told| told.lacks.clone())
        };
        let coming = comings(snapshot, at.unwrap_or_else(Timestamp::now), lacks);
        say(&if self.json {
            json(&coming)
        } else {
            show_timeline(&coming)
        });
        0
    }

    fn explain(
        &self,
        snapshot: &Snapshot,
        method: &Method,
        path: &str,
        at: Option<Timestamp>,
    ) -> Explanation {
        let (status, verdicts) = match at {
            Some(_) => (None, "unknown (another time)"),
            None => match self.running() {
                Some(status) => (Some(status), "of the running instance"),
                None => (None, "unknown (no instance answers)"),
            },
        };
        let question = Question {
            method,
            path,
            service: self.service.as_deref(),
            at: at.unwrap_or_else(Timestamp::now),
            verdicts,
        };
        explain(snapshot, &question, |route| {
            let collection = question.collection(snapshot, route);
            told(snapshot, route, collection.as_deref(), status.as_ref())
        })
    }

    fn running(&self) -> Option<Status> {
        let token = self.admin.token();
        let asked = ask::get_with(self.admin.address(), "/status", token.as_ref());
        let (_, text) = block_on(asked).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// What the instance tells of a service's endpoints, in the order of its backends.
fn told(
    snapshot: &Snapshot,
    route: &Route,
    collection: Option<&str>,
    status: Option<&Status>,
) -> Vec<Told> {
    let of = |id: &BackendId| {
        let backend = of_status(snapshot, route.service, *id, status)?;
        let mut all = Verdict::ALL.iter();
        let verdict = *all.find(|verdict| verdict.as_str() == backend.verdict)?;
        // An older instance does not tell it.
        let evidence = Some(backend.evidence.clone()).filter(|evidence| !evidence.is_empty());
        let has = backend.collections.as_ref().zip(collection);
        let known = Known {
            stocked: match (backend.lacks.is_empty(), backend.awaited) {
                (false, _) => Stocked::Lacks,
                (true, true) => Stocked::Awaited,
                (true, false) => Stocked::Ready,
            },
            lacks: has.is_some_and(|(has, name)| !has.collections.contains_key(name)),
            ..Known::from(verdict)
        };
        Some(Told { known, evidence })
    };
    let offering = snapshot.service(route.service).backends.iter();
    offering
        .map(|id| of(id).unwrap_or_else(Told::unknown))
        .collect()
}

/// What the instance tells of one endpoint.
fn of_status<'s>(
    snapshot: &Snapshot,
    service: ServiceId,
    backend: BackendId,
    status: Option<&'s Status>,
) -> Option<&'s Backend> {
    let service = snapshot.service(service).name.as_str();
    let backend = snapshot.backend(backend).name.as_str();
    let told = (status?.services.iter()).find(|told| told.name == service)?;
    told.backends.iter().find(|told| told.name == backend)
}
