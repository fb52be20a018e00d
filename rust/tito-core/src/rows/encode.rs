//! Batches to bytes: the part of writing that costs time. It touches no file, so every worker does its own.

use super::pages::{self, Chunk, Codec};
use super::schema::{List, OptionalColumns};
use super::{Batch, Ragged, RowMeta, jsonl};
use crate::error::{Error, Result};
use std::borrow::Cow;

/// What kind of file rows are written to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Parquet.
    #[default]
    Parquet,
    /// One JSON object a line, the same columns.
    Jsonl,
}

/// How rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// Kind of file.
    pub format: Format,
    /// Columns beside those that are always there.
    pub optional: OptionalColumns,
    /// Level of zstd; `None` = what was measured to suit pages of ids best, faster than level 3 and no larger.
    pub level: Option<i32>,
    /// Most raw bytes in a page of ids; a longer row has a page of its own.
    pub page_bytes: usize,
    /// Ids (prompts and outputs) near which a row group ends; whole batches only.
    pub row_group_ids: usize,
    /// Rows at which a row group ends at the latest: bounds the memory that rows without many ids take.
    pub row_group_rows: usize,
    /// Size after which the next file begins, at a row group; `None` = one file.
    pub shard_bytes: Option<u64>,
    /// Ids (prompts and outputs) near which the next file begins, between batches; `None` = one file.
    pub shard_ids: Option<usize>,
    /// The number of the file, where a run over other input makes the others; for one file.
    pub part: Option<usize>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            format: Format::Parquet,
            optional: OptionalColumns::default(),
            level: None,
            page_bytes: 8 << 20,
            row_group_ids: 4 << 20,
            row_group_rows: 1 << 16,
            shard_bytes: None,
            shard_ids: None,
            part: None,
        }
    }
}

/// A batch, ready to be appended to a file.
#[derive(Debug)]
pub struct EncodedBatch {
    pub(super) rows: usize,
    pub(super) ids: usize,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    /// The list columns in their order, and the rows of the others, which are encoded with their row group.
    Parquet {
        lists: Vec<Chunk>,
        meta: Vec<RowMeta>,
    },
    Jsonl(Vec<u8>),
}

impl EncodedBatch {
    /// Rows in it.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Ids in `input_ids` and `output_ids`.
    #[must_use]
    pub fn ids(&self) -> usize {
        self.ids
    }

    /// The lines, if this was encoded as JSON lines: what goes to standard output.
    #[must_use]
    pub fn lines(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Jsonl(text) => Some(text),
            Body::Parquet { .. } => None,
        }
    }
}

/// What one worker encodes with; keeps a compressor and buffers. The bytes do not depend on what was encoded before.
pub struct Encoder {
    options: WriteOptions,
    codec: Codec,
}

impl Encoder {
    /// Makes one.
    ///
    /// # Errors
    /// `Check` when zstd refuses the level.
    pub fn new(options: &WriteOptions) -> Result<Self> {
        Ok(Self { options: options.clone(), codec: Codec::new(options.level)? })
    }

    /// Encodes a batch and takes its meta rows; the ids stay with the caller, who may use their memory again.
    ///
    /// # Errors
    /// `Check` when the batch contradicts itself or lacks a column, `Data` when a value cannot be written.
    pub fn encode(&mut self, batch: &mut Batch) -> Result<EncodedBatch> {
        let (rows, ids) = check(batch, self.options.optional)?;
        let body = match self.options.format {
            Format::Parquet => {
                let lists = self.options.optional.lists().map(|list| self.pages(batch, list)).collect::<Result<_>>()?;
                Body::Parquet { lists, meta: std::mem::take(&mut batch.meta) }
            }
            Format::Jsonl => Body::Jsonl(jsonl::encode(batch, self.options.optional)?),
        };
        Ok(EncodedBatch { rows, ids, body })
    }

    fn pages(&mut self, batch: &Batch, list: List) -> Result<Chunk> {
        let (codec, page) = (&mut self.codec, self.options.page_bytes);
        match (list, &batch.loss_mask, &batch.loss_weights, &batch.labels, &batch.output_logprobs) {
            (List::InputIds, ..) => pages::encode(codec, &batch.input_ids, None, page),
            (List::OutputIds, ..) => pages::encode(codec, &batch.output_ids, None, page),
            (List::LossMask, Some(mask), ..) => {
                // Parquet has no 8-bit values: they are stored as 32 bits, all but free once compressed.
                let wide =
                    Ragged { values: mask.values.iter().map(|v| i32::from(*v)).collect(), ranges: mask.ranges.clone() };
                pages::encode(codec, &wide, None, page)
            }
            (List::LossWeights, _, Some(weights), ..) => pages::encode(codec, weights, None, page),
            (List::Labels, _, _, Some(labels), _) => pages::encode(codec, labels, None, page),
            (List::OutputLogprobs, .., Some((logprobs, present))) => {
                pages::encode(codec, logprobs, Some(present), page)
            }
            _ => Err(contradiction("an optional column is not there")),
        }
    }
}

/// Encodes one batch; [`Encoder`] is for many.
///
/// # Errors
/// As [`Encoder::encode`].
pub fn encode(mut batch: Batch, options: &WriteOptions) -> Result<EncodedBatch> {
    Encoder::new(options)?.encode(&mut batch)
}

fn contradiction(what: impl Into<Cow<'static, str>>) -> Error {
    Error::check(
        format!("a batch of rows contradicts itself: {}", what.into()),
        "this is a bug in tito; please report it",
    )
}

/// Rows and ids, if the columns of the batch fit each other and what was asked for.
fn check(batch: &Batch, optional: OptionalColumns) -> Result<(usize, usize)> {
    let rows = batch.meta.len();
    let here = OptionalColumns {
        loss_mask: batch.loss_mask.is_some(),
        loss_weights: batch.loss_weights.is_some(),
        labels: batch.labels.is_some(),
        output_logprobs: batch.output_logprobs.is_some(),
    };
    if here != optional {
        return Err(contradiction(format!("it has {here:?} where {optional:?} were asked for")));
    }
    let prompt = |row: usize| batch.input_ids.ranges[row].len();
    let output = |row: usize| batch.output_ids.ranges[row].len();
    let both = |row: usize| prompt(row) + output(row);
    let ids =
        fits("input_ids", &batch.input_ids, rows, |_| None)? + fits("output_ids", &batch.output_ids, rows, |_| None)?;
    if let Some(mask) = &batch.loss_mask {
        fits("loss_mask", mask, rows, |row| Some(both(row)))?;
    }
    if let Some(weights) = &batch.loss_weights {
        fits("loss_weights", weights, rows, |row| Some(both(row)))?;
    }
    if let Some(labels) = &batch.labels {
        fits("labels", labels, rows, |row| Some(both(row)))?;
    }
    if let Some((logprobs, present)) = &batch.output_logprobs {
        if present.len() != rows {
            return Err(contradiction("output_logprobs lacks rows"));
        }
        // The samples of a merged row stand in its input_ids.
        let sampled = |row: usize| if batch.meta[row].calls.is_some() { prompt(row) } else { output(row) };
        fits("output_logprobs", logprobs, rows, |row| Some(if present[row] { sampled(row) } else { 0 }))?;
    }
    Ok((rows, ids))
}

/// Values in the list, if its ranges are `rows` ascending ones inside the buffer, as long as they must be.
fn fits<T>(name: &str, lists: &Ragged<T>, rows: usize, length: impl Fn(usize) -> Option<usize>) -> Result<usize> {
    if lists.ranges.len() != rows {
        return Err(contradiction(format!("{name} has {} rows of {rows}", lists.ranges.len())));
    }
    let (mut end, mut total) = (0, 0);
    for (row, range) in lists.ranges.iter().enumerate() {
        if range.start < end || range.end < range.start || range.end > lists.values.len() {
            return Err(contradiction(format!("{name} has the range {range:?} in row {row}")));
        }
        if let Some(expected) = length(row).filter(|expected| *expected != range.len()) {
            return Err(contradiction(format!("{name} has {} values of {expected} in row {row}", range.len())));
        }
        end = range.end;
        total += range.len();
    }
    Ok(total)
}
