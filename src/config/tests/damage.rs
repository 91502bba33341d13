//! Files that are broken, cut off or hostile.

use super::*;

#[test]
fn a_syntax_error_is_shown_and_does_not_hide_other_mistakes_nor_make_new_ones() {
    for (text, expected) in [
        // One line is broken: what is on other lines is still checked.
        (
            file("switch = [{ at = 2025-02-30, to = \"mac-dev1\" }]\n"),
            vec![("E010", 10)],
        ),
        (
            file("x = 1\nswitch = 5 6\n[tailnet]\ndial = \"sock5\"\n"),
            vec![("E011", 10), ("E010", 11), ("E014", 13)],
        ),
        (file("default = \"mac-dev1\"\n"), vec![("E010", 10)]),
        (file("just words\n"), vec![("E010", 10)]),
        (file("timezone = \"Asia/Tokyo\n"), vec![("E010", 10)]),
        (file("timezone =\n"), vec![("E010", 10)]),
        (
            file("[tailnet\ndial = \"sock5\"\n[listen]\nx = 1\n"),
            vec![("E010", 10), ("E011", 13)],
        ),
        // A bracket that is never closed swallows the rest: it is the one thing to say.
        (
            "[backends]\na = {\nb = {}\n[services]\nollama = {}\n".to_owned(),
            vec![("E010", 2)],
        ),
        (
            file("switch = [{ at = 2025-02-17, to = \"x\" }\n"),
            vec![("E010", 10)],
        ),
        (
            file("switch = [{ at = 2025-02-17, to = \"x\" ]\n"),
            vec![("E010", 10)],
        ),
    ] {
        let report = bad(&text, &[]);
        let found: Vec<_> = report
            .problems
            .iter()
            .map(|problem| (problem.code, problem.place.as_ref().unwrap().line))
            .collect();
        assert_eq!(found, expected, "{text}\n{}", report.render(false));
    }
}

#[test]
fn a_half_written_file_is_never_another_valid_file_silently() {
    // Where a file is cut between two lines TOML sees nothing wrong; what is left must be valid
    // by itself, or be reported.
    for end in 0..MAIN.len() {
        if !MAIN.is_char_boundary(end) {
            continue;
        }
        match load_with(&MAIN[..end], &[]) {
            Ok(snapshot) => assert!(!snapshot.services.is_empty() && !snapshot.backends.is_empty()),
            Err(report) => {
                assert!(report.errors() > 0);
                assert!(
                    report
                        .problems
                        .iter()
                        .all(|problem| !problem.message.is_empty())
                );
                report.render(false);
            }
        }
    }
}

#[test]
fn damaged_files_never_panic_and_every_error_has_a_message() {
    let full = file(
        "timezone = \"Asia/Tokyo\"\nswitch = [{ at = 2025-02-17, to = \"mac-dev1\" }]\n\
         [backends.old]\nhost = \"${HOST:-10.0.0.1}\"\n[timeouts]\nhead = \"5m\"\n\
         [[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\nreason = \"日本語\"\n\
         [[routes]]\npath = \"/o\"\nservice = \"ollama\"\n",
    );
    // xorshift: the same damage in every run.
    let mut seed: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    for _ in 0..3000 {
        let mut chars: Vec<char> = full.chars().collect();
        for _ in 0..=random(4) {
            let at = random(chars.len());
            match random(4) {
                0 => chars.truncate(at.max(1)),
                1 => drop(chars.remove(at)),
                2 => chars.insert(
                    at,
                    ['"', '[', '{', '\n', '$', '=', '\u{0}', '本'][random(8)],
                ),
                _ => chars.swap(at, 0),
            }
            if chars.len() < 2 {
                break;
            }
        }
        let text: String = chars.into_iter().collect();
        if let Err(report) = load_with(&text, &[]) {
            assert!(report.errors() > 0, "{text}");
            assert!(
                report
                    .problems
                    .iter()
                    .all(|problem| !problem.message.is_empty()),
                "{text}"
            );
            report.render(true);
        }
    }
}

#[test]
fn hostile_files_are_refused_in_reasonable_time() {
    let deep = "[".repeat(200_000);
    let nested = format!("a = {}", "[".repeat(200_000));
    let tables = format!("a = {}", "{ a = ".repeat(100_000));
    let lines = "x = \n".repeat(200_000);
    let keys = (0..50_000).fold(String::new(), format_line);
    for text in [deep, nested, tables, lines, keys] {
        let report = bad(&text, &[]);
        assert!(report.problems.len() <= 100);
        assert!(report.render(false).len() < 100_000);
    }
}

fn format_line(mut text: String, index: usize) -> String {
    use std::fmt::Write as _;
    writeln!(text, "k{index} = 1").unwrap();
    text
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_problem() {
    let text = format!("\u{feff}{}", file("").replace('\n', "\r\n"));
    good(&text, &[]);
    let (_, place, _) = one(
        &text.replace("default", "defalt"),
        &[("ACTIVE_BACKEND", "mac-dev1")],
    );
    assert_eq!(place, Some((9, 1)));
}
