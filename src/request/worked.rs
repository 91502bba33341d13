//! What a model's answer took, as the access line has it.

use std::borrow::Cow;

use serde::Serialize;

use super::access::{Millis, number, quoted};
use crate::endpoint::work::Done;

/// What a model's answer took, as far as it told.
#[derive(Clone, Debug, Serialize)]
pub struct Worked<'a> {
    /// The model, if it is one that the backend told of and there are not too many; else `other`.
    pub model: Cow<'a, str>,
    /// To the first piece of its stream, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<Millis>,
    /// Tokens of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_in: Option<u64>,
    /// Tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_out: Option<u64>,
    /// An output token, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ms: Option<Millis>,
    /// Output tokens a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<u64>,
    /// To have the model in memory, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<Millis>,
    /// To evaluate the prompt, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_ms: Option<Millis>,
    /// Besides its parts: mostly the wait for its turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<Millis>,
}

impl<'a> Worked<'a> {
    pub(super) fn of(model: &'a str, done: &Done) -> Self {
        let usage = &done.usage;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive rate, and far below 2^64"
        )]
        let whole = |rate: f64| rate.round() as u64;
        Self {
            model: Cow::Borrowed(model),
            first_token_ms: done.first_token.map(Millis::of),
            tokens_in: usage.tokens_in,
            tokens_out: usage.tokens_out,
            token_ms: done.token().map(Millis::of),
            tokens_per_s: done.rate().map(whole),
            load_ms: usage.load.map(Millis::of),
            prompt_ms: usage.prompt.map(Millis::of),
            queue_ms: usage.queue().map(Millis::of),
        }
    }

    pub(super) fn append(&self, to: &mut Vec<u8>) {
        quoted(to, b",\"model\":\"", &self.model);
        to.push(b'"');
        let millis = |to: &mut Vec<u8>, before: &[u8], took: Option<Millis>| {
            if let Some(took) = took {
                to.extend_from_slice(before);
                took.append(to);
            }
        };
        let count = |to: &mut Vec<u8>, before: &[u8], count: Option<u64>| {
            if let Some(count) = count {
                number(to, before, count);
            }
        };
        millis(to, b",\"first_token_ms\":", self.first_token_ms);
        count(to, b",\"tokens_in\":", self.tokens_in);
        count(to, b",\"tokens_out\":", self.tokens_out);
        millis(to, b",\"token_ms\":", self.token_ms);
        count(to, b",\"tokens_per_s\":", self.tokens_per_s);
        millis(to, b",\"load_ms\":", self.load_ms);
        millis(to, b",\"prompt_ms\":", self.prompt_ms);
        millis(to, b",\"queue_ms\":", self.queue_ms);
    }
}
