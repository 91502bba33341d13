//! What came of a run.

use std::fmt::Write as _;

use serde::Serialize;

use super::compare::Found;
use super::digest::hex;

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of which form this is.
    pub schema: &'static str,
    /// The source.
    pub from: String,
    /// The target.
    pub to: String,
    /// Whether both sides are the same in all that was asked for.
    pub equal: bool,
    /// Each collection.
    pub collections: Vec<Collected>,
    /// What is odd and no difference.
    pub notes: Vec<String>,
}

/// What came of one collection.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected {
    /// Its name.
    pub name: String,
    /// What was done, in words.
    pub did: String,
    /// Points at the source.
    pub points: u64,
    /// How many points were found to differ after the copy, and were copied again.
    pub repaired: u64,
    /// One hash of all its points, the same on both sides; empty if they were not compared.
    pub digest: String,
    /// What differs.
    pub differences: Vec<String>,
}

impl Report {
    /// A report without collections yet.
    pub fn new(from: &str, to: &str) -> Self {
        Self {
            schema: "tailhop/migrate-report/v1",
            from: from.to_owned(),
            to: to.to_owned(),
            equal: true,
            collections: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds what came of one more.
    pub fn add(&mut self, one: Collected) {
        self.equal &= one.differences.is_empty();
        self.collections.push(one);
    }

    /// For people.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for one in &self.collections {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}: {}", one.name, one.did);
            if one.repaired > 0 {
                let _ = write!(text, ", {} of them again", one.repaired);
            }
            if !one.digest.is_empty() && one.differences.is_empty() {
                let short = one.digest.get(..12).unwrap_or(&one.digest);
                let _ = write!(text, "; the same on both sides, {short}");
            }
            text.push('\n');
            for line in &one.differences {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }
}

impl Collected {
    /// Takes up what a comparison found.
    pub fn found(&mut self, found: &Found) {
        self.points = found.points;
        self.digest = hex(&found.digest);
        let named = found.named.iter().map(|difference| difference.line());
        self.differences.extend(named);
        let more = found.differences.saturating_sub(found.named.len() as u64);
        if more > 0 {
            self.differences.push(format!("and {more} more points"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::Difference;
    use super::super::id::PointId;
    use super::*;

    #[test]
    fn a_report_names_what_differs_and_is_equal_only_if_nothing_does() {
        let mut report = Report::new("a", "b");
        let mut one = Collected {
            name: "c".to_owned(),
            did: "2 points copied".to_owned(),
            ..Collected::default()
        };
        one.found(&Found {
            points: 2,
            ..Found::default()
        });
        report.add(one.clone());
        assert!(report.equal);
        one.found(&Found {
            points: 30,
            differences: 22,
            named: vec![Difference::Extra(PointId::Num(7))],
            ..Found::default()
        });
        report.add(one);
        assert!(!report.equal);
        assert_eq!(
            report.show(),
            "c: 2 points copied; the same on both sides, 000000000000\n\
             c: 2 points copied\n  point 7: only at the target\n  and 21 more points\n"
        );
    }
}
