//! The request body before it goes upstream.
//!
//! Small bodies are read whole before the first dial, so that a further attempt costs a clone and
//! a client that breaks HTTP never costs a dial. Larger ones are sent once, as they come.
//! Invariant: all bodies held whole together stay under [`TOGETHER`] bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::call::Call;
use crate::api::models::PREFIX;
use crate::endpoint::connection::{Outgoing, of_client_body};
use crate::words::clock::Deadline;
use crate::words::effect::Effect;
use crate::words::outcome::{Failure, Kind};

/// Largest body read whole, in bytes.
pub(super) const WHOLE: usize = 64 * 1024;
/// The same for inference: images are part of prompts.
const WHOLE_INFERENCE: usize = 8 * 1024 * 1024;
/// All bodies held whole together, in bytes.
const TOGETHER: usize = 64 * 1024 * 1024;

/// What may still be held, in bytes.
#[derive(Clone)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// A request body, read as far as it will be read before it is sent.
pub(super) struct Payload {
    pub(super) body: Outgoing,
    reserved: Reserved,
}

/// A part of the budget, given back on drop.
pub(super) struct Reserved {
    bytes: usize,
    budget: Budget,
}

/// Reads `body` whole if it is small enough, or its beginning, where that is wanted as a `prefix`.
///
/// # Errors
/// The client broke HTTP, left, or sent nothing for `idle`.
pub(super) async fn read(
    call: &Call<'_>,
    mut body: Incoming,
    prefix: bool,
) -> Result<Payload, Failure> {
    let idle = call.idle_bound();
    let limit = if call.meaning.effect == Effect::Inference {
        WHOLE_INFERENCE
    } else {
        WHOLE
    };
    let mut reserved = Reserved::none(&call.proxy.budget);
    if body.is_end_stream() {
        return Ok(Payload {
            body: Outgoing::empty(),
            reserved,
        });
    }
    let large = body.size_hint().lower() > limit as u64;
    if large && !prefix {
        return Ok(Payload {
            body: Outgoing::stream(Bytes::new(), body, idle),
            reserved,
        });
    }
    let mut pieces = Pieces::None;
    let mut trailers = None;
    while let Some(frame) = next(call, &mut body).await? {
        let piece = match frame {
            Next::Data(piece) => piece,
            Next::Trailers(last) => {
                trailers = Some(Box::new(last));
                continue;
            }
        };
        let fits = reserved.bytes + piece.len() <= limit && reserved.grow(piece.len());
        pieces = pieces.and(piece);
        if !fits || large && reserved.bytes >= PREFIX {
            return Ok(Payload {
                body: Outgoing::stream(pieces.join(), body, idle),
                reserved,
            });
        }
    }
    let bytes = pieces.join();
    let body = match trailers {
        None => Outgoing::Whole(bytes),
        trailers => Outgoing::Trailed { bytes, trailers },
    };
    Ok(Payload { body, reserved })
}

/// What comes of a body.
enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The next piece of a body.
async fn next(call: &Call<'_>, body: &mut Incoming) -> Result<Option<Next>, Failure> {
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = paused(call) => {
                return Err(Failure::unsent(Kind::ClientBody, "the client stopped sending its body"));
            }
        };
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(Next::Data(data))),
                Ok(_) => {}
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return Ok(Some(Next::Trailers(trailers)));
                    }
                }
            },
            Some(Err(error)) => {
                return Err(Failure::unsent(of_client_body(&error), error.to_string()));
            }
        }
    }
}

/// Returns when a body has paused for too long.
pub(super) async fn paused(call: &Call<'_>) {
    let began = Instant::now();
    call.patient().await;
    Box::pin(Deadline::since(began, call.idle_bound()).passed()).await;
}

/// One piece is kept as it is, several are joined.
pub(super) enum Pieces {
    None,
    One(Bytes),
    Several(BytesMut),
}

impl Pieces {
    pub(super) fn and(self, piece: Bytes) -> Self {
        match self {
            Self::None => Self::One(piece),
            Self::One(first) => {
                let mut joined = BytesMut::with_capacity((first.len() + piece.len()) * 2);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&piece);
                Self::Several(joined)
            }
            Self::Several(mut joined) => {
                joined.extend_from_slice(&piece);
                Self::Several(joined)
            }
        }
    }

    pub(super) fn join(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(piece) => piece,
            Self::Several(joined) => joined.freeze(),
        }
    }
}

impl Budget {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(TOGETHER)))
    }
}

impl Payload {
    /// Whether it is sent as it comes, once.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.body, Outgoing::Stream { .. })
    }

    /// Another one, made of it.
    pub(super) fn instead(&self, bytes: Bytes) -> Self {
        Self {
            body: Outgoing::Whole(bytes),
            reserved: Reserved::none(&self.reserved.budget),
        }
    }

    /// What was read of it.
    pub(super) fn held_bytes(&self) -> &[u8] {
        match &self.body {
            Outgoing::Whole(bytes) | Outgoing::Trailed { bytes, .. } => bytes,
            Outgoing::Stream { prefix, .. } => prefix,
        }
    }

    /// Bytes of it that are in memory.
    pub(super) fn held(&self) -> usize {
        self.reserved.bytes
    }
}

impl Reserved {
    /// Nothing yet of `budget`.
    pub(super) fn none(budget: &Budget) -> Self {
        Self {
            bytes: 0,
            budget: budget.clone(),
        }
    }

    /// Bytes of it.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `more` bytes; whether there were as many.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let taken = self
            .budget
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(more)
            });
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_in_order_and_a_single_one_is_not_copied() {
        let one = Bytes::from_static(b"one");
        let kept = Pieces::None.and(one.clone()).join();
        assert_eq!(kept.as_ptr(), one.as_ptr());
        let three = Pieces::None
            .and(one)
            .and("two".into())
            .and("three".into())
            .join();
        assert_eq!(three, "onetwothree");
    }

    #[test]
    fn the_budget_is_given_back_and_never_overdrawn() {
        let budget = Budget::new();
        let mut first = Reserved {
            bytes: 0,
            budget: budget.clone(),
        };
        let mut second = Reserved {
            bytes: 0,
            budget: budget.clone(),
        };
        assert!(first.grow(TOGETHER));
        assert!(!second.grow(1));
        drop(first);
        assert!(second.grow(TOGETHER));
    }
}
