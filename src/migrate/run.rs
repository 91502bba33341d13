//! The order of a run: look at both sides, refuse or go on, copy, compare, finish.
//!
//! Owns that order. Invariant: nothing is changed before every collection was looked at and nothing
//! is in the way of any; each step is written down before it begins.

use std::sync::Arc;

use serde_json::Value;

use super::compare::{Found, compare};
use super::copy::copy;
use super::decide::{Seen, Todo, decide};
use super::job::{Job, Record};
use super::progress::Progress;
use super::ranges::{Range, plan};
use super::report::{Collected, Report};
use super::shape::{self, Aliases};
use super::site::{Site, Stop};
use super::state::{Part, Step};

/// How often both sides are compared and made the same before one gives up on a source that is
/// written to all the time.
const PASSES: usize = 5;
/// Ids that decide the borders of the ranges.
const SAMPLE: usize = 1_000;
/// Fewer points than this are one range.
const WORTH_PARTS: u64 = 2_000;
/// Ranges a worker: those who are done early take one more.
const PARTS_EACH: usize = 4;

/// How far both sides are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Every point: id, payload and vectors.
    Full,
    /// The number of points.
    Counts,
}

/// Which run it is of those that move a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The only one.
    Only,
    /// One more follows, with the same state file, while the source is not written to. So it is
    /// enough that this one comes near.
    First,
    /// The one that follows.
    Last,
}

/// What a run is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// These collections; none: all of the source.
    pub collections: Vec<String>,
    /// Change nothing, and say what would be done.
    pub dry_run: bool,
    /// Change nothing, and compare.
    pub verify_only: bool,
    /// How far both sides are compared.
    pub verify: Verify,
    /// Whether what differs at the target may be removed or written over.
    pub replace: bool,
    /// How many ranges are worked on at a time.
    pub workers: usize,
    /// Which run it is.
    pub pass: Pass,
}

/// A run between two sites.
#[derive(Debug)]
pub struct Run {
    /// Where it comes from.
    pub source: Arc<Site>,
    /// Where it goes.
    pub target: Arc<Site>,
    /// How far it is, for whoever watches.
    pub progress: Arc<Progress>,
    /// How far it is, for a run that goes on.
    pub record: Arc<Record>,
    /// What it is asked for.
    pub wanted: Wanted,
}

/// One collection as it was looked at.
struct Looked {
    job: Job,
    info: Value,
    todo: Todo,
    /// What a comparison found, where one was needed to decide.
    found: Option<Found>,
}

impl Run {
    /// Runs.
    pub async fn run(&self) -> Result<Report, Stop> {
        let mut report = Report::new(self.source.name(), self.target.name());
        report.notes = self.versions().await?;
        let names = self.names().await?;
        if self.wanted.verify_only {
            for name in &names {
                report.add(self.verify(name).await?);
            }
            return Ok(report);
        }
        let (mut all, mut refused) = (Vec::new(), Vec::new());
        for name in &names {
            match self.look(name).await? {
                Ok(looked) => all.push(looked),
                Err(lines) => {
                    let named = lines.into_iter().map(|line| format!("{name}: {line}"));
                    refused.extend(named);
                }
            }
        }
        if !refused.is_empty() {
            refused.push("nothing was changed".to_owned());
            return Err(Stop::Differs(refused.join("\n")));
        }
        for looked in all {
            report.add(if self.wanted.dry_run {
                would(&looked)
            } else {
                self.migrate(looked).await?
            });
        }
        if !self.wanted.dry_run && report.equal && self.wanted.pass == Pass::Only {
            self.record.remove()?;
        }
        Ok(report)
    }

    async fn versions(&self) -> Result<Vec<String>, Stop> {
        let (source, target) = tokio::join!(self.source.version(), self.target.version());
        let (source, target) = (source?, target?);
        let minor = |version: &str| -> Vec<String> {
            version.split('.').take(2).map(str::to_owned).collect()
        };
        let note = format!(
            "the source is a Qdrant {source}, the target {target}: settings that one of them does \
             not know may differ"
        );
        Ok((minor(&source) != minor(&target))
            .then_some(note)
            .into_iter()
            .collect())
    }

    /// The collections that are wanted. An alias is none: it would be made a collection.
    async fn names(&self) -> Result<Vec<String>, Stop> {
        let mut there = self.source.collections().await?;
        there.sort();
        let wanted = &self.wanted.collections;
        let missing: Vec<_> = wanted.iter().filter(|name| !there.contains(name)).collect();
        if !missing.is_empty() {
            let lines = missing
                .iter()
                .map(|name| format!("{name}: the source has none of that name"));
            return Err(Stop::Refused(lines.collect::<Vec<_>>().join("\n")));
        }
        there.retain(|name| wanted.is_empty() || wanted.contains(name));
        Ok(there)
    }

    fn job(&self, name: &str) -> Job {
        Job {
            source: Arc::clone(&self.source),
            target: Arc::clone(&self.target),
            collection: name.into(),
            progress: Arc::clone(&self.progress),
            record: Arc::clone(&self.record),
        }
    }

    async fn source_info(&self, name: &str) -> Result<Value, Stop> {
        let gone = || Stop::Refused(format!("{name}: it was deleted at the source meanwhile"));
        self.source.info(name).await?.ok_or_else(gone)
    }

    /// Looks at both sides of a collection, and decides.
    async fn look(&self, name: &str) -> Result<Result<Looked, Vec<String>>, Stop> {
        let job = self.job(name);
        let info = self.source_info(name).await?;
        if let Err(why) = shape::create(&info) {
            return Err(Stop::Refused(format!("{name}: {why}; nothing was changed")));
        }
        let there = self.target.info(name).await?;
        let shapes = there
            .as_ref()
            .map(|there| shape::differences(&info, there, false));
        let mut seen = Seen {
            step: self.record.of(name).map(|it| it.step),
            shapes: shapes.as_deref(),
            points: 0,
            same: None,
            replace: self.wanted.replace,
        };
        if there.is_some() {
            seen.points = self.target.count(name).await?;
        }
        let mut decided = decide(seen);
        let mut found = None;
        if decided == Ok(Todo::Look) {
            let compared = self.compare_all(&job, "comparing", false).await?;
            seen.same = Some(compared.differences == 0);
            decided = decide(seen);
            found = Some(compared);
        }
        let mut refused = decided.clone().err().unwrap_or_default();
        if decided == Err(Vec::new()) {
            let differ = found.as_ref().map_or(0, |found| found.differences);
            refused.push(format!(
                "{differ} points differ from those that are at the target"
            ));
        }
        refused.extend(self.alias_actions(name).await?.err().unwrap_or_default());
        Ok(match decided {
            Ok(todo) if refused.is_empty() => Ok(Looked {
                job,
                info,
                todo,
                found,
            }),
            _ => Err(refused),
        })
    }

    async fn both_aliases(&self) -> Result<(Aliases, Aliases), Stop> {
        let (source, target) = tokio::join!(self.source.aliases(), self.target.aliases());
        Ok((source?, target?))
    }

    async fn alias_actions(&self, name: &str) -> Result<Result<Vec<Value>, Vec<String>>, Stop> {
        let (source, target) = self.both_aliases().await?;
        let there = self.target.collections().await?;
        let replace = self.wanted.replace;
        Ok(shape::aliases(name, (&source, &target), &there, replace))
    }

    /// Does what was decided, from the step that is due.
    async fn migrate(&self, looked: Looked) -> Result<Collected, Stop> {
        let Looked {
            job,
            info,
            todo,
            found,
        } = looked;
        let name = Arc::clone(&job.collection);
        let mut result = Collected {
            name: name.to_string(),
            did: "was done before".to_owned(),
            ..Collected::default()
        };
        let begin = match todo {
            Todo::Nothing => return Ok(result),
            Todo::GoOn(step) => step,
            Todo::Make | Todo::Remake | Todo::Fill => Step::Making,
            Todo::Mend | Todo::Look => Step::Comparing,
            Todo::Finish => Step::Finishing,
        };
        if begin == Step::Making {
            self.make(&job, &info, todo).await?;
        }
        if begin <= Step::Copying {
            self.copy(&job).await?;
        }
        if begin <= Step::Comparing {
            self.step(&job, Step::Comparing)?;
            self.settle(&job, &mut result).await?;
        } else if let Some(found) = &found {
            result.found(found);
        }
        self.step(&job, Step::Finishing)?;
        result.differences.extend(self.finish(&name, &info).await?);
        if result.differences.is_empty() {
            self.step(&job, Step::Done)?;
        }
        result.did = match todo {
            Todo::Finish => format!("{} points were there", result.points),
            _ => format!("{} points copied", result.points),
        };
        Ok(result)
    }

    fn step(&self, job: &Job, step: Step) -> Result<(), Stop> {
        self.record.change(&job.collection, |it| it.step = step)
    }

    async fn make(&self, job: &Job, info: &Value, todo: Todo) -> Result<(), Stop> {
        let name = &*job.collection;
        let sample = self.ranges(job).await?;
        self.record.change(name, |it| {
            it.step = Step::Making;
            it.ranges = sample.into_iter().map(Part::new).collect();
        })?;
        if todo == Todo::Remake {
            self.target.drop_collection(name).await?;
        }
        if todo != Todo::Fill {
            let body = shape::create(info).map_err(Stop::Refused)?;
            self.target.create(name, &body).await?;
        }
        // Before the points: Qdrant builds its graph with the filters in mind only then.
        self.make_indexes(name, info).await?;
        self.step(job, Step::Copying)
    }

    /// Makes the indexes that the target lacks.
    async fn make_indexes(&self, name: &str, info: &Value) -> Result<(), Stop> {
        let there = self.target.info(name).await?.unwrap_or_default();
        let there = shape::indexes(&there);
        for (field, schema) in shape::indexes(info) {
            if !there.contains_key(&field) {
                self.target.index(name, &field, &schema).await?;
            }
        }
        Ok(())
    }

    async fn copy(&self, job: &Job) -> Result<(), Stop> {
        let all = self.source.count(&job.collection).await?;
        let state = job.record.of(&job.collection).unwrap_or_default();
        let before = state.ranges.iter().map(|part| part.points).sum();
        let what = format!("copying {}", job.collection);
        self.progress.begin(&what, before, all);
        copy(job, self.wanted.workers).await
    }

    /// The ranges of a collection, by a sample of its ids.
    async fn ranges(&self, job: &Job) -> Result<Vec<Range>, Stop> {
        let points = self.source.count(&job.collection).await?;
        if points < WORTH_PARTS {
            return Ok(vec![Range::ALL]);
        }
        let sample = self.source.sample(&job.collection, SAMPLE).await?;
        Ok(plan(sample, self.wanted.workers * PARTS_EACH))
    }

    async fn compare_all(&self, job: &Job, what: &str, repair: bool) -> Result<Found, Stop> {
        let kept = job.record.of(&job.collection).unwrap_or_default().ranges;
        let ranges = if kept.is_empty() {
            self.ranges(job).await?
        } else {
            kept.iter().map(|part| part.range).collect()
        };
        let all = self.source.count(&job.collection).await?;
        let what = format!("{what} {}", job.collection);
        self.progress.begin(&what, 0, all);
        compare(job, ranges, self.wanted.workers, repair).await
    }

    /// Makes both sides the same, until a whole pass finds nothing: what was written at the source
    /// while it was copied is found by the first, and the last one is the proof.
    async fn settle(&self, job: &Job, result: &mut Collected) -> Result<(), Stop> {
        if self.wanted.verify == Verify::Counts {
            return self.counts(&job.collection, result).await;
        }
        let mut what = "comparing";
        for pass in 1..=PASSES {
            let found = self.compare_all(job, what, pass < PASSES).await?;
            if self.wanted.pass == Pass::First {
                result.points = found.points;
                result.repaired = found.differences;
                break;
            }
            if found.differences == 0 || pass == PASSES {
                result.found(&found);
                if found.differences > 0 {
                    let line = format!("after {PASSES} passes: is the source written to?");
                    result.differences.push(line);
                }
                break;
            }
            result.repaired += found.differences;
            what = "comparing again";
        }
        Ok(())
    }

    async fn counts(&self, name: &str, result: &mut Collected) -> Result<(), Stop> {
        let (source, target) = tokio::join!(self.source.count(name), self.target.count(name));
        let (source, target) = (source?, target?);
        result.points = source;
        if source != target {
            let line = format!("{source} points at the source, {target} at the target");
            result.differences.push(line);
        }
        Ok(())
    }

    /// Sets what is set last; gives what differs in the end.
    async fn finish(&self, name: &str, info: &Value) -> Result<Vec<String>, Stop> {
        self.make_indexes(name, info).await?;
        match self.alias_actions(name).await? {
            Ok(actions) if actions.is_empty() => {}
            Ok(actions) => self.target.change_aliases(actions).await?,
            Err(lines) => return Ok(lines),
        }
        if let Some(body) = shape::finish(info) {
            self.target.patch(name, body).await?;
        }
        self.shapes(name).await
    }

    /// What differs besides the points.
    async fn shapes(&self, name: &str) -> Result<Vec<String>, Stop> {
        let info = self.source_info(name).await?;
        let Some(there) = self.target.info(name).await? else {
            return Ok(vec!["the target has none of that name".to_owned()]);
        };
        let (source, target) = self.both_aliases().await?;
        let mut lines = shape::differences(&info, &there, true);
        lines.extend(shape::alias_differences(name, &source, &target));
        Ok(lines)
    }

    async fn verify(&self, name: &str) -> Result<Collected, Stop> {
        let mut result = Collected {
            name: name.to_owned(),
            ..Collected::default()
        };
        if self.target.info(name).await?.is_none() {
            "compared".clone_into(&mut result.did);
            result.differences = self.shapes(name).await?;
            return Ok(result);
        }
        match self.wanted.verify {
            Verify::Counts => self.counts(name, &mut result).await?,
            Verify::Full => {
                let job = self.job(name);
                let ranges = self.ranges(&job).await?;
                let all = self.source.count(name).await?;
                self.progress.begin(&format!("comparing {name}"), 0, all);
                let found = compare(&job, ranges, self.wanted.workers, false).await?;
                result.found(&found);
            }
        }
        result.did = format!("{} points compared", result.points);
        result.differences.extend(self.shapes(name).await?);
        Ok(result)
    }
}

fn would(looked: &Looked) -> Collected {
    Collected {
        name: looked.job.collection.to_string(),
        did: looked.todo.as_str().to_owned(),
        points: looked.info["points_count"].as_u64().unwrap_or_default(),
        ..Collected::default()
    }
}
