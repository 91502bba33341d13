//! What the product says to its log in one test, at the finest level.
//!
//! All of an app is on the thread of its test, so the lines are kept by thread. The subscriber is
//! that of the whole process, as tracing caches for all threads whether anybody listens.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

use tracing::level_filters::LevelFilter;

thread_local! {
    static KEPT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Keeps what is said on this thread from now on.
pub(crate) fn listen() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
        let log = log.with_ansi(false).with_writer(|| Kept).finish();
        tracing::subscriber::set_global_default(log).unwrap();
    });
    KEPT.set(Some(Vec::new()));
}

/// What was said since.
pub(crate) fn heard() -> String {
    String::from_utf8(KEPT.take().unwrap()).unwrap()
}

struct Kept;

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        KEPT.with_borrow_mut(|kept| kept.iter_mut().for_each(|kept| kept.extend(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
