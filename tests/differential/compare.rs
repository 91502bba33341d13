//! What came of one connection through each proxy, and how the two differ.

use crate::client::{Answer, End};
use crate::generate::Request;
use crate::origin::{Record, Seen};

/// What came of one connection through one proxy.
pub(crate) struct Outcome {
    pub(crate) answers: Vec<Answer>,
    pub(crate) end: End,
    pub(crate) record: Record,
}

/// What came of one request through one proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate<'a> {
    /// `None`: the connection ended, or waits.
    pub(crate) status: Option<u16>,
    pub(crate) end: End,
    /// Why tailhop refused it, in its word.
    pub(crate) reason: Option<&'a str>,
    /// What reached the origin of it.
    pub(crate) seen: Option<&'a Seen>,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// It reached the origin through one only.
    Reached,
    /// It reached the origin through neither, and was answered differently.
    Status,
    Method,
    Target,
    Headers,
    Body,
}

/// One difference between the two.
pub(crate) struct Difference<'a> {
    pub(crate) what: What,
    pub(crate) request: &'a Request,
    pub(crate) tailhop: Fate<'a>,
    pub(crate) nginx: Fate<'a>,
    /// The request before it on the connection, with its fates.
    pub(crate) before: Option<Before<'a>>,
    /// The request behind it.
    pub(crate) next: Option<&'a Request>,
}

/// A request and its fates.
pub(crate) type Before<'a> = (&'a Request, Fate<'a>, Fate<'a>);

impl Outcome {
    /// What came of the request at `place`, as long as answers and requests run in step.
    pub(crate) fn fate(&self, place: usize) -> Fate<'_> {
        let answer = self.answers.get(place);
        let serial = answer.and_then(|answer| answer.serial);
        Fate {
            status: answer.map(|answer| answer.status),
            end: self.end,
            reason: answer.and_then(|answer| answer.reason.as_deref()),
            seen: serial.and_then(|it| self.record.seen.iter().find(|seen| seen.serial == it)),
        }
    }

    /// What the origin read that the client never sent as one request: whatever was answered to
    /// nobody, was asked twice, or could be read in two ways.
    pub(crate) fn smuggled(&self) -> Vec<String> {
        let told = |seen: &&Seen| {
            let same = |answer: &&Answer| answer.serial == Some(seen.serial);
            self.answers.iter().filter(same).count() == 1
        };
        let untold = self.record.seen.iter().filter(|seen| !told(seen));
        untold
            .map(|seen| {
                let (method, target) = (seen.method.escape_ascii(), seen.target.escape_ascii());
                format!("answered to nobody: {method} {target}")
            })
            .chain(self.record.faults.iter().cloned())
            .collect()
    }
}

impl Fate<'_> {
    /// 2 for 200, 0 for none.
    pub(crate) fn class(&self) -> u16 {
        self.status.unwrap_or(0) / 100
    }

    /// In a word, for the table.
    pub(crate) fn word(&self) -> &'static str {
        match (self.seen, self.class(), self.end) {
            (Some(_), ..) => "passed",
            (None, 4, _) => "4xx",
            (None, 5, _) => "5xx",
            (None, 0, End::Waits) => "waits",
            (None, 0, _) => "closed",
            (None, ..) => "other",
        }
    }
}

/// How the fates of one request differ, the weightiest first. What both pass is compared in all
/// its parts.
pub(crate) fn differences<'a>(
    request: &'a Request,
    tailhop: Fate<'a>,
    nginx: Fate<'a>,
    before: Option<Before<'a>>,
    next: Option<&'a Request>,
) -> Vec<Difference<'a>> {
    let mut all = Vec::new();
    match (tailhop.seen, nginx.seen) {
        (Some(ours), Some(theirs)) => {
            let parts = [
                (What::Method, ours.method == theirs.method),
                (What::Target, ours.target == theirs.target),
                (What::Headers, fields(ours) == fields(theirs)),
                (What::Body, ours.body == theirs.body),
            ];
            all.extend(
                parts
                    .iter()
                    .filter(|(_, same)| !same)
                    .map(|(what, _)| *what),
            );
        }
        (None, None) => all.extend((tailhop.word() != nginx.word()).then_some(What::Status)),
        _ => all.push(What::Reached),
    }
    all.into_iter()
        .map(|what| Difference {
            what,
            request,
            tailhop,
            nginx,
            before,
            next,
        })
        .collect()
}

/// Fields that are a proxy's own business: of the connection, of the framing, and its own name.
const OWN: [&[u8]; 12] = [
    b"connection",
    b"content-length",
    b"expect",
    b"host",
    b"keep-alive",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"via",
];

/// The other fields, in one order.
pub(crate) fn fields(seen: &Seen) -> Vec<(&[u8], &[u8])> {
    let mut fields: Vec<_> = (seen.headers.iter())
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
        .filter(|(name, _)| !OWN.contains(name))
        .collect();
    fields.extend(via(seen).into_iter().map(|line| (&b"via"[..], line)));
    fields.sort_unstable();
    fields
}

/// `Via` without what tailhop added.
fn via(seen: &Seen) -> Vec<&[u8]> {
    let lines = seen.headers.iter().filter(|(name, _)| name == b"via");
    lines
        .map(|(_, value)| value.as_slice())
        .filter(|value| !value.ends_with(b" tailhop"))
        .collect()
}
