//! Where a request would go, and why: asks the very functions that traffic asks.
//!
//! The command line and `GET /explain` print what this makes. Pure but for the admin half, which
//! reads the verdicts.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use super::status::{Coming, comings, show_time};
use super::{Admin, Answer, TEXT, json, reply};
use crate::api;
use crate::api::collections::collection_of;
use crate::api::grpc;
use crate::config::instant;
use crate::config::snapshot::{BackendId, Route, Service, ServiceId, Snapshot, Timeouts};
use crate::plan::candidates::{Plan, plan};
use crate::plan::known::Known;
use crate::plan::reason::Refusal;
use crate::plan::route::{match_route, meaning, upstream_path};
use crate::plan::schedule::next_switch;
use crate::reload::store::Asked;
use crate::request::again::tried_again;
use crate::words::effect::{Effect, Meaning};
use crate::words::names::Kind;
use crate::words::units::show_duration;
use crate::words::verdict::Verdict;

/// What is asked.
pub struct Question<'q> {
    /// The request's method.
    pub method: &'q Method,
    /// The request's path, as the app sends it; what follows a `?` is left out.
    pub path: &'q str,
    /// Sent to the address of this service's own, without a prefix.
    pub service: Option<&'q str>,
    /// When.
    pub at: Timestamp,
    /// Where the verdicts are from, in words.
    pub verdicts: &'static str,
}

impl Question<'_> {
    /// The collection that a read names by its path.
    pub fn collection(&self, snapshot: &Snapshot, route: &Route) -> Option<Cow<'static, str>> {
        let kind = snapshot.service(route.service).kind;
        let upstream = upstream_path(route, kind, path_of(self.path));
        let named = (kind == Kind::Qdrant)
            .then(|| collection_of(&upstream))
            .flatten();
        named.map(|name| Cow::Owned(name.into_owned()))
    }
}

/// Without what follows a `?`.
fn path_of(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}

/// What is known of one endpoint.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its verdict, and what else the plan asks for.
    pub known: Known,
    /// What the verdict rests on; `None`: nobody told.
    pub evidence: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The request's method.
    pub method: String,
    /// The request's path, without a query.
    pub path: String,
    /// When, in the schedule's zone.
    pub at: String,
    /// Where the verdicts are from.
    pub verdicts: &'static str,
    /// The prefix that matched; none: the request is refused.
    pub route: Option<String>,
    /// Where the route leads.
    pub service: Option<String>,
    /// What the upstream sees of the path.
    pub upstream_path: Option<String>,
    /// The address of the service's own.
    pub listen: Option<String>,
    /// The address of its gRPC, of a call of a method there.
    pub grpc: Option<String>,
    /// What the request may do.
    pub effect: Option<&'static str>,
    /// The rule of the file that says so.
    pub rule: Option<String>,
    /// Its operation.
    pub op: Option<&'static str>,
    /// Whom orders and schedule name.
    pub active: Option<Active>,
    /// Who is asked, in order.
    pub candidates: Vec<Candidate>,
    /// Who is not, and why.
    pub excluded: Vec<Excluded>,
    /// Why nobody is.
    pub refusal: Option<&'static str>,
    /// The bounds that hold.
    pub timeouts: Vec<Bound>,
    /// What is done when something fails.
    pub again: Vec<Again>,
    /// The next planned switch.
    pub next_switch: Option<String>,
}

/// Whom orders and schedule name.
#[derive(Debug, Serialize)]
pub struct Active {
    /// The backend.
    pub backend: String,
    /// Who says so, in a word.
    pub why: String,
    /// The same in a sentence.
    pub sentence: String,
}

/// Somebody who is asked.
#[derive(Debug, Serialize)]
pub struct Candidate {
    /// The backend.
    pub backend: String,
    /// Why it stands here: what `x-tailhop-reason` will say.
    pub reason: String,
    /// Its verdict.
    pub verdict: &'static str,
    /// Its origin, if it is given by one.
    pub url: Option<String>,
    /// What the verdict rests on; none: no instance told.
    pub evidence: Option<String>,
}

/// Somebody who is not asked.
#[derive(Debug, Serialize)]
pub struct Excluded {
    /// The backend.
    pub backend: String,
    /// Why not, in a word.
    pub word: &'static str,
    /// The same in a sentence.
    pub reason: &'static str,
    /// Its verdict.
    pub verdict: &'static str,
}

/// A bound on the request.
#[derive(Debug, Serialize)]
pub struct Bound {
    /// Its key in `routing.toml`.
    pub name: &'static str,
    /// How long, such as `30s`, or `none`.
    pub value: String,
    /// What it bounds.
    pub of: &'static str,
}

/// What is done when something fails.
#[derive(Debug, Serialize)]
pub struct Again {
    /// What fails.
    pub when: &'static str,
    /// What is done then.
    pub then: &'static str,
}

/// The answer to `question`; `told` has what is known of a service's endpoints, in the order of its
/// backends.
pub fn explain(
    snapshot: &Snapshot,
    question: &Question<'_>,
    told: impl FnOnce(&Route) -> Vec<Told>,
) -> Explanation {
    let path = path_of(question.path);
    let nothing = Explanation::nothing(snapshot, question, path);
    let route = match question.service {
        None => match_route(snapshot, path),
        Some(name) => own(snapshot, name),
    };
    match (called(snapshot, question.service, path), route) {
        (Some((service, address)), _) => {
            let grpc = Some(address.to_string());
            Explanation { grpc, ..nothing }.of(snapshot, &service.whole, question, told)
        }
        (None, Some(route)) => nothing.of(snapshot, route, question, told),
        (None, None) => nothing,
    }
}

/// The service whose gRPC has a method of this path, and its address.
fn called<'s>(
    snapshot: &'s Snapshot,
    named: Option<&str>,
    path: &str,
) -> Option<(&'s Service, SocketAddr)> {
    let is_meant = |service: &&Service| named.is_none_or(|name| service.name.as_str() == name);
    let mut meant = snapshot.services.iter().filter(is_meant);
    meant
        .find_map(|service| Some((service, service.listen_grpc?)))
        .filter(|_| grpc::names_method(path))
}

/// The route of a service's own address.
fn own<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Route> {
    let mut services = snapshot.services.iter();
    let service = services.find(|service| service.name.as_str() == name)?;
    service.listen.map(|_| &service.whole)
}

impl Explanation {
    fn nothing(snapshot: &Snapshot, question: &Question<'_>, path: &str) -> Self {
        Self {
            method: question.method.as_str().to_owned(),
            path: path.to_owned(),
            at: show_time(snapshot, question.at),
            verdicts: question.verdicts,
            route: None,
            service: None,
            upstream_path: None,
            listen: None,
            grpc: None,
            effect: None,
            rule: None,
            op: None,
            active: None,
            candidates: Vec::new(),
            excluded: Vec::new(),
            refusal: None,
            timeouts: Vec::new(),
            again: Vec::new(),
            next_switch: None,
        }
    }

    fn of(
        mut self,
        snapshot: &Snapshot,
        route: &Route,
        question: &Question<'_>,
        told: impl FnOnce(&Route) -> Vec<Told>,
    ) -> Self {
        let told = &told(route)[..];
        let service = snapshot.service(route.service);
        let upstream = upstream_path(route, service.kind, &self.path).into_owned();
        let (meaning, rule) = if self.grpc.is_some() {
            (grpc::meaning(&self.path), None)
        } else {
            meaning(route, service.kind, question.method, &upstream)
        };
        let known: Vec<_> = told.iter().map(|told| told.known).collect();
        let plan = plan(snapshot, route.service, meaning, &known, question.at);
        self.route = Some(route.path.clone());
        self.service = Some(service.name.to_string());
        self.upstream_path = Some(upstream);
        self.listen = service.listen.map(|address| address.to_string());
        self.effect = Some(meaning.effect.as_str());
        self.rule = rule.map(|place| format!("{}: {}", place + 1, route.effects[place]));
        self.op = Some(meaning.op);
        let scene = Scene {
            snapshot,
            route,
            told,
        };
        self.excluded = scene.excluded(&plan);
        self.candidates = scene.candidates(&plan);
        self.refusal = plan.refusal.map(Refusal::sentence);
        self.timeouts = bounds(&route.timeouts, meaning);
        let others = self.candidates.len() > 1;
        self.again = tried_again(meaning.effect.changes(), others)
            .map(|(when, then)| Again { when, then })
            .collect();
        self.active = Some(Active {
            backend: snapshot.backend(plan.active.backend).name.to_string(),
            why: plan.active.why.as_str().to_owned(),
            sentence: plan.active.why.sentence(&snapshot.schedule.zone),
        });
        self.next_switch = next_switch(snapshot, route.service, question.at).map(|switch| {
            let to = &snapshot.backend(switch.to).name;
            format!("{} to {to}", show_time(snapshot, switch.at))
        });
        self
    }

    /// For people.
    pub fn show(&self) -> String {
        let mut text = format!("{} {} at {}\n", self.method, self.path, self.at);
        let (Some(route), Some(active)) = (&self.route, &self.active) else {
            return text
                + "  no route matches this path, or the service has no address of its own\n";
        };
        let or = |word: &Option<String>| word.clone().unwrap_or_default();
        let mut say = |what: &str, words: String| {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "  {what:<9} {words}");
        };
        say("route", format!("{route} to service {}", or(&self.service)));
        if let Some(grpc) = &self.grpc {
            say("gRPC on", grpc.clone());
        } else if let Some(listen) = &self.listen {
            say("also on", format!("{listen}, without a prefix"));
        }
        say("upstream", or(&self.upstream_path));
        let (effect, op) = (self.effect.unwrap_or_default(), self.op.unwrap_or_default());
        say("effect", format!("{effect} ({op})"));
        if let Some(rule) = &self.rule {
            say("by rule", rule.clone());
        }
        say("active", format!("{}: {}", active.backend, active.sentence));
        if let Some(refusal) = self.refusal {
            say("refused", format!("503: {refusal}"));
        }
        for (place, candidate) in self.candidates.iter().enumerate() {
            say(&format!("{}.", place + 1), candidate.show());
        }
        for Excluded {
            backend, reason, ..
        } in &self.excluded
        {
            say("not", format!("{backend}: {reason}"));
        }
        for Bound { name, value, of } in &self.timeouts {
            say(name, format!("{value}: {of}"));
        }
        for Again { when, then } in &self.again {
            say("if", format!("{when}: {then}"));
        }
        if let Some(next) = &self.next_switch {
            say("next", next.clone());
        }
        say("verdicts", self.verdicts.to_owned());
        text
    }
}

impl Candidate {
    fn show(&self) -> String {
        let Self {
            backend,
            reason,
            verdict,
            url,
            evidence,
        } = self;
        let at = url.as_ref().map(|url| format!(" at {url}"));
        let evidence = evidence.as_ref().map(|on| format!(": {on}"));
        let (at, evidence) = (at.unwrap_or_default(), evidence.unwrap_or_default());
        format!("{backend}{at}: {reason} [{verdict}{evidence}]")
    }
}

/// One question about one route.
struct Scene<'a> {
    snapshot: &'a Snapshot,
    route: &'a Route,
    told: &'a [Told],
}

impl Scene<'_> {
    fn candidates(&self, plan: &Plan) -> Vec<Candidate> {
        (plan.candidates.iter())
            .map(|candidate| Candidate {
                backend: self.name(candidate.backend),
                reason: candidate.reason.word().to_owned(),
                verdict: self.verdict(candidate.backend),
                evidence: (self.told(candidate.backend)).and_then(|told| told.evidence.clone()),
                url: (self.snapshot.backend(candidate.backend).url.as_ref())
                    .map(|url| url.origin()),
            })
            .collect()
    }

    fn excluded(&self, plan: &Plan) -> Vec<Excluded> {
        (plan.excluded.iter())
            .map(|(id, why)| Excluded {
                backend: self.name(*id),
                word: why.word(),
                reason: why.sentence(),
                verdict: self.verdict(*id),
            })
            .collect()
    }

    fn name(&self, backend: BackendId) -> String {
        self.snapshot.backend(backend).name.to_string()
    }

    fn verdict(&self, backend: BackendId) -> &'static str {
        self.told(backend)
            .map_or(Verdict::Unknown, |told| told.known.verdict)
            .as_str()
    }

    fn told(&self, backend: BackendId) -> Option<&Told> {
        let offering = &self.snapshot.service(self.route.service).backends;
        let place = offering.iter().position(|id| *id == backend)?;
        self.told.get(place)
    }
}

/// The bounds of a request of this meaning.
fn bounds(timeouts: &Timeouts, meaning: Meaning) -> Vec<Bound> {
    let (head, idle) = match meaning.effect {
        Effect::Inference => (Some(timeouts.head_inference), timeouts.idle_inference),
        Effect::Read => (Some(timeouts.head_read), timeouts.idle),
        Effect::Write | Effect::Admin => (timeouts.head_change, timeouts.idle),
    };
    let total = timeouts.total.filter(|_| !api::is_transfer(meaning));
    [
        (
            "race",
            Some(timeouts.race),
            "the head start of a dial, then another joins it",
        ),
        ("connect", Some(timeouts.connect), "one dial"),
        (
            "wait",
            Some(timeouts.wait),
            "until somebody can take it, then 503",
        ),
        (
            "start",
            Some(timeouts.start),
            "the same while tailscaled starts",
        ),
        ("head", head, "from the request sent to the answer's head"),
        ("idle", Some(idle), "between two pieces of a body"),
        ("total", total, "the whole request"),
    ]
    .into_iter()
    .map(|(name, length, of)| Bound {
        name,
        value: length.map_or("none".to_owned(), show_duration),
        of,
    })
    .collect()
}

/// What comes, for people.
pub fn show_timeline(coming: &[Coming]) -> String {
    if coming.is_empty() {
        return "nothing is planned\n".to_owned();
    }
    let lines = coming
        .iter()
        .map(|one| format!("{}  {}\n", one.at, one.text));
    lines.collect()
}

impl Admin {
    /// `GET /explain?method=..&path=..`, with `at`, `service`, or `timeline` alone.
    pub(super) fn explained(&self, query: &str) -> Answer {
        let live = self.store.live();
        let (snapshot, now) = (&live.snapshot, self.clock.now());
        if field(query, "timeline").is_some() {
            let lacks = |service: ServiceId, backend| {
                let require = &snapshot.service(service).require;
                let endpoint = live.endpoint(service, backend);
                endpoint.map_or_else(Vec::new, |endpoint| endpoint.missing(require))
            };
            return json(StatusCode::OK, &comings(snapshot, now, lacks));
        }
        let wrong = |why: &str| reply(StatusCode::BAD_REQUEST, TEXT, format!("{why}\n"));
        let at = field(query, "at").map(|at| instant(&at, &snapshot.schedule.zone));
        let at = match at.transpose() {
            Ok(at) => at,
            Err(why) => return wrong(&why),
        };
        let method = field(query, "method").unwrap_or("GET".to_owned());
        let (Ok(method), Some(path)) = (method.parse(), field(query, "path")) else {
            return wrong("ask as in /explain?method=GET&path=/ollama/api/tags");
        };
        let service = field(query, "service");
        let question = Question {
            method: &method,
            path: &path,
            service: service.as_deref(),
            at: at.unwrap_or(now),
            verdicts: match at {
                Some(_) => "unknown (another time)",
                None => "of this instance",
            },
        };
        let told = |route: &Route| {
            let endpoints = live.endpoints[route.service.0].iter();
            let named = question.collection(snapshot, route);
            let asked = Asked::default().of_collection(named);
            let told = endpoints.map(|endpoint| match at {
                Some(_) => Told::unknown(),
                None => Told {
                    known: live.known_of(route.service, endpoint, &asked),
                    evidence: Some(endpoint.judgement().evidence.to_string()),
                },
            });
            told.collect()
        };
        json(StatusCode::OK, &explain(snapshot, &question, told))
    }
}

impl Told {
    /// Nothing.
    pub fn unknown() -> Self {
        Self {
            known: Known::from(Verdict::Unknown),
            evidence: None,
        }
    }
}

/// The value of a field of a query, decoded once.
fn field(query: &str, name: &str) -> Option<String> {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    let decoded = decode(values.next()?);
    // Said twice, it could be read two ways.
    decoded.filter(|_| values.next().is_none())
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_decoded_once_and_said_once() {
        for (query, path) in [
            ("path=/a", Some("/a")),
            ("method=GET&path=%2Fa%252Fb", Some("/a%2Fb")),
            ("path=/a+b", Some("/a b")),
            ("path=%2", None),
            ("path=%zz", None),
            ("path=%ff", None),
            ("path=/a&path=/b", None),
            ("xpath=/a", None),
            ("", None),
        ] {
            assert_eq!(field(query, "path").as_deref(), path, "{query}");
        }
    }
}
