//! `tailhop explain`: asks the very functions that traffic asks.

use std::fmt::Write as _;

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::Serialize;

use super::run::render;
use super::{AdminArg, COULD_NOT_ASK, NO, ask, block_on, json, say};
use crate::admin::status::{Status, show_time};
use crate::config::snapshot::{Route, Snapshot};
use crate::config::{Environment, load, read};
use crate::plan::candidates::{Plan, excluded, plan};
use crate::plan::reason::Refusal;
use crate::plan::route::{match_route, meaning, upstream_path};
use crate::plan::schedule::next_switch;
use crate::words::effect::Meaning;
use crate::words::verdict::Verdict;

/// Arguments of `explain`.
#[derive(Args)]
pub(super) struct Explain {
    /// The request's method.
    method: Method,
    /// The request's path, as the app sends it.
    path: String,
    /// Sent to the address of this service's own (`listen` in its table), without a prefix.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// At another time: an instant such as 2025-02-17T00:00:00+09:00. Verdicts then count as
    /// unknown; without it they are asked from the running instance.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    #[command(flatten)]
    admin: AdminArg,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// The answer.
#[derive(Serialize)]
struct Explanation {
    method: String,
    path: String,
    at: String,
    verdicts: &'static str,
    route: Option<String>,
    service: Option<String>,
    upstream_path: Option<String>,
    listen: Option<String>,
    effect: Option<&'static str>,
    rule: Option<String>,
    op: Option<&'static str>,
    active: Option<Active>,
    candidates: Vec<Candidate>,
    excluded: Vec<Excluded>,
    refusal: Option<&'static str>,
    next_switch: Option<String>,
}

#[derive(Serialize)]
struct Active {
    backend: String,
    why: String,
    sentence: String,
}

#[derive(Serialize)]
struct Candidate {
    backend: String,
    reason: String,
    verdict: &'static str,
    url: Option<String>,
    /// What the verdict rests on; none: no instance told.
    evidence: Option<String>,
}

#[derive(Serialize)]
struct Excluded {
    backend: String,
    reason: &'static str,
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
        let explanation = self.explain(&snapshot);
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

    fn explain(&self, snapshot: &Snapshot) -> Explanation {
        let now = self.at.unwrap_or_else(Timestamp::now);
        let path = self.path.split(['?', '#']).next().unwrap_or_default();
        let (status, verdicts) = match self.at {
            Some(_) => (None, "unknown (another time)"),
            None => match self.running() {
                Some(status) => (Some(status), "of the running instance"),
                None => (None, "unknown (no instance answers)"),
            },
        };
        let nothing = Explanation::nothing(
            self.method.as_str(),
            path,
            show_time(snapshot, now),
            verdicts,
        );
        match self.route(snapshot, path) {
            None => nothing,
            Some(route) => {
                let told = told(snapshot, route, status.as_ref());
                nothing.of(snapshot, route, &self.method, &told, now)
            }
        }
    }

    fn route<'s>(&self, snapshot: &'s Snapshot, path: &str) -> Option<&'s Route> {
        let Some(name) = &self.service else {
            return match_route(snapshot, path);
        };
        let mut services = snapshot.services.iter();
        let service = services.find(|service| service.name.as_str() == name)?;
        service.listen.map(|_| &service.whole)
    }

    fn running(&self) -> Option<Status> {
        let (_, text) = block_on(ask::get(self.admin.address(), "/status")).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// What the instance tells of one endpoint.
struct Told {
    verdict: Verdict,
    evidence: Option<String>,
}

/// What the instance tells of a service's endpoints, in the order of its backends.
fn told(snapshot: &Snapshot, route: &Route, status: Option<&Status>) -> Vec<Told> {
    let service = snapshot.service(route.service);
    let services = status.map(|status| status.services.iter());
    let mut of_name = services.into_iter().flatten();
    let found = of_name.find(|told| told.name == service.name.as_str());
    let of = |name: &str| {
        let mut backends = found?.backends.iter();
        let backend = backends.find(|backend| backend.name == name)?;
        let mut all = Verdict::ALL.iter();
        let verdict = *all.find(|verdict| verdict.as_str() == backend.verdict)?;
        // An older instance does not tell it.
        let evidence = Some(backend.evidence.clone()).filter(|evidence| !evidence.is_empty());
        Some(Told { verdict, evidence })
    };
    let unknown = || Told {
        verdict: Verdict::Unknown,
        evidence: None,
    };
    (service.backends.iter())
        .map(|id| of(snapshot.backend(*id).name.as_str()).unwrap_or_else(unknown))
        .collect()
}

impl Explanation {
    fn nothing(method: &str, path: &str, at: String, verdicts: &'static str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            at,
            verdicts,
            route: None,
            service: None,
            upstream_path: None,
            listen: None,
            effect: None,
            rule: None,
            op: None,
            active: None,
            candidates: Vec::new(),
            excluded: Vec::new(),
            refusal: None,
            next_switch: None,
        }
    }

    fn of(
        mut self,
        snapshot: &Snapshot,
        route: &Route,
        method: &Method,
        told: &[Told],
        now: Timestamp,
    ) -> Self {
        let service = snapshot.service(route.service);
        let upstream = upstream_path(route, service.kind, &self.path).into_owned();
        let (meaning, rule) = meaning(route, service.kind, method, &upstream);
        let verdicts: Vec<_> = told.iter().map(|told| told.verdict).collect();
        let plan = plan(snapshot, route.service, meaning, &verdicts, now);
        self.route = Some(route.path.clone());
        self.service = Some(service.name.to_string());
        self.upstream_path = Some(upstream);
        self.listen = service.listen.map(|address| address.to_string());
        self.effect = Some(meaning.effect.as_str());
        self.rule = rule.map(|place| format!("{}: {}", place + 1, route.effects[place]));
        self.op = Some(meaning.op);
        self.excluded = excluded_of(snapshot, route, meaning, &plan, now);
        self.candidates = candidates_of(snapshot, route, &plan, told);
        self.refusal = plan.refusal.map(Refusal::sentence);
        self.active = Some(Active {
            backend: snapshot.backend(plan.active.backend).name.to_string(),
            why: plan.active.why.as_str().to_owned(),
            sentence: plan.active.why.sentence(&snapshot.schedule.zone),
        });
        self.next_switch = next_switch(snapshot, route.service, now).map(|switch| {
            let to = &snapshot.backend(switch.to).name;
            format!("{} to {to}", show_time(snapshot, switch.at))
        });
        self
    }

    fn show(&self) -> String {
        let mut text = format!("{} {} at {}\n", self.method, self.path, self.at);
        // Writing into a String cannot fail.
        let (Some(route), Some(active)) = (&self.route, &self.active) else {
            return text
                + "  no route matches this path, or the service has no address of its own\n";
        };
        let or = |word: &Option<String>| word.clone().unwrap_or_default();
        let _ = writeln!(text, "  route     {route} to service {}", or(&self.service));
        if let Some(listen) = &self.listen {
            let _ = writeln!(text, "  also on   {listen}, without a prefix");
        }
        let _ = writeln!(text, "  upstream  {}", or(&self.upstream_path));
        let _ = writeln!(
            text,
            "  effect    {} ({})",
            self.effect.unwrap_or_default(),
            self.op.unwrap_or_default()
        );
        if let Some(rule) = &self.rule {
            let _ = writeln!(text, "  by rule   {rule}");
        }
        let _ = writeln!(text, "  active    {}: {}", active.backend, active.sentence);
        if let Some(refusal) = self.refusal {
            let _ = writeln!(text, "  refused   503: {refusal}");
        }
        for (place, candidate) in self.candidates.iter().enumerate() {
            let Candidate {
                backend,
                reason,
                verdict,
                url,
                evidence,
            } = candidate;
            let at = url
                .as_ref()
                .map_or(String::new(), |url| format!(" at {url}"));
            let evidence = evidence.as_ref().map(|on| format!(": {on}"));
            let evidence = evidence.unwrap_or_default();
            let _ = writeln!(
                text,
                "  {}.        {backend}{at}: {reason} [{verdict}{evidence}]",
                place + 1
            );
        }
        for Excluded { backend, reason } in &self.excluded {
            let _ = writeln!(text, "  not       {backend}: {reason}");
        }
        if let Some(next) = &self.next_switch {
            let _ = writeln!(text, "  next      {next}");
        }
        let _ = writeln!(text, "  verdicts  {}", self.verdicts);
        text
    }
}

fn candidates_of(snapshot: &Snapshot, route: &Route, plan: &Plan, told: &[Told]) -> Vec<Candidate> {
    let offering = &snapshot.service(route.service).backends;
    let of = |backend| {
        let place = offering.iter().position(|id| *id == backend);
        place.and_then(|place| told.get(place))
    };
    (plan.candidates.iter())
        .map(|candidate| Candidate {
            backend: snapshot.backend(candidate.backend).name.to_string(),
            reason: candidate.reason.word().to_owned(),
            verdict: of(candidate.backend)
                .map_or(Verdict::Unknown, |told| told.verdict)
                .as_str(),
            evidence: of(candidate.backend).and_then(|told| told.evidence.clone()),
            url: (snapshot.backend(candidate.backend).url.as_ref()).map(|url| url.origin()),
        })
        .collect()
}

fn excluded_of(
    snapshot: &Snapshot,
    route: &Route,
    meaning: Meaning,
    plan: &Plan,
    now: Timestamp,
) -> Vec<Excluded> {
    let offering = snapshot.service(route.service).backends.iter();
    offering
        .filter_map(|id| {
            let why = excluded(snapshot, route.service, meaning, &plan.active, *id, now)?;
            let backend = snapshot.backend(*id).name.to_string();
            Some(Excluded {
                backend,
                reason: why.sentence(),
            })
        })
        .collect()
}
