//! Who is active: drain, `ACTIVE_BACKEND`, pins, schedule, default, in this order.
//!
//! An order that names a backend which does not offer the service is passed over for it.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::known::Stocked;
use super::schedule;
use crate::config::snapshot::{BackendId, Drain, Pin, ServiceId, Snapshot};
use crate::words::effect::Effect;
use crate::words::names::Kind;

/// The active backend of a service for an effect, and who says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    /// The backend.
    pub backend: BackendId,
    /// Who says so.
    pub why: Why,
}

/// Who says which backend is active.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// The environment variable `ACTIVE_BACKEND`.
    ActiveBackend,
    /// A pin in the file.
    Pin(Pin),
    /// The schedule, since this instant.
    Schedule(Timestamp),
    /// What was active before a switch that is held since this instant: its backend lacks what
    /// `require` names.
    Held(Timestamp),
    /// `schedule.default`, of writes: the switch that passed then moves reads alone.
    WritesStay(Timestamp),
    /// `schedule.default`: no switch has passed.
    Default,
    /// Nobody: none of them names a backend that offers the service.
    OnlyOffer,
}

/// The active backend of `service` for requests of `effect`.
pub fn active(snapshot: &Snapshot, service: ServiceId, effect: Effect, now: Timestamp) -> Active {
    let offers = |id: &BackendId| snapshot.service(service).place_of(*id).is_some();
    if let Some(backend) = snapshot.active_backend.filter(offers) {
        return Active {
            backend,
            why: Why::ActiveBackend,
        };
    }
    if let Some(pin) = pin(snapshot, service, now) {
        let moves = pin.writes || !effect.changes() || !holds_data(snapshot, service);
        if moves && offers(&pin.to) {
            return Active {
                backend: pin.to,
                why: Why::Pin(pin.clone()),
            };
        }
    }
    let scheduled = by_schedule(snapshot, service, now);
    if effect.changes() && snapshot.service(service).switches_move_reads_alone() {
        owner(snapshot, service, &scheduled)
    } else {
        scheduled
    }
}

/// Who owns the writes where switches move reads alone and no order says it: the backend of
/// `schedule.default`, whatever the time is.
fn owner(snapshot: &Snapshot, service: ServiceId, scheduled: &Active) -> Active {
    let offering = snapshot.service(service);
    let default = snapshot.schedule.default;
    let (backend, why) = if offering.place_of(default).is_some() {
        (default, Why::Default)
    } else {
        (offering.backends[0], Why::OnlyOffer)
    };
    match scheduled.why {
        Why::Schedule(since) if scheduled.backend != backend => Active {
            backend,
            why: Why::WritesStay(since),
        },
        _ => Active { backend, why },
    }
}

/// The active backend without any order: by schedule and default.
pub fn by_schedule(snapshot: &Snapshot, service: ServiceId, now: Timestamp) -> Active {
    let (backend, switch) = schedule::scheduled(snapshot, service, now);
    let offering = snapshot.service(service);
    match (offering.place_of(backend).is_some(), switch) {
        (true, Some(switch)) => Active {
            backend,
            why: Why::Schedule(switch.at),
        },
        (true, None) => Active {
            backend,
            why: Why::Default,
        },
        // A snapshot has no service without a backend.
        (false, _) => Active {
            backend: offering.backends[0],
            why: Why::OnlyOffer,
        },
    }
}

/// The same as long as a planned switch is held whose backend is not `stocked` with what `require`
/// names. Whom the schedule named before stays active, unless that one lacks it as well.
pub fn held(
    snapshot: &Snapshot,
    service: ServiceId,
    active: Active,
    now: Timestamp,
    stocked: impl Fn(BackendId) -> Stocked,
) -> Active {
    let offering = snapshot.service(service);
    let Why::Schedule(since) = active.why else {
        return active;
    };
    let holds = offering.holds_switch && !offering.require.is_empty();
    if !holds || stocked(active.backend) == Stocked::Ready {
        return active;
    }
    let lacks = |id: BackendId| stocked(id) == Stocked::Lacks;
    let fits = |id: &BackendId| offering.place_of(*id).is_some() && !lacks(*id);
    match schedule::before(snapshot, service, now).find(fits) {
        Some(backend) => Active {
            backend,
            why: Why::Held(since),
        },
        None => active,
    }
}

/// The pin of `service` that holds now.
pub fn pin(snapshot: &Snapshot, service: ServiceId, now: Timestamp) -> Option<&Pin> {
    snapshot.pins.iter().find(|pin| {
        pin.until.is_none_or(|until| now < until)
            && pin
                .services
                .as_ref()
                .is_none_or(|list| list.contains(&service))
    })
}

/// The order, if one holds now, that no new work goes to `backend`.
pub fn drain(snapshot: &Snapshot, backend: BackendId, now: Timestamp) -> Option<&Drain> {
    let drain = snapshot.backend(backend).drain.as_ref();
    drain.filter(|drain| drain.until.is_none_or(|until| now < until))
}

/// Whether `ACTIVE_BACKEND` names another backend than the schedule.
pub fn contradicts_schedule(snapshot: &Snapshot, service: ServiceId, now: Timestamp) -> bool {
    let ordered = active(snapshot, service, Effect::Admin, now);
    ordered.why == Why::ActiveBackend
        && ordered.backend != by_schedule(snapshot, service, now).backend
}

/// Whether the pin that holds names another backend than the schedule.
pub fn pin_contradicts_schedule(snapshot: &Snapshot, service: ServiceId, now: Timestamp) -> bool {
    let ordered = active(snapshot, service, Effect::Read, now);
    matches!(ordered.why, Why::Pin(_))
        && ordered.backend != by_schedule(snapshot, service, now).backend
}

/// Whether the backends of `service` hold data that must not fork. Ollama's model store is
/// fetched again at will; anything else is somebody's data.
pub fn holds_data(snapshot: &Snapshot, service: ServiceId) -> bool {
    snapshot.service(service).kind != Kind::Ollama
}

impl Why {
    /// The word for it in headers, logs and metric labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ActiveBackend => "active-backend",
            Self::Pin(_) => "pin",
            Self::Schedule(_) => "schedule",
            Self::Held(_) => "held",
            Self::WritesStay(_) => "writes-stay",
            Self::Default => "default",
            Self::OnlyOffer => "only-offer",
        }
    }

    /// The whole reason, for people; instants in `zone`.
    pub fn sentence(&self, zone: &TimeZone) -> String {
        let at = |instant: &Timestamp| instant.to_zoned(zone.clone()).strftime("%F %T %:z");
        match self {
            Self::ActiveBackend => "ACTIVE_BACKEND says so".to_owned(),
            Self::Schedule(since) => format!("the schedule says so since {}", at(since)),
            Self::Held(since) => format!(
                "the switch of {} is held: its backend is not known to have what `require` names",
                at(since)
            ),
            Self::WritesStay(since) => format!(
                "the switch of {} moves reads alone: writes move by an order, `tailhop migrate --pin` \
                 or `tailhop pin --writes`",
                at(since)
            ),
            Self::Default => "schedule.default: no switch has passed".to_owned(),
            Self::OnlyOffer => {
                "neither orders nor schedule name a backend that offers it".to_owned()
            }
            Self::Pin(pin) => {
                let mut text = "pinned".to_owned();
                if let Some(by) = &pin.by {
                    text += &format!(" by {by}");
                }
                if let Some(until) = &pin.until {
                    text += &format!(" until {}", at(until));
                }
                if let Some(reason) = &pin.reason {
                    text += &format!(": {reason}");
                }
                text
            }
        }
    }
}
