//! The counts of a run, as a table.

use std::collections::BTreeMap;
use std::fmt;

use crate::compare::{Difference, Fate};
use crate::generate::{Class, Request};
use crate::rules::{RULES, Rule};

/// What a run has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    classes: BTreeMap<Class, BTreeMap<&'static str, usize>>,
    rules: BTreeMap<&'static str, usize>,
    /// Differences that no rule names.
    pub(crate) defects: Vec<String>,
    /// Smuggled through tailhop.
    pub(crate) smuggled: Vec<String>,
    /// Smuggled through nginx.
    pub(crate) of_nginx: usize,
    /// Requests behind one after which the two were out of step.
    pub(crate) uncompared: usize,
}

impl Summary {
    pub(crate) fn count(
        &mut self,
        number: usize,
        request: &Request,
        ours: Fate<'_>,
        found: &[Difference<'_>],
    ) {
        let class = self.classes.entry(request.class).or_default();
        *class.entry(ours.word()).or_default() += 1;
        for difference in found {
            if let Some(rule) = Rule::of(difference) {
                *class.entry("differ").or_default() += 1;
                *self.rules.entry(rule.name).or_default() += 1;
            } else {
                *class.entry("defects").or_default() += 1;
                self.defects.push(describe(number, difference));
            }
        }
    }
}

/// Everything that is needed to look into a difference.
fn describe(number: usize, difference: &Difference<'_>) -> String {
    let side = |fate: &Fate<'_>| match fate.seen {
        None => {
            let reason = fate.reason.unwrap_or("-");
            format!("{:?}, {:?}, {reason}", fate.status, fate.end)
        }
        Some(seen) => {
            let fields: Vec<_> = (seen.headers.iter())
                .map(|(name, value)| format!("{}: {}; ", name.escape_ascii(), clip(value, 80)))
                .collect();
            format!(
                "{:?} {} {} | {}| {}",
                fate.status,
                seen.method.escape_ascii(),
                clip(&seen.target, 200),
                fields.concat(),
                clip(&seen.body, 80)
            )
        }
    };
    format!(
        "#{number} {:?} in {}\n  sent    {}\n  tailhop {}\n  nginx   {}",
        difference.what,
        difference.request.class.name,
        clip(&difference.request.bytes, 600),
        side(&difference.tailhop),
        side(&difference.nginx)
    )
}

fn clip(bytes: &[u8], most: usize) -> String {
    let text = bytes[..bytes.len().min(most)].escape_ascii().to_string();
    let rest = bytes.len().saturating_sub(most);
    if rest > 0 {
        format!("{text} .. {rest} more")
    } else {
        text
    }
}

const COLUMNS: [&str; 8] = [
    "passed", "4xx", "5xx", "closed", "waits", "other", "differ", "defects",
];

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<36}", "class of request")?;
        for column in COLUMNS {
            write!(f, "{column:>8}")?;
        }
        writeln!(f)?;
        let mut sums = BTreeMap::<&str, usize>::new();
        for (class, counts) in &self.classes {
            let name = format!("{:?}: {}", class.sort, class.name).to_lowercase();
            write!(f, "{name:<36}")?;
            for column in COLUMNS {
                let count = counts.get(column).copied().unwrap_or(0);
                *sums.entry(column).or_default() += count;
                write!(f, "{count:>8}")?;
            }
            writeln!(f)?;
        }
        write!(f, "{:<36}", "all")?;
        for column in COLUMNS {
            write!(f, "{:>8}", sums[column])?;
        }
        writeln!(f, "\n\ndifferences by rule")?;
        for rule in RULES {
            let count = self.rules.get(rule.name).copied().unwrap_or(0);
            writeln!(f, "{count:>8}  {:<28} {}", rule.name, rule.reason)?;
        }
        let compared: usize = COLUMNS[..6].iter().map(|column| sums[column]).sum();
        writeln!(
            f,
            "\n{compared} requests compared, {} not (behind one after which the two were out of step); \
             smuggled: {} by tailhop, {} by nginx; defects: {}",
            self.uncompared,
            self.smuggled.len(),
            self.of_nginx,
            self.defects.len()
        )
    }
}
