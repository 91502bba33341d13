//! What `benches/paths.rs` times of this module's inside. Nothing else uses it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use tokio::time::Instant;

use super::fields::Fields;
use super::record::{End, Record};
use super::{Proxy, headers};
use crate::config::snapshot::Route;
use crate::endpoint::live::Endpoint;
use crate::plan::reason::Reason;
use crate::words::names::Kind;

/// Makes a request's header fields those for the upstream.
pub fn request_headers(headers: &mut HeaderMap, kind: Kind, path: &str) {
    let fields = Fields::of(headers);
    headers::for_upstream(headers, fields, (Version::HTTP_11, kind, path));
}

/// Makes an answer's header fields those for the client.
pub fn answer_headers(fields: &mut HeaderMap, route: &Route, upstream: &HeaderValue) {
    let view = headers::view(route, None, upstream, false);
    headers::for_client(fields, Version::HTTP_11, &view);
}

/// Writes down a request that `endpoint` answered.
pub fn record(proxy: &Arc<Proxy>, endpoint: &Arc<Endpoint>, reason: &Reason) {
    let id = proxy.ids.make();
    let asked = (Method::GET, "/qdrant/collections/papers".into());
    let mut record = Record::begin(proxy, id, Some(asked));
    record.at(endpoint, reason);
    record.answered(
        StatusCode::OK,
        endpoint.key.backend.as_str(),
        Instant::now(),
    );
    record.passed(250);
    record.finish(End::Complete, Instant::now());
}
