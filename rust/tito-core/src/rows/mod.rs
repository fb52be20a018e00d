//! Rows: what one is, the schema it has on disk, and the files it is written to.

mod checksum;
pub mod compare;
mod encode;
pub mod jsonl;
mod naming;
mod pages;
pub mod parquet;
mod read;
pub mod schema;
mod sink;
mod staged;
pub mod told;

pub use encode::{EncodedBatch, Encoder, Format, WriteOptions, encode};
pub(crate) use naming::{Lock, name_all};
pub use read::Reader;
pub use schema::OptionalColumns;
pub use sink::{Finished, Sink};
pub use staged::FinishedFile;
pub(crate) use staged::Staged;

use crate::ids::Id;
use std::ops::Range;
use std::sync::Arc;

/// A string that many rows share.
pub type Text = Arc<str>;

/// Bits of the `flags` column.
pub mod flag {
    /// The output was cut by a length limit.
    pub const TRUNCATED: i32 = 1;
    /// The prompt is, id for id, what the engine saw. Cleared by every policy that changes a prompt.
    pub const PROMPT_EXACT: i32 = 1 << 1;
    /// A think span was cut from the output (or masked).
    pub const THINK_STRIPPED: i32 = 1 << 2;
    /// The output holds no think marker.
    pub const THINK_ABSENT: i32 = 1 << 3;
    /// The output opens thinking and never closes it.
    pub const THINK_UNTERMINATED: i32 = 1 << 4;
    /// The output holds a think marker that no rule explains; it was left in place.
    pub const THINK_ODD: i32 = 1 << 5;
    /// The prompt ends in an open think tail although the span was cut from the output.
    pub const OPEN_THINK_TAIL: i32 = 1 << 6;
    /// The harness could not parse this reply and dropped it. Part of the schema; today such calls give no rows.
    pub const PARSE_ERROR: i32 = 1 << 7;
    /// Another call of the rollout has the same prompt.
    pub const RETRIED: i32 = 1 << 8;
    /// The row is a copy made by the copies policy.
    pub const COPIED: i32 = 1 << 9;
    /// Loss was taken from think spans.
    pub const THINK_MASKED: i32 = 1 << 10;
    /// A think marker was matched as several ordinary ids.
    pub const SPLIT_MARKER: i32 = 1 << 11;
    /// The prompt was shortened to fit the length limit.
    pub const PROMPT_TRIMMED: i32 = 1 << 12;
}

/// Where loss falls in `input_ids + output_ids`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSpan {
    /// First position.
    pub start: i32,
    /// One past the last position.
    pub end: i32,
    /// Weight of every token in the span.
    pub weight: f32,
}

/// One call that a merged row trains.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowCall {
    /// First position of the call's sample in the row.
    pub start: i32,
    /// One past the last.
    pub end: i32,
    /// Turn of the call.
    pub turn: Option<i32>,
    /// Id of the call.
    pub call_id: Option<Text>,
    /// File of the capture as the user named it: a rollout may lie in several.
    pub file: Text,
    /// Record in that file, from 1.
    pub record: i64,
    /// Hash of the call's ids.
    pub hash: [u8; 16],
}

/// Everything of a row but its ids. Field by field the scalar columns of schema version 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowMeta {
    /// Null = all of `output_ids`, weight 1.
    pub loss_spans: Option<Vec<LossSpan>>,
    /// Null = the one call of the scalar columns.
    pub calls: Option<Vec<RowCall>>,
    /// Row weight.
    pub weight: f32,
    /// Who.
    pub rollout_id: Option<Text>,
    /// Task.
    pub task_id: Option<Text>,
    /// Pair of cooperating rollouts.
    pub pair_id: Option<Text>,
    /// Agent.
    pub agent: Option<Text>,
    /// The engine's id of the call.
    pub call_id: Option<Text>,
    /// solver, summariser, helper.
    pub kind: Option<Text>,
    /// ok, agent_error, infra_error, limits, format, unknown.
    pub status: Option<Text>,
    /// Attempt at the task.
    pub attempt: Option<i32>,
    /// Turn of the row's last call.
    pub turn: Option<i32>,
    /// Reward of the rollout.
    pub reward: Option<f32>,
    /// Who made the row: `native`, ...
    pub source: Text,
    /// Format of the capture.
    pub capture_format: Text,
    /// File of the capture as the user named it.
    pub capture_file: Text,
    /// Record in the file, from 1.
    pub capture_record: i64,
    /// Hash of the captured call's ids (prompt and output).
    pub capture_hash: [u8; 16],
    /// Bits of [`flag`].
    pub flags: i32,
}

/// Lists of different lengths over one buffer. Ranges ascend and do not overlap; gaps are allowed and are not rows.
/// When there are no gaps the buffer is written as it stands, without a copy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ragged<T> {
    /// All values.
    pub values: Vec<T>,
    /// One range a row.
    pub ranges: Vec<Range<usize>>,
}

/// Rows that are encoded together: one data page a list column. The optional columns are empty or as long as the rest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// `input_ids`.
    pub input_ids: Ragged<Id>,
    /// `output_ids`.
    pub output_ids: Ragged<Id>,
    /// `loss_mask` on request, 0 or 1.
    pub loss_mask: Option<Ragged<i8>>,
    /// `loss_weights` on request.
    pub loss_weights: Option<Ragged<f32>>,
    /// `labels` on request.
    pub labels: Option<Ragged<Id>>,
    /// `output_logprobs` on request, and which rows have them: `false` = null, with an empty range. A merged row has one
    /// for each of its `input_ids`.
    pub output_logprobs: Option<(Ragged<f32>, Vec<bool>)>,
    /// One entry a row.
    pub meta: Vec<RowMeta>,
}
