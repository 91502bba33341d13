//! `[schedule]` and `SWITCH_DATE`: who is active when.
//!
//! Invariant: switches are sorted by time, and no two of one service have the same instant.
//! Zones come from the bundled database, so that all instances agree whatever their image has.

use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::{Scope, variable};
use crate::config::codes;
use crate::config::defaults;
use crate::config::env::SWITCH_DATE;
use crate::config::fix::Fix;
use crate::config::moment::Moment;
use crate::config::problem::{Problems, nearest, quote};
use crate::config::raw::{At, Table};
use crate::config::snapshot::{BackendId, Schedule, ServiceId, Switch};

/// The zone of times without an offset; `None` if it is unknown, which is reported.
pub(super) fn zone(root: &Table, problems: &mut Problems<'_>) -> Option<TimeZone> {
    let zones = TimeZoneDatabase::bundled();
    let Some(At { value, span }) = root.table("schedule").get::<&str>("timezone") else {
        return zones.get(defaults::ZONE).ok();
    };
    if let Ok(zone) = zones.get(value) {
        return Some(zone);
    }
    let names: Vec<String> = zones
        .available()
        .map(|name| name.as_str().to_owned())
        .collect();
    let near = nearest(value, names.iter().map(String::as_str));
    let help = match near {
        Some(near) => format!("did you mean {near:?}?"),
        None => "write an IANA name, such as \"Asia/Tokyo\" or \"UTC\"".to_owned(),
    };
    let fix = near.map(|near| Fix::string(problems.text(), &span, near));
    problems
        .at(
            codes::VALUE,
            &span,
            format!("{} is no time zone", quote(value)),
        )
        .help(help)
        .fix(fix);
    None
}

pub(super) fn read(
    scope: &Scope<'_>,
    ordered: Option<BackendId>,
    problems: &mut Problems<'_>,
) -> Option<Schedule> {
    let table = scope.root.table("schedule");
    let default = default(scope, table, ordered, problems);
    let tables = table.tables("switch").unwrap_or_default();
    let mut switches: Vec<(Switch, Range<usize>)> = tables
        .iter()
        .filter_map(|table| switch(scope, table, problems))
        .collect();
    let readable = table.tables("switch").is_some() || !table.has("switch");
    let whole = readable && switches.len() == tables.len();
    switch_date(scope, default, whole.then_some(&mut switches), problems);
    switches.sort_by_key(|(switch, _)| switch.at);
    if whole {
        passed(scope, table, &switches, problems);
    }
    one_at_a_time(scope, &switches, problems);
    let switches = switches.into_iter().map(|(switch, _)| switch).collect();
    Some(Schedule {
        zone: scope.zone.clone()?,
        default: default?,
        switches,
    })
}

/// Active before the first switch: the one that is named, or the only one.
fn default(
    scope: &Scope<'_>,
    table: &Table,
    ordered: Option<BackendId>,
    problems: &mut Problems<'_>,
) -> Option<BackendId> {
    if table.has("default") {
        let to = scope.backend(table, "default", problems)?;
        let help = "for those say which in schedule.switch, with services = [..] and a past date";
        scope.offered_by(Some(&to), help, problems);
        return Some(to.value);
    }
    let first = scope.backends.first()?;
    let message = "which backend is active is not said: schedule.default is missing";
    let help = format!("add to [schedule]: default = \"{}\"", first.name);
    let place = scope
        .root
        .has("schedule")
        .then(|| scope.root.span_of("schedule"));
    if scope.backends.len() > 1 {
        let (code, message) = match ordered {
            None => (codes::MISSING, message.to_owned()),
            Some(_) => (
                codes::ASSUMED_DEFAULT,
                format!("{message}; taken is {}", first.name),
            ),
        };
        let entry = format!("default = \"{}\"", first.name);
        let text = problems.text();
        let problem = if let Some(span) = place {
            let fix = Fix::add_key(text, span, &entry);
            problems.at(code, span, message).fix(fix)
        } else {
            let fix = Fix::append(text, &format!("[schedule]\n{entry}"));
            problems.outside(code, message).fix(fix)
        };
        problem.help(help);
    }
    (scope.backends.len() == 1 || ordered.is_some()).then_some(BackendId(0))
}

fn switch(
    scope: &Scope<'_>,
    table: &Table,
    problems: &mut Problems<'_>,
) -> Option<(Switch, Range<usize>)> {
    let at = scope.instant(table, "at", problems);
    let to = scope.backend(table, "to", problems);
    let services = scope.services_of(table, to.as_ref(), problems);
    let switch = Switch {
        at: at?,
        to: to?.value,
        services,
    };
    Some((switch, table.span_of("at").clone()))
}

/// Lets `SWITCH_DATE` move the one switch, or make the one there can be.
///
/// `switches` is `None` when some of them could not be read: how many there are is not the
/// question then.
fn switch_date(
    scope: &Scope<'_>,
    default: Option<BackendId>,
    switches: Option<&mut Vec<(Switch, Range<usize>)>>,
    problems: &mut Problems<'_>,
) {
    let Some((value, at)) = switch_date_instant(scope, problems) else {
        return;
    };
    let Some(switches) = switches else { return };
    let mut wrong = |what: &str, help: &str| {
        variable(codes::SWITCH_DATE, SWITCH_DATE, value, what, help, problems);
    };
    match switches.as_mut_slice() {
        [] if scope.backends.len() == 2 => {
            // Without a default, which was reported, there is no other one.
            let other = default.map(|default| BackendId(1 - default.0));
            let switch = |to| {
                (
                    Switch {
                        at,
                        to,
                        services: None,
                    },
                    0..0,
                )
            };
            switches.extend(other.map(switch));
        }
        [] => {
            let what = format!("does not say to which of {} backends", scope.backends.len());
            wrong(
                &what,
                "write a switch into [schedule], or unset the variable",
            );
        }
        [(switch, span)] if switch.at != at => {
            let replaced = scope.show(switch.at);
            let message = format!("SWITCH_DATE={value} replaces the switch at {replaced}");
            switch.at = at;
            let written = problems.text().get(span.clone()).unwrap_or_default();
            let quoted = written.starts_with(['"', '\'']);
            let date = if quoted {
                format!("\"{value}\"")
            } else {
                value.to_owned()
            };
            problems
                .at(codes::REPLACED, span, message)
                .label("not used")
                .help("unset SWITCH_DATE, or write the date here")
                .fix(Fix::replace(span, date));
        }
        [_] => {}
        several => {
            let what = format!("cannot say which of {} switches it moves", several.len());
            wrong(
                &what,
                "unset the variable and write the dates into [schedule]",
            );
        }
    }
}

/// Warns of switches that have passed: the last of them is what `default` is for, those before it
/// do nothing any more.
fn passed(
    scope: &Scope<'_>,
    table: &Table,
    switches: &[(Switch, Range<usize>)],
    problems: &mut Problems<'_>,
) {
    let tables = table.tables("switch").unwrap_or_default();
    let by_variable = scope.env.overlay(SWITCH_DATE).is_some();
    // One for some services gives them another default than the rest, and what the variable moves
    // it would make anew.
    let gone = |(switch, _): &&(Switch, _)| {
        switch.services.is_none() && !by_variable && problems.passed(switch.at)
    };
    let gone: Vec<_> = switches.iter().filter(gone).collect();
    let Some((last, _)) = gone.iter().max_by_key(|(switch, _)| switch.at) else {
        return;
    };
    for (switch, span) in &gone {
        let Some(written) = tables.iter().find(|table| table.span_of("at") == span) else {
            continue;
        };
        let (at, to) = (scope.show(switch.at), &scope.backends[switch.to.0].name);
        let without = taken_out(table, written, tables.len() == 1, problems.text());
        let (message, help, fix) = if switch.at == last.at {
            let default = Fix::string(problems.text(), table.span_of("default"), to.as_str());
            // With others beside it, those before it go first, and each has its own fix.
            let fix = (gone.len() == 1).then(|| default.and(without));
            (
                format!("this switch passed at {at}: {to} is active by the schedule since"),
                format!(
                    "once nobody needs the date: write default = \"{to}\", take the switch out"
                ),
                fix,
            )
        } else {
            let later = scope.show(last.at);
            (
                format!("this switch passed at {at}, and the one of {later} holds instead"),
                "take it out: it changes nothing".to_owned(),
                Some(without),
            )
        };
        problems
            .at(codes::PASSED, span, message)
            .help(help)
            .fix(fix);
    }
}

/// `schedule.switch` without `switch`, or no `schedule.switch`, if that is the `only` one.
fn taken_out(table: &Table, switch: &Table, only: bool, text: &str) -> Fix {
    let list = table.span_of("switch");
    let inline = text[list.start..].starts_with('[') && !text[list.start..].starts_with("[[");
    match table.entry("switch") {
        Some(entry) if inline && only => Fix::remove_key(text, &entry),
        _ => Fix::remove_table(text, &switch.span, switch.end()),
    }
}

/// The value of `SWITCH_DATE` and the instant it means.
fn switch_date_instant<'a>(
    scope: &Scope<'a>,
    problems: &mut Problems<'_>,
) -> Option<(&'a str, Timestamp)> {
    let value = scope.env.overlay(SWITCH_DATE)?;
    let Some(moment) = Moment::parse(value) else {
        let help = "write a date such as 2025-02-17, or unset it";
        variable(
            codes::SWITCH_DATE,
            SWITCH_DATE,
            value,
            "is no date",
            help,
            problems,
        );
        return None;
    };
    match moment.instant(scope.zone.as_ref()?) {
        Ok(at) => Some((value, at)),
        Err(ambiguous) => {
            let (message, help) = ambiguous.message_and_help(SWITCH_DATE);
            problems.outside(codes::SWITCH_DATE, message).help(help);
            None
        }
    }
}

/// Reports two switches of one service at one instant.
fn one_at_a_time(
    scope: &Scope<'_>,
    switches: &[(Switch, Range<usize>)],
    problems: &mut Problems<'_>,
) {
    for (index, (switch, span)) in switches.iter().enumerate() {
        let before = switches[..index]
            .iter()
            .rev()
            .take_while(|(other, _)| other.at == switch.at);
        for (other, first) in before {
            let both = |id: &ServiceId| is_for(switch, *id) && is_for(other, *id);
            let Some(id) = (0..scope.services.len()).map(ServiceId).find(both) else {
                continue;
            };
            let service = &scope.services[id.0].name;
            let line = problems.line(first.start);
            let message = format!(
                "service {service} has two switches at {}",
                scope.show(switch.at)
            );
            problems
                .at(codes::TWICE, span, message)
                .label(format!("the other is in line {line}"))
                .help("remove one, or move it");
            break;
        }
    }
}

fn is_for(switch: &Switch, service: ServiceId) -> bool {
    switch
        .services
        .as_ref()
        .is_none_or(|services| services.contains(&service))
}
