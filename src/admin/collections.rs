//! The collections of backends as `/status` shows them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::live::Endpoint;

/// The collections of a backend, as it told last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collections {
    /// When.
    pub at: String,
    /// By name, or alias: how many points it has, where `require` names it.
    pub collections: BTreeMap<String, Option<u64>>,
}

/// What an endpoint told.
pub(super) fn of(endpoint: &Endpoint, show: impl Fn(Timestamp) -> String) -> Option<Collections> {
    let told = endpoint.collections.told()?;
    Some(Collections {
        at: show(told.at),
        collections: told.catalogue.0.clone(),
    })
}

impl Collections {
    /// For people.
    pub fn show(&self) -> String {
        let counted = self.collections.iter();
        let counted = counted.filter_map(|(name, points)| Some(format!("{name} {}", (*points)?)));
        let counted: Vec<_> = counted.collect();
        let all = self.collections.len();
        if counted.is_empty() {
            format!("{all} collections and aliases")
        } else {
            format!(
                "{all} collections and aliases, points: {}",
                counted.join(", ")
            )
        }
    }
}
