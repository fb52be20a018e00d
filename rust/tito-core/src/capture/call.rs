//! What every format yields: calls, gathered in pieces of rollouts, their ids in one arena.

use super::Record;
use super::exchange::Exchanges;
use super::outcome::Outcome;
use super::served::Served;
use super::unread::Unread;
use crate::ids::Id;
use crate::ids::select::Notes;
use crate::json::{Cursor, Fault, IdFault, IdList, IdReader, KeptIds, KeptLists, Passer, Scalar};
use crate::rows::Text;
use chrono::{DateTime, NaiveDateTime};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Why a call gives no row. A closed list, in the order of reports; a call has one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Skip {
    /// The last line of a file is cut off.
    TornRecord,
    /// The record is not JSON.
    BadJson,
    /// The record is JSON but holds no call of the file's format.
    UnknownRecord,
    /// A turn, attempt or reward is there and cannot be read.
    BadField,
    /// A list of ids holds something that is no id.
    BadIds,
    /// An id is beyond the profile's vocabulary.
    IdOutOfVocab,
    /// The number of ids is not what `usage` says.
    UsageMismatch,
    /// The number of logprobs is not the number of output ids.
    LogprobMismatch,
    /// The same call id came before with other ids.
    Contradiction,
    /// The same call came before.
    Duplicate,
    /// The engine or the harness reports a failure of the infrastructure.
    InfraError,
    /// The request was longer than the model's context.
    ContextOverflow,
    /// A kind of call that was not asked for.
    Kind,
    /// The harness could not parse the reply.
    ParseError,
    /// The next prompt leaves the reply out.
    Dropped,
    /// Whoever ran the rollout says that nobody used the reply.
    Unconsumed,
    /// The rollout was opened and never closed, or given up.
    Abandoned,
    /// The engine gave text and no ids.
    TextOnly,
    /// The capture has no ids.
    NoCapture,
    /// The output has no ids.
    EmptyOutput,
    /// The section that was to leave the prompt cannot be cut from it.
    SectionUncut,
    /// The output does not end in a stop id.
    Truncated,
    /// The output opens thinking and never closes it.
    UnterminatedThink,
    /// Nothing is left of the output once thinking is cut.
    EmptyAfterStrip,
    /// Nobody can tell whether the harness kept this reply or another to the same prompt.
    Ambiguous,
    /// The row is longer than the limit.
    Overlong,
    /// The row holds what was to leave the prompts.
    Leaked,
    /// The copies policy gave the row a fraction below one and the draw was zero.
    NotDrawn,
}

impl Skip {
    /// All reasons in their order.
    pub const ALL: [Self; 28] = [
        Self::TornRecord,
        Self::BadJson,
        Self::UnknownRecord,
        Self::BadField,
        Self::BadIds,
        Self::IdOutOfVocab,
        Self::UsageMismatch,
        Self::LogprobMismatch,
        Self::Contradiction,
        Self::Duplicate,
        Self::InfraError,
        Self::ContextOverflow,
        Self::Kind,
        Self::ParseError,
        Self::Dropped,
        Self::Unconsumed,
        Self::Abandoned,
        Self::TextOnly,
        Self::NoCapture,
        Self::EmptyOutput,
        Self::SectionUncut,
        Self::Truncated,
        Self::UnterminatedThink,
        Self::EmptyAfterStrip,
        Self::Ambiguous,
        Self::Overlong,
        Self::Leaked,
        Self::NotDrawn,
    ];

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TornRecord => "torn_record",
            Self::BadJson => "bad_json",
            Self::UnknownRecord => "unknown_record",
            Self::BadField => "bad_field",
            Self::BadIds => "bad_ids",
            Self::IdOutOfVocab => "id_out_of_vocab",
            Self::UsageMismatch => "usage_mismatch",
            Self::LogprobMismatch => "logprob_mismatch",
            Self::Contradiction => "contradicting_ids",
            Self::Duplicate => "duplicate",
            Self::InfraError => "infra_error",
            Self::ContextOverflow => "context_overflow",
            Self::Kind => "kind",
            Self::ParseError => "parse_error",
            Self::Dropped => "dropped",
            Self::Unconsumed => "unconsumed",
            Self::Abandoned => "abandoned",
            Self::TextOnly => "text_only",
            Self::NoCapture => "no_capture",
            Self::EmptyOutput => "empty_output",
            Self::SectionUncut => "section_uncut",
            Self::Truncated => "truncated",
            Self::UnterminatedThink => "unterminated_think",
            Self::EmptyAfterStrip => "empty_after_strip",
            Self::Ambiguous => "ambiguous",
            Self::Overlong => "overlong",
            Self::Leaked => "leaked",
            Self::NotDrawn => "not_drawn",
        }
    }

    /// What is said of a call that its capture sets aside.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::ContextOverflow => "the request was longer than the model's context",
            Self::Dropped => "the next prompt leaves the reply out",
            Self::Unconsumed => "nobody used the reply, says whoever ran the rollout",
            Self::Abandoned => "the rollout was given up, or opened and never closed",
            Self::NoCapture => "the engine gave no ids, and the request failed",
            Self::TextOnly => "the engine gave text and no ids",
            _ => "the capture sets the call aside",
        }
    }

    /// Whether the reason means that the data is bad, not that a policy left the call out.
    #[must_use]
    pub fn is_bad(self) -> bool {
        (self >= Self::BadJson && self <= Self::Contradiction) || self == Self::SectionUncut
    }
}

/// Why the engine stopped, in the words of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Finish {
    /// The capture does not say.
    #[default]
    Unknown,
    /// `stop`, `tool_calls`, `eos`.
    Stop,
    /// `length`.
    Length,
    /// `abort`, `error`, `repetition` and what else there may be.
    Failed,
}

impl Finish {
    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Self {
        match word {
            "stop" | "tool_calls" | "function_call" | "eos" | "stop_sequence" | "end_turn" | "tool_use" => Self::Stop,
            "length" | "max_tokens" => Self::Length,
            "abort" | "error" | "repetition" | "content_filter" => Self::Failed,
            _ => Self::Unknown,
        }
    }
}

/// What is known of a rollout. Missing is missing: nothing is made up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Who {
    /// Rollout.
    pub rollout_id: Option<Text>,
    /// Task.
    pub task_id: Option<Text>,
    /// Pair.
    pub pair_id: Option<Text>,
    /// Agent.
    pub agent: Option<Text>,
    /// One of the schema's words.
    pub status: Option<Text>,
    /// Attempt.
    pub attempt: Option<i32>,
    /// Reward; a boolean is none.
    pub reward: Option<f32>,
    /// Who made the ids, if not an engine.
    pub source: Option<Text>,
    /// What was said of the rollout beside its calls.
    pub outcome: Outcome,
}

impl Who {
    /// Takes a key that several formats share; false (and nothing consumed) if the key is none of them.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn take(&mut self, key: &[u8], c: &mut Cursor<'_>) -> Result<bool, Fault> {
        match key {
            // `rollout_id` and `session_id` may both be there; the first name wins.
            b"rollout_id" => self.rollout_id = text(c)?.or(self.rollout_id.take()),
            b"session_id" => self.rollout_id = self.rollout_id.take().or(text(c)?),
            b"task_id" => self.task_id = text(c)?,
            b"pair_id" => self.pair_id = text(c)?,
            b"agent" | b"agent_id" => self.agent = text(c)?,
            b"source" => self.source = text(c)?,
            b"status" => self.status = c.text_value()?.map(|word| status(&word).into()),
            b"attempt" => {
                let at = c.pos();
                let attempt = whole(&c.scalar()?).map(|n| n.ok_or(Fault { at, message: BAD_ATTEMPT }));
                self.attempt = attempt.transpose()?;
            }
            b"reward" => self.reward = reward(c)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Who {
    /// Adds what another call says of the same rollout: names stay as they were first said, the outcome is as the
    /// latest call says it.
    pub fn join(&mut self, more: &Self, latest: bool) {
        let first = |mine: &mut Option<Text>, more: &Option<Text>| {
            if mine.is_none() {
                mine.clone_from(more);
            }
        };
        first(&mut self.rollout_id, &more.rollout_id);
        first(&mut self.task_id, &more.task_id);
        first(&mut self.pair_id, &more.pair_id);
        first(&mut self.agent, &more.agent);
        first(&mut self.source, &more.source);
        self.attempt = self.attempt.or(more.attempt);
        self.outcome.join(&more.outcome);
        if latest || self.status.is_none() {
            self.status = more.status.clone().or(self.status.take());
        }
        if latest || self.reward.is_none() {
            self.reward = more.reward.or(self.reward);
        }
    }
}

/// A list of stop ids; what is no id is passed over.
///
/// # Errors
/// A fault of the JSON.
pub fn stop_ids(c: &mut Cursor<'_>) -> Result<Arc<[Id]>, Fault> {
    let mut ids = Vec::new();
    c.array::<Fault>(|c, _| {
        ids.extend(c.scalar()?.int());
        Ok(())
    })?;
    Ok(ids.into())
}

/// Annotations, `{NAME: VALUE}`: a value is a string, a number as it is written, or a truth; null and what has parts
/// are passed over.
///
/// # Errors
/// A fault of the JSON.
pub fn notes(c: &mut Cursor<'_>) -> Result<Notes, Fault> {
    let mut notes = Vec::new();
    c.object::<Fault>(|c, key| {
        let value = match c.peek() {
            Some(b't' | b'f') => Some(Text::from(if c.scalar()?.is_true() { "true" } else { "false" })),
            _ => text(c)?,
        };
        if let (Some(value), Ok(key)) = (value, std::str::from_utf8(key)) {
            notes.push((Text::from(key), value));
        }
        Ok(())
    })?;
    Ok(notes.into())
}

/// A name: a string, or a number as it is written (long ones do not fit a float).
///
/// # Errors
/// A fault of the JSON.
pub fn text(c: &mut Cursor<'_>) -> Result<Option<Text>, Fault> {
    if matches!(c.peek(), Some(b'-' | b'0'..=b'9')) {
        return Ok(std::str::from_utf8(c.raw()?).ok().map(Text::from));
    }
    Ok(c.text_value()?.filter(|t| !t.is_empty()).map(|t| Text::from(&*t)))
}

/// A turn: a whole number from 0.
///
/// # Errors
/// A fault of the JSON.
pub fn turn(c: &mut Cursor<'_>) -> Result<Option<i32>, Fault> {
    let at = c.pos();
    let turn = whole(&c.scalar()?).map(|turn| turn.filter(|turn| *turn >= 0).ok_or(Fault { at, message: BAD_TURN }));
    turn.transpose()
}

/// Fields that are there and are no such thing.
const BAD_TURN: &str = "`turn` is no whole number from 0";
const BAD_ATTEMPT: &str = "`attempt` is no whole number";
const BAD_REWARD: &str = "`reward` is no number";

/// Whether a fault is of a field that is JSON.
pub(super) fn is_of_field(fault: &Fault) -> bool {
    [BAD_TURN, BAD_ATTEMPT, BAD_REWARD].contains(&fault.message)
}

/// A whole number, also one that is written as a string; `Some(None)` for what is there and is none.
fn whole(value: &Scalar<'_>) -> Option<Option<i32>> {
    match value {
        Scalar::Missing => None,
        // What pandas writes for nothing.
        Scalar::Number(number) if number.is_nan() => None,
        Scalar::Text(text) => Some(text.trim().parse().ok()),
        value => Some(value.int()),
    }
}

/// A number that fits, as far as it is one: truths and what is not finite are none.
fn reward(c: &mut Cursor<'_>) -> Result<Option<f32>, Fault> {
    let at = c.pos();
    let number = match c.scalar()? {
        Scalar::Text(text) => Some(text.trim().parse::<f64>().map_err(|_| Fault { at, message: BAD_REWARD })?),
        value => value.number(),
    };
    Ok(number.map(|n| n as f32).filter(|n| n.is_finite()))
}

/// The schema's word for a status of some harness, by its words: `LimitsExceeded` is `limits`.
#[must_use]
pub fn status(status: &str) -> &'static str {
    let mut words: Vec<String> = Vec::new();
    let mut lower = false;
    for c in status.chars() {
        if !c.is_alphanumeric() || words.is_empty() || (lower && c.is_uppercase()) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
        lower = c.is_lowercase();
    }
    let has = |known: &[&str]| words.iter().any(|word| known.contains(&word.as_str()));
    if has(&["infra", "infrastructure", "provider"]) {
        "infra_error"
    } else if has(&["limit", "limits", "timeout", "overflow"]) {
        "limits"
    } else if has(&["format"]) {
        "format"
    } else if has(&["error", "exception", "failed", "failure"]) {
        "agent_error"
    } else if has(&["ok", "submitted", "completed", "complete", "success", "done", "finished", "passed"]) {
        "ok"
    } else {
        "unknown"
    }
}

/// Bad data in one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// The reason.
    pub reason: Skip,
    /// Index in the list of ids, if one id is to blame.
    pub position: Option<u64>,
    /// What was seen.
    pub message: String,
}

impl Bad {
    /// A list with an entry that is no id.
    #[must_use]
    pub fn ids(key: &str, fault: &IdFault) -> Self {
        Self {
            reason: Skip::BadIds,
            position: Some(fault.index as u64),
            message: format!("{key}[{}] is {}: {}", fault.index, fault.entry, fault.why),
        }
    }
}

/// One request to an engine and one choice of its reply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Range of the prompt in the arena; null when the capture has none.
    pub prompt: Option<Range<usize>>,
    /// Range of the output in the arena; null when the capture has none.
    pub output: Option<Range<usize>>,
    /// Range of the logprobs in the arena.
    pub logprobs: Option<Range<usize>>,
    /// No id is larger.
    pub max_id: Id,
    /// Why the engine stopped.
    pub finish: Finish,
    /// Whether a stop string ended the output (its last id is then an ordinary one).
    pub stop_string: bool,
    /// The id that ended the output, where the engine says it.
    pub stop_id: Option<Id>,
    /// Ids beyond the profile's that the request named; shared by the choices of a reply.
    pub stop_ids: Arc<[Id]>,
    /// The engine's id of the response.
    pub call_id: Option<Text>,
    /// Index of the choice.
    pub choice: i32,
    /// `solver` when the capture does not say.
    pub kind: Option<Text>,
    /// Turn, when the format says it: from 0.
    pub turn: Option<i32>,
    /// Seconds since the epoch.
    pub started: Option<f64>,
    /// What the record notes of the call; shared by the choices of a reply.
    pub notes: Notes,
    /// The harness could not parse the reply.
    pub parse_error: bool,
    /// The call failed in the engine or on the way.
    pub failed: bool,
    /// Why the call gives no row, where the capture itself says so.
    pub set_aside: Option<Skip>,
    /// Bad data; the ids are then not to be used.
    pub bad: Option<Bad>,
    /// Record in the file, from 1.
    pub record: u64,
    /// Which reply of the record: choices of one reply are siblings.
    pub reply: u32,
}

/// Calls of one rollout that stand together.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Who.
    pub who: Who,
    /// Range in [`Parsed::calls`].
    pub calls: Range<usize>,
    /// The record holds the whole rollout: nothing that comes later belongs to it.
    pub complete: bool,
    /// The calls stand in their order and carry the turns that are known: none is made up.
    pub numbered: bool,
    /// What separates rollouts of equal name: the folder of a one-file trajectory, else empty.
    pub scope: Text,
    /// File as the user named it.
    pub file: Text,
    /// Name of the format.
    pub format: &'static str,
}

/// A record that gave no call, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// File.
    pub file: Text,
    /// Record, from 1.
    pub record: u64,
    /// Why and where in the record.
    pub bad: Bad,
}

/// A record as it stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Which line, from 1; none where the whole file is one record.
    pub number: Option<u64>,
    /// Its text.
    pub bytes: usize,
    /// How many pieces there are up to its end.
    pub pieces: usize,
}

/// What was read from one stretch of input.
#[derive(Debug, Default)]
pub struct Parsed<'a> {
    /// Prompts.
    pub prompts: IdReader<'a>,
    /// Outputs.
    pub outputs: IdReader<'a>,
    /// Messages of requests.
    pub passed: Passer<'a>,
    /// Logprobs of outputs.
    pub logprobs: Vec<f32>,
    /// Calls, in the order of the input.
    pub calls: Vec<Call>,
    /// Pieces, in the order of the input.
    pub pieces: Vec<Piece>,
    /// Records without calls.
    pub lost: Vec<Lost>,
    /// What is said of the engine.
    pub served: Vec<Served>,
    /// Keys that were passed over.
    pub unread: Unread,
    /// What the calls were asked and answered, where it is asked for.
    pub exchanges: Option<Box<Exchanges>>,
    /// Lines that are not empty, in the order of the input.
    pub lines: Vec<Line>,
}

/// What one stretch of input leaves to the next: where calls of a rollout lie apart, they begin alike.
#[derive(Debug, Default)]
pub struct Kept {
    prompts: KeptIds,
    passed: KeptLists,
}

/// Bytes of prompts, and of messages, that are kept at most: those of some twenty rollouts.
const KEPT_BYTES: usize = 2 << 20;

impl<'a> Parsed<'a> {
    /// An empty one whose lists go into memory used before.
    #[must_use]
    pub fn going_on(prompts: Vec<Id>, outputs: Vec<Id>, kept: Kept) -> Self {
        Self {
            prompts: IdReader::going_on(prompts, kept.prompts),
            outputs: IdReader::new(outputs),
            passed: Passer::going_on(kept.passed),
            ..Self::default()
        }
    }

    /// What the next stretch is compared with: nothing where each record holds a whole rollout. Nothing can be read
    /// into this one afterwards that is compared with what it holds.
    pub fn keep(&mut self) -> Kept {
        if self.pieces.iter().all(|piece| piece.complete) {
            return Kept::default();
        }
        Kept { prompts: self.prompts.keep(KEPT_BYTES), passed: self.passed.keep(KEPT_BYTES) }
    }
}

impl Parsed<'_> {
    /// Notes a record that gives no call.
    pub fn lose(&mut self, record: &Record<'_>, bad: Bad) {
        self.lost.push(Lost { file: record.origin.file.clone(), record: record.number, bad });
    }

    /// Gives a call the prompt that was read for it.
    pub fn set_prompt(&self, call: &mut Call, read: Result<Option<IdList>, IdFault>, key: &str) {
        match read {
            Ok(Some(list)) => {
                call.max_id = call.max_id.max(list.max);
                call.prompt = Some(list.ids);
            }
            Ok(None) => {}
            Err(fault) => call.bad = call.bad.take().or_else(|| Some(Bad::ids(key, &fault))),
        }
    }

    /// Gives a call the output that was read for it.
    pub fn set_output(&self, call: &mut Call, read: Result<Option<IdList>, IdFault>, key: &str) {
        match read {
            Ok(Some(list)) => {
                call.max_id = call.max_id.max(list.max);
                call.output = Some(list.ids);
            }
            Ok(None) => {}
            Err(fault) => call.bad = call.bad.take().or_else(|| Some(Bad::ids(key, &fault))),
        }
    }

    /// Notes that a call's logprobs are not as many as its output ids.
    pub fn check_logprobs(&self, call: &mut Call) {
        if let (Some(output), Some(logprobs), None) = (&call.output, &call.logprobs, &call.bad)
            && output.len() != logprobs.len()
        {
            call.bad = Some(Bad {
                reason: Skip::LogprobMismatch,
                position: None,
                message: format!("{} logprobs for {} output ids", logprobs.len(), output.len()),
            });
        }
    }
}

/// A time as seconds since the epoch: a number, or ISO 8601 with or without an offset (none means UTC).
#[must_use]
pub fn seconds(value: &Scalar<'_>) -> Option<f64> {
    match value {
        Scalar::Number(n) if n.is_finite() => Some(*n),
        Scalar::Text(text) => iso_seconds(text),
        _ => None,
    }
}

fn iso_seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then_some(number);
    }
    let text = text.replacen(' ', "T", 1);
    let time = DateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f%#z")
        .or_else(|_| DateTime::parse_from_rfc3339(&text))
        .map(|t| t.to_utc())
        .or_else(|_| NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f").map(|t| t.and_utc()))
        .ok()?;
    Some(time.timestamp() as f64 + f64::from(time.timestamp_subsec_nanos()) / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_shape() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0.0)),
            ("2026-11-21T12:00:00", Some(1_795_262_400.0)),
            ("2026-11-21 13:00:00.500+01:00", Some(1_795_262_400.5)),
            ("2024-02-29T00:00:00-0530", Some(1_709_184_600.0)),
            ("1795262400.25", Some(1_795_262_400.25)),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(iso_seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn reasons_are_a_closed_ordered_list() {
        assert!(Skip::ALL.windows(2).all(|w| w[0] < w[1]));
        assert!(Skip::BadIds.is_bad() && Skip::Contradiction.is_bad());
        assert!(!Skip::TornRecord.is_bad() && !Skip::Duplicate.is_bad() && !Skip::NoCapture.is_bad());
    }
}
