//! The text of one configuration file, and everything that can go wrong before it is parsed.
//!
//! Owns reading and hashing. Invariant: a [`Source`] that was read is a regular file of UTF-8
//! text of at most 1 MiB that is not blank. Never blocks on a pipe.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::codes::{self, Code};
use super::defaults::SMALLEST;
use super::problem::{Problem, Report};

/// A routing.toml has some kilobytes; what is larger is another file.
const SIZE_MAX: usize = 1 << 20;

/// The text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    path: PathBuf,
    text: String,
    hash: String,
}

impl Source {
    /// `text` as if it had been read from `path`.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            path: path.into(),
            hash: hex(&Sha256::digest(&text)),
            text,
        }
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of its bytes, in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// The text of the file at `path`.
///
/// # Errors
/// One problem: it is missing, cannot be read, is no regular file, too large, not UTF-8, or blank.
pub fn read(path: &Path) -> Result<Source, Report> {
    let bytes = bytes(path)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..at]);
        let line = 1 + before.matches('\n').count();
        let what = format!("is not UTF-8 text: byte {at}, in line {line}, belongs to no character");
        problem(codes::NOT_UTF8, path, &what, "save it as UTF-8")
    })?;
    if text.trim().is_empty() {
        let help = format!("the smallest valid file is\n\n{SMALLEST}");
        return Err(problem(codes::EMPTY, path, "is empty", &help));
    }
    Ok(Source::new(path, text))
}

pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Report> {
    let refused = |error: io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => problem(
            codes::MISSING_FILE,
            path,
            "does not exist",
            "name it with --config",
        ),
        _ => {
            let help = "tailhop must be allowed to read it and the directories above it";
            problem(
                codes::UNREADABLE,
                path,
                &format!("cannot be read: {error}"),
                help,
            )
        }
    };
    let file = open(path).map_err(refused)?;
    let about = file.metadata().map_err(refused)?;
    if !about.is_file() {
        let what = if about.is_dir() {
            "is a directory"
        } else {
            "is not a regular file"
        };
        return Err(problem(codes::NO_FILE, path, what, "name the file itself"));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells "too large" from "just fits" without reading it all.
    file.take(SIZE_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(refused)?;
    if bytes.len() > SIZE_MAX {
        let help = "a routing.toml has some kilobytes: is this another file?";
        return Err(problem(
            codes::TOO_LARGE,
            path,
            "is larger than 1 MiB",
            help,
        ));
    }
    Ok(bytes)
}

/// Opens without waiting for the other end of a named pipe.
fn open(path: &Path) -> io::Result<File> {
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
}

fn problem(code: Code, path: &Path, what: &str, help: &str) -> Report {
    let mut problem = Problem::new(code, format!("{} {what}", path.display()));
    problem.help(help);
    Report::of(problem)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_no_routing_toml_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let fifo = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        for (path, code, words) in [
            (dir.path().join("absent.toml"), "E001", "does not exist"),
            (put("file", b"x").join("below"), "E001", "does not exist"),
            (dir.path().to_owned(), "E003", "is a directory"),
            (fifo, "E003", "not a regular file"),
            (
                put("large", &vec![b'#'; 5 << 20]),
                "E004",
                "larger than 1 MiB",
            ),
            (
                put("latin1", b"# a\n# caf\xe9\n"),
                "E005",
                "byte 9, in line 2",
            ),
            (put("empty", b""), "E006", "is empty"),
            (put("blank", b" \n\t\n"), "E006", "is empty"),
        ] {
            let report = read(&path).unwrap_err();
            let problem = &report.problems[0];
            assert_eq!(problem.code, code, "{problem}");
            assert!(problem.message.contains(words), "{problem}");
            assert!(
                problem.message.contains(path.to_str().unwrap()),
                "{problem}"
            );
            assert!(problem.help.is_some(), "{problem}");
            assert_eq!(report.reason(), "io");
        }
    }

    #[test]
    fn a_file_of_just_one_mebibyte_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("routing.toml");
        fs::write(&path, vec![b'#'; SIZE_MAX]).unwrap();
        assert_eq!(read(&path).unwrap().text().len(), SIZE_MAX);
    }

    #[test]
    fn the_hash_is_sha_256_of_the_bytes() {
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(Source::new("x", "hello").hash(), hash);
    }
}
