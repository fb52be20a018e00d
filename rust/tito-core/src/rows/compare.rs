//! What tells two rows apart. Everything that a row states is compared, but for the names of its captures' files: files
//! move, so whoever compares says when two names mean one file.

use super::schema::{Cell, Field, Kind, List, OptionalColumns};
use super::{Batch, RowMeta, Text};
use serde::Serialize;
use serde_json::{Value, json};
use twox_hash::xxhash3_128;

/// The column and the field of `calls` that are not compared.
const MOVES: [&str; 2] = ["capture_file", "file"];

/// The names of the files that a row states: that of `capture_file`, and where they are not all the same those of its
/// calls.
pub fn files(meta: &RowMeta) -> impl Iterator<Item = &Text> {
    let calls = meta.calls.as_deref().unwrap_or_default();
    let others = calls.iter().any(|call| call.file != meta.capture_file);
    std::iter::once(&meta.capture_file).chain(calls.iter().filter(move |_| others).map(|call| &call.file))
}

/// The values of a list column in one row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Values<'a> {
    Ids(&'a [i32]),
    Mask(&'a [i8]),
    Floats(&'a [f32]),
    Null,
}

impl Values<'_> {
    fn bytes(&self) -> Option<(&[u8], usize)> {
        Some(match self {
            Self::Ids(values) => (bytemuck::cast_slice(values), 4),
            Self::Mask(values) => (bytemuck::cast_slice(values), 1),
            Self::Floats(values) => (bytemuck::cast_slice(values), 4),
            Self::Null => return None,
        })
    }

    fn at(&self, position: usize) -> Value {
        match self {
            Self::Ids(values) => values.get(position).map_or(Value::Null, |v| json!(v)),
            Self::Mask(values) => values.get(position).map_or(Value::Null, |v| json!(v)),
            Self::Floats(values) => values.get(position).map_or(Value::Null, |v| json!(v)),
            Self::Null => Value::Null,
        }
    }
}

fn values(batch: &Batch, list: List, row: usize) -> Values<'_> {
    macro_rules! slice {
        ($lists:expr) => {
            &$lists.values[$lists.ranges[row].clone()]
        };
    }
    match list {
        List::InputIds => Values::Ids(slice!(batch.input_ids)),
        List::OutputIds => Values::Ids(slice!(batch.output_ids)),
        List::Labels => batch.labels.as_ref().map_or(Values::Null, |lists| Values::Ids(slice!(lists))),
        List::LossMask => batch.loss_mask.as_ref().map_or(Values::Null, |lists| Values::Mask(slice!(lists))),
        List::LossWeights => batch.loss_weights.as_ref().map_or(Values::Null, |lists| Values::Floats(slice!(lists))),
        List::OutputLogprobs => match &batch.output_logprobs {
            Some((lists, present)) if present[row] => Values::Floats(slice!(lists)),
            _ => Values::Null,
        },
    }
}

/// A row as one number: xxh3-128 over all its columns in their order, but for the names of the captures' files. Each
/// value is written so that no other row has the same bytes: length or presence first, then the value.
#[must_use]
pub fn digest(batch: &Batch, row: usize, optional: OptionalColumns) -> u128 {
    let mut hasher = xxhash3_128::Hasher::new();
    let mut bytes = Vec::with_capacity(256);
    let meta = &batch.meta[row];
    for column in optional.columns().filter(|column| !MOVES.contains(&column.name)) {
        match &column.kind {
            Kind::List(list) => {
                hasher.write(&bytes);
                bytes.clear();
                let values = values(batch, *list, row);
                let (raw, _) = values.bytes().unwrap_or_default();
                bytes.push(u8::from(values != Values::Null));
                bytes.extend_from_slice(&(raw.len() as u64).to_le_bytes());
                hasher.write(&bytes);
                hasher.write(raw);
                bytes.clear();
            }
            Kind::Scalar(cell) => put(&mut bytes, cell, meta),
            Kind::Spans(spans) => put_structs(&mut bytes, (spans.get)(meta), spans.fields),
            Kind::Calls(calls) => put_structs(&mut bytes, (calls.get)(meta), calls.fields),
        }
    }
    hasher.write(&bytes);
    hasher.finish_128()
}

fn compared<T>(fields: &[Field<T>]) -> impl Iterator<Item = &Field<T>> {
    fields.iter().filter(|field| !MOVES.contains(&field.name))
}

fn put_structs<T>(bytes: &mut Vec<u8>, items: Option<&[T]>, fields: &[Field<T>]) {
    bytes.push(u8::from(items.is_some()));
    bytes.extend_from_slice(&(items.map_or(0, <[T]>::len) as u64).to_le_bytes());
    for item in items.unwrap_or_default() {
        compared(fields).for_each(|field| put(bytes, &field.cell, item));
    }
}

fn put<T>(bytes: &mut Vec<u8>, cell: &Cell<T>, item: &T) {
    fn some<const N: usize>(bytes: &mut Vec<u8>, value: Option<[u8; N]>) {
        bytes.push(u8::from(value.is_some()));
        bytes.extend_from_slice(&value.unwrap_or([0; N]));
    }
    match cell {
        Cell::Text(get, _) => {
            let text = get(item);
            some(bytes, text.map(|text| (text.len() as u64).to_le_bytes()));
            bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
        }
        Cell::Int32(get, _) => some(bytes, get(item).map(i32::to_le_bytes)),
        Cell::Int64(get, _) => some(bytes, get(item).map(i64::to_le_bytes)),
        Cell::Float32(get, _) => some(bytes, get(item).map(f32::to_le_bytes)),
        Cell::Hash(get, _) => some(bytes, get(item).copied()),
    }
}

/// A value that two rows have differently: the first one of its column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The column.
    pub column: &'static str,
    /// In a list the position, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// In a list of structs the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
    /// What the rows file says; null behind the end of a shorter list.
    pub stated: Value,
    /// What the captures give.
    pub derived: Value,
}

/// What tells two rows apart, a difference a column, in the order of columns.
#[must_use]
pub fn differences(stated: (&Batch, usize), derived: (&Batch, usize), optional: OptionalColumns) -> Vec<Difference> {
    let (a, b) = (&stated.0.meta[stated.1], &derived.0.meta[derived.1]);
    let mut found = Vec::new();
    for column in optional.columns().filter(|column| !MOVES.contains(&column.name)) {
        let name = column.name;
        let difference = match &column.kind {
            Kind::List(list) => {
                let (a, b) = (values(stated.0, *list, stated.1), values(derived.0, *list, derived.1));
                first_difference(a, b).map(|position| Difference {
                    column: name,
                    position: (a != Values::Null && b != Values::Null).then_some(position),
                    field: None,
                    stated: if b == Values::Null { json!("a list") } else { a.at(position) },
                    derived: if a == Values::Null { json!("a list") } else { b.at(position) },
                })
            }
            Kind::Scalar(cell) => differs(cell, a, b).map(|(stated, derived)| Difference {
                column: name,
                position: None,
                field: None,
                stated,
                derived,
            }),
            Kind::Spans(spans) => struct_difference(name, (spans.get)(a), (spans.get)(b), spans.fields),
            Kind::Calls(calls) => struct_difference(name, (calls.get)(a), (calls.get)(b), calls.fields),
        };
        found.extend(difference);
    }
    found
}

/// By bytes: a NaN equals itself.
fn first_difference(a: Values<'_>, b: Values<'_>) -> Option<usize> {
    match (a.bytes(), b.bytes()) {
        (None, None) => None,
        (Some((a, width)), Some((b, _))) => {
            let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            (same < a.len().max(b.len())).then_some(same / width)
        }
        _ => Some(0),
    }
}

fn differs<T>(cell: &Cell<T>, a: &T, b: &T) -> Option<(Value, Value)> {
    let (mut stated, mut derived) = (Vec::new(), Vec::new());
    put(&mut stated, cell, a);
    put(&mut derived, cell, b);
    (stated != derived).then(|| (shown(cell, a), shown(cell, b)))
}

fn shown<T>(cell: &Cell<T>, item: &T) -> Value {
    match cell {
        Cell::Text(get, _) => json!(get(item)),
        Cell::Int32(get, _) => json!(get(item)),
        Cell::Int64(get, _) => json!(get(item)),
        // JSON has no NaN and no infinity.
        Cell::Float32(get, _) => get(item).map_or(Value::Null, |v| match v.is_finite() {
            true => json!(v),
            false => json!(v.to_string()),
        }),
        Cell::Hash(get, _) => {
            get(item).map_or(Value::Null, |hash| json!(format!("{:032x}", u128::from_be_bytes(*hash))))
        }
    }
}

fn struct_difference<T>(
    column: &'static str,
    stated: Option<&[T]>,
    derived: Option<&[T]>,
    fields: &'static [Field<T>],
) -> Option<Difference> {
    let items = |items: Option<&[T]>| items.map_or(Value::Null, |items| json!(format!("{} items", items.len())));
    let whole = || Difference { column, position: None, field: None, stated: items(stated), derived: items(derived) };
    let (Some(a), Some(b)) = (stated, derived) else {
        return (stated.is_some() || derived.is_some()).then(whole);
    };
    for (position, (a, b)) in a.iter().zip(b).enumerate() {
        for field in compared(fields) {
            if let Some((stated, derived)) = differs(&field.cell, a, b) {
                let (position, field) = (Some(position), Some(field.name));
                return Some(Difference { column, position, field, stated, derived });
            }
        }
    }
    (a.len() != b.len()).then(whole)
}

/// One row of a batch, as a batch.
#[must_use]
pub fn take(batch: &Batch, row: usize) -> Batch {
    fn one<T: Clone>(lists: &super::Ragged<T>, row: usize) -> super::Ragged<T> {
        let values = lists.values[lists.ranges[row].clone()].to_vec();
        let all = 0..values.len();
        super::Ragged { values, ranges: std::iter::once(all).collect() }
    }
    Batch {
        input_ids: one(&batch.input_ids, row),
        output_ids: one(&batch.output_ids, row),
        loss_mask: batch.loss_mask.as_ref().map(|lists| one(lists, row)),
        loss_weights: batch.loss_weights.as_ref().map(|lists| one(lists, row)),
        labels: batch.labels.as_ref().map(|lists| one(lists, row)),
        output_logprobs: batch.output_logprobs.as_ref().map(|(lists, there)| (one(lists, row), vec![there[row]])),
        meta: vec![batch.meta[row].clone()],
    }
}
