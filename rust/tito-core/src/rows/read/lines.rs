//! JSON lines. Lists of ids are read straight into the batch; a nested object `metadata` is read as if it were flat.

use super::super::schema::{Cell, Column, Kind, List, OptionalColumns, Structs};
use super::super::staged::Hashed;
use super::super::told;
use super::super::{Batch, Ragged, RowMeta};
use super::{BATCH_IDS, BATCH_ROWS, BROKEN, NOT_OURS, columns_there, empty, is_ours};
use crate::error::{Error, Place, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

/// See the module.
pub(super) struct Lines {
    name: String,
    file: BufReader<File>,
    optional: OptionalColumns,
    others: BTreeSet<String>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    /// `empty`: the file was written without a row.
    pub(super) fn open(file: File, name: String, empty: bool) -> Result<Self> {
        let mut lines = Self {
            file: BufReader::new(file),
            name,
            optional: OptionalColumns::default(),
            others: BTreeSet::new(),
            line: Vec::new(),
            number: 0,
        };
        lines.file.rewind().map_err(Error::io("read", lines.name.clone()))?;
        if !lines.next_line()? {
            if empty {
                return Ok(lines);
            }
            return Err(Error::data(Place::file(&lines.name), "the file is empty", NOT_OURS));
        }
        let first: Map<String, Value> =
            serde_json::from_slice(&lines.line).map_err(|error| lines.wrong(&error, NOT_OURS))?;
        let inner = first.get("metadata").and_then(Value::as_object);
        let has = |name: &str| first.contains_key(name) || inner.is_some_and(|inner| inner.contains_key(name));
        let seen = || format!("its keys: {}", first.keys().take(8).cloned().collect::<Vec<_>>().join(", "));
        lines.optional = columns_there(&lines.name, has, seen)?;
        lines.file.rewind().map_err(Error::io("read", lines.name.clone()))?;
        lines.number = 0;
        Ok(lines)
    }

    pub(super) fn optional(&self) -> OptionalColumns {
        self.optional
    }

    /// Keys met so far that are none of the schema's.
    pub(super) fn others(&self) -> &BTreeSet<String> {
        &self.others
    }

    fn next_line(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            let read = self.file.read_until(b'\n', &mut self.line).map_err(Error::io("read", self.name.clone()))?;
            self.number += 1;
            if read == 0 || !self.line.trim_ascii().is_empty() {
                return Ok(read > 0);
            }
        }
    }

    fn wrong(&self, error: &serde_json::Error, hint: &str) -> Error {
        // Its own place is the line it was given, which is always the first.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        let at = format!("line {}: column {}: {message}", self.number, error.column());
        Error::data(Place::file(&self.name), at, hint)
    }

    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>> {
        let mut batch = empty(self.optional);
        let columns: Vec<&'static Column> = self.optional.columns().collect();
        while batch.meta.len() < BATCH_ROWS && batch.input_ids.values.len() + batch.output_ids.values.len() < BATCH_IDS
        {
            if !self.next_line()? {
                break;
            }
            let mut reader = serde_json::Deserializer::from_slice(&self.line);
            let row = OneRow { batch: &mut batch, columns: &columns, others: &mut self.others };
            let read = row.deserialize(&mut reader);
            read.and_then(|()| reader.end()).map_err(|error| self.wrong(&error, BROKEN))?;
        }
        Ok((!batch.meta.is_empty()).then_some(batch))
    }
}

/// Reads one row into the batch.
struct OneRow<'b> {
    batch: &'b mut Batch,
    columns: &'b [&'static Column],
    others: &'b mut BTreeSet<String>,
}

impl<'de> DeserializeSeed<'de> for OneRow<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneRow<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = vec![false; self.columns.len()];
        let mut meta = RowMeta::default();
        let mut enter = |name: &str| -> std::result::Result<Option<&'static Column>, A::Error> {
            let Some(at) = self.columns.iter().position(|column| column.name == name) else {
                // A column on request that the first row lacks may stand in a later one.
                if !is_ours(name) && !self.others.contains(name) {
                    self.others.insert(name.to_owned());
                }
                return Ok(None);
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(A::Error::custom(format!("{name} stands twice")));
            }
            Ok(Some(self.columns[at]))
        };
        while let Some(name) = map.next_key::<String>()? {
            if name == "metadata" {
                for (name, value) in map.next_value::<Map<String, Value>>()? {
                    if let Some(column) = enter(&name)? {
                        small(column, value, &mut meta).map_err(|e| A::Error::custom(format!("{name} {e}")))?;
                    }
                }
                continue;
            }
            match enter(&name)? {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(Column { kind: Kind::List(list), .. }) => map.next_value_seed(OneList(self.batch, *list))?,
                Some(column) => {
                    small(column, map.next_value()?, &mut meta).map_err(|e| A::Error::custom(format!("{name} {e}")))?;
                }
            }
        }
        if let Some(missing) = self.columns.iter().zip(&seen).find(|(column, seen)| !**seen && !column.nullable) {
            return Err(A::Error::custom(format!("no {}", missing.0.name)));
        }
        if let Some((logprobs, present)) = &mut self.batch.output_logprobs
            && present.len() == self.batch.meta.len()
        {
            logprobs.ranges.push(logprobs.values.len()..logprobs.values.len());
            present.push(false);
        }
        self.batch.meta.push(meta);
        Ok(())
    }
}

/// Reads one list into its column.
struct OneList<'b>(&'b mut Batch, List);

impl<'de> DeserializeSeed<'de> for OneList<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        fn read<'de, T: serde::Deserialize<'de>, D: Deserializer<'de>>(
            lists: Option<&mut Ragged<T>>,
            deserializer: D,
        ) -> std::result::Result<(), D::Error> {
            let Some(lists) = lists else { return deserializer.deserialize_ignored_any(IgnoredAny).map(drop) };
            deserializer.deserialize_seq(Append(lists))
        }
        let Self(batch, list) = self;
        match list {
            List::InputIds => read(Some(&mut batch.input_ids), deserializer),
            List::OutputIds => read(Some(&mut batch.output_ids), deserializer),
            List::Labels => read(batch.labels.as_mut(), deserializer),
            List::LossMask => read(batch.loss_mask.as_mut(), deserializer),
            List::LossWeights => read(batch.loss_weights.as_mut(), deserializer),
            List::OutputLogprobs => match &mut batch.output_logprobs {
                Some((logprobs, present)) => {
                    let there = deserializer.deserialize_option(OrNull(logprobs))?;
                    present.push(there);
                    Ok(())
                }
                None => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            },
        }
    }
}

struct Append<'b, T>(&'b mut Ragged<T>);

impl<'de, T: serde::Deserialize<'de>> Visitor<'de> for Append<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        let lists = self.0;
        let start = lists.values.len();
        while let Some(value) = seq.next_element()? {
            lists.values.push(value);
        }
        lists.ranges.push(start..lists.values.len());
        Ok(())
    }
}

/// Logprobs: none at all, or null where an id was not sampled.
struct OrNull<'b>(&'b mut Ragged<f32>);

impl<'de> Visitor<'de> for OrNull<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers or null")
    }

    fn visit_none<E: serde::de::Error>(self) -> std::result::Result<bool, E> {
        self.0.ranges.push(self.0.values.len()..self.0.values.len());
        Ok(false)
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<bool, E> {
        self.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<bool, D::Error> {
        let mut read = Ragged::<Option<f32>>::default();
        deserializer.deserialize_seq(Append(&mut read))?;
        let start = self.0.values.len();
        self.0.values.extend(read.values.into_iter().map(|value| value.unwrap_or(f32::NAN)));
        self.0.ranges.push(start..self.0.values.len());
        Ok(true)
    }
}

/// Anything but a list of ids.
fn small(column: &Column, value: Value, meta: &mut RowMeta) -> std::result::Result<(), String> {
    match &column.kind {
        Kind::List(_) => Err("stands inside metadata".to_owned()),
        Kind::Scalar(cell) => put(cell, column.nullable, &value, meta),
        Kind::Spans(spans) => put_structs(spans, value, meta),
        Kind::Calls(calls) => put_structs(calls, value, meta),
    }
}

fn put_structs<T: Default>(structs: &Structs<T>, value: Value, meta: &mut RowMeta) -> std::result::Result<(), String> {
    let items = match value {
        Value::Null => return Ok(()),
        Value::Array(items) => items,
        other => return Err(format!("is {other}, no list")),
    };
    let mut made = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let mut one = T::default();
        for field in structs.fields {
            put(&field.cell, field.nullable, &item[field.name], &mut one)
                .map_err(|e| format!("[{at}].{} {e}", field.name))?;
        }
        made.push(one);
    }
    (structs.put)(meta, made);
    Ok(())
}

fn put<T>(cell: &Cell<T>, nullable: bool, value: &Value, item: &mut T) -> std::result::Result<(), String> {
    if value.is_null() {
        return if nullable { Ok(()) } else { Err("is null".to_owned()) };
    }
    let placed = match cell {
        Cell::Text(_, put) => value.as_str().map(|text| put(item, text.into())),
        Cell::Int32(_, put) => value.as_i64().and_then(|v| i32::try_from(v).ok()).map(|v| put(item, v)),
        Cell::Int64(_, put) => value.as_i64().map(|v| put(item, v)),
        Cell::Float32(_, put) => value.as_f64().map(|v| put(item, v as f32)),
        Cell::Hash(_, put) => value.as_str().and_then(unhex).map(|hash| put(item, hash)),
    };
    placed.ok_or_else(|| format!("is {value}, no {}", cell.type_name()))
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(number.to_be_bytes())
}

/// What the manifest beside JSON lines says of them, and the size and hash that it was written with; nothing when none
/// names the file.
pub(super) fn manifest(rows: &Path) -> Result<(BTreeMap<String, String>, Option<Written>)> {
    let name = rows.file_name().unwrap_or_default().to_string_lossy();
    let folder = rows.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut manifests: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(Error::io("read", folder.to_string_lossy()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            // `rows.jsonl.manifest.json` may stand for `rows-00000.jsonl` and `rows.qwen3.jsonl` too.
            let of = file.strip_suffix(".manifest.json").map(|of| Path::new(of).file_stem().unwrap_or_default());
            of.is_some_and(|stem| name.starts_with(&*stem.to_string_lossy()))
        })
        .collect();
    manifests.sort();
    for path in manifests {
        let shown = path.to_string_lossy();
        let text = fs::read(&path).map_err(Error::io("read", shown.clone()))?;
        let report: Value = serde_json::from_slice(&text)
            .map_err(|error| Error::data(Place::file(&shown), format!("no manifest: {error}"), BROKEN))?;
        let named = |output: &Value| {
            let file = Path::new(output["file"].as_str().unwrap_or_default()).file_name().unwrap_or_default();
            *file.to_string_lossy() == *name
        };
        let Some(output) = report["outputs"].as_array().and_then(|outputs| outputs.iter().find(|o| named(o))) else {
            continue;
        };
        let told = told::of_manifest(&report, output);
        let written = output["bytes"].as_u64().zip(output["hash"].as_str());
        return Ok((told, written.map(|(bytes, hash)| Written { bytes, hash: hash.to_owned() })));
    }
    Ok((BTreeMap::new(), None))
}

/// What a manifest tells of a file as a whole.
pub(super) struct Written {
    bytes: u64,
    hash: String,
}

impl Written {
    /// Whether it holds no row.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether a file is that, byte for byte.
    pub(super) fn is(&self, rows: &Path) -> Result<bool> {
        let failed = || Error::io("read", rows.to_string_lossy());
        let mut file = File::open(rows).map_err(failed())?;
        if file.metadata().map_err(failed())?.len() != self.bytes {
            return Ok(false);
        }
        let mut hashed = Hashed::new(io::sink());
        io::copy(&mut file, &mut hashed).map_err(failed())?;
        Ok(hashed.hash() == self.hash)
    }
}
