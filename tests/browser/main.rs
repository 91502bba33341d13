//! The status page in a real browser: `page.mjs` drives it, this finds what that needs.
//!
//!     TAILHOP_SHOTS=docs   also takes the screenshots of the README into that folder

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn the_page_answers_in_two_languages_lives_and_takes_a_pin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (chromium, modules) = match (chromium(), modules(root)) {
        (Some(chromium), Ok(modules)) => (chromium, modules),
        (None, _) => return skip("Chromium is missing (Debian: chromium)"),
        (_, Err(why)) => return skip(&why),
    };
    let mut node = Command::new("node");
    node.arg(root.join("tests/browser/page.mjs"));
    node.args([
        env!("CARGO_BIN_EXE_tailhop").as_ref(),
        chromium.as_path(),
        &modules,
    ]);
    if let Some(folder) = std::env::var_os("TAILHOP_SHOTS") {
        node.arg(root.join(folder));
    }
    let output = match node.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => return skip(&format!("Node.js does not start: {error}")),
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    std::io::stdout().write_all(said.as_bytes()).unwrap();
}

fn chromium() -> Option<PathBuf> {
    let places = [
        "/usr/bin/chromium",
        "/usr/bin/chromium-browser",
        "/usr/bin/google-chrome",
    ];
    places.iter().map(PathBuf::from).find(|path| path.exists())
}

/// The folder of playwright and axe, from the cache or installed now.
fn modules(root: &Path) -> Result<PathBuf, String> {
    let output = Command::new(root.join("tests/rig/build.sh"))
        .arg("browser")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("tests/rig/build.sh: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("tests/rig/build.sh browser: {}", why.trim()));
    }
    let folder = said.split(' ').find(|word| word.starts_with('/'));
    folder
        .map(|folder| PathBuf::from(folder.trim()))
        .ok_or_else(|| format!("no folder in {said:?}"))
}

fn skip(why: &str) {
    let required = std::env::var_os("TAILHOP_REQUIRE_RIG").is_some_and(|value| value == "1");
    assert!(!required, "{why}");
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
