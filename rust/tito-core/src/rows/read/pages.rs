//! Parquet files, a row group after the other.

use super::super::schema::{Cell, Column, Kind, List, Structs};
use super::super::{Batch, OptionalColumns, Ragged, RowMeta, Text};
use super::damage::{damaged, guarded};
use super::{BATCH_IDS, BATCH_ROWS, NOT_OURS, Wrong, columns_there, empty, is_ours};
use crate::error::{Error, Place, Result};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, Int8Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

/// See the module.
pub(super) struct Pages {
    name: String,
    file: File,
    metadata: ArrowReaderMetadata,
    optional: OptionalColumns,
    others: BTreeSet<String>,
    next_group: usize,
    group: Option<ParquetRecordBatchReader>,
}

impl Pages {
    /// Opens a file, and gives what it says of itself.
    pub(super) fn open(file: File, name: String) -> Result<(Self, BTreeMap<String, String>)> {
        // What another tool noted of its own types does not count, the columns do.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let load = || ArrowReaderMetadata::load(&file, options).map_err(|error| damaged(&name, &error.to_string()));
        let metadata = guarded(&name, load)?;
        let names: Vec<&str> = metadata.schema().fields().iter().map(|field| field.name().as_str()).collect();
        let seen = || format!("its columns: {}", names.iter().take(8).copied().collect::<Vec<_>>().join(", "));
        let optional = columns_there(&name, |column| names.contains(&column), seen)?;
        let (mut once, mut others) = (BTreeSet::new(), BTreeSet::new());
        for column in &names {
            if !once.insert(*column) {
                return Err(Error::data(Place::file(&name), format!("two columns are called {column}"), NOT_OURS));
            }
            if !is_ours(column) {
                others.insert((*column).to_owned());
            }
        }
        let stored = metadata.metadata().file_metadata().key_value_metadata().into_iter().flatten();
        let told = stored.filter(|pair| pair.key.starts_with("tito."));
        let told = told.map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default())).collect();
        Ok((Self { name, file, metadata, optional, others, next_group: 0, group: None }, told))
    }

    pub(super) fn optional(&self) -> OptionalColumns {
        self.optional
    }

    /// Columns that are none of the schema's.
    pub(super) fn others(&self) -> &BTreeSet<String> {
        &self.others
    }

    /// The next rows; `first` is the number of the first one.
    pub(super) fn next_batch(&mut self, first: u64) -> Result<Option<Batch>> {
        let name = self.name.clone();
        guarded(&name, || self.read_batch(first))
    }

    fn read_batch(&mut self, first: u64) -> Result<Option<Batch>> {
        let failed =
            |name: &str, what: &dyn std::fmt::Display| damaged(name, &format!("row {first} or behind: {what}"));
        loop {
            if let Some(group) = &mut self.group {
                match group.next() {
                    Some(Ok(record)) => return self.batch(&record, first).map(Some),
                    Some(Err(error)) => return Err(failed(&self.name, &error)),
                    None => self.group = None,
                }
            }
            let groups = self.metadata.metadata().row_groups();
            let Some(group) = groups.get(self.next_group) else { return Ok(None) };
            let rows = usize::try_from(group.num_rows()).unwrap_or_default().max(1);
            let ids = usize::try_from(group.columns().iter().map(|c| c.num_values()).max().unwrap_or(0));
            // Of the longest column: rows of about the same length, or the group would be larger than a group is.
            let at_once = rows.saturating_mul(BATCH_IDS) / ids.unwrap_or(usize::MAX).max(1);
            let file = self.file.try_clone().map_err(Error::io("read", self.name.clone()))?;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_row_groups(vec![self.next_group])
                .with_batch_size(at_once.clamp(1, BATCH_ROWS));
            self.group = Some(builder.build().map_err(|error| failed(&self.name, &error))?);
            self.next_group += 1;
        }
    }

    fn batch(&self, record: &RecordBatch, first: u64) -> Result<Batch> {
        let mut batch = empty(self.optional);
        batch.meta.resize_with(record.num_rows(), RowMeta::default);
        for column in self.optional.columns() {
            let Some(array) = record.column_by_name(column.name) else { continue };
            match put(&mut batch, column, array) {
                None => {
                    let message =
                        format!("column {} is {}, which row schema 1 does not have", column.name, array.data_type());
                    return Err(Error::data(Place::file(&self.name), message, NOT_OURS));
                }
                Some(Err(wrong)) => return Err(wrong.at(&self.name, column.name, first)),
                Some(Ok(())) => {}
            }
        }
        Ok(batch)
    }
}

/// `None`: the array is of another type than the schema says.
type Put<T = ()> = Option<std::result::Result<T, Wrong>>;

macro_rules! ok {
    ($put:expr) => {
        match $put? {
            Ok(value) => value,
            Err(wrong) => return Some(Err(wrong)),
        }
    };
}

fn put(batch: &mut Batch, column: &Column, array: &ArrayRef) -> Put {
    match &column.kind {
        Kind::List(List::OutputLogprobs) => {
            let lists = ok!(lists::<Float32Type>(array, true));
            batch.output_logprobs = Some((lists, (0..array.len()).map(|row| array.is_valid(row)).collect()));
        }
        Kind::List(List::InputIds) => batch.input_ids = ok!(lists::<Int32Type>(array, false)),
        Kind::List(List::OutputIds) => batch.output_ids = ok!(lists::<Int32Type>(array, false)),
        Kind::List(List::Labels) => batch.labels = Some(ok!(lists::<Int32Type>(array, false))),
        Kind::List(List::LossMask) => batch.loss_mask = Some(ok!(lists::<Int8Type>(array, false))),
        Kind::List(List::LossWeights) => batch.loss_weights = Some(ok!(lists::<Float32Type>(array, false))),
        Kind::Scalar(cell) => ok!(cells(array, cell, column.nullable, &mut batch.meta)),
        Kind::Spans(spans) => ok!(structs(array, spans, &mut batch.meta)),
        Kind::Calls(calls) => ok!(structs(array, calls, &mut batch.meta)),
    }
    Some(Ok(()))
}

fn lists<P: ArrowPrimitiveType>(array: &ArrayRef, nullable: bool) -> Put<Ragged<P::Native>> {
    let lists = array.as_list_opt::<i32>()?;
    let values = lists.values().as_primitive_opt::<P>()?;
    if let Some(row) = (0..lists.len()).find(|row| lists.is_null(*row)).filter(|_| !nullable && lists.null_count() > 0)
    {
        return Some(Err(Wrong::null(row)));
    }
    let offsets = lists.value_offsets();
    let start = offsets[0] as usize;
    if values.null_count() > 0 {
        let at = (0..values.len()).find(|at| values.is_null(*at)).unwrap_or_default() as i32;
        let row = offsets.partition_point(|end| *end <= at).saturating_sub(1);
        return Some(Err(Wrong { row, message: "holds null".to_owned() }));
    }
    Some(Ok(Ragged {
        values: values.values()[start..offsets[lists.len()] as usize].to_vec(),
        ranges: offsets.windows(2).map(|pair| pair[0] as usize - start..pair[1] as usize - start).collect(),
    }))
}

fn structs<T: Default>(array: &ArrayRef, structs: &Structs<T>, rows: &mut [RowMeta]) -> Put {
    let lists = array.as_list_opt::<i32>()?;
    let items = lists.values().as_struct_opt().filter(|items| items.num_columns() == structs.fields.len())?;
    let mut made: Vec<T> = std::iter::repeat_with(T::default).take(items.len()).collect();
    let offsets = lists.value_offsets();
    for field in structs.fields {
        let put = cells(items.column_by_name(field.name)?, &field.cell, field.nullable, &mut made)?;
        if let Err(Wrong { row: at, message }) = put {
            let row = offsets.partition_point(|end| *end as usize <= at).saturating_sub(1);
            let item = at - offsets[row] as usize;
            return Some(Err(Wrong { row, message: format!("[{item}].{} {message}", field.name) }));
        }
    }
    let mut made = made.into_iter().skip(offsets[0] as usize);
    for (row, meta) in rows.iter_mut().enumerate() {
        let items = made.by_ref().take((offsets[row + 1] - offsets[row]) as usize).collect();
        if lists.is_valid(row) {
            (structs.put)(meta, items);
        }
    }
    Some(Ok(()))
}

fn cells<T>(array: &ArrayRef, cell: &Cell<T>, nullable: bool, items: &mut [T]) -> Put {
    fn all<T>(array: &ArrayRef, nullable: bool, items: &mut [T], mut put: impl FnMut(usize, &mut T)) -> Put {
        for (at, item) in items.iter_mut().enumerate() {
            if array.is_valid(at) {
                put(at, item);
            } else if !nullable {
                return Some(Err(Wrong::null(at)));
            }
        }
        Some(Ok(()))
    }
    match cell {
        Cell::Text(_, put) => {
            let values = array.as_string_opt::<i32>()?;
            // Neighbours share most of what they say.
            let mut last = Text::default();
            all(array, nullable, items, |at, item| {
                if *last != *values.value(at) {
                    last = values.value(at).into();
                }
                put(item, last.clone());
            })
        }
        Cell::Int32(_, put) => {
            let values = array.as_primitive_opt::<Int32Type>()?;
            all(array, nullable, items, |at, item| put(item, values.value(at)))
        }
        Cell::Int64(_, put) => {
            let values = array.as_primitive_opt::<Int64Type>()?;
            all(array, nullable, items, |at, item| put(item, values.value(at)))
        }
        Cell::Float32(_, put) => {
            let values = array.as_primitive_opt::<Float32Type>()?;
            all(array, nullable, items, |at, item| put(item, values.value(at)))
        }
        Cell::Hash(_, put) => {
            let values = array.as_fixed_size_binary_opt().filter(|values| values.value_length() == 16)?;
            all(array, nullable, items, |at, item| put(item, values.value(at).try_into().unwrap_or_default()))
        }
    }
}
