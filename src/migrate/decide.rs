//! What is to be done with one collection, by what stands on both sides.
//!
//! Pure. Invariant: what stands at the target and is not this run's own is neither removed nor
//! written over unless that was ordered.

use super::state::Step;

/// What is found before anything is changed.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// How far this run had come with it.
    pub step: Option<Step>,
    /// What differs in how both are made; `None`: the target has none of that name.
    pub shapes: Option<&'a [String]>,
    /// How many points the target has.
    pub points: u64,
    /// Whether the points of both are the same, where that was found out.
    pub same: Option<bool>,
    /// Whether the target may be changed to be the same.
    pub replace: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Make it, then copy.
    Make,
    /// Remove what is there, make it, then copy.
    Remake,
    /// Copy into what is there.
    Fill,
    /// Go on with this step.
    GoOn(Step),
    /// Compare first: what is to be done depends on whether the points are the same.
    Look,
    /// Make the points that are there the same.
    Mend,
    /// Nothing of it but aliases and strict mode.
    Finish,
    /// Nothing.
    Nothing,
}

impl Todo {
    /// In words, for a dry run.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Make => "to be made and copied",
            Self::Remake => "to be removed at the target, made anew and copied",
            Self::Fill => "to be copied into the empty collection that is there",
            Self::GoOn(_) => "to be gone on with where it stopped",
            Self::Look => "to be compared",
            Self::Mend => "to be made the same, point by point",
            Self::Finish => "has the same points; aliases and strict mode are to be set",
            Self::Nothing => "is done",
        }
    }
}

/// Decides.
///
/// # Errors
/// Lines for people: what is in the way.
pub fn decide(seen: Seen<'_>) -> Result<Todo, Vec<String>> {
    let Some(shapes) = seen.shapes else {
        return Ok(Todo::Make);
    };
    match seen.step {
        Some(Step::Done) if shapes.is_empty() => return Ok(Todo::Nothing),
        Some(step @ (Step::Copying | Step::Comparing | Step::Finishing)) if shapes.is_empty() => {
            return Ok(Todo::GoOn(step));
        }
        _ => {}
    }
    match (shapes.is_empty(), seen.points, seen.same, seen.replace) {
        (false, _, _, true) => Ok(Todo::Remake),
        (false, _, _, false) => Err(shapes.to_vec()),
        (true, 0, _, _) => Ok(Todo::Fill),
        (true, _, None, _) => Ok(Todo::Look),
        (true, _, Some(true), _) => Ok(Todo::Finish),
        (true, _, Some(false), true) => Ok(Todo::Mend),
        (true, _, Some(false), false) => Err(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step, what differs, points, whether they are the same, `replace`, and what is decided.
    type Row = (
        Option<Step>,
        Option<&'static str>,
        u64,
        Option<bool>,
        bool,
        Option<Todo>,
    );

    fn check(table: &[Row]) {
        for &(step, differs, points, same, replace, want) in table {
            let lines: Vec<_> = differs
                .into_iter()
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect();
            let seen = Seen {
                step,
                shapes: differs.map(|_| lines.as_slice()),
                points,
                same,
                replace,
            };
            assert_eq!(decide(seen), want.ok_or(lines.clone()), "{seen:?}");
        }
    }

    #[test]
    fn what_this_run_did_not_make_is_touched_only_on_order() {
        check(&[
            (None, None, 0, None, false, Some(Todo::Make)),
            (None, None, 0, None, true, Some(Todo::Make)),
            (None, Some("size"), 0, None, false, None),
            (None, Some("size"), 9, None, false, None),
            (None, Some("size"), 9, None, true, Some(Todo::Remake)),
            (None, Some(""), 0, None, false, Some(Todo::Fill)),
            (None, Some(""), 9, None, false, Some(Todo::Look)),
            (None, Some(""), 9, None, true, Some(Todo::Look)),
            (None, Some(""), 9, Some(true), false, Some(Todo::Finish)),
            (None, Some(""), 9, Some(false), false, None),
            (None, Some(""), 9, Some(false), true, Some(Todo::Mend)),
        ]);
    }

    #[test]
    fn a_run_goes_on_with_the_step_that_was_written_down() {
        use Step::{Comparing, Copying, Done, Finishing, Making};
        let go_on = |step| Some(Todo::GoOn(step));
        check(&[
            (Some(Making), None, 0, None, false, Some(Todo::Make)),
            (Some(Making), Some("size"), 0, None, false, None),
            (
                Some(Making),
                Some("size"),
                9,
                None,
                true,
                Some(Todo::Remake),
            ),
            (Some(Making), Some(""), 0, None, false, Some(Todo::Fill)),
            (Some(Making), Some(""), 9, None, false, Some(Todo::Look)),
            (Some(Copying), None, 0, None, false, Some(Todo::Make)),
            (Some(Copying), Some("size"), 9, None, false, None),
            (Some(Copying), Some(""), 9, None, false, go_on(Copying)),
            (Some(Comparing), Some(""), 9, None, false, go_on(Comparing)),
            (Some(Finishing), Some(""), 9, None, false, go_on(Finishing)),
            (Some(Done), Some(""), 9, None, false, Some(Todo::Nothing)),
            (Some(Done), Some("size"), 9, None, false, None),
            (Some(Done), None, 0, None, false, Some(Todo::Make)),
        ]);
    }
}
