//! x
use crate::config::{Report, Source};
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// x
    Auto,
    /// x
    Poll,
}
/// x
pub struct Watcher;
impl Watcher {
    /// x
    pub fn new(_: Vec<std::path::PathBuf>, _: Mode) -> Self {
        Self
    }
    /// x
    pub async fn changed(&mut self) -> Vec<Result<Source, Report>> {
        std::future::pending().await
    }
}
