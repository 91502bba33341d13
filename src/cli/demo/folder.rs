//! A folder of our own among the temporary ones, removed when it is dropped.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Names tried: one that is taken belongs to a demo that was killed, or to somebody else.
const TRIES: u32 = 100;

/// The folder.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Self, String> {
        let place = std::env::temp_dir();
        let id = std::process::id();
        for number in 0..TRIES {
            let path = place.join(format!("tailhop-demo-{id}-{number}"));
            // Creating fails on anything that is there, so nobody else's folder is ever used.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(format!(
                        "cannot make a folder in {}: {error}",
                        place.display()
                    ));
                }
            }
        }
        Err(format!("cannot make a folder in {}", place.display()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // If it cannot be removed, the system will do it with its other temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
