//! `pin` and `ACTIVE_BACKEND`: orders that make a backend active whatever the schedule says.
//!
//! Whether a pin has expired is not asked here: that is a matter of the time of a request.

use super::{Scope, text, variable};
use crate::config::codes;
use crate::config::env::ACTIVE_BACKEND;
use crate::config::fix::Fix;
use crate::config::problem::{Problems, suggest};
use crate::config::raw::Table;
use crate::config::snapshot::{BackendId, Pin, ServiceId};

/// The backend that the emergency order names.
pub(super) fn active_backend(scope: &Scope<'_>, problems: &mut Problems<'_>) -> Option<BackendId> {
    let value = scope.env.overlay(ACTIVE_BACKEND)?;
    let found = scope
        .backend_names()
        .position(|name| name == value)
        .map(BackendId);
    let Some(id) = found else {
        if !scope.root.lacks("backends", value) {
            return None;
        }
        let help = format!(
            "{}; or unset it",
            suggest(value, scope.backend_names()).help
        );
        let what = "is no backend of the file";
        variable(
            codes::ACTIVE_BACKEND,
            ACTIVE_BACKEND,
            value,
            what,
            help,
            problems,
        );
        return None;
    };
    if let Some(without) = scope.not_offered(id) {
        let message = format!(
            "ACTIVE_BACKEND: {}",
            scope.not_offered_message(id, &without)
        );
        problems
            .outside(codes::NOT_OFFERED, message)
            .help("those services have no active backend while it is set");
    }
    Some(id)
}

pub(super) fn pins(scope: &Scope<'_>, problems: &mut Problems<'_>) -> Vec<Pin> {
    let mut taken: Vec<Option<usize>> = vec![None; scope.services.len()];
    let mut pins = Vec::new();
    for table in scope.root.tables("pin").unwrap_or_default() {
        let Some(pin) = pin(scope, table, problems) else {
            continue;
        };
        one_each(scope, &pin, table, &mut taken, problems);
        pins.push(pin);
    }
    pins
}

fn pin(scope: &Scope<'_>, table: &Table, problems: &mut Problems<'_>) -> Option<Pin> {
    let to = scope.backend(table, "to", problems);
    let until = scope.instant(table, "until", problems);
    let services = scope.services_of(table, to.as_ref(), problems);
    let says = |key| table.get::<bool>(key).is_some_and(|it| it.value);
    let writes = says("writes");
    if let (true, Some(entry)) = (writes, table.entry("until")) {
        let fix = Fix::remove_key(problems.text(), &entry);
        problems
            .at(
                codes::WRITES_EXPIRE,
                table.span_of("until"),
                "a pin of writes cannot expire",
            )
            .help("remove until: who owns the writes never changes by a clock running out")
            .fix(fix);
    } else if let Some(until) = until.filter(|until| problems.passed(*until)) {
        let fix = Fix::remove_table(problems.text(), &table.span, table.end());
        problems
            .at(
                codes::EXPIRED,
                table.span_of("until"),
                format!("this pin ended at {}", scope.show(until)),
            )
            .help("take it out")
            .fix(fix);
    }
    if !writes && !table.has("until") {
        problems
            .at(codes::NO_END, table.span_of("to"), "this pin has no end")
            .help("add until, so that the schedule holds again");
    }
    Some(Pin {
        to: to?.value,
        until,
        reason: text(table, "reason"),
        by: text(table, "by"),
        services,
        writes,
        hold_writes: says("hold_writes"),
    })
}

/// Reports a second pin of one service. `taken` has the line of the first.
fn one_each(
    scope: &Scope<'_>,
    pin: &Pin,
    table: &Table,
    taken: &mut [Option<usize>],
    problems: &mut Problems<'_>,
) {
    let span = table.span_of("to");
    let line = problems.line(span.start);
    let is_for = |id| {
        pin.services
            .as_ref()
            .is_none_or(|ids| ids.contains(&ServiceId(id)))
    };
    let mut reported = false;
    for (id, slot) in taken.iter_mut().enumerate().filter(|(id, _)| is_for(*id)) {
        if let (Some(first), false) = (*slot, reported) {
            let service = &scope.services[id].name;
            let fix = Fix::remove_table(problems.text(), &table.span, table.end());
            problems
                .at(
                    codes::TWICE,
                    span,
                    format!("service {service} has two pins"),
                )
                .label(format!("the other is in line {first}"))
                .help("remove one; one that has expired does nothing any more")
                .fix(fix);
            reported = true;
        }
        slot.get_or_insert(line);
    }
}
