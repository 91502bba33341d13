//! `[timeouts]`, everywhere it stands: a kind's defaults, the file's, a service's, a route's.

use std::time::Duration;

use super::Scope;
use crate::config::codes;
use crate::config::defaults;
use crate::config::fix::Fix;
use crate::config::problem::Problems;
use crate::config::raw::Table;
use crate::config::snapshot::Timeouts;
use crate::words::names::Kind;
use crate::words::units::show_duration;

/// The bounds of a service of this kind: the file's over the defaults.
pub(super) fn defaults(scope: &Scope<'_>, kind: Kind, problems: &mut Problems<'_>) -> Timeouts {
    let defaults = defaults::timeouts(kind, scope.env.on_cloud_run());
    over(defaults, scope.root.table("timeouts"), problems)
}

/// `base` with what `table` sets put over it.
pub(super) fn over(mut base: Timeouts, table: &Table, problems: &mut Problems<'_>) -> Timeouts {
    let length = |key: &str| table.get::<Duration>(key).map(|length| length.value);
    for (key, bound) in [
        ("race", &mut base.race),
        ("connect", &mut base.connect),
        ("wait", &mut base.wait),
        ("start", &mut base.start),
        ("probe", &mut base.probe),
    ] {
        *bound = length(key).unwrap_or(*bound);
    }
    // One word for all effects: who sets it knows what is behind it.
    if let Some(head) = length("head") {
        (base.head_inference, base.head_read, base.head_change) = (head, head, Some(head));
    }
    if let Some(idle) = length("idle") {
        (base.idle_inference, base.idle) = (idle, idle);
    }
    if let Some(total) = table.get::<Option<Duration>>("total") {
        base.total = total.value;
    }
    never_fires(base.total, table, problems);
    never_races(&base, table, problems);
    base
}

/// Warns of bounds that are set here and end after `total` has ended the request.
fn never_fires(total: Option<Duration>, table: &Table, problems: &mut Problems<'_>) {
    let Some(total) = total else { return };
    for key in ["race", "connect", "wait", "start", "head", "idle"] {
        let Some(bound) = table
            .get::<Duration>(key)
            .filter(|bound| bound.value >= total)
        else {
            continue;
        };
        let [bound_shown, total] = [bound.value, total].map(show_duration);
        let message = format!("{key} = {bound_shown} never fires: total = {total} ends it before");
        let help = if table.has("total") {
            "make it shorter than total, or leave it out"
        } else {
            "make it shorter than total, or set total here too"
        };
        let entry = table.entry(key);
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .once(codes::NEVER_FIRES, &bound.span, message)
            .help(help)
            .fix(fix);
    }
}

/// Warns of a second dial that would begin when the first one has ended.
fn never_races(base: &Timeouts, table: &Table, problems: &mut Problems<'_>) {
    let set = ["race", "connect"].into_iter().find(|key| table.has(key));
    let Some(key) = set.filter(|_| base.race >= base.connect) else {
        return;
    };
    let [race, connect] = [base.race, base.connect].map(show_duration);
    let message = format!("race = {race} never fires: connect = {connect} ends the dial before");
    let entry = table.entry(key);
    let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
    problems
        .once(codes::NEVER_FIRES, table.span_of(key), message)
        .help(format!(
            "leave {key} out: race adapts to how long dials usually take"
        ))
        .fix(fix);
}
