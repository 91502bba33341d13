//! What must be there before a rig can be built: root, namespaces, Go, and the parts that
//! `build.sh` builds once.
//!
//! Where something is missing, a test is skipped with the reason, or fails with
//! `TAILHOP_REQUIRE_RIG=1`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why there can be no rig here.
#[derive(Clone, Debug)]
pub(crate) struct Missing(pub(crate) String);

/// What only a look at the machine tells.
pub(crate) fn check_machine() -> Result<(), Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err(Missing("not root: network namespaces need it".into()));
    }
    if !on_path("go") {
        return Err(Missing("Go is missing: it builds tailscaled".into()));
    }
    Ok(())
}

/// The folder of a part, from the cache or built now, which takes minutes once.
pub(crate) fn part(name: &str) -> Result<PathBuf, Missing> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/build.sh");
    let missing = |why: String| Missing(format!("build.sh {name}: {why}"));
    let output = Command::new(&script)
        .arg(name)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| missing(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        return Err(missing(
            last.into_iter().rev().collect::<Vec<_>>().join(" / "),
        ));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    tell(said.trim());
    let line = said
        .lines()
        .find(|line| line.contains(&format!(": {name} ")));
    let folder = line.and_then(|line| line.split(' ').find(|word| word.starts_with('/')));
    folder
        .map(PathBuf::from)
        .ok_or_else(|| missing(format!("no folder in {said:?}")))
}

/// Skips a test: says why, or fails where the rig is required.
pub(crate) fn skip(why: &Missing) {
    let required = std::env::var_os("TAILHOP_REQUIRE_RIG").is_some_and(|value| value == "1");
    assert!(
        !required,
        "the rig is required and cannot be built: {}",
        why.0
    );
    tell(&format!("skipped: {}", why.0));
}

/// Says something that the test harness must not swallow.
pub(crate) fn tell(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}
