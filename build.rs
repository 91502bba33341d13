//! Tells the program its version with the commit it is of: what `TAILHOP_COMMIT` says, or, in a
//! release build, git. Other builds do without, so that a commit alone rebuilds nothing.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=TAILHOP_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let told = std::env::var("TAILHOP_COMMIT").ok();
    let told = told.filter(|commit| !commit.is_empty());
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = told.or_else(|| release.then(by_git).flatten());
    let version = env!("CARGO_PKG_VERSION");
    let version = commit.map_or(version.to_owned(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=TAILHOP_VERSION={version}");
}

/// What git says, where this is a repository of its own.
fn by_git() -> Option<String> {
    // A line for every commit that was ever checked out here.
    let log = Path::new(".git/logs/HEAD");
    if !log.exists() {
        return None;
    }
    println!("cargo::rerun-if-changed={}", log.display());
    let mut git = Command::new("git");
    let output = git
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    let commit = commit.trim().to_owned();
    (output.status.success() && !commit.is_empty()).then_some(commit)
}
