//! What a run counted. Everything here is summed in the order of the input, so that it is the same for any number of
//! workers; it becomes the report on the screen, `--json`, the manifest and the file's metadata.

use super::prove::Proof;
use super::section::SectionCounts;
use super::survey::Side;
use crate::capture::{InputFile, Served, Skip};
use crate::error::Place;
use crate::ids::think::ThinkCounts;
use crate::rows::Text;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::AddAssign;

/// How many places a reason keeps as examples.
const EXAMPLES: usize = 3;
/// Turns behind this one are counted together.
const LAST_TURN: i32 = 99;

/// What happened to sampled ids: they add up (law of conservation).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Ids of all outputs that could be read.
    pub sampled: u64,
    /// With loss.
    pub trained: u64,
    /// Cut as thinking.
    pub think_cut: u64,
    /// Without loss as thinking.
    pub think_masked: u64,
    /// Without loss as truncated.
    pub truncated_masked: u64,
    /// Without loss as ambiguous.
    pub ambiguous_masked: u64,
    /// In outputs that gave no row.
    pub skipped: u64,
    /// Ids of the rows' prompts.
    pub prompt: u64,
    /// Ids inside think spans of the outputs used, whatever the policy did with them (0 without a profile).
    pub thinking: u64,
}

impl Tokens {
    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.sampled += other.sampled;
        self.trained += other.trained;
        self.think_cut += other.think_cut;
        self.think_masked += other.think_masked;
        self.truncated_masked += other.truncated_masked;
        self.ambiguous_masked += other.ambiguous_masked;
        self.skipped += other.skipped;
        self.prompt += other.prompt;
        self.thinking += other.thinking;
    }
}

/// Think states of the outputs that a policy looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinkStates {
    /// The outputs themselves.
    #[serde(flatten)]
    pub outputs: ThinkCounts,
    /// Prompts that end in an open think tail whose thinking was cut.
    pub open_think_tail: u64,
    /// Earlier turns cut in prompts.
    pub history_stripped: u64,
    /// Earlier turns in which a think marker was left, because it is never closed or no rule explains it.
    pub history_left: u64,
    /// Prompts whose tail is neither of the profile's.
    pub tail_unknown: u64,
    /// Outputs or open prompt tails with a marker.
    pub markers: u64,
}

/// What merging would make, or made, of the calls that give rows. Judged on the ids as they were captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeCounts {
    /// Calls judged.
    pub calls: u64,
    /// Ids of their rows, one row a call.
    pub ids: u64,
    /// Longest sequences: the rows that merging makes.
    pub merged_rows: u64,
    /// Ids of these.
    pub merged_ids: u64,
    /// Calls of which nobody can tell which one was kept.
    pub ambiguous: u64,
    /// Calls that another call to the same prompt replaced.
    pub superseded: u64,
    /// Calls written one a row, because a policy makes their merged row impossible.
    pub fell_back: u64,
    /// Calls written one a row, because their merged row would be too long.
    pub fell_back_overlong: u64,
}

impl AddAssign for MergeCounts {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.ids += other.ids;
        self.merged_rows += other.merged_rows;
        self.merged_ids += other.merged_ids;
        self.ambiguous += other.ambiguous;
        self.superseded += other.superseded;
        self.fell_back += other.fell_back;
        self.fell_back_overlong += other.fell_back_overlong;
    }
}

/// Rows that train one turn, one side, or what one rule is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnCount {
    /// Rows, copies included; of calls, those that train them.
    pub rows: u64,
    /// Sum of the calls' weights.
    pub weight: f64,
    /// Sum over calls of weight times trained ids.
    pub weighted_ids: f64,
}

impl TurnCount {
    fn call(&mut self, (copies, weight, trained): (u64, f32, u64)) {
        let weight = f64::from(weight) * copies as f64;
        self.weight += weight;
        self.weighted_ids += weight * trained as f64;
    }
}

impl AddAssign for TurnCount {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.weight += other.weight;
        self.weighted_ids += other.weighted_ids;
    }
}

/// What a weight rule is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleCount {
    /// Calls, whether or not they are drawn as copies.
    pub calls: u64,
    /// Their rows.
    pub rows: TurnCount,
}

/// An example of a skip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Where.
    pub place: Place,
    /// What was seen.
    pub message: String,
}

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Records and calls met.
    pub calls_seen: u64,
    /// Calls that gave rows.
    pub calls_used: u64,
    /// Calls of rollouts by kind.
    pub kinds: BTreeMap<Text, u64>,
    /// Rollouts.
    pub rollouts: u64,
    /// Rows written.
    pub rows: u64,
    /// Of them copies.
    pub copies: u64,
    /// By reason.
    pub skipped: BTreeMap<Skip, u64>,
    /// By reason.
    pub examples: BTreeMap<Skip, Vec<Example>>,
    /// Sampled ids.
    pub tokens: Tokens,
    /// Think states.
    pub think: ThinkStates,
    /// Merging.
    pub merge: MergeCounts,
    /// The section that leaves prompts, where one was named.
    pub section: Option<SectionCounts>,
    /// What later prompts show of answers, where it was asked.
    pub proof: Option<Proof>,
    /// Train and validation.
    pub sides: [TurnCount; 2],
    /// Of the training side by turn; -1 = the capture does not say.
    pub turns: BTreeMap<i32, TurnCount>,
    /// Length of each row (copies once).
    pub lengths: Vec<u32>,
    /// Truncation was told by the last id, or by the finish word where no profile is known.
    pub judged_by_id: u64,
    /// See above.
    pub judged_by_finish: u64,
    /// Nothing told of truncation.
    pub judged_by_nothing: u64,
    /// Outputs that begin with their whole prompt.
    pub prompt_in_output: u64,
    /// Rows whose prompt is not what the engine saw.
    pub prompts_changed: u64,
    /// Calls whose ids are those of another call.
    pub repeated_ids: u64,
    /// Calls that came again and of which another line says another finish, kind, turn or parse error.
    pub retold: u64,
    /// Calls that do not say which of several rollouts of their name they are of.
    pub unplaced: u64,
    /// Rollouts that are told of and have no call.
    pub without_calls: u64,
    /// Rollouts that were begun more than once.
    pub begun_again: u64,
    /// Calls of replies that name no rollout.
    pub unnamed: u64,
    /// Calls whose turn comes before that of the call they continue.
    pub backwards: u64,
    /// The first of them.
    pub backwards_first: Option<String>,
    /// Keys that nobody read and that look like others: those, and how often they were there.
    pub unread: BTreeMap<Text, (Text, u64)>,
    /// Rollouts whose calls say unlike things of how they ended.
    pub disputed: u64,
    /// Rows by identity.
    pub identities: BTreeMap<String, u64>,
    /// Of the training side by weight rule.
    pub rules: Vec<RuleCount>,
    /// The tokenizers and templates that logs say were served, each where it is said first.
    pub served: Vec<Served>,
}

impl Counts {
    /// Counts a skipped call, and keeps its place if it is among the first of its reason.
    pub fn skip(&mut self, reason: Skip, sampled: u64, example: impl FnOnce() -> Example) {
        *self.skipped.entry(reason).or_default() += 1;
        self.tokens.sampled += sampled;
        self.tokens.skipped += sampled;
        let examples = self.examples.entry(reason).or_default();
        if examples.len() < EXAMPLES {
            examples.push(example());
        }
    }

    /// Counts a call of that kind, whatever becomes of it.
    pub fn kind(&mut self, kind: &str) {
        match self.kinds.get_mut(kind) {
            Some(n) => *n += 1,
            None => drop(self.kinds.insert(kind.into(), 1)),
        }
    }

    /// Counts a call in `copies` rows of that weight and so many trained ids. The rows of a side are counted apart:
    /// several calls may share one.
    pub fn call(&mut self, side: Side, turn: Option<i32>, call: (u64, f32, u64), matched: &[u32]) {
        self.sides[side as usize].call(call);
        if side == Side::Val {
            return;
        }
        let add = |slot: &mut TurnCount| {
            slot.rows += call.0;
            slot.call(call);
        };
        add(self.turns.entry(turn.map_or(-1, |t| t.min(LAST_TURN))).or_default());
        for rule in matched {
            if let Some(rule) = self.rules.get_mut(*rule as usize) {
                add(&mut rule.rows);
            }
        }
    }

    /// Sum of the weights of what is trained.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.sides[Side::Train as usize].weight
    }

    /// Notes what a log says of its engine.
    pub fn serve(&mut self, served: impl IntoIterator<Item = Served>) {
        for served in served {
            if !self.served.iter().any(|known| known.same(&served)) {
                self.served.push(served);
            }
        }
    }

    /// Adds what the next stretch of input counted.
    pub fn add(&mut self, other: Self) {
        self.calls_seen += other.calls_seen;
        self.calls_used += other.calls_used;
        for (kind, n) in other.kinds {
            *self.kinds.entry(kind).or_default() += n;
        }
        self.rollouts += other.rollouts;
        self.rows += other.rows;
        self.copies += other.copies;
        for (reason, n) in other.skipped {
            *self.skipped.entry(reason).or_default() += n;
        }
        for (reason, more) in other.examples {
            let examples = self.examples.entry(reason).or_default();
            examples.extend(more);
            examples.truncate(EXAMPLES);
        }
        self.tokens.add(&other.tokens);
        let (t, o) = (&mut self.think, other.think);
        t.outputs += o.outputs;
        t.open_think_tail += o.open_think_tail;
        t.history_stripped += o.history_stripped;
        t.history_left += o.history_left;
        t.tail_unknown += o.tail_unknown;
        t.markers += o.markers;
        self.merge += other.merge;
        if let Some(section) = other.section {
            *self.section.get_or_insert_default() += section;
        }
        if let Some(proof) = other.proof {
            self.proof.get_or_insert_default().add(proof);
        }
        for (turn, n) in other.turns {
            *self.turns.entry(turn).or_default() += n;
        }
        self.lengths.extend(other.lengths);
        self.judged_by_id += other.judged_by_id;
        self.judged_by_finish += other.judged_by_finish;
        self.judged_by_nothing += other.judged_by_nothing;
        self.prompt_in_output += other.prompt_in_output;
        self.prompts_changed += other.prompts_changed;
        self.repeated_ids += other.repeated_ids;
        self.retold += other.retold;
        self.unplaced += other.unplaced;
        self.without_calls += other.without_calls;
        self.begun_again += other.begun_again;
        self.disputed += other.disputed;
        self.unnamed += other.unnamed;
        self.backwards += other.backwards;
        for (key, (meant, times)) in other.unread {
            self.unread.entry(key).or_insert((meant, 0)).1 += times;
        }
        self.backwards_first = self.backwards_first.take().or(other.backwards_first);
        for (name, n) in other.identities {
            *self.identities.entry(name).or_default() += n;
        }
        self.sides.iter_mut().zip(other.sides).for_each(|(sum, n)| *sum += n);
        self.serve(other.served);
        self.rules.resize(self.rules.len().max(other.rules.len()), RuleCount::default());
        for (sum, n) in self.rules.iter_mut().zip(other.rules) {
            sum.calls += n.calls;
            sum.rows += n.rows;
        }
    }

    /// Calls that were left out because their data is bad.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.skipped.iter().filter(|(reason, _)| reason.is_bad()).map(|(_, n)| n).sum()
    }

    /// The counts as JSON; stored in the file and the manifest.
    #[must_use]
    pub fn to_json(&self, rules: &[String]) -> Value {
        let skipped: serde_json::Map<_, _> =
            self.skipped.iter().map(|(reason, n)| (reason.name().to_owned(), json!(n))).collect();
        let examples: serde_json::Map<_, _> = self
            .examples
            .iter()
            .map(|(reason, list)| {
                let list: Vec<_> = list.iter().map(|e| format!("{}: {}", e.place, e.message)).collect();
                (reason.name().to_owned(), json!(list))
            })
            .collect();
        let turns: Vec<_> = self
            .turns
            .iter()
            .map(|(turn, n)| {
                let turn = (*turn >= 0).then_some(*turn);
                json!({"turn": turn, "rows": n.rows, "weight": n.weight, "weighted_ids": n.weighted_ids})
            })
            .collect();
        let rule = |(rule, n): (&String, &RuleCount)| {
            let (weight, ids) = (n.rows.weight, n.rows.weighted_ids);
            json!({"rule": rule, "calls": n.calls, "weight": weight, "weighted_ids": ids})
        };
        let hits: Vec<_> = rules.iter().zip(&self.rules).map(rule).collect();
        let sides: serde_json::Map<_, _> =
            Side::ALL.iter().map(|side| (side.name().to_owned(), json!(self.sides[*side as usize]))).collect();
        json!({
            "calls_seen": self.calls_seen, "calls_used": self.calls_used, "rollouts": self.rollouts,
            "rows": self.rows, "copies": self.copies, "weight": self.weight(),
            "sides": sides,
            "skipped": skipped, "bad": self.bad(), "examples": examples, "tokens": self.tokens, "think": self.think,
            "merge": self.merge, "section": self.section,
            "prove_think": self.proof.as_ref().map(Proof::to_json), "turns": turns,
            "lengths": self.length_percentiles(),
            "truncation_judged": {
                "by_last_id": self.judged_by_id, "by_finish": self.judged_by_finish, "by_nothing": self.judged_by_nothing,
            },
            "prompts_changed": self.prompts_changed, "prompt_in_output": self.prompt_in_output, "repeated_ids": self.repeated_ids, "retold": self.retold,
            "unplaced": self.unplaced, "without_calls": self.without_calls, "begun_again": self.begun_again, "disputed": self.disputed, "unnamed": self.unnamed,
            "backwards": self.backwards, "unread": self.unread, "backwards_first": self.backwards_first,
            "identities": self.identities, "served": self.served.iter().map(served_json).collect::<Vec<_>>(), "upweight": hits,
        })
    }

    fn length_percentiles(&self) -> Value {
        let mut lengths = self.lengths.clone();
        lengths.sort_unstable();
        let at = |share: f64| {
            let rank = (share * lengths.len() as f64).ceil() as usize;
            lengths.get(rank.saturating_sub(1))
        };
        json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": lengths.last()})
    }
}

fn served_json(served: &Served) -> Value {
    let (tokenizer, template) = (served.tokenizer_hash.as_deref(), served.template_hash.as_deref());
    json!({"tokenizer_hash": tokenizer, "template_hash": template, "place": served.place.to_string()})
}

/// The files that were read, as JSON.
#[must_use]
pub fn inputs_json(files: &[InputFile]) -> Value {
    files
        .iter()
        .filter(|file| file.format.is_some())
        .map(|file| json!({"file": file.file, "bytes": file.bytes, "hash": file.hash, "format": file.format}))
        .collect()
}
