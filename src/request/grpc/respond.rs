//! Errors of ours as gRPC says them: HTTP 200, no message, and a status with its text.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::super::attempt::Unanswered;
use super::super::call::Call;
use super::super::record::{REQUEST_ID, Record};
use super::super::respond::{Problem, REASON, problem_of};
use crate::api::grpc::{self, Code};
use crate::endpoint::live::Endpoint;
use crate::words::outcome::Failure;

/// The head, or the trailers, that say `problem`.
pub(super) fn words(problem: &Problem, record: &Record) -> HeaderMap {
    let id = record.id();
    let text = format!(
        "tailhop: {} Request {}.",
        problem.text,
        id.to_str().unwrap_or_default()
    );
    let full = problem.words.is_some();
    let code = Code::of(problem.status, full);
    let mut words = grpc::refusal(code, &text, problem.retry_after);
    words.insert(REASON, HeaderValue::from_static(problem.word));
    words.insert(REQUEST_ID, id);
    words
}

/// Answers with `problem`.
pub(super) fn refuse(to: &mut SendResponse<Bytes>, problem: &Problem, record: Box<Record>) {
    let mut response = Response::new(());
    *response.headers_mut() = words(problem, &record);
    if problem.gone {
        // A record that is dropped tells of a client that left.
        drop(record);
    } else {
        record.refused(problem.status, problem.word);
    }
    // It fails only if the client is gone.
    let _ = to.send_response(response, true);
}

/// What an answer that broke off ends with, for those who were told its head.
pub(super) fn trailers(
    call: &Call<'_>,
    (endpoint, failure): (&Arc<Endpoint>, Failure),
    record: &Record,
) -> HeaderMap {
    let why = Unanswered::Failed {
        failure,
        endpoint: Some(Arc::clone(endpoint)),
        missing: false,
    };
    let mut trailers = words(&problem_of(call, why), record);
    trailers.remove(CONTENT_TYPE);
    trailers
}

/// Says that what came is not a call. As gRPC's own servers do, in HTTP's words.
pub(super) fn not_a_call(to: &mut SendResponse<Bytes>, record: Box<Record>) {
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let mut problem = Problem::new(status, "not-grpc");
    problem.text += "this address takes gRPC calls only: POST with content-type application/grpc. \
                     The service's HTTP API has another address.";
    let mut response = Response::new(());
    *response.headers_mut() = words(&problem, &record);
    *response.status_mut() = status;
    record.refused(status, problem.word);
    let _ = to.send_response(response, true);
}
