//! Parquet files. Pages of list columns arrive encoded; the small columns are written by the parquet crate's own
//! writers when a row group closes.

use super::RowMeta;
use super::checksum::Checked;
use super::encode::{Body, EncodedBatch, WriteOptions};
use super::pages::Chunk;
use super::schema::{Cell, Column, Field, Kind, List, Structs};
use super::staged::{FinishedFile, Hashed, Staged};
use crate::error::{Error, Result};
use parquet::basic::{Compression, Encoding, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::column::page::Page;
use parquet::column::writer::{ColumnCloseResult, ColumnWriterImpl};
use parquet::data_type::{
    ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, FloatType, Int32Type, Int64Type,
};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, OffsetIndexBuilder};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnDescPtr, ColumnPath, Type, TypePtr};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// One parquet file, under a temporary name until [`FinishedFile::commit`]. Dropped earlier it leaves nothing.
pub struct FileWriter {
    // Before `staged`, so that the file is closed when it is removed.
    writer: SerializedFileWriter<Hashed<File>>,
    staged: Staged,
    options: WriteOptions,
    compression: Compression,
    lists: Vec<Chunk>,
    meta: Vec<RowMeta>,
    open_ids: usize,
    rows: u64,
    ids: u64,
}

impl FileWriter {
    /// Opens a file that will be called `path`.
    ///
    /// # Errors
    /// `Io` when the folder cannot be written to, `Usage` for a path or level that cannot be.
    pub fn create(path: &Path, options: &WriteOptions) -> Result<Self> {
        let (staged, file) = Staged::create(path)?;
        Self::over(staged, file, options)
    }

    fn over(staged: Staged, file: File, options: &WriteOptions) -> Result<Self> {
        let level = ZstdLevel::try_new(options.level.unwrap_or(3))
            .map_err(|e| Error::usage(e.to_string(), "zstd has the levels 1 to 22; 3 is the default"))?;
        let compression = Compression::ZSTD(level);
        let schema = parquet_schema(options).map_err(|e| failed(&staged, e))?;
        let writer = SerializedFileWriter::new(Hashed::new(file), schema, Arc::new(properties(options, compression)))
            .map_err(|e| failed(&staged, e))?;
        let lists = options.optional.lists().map(|_| Chunk::default()).collect();
        // Readers count the ids of a column in a row group with 32 bits.
        let options = WriteOptions { row_group_ids: options.row_group_ids.min(1 << 29), ..options.clone() };
        Ok(Self { writer, staged, options, compression, lists, meta: Vec::new(), open_ids: 0, rows: 0, ids: 0 })
    }

    /// Appends the next batch.
    ///
    /// # Errors
    /// `Io` when the system refuses to write, naming the final path.
    pub fn append(&mut self, batch: EncodedBatch) -> Result<()> {
        let Body::Parquet { lists, meta } = batch.body else {
            return Err(Error::check("lines cannot go into parquet", "this is a bug in tito; please report it"));
        };
        if lists.len() != self.lists.len() {
            return Err(Error::check(
                "a batch has other columns than its file",
                "this is a bug in tito; please report it",
            ));
        }
        if self.ends_before(&batch.rows, &batch.ids) {
            self.end_row_group()?;
        }
        self.rows += batch.rows as u64;
        self.ids += batch.ids as u64;
        self.open_ids += batch.ids;
        for (chunk, next) in self.lists.iter_mut().zip(&lists) {
            chunk.join(next);
        }
        if self.meta.is_empty() {
            self.meta = meta;
        } else {
            self.meta.extend(meta);
        }
        if self.open_ids >= self.options.row_group_ids || self.meta.len() >= self.options.row_group_rows {
            self.end_row_group()?;
        }
        Ok(())
    }

    /// Whether the open row group is nearer to its size without a further batch than with it.
    fn ends_before(&self, rows: &usize, ids: &usize) -> bool {
        let missing = self.options.row_group_ids.saturating_sub(self.open_ids);
        !self.meta.is_empty()
            && (ids.saturating_sub(missing) > missing || self.meta.len() + rows > self.options.row_group_rows)
    }

    /// Bytes of the row groups that are closed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.writer.bytes_written() as u64
    }

    /// Whether the last row group is closed: a new file may begin.
    #[must_use]
    pub fn at_row_group(&self) -> bool {
        self.meta.is_empty()
    }

    fn end_row_group(&mut self) -> Result<()> {
        if self.meta.is_empty() {
            return Ok(());
        }
        let result = write_row_group(
            &mut self.writer,
            self.options.optional.columns(),
            &mut self.lists,
            &self.meta,
            self.compression,
        );
        self.meta.clear();
        self.open_ids = 0;
        result.map_err(|e| failed(&self.staged, e))
    }

    /// Writes the rest and the footer with these metadata keys, and syncs the file.
    ///
    /// # Errors
    /// `Io` when the system refuses, naming the final path.
    pub fn finish(mut self, key_values: &[(String, String)]) -> Result<FinishedFile> {
        self.end_row_group()?;
        for (key, value) in key_values {
            self.writer.append_key_value_metadata(KeyValue::new(key.clone(), value.clone()));
        }
        let row_groups = self.writer.flushed_row_groups().len();
        self.writer.finish().map_err(|e| failed(&self.staged, e))?;
        self.writer.inner().file.sync_all().map_err(self.staged.error("write"))?;
        let bytes = self.writer.bytes_written() as u64;
        let hash = self.writer.inner().hash();
        Ok(FinishedFile { staged: self.staged, rows: self.rows, ids: self.ids, bytes, hash, row_groups })
    }
}

/// The system's own error where there is one inside the parquet crate's.
fn failed(staged: &Staged, error: ParquetError) -> Error {
    let source = match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(io) => *io,
            Err(other) => std::io::Error::other(other.to_string()),
        },
        other => std::io::Error::other(other.to_string()),
    };
    staged.error("write")(source)
}

fn properties(options: &WriteOptions, compression: Compression) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("tito version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(compression)
        .set_encoding(Encoding::PLAIN)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    let mut text = |path: ColumnPath| {
        builder =
            std::mem::replace(&mut builder, WriterProperties::builder()).set_column_dictionary_enabled(path, true);
    };
    for column in options.optional.columns() {
        let nested = |field: &str| ColumnPath::new([column.name, "list", "element", field].map(str::to_owned).to_vec());
        match &column.kind {
            Kind::Scalar(Cell::Text(..)) => text(ColumnPath::new(vec![column.name.to_owned()])),
            Kind::Spans(spans) => spans.fields.iter().filter(|f| f.is_text()).for_each(|f| text(nested(f.name))),
            Kind::Calls(calls) => calls.fields.iter().filter(|f| f.is_text()).for_each(|f| text(nested(f.name))),
            Kind::Scalar(_) | Kind::List(_) => {}
        }
    }
    builder.build()
}

impl<T> Field<T> {
    fn is_text(&self) -> bool {
        matches!(self.cell, Cell::Text(..))
    }
}

fn repetition(nullable: bool) -> Repetition {
    if nullable { Repetition::OPTIONAL } else { Repetition::REQUIRED }
}

fn parquet_schema(options: &WriteOptions) -> ParquetResult<TypePtr> {
    let fields = options.optional.columns().map(column_type).collect::<ParquetResult<_>>()?;
    Ok(Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?))
}

fn column_type(column: &Column) -> ParquetResult<TypePtr> {
    match &column.kind {
        Kind::Scalar(cell) => cell_type(column.name, column.nullable, cell),
        Kind::List(list) => {
            let element = match list {
                List::LossMask => Type::primitive_type_builder("element", Physical::INT32)
                    .with_logical_type(Some(LogicalType::integer(8, true))),
                List::InputIds | List::OutputIds | List::Labels => {
                    Type::primitive_type_builder("element", Physical::INT32)
                }
                List::LossWeights | List::OutputLogprobs => Type::primitive_type_builder("element", Physical::FLOAT),
            };
            list_type(column, Arc::new(element.with_repetition(Repetition::REQUIRED).build()?))
        }
        Kind::Spans(spans) => list_type(column, struct_type(spans.fields)?),
        Kind::Calls(calls) => list_type(column, struct_type(calls.fields)?),
    }
}

fn list_type(column: &Column, element: TypePtr) -> ParquetResult<TypePtr> {
    let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED).with_fields(vec![element]);
    let outer = Type::group_type_builder(column.name)
        .with_repetition(repetition(column.nullable))
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(list.build()?)]);
    Ok(Arc::new(outer.build()?))
}

fn struct_type<T>(fields: &[Field<T>]) -> ParquetResult<TypePtr> {
    let fields = fields.iter().map(|f| cell_type(f.name, f.nullable, &f.cell)).collect::<ParquetResult<_>>()?;
    let element = Type::group_type_builder("element").with_repetition(Repetition::REQUIRED).with_fields(fields);
    Ok(Arc::new(element.build()?))
}

fn cell_type<T>(name: &str, nullable: bool, cell: &Cell<T>) -> ParquetResult<TypePtr> {
    let builder = match cell {
        Cell::Text(..) => {
            Type::primitive_type_builder(name, Physical::BYTE_ARRAY).with_logical_type(Some(LogicalType::String))
        }
        Cell::Int32(..) => Type::primitive_type_builder(name, Physical::INT32),
        Cell::Int64(..) => Type::primitive_type_builder(name, Physical::INT64),
        Cell::Float32(..) => Type::primitive_type_builder(name, Physical::FLOAT),
        Cell::Hash(..) => Type::primitive_type_builder(name, Physical::FIXED_LEN_BYTE_ARRAY).with_length(16),
    };
    Ok(Arc::new(builder.with_repetition(repetition(nullable)).build()?))
}

/// A row group, leaf column by leaf column.
struct RowGroup<'a> {
    group: SerializedRowGroupWriter<'a, Hashed<File>>,
    properties: WriterPropertiesPtr,
    leaves: std::vec::IntoIter<ColumnDescPtr>,
}

impl RowGroup<'_> {
    fn next_leaf(&mut self) -> ParquetResult<ColumnDescPtr> {
        self.leaves.next().ok_or_else(|| ParquetError::General("more columns than the schema has".to_owned()))
    }

    fn append(&mut self, bytes: Vec<u8>, close: ColumnCloseResult) -> ParquetResult<()> {
        // A page only because its buffer is a `ChunkReader` and can be made without a further crate.
        let page =
            Page::DictionaryPage { buf: bytes.into(), num_values: 0, encoding: Encoding::PLAIN, is_sorted: false };
        self.group.append_column(page.buffer(), close)
    }
}

fn write_row_group(
    writer: &mut SerializedFileWriter<Hashed<File>>,
    columns: impl Iterator<Item = &'static Column>,
    lists: &mut [Chunk],
    meta: &[RowMeta],
    compression: Compression,
) -> ParquetResult<()> {
    let (properties, leaves) = (writer.properties().clone(), writer.schema_descr().columns().to_vec().into_iter());
    let mut lists = lists.iter_mut();
    let mut group = RowGroup { group: writer.next_row_group()?, properties, leaves };
    for column in columns {
        match &column.kind {
            Kind::List(_) => {
                let chunk = lists.next().map(std::mem::take).unwrap_or_default();
                write_pages(&mut group, chunk, compression)?;
            }
            Kind::Scalar(cell) => {
                let top = column.nullable.then(|| vec![0; meta.len()]);
                write_cells(&mut group, cell, meta.iter(), column.nullable, top, None)?;
            }
            Kind::Spans(spans) => write_structs(&mut group, meta, spans)?,
            Kind::Calls(calls) => write_structs(&mut group, meta, calls)?,
        }
    }
    group.group.close()?;
    Ok(())
}

/// Writes a column chunk that consists of encoded pages.
fn write_pages(group: &mut RowGroup<'_>, chunk: Chunk, compression: Compression) -> ParquetResult<()> {
    let mut index = OffsetIndexBuilder::new();
    let mut offset = 0;
    for (size, rows) in &chunk.pages {
        index.append_row_count(*rows as i64);
        index.append_offset_and_size(offset, i32::try_from(*size)?);
        offset += *size as i64;
    }
    let metadata = ColumnChunkMetaData::builder(group.next_leaf()?)
        .set_compression(compression)
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
        .set_num_values(chunk.values as i64)
        .set_total_compressed_size(offset)
        .set_total_uncompressed_size(chunk.uncompressed as i64)
        .set_data_page_offset(0)
        .build()?;
    let close = ColumnCloseResult {
        bytes_written: offset as u64,
        rows_written: chunk.rows as u64,
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: Some(index.build()),
    };
    group.append(chunk.bytes, close)
}

/// Writes a nullable list of structs, a leaf column a field.
fn write_structs<T: 'static>(group: &mut RowGroup<'_>, meta: &[RowMeta], structs: &Structs<T>) -> ParquetResult<()> {
    let Structs { get: find, fields, .. } = structs;
    let (mut definition, mut repetition) = (Vec::new(), Vec::new());
    for row in meta {
        match find(row) {
            None => definition.push(0),
            Some([]) => definition.push(1),
            Some(items) => {
                definition.extend(items.iter().map(|_| 2));
                repetition.push(0);
                repetition.extend(items.iter().skip(1).map(|_| 1));
                continue;
            }
        }
        repetition.push(0);
    }
    for field in *fields {
        let items = meta.iter().filter_map(|row| find(row)).flatten();
        write_cells(group, &field.cell, items, field.nullable, Some(definition.clone()), Some(&repetition))?;
    }
    Ok(())
}

/// Writes one leaf column. `definition` holds the levels of what the cells stand in, so the cell at a position whose
/// level is the highest there is exists; a nullable cell that has a value is one level higher.
fn write_cells<'a, T: 'static>(
    group: &mut RowGroup<'_>,
    cell: &Cell<T>,
    items: impl Iterator<Item = &'a T>,
    nullable: bool,
    definition: Option<Vec<i16>>,
    repetition: Option<&[i16]>,
) -> ParquetResult<()> {
    let levels = Levels { nullable, definition, repetition };
    match cell {
        Cell::Text(get, _) => levels.write::<ByteArrayType>(group, items.map(|i| get(i).map(ByteArray::from))),
        Cell::Int32(get, _) => levels.write::<Int32Type>(group, items.map(get)),
        Cell::Int64(get, _) => levels.write::<Int64Type>(group, items.map(get)),
        Cell::Float32(get, _) => levels.write::<FloatType>(group, items.map(get)),
        Cell::Hash(get, _) => levels.write::<FixedLenByteArrayType>(
            group,
            items.map(|i| get(i).map(|hash| FixedLenByteArray::from(hash.to_vec()))),
        ),
    }
}

struct Levels<'a> {
    nullable: bool,
    definition: Option<Vec<i16>>,
    repetition: Option<&'a [i16]>,
}

impl Levels<'_> {
    fn write<D: DataType>(
        mut self,
        group: &mut RowGroup<'_>,
        cells: impl Iterator<Item = Option<D::T>>,
    ) -> ParquetResult<()> {
        let missing = || ParquetError::General("a cell that must not be null is".to_owned());
        let full = if self.repetition.is_some() { 2 } else { 0 };
        let mut values = Vec::new();
        if let (true, Some(definition)) = (self.nullable, &mut self.definition) {
            let places = definition.iter_mut().filter(|level| **level == full);
            for (cell, level) in cells.zip(places) {
                if let Some(value) = cell {
                    values.push(value);
                    *level += 1;
                }
            }
        } else {
            for cell in cells {
                values.push(cell.ok_or_else(missing)?);
            }
        }
        let mut bytes = Vec::new();
        let pages = Box::new(Checked(&mut bytes));
        let mut column = ColumnWriterImpl::<D>::new(group.next_leaf()?, group.properties.clone(), pages);
        column.write_batch(&values, self.definition.as_deref(), self.repetition)?;
        let close = column.close()?;
        group.append(bytes, close)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Batch, encode};
    use std::fs::OpenOptions;

    /// Bytes that the system cannot store are an error about the path the user gave, and nothing stays.
    #[test]
    #[cfg(target_os = "linux")]
    fn full_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.parquet");
        let options = WriteOptions { row_group_ids: 1, ..WriteOptions::default() };
        let (staged, _) = Staged::create(&path).expect("a file");
        let full = OpenOptions::new().write(true).open("/dev/full").expect("the full device");
        let mut writer = FileWriter::over(staged, full, &options).expect("a writer");
        let mut batch = Batch::default();
        // Larger than any buffer on the way.
        batch.input_ids.values = (0..100_000).map(|i| i * 7919 % 150_000).collect();
        batch.input_ids.ranges = std::iter::once(0..100_000).collect();
        batch.output_ids.ranges = std::iter::once(0..0).collect();
        batch.meta = vec![RowMeta::default()];
        let batch = encode(batch, &options).expect("pages");
        let Err(error) = writer.append(batch).and_then(|()| writer.finish(&[]).map(drop)) else {
            panic!("nothing was refused");
        };
        assert!(error.to_string().starts_with(&format!("{}: cannot write: No space", path.display())), "{error}");
        assert!(error.hint().contains("free some space"), "{}", error.hint());
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }
}
