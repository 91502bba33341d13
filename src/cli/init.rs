//! `tailhop init`: a first routing.toml, from what the environment already says.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;

use super::run::render;
use super::{COULD_NOT_ASK, ConfigArg, NO, say};
use crate::config::{Environment, Source, check};
use crate::words::names::is_name;

/// The machines of a first file, if nobody names others.
const MACHINES: [&str; 2] = ["macbook-m1", "mac-dev1"];

/// Arguments of `init`.
#[derive(Args)]
pub(super) struct Init {
    /// Where to write it [default: as --config].
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
    /// A machine, by its name in the tailnet; the first one is active first. Can be repeated
    /// [default: macbook-m1 and mac-dev1].
    #[arg(long = "backend", value_name = "NAME")]
    backends: Vec<String>,
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(super) fn run(self) -> u8 {
        let path = self.file.clone().unwrap_or_else(|| self.config.path());
        let text = match text(self.backends, |name| {
            let value = std::env::var(name).ok();
            value.filter(|value| !value.trim().is_empty())
        }) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("error: {error}");
                return COULD_NOT_ASK;
            }
        };
        if let Err(code) = write(&path, &text, self.force) {
            return code;
        }
        let source = Source::new(path.as_path(), text);
        let env = Environment::from_process();
        let (snapshot, report) = check(&source, &env, Timestamp::now());
        if !report.problems.is_empty() {
            eprintln!("{}", render(&report));
        }
        say(&format!(
            "wrote {0}\nnext: tailhop check {0} --live\n",
            path.display()
        ));
        if snapshot.is_some() { 0 } else { NO }
    }
}

/// The file for these machines and this environment.
fn text(
    mut machines: Vec<String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    if machines.is_empty() {
        machines = MACHINES.map(str::to_owned).to_vec();
    }
    let ordered = variable("ACTIVE_BACKEND").map(|name| name.trim().to_owned());
    machines.extend(ordered.filter(|name| !machines.contains(name)));
    if let Some(odd) = machines.iter().find(|name| !is_name(name)) {
        return Err(format!(
            "{odd:?} is no name: use ASCII letters, digits, - and _"
        ));
    }
    let mut text = String::from(
        "# Written by `tailhop init`. Every key, its default and its unit: `tailhop schema`.\n\n",
    );
    if let Some(name) = variable("TAILNET_NAME") {
        text += &format!("[tailnet]\nname = {:?}\n\n", name.trim());
    }
    text += "[backends]                  # machines, by their names in the tailnet\n";
    for name in &machines {
        text += &format!("{name} = {{}}\n");
    }
    text += "\n[services]                  # at http://127.0.0.1:8484/ollama and /qdrant\n\
             ollama = {}\nqdrant = {}\n";
    let [first, others @ ..] = machines.as_slice() else {
        return Ok(text);
    };
    text += &format!("\n[schedule]\ndefault = {first:?}\n");
    if let (Some(date), [other]) = (variable("SWITCH_DATE"), others) {
        let date = date.trim();
        text +=
            &format!("switch = [{{ at = {date:?}, to = {other:?} }}]   # SWITCH_DATE moves it\n");
    }
    Ok(text)
}

/// Writes the file; the exit code if that cannot be.
fn write(path: &Path, text: &str, force: bool) -> Result<(), u8> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        // What is wrong with the folder shows when the file is opened.
        let _ = fs::create_dir_all(folder);
    }
    let mut how = OpenOptions::new();
    how.write(true);
    if force {
        how.create(true).truncate(true);
    } else {
        how.create_new(true);
    }
    let written = how
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let path = path.display();
        if error.kind() == ErrorKind::AlreadyExists {
            eprintln!("error: {path} is there already");
            eprintln!("help: --force replaces it; another path writes beside it");
            return NO;
        }
        eprintln!("error: {path} cannot be written: {error}");
        COULD_NOT_ASK
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_file_is_valid_without_a_warning_whatever_the_environment_says() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        for (machines, env) in [
            (names(&[]), vec![]),
            (names(&["one"]), vec![]),
            (names(&["one", "two", "three"]), vec![]),
            (names(&[]), vec![("TAILNET_NAME", "tail1234")]),
            (names(&[]), vec![("SWITCH_DATE", "2025-02-17")]),
            (
                names(&[]),
                vec![
                    ("SWITCH_DATE", "2099-02-17"),
                    ("ACTIVE_BACKEND", "mac-dev1"),
                ],
            ),
            (names(&["one"]), vec![("ACTIVE_BACKEND", "two")]),
        ] {
            let variable = |name: &str| {
                let found = env.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let text = text(machines, variable).unwrap();
            let source = Source::new("routing.toml", text.as_str());
            let (snapshot, report) = check(
                &source,
                &Environment::from_pairs(env.iter().copied()),
                Timestamp::now(),
            );
            assert!(snapshot.is_some(), "{text}\n{}", report.render(false));
            assert_eq!(report.problems, [], "{text}\n{}", report.render(false));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert!(text(vec!["my mac".to_owned()], |_| None).is_err());
    }
}
