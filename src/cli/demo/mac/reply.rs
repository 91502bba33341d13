//! Answers of a stand-in: whole, or piece by piece at the pace of a small model.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep};

/// Between two words: ten a second, slow enough to see and to measure.
const PACE: Duration = Duration::from_millis(100);

/// An answer before it goes out.
pub(super) struct Reply {
    status: u16,
    kind: &'static str,
    body: Pieces,
}

/// A body of pieces.
pub(super) struct Pieces {
    left: VecDeque<Bytes>,
    /// Until the next piece may leave; `None`: at once.
    pace: Option<Pin<Box<Sleep>>>,
}

impl Reply {
    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::whole(status, "application/json", value.to_string())
    }

    pub(super) fn text(status: u16, text: &str) -> Self {
        Self::whole(status, "text/plain; charset=utf-8", text.to_owned())
    }

    /// Pieces that leave one by one.
    pub(super) fn stream(kind: &'static str, pieces: impl IntoIterator<Item = String>) -> Self {
        let body = Pieces {
            left: pieces.into_iter().map(Bytes::from).collect(),
            pace: Some(Box::pin(sleep(PACE))),
        };
        Self {
            status: 200,
            kind,
            body,
        }
    }

    fn whole(status: u16, kind: &'static str, text: String) -> Self {
        let body = Pieces {
            left: VecDeque::from([Bytes::from(text)]),
            pace: None,
        };
        Self { status, kind, body }
    }

    pub(super) fn into_response(self) -> Response<Pieces> {
        let mut response = Response::new(self.body);
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        response
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        if let Some(pace) = &mut self.pace {
            ready!(pace.as_mut().poll(context));
            pace.as_mut().reset(Instant::now() + PACE);
        }
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.pace, self.left.front()) {
            (None, Some(whole)) => SizeHint::with_exact(whole.len() as u64),
            (None, None) => SizeHint::with_exact(0),
            (Some(_), _) => SizeHint::default(),
        }
    }
}
