//! The declaration of the row schema. The parquet schema, the order of JSON lines and the listing for Python all
//! derive from the two tables here; nothing else names a column.

use super::{LossSpan, RowCall, RowMeta, Text};
use serde_json::{Value, json};

/// Version of the schema, stored as `tito.schema_version`.
pub const VERSION: u32 = 1;

/// A value of one item (a row, a span, a call): its type, where it is found (`None` is null) and where a reader puts it.
#[derive(Debug)]
pub enum Cell<T> {
    /// UTF-8, dictionary-encoded.
    Text(fn(&T) -> Option<&str>, fn(&mut T, Text)),
    /// 32-bit integer.
    Int32(fn(&T) -> Option<i32>, fn(&mut T, i32)),
    /// 64-bit integer.
    Int64(fn(&T) -> Option<i64>, fn(&mut T, i64)),
    /// 32-bit float.
    Float32(fn(&T) -> Option<f32>, fn(&mut T, f32)),
    /// 16 bytes.
    Hash(fn(&T) -> Option<&[u8; 16]>, fn(&mut T, [u8; 16])),
}

impl<T> Cell<T> {
    /// The type's name as the documents spell it.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Text(..) => "string",
            Self::Int32(..) => "int32",
            Self::Int64(..) => "int64",
            Self::Float32(..) => "float32",
            Self::Hash(..) => "fixed[16]",
        }
    }
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field<T> {
    /// Its name.
    pub name: &'static str,
    /// Whether it may be null.
    pub nullable: bool,
    /// Its type and where it is found.
    pub cell: Cell<T>,
}

/// The list columns that are encoded as pages of their own, without a look at single values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// [`super::Batch::input_ids`].
    InputIds,
    /// [`super::Batch::output_ids`].
    OutputIds,
    /// [`super::Batch::loss_mask`].
    LossMask,
    /// [`super::Batch::loss_weights`].
    LossWeights,
    /// [`super::Batch::labels`].
    Labels,
    /// [`super::Batch::output_logprobs`].
    OutputLogprobs,
}

impl List {
    /// The type of one element, as the documents spell it.
    #[must_use]
    pub fn element_name(self) -> &'static str {
        match self {
            Self::InputIds | Self::OutputIds | Self::Labels => "int32",
            Self::LossMask => "int8",
            Self::LossWeights | Self::OutputLogprobs => "float32",
        }
    }
}

/// A list of structs in a row: where it is found, where a reader puts it, and what its items are made of.
#[derive(Debug)]
pub struct Structs<T: 'static> {
    /// `None` is null.
    pub get: fn(&RowMeta) -> Option<&[T]>,
    /// Only lists that are not null are put.
    pub put: fn(&mut RowMeta, Vec<T>),
    /// Fields of an item, in their order.
    pub fields: &'static [Field<T>],
}

/// The type of a column and where its values are found.
#[derive(Debug)]
pub enum Kind {
    /// A list of numbers, held by the batch.
    List(List),
    /// One value a row.
    Scalar(Cell<RowMeta>),
    /// A list of loss spans.
    Spans(Structs<LossSpan>),
    /// A list of calls.
    Calls(Structs<RowCall>),
}

/// One column.
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Whether a row may have null here.
    pub nullable: bool,
    /// Its type.
    pub kind: Kind,
    /// What it means, in a line.
    pub doc: &'static str,
}

const fn must(name: &'static str, kind: Kind, doc: &'static str) -> Column {
    Column { name, nullable: false, kind, doc }
}

const fn may(name: &'static str, kind: Kind, doc: &'static str) -> Column {
    Column { name, nullable: true, kind, doc }
}

const fn field<T>(name: &'static str, cell: Cell<T>) -> Field<T> {
    Field { name, nullable: false, cell }
}

const fn nullable_field<T>(name: &'static str, cell: Cell<T>) -> Field<T> {
    Field { name, nullable: true, cell }
}

use Cell::{Float32, Hash, Int32, Int64};
use Kind::Scalar;

/// A cell whose value is a field: `must` be there, or `may` be null.
macro_rules! cell {
    (Text, must $name:ident) => {
        Cell::Text(|item| Some(&item.$name), |item, value| item.$name = value)
    };
    (Text, may $name:ident) => {
        Cell::Text(|item| item.$name.as_deref(), |item, value| item.$name = Some(value))
    };
    (Hash, must $name:ident) => {
        Hash(|item| Some(&item.$name), |item, value| item.$name = value)
    };
    ($kind:ident, must $name:ident) => {
        $kind(|item| Some(item.$name), |item, value| item.$name = value)
    };
    ($kind:ident, may $name:ident) => {
        $kind(|item| item.$name, |item, value| item.$name = Some(value))
    };
}

const SPAN: &[Field<LossSpan>] = &[
    field("start", cell!(Int32, must start)),
    field("end", cell!(Int32, must end)),
    field("weight", cell!(Float32, must weight)),
];

const CALL: &[Field<RowCall>] = &[
    field("start", cell!(Int32, must start)),
    field("end", cell!(Int32, must end)),
    nullable_field("turn", cell!(Int32, may turn)),
    nullable_field("call_id", cell!(Text, may call_id)),
    field("file", cell!(Text, must file)),
    field("record", cell!(Int64, must record)),
    field("hash", cell!(Hash, must hash)),
];

/// Schema version 1: the columns of every file, in their order.
pub static COLUMNS: &[Column] = &[
    must("input_ids", Kind::List(List::InputIds), "per-turn rows: the prompt; merged rows: the whole sequence"),
    must("output_ids", Kind::List(List::OutputIds), "the sampled ids after policies; empty in merged rows"),
    may(
        "loss_spans",
        Kind::Spans(Structs { get: |m| m.loss_spans.as_deref(), put: |m, v| m.loss_spans = Some(v), fields: SPAN }),
        "where loss falls in input_ids + output_ids; null = all of output_ids, weight 1",
    ),
    may(
        "calls",
        Kind::Calls(Structs { get: |m| m.calls.as_deref(), put: |m, v| m.calls = Some(v), fields: CALL }),
        "the calls whose samples a merged row trains; null = the one call of the scalar columns",
    ),
    must("weight", Scalar(cell!(Float32, must weight)), "row weight; 1 when rows are upweighted by copies"),
    may("rollout_id", Scalar(cell!(Text, may rollout_id)), "the rollout"),
    may("task_id", Scalar(cell!(Text, may task_id)), "its task"),
    may("pair_id", Scalar(cell!(Text, may pair_id)), "the pair of cooperating rollouts it belongs to"),
    may("agent", Scalar(cell!(Text, may agent)), "the agent"),
    may("call_id", Scalar(cell!(Text, may call_id)), "the engine's id of the call"),
    may("kind", Scalar(cell!(Text, may kind)), "solver, summariser or helper"),
    may(
        "status",
        Scalar(cell!(Text, may status)),
        "how the rollout ended: ok, agent_error, infra_error, limits, format, unknown",
    ),
    may("attempt", Scalar(cell!(Int32, may attempt)), "which attempt at the task"),
    may("turn", Scalar(cell!(Int32, may turn)), "turn of the row's last call, from 0"),
    may("reward", Scalar(cell!(Float32, may reward)), "reward of the rollout; null when missing or boolean"),
    must("source", Scalar(cell!(Text, must source)), "who made the row: native, rendered, ..."),
    must("capture_format", Scalar(cell!(Text, must capture_format)), "format of the capture"),
    must("capture_file", Scalar(cell!(Text, must capture_file)), "file of the capture, as the user named it"),
    must("capture_record", Scalar(cell!(Int64, must capture_record)), "record in that file, from 1"),
    must("capture_hash", Scalar(cell!(Hash, must capture_hash)), "hash of the captured call's ids"),
    must("flags", Scalar(cell!(Int32, must flags)), "bit set: truncated, prompt_exact, think state, ..."),
];

/// Columns that are there when asked for, behind the others, in this order.
pub static OPTIONAL: &[Column] = &[
    must("loss_mask", Kind::List(List::LossMask), "1 where loss falls, as long as input_ids + output_ids"),
    must(
        "loss_weights",
        Kind::List(List::LossWeights),
        "weight of each position, the row's times the span's, as long as input_ids + output_ids",
    ),
    must("labels", Kind::List(List::Labels), "input_ids + output_ids, -100 where no loss falls"),
    may(
        "output_logprobs",
        Kind::List(List::OutputLogprobs),
        "the engine's logprob of each output id, in merged rows of each of input_ids (NaN where the row trains no \
         sample; null in JSON); null where the capture has none",
    ),
];

/// Which optional columns a file has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct OptionalColumns {
    /// `loss_mask`.
    pub loss_mask: bool,
    /// `loss_weights`.
    pub loss_weights: bool,
    /// `labels`.
    pub labels: bool,
    /// `output_logprobs`.
    pub output_logprobs: bool,
}

impl OptionalColumns {
    fn has(self, list: List) -> bool {
        match list {
            List::InputIds | List::OutputIds => true,
            List::LossMask => self.loss_mask,
            List::LossWeights => self.loss_weights,
            List::Labels => self.labels,
            List::OutputLogprobs => self.output_logprobs,
        }
    }

    /// The columns of a file that has these, in their order.
    pub fn columns(self) -> impl Iterator<Item = &'static Column> {
        COLUMNS.iter().chain(OPTIONAL).filter(move |column| match column.kind {
            Kind::List(list) => self.has(list),
            _ => true,
        })
    }

    /// The page-encoded list columns among [`Self::columns`], in the same order.
    pub fn lists(self) -> impl Iterator<Item = List> {
        self.columns().filter_map(|column| match column.kind {
            Kind::List(list) => Some(list),
            _ => None,
        })
    }
}

/// The schema as JSON, for readers in other languages and for documentation:
/// `{"version", "columns": [{"name", "type", "nullable", "optional", "doc", "fields"?}]}`.
#[must_use]
pub fn describe() -> Value {
    fn fields<T>(fields: &[Field<T>]) -> Value {
        fields.iter().map(|f| json!({"name": f.name, "type": f.cell.type_name(), "nullable": f.nullable})).collect()
    }
    let column = |column: &Column, optional: bool| {
        let (type_name, inner) = match &column.kind {
            Kind::List(list) => (format!("list<{}>", list.element_name()), None),
            Kind::Scalar(cell) => (cell.type_name().to_owned(), None),
            Kind::Spans(inner) => ("list<struct>".to_owned(), Some(fields(inner.fields))),
            Kind::Calls(inner) => ("list<struct>".to_owned(), Some(fields(inner.fields))),
        };
        let mut described = json!({
            "name": column.name, "type": type_name, "nullable": column.nullable, "optional": optional, "doc": column.doc,
        });
        if let Some(inner) = inner {
            described["fields"] = inner;
        }
        described
    };
    let columns: Vec<Value> =
        COLUMNS.iter().map(|c| column(c, false)).chain(OPTIONAL.iter().map(|c| column(c, true))).collect();
    json!({"version": VERSION, "columns": columns})
}
