//! A new text for a file that is read at any moment.
//!
//! By rename where the file system can: then nobody ever sees half of it. Where it cannot (a single
//! file mounted into a container, a folder that is not ours), in place. Mode and owner stay.
//! Invariant: nothing is written unless the file holds, under a lock that others like us take, just
//! what it held before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Uid, fchown, flock};

/// Why a file was not written.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// Somebody else is changing it at this moment.
    Busy,
    /// We may not.
    ReadOnly(io::Error),
    /// It did not work.
    Failed(io::Error),
}

/// Keeps others like us from changing the files of a folder, where its file system has locks.
pub(super) fn lock(file: &Path) -> Result<Option<File>, Unwritten> {
    let Ok(folder) = File::open(folder(file)) else {
        return Ok(None);
    };
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Unwritten::Busy),
        // What was read is compared once more in any case.
        Err(_) => Ok(None),
    }
}

/// Gives the file at `path`, which is no link, the content `text`.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Unwritten> {
    match by_rename(path, text) {
        Ok(()) => Ok(()),
        Err(_) => in_place(path, text).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Unwritten::ReadOnly(error)
            }
            _ => Unwritten::Failed(error),
        }),
    }
}

fn by_rename(path: &Path, text: &str) -> io::Result<()> {
    let about = fs::metadata(path)?;
    if about.nlink() > 1 {
        return Err(io::Error::other(
            "it has another name, which would stay behind",
        ));
    }
    // Who may not write the file is not let round that by the folder.
    OpenOptions::new().write(true).open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.tailhop-{}", std::process::id()));
    let written = new_file(&beside, &about, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // It may never have been made.
        let _ = fs::remove_file(&beside);
        return written;
    }
    // The rename itself is to survive a crash; some file systems cannot say so.
    let _ = File::open(folder(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

fn new_file(path: &Path, about: &fs::Metadata, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (about.uid(), about.gid()) {
        let (user, group) = (Uid::from_raw(about.uid()), Gid::from_raw(about.gid()));
        fchown(&file, Some(user), Some(group))?;
    }
    file.set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Never empty in between: who reads meanwhile sees a mixture, which the watch waits out.
fn in_place(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

fn folder(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_stays_no_name_is_left_behind_and_a_second_name_sees_the_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        write(&path, "new").unwrap();
        let about = fs::metadata(&path).unwrap();
        assert_eq!(about.mode() & 0o7777, 0o640);
        assert_ne!(about.ino(), inode, "it was renamed into place");
        let other = dir.path().join("other.toml");
        fs::hard_link(&path, &other).unwrap();
        write(&path, "x").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "x");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn one_at_a_time_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        let first = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(Unwritten::Busy)));
        drop(first);
        assert!(lock(&path).is_ok());
    }
}
