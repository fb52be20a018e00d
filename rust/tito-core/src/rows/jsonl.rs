//! JSON lines: the columns of the schema in their order, null for what is missing, hashes as hex.

use super::encode::{Body, EncodedBatch, WriteOptions};
use super::schema::{Cell, Field, Kind, List, OptionalColumns};
use super::staged::{FinishedFile, Hashed, Staged};
use super::{Batch, Ragged, RowMeta};
use crate::error::{Error, Place, Result};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// The lines of a batch.
pub(super) fn encode(batch: &Batch, optional: OptionalColumns) -> Result<Vec<u8>> {
    // 6 bytes are an id of five digits and its comma.
    let mut out = Vec::with_capacity(6 * (batch.input_ids.values.len() + batch.output_ids.values.len()));
    let mut before = Before::default();
    for (row, meta) in batch.meta.iter().enumerate() {
        let mut separator = b'{';
        for column in optional.columns() {
            out.extend_from_slice(&[separator, b'"']);
            out.extend_from_slice(column.name.as_bytes());
            out.extend_from_slice(b"\":");
            separator = b',';
            match &column.kind {
                Kind::List(list) => numbers(&mut out, &mut before, batch, *list, row, || (column.name, meta))?,
                kind => small(&mut out, column.name, kind, meta)?,
            }
        }
        out.extend_from_slice(b"}\n");
    }
    Ok(out)
}

/// The columns of a row that are no lists of ids, as one JSON object.
///
/// # Errors
/// `Data` when a value cannot be written.
pub fn meta(meta: &RowMeta) -> Result<String> {
    let mut out = Vec::new();
    let mut separator = b'{';
    for column in OptionalColumns::default().columns().filter(|column| !matches!(column.kind, Kind::List(_))) {
        out.extend_from_slice(&[separator, b'"']);
        out.extend_from_slice(column.name.as_bytes());
        out.extend_from_slice(b"\":");
        separator = b',';
        small(&mut out, column.name, &column.kind, meta)?;
    }
    out.push(b'}');
    String::from_utf8(out).map_err(|e| Error::check(e.to_string(), "this is a bug in tito; please report it"))
}

/// Anything but a list of ids.
fn small(out: &mut Vec<u8>, name: &'static str, kind: &Kind, meta: &RowMeta) -> Result<()> {
    let place = || (name, meta);
    match kind {
        Kind::List(_) => Ok(()),
        Kind::Scalar(cell) => value(out, cell, meta, place),
        Kind::Spans(spans) => structs(out, (spans.get)(meta), spans.fields, place),
        Kind::Calls(calls) => structs(out, (calls.get)(meta), calls.fields, place),
    }
}

/// The lists of ids written last, and where their text stands.
#[derive(Default)]
struct Before<'b> {
    input_ids: (&'b [i32], Range<usize>),
    labels: (&'b [i32], Range<usize>),
}

fn numbers<'a, 'b>(
    out: &mut Vec<u8>,
    before: &mut Before<'b>,
    batch: &'b Batch,
    list: List,
    row: usize,
    place: impl Fn() -> (&'static str, &'a RowMeta),
) -> Result<()> {
    fn slice<T>(lists: &Ragged<T>, row: usize) -> &[T] {
        &lists.values[lists.ranges[row].clone()]
    }
    match list {
        List::InputIds => integers(out, slice(&batch.input_ids, row), &mut before.input_ids),
        List::OutputIds => integers(out, slice(&batch.output_ids, row), &mut Default::default()),
        List::LossMask => match &batch.loss_mask {
            Some(mask) => array(out, slice(mask, row), |out, v| integer(out, i64::from(*v)))?,
            None => out.extend_from_slice(b"null"),
        },
        List::LossWeights => match &batch.loss_weights {
            Some(weights) => array(out, slice(weights, row), |out, v| float(out, *v, &place))?,
            None => out.extend_from_slice(b"null"),
        },
        List::Labels => match &batch.labels {
            Some(labels) => integers(out, slice(labels, row), &mut before.labels),
            None => out.extend_from_slice(b"null"),
        },
        List::OutputLogprobs => match &batch.output_logprobs {
            Some((logprobs, present)) if present[row] => {
                // A merged row has one for each of its ids, and most were not sampled in it.
                let merged = batch.meta[row].calls.is_some();
                array(out, slice(logprobs, row), |out, v| match merged && v.is_nan() {
                    true => {
                        out.extend_from_slice(b"null");
                        Ok(())
                    }
                    false => float(out, *v, &place),
                })?;
            }
            _ => out.extend_from_slice(b"null"),
        },
    }
    Ok(())
}

fn structs<'a, T>(
    out: &mut Vec<u8>,
    items: Option<&[T]>,
    fields: &[Field<T>],
    place: impl Fn() -> (&'static str, &'a RowMeta),
) -> Result<()> {
    let Some(items) = items else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    array(out, items, |out, item| {
        let mut before = b'{';
        for field in fields {
            out.extend_from_slice(&[before, b'"']);
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b"\":");
            before = b',';
            value(out, &field.cell, item, &place)?;
        }
        out.push(b'}');
        Ok(())
    })
}

fn array<T>(out: &mut Vec<u8>, items: &[T], mut one: impl FnMut(&mut Vec<u8>, &T) -> Result<()>) -> Result<()> {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        one(out, item)?;
    }
    out.push(b']');
    Ok(())
}

fn value<'a, T>(
    out: &mut Vec<u8>,
    cell: &Cell<T>,
    item: &T,
    place: impl Fn() -> (&'static str, &'a RowMeta),
) -> Result<()> {
    let written = match cell {
        Cell::Text(get, _) => get(item).map(|text| json(out, text)),
        Cell::Int32(get, _) => get(item).map(|v| integer(out, i64::from(v))),
        Cell::Int64(get, _) => get(item).map(|v| integer(out, v)),
        Cell::Float32(get, _) => get(item).map(|v| float(out, v, place)),
        Cell::Hash(get, _) => get(item).map(|hash| {
            out.push(b'"');
            out.extend(hash.iter().flat_map(|b| [b >> 4, b & 15]).map(|nibble| b"0123456789abcdef"[nibble as usize]));
            out.push(b'"');
            Ok(())
        }),
    };
    written.unwrap_or_else(|| {
        out.extend_from_slice(b"null");
        Ok(())
    })
}

fn json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(out, value)
        .map_err(|e| Error::check(format!("cannot write JSON: {e}"), "this is a bug in tito; please report it"))
}

/// The shortest text that reads back as the same float. JSON has no infinity and no NaN.
fn float<'a>(out: &mut Vec<u8>, value: f32, place: impl Fn() -> (&'static str, &'a RowMeta)) -> Result<()> {
    if value.is_finite() {
        return json(out, &value);
    }
    let (column, meta) = place();
    let at = Place::record(&meta.capture_file, meta.capture_record.unsigned_abs()).at_turn(meta.turn);
    Err(Error::data(at, format!("{column} is {value}, which JSON cannot hold"), "write parquet instead"))
}

/// Writes a list of ids. What it shares with the list before is copied as text: prompts repeat each other.
fn integers<'b>(out: &mut Vec<u8>, ids: &'b [i32], before: &mut (&'b [i32], Range<usize>)) {
    let (old, text) = before.clone();
    out.push(b'[');
    let start = out.len();
    let mut shared = old.iter().zip(ids).take_while(|(a, b)| a == b).count();
    // Found from the end, where the break is as a rule; not worth it when most of the old list is another.
    if shared < 2 || 2 * shared < old.len() {
        shared = 0;
    } else {
        let end = match old.len() - shared {
            0 => text.end,
            dropped => {
                let cut = memchr::memrchr_iter(b',', &out[text.clone()]).nth(dropped - 1);
                cut.map_or(text.end, |cut| text.start + cut)
            }
        };
        out.extend_from_within(text.start..end);
    }
    for (index, id) in ids.iter().enumerate().skip(shared) {
        if index > 0 {
            out.push(b',');
        }
        digits(out, i64::from(*id));
    }
    *before = (ids, start..out.len());
    out.push(b']');
}

fn integer(out: &mut Vec<u8>, value: i64) -> Result<()> {
    digits(out, value);
    Ok(())
}

/// Two digits at a time, from the end.
fn digits(out: &mut Vec<u8>, value: i64) {
    let mut text = [0; 20];
    let mut start = text.len();
    let mut rest = value.unsigned_abs();
    while rest >= 10 {
        let two = (rest % 100) as u8;
        rest /= 100;
        start -= 2;
        text[start] = b'0' + two / 10;
        text[start + 1] = b'0' + two % 10;
    }
    if rest > 0 || start == text.len() {
        start -= 1;
        text[start] = b'0' + rest as u8;
    }
    if value < 0 {
        start -= 1;
        text[start] = b'-';
    }
    out.extend_from_slice(&text[start..]);
}

/// One file of JSON lines, under a temporary name until [`FinishedFile::commit`]. Dropped earlier it leaves nothing.
pub struct FileWriter {
    file: Hashed<File>,
    staged: Staged,
    rows: u64,
    ids: u64,
    bytes: u64,
}

impl FileWriter {
    /// Opens a file that will be called `path`.
    ///
    /// # Errors
    /// `Io` when the folder cannot be written to.
    pub fn create(path: &Path, _options: &WriteOptions) -> Result<Self> {
        let (staged, file) = Staged::create(path)?;
        Ok(Self { file: Hashed::new(file), staged, rows: 0, ids: 0, bytes: 0 })
    }

    /// Appends the lines of the next batch.
    ///
    /// # Errors
    /// `Io` when the system refuses to write, naming the final path.
    pub fn append(&mut self, batch: &EncodedBatch) -> Result<()> {
        let Body::Jsonl(text) = &batch.body else {
            return Err(Error::check("pages cannot go into lines", "this is a bug in tito; please report it"));
        };
        self.file.write_all(text).map_err(self.staged.error("write"))?;
        self.rows += batch.rows as u64;
        self.ids += batch.ids as u64;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Syncs the file.
    ///
    /// # Errors
    /// `Io` when the system refuses, naming the final path.
    pub fn finish(self) -> Result<FinishedFile> {
        self.file.file.sync_all().map_err(self.staged.error("write"))?;
        let Self { file, staged, rows, ids, bytes } = self;
        Ok(FinishedFile { staged, rows, ids, bytes, hash: file.hash(), row_groups: 0 })
    }
}
