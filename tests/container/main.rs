//! The images, built without a daemon and run as their platform would: as PID 1, as 65532, with a
//! root that cannot be written to.
//!
//! It takes minutes for the first time, so it runs where `TAILHOP_REQUIRE_CONTAINER=1` asks for it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod image;

use image::{Image, Net, tell};

const MEBIBYTE: u64 = 1024 * 1024;
/// What the HEALTHCHECK of both images runs.
const HEALTH: [&str; 2] = ["/usr/local/bin/tailhop", "health"];

#[test]
fn the_sidecar_is_small_and_says_what_it_is_and_runs_on_a_root_that_it_cannot_write() {
    let Some(image) = Image::build("sidecar") else {
        return;
    };
    assert!(image.size() <= 60 * MEBIBYTE, "{} bytes", image.size());
    tell(&format!("sidecar: {} bytes unpacked", image.size()));
    assert_eq!(image.inspect("{{.OCIv1.Config.User}}"), "65532:65532");
    assert_eq!(
        image.inspect("{{.OCIv1.Config.Entrypoint}}"),
        "[/usr/local/bin/tailhop]"
    );
    assert_eq!(image.inspect("{{.OCIv1.Config.Cmd}}"), "[run]");
    assert_eq!(
        image.inspect("{{.Docker.Config.Healthcheck.Test}}"),
        "[CMD /usr/local/bin/tailhop health]"
    );
    for label in ["title", "description", "licenses", "version", "revision"] {
        let label =
            format!("{{{{index .OCIv1.Config.Labels \"org.opencontainers.image.{label}\"}}}}");
        assert_ne!(image.inspect(&label), "", "{label}");
    }
    let bill =
        std::fs::read_to_string(image.root.join("usr/share/doc/tailhop/sbom.cdx.json")).unwrap();
    let bill: serde_json::Value = serde_json::from_str(&bill).unwrap();
    let names: Vec<_> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    for name in ["tailhop", "hyper", "rustls", "ring"] {
        assert!(names.contains(&&name.into()), "{name} is not in the list");
    }

    let mut running = image.run(Net::Own, &[("ACTIVE_BACKEND", "macbook-m1")]);
    assert_eq!(running.until_says(&HEALTH), "live\n");
    assert_eq!(running.status("Uid"), "65532", "it is not root");
    assert!(
        !running.can_write("/etc/tailhop/x"),
        "the root can be written"
    );
    assert!(running.can_write("/tmp/x"), "tailscaled has no folder");
    // tailscaled of the image runs on this root, too.
    let version = image.inside(&["/usr/local/bin/tailscaled", "--version"]);
    assert!(version.status.success(), "{version:?}");
    assert_eq!(running.end(), 0);
}

#[test]
fn the_example_app_of_the_image_starts_on_a_root_that_it_cannot_write() {
    let Some(image) = Image::build("app") else {
        return;
    };
    assert_eq!(image.inspect("{{.OCIv1.Config.User}}"), "65532:65532");
    assert_eq!(
        image.inspect("{{.Docker.Config.Healthcheck.Test}}"),
        "[CMD /usr/local/bin/tailhop health]"
    );
    assert_eq!(
        image.inspect("{{.OCIv1.Config.Cmd}}"),
        "[run -- gunicorn app:create_app()]"
    );
    let version = image.inside(&["/usr/local/bin/tailhop", "--version"]);
    assert!(version.status.success(), "{version:?}");
    tell(&format!("app: {} bytes unpacked", image.size()));

    let mut running = image.run(
        Net::Own,
        &[("PORT", "9090"), ("TS_AUTHKEY", "tskey-auth-x")],
    );
    let ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/health').read())";
    let said = running.until_says(&["/venv/bin/python", "-c", ask]);
    assert!(said.contains("\"tailnet\":false"), "{said}");
    assert_eq!(running.until_says(&HEALTH), "live\n");
    // Its own tailscaled runs on this root, and has nobody to log in to.
    let said = running.until_says(&["/usr/local/bin/tailhop", "status"]);
    assert!(said.contains("child    tailscaled starting"), "{said}");
    // The app has the user of PID 1, and what admits the machine to the tailnet is not the app's.
    let peek = "import os\nfor of in ('environ', 'mem'):\n    try: open(f'/proc/1/{of}', 'rb').read(1)\n    \
        except PermissionError: print(of, os.getuid())";
    assert_eq!(
        running.until_says(&["/venv/bin/python", "-c", peek]),
        "environ 65532\nmem 65532\n"
    );
    assert_eq!(running.status("Uid"), "65532", "it is not root");
    assert!(!running.can_write("/app/x"), "the root can be written");
    assert_eq!(running.end(), 0);
}
