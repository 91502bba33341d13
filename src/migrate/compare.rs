//! Compares the points of both sides, id by id, and where it was asked to copies again what
//! differs.
//!
//! Owns what counts as a difference. Invariants: both sides are read in the order of their ids, so
//! memory does not grow with the collection: a page of each is there for each range. Nothing is ever
//! changed at the source, and a point is removed at the target only after the source was asked for
//! it by its id and did not have it.

use std::cmp::Ordering;
use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::copy::each;
use super::digest::{Digest, digest, fold};
use super::id::PointId;
use super::job::Job;
use super::qdrant::{Reader, Record};
use super::ranges::Range;
use super::site::{Site, Stop};

/// How many differences are named.
const NAMED: usize = 20;
/// How many points are copied again at a time.
const AGAIN: usize = 64;

/// How a point differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It is at the source only.
    Missing(PointId),
    /// It is at the target only.
    Extra(PointId),
    /// Its payload or its vectors are others.
    Other(PointId),
}

impl Difference {
    fn id(self) -> PointId {
        match self {
            Self::Missing(id) | Self::Extra(id) | Self::Other(id) => id,
        }
    }

    /// In words.
    pub fn line(self) -> String {
        match self {
            Self::Missing(id) => format!("point {id}: not at the target"),
            Self::Extra(id) => format!("point {id}: only at the target"),
            Self::Other(id) => format!("point {id}: payload or vectors differ"),
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Points at the source.
    pub points: u64,
    /// One hash of them all.
    pub digest: Digest,
    /// How many points differ.
    pub differences: u64,
    /// The first of them.
    pub named: Vec<Difference>,
}

impl Found {
    fn differs(&mut self, difference: Difference) {
        self.differences += 1;
        if self.named.len() < NAMED {
            self.named.push(difference);
        }
    }

    fn add(mut self, next: Self) -> Self {
        self.points += next.points;
        self.differences += next.differences;
        fold(&mut self.digest, &next.digest);
        let room = NAMED - self.named.len();
        self.named.extend(next.named.into_iter().take(room));
        self
    }
}

/// Compares both sides, range by range. With `repair` what differs is copied again at once, or
/// removed at the target if the source has it no longer.
pub async fn compare(
    job: &Job,
    ranges: Vec<Range>,
    workers: usize,
    repair: bool,
) -> Result<Found, Stop> {
    let found = each(ranges, workers, |range| {
        let job = job.clone();
        async move { compare_range(&job, range, repair).await }
    });
    Ok(found.await?.into_iter().fold(Found::default(), Found::add))
}

async fn compare_range(job: &Job, range: Range, repair: bool) -> Result<Found, Stop> {
    let mut found = Found::default();
    let mut again = Vec::new();
    let mut source = Side::new(&job.source, &job.collection, range);
    let mut target = Side::new(&job.target, &job.collection, range);
    loop {
        let (one, other) = tokio::join!(source.fill(), target.fill());
        one?;
        other?;
        if source.waiting.is_empty() && target.waiting.is_empty() {
            break;
        }
        let before = found.points;
        merge(&mut source, &mut target, &mut found, |difference| {
            again.push(difference.id());
        })?;
        job.progress
            .add(usize::try_from(found.points - before).unwrap_or(usize::MAX));
        if !repair {
            again.clear();
        }
        while again.len() >= AGAIN {
            let rest = again.split_off(AGAIN);
            copy_again(job, &again).await?;
            again = rest;
        }
    }
    if !again.is_empty() {
        copy_again(job, &again).await?;
    }
    Ok(found)
}

/// One side of a comparison: points that wait for their partners, of one page at most.
struct Side<'a> {
    reader: Reader<'a>,
    site: &'a Site,
    waiting: VecDeque<Record>,
    over: bool,
}

impl<'a> Side<'a> {
    fn new(site: &'a Site, collection: &str, range: Range) -> Self {
        Self {
            reader: Reader::new(site, collection, range, range.from),
            site,
            waiting: VecDeque::new(),
            over: false,
        }
    }

    /// Reads on until something waits or the range is over.
    async fn fill(&mut self) -> Result<(), Stop> {
        while self.waiting.is_empty() && !self.over {
            match self.reader.page().await? {
                Some(page) => self.waiting = page.points.into(),
                None => self.over = true,
            }
        }
        Ok(())
    }

    /// Whether the next one is known: if nothing waits, more may come.
    fn is_known(&self) -> bool {
        self.over || !self.waiting.is_empty()
    }
}

/// The hash of a point of `site`.
fn hashed(record: &Record, site: &Site) -> Result<Digest, Stop> {
    let (payload, vector) = (record.payload.as_deref(), record.vector.as_deref());
    digest(record.id, payload, vector)
        .map_err(|error| Stop::Failed(format!("{}: point {}: {error}", site.name(), record.id)))
}

/// Payload and vectors as they were written. Where both sides write them alike, as they usually do,
/// they are the same, and need not be understood.
fn texts(record: &Record) -> [Option<&str>; 2] {
    [&record.payload, &record.vector].map(|raw| raw.as_deref().map(RawValue::get))
}

/// Takes off both sides what can be told now.
fn merge(
    source: &mut Side<'_>,
    target: &mut Side<'_>,
    found: &mut Found,
    mut tell: impl FnMut(Difference),
) -> Result<(), Stop> {
    let mut differs = |found: &mut Found, difference| {
        found.differs(difference);
        tell(difference);
    };
    while source.is_known() && target.is_known() {
        let order = match (source.waiting.front(), target.waiting.front()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.id.cmp(&other.id),
        };
        let one = order.is_le().then(|| source.waiting.pop_front()).flatten();
        let other = order.is_ge().then(|| target.waiting.pop_front()).flatten();
        let hash = one
            .as_ref()
            .map(|one| hashed(one, source.site))
            .transpose()?;
        if let Some(hash) = &hash {
            found.points += 1;
            fold(&mut found.digest, hash);
        }
        match (one, other) {
            (Some(one), None) => differs(found, Difference::Missing(one.id)),
            (None, Some(other)) => differs(found, Difference::Extra(other.id)),
            (Some(one), Some(other)) => {
                let same =
                    texts(&one) == texts(&other) || hash == Some(hashed(&other, target.site)?);
                if !same {
                    differs(found, Difference::Other(one.id));
                }
            }
            (None, None) => {}
        }
    }
    Ok(())
}

/// Makes the points with these ids at the target what they are at the source now.
async fn copy_again(job: &Job, ids: &[PointId]) -> Result<(), Stop> {
    let mut waiting = vec![ids];
    while let Some(ids) = waiting.pop() {
        let records = match job.source.retrieve(&job.collection, ids).await? {
            Ok(records) => records,
            Err(trouble) if ids.len() == 1 => return Err(job.source.stop(&trouble)),
            Err(_) => {
                let (first, second) = ids.split_at(ids.len() / 2);
                waiting.extend([second, first]);
                continue;
            }
        };
        let there = |id: &&PointId| records.iter().any(|record| record.id == **id);
        let gone: Vec<_> = ids.iter().filter(|id| !there(id)).copied().collect();
        if !records.is_empty() {
            job.target.upsert(&job.collection, &records).await?;
        }
        if !gone.is_empty() {
            job.target.remove(&job.collection, &gone).await?;
        }
    }
    Ok(())
}
