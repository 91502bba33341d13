//! The HTTP/2 connections of one endpoint, for gRPC.
//!
//! Calls share them: another one is dialled when the streams that the other side allows run out.
//! Invariants: a connection that ended, or was told to end, gets no new call; what runs on it goes
//! on for as long as it works.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;

use super::dials::{Dials, Permit};
use super::live::Key;
use super::session::{Lane, Session};
use crate::config::snapshot::Network;
use crate::wire::Place;
use crate::wire::tls::Tls;
use crate::words::outcome::Failure;

/// More connections than this are not opened for want of streams: calls wait on those that are there.
const MOST: usize = 16;
/// How long one is kept that carries no call.
const KEEP: Duration = Duration::from_mins(2);

/// The HTTP/2 connections of one endpoint. Of the data thread only.
pub struct Sessions {
    /// Where it is dialled.
    pub place: Place,
    /// The authority that it is asked with.
    pub authority: HeaderValue,
    /// Dials in progress, shared by all who wait for a connection.
    pub dials: Dials<Lane>,
    /// `None` once the endpoint is retired.
    list: Mutex<Option<Vec<Arc<Session>>>>,
}

impl Sessions {
    /// None yet, of an endpoint that is known by `key`; `None`: it speaks no gRPC.
    pub(super) fn of(key: &Key) -> Option<Self> {
        let port = key.grpc_port?;
        let secure = key.url.as_ref().filter(|url| url.secure);
        let place = Place {
            host: Arc::clone(&key.host),
            port,
            direct: key.network == Network::Direct,
            tls: secure.map(|url| Tls::for_http2(url.roots.clone())),
        };
        Some(Self {
            authority: HeaderValue::from_str(&place.authority())
                .unwrap_or(HeaderValue::from_static("localhost")),
            place,
            dials: Dials::new(),
            list: Mutex::new(Some(Vec::new())),
        })
    }

    /// A place on a connection that is there.
    pub fn lane(&self) -> Option<Lane> {
        let mut list = self.locked();
        let list = list.as_mut()?;
        list.retain(|session| session.is_open());
        let free = list.iter().find_map(|session| session.lane(true));
        if free.is_some() || list.len() < MOST {
            return free;
        }
        let least = list.iter().min_by_key(|session| session.calls());
        least.map(|session| session.crowded(true))
    }

    /// A dial ended with `opened`: a place on the new connection, which goes to the first of those who
    /// wait; the others get places there as long as there are some.
    pub fn give(&self, permit: &Permit, opened: Result<Lane, Failure>) {
        let session = opened.as_ref().ok().map(Lane::session);
        let mut spare = self.dials.ended(permit, opened);
        let Some(session) = session else { return };
        while spare.is_none() {
            let Some(next) = session.lane(false) else {
                break;
            };
            spare = self.dials.offer(next);
        }
        if let Some(list) = self.locked().as_mut() {
            list.push(session);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.locked().as_ref().map_or(0, Vec::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops those that ended, and those that carried no call for long.
    pub(super) fn sweep(&self) {
        if let Some(list) = self.locked().as_mut() {
            list.retain(|session| session.is_open() && session.idle_for() < KEEP);
        }
    }

    /// Puts no new call on any of them.
    pub(super) fn clear(&self) {
        let dropped = self.locked().as_mut().map(std::mem::take);
        drop(dropped);
    }

    pub(super) fn close(&self) {
        let dropped = self.locked().take();
        drop(dropped);
    }

    fn locked(&self) -> MutexGuard<'_, Option<Vec<Arc<Session>>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
