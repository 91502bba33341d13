//! Messages on their way: read before they are sent, sent upstream, and back to the client.
//!
//! Invariant: what was taken from one side is let flow on only as the other side takes it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use super::super::call::Call;
use super::super::payload::{Pieces, Reserved, WHOLE, paused};
use crate::api::grpc::{self, Messages};
use crate::words::outcome::{Failure, Kind};

/// What a client sends.
pub(super) enum Message {
    /// All of it; a further attempt sends a clone.
    Whole(Bytes),
    /// What was read, and the rest as it comes. Sent once.
    Stream { prefix: Bytes, rest: RecvStream },
}

impl Message {
    /// Bytes of it that were read.
    pub(super) const fn held(&self) -> usize {
        match self {
            Self::Whole(bytes) | Self::Stream { prefix: bytes, .. } => bytes.len(),
        }
    }
}

/// Reads what a client sends, if it is one small message; of anything else only what tells that.
///
/// # Errors
/// The client left, sent nothing for `idle`, or ended in the middle of a message.
pub(super) async fn read(
    call: &Call<'_>,
    mut body: RecvStream,
    reserved: &mut Reserved,
) -> Result<Message, Failure> {
    if !grpc::sends_one_message(call.path) && !body.is_end_stream() {
        let prefix = Bytes::new();
        return Ok(Message::Stream { prefix, rest: body });
    }
    let (mut pieces, mut messages) = (Pieces::None, Messages::default());
    loop {
        let piece = tokio::select! {
            biased;
            piece = body.data() => piece,
            () = paused(call) => return Err(stopped()),
        };
        let piece = match piece {
            None if messages.is_whole() => return Ok(Message::Whole(pieces.join())),
            None => {
                let detail = "it ended in the middle of a message";
                return Err(Failure::unsent(Kind::ClientBody, detail));
            }
            Some(Ok(piece)) => piece,
            Some(Err(error)) => return Err(Failure::unsent(of_client(&error), "the client left")),
        };
        let length = piece.len();
        let fits = reserved.bytes() + length <= WHOLE && reserved.grow(length);
        messages.see(&piece);
        pieces = pieces.and(piece);
        // What is held is not in its way any more.
        let _ = body.flow_control().release_capacity(length);
        if !fits {
            let prefix = pieces.join();
            return Ok(Message::Stream { prefix, rest: body });
        }
    }
}

fn stopped() -> Failure {
    Failure::unsent(Kind::ClientBody, "the client stopped sending its message")
}

/// Whose fault it is that a client's stream broke.
fn of_client(error: &h2::Error) -> Kind {
    if error.is_remote() || error.is_io() {
        Kind::ClientGone
    } else {
        Kind::ClientBody
    }
}

/// Sends what a client sends on, as it comes.
///
/// # Errors
/// The client broke off or stopped. That the other side takes no more is no error: its answer says why.
pub(super) async fn upload(
    mut to: SendStream<Bytes>,
    prefix: Bytes,
    mut rest: RecvStream,
    passed: Arc<AtomicU64>,
) -> Result<(), Failure> {
    if !prefix.is_empty() && send(&mut to, prefix).await.is_err() {
        return Ok(());
    }
    loop {
        let piece = tokio::select! {
            biased;
            piece = rest.data() => piece,
            // It answers without reading on, or is gone: what comes is told by its answer.
            _ = poll_fn(|cx| to.poll_reset(cx)) => return Ok(()),
        };
        match piece {
            None => {
                let trailers = rest.trailers().await.ok().flatten();
                let _ = match trailers {
                    Some(trailers) => to.send_trailers(trailers),
                    None => to.send_data(Bytes::new(), true),
                };
                return Ok(());
            }
            Some(Ok(piece)) => {
                let length = piece.len();
                passed.fetch_add(length as u64, Ordering::Relaxed);
                if send(&mut to, piece).await.is_err() {
                    return Ok(());
                }
                let _ = rest.flow_control().release_capacity(length);
            }
            Some(Err(error)) => {
                to.send_reset(Reason::CANCEL);
                return Err(Failure::sent(of_client(&error), "the client broke off"));
            }
        }
    }
}

/// Sends a piece, as far as the other side has room for it.
///
/// # Errors
/// The stream is over.
pub(super) async fn send(
    to: &mut SendStream<Bytes>,
    mut piece: Bytes,
) -> Result<(), Option<h2::Error>> {
    while !piece.is_empty() {
        to.reserve_capacity(piece.len());
        let mut room = to.capacity();
        while room == 0 {
            room = match poll_fn(|cx| to.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Err(Some(error)),
                None => return Err(None),
            };
        }
        let now = piece.split_to(room.min(piece.len()));
        to.send_data(now, false).map_err(Some)?;
    }
    Ok(())
}
