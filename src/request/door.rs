//! By which listener a request came, and so which routes it may take.

use crate::config::snapshot::{Route, Snapshot};
use crate::plan::route::match_route;
use crate::words::names::ServiceName;

/// A listener of ours, as far as requests are concerned. It outlives snapshots.
#[derive(Clone, Debug)]
pub enum Door {
    /// `listen.data`: every route, by its path.
    Main,
    /// `services.X.listen`: that service, whole.
    Service(ServiceName),
    /// `services.X.listen_grpc`: the gRPC of that service.
    Grpc(ServiceName),
}

impl Door {
    /// The route of a request for `path`.
    pub(super) fn route<'s>(&self, snapshot: &'s Snapshot, path: &str) -> Option<&'s Route> {
        match self {
            Self::Main => match_route(snapshot, path),
            // The file may know the service no longer; the address goes with a restart.
            Self::Service(name) | Self::Grpc(name) => snapshot
                .service_named(name)
                .map(|service| &service.whole)
                .filter(|_| path.starts_with('/')),
        }
    }
}
