//! Every way to save a file, by events and by polling alone, of the file itself and of one beside it.

use std::path::Path;

use tokio::task::JoinSet;

use super::*;

/// A way in which something saves a file.
struct Way {
    name: &'static str,
    /// Lays out a folder in which the file says "first", and names the file.
    lay: fn(&Path) -> PathBuf,
    /// Saves another text, with a pause between the steps.
    save: &'static [Step],
}

type Step = fn(&Path, &Path, &str);

static WAYS: [Way; 12] = [
    Way {
        name: "renamed over",
        lay: plain,
        save: &[|folder, path, text| {
            fs::write(folder.join("new"), text).unwrap();
            fs::rename(folder.join("new"), path).unwrap();
        }],
    },
    Way {
        name: "in place",
        lay: plain,
        save: &[|_, path, text| fs::write(path, text).unwrap()],
    },
    Way {
        name: "removed and made anew",
        lay: plain,
        save: &[|_, path, text| {
            fs::remove_file(path).unwrap();
            fs::write(path, text).unwrap();
        }],
    },
    Way {
        name: "vim: the old one renamed to a backup, a new one written",
        lay: plain,
        save: &[|folder, path, text| {
            fs::write(folder.join("4913"), "").unwrap();
            fs::remove_file(folder.join("4913")).unwrap();
            fs::rename(path, folder.join("routing.toml~")).unwrap();
            fs::write(path, text).unwrap();
            fs::remove_file(folder.join("routing.toml~")).unwrap();
        }],
    },
    Way {
        name: "vim, backupcopy: a copy made, the old one written over",
        lay: plain,
        save: &[|folder, path, text| {
            fs::copy(path, folder.join("routing.toml~")).unwrap();
            fs::write(path, text).unwrap();
            fs::remove_file(folder.join("routing.toml~")).unwrap();
        }],
    },
    Way {
        name: "VS Code: cut to nothing, written, cut to length, synced",
        lay: plain,
        save: &[|_, path, text| {
            let mut file = fs::File::create(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.set_len(text.len() as u64).unwrap();
            file.sync_all().unwrap();
        }],
    },
    Way {
        name: "the same length and the same time",
        lay: plain,
        save: &[|_, path, text| {
            let before = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, text).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(before).unwrap();
        }],
    },
    Way {
        name: "a ConfigMap: the link to its data swapped",
        lay: |folder| {
            version(folder, "..0", "first");
            symlink("..0", folder.join("..data")).unwrap();
            symlink("..data/routing.toml", folder.join("routing.toml")).unwrap();
            folder.join("routing.toml")
        },
        save: &[|folder, _, text| {
            let before = fs::read_link(folder.join("..data")).unwrap();
            version(folder, &format!("..{text}"), text);
            symlink(format!("..{text}"), folder.join("..data_tmp")).unwrap();
            fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
            fs::remove_dir_all(folder.join(before)).unwrap();
        }],
    },
    Way {
        name: "a link to another file put in its place",
        lay: |folder| {
            fs::write(folder.join("first"), "first").unwrap();
            symlink("first", folder.join("routing.toml")).unwrap();
            folder.join("routing.toml")
        },
        save: &[|folder, path, text| {
            fs::write(folder.join(text), text).unwrap();
            symlink(text, folder.join("link")).unwrap();
            fs::rename(folder.join("link"), path).unwrap();
        }],
    },
    Way {
        name: "what a link leads to, in another folder",
        lay: |folder| {
            fs::create_dir(folder.join("elsewhere")).unwrap();
            fs::write(folder.join("elsewhere/x"), "first").unwrap();
            symlink("elsewhere/x", folder.join("routing.toml")).unwrap();
            folder.join("routing.toml")
        },
        save: &[|folder, _, text| fs::write(folder.join("elsewhere/x"), text).unwrap()],
    },
    Way {
        name: "a mounted folder exchanged for another",
        lay: mounted,
        save: &[|folder, _, text| {
            version(folder, "next", text);
            fs::rename(folder.join("mount"), folder.join("before")).unwrap();
            fs::rename(folder.join("next"), folder.join("mount")).unwrap();
            fs::remove_dir_all(folder.join("before")).unwrap();
        }],
    },
    Way {
        name: "a folder that vanishes and returns",
        lay: mounted,
        save: &[
            |folder, _, _| fs::remove_dir_all(folder.join("mount")).unwrap(),
            |folder, _, text| version(folder, "mount", text),
        ],
    },
];

fn plain(folder: &Path) -> PathBuf {
    fs::write(folder.join("routing.toml"), "first").unwrap();
    folder.join("routing.toml")
}

fn mounted(folder: &Path) -> PathBuf {
    version(folder, "mount", "first");
    folder.join("mount/routing.toml")
}

fn version(folder: &Path, name: &str, text: &str) {
    fs::create_dir(folder.join(name)).unwrap();
    fs::write(folder.join(name).join("routing.toml"), text).unwrap();
}

/// Saves three times in one way; each text is told, once.
async fn each_is_told(way: &'static Way, mode: Mode, is_beside: bool, within: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let path = (way.lay)(dir.path());
    let main = dir.path().join("main.toml");
    fs::write(&main, "main").unwrap();
    let own = if is_beside { &main } else { &path };
    let seen = vec![Seen::of(&read(own))];
    let mut watcher = Watcher::new(vec![own.clone()], mode, seen);
    if is_beside {
        watcher = watcher.beside(1, [path.clone()]);
        // The first look at it.
        timeout(within, watcher.changed()).await.unwrap();
    }
    let begun = timeout(Duration::from_millis(30), watcher.changed()).await;
    assert!(begun.is_err(), "{}: {begun:?}", way.name);
    for text in ["other", "fifth", "again"] {
        let (folder, named) = (dir.path().to_owned(), path.clone());
        let saving = tokio::spawn(async move {
            for step in way.save {
                step(&folder, &named, text);
                sleep(Duration::from_millis(20)).await;
            }
        });
        let seen = timeout(within, watcher.changed()).await;
        saving.await.unwrap();
        let seen = seen.unwrap_or_else(|_| panic!("{}: {text} is not seen", way.name));
        let file = seen.files.last().unwrap();
        let told = file.as_ref().map(Source::text);
        assert_eq!(told.ok(), Some(text), "{}, {mode:?}", way.name);
    }
    let more = timeout(Duration::from_millis(700), watcher.changed()).await;
    assert!(more.is_err(), "{}, {mode:?}: {more:?}", way.name);
}

#[tokio::test]
async fn every_way_is_seen_soon_by_events() {
    let mut all = JoinSet::new();
    for way in &WAYS {
        for is_beside in [false, true] {
            all.spawn(each_is_told(
                way,
                Mode::Auto,
                is_beside,
                Duration::from_secs(2),
            ));
        }
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn every_way_is_seen_by_polling_alone() {
    for way in &WAYS {
        for is_beside in [false, true] {
            each_is_told(way, Mode::Poll, is_beside, POLLED).await;
        }
    }
}

/// The time is tokio's and stands still while the files are read: 100 s of it are some of ours.
#[tokio::test(start_paused = true)]
async fn ten_thousand_changes_at_10_ms_end_on_the_last_by_polling_alone() {
    let mut rig = Rig::new(Mode::Poll);
    let path = rig.path.clone();
    let writer = tokio::spawn(async move {
        for index in 1..=10_000 {
            fs::write(&path, format!("version {index}")).unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    });
    let began = Instant::now();
    let mut told = 0;
    loop {
        let text = rig.next(Duration::from_secs(8)).await.unwrap();
        told += 1;
        if text == "version 10000" {
            break;
        }
    }
    writer.await.unwrap();
    assert!(told > 10, "told now and then: {told}");
    assert!(began.elapsed() < Duration::from_secs(108));
    rig.nothing_for(Duration::from_mins(1)).await;
}
