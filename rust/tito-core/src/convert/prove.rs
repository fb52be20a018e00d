//! `--prove-think`: what later prompts show of an answer, compared with the answer without its thinking.
//!
//! Cutting thinking rests on a claim: that the student's prompts will show earlier answers so. The next prompt of the
//! rollout tells. It is compared by ids; with a tokenizer, also by text where ids differ. No row is changed.

use super::Plan;
use super::identity::Known;
use super::report::{Counts, Example};
use super::sight::Sighted;
use super::weave::Source;
use crate::capture::Finish;
use crate::error::Result;
use crate::ids::think::{Found, cut};
use crate::ids::{Id, common_prefix};
use crate::tokens::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use twox_hash::xxhash3_64;

/// Places that each kind keeps.
const EXAMPLES: usize = 3;
/// Ids before and behind the first one that differs that are shown of a place.
const CONTEXT: usize = 6;

/// How a later prompt shows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// The ids of the answer without its thinking.
    Equal,
    /// The same text in other ids: the engine tokenised its own text anew.
    Retokenised,
    /// With thinking.
    ThinkKept,
    /// The text but for white space at its ends, or for the form of its tool calls.
    TemplateRewrite,
    /// The messages before it are not those that the call saw: compacted, cut short or edited.
    Compaction,
    /// Another text.
    Other,
    /// Other ids; without a tokenizer nobody can tell more.
    OtherIds,
}

/// What was compared.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Proof {
    /// Answers by how they are shown.
    pub shown: BTreeMap<Shown, u64>,
    /// Calls that no later prompt of their rollout follows.
    pub last: u64,
    /// Calls of a tokenizer that no profile is known of.
    pub unknown: u64,
    /// Calls that another call answers too, so that the later prompt may show either.
    pub retried: u64,
    examples: BTreeMap<Shown, Vec<Example>>,
}

impl Proof {
    /// Adds what the next stretch of input compared.
    pub fn add(&mut self, other: Self) {
        for (kind, n) in other.shown {
            *self.shown.entry(kind).or_default() += n;
        }
        self.last += other.last;
        self.retried += other.retried;
        self.unknown += other.unknown;
        for (kind, more) in other.examples {
            let examples = self.examples.entry(kind).or_default();
            examples.extend(more);
            examples.truncate(EXAMPLES);
        }
    }

    fn tell(&mut self, kind: Shown, example: impl FnOnce() -> Example) {
        *self.shown.entry(kind).or_default() += 1;
        let examples = self.examples.entry(kind).or_default();
        if kind != Shown::Equal && examples.len() < EXAMPLES {
            examples.push(example());
        }
    }

    /// The counts as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let lines = |list: &[Example]| list.iter().map(|e| format!("{}: {}", e.place, e.message)).collect::<Vec<_>>();
        let told = self.examples.iter().filter(|(_, list)| !list.is_empty());
        let examples: BTreeMap<_, _> = told.map(|(kind, list)| (*kind, lines(list))).collect();
        json!({"compared": self.shown.values().sum::<u64>(), "shown": self.shown, "last": self.last,
               "retried": self.retried, "unknown": self.unknown, "examples": examples})
    }
}

/// A call as the next one will be compared with it.
struct Told {
    call: usize,
    /// Hashes of the messages that it saw; none for an assistant's.
    messages: Vec<Option<u64>>,
    /// Its output without the stop id.
    output: Vec<Id>,
    /// The same without thinking.
    answer: Vec<Id>,
}

/// Where a prompt first shows something else.
struct Apart {
    /// Position in the prompt.
    at: usize,
    /// Position in the answer, and whether its thinking is counted; none where what differs stands before it.
    in_answer: Option<(usize, bool)>,
}

impl Apart {
    /// The first id of two lists that differs.
    fn of(answer: &[Id], shown: &[Id], starts: usize, whole: bool) -> Self {
        let at = common_prefix(answer, shown);
        Self { at: starts + at, in_answer: Some((at, whole)) }
    }

    fn tell(&self, tokenizer: Option<&Tokenizer>, told: &Told, prompt: &[Id]) -> String {
        let text = |ids: &[Id], at: usize| {
            let ids = &ids[at.saturating_sub(CONTEXT)..(at + CONTEXT).min(ids.len())];
            tokenizer.map_or_else(
                || format!("{ids:?}"),
                |known| format!("{:?}", String::from_utf8_lossy(&known.decode(ids))),
            )
        };
        let there = format!(", from id {} on: {}", self.at, text(prompt, self.at));
        self.in_answer.map_or(there.clone(), |(at, whole)| {
            let answer = if whole { &told.output } else { &told.answer };
            format!("{there} where the answer has {}", text(answer, at))
        })
    }
}

impl Plan {
    /// Compares each call of a rollout with the next one.
    pub(super) fn prove(
        &self,
        calls: &[Sighted<'_>],
        order: &[usize],
        source: &mut impl Source,
        counts: &mut Counts,
    ) -> Result<()> {
        let proof = counts.proof.get_or_insert_default();
        let mut found = Found::default();
        let mut before: Option<Told> = None;
        let kept: Vec<usize> = order.iter().copied().filter(|call| is_kept(&calls[*call])).collect();
        for turn in kept.chunk_by(|a, b| calls[*a].turn == calls[*b].turn) {
            let sighted = &calls[turn[0]];
            let Some(known) = sighted.identity.map(|index| self.identities.get(index)) else {
                proof.unknown += turn.len() as u64;
                continue;
            };
            let (prompt, output) = source.ids(turn[0])?;
            if let Some(told) = before.take() {
                let tokenizer = self.tokenizer.as_ref();
                let (kind, from) = shown(known, tokenizer, &told, prompt, &mut found);
                proof.tell(kind, || {
                    let message = format!("shown in the prompt of record {}", sighted.call.record);
                    let told_apart = from.map(|from| from.tell(tokenizer, &told, prompt));
                    Example { place: calls[told.call].place(), message: message + &told_apart.unwrap_or_default() }
                });
            }
            if turn.len() > 1 {
                proof.retried += turn.len() as u64;
                continue;
            }
            let output = match output.split_last() {
                Some((last, rest)) if known.profile.stop_ids.contains(last) || sighted.call.stop_ids.contains(last) => {
                    rest
                }
                _ => output,
            };
            known.rule.think().find_into(output, known.rule.think().opened_by(prompt), &mut found);
            let mut messages = messages_of(known, prompt);
            // The last one is the turn that the output fills.
            messages.pop();
            before = Some(Told { call: turn[0], messages, output: output.to_vec(), answer: cut(output, &found.spans) });
        }
        proof.last += u64::from(before.is_some());
        Ok(())
    }
}

/// Whether a call is one that the harness went on from.
fn is_kept(sighted: &Sighted<'_>) -> bool {
    let call = sighted.call;
    let failed = call.failed || call.finish == Finish::Failed || call.parse_error || call.bad.is_some();
    sighted.skip.is_none()
        && !failed
        && sighted.turn.is_some()
        && call.kind.as_deref().is_none_or(|kind| kind == "solver")
        && sighted.digest.prompt > 0
        && sighted.digest.output > 0
}

fn messages_of(known: &Known, prompt: &[Id]) -> Vec<Option<u64>> {
    let starts = known.rule.turn_starts(prompt);
    let ends = starts.iter().skip(1).copied().chain([prompt.len()]);
    let hash = |(start, end): (&usize, usize)| match known.rule.answer_at(prompt, *start) {
        Some(_) => None,
        None => Some(xxhash3_64::Hasher::oneshot(bytemuck::cast_slice(&prompt[*start..end]))),
    };
    starts.iter().zip(ends).map(hash).collect()
}

/// How the prompt shows the answer, and where it first shows something else.
fn shown(
    known: &Known,
    tokenizer: Option<&Tokenizer>,
    told: &Told,
    prompt: &[Id],
    found: &mut Found,
) -> (Shown, Option<Apart>) {
    let rule = &known.rule;
    let starts = rule.turn_starts(prompt);
    let now = messages_of(known, prompt);
    let at = told.messages.len();
    let before = common_prefix(&told.messages, &now);
    let answer = (before == at).then(|| starts.get(at).and_then(|start| rule.answer_at(prompt, *start))).flatten();
    // Behind the answer at least the turn that is to be filled next must stand.
    let (Some(answer), true) = (answer, now.len() >= at + 2) else {
        let at = starts.get(before).copied().unwrap_or(prompt.len());
        return (Shown::Compaction, Some(Apart { at, in_answer: None }));
    };
    let there = &prompt[answer.clone()];
    let bare = there.strip_prefix(rule.history_pair()).unwrap_or(there);
    if there == told.answer || bare == told.answer {
        return (Shown::Equal, None);
    }
    let from = answer.end - bare.len();
    rule.find_in_answer(bare, found);
    if !found.spans.is_empty() {
        // What stands behind the thinking may have changed all the same.
        let behind = cut(bare, &found.spans);
        let apart = Some(Apart::of(&told.output, bare, from, true));
        return match (behind == told.answer, tokenizer) {
            (true, _) => (Shown::ThinkKept, apart),
            (false, None) => (Shown::OtherIds, apart),
            (false, Some(tokenizer)) => (by_text(known, tokenizer, &told.answer, &behind, &behind), apart),
        };
    }
    let apart = Some(Apart::of(&told.answer, bare, from, false));
    let Some(tokenizer) = tokenizer else { return (Shown::OtherIds, apart) };
    (by_text(known, tokenizer, &told.answer, bare, there), apart)
}

/// How unlike ids are alike as text; `there` is what is shown with the empty pair that may stand before it.
fn by_text(known: &Known, tokenizer: &Tokenizer, answer: &[Id], bare: &[Id], there: &[Id]) -> Shown {
    let (new, old) = (tokenizer.decode(bare), tokenizer.decode(answer));
    if new == old || tokenizer.decode(there) == old {
        return Shown::Retokenised;
    }
    if new.trim_ascii() == old.trim_ascii() {
        return Shown::TemplateRewrite;
    }
    match (known.rule.tool_call(bare), known.rule.tool_call(answer)) {
        (Some(a), Some(b)) => {
            let (new, old) = (tokenizer.decode(&bare[..a]), tokenizer.decode(&answer[..b]));
            if new.trim_ascii() == old.trim_ascii() { Shown::TemplateRewrite } else { Shown::Other }
        }
        _ => Shown::Other,
    }
}
