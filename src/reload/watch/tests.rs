//! Real files in a real directory, edited as people and tools edit them.

mod matrix;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// The most an edit may take with events; generous, as a test machine is busy.
const SOON: Duration = Duration::from_millis(400);
/// The most it may take by polling.
const POLLED: Duration = Duration::from_secs(3);

struct Rig {
    dir: TempDir,
    path: PathBuf,
    watcher: Watcher,
}

impl Rig {
    fn new(mode: Mode) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("routing.toml");
        fs::write(&path, "first").unwrap();
        Self::watching(dir, path, mode)
    }

    fn watching(dir: TempDir, path: PathBuf, mode: Mode) -> Self {
        let seen = vec![Seen::of(&read(&path))];
        let watcher = Watcher::new(vec![path.clone()], mode, seen);
        Self { dir, path, watcher }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Lets the watches be set.
    async fn begin(&mut self) {
        self.nothing_for(Duration::from_millis(30)).await;
    }

    async fn nothing_for(&mut self, length: Duration) {
        let seen = timeout(length, self.watcher.changed()).await;
        assert!(seen.is_err(), "{seen:?}");
    }

    async fn next(&mut self, within: Duration) -> Result<String, &'static str> {
        let seen = timeout(within, self.watcher.changed())
            .await
            .expect("a change in time");
        match &seen.files[0] {
            Ok(source) => Ok(source.text().to_owned()),
            Err(report) => Err(report.problems[0].code),
        }
    }

    async fn soon(&mut self) -> Result<String, &'static str> {
        self.next(SOON).await
    }
}

fn rename_over(rig: &Rig, text: &str) {
    fs::write(rig.at("new"), text).unwrap();
    fs::rename(rig.at("new"), &rig.path).unwrap();
}

#[tokio::test]
async fn every_way_to_save_a_file_is_seen_soon() {
    let mut rig = Rig::new(Mode::Auto);
    rig.begin().await;
    rename_over(&rig, "renamed");
    assert_eq!(rig.soon().await.as_deref(), Ok("renamed"));
    fs::write(&rig.path, "in place").unwrap();
    assert_eq!(rig.soon().await.as_deref(), Ok("in place"));
    fs::rename(&rig.path, rig.at("routing.toml~")).unwrap();
    fs::write(&rig.path, "vim").unwrap();
    assert_eq!(rig.soon().await.as_deref(), Ok("vim"));
    fs::remove_file(&rig.path).unwrap();
    fs::write(&rig.path, "anew").unwrap();
    assert_eq!(rig.soon().await.as_deref(), Ok("anew"));
    rename_over(&rig, "renamed again");
    assert_eq!(rig.soon().await.as_deref(), Ok("renamed again"));
    rig.nothing_for(Duration::from_millis(700)).await;
}

#[tokio::test]
async fn an_edit_is_seen_within_60_ms_of_its_close_or_rename() {
    let mut rig = Rig::new(Mode::Auto);
    rig.begin().await;
    let mut fastest = Duration::MAX;
    for index in 0..5 {
        rename_over(&rig, &index.to_string());
        let began = Instant::now();
        rig.soon().await.unwrap();
        fastest = fastest.min(began.elapsed());
    }
    // The fastest of some: the others tell of the machine.
    assert!(fastest < Duration::from_millis(60), "{fastest:?}");
}

#[tokio::test]
async fn polling_alone_sees_an_edit_within_three_seconds() {
    let mut rig = Rig::new(Mode::Poll);
    rig.begin().await;
    fs::write(&rig.path, "polled").unwrap();
    assert_eq!(rig.next(POLLED).await.as_deref(), Ok("polled"));
}

#[tokio::test(start_paused = true)]
async fn polling_takes_what_reads_equal_twice_500_ms_apart() {
    let mut rig = Rig::new(Mode::Poll);
    rig.begin().await;
    fs::write(&rig.path, "polled").unwrap();
    let began = Instant::now();
    assert_eq!(rig.next(POLLED).await.as_deref(), Ok("polled"));
    assert!(
        began.elapsed() <= Duration::from_millis(2501),
        "{:?}",
        began.elapsed()
    );
    rig.nothing_for(Duration::from_mins(1)).await;
}

#[tokio::test]
async fn a_half_write_with_a_pause_is_not_taken_for_the_whole() {
    let mut rig = Rig::new(Mode::Auto);
    rig.begin().await;
    let mut file = fs::File::create(&rig.path).unwrap();
    file.write_all(b"ha").unwrap();
    file.flush().unwrap();
    rig.nothing_for(Duration::from_millis(300)).await;
    file.write_all(b"lf").unwrap();
    drop(file);
    assert_eq!(rig.soon().await.as_deref(), Ok("half"));
}

#[tokio::test]
async fn empty_and_missing_files_are_errors_told_once() {
    let mut rig = Rig::new(Mode::Auto);
    rig.begin().await;
    fs::write(&rig.path, "").unwrap();
    assert_eq!(rig.next(Duration::from_secs(1)).await, Err("E006"));
    fs::remove_file(&rig.path).unwrap();
    assert_eq!(rig.next(Duration::from_secs(1)).await, Err("E001"));
    rig.nothing_for(Duration::from_millis(2500)).await;
    fs::write(&rig.path, "back").unwrap();
    assert_eq!(rig.soon().await.as_deref(), Ok("back"));
}

#[tokio::test]
async fn a_directory_that_vanishes_and_returns_is_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("conf");
    fs::create_dir(&conf).unwrap();
    let path = conf.join("routing.toml");
    fs::write(&path, "first").unwrap();
    let mut rig = Rig::watching(dir, path, Mode::Auto);
    rig.begin().await;
    fs::remove_dir_all(&conf).unwrap();
    assert_eq!(rig.next(Duration::from_secs(1)).await, Err("E001"));
    fs::create_dir(&conf).unwrap();
    fs::write(&rig.path, "back").unwrap();
    assert_eq!(
        rig.next(Duration::from_secs(1)).await.as_deref(),
        Ok("back")
    );
    rename_over(&rig, "edited");
    assert_eq!(rig.soon().await.as_deref(), Ok("edited"));
    fs::rename(&conf, rig.at("old")).unwrap();
    fs::create_dir(rig.at("new")).unwrap();
    fs::write(rig.at("new/routing.toml"), "swapped").unwrap();
    fs::rename(rig.at("new"), &conf).unwrap();
    assert_eq!(
        rig.next(Duration::from_secs(1)).await.as_deref(),
        Ok("swapped")
    );
    fs::write(&rig.path, "edited in the other").unwrap();
    assert_eq!(rig.soon().await.as_deref(), Ok("edited in the other"));
}

#[tokio::test]
async fn a_link_that_is_swapped_in_the_middle_of_the_path_is_seen_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let version = |name: &str| {
        let version = dir.path().join(name);
        fs::create_dir(&version).unwrap();
        fs::write(version.join("routing.toml"), name).unwrap();
    };
    version("..0");
    symlink("..0", dir.path().join("..data")).unwrap();
    let path = dir.path().join("routing.toml");
    symlink("..data/routing.toml", &path).unwrap();
    for name in ["..1", "..2", "..3"] {
        version(name);
    }
    let mut rig = Rig::watching(dir, path, Mode::Auto);
    rig.begin().await;
    for (name, before) in [("..1", "..0"), ("..2", "..1"), ("..3", "..2")] {
        symlink(name, rig.at("..data_tmp")).unwrap();
        fs::rename(rig.at("..data_tmp"), rig.at("..data")).unwrap();
        fs::remove_dir_all(rig.at(before)).unwrap();
        assert_eq!(rig.soon().await.as_deref(), Ok(name));
    }
    rig.nothing_for(Duration::from_millis(700)).await;
}

#[tokio::test]
async fn a_thousand_touches_without_a_change_are_nothing() {
    let mut rig = Rig::new(Mode::Auto);
    rig.begin().await;
    for _ in 0..500 {
        fs::write(&rig.path, "first").unwrap();
        rename_over(&rig, "first");
    }
    rig.nothing_for(Duration::from_millis(1200)).await;
}

#[tokio::test]
async fn a_file_that_may_not_be_read_for_a_time_comes_back() {
    let mut rig = Rig::new(Mode::Auto);
    rig.begin().await;
    let allow = |mode| fs::set_permissions(&rig.path, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o000);
    // Root may read everything.
    let refused = read(&rig.path).is_err();
    if refused {
        assert_eq!(rig.next(Duration::from_secs(1)).await, Err("E002"));
    } else {
        rig.nothing_for(Duration::from_millis(600)).await;
    }
    fs::set_permissions(&rig.path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&rig.path, "readable").unwrap();
    assert_eq!(rig.soon().await.as_deref(), Ok("readable"));
}

#[tokio::test]
async fn a_file_that_changes_every_10_ms_is_told_and_ends_on_the_last() {
    let mut rig = Rig::new(Mode::Auto);
    rig.begin().await;
    let path = rig.path.clone();
    let writer = tokio::spawn(async move {
        for index in 0..300 {
            fs::write(&path, format!("version {index}")).unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    });
    let mut told = 0;
    let last = loop {
        let text = rig.next(Duration::from_secs(6)).await;
        told += 1;
        if text.as_deref() == Ok("version 299") {
            break text;
        }
    };
    writer.await.unwrap();
    assert!(last.is_ok() && told > 1, "{told}");
    rig.nothing_for(Duration::from_millis(700)).await;
}

#[tokio::test]
async fn an_observation_has_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<_> = ["a.toml", "b.toml"]
        .map(|name| dir.path().join(name))
        .to_vec();
    fs::write(&paths[0], "a").unwrap();
    let seen = paths.iter().map(|path| Seen::of(&read(path))).collect();
    let mut watcher = Watcher::new(paths.clone(), Mode::Auto, seen);
    let none = timeout(Duration::from_millis(600), watcher.changed()).await;
    assert!(none.is_err(), "{none:?}");
    fs::write(&paths[1], "b").unwrap();
    let seen = timeout(SOON, watcher.changed()).await.unwrap();
    let texts: Vec<_> = seen
        .files
        .iter()
        .map(|file| file.as_ref().unwrap().text())
        .collect();
    assert_eq!(texts, ["a", "b"]);
}

/// Runs alone, in a process of its own: the descriptors of other tests come and go.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_descriptor_is_left_behind() {
    const ALONE: &str = "TAILHOP_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "reload::watch::tests::no_descriptor_is_left_behind";
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = test
            .args(["--exact", name])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(
            ended.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let mut rig = Rig::new(Mode::Auto);
    rig.begin().await;
    for index in 0..20 {
        let real = rig.at(&format!("real{index}"));
        fs::create_dir(&real).unwrap();
        fs::write(real.join("routing.toml"), index.to_string()).unwrap();
        symlink(real.join("routing.toml"), rig.at("link")).unwrap();
        fs::rename(rig.at("link"), &rig.path).unwrap();
        assert_eq!(rig.soon().await.as_deref(), Ok(index.to_string().as_str()));
    }
    descriptors_become(1).await;
    drop(rig);
    descriptors_become(0).await;
}

/// The thread that owned a watch closes it a moment after it was dropped.
#[cfg(target_os = "linux")]
async fn descriptors_become(count: usize) {
    for _ in 0..200 {
        if inotify_descriptors() == count {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{} inotify descriptors, not {count}", inotify_descriptors());
}

#[cfg(target_os = "linux")]
fn inotify_descriptors() -> usize {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().contains("inotify"))
        .count()
}
