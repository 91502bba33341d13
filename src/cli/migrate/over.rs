//! `migrate --pin`: hands the writes of a service over from one backend to another.
//!
//! Owns the order of it: writes are held, every instance has had the time to see that, a last pass
//! finds what was written until then, and one edit makes the target active. Invariant: no instance
//! sends a write to the source after the last pass began, and none to the target before it ended;
//! whatever goes wrong, writes go on where they went before.

use std::cell::RefCell;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::admin::orders::Order;
use crate::admin::status::show_time;
use crate::cli::order::Common;
use crate::config::snapshot::{Pin, ServiceId, Snapshot};
use crate::plan::orders::pin;

/// Who hands what over to whom.
pub(super) struct Handover {
    /// How orders are given.
    pub(super) common: Common,
    /// The service.
    pub(super) service: String,
    /// The backend whose data was moved.
    pub(super) from: String,
    /// The backend that is to own the writes.
    pub(super) to: String,
    /// For how long writes are held at most.
    pub(super) length: Duration,
    /// The order that makes it so again as it was.
    pub(super) back: RefCell<Option<Order>>,
}

impl Handover {
    /// Says what stands in the way of it, before anything is done.
    pub(super) fn could(&self) -> u8 {
        self.common.could(|snapshot, _| {
            not_beaten(snapshot)?;
            Ok(self.order())
        })
    }

    /// Holds the writes.
    pub(super) fn hold(&self) -> u8 {
        self.common.carry_out(|snapshot, now| {
            not_beaten(snapshot)?;
            let before = pin(snapshot, self.id(snapshot)?, now);
            let end = SignedDuration::try_from(self.length)
                .ok()
                .and_then(|length| now.checked_add(length).ok())
                .ok_or("--hold is too long")?;
            let hold = self.holding(snapshot, before, end);
            self.back.replace(Some(self.as_before(snapshot, before)));
            if let Order::Pin { until, .. } = &hold {
                let end = until.map_or("an order ends that".to_owned(), |until| {
                    format!("{} at the latest", show_time(snapshot, until))
                });
                let service = &self.service;
                eprintln!("writes of {service} are refused until the last pass is over, or {end}");
            }
            Ok(hold)
        })
    }

    /// Makes the target active, if writes were held all the time.
    pub(super) fn pin(&self) -> u8 {
        self.common.carry_out(|snapshot, now| {
            let held = pin(snapshot, self.id(snapshot)?, now).is_some_and(|pin| pin.hold_writes);
            if held {
                return Ok(self.order());
            }
            Err(
                "writes are not held any more, so that some may have come during the last pass; \
                 nothing was pinned; --resume --pin goes on, --hold 1h holds them for longer"
                    .to_owned(),
            )
        })
    }

    /// Lets writes go on where they went.
    pub(super) fn release(&self) {
        if let Some(order) = self.back.take() {
            self.common.carry_out(|_, _| Ok(order));
        }
    }

    fn order(&self) -> Order {
        Order::Pin {
            to: self.to.clone(),
            until: None,
            reason: format!("migrated from {}", self.from),
            services: Some(vec![self.service.clone()]),
            writes: true,
            hold_writes: false,
        }
    }

    /// Who owns the writes must not change when the hold ends by itself: one that takes the place of
    /// a pin of writes says the same and has no end.
    fn holding(&self, snapshot: &Snapshot, before: Option<&Pin>, end: Timestamp) -> Order {
        let owner = before.filter(|pin| pin.writes);
        Order::Pin {
            to: owner.map_or(self.from.clone(), |pin| name(snapshot, pin)),
            until: owner.is_none().then_some(end),
            reason: format!("its data is moved to {}", self.to),
            services: Some(vec![self.service.clone()]),
            writes: owner.is_some(),
            hold_writes: true,
        }
    }

    fn as_before(&self, snapshot: &Snapshot, before: Option<&Pin>) -> Order {
        let services = Some(vec![self.service.clone()]);
        match before.filter(|pin| !pin.hold_writes) {
            Some(pin) => Order::Pin {
                to: name(snapshot, pin),
                until: pin.until,
                reason: pin.reason.clone().unwrap_or("as before".to_owned()),
                services,
                writes: pin.writes,
                hold_writes: false,
            },
            None => Order::Unpin { services },
        }
    }

    fn id(&self, snapshot: &Snapshot) -> Result<ServiceId, String> {
        let named = |id: &ServiceId| snapshot.service(*id).name.as_str() == self.service;
        let gone = || format!("the configuration has no service {} any more", self.service);
        snapshot.service_ids().find(named).ok_or_else(gone)
    }
}

fn not_beaten(snapshot: &Snapshot) -> Result<(), String> {
    match snapshot.active_backend {
        Some(id) => Err(format!(
            "ACTIVE_BACKEND={} beats every pin: neither could writes be held nor would the pin \
             hold; unset it first",
            snapshot.backend(id).name
        )),
        None => Ok(()),
    }
}

fn name(snapshot: &Snapshot, pin: &Pin) -> String {
    snapshot.backend(pin.to).name.to_string()
}
