//! Where the way to a file can change: at each symbolic link on it, and at its end.
//!
//! Kubernetes and git-sync publish a new version by swapping a link in the middle of the path, so
//! watching the file's own directory is not enough.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows.
const LINKS_MAX: usize = 40;

/// The directories in which the way to a file can change, and their entries that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// With device and inode, as another directory may have taken the name.
    pub(super) dirs: BTreeSet<(PathBuf, u64, u64)>,
    /// Paths in those directories: links, the file, or what is missing.
    pub(super) entries: BTreeSet<PathBuf>,
}

impl Chain {
    /// The way to `path`, as far as it exists.
    pub(super) fn of(path: &Path) -> Self {
        let mut chain = Self::default();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut at = PathBuf::from("/");
        let mut rest = parts(&path);
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let entry = at.join(&part);
            let kind = fs::symlink_metadata(&entry).map(|about| about.file_type());
            match kind {
                Ok(kind) if kind.is_dir() && !rest.is_empty() => at = entry,
                Ok(kind) if kind.is_symlink() && links < LINKS_MAX => {
                    links += 1;
                    chain.add(&at, &entry);
                    let Ok(target) = fs::read_link(&entry) else {
                        break;
                    };
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    let after = std::mem::replace(&mut rest, parts(&target));
                    rest.extend(after);
                }
                // The file; or what is missing, in the deepest directory there is.
                _ => {
                    chain.add(&at, &entry);
                    break;
                }
            }
        }
        chain
    }

    fn add(&mut self, dir: &Path, entry: &Path) {
        if let Ok(about) = fs::metadata(dir) {
            self.dirs.insert((dir.to_owned(), about.dev(), about.ino()));
            self.entries.insert(entry.to_owned());
        }
    }
}

/// The names on a path; `..` is one.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// Whether the file is on a file system that other machines write to, where events are not
/// raised and looks are dear.
#[cfg(target_os = "linux")]
pub(super) fn is_network(path: &Path) -> bool {
    /// FUSE, NFS, SMB, CIFS, SMB2, 9p, Ceph, AFS, Lustre, GPFS, Coda, vboxsf.
    const NETWORK: [u32; 12] = [
        0x6573_5546,
        0x6969,
        0x517B,
        0xFF53_4D42,
        0xFE53_4D42,
        0x0102_1997,
        0x00C3_6400,
        0x5346_414F,
        0x0BD0_0BD0,
        0x4750_4653,
        0x7375_7245,
        0x786F_4256,
    ];
    let of = |path: &Path| rustix::fs::statfs(path).ok();
    let found = of(path).or_else(|| of(path.parent()?));
    // The magic numbers have 32 bits; the field is wider, and signed, on some machines.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the upper half is nothing or a copied sign"
    )]
    found.is_some_and(|about| NETWORK.contains(&(about.f_type as u32)))
}

/// Elsewhere nothing tells.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_network(_path: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn entries(path: &Path, root: &Path) -> Vec<String> {
        let short = |entry: &PathBuf| entry.strip_prefix(root).unwrap().display().to_string();
        Chain::of(path).entries.iter().map(short).collect()
    }

    #[test]
    fn a_chain_has_every_link_and_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/routing.toml"), "x").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/routing.toml", root.join("routing.toml")).unwrap();
        let found = entries(&root.join("routing.toml"), &root);
        assert_eq!(found, ["..1/routing.toml", "..data", "routing.toml"]);
        assert_eq!(Chain::of(&root.join("routing.toml")).dirs.len(), 2);
    }

    #[test]
    fn a_chain_ends_where_something_is_missing_and_a_loop_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        assert_eq!(entries(&root.join("a/b/routing.toml"), &root), ["a"]);
        symlink("two", root.join("one")).unwrap();
        symlink("one", root.join("two")).unwrap();
        assert_eq!(entries(&root.join("one"), &root), ["one", "two"]);
    }
}
