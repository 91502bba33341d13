//! The differences that are meant, each with its reason. A difference that no rule names is a
//! defect of one of the two, and fails the test.

use crate::compare::{Difference, What, fields};

/// Why two proxies may differ.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    meets: fn(&Difference<'_>) -> bool,
}

impl Rule {
    /// The rule that explains a difference.
    pub(crate) fn of(difference: &Difference<'_>) -> Option<&'static Self> {
        RULES.iter().find(|rule| (rule.meets)(difference))
    }
}

pub(crate) const RULES: &[Rule] = &[Rule {
    name: "connection-names",
    reason: "RFC 9110 7.6.1: what Connection names goes; nginx passes it on",
    meets: |it| {
        it.what == What::Headers
            && it.request.class.name == "connection names a field"
            && extra_of_nginx(it).iter().all(|name| *name == b"x-drop")
    },
}];

/// The names of the fields that only nginx passed.
fn extra_of_nginx<'a>(it: &'a Difference<'_>) -> Vec<&'a [u8]> {
    let (Some(ours), Some(theirs)) = (it.tailhop.seen, it.nginx.seen) else {
        return Vec::new();
    };
    let ours = fields(ours);
    let theirs = fields(theirs).into_iter();
    theirs
        .filter(|field| !ours.contains(field))
        .map(|(name, _)| name)
        .collect()
}
