//! How the ids of a collection are divided among workers.
//!
//! Pure. Invariant: the ranges lie side by side and leave nothing out, below the first id or above
//! the last, so that a point which is written later belongs to one of them, too. They are decided
//! once and kept: borders that are sampled anew would not fit what was copied by the old ones.

use serde::{Deserialize, Serialize};

use super::id::PointId;

/// Ids from `from` up to, and without, `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first id; `None`: from the very first on.
    pub from: Option<PointId>,
    /// The id behind the last; `None`: to the very end.
    pub until: Option<PointId>,
}

impl Range {
    /// All ids.
    pub const ALL: Self = Self {
        from: None,
        until: None,
    };

    /// Whether `id` stands behind its end.
    pub fn is_past(&self, id: PointId) -> bool {
        self.until.is_some_and(|until| id >= until)
    }
}

/// At most `parts` ranges that hold about the same number of points, by a sample of their ids.
pub fn plan(mut sample: Vec<PointId>, parts: usize) -> Vec<Range> {
    sample.sort_unstable();
    sample.dedup();
    let mut borders: Vec<PointId> = (1..parts)
        .filter_map(|part| sample.get(part * sample.len() / parts.max(1)))
        .copied()
        .collect();
    borders.dedup();
    let from = std::iter::once(None).chain(borders.iter().copied().map(Some));
    let until = (borders.iter().copied().map(Some)).chain(std::iter::once(None));
    from.zip(until)
        .map(|(from, until)| Range { from, until })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn borders(sample: &[u64], parts: usize) -> Vec<u64> {
        let sample = sample.iter().copied().map(PointId::Num).collect();
        let ranges = plan(sample, parts);
        assert_eq!(ranges[0].from, None);
        assert_eq!(ranges[ranges.len() - 1].until, None);
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].until, pair[1].from, "side by side");
            assert!(pair[1].from.is_some());
        }
        let number = |id| match id {
            Some(PointId::Num(number)) => number,
            other => panic!("{other:?}"),
        };
        ranges[1..].iter().map(|range| number(range.from)).collect()
    }

    #[test]
    fn ranges_lie_side_by_side_and_leave_nothing_out() {
        for (sample, parts, want) in [
            (&[][..], 4, &[][..]),
            (&[5], 4, &[5]),
            (&[1, 2, 3, 4, 5, 6, 7, 8], 4, &[3, 5, 7]),
            (&[8, 7, 6, 5, 4, 3, 2, 1], 2, &[5]),
            (&[7, 7, 7, 7, 9], 2, &[9]),
            (&[1, 2, 3], 1, &[]),
            (&[1, 2, 3], 0, &[]),
            (&[1, 2], 8, &[1, 2]),
        ] {
            assert_eq!(borders(sample, parts), want, "{sample:?} in {parts}");
        }
    }

    #[test]
    fn an_id_is_past_a_range_from_its_end_on() {
        let range = Range {
            from: Some(PointId::Num(3)),
            until: Some(PointId::Num(7)),
        };
        assert!(!range.is_past(PointId::Num(6)));
        assert!(range.is_past(PointId::Num(7)));
        assert!(range.is_past(PointId::Uuid(0)));
        assert!(!Range::ALL.is_past(PointId::Uuid(u128::MAX)));
    }
}
