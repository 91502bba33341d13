//! The manifests of `sidecar/`, by `test_manifests.py` with the Python of the rig.

#[path = "../rig/parts.rs"]
#[allow(dead_code, reason = "only Python's part is wanted")]
mod parts;

use std::path::Path;
use std::process::Command;

#[test]
fn the_manifests_fit_their_platforms_and_agree_with_the_defaults() {
    let python = match parts::part("python") {
        Ok(folder) => folder.join("bin/python"),
        Err(why) => return parts::skip(&why),
    };
    let output = Command::new(python)
        .args(["-m", "pytest", "-v", "-p", "no:cacheprovider", "--color=no"])
        .arg("tests/sidecar")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("TAILHOP_BIN", env!("CARGO_BIN_EXE_tailhop"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout);
    parts::tell(&said);
    assert!(output.status.success(), "pytest failed:\n{said}");
}
