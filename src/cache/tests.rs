use super::*;
use crate::words::names::ServiceName;

fn cache(entries: u16, megabytes: u16) -> Embeddings {
    let ttl = Duration::from_mins(1);
    let limits = snapshot::Cache {
        entries,
        megabytes,
        ttl,
    };
    let service = ServiceName::new("ollama").unwrap();
    Embeddings::new(service, limits, &Metrics::new())
}

fn key(number: usize) -> Key {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    key
}

fn claim(cache: &Embeddings, number: usize) -> Claim {
    match cache.find(&key(number)) {
        Found::Missing(claim) => claim,
        _ => panic!("{number} is there, or coming"),
    }
}

fn put(cache: &Embeddings, number: usize, bytes: usize) {
    let text = Bytes::from(vec![b'1'; bytes]);
    claim(cache, number).keep(text, Duration::from_secs(2));
}

fn is_kept(cache: &Embeddings, number: usize) -> bool {
    matches!(cache.find(&key(number)), Found::Kept(_))
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_found_until_it_is_too_old() {
    let cache = cache(10, 1);
    put(&cache, 1, 10);
    assert!(is_kept(&cache, 1));
    assert!(!is_kept(&cache, 2));
    assert!((cache.counts.saved.get() - 2.0).abs() < 1e-9);
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(is_kept(&cache, 1));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!is_kept(&cache, 1));
    assert_eq!((cache.counts.hit.get(), cache.counts.miss.get()), (2, 3));
}

/// Whatever comes, and while it comes.
#[tokio::test]
async fn both_limits_hold() {
    for (entries, megabytes, bytes) in [
        (100, 1, 100),
        (60_000, 1, 9_000),
        (50, 1, 20_000),
        (1, 60_000, 10),
    ] {
        let cache = cache(entries, megabytes);
        let most = u64::from(megabytes) * MEGABYTE;
        for number in 0..3_000 {
            // A cache admits what is asked for again and again.
            for _ in 0..2 {
                drop(cache.find(&key(number)));
            }
            put(&cache, number, bytes);
            let (count, held) = cache.size();
            assert!(count <= u64::from(entries), "{count} of {entries}");
            assert!(held <= most, "{held} of {most}");
        }
        let (count, held) = cache.size();
        let by_bytes = most / (bytes + OVERHEAD) as u64;
        let most = u64::from(entries).min(by_bytes);
        assert!(count * 10 >= most * 9, "{count} of {most} places are used");
        assert_eq!(held, count * (bytes + OVERHEAD) as u64);
        let evicted = cache.counts.evicted.get();
        assert_eq!(evicted, 3_000 - count);
    }
}

#[tokio::test]
async fn one_asks_and_the_others_wait_for_it() {
    let cache = cache(10, 1);
    let first = claim(&cache, 1);
    let waits: Vec<_> = (0..3)
        .map(|_| match cache.find(&key(1)) {
            Found::Coming(wait) => wait,
            _ => panic!("not coming"),
        })
        .collect();
    first.keep(Bytes::from_static(b"[1]"), Duration::ZERO);
    for wait in waits {
        assert_eq!(wait.vector().await.unwrap().text, "[1]");
    }
    assert!(is_kept(&cache, 1));
    assert!(cache.shelf.load().coming().is_empty());
}

#[tokio::test]
async fn when_the_one_who_asks_fails_the_next_one_asks() {
    let cache = cache(10, 1);
    let first = claim(&cache, 1);
    let Found::Coming(wait) = cache.find(&key(1)) else {
        panic!("not coming")
    };
    drop(first);
    assert!(wait.vector().await.is_none());
    drop(claim(&cache, 1));
}

/// A vector of before must not be there afterwards.
#[tokio::test]
async fn what_is_coming_while_it_is_emptied_is_not_kept() {
    let cache = cache(10, 1);
    put(&cache, 1, 10);
    let old = claim(&cache, 2);
    cache.clear();
    assert_eq!(cache.size(), (0, 0));
    old.keep(Bytes::from_static(b"[1]"), Duration::ZERO);
    assert!(!is_kept(&cache, 1));
    assert!(!is_kept(&cache, 2));
    assert_eq!(cache.size(), (0, 0));
}
