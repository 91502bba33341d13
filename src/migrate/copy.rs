//! Copies the points of a collection: several ranges at a time, each page by page.
//!
//! Owns the workers. Invariant: a worker holds two pages at most, the one that is written and the
//! one that is read meanwhile, so memory is bounded and the slower side sets the pace; a page is
//! written down only after the target has applied it.

use tokio::task::JoinSet;

use super::job::Job;
use super::qdrant::Reader;
use super::site::Stop;
use super::state::Part;

/// Copies what is not yet at the target.
pub async fn copy(job: &Job, workers: usize) -> Result<(), Stop> {
    let parts = job.record.of(&job.collection).unwrap_or_default().ranges;
    let open: Vec<_> = parts
        .into_iter()
        .enumerate()
        .filter(|(_, part)| !part.done)
        .collect();
    let came = each(open, workers, |(place, part)| {
        let job = job.clone();
        async move { copy_part(&job, place, &part).await }
    })
    .await;
    // What came before it failed need not come again.
    job.record.flush()?;
    came.map(drop)
}

/// Does `work` with each of `items`, `workers` at a time, in their order; the first error ends it.
pub(super) async fn each<T, R, F>(
    items: Vec<T>,
    workers: usize,
    work: impl Fn(T) -> F,
) -> Result<Vec<R>, Stop>
where
    F: Future<Output = Result<R, Stop>> + Send + 'static,
    R: Send + 'static,
{
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let mut items = items.into_iter().enumerate();
    let mut running = JoinSet::new();
    loop {
        while running.len() < workers.max(1)
            && let Some((place, item)) = items.next()
        {
            let work = work(item);
            running.spawn(async move { (place, work.await) });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((place, result))) => results[place] = Some(result?),
            Some(Err(error)) => return Err(Stop::Failed(error.to_string())),
        }
    }
    Ok(results.into_iter().flatten().collect())
}

async fn copy_part(job: &Job, place: usize, part: &Part) -> Result<(), Stop> {
    let mut reader = Reader::new(&job.source, &job.collection, part.range, part.next);
    let mut ready = reader.page().await?;
    while let Some(page) = ready {
        let written = async {
            if page.points.is_empty() {
                return Ok(());
            }
            job.target.upsert(&job.collection, &page.points).await
        };
        let (written, following) = tokio::join!(written, reader.page());
        written?;
        job.progress.add(page.points.len());
        job.record
            .came(&job.collection, place, page.points.len(), page.next)?;
        ready = following?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn each_item_is_worked_on_and_no_more_at_a_time_than_allowed() {
        let now = Arc::new([const { AtomicUsize::new(0) }; 2]);
        let results = each((0..20).collect(), 3, |item: usize| {
            let now = Arc::clone(&now);
            async move {
                let running = now[0].fetch_add(1, Ordering::Relaxed) + 1;
                now[1].fetch_max(running, Ordering::Relaxed);
                tokio::task::yield_now().await;
                now[0].fetch_sub(1, Ordering::Relaxed);
                Ok(item * 2)
            }
        });
        let results = results.await.unwrap();
        assert_eq!(results, (0..20).map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(now[1].load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn the_first_error_ends_it() {
        let results = each((0..9).collect(), 2, |item: usize| async move {
            if item == 4 {
                Err(Stop::Failed("four".to_owned()))
            } else {
                Ok(item)
            }
        });
        assert_eq!(results.await, Err(Stop::Failed("four".to_owned())));
    }
}
