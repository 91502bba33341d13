//! Moving collections from one Qdrant to another, and proving that both are the same.
//!
//! Owns what is asked of both sides and in which order. Must not know the command line or who is
//! active when. Invariants: nothing is ever changed at the source; nothing at the target that is
//! not this run's own, unless that was ordered; a run that ended anywhere can go on; memory is
//! bounded however large a collection is.

pub mod address;
pub mod compare;
pub mod copy;
pub mod decide;
pub mod digest;
pub mod id;
pub mod job;
pub mod pace;
pub mod progress;
pub mod qdrant;
pub mod ranges;
pub mod report;
pub mod run;
pub mod shape;
pub mod site;
pub mod state;

pub use self::address::of_url;
pub use self::job::Record;
pub use self::progress::Progress;
pub use self::report::{Collected, Report};
pub use self::run::{Pass, Run, Verify, Wanted};
pub use self::site::{Address, Site, Stop};
pub use self::state::{State, StateFile};
