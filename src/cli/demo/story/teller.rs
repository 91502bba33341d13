//! Tells the steps as they go: a mark, what was observed, and what went wrong.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::super::say;
use super::super::stage::Stage;
use super::show;

/// What was observed, line by line, or what went wrong.
pub(super) type Step = Result<Vec<String>, String>;

/// More than any step needs: what hangs is told as a failure.
const STEP: Duration = Duration::from_secs(30);
/// Columns of text, when it is folded.
const WIDTH: usize = 100;

/// Who tells.
pub(super) struct Teller {
    began: Instant,
    told: u32,
    marks: Marks,
}

/// How right and wrong are shown.
struct Marks {
    right: &'static str,
    wrong: &'static str,
}

impl Teller {
    pub(super) fn begin(stage: &Stage) -> Self {
        let mut text = format!(
            "tailhop demo: nine steps, two stand-in Macs, http://{} before them\n",
            stage.data
        );
        for note in &stage.notes {
            text += "  (";
            text += note;
            text += ")\n";
        }
        say(&(text + "\n"));
        Self {
            began: Instant::now(),
            told: 0,
            marks: Marks::here(),
        }
    }

    /// Plays one step and tells it.
    pub(super) async fn step(
        &mut self,
        name: &str,
        step: impl Future<Output = Step>,
    ) -> Result<(), ()> {
        self.told += 1;
        let observed = timeout(STEP, step)
            .await
            .unwrap_or_else(|_| Err(format!("it did not end within {}", show(STEP))));
        let (mark, lines, result) = match observed {
            Ok(lines) => (self.marks.right, lines, Ok(())),
            Err(error) => (self.marks.wrong, vec![error], Err(())),
        };
        let mut text = format!("{mark} {}. {name}\n", self.told);
        for line in lines.iter().flat_map(|line| fold(line)) {
            text += "      ";
            text += &line;
            text += "\n";
        }
        say(&text);
        result
    }

    pub(super) fn end(&self, went_right: bool) {
        let took = show(self.began.elapsed());
        say(&if went_right {
            format!("\nAll {} steps went right, in {took}.\n", self.told)
        } else {
            format!("\nStep {} went wrong, after {took}.\n", self.told)
        });
    }
}

impl Marks {
    fn here() -> Self {
        let plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
        if plain {
            Self {
                right: "ok  ",
                wrong: "FAIL",
            }
        } else {
            Self {
                right: "\x1b[32m\u{2713}\x1b[0m   ",
                wrong: "\x1b[31m\u{2717}\x1b[0m   ",
            }
        }
    }
}

/// Lines of at most [`WIDTH`] columns, broken between words.
fn fold(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        if let Some(line) = lines.last_mut()
            && (line.is_empty() || line.len() + 1 + word.len() <= WIDTH)
        {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_folded_between_words_and_nothing_is_lost() {
        let text = "word ".repeat(50);
        let lines = fold(text.trim_end());
        assert!(lines.len() > 1 && lines.iter().all(|line| line.len() <= WIDTH));
        assert_eq!(lines.join(" "), text.trim_end());
        assert_eq!(fold("short"), ["short"]);
    }
}
