//! Parquet pages of list columns, made without a look at single values: the levels of a list of n ids are two runs,
//! the values are the batch's own bytes, compressed where they lie.
//!
//! Data page V2, PLAIN, because its levels stand outside the compressed part. Dictionary and delta encodings are never
//! used: they destroy the alignment by which zstd sees that a prompt repeats the one before.

use super::Ragged;
use super::checksum::Checked;
use crate::error::{Error, Result};
use bytemuck::Pod;
use parquet::basic::Encoding;
use parquet::column::page::{CompressedPage, Page, PageWriter};
use zstd::zstd_safe::{CParameter, Strategy};

/// Pages of one list column, as they stand in the file. Chunks of consecutive batches are joined end to end.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Headers and bodies.
    pub(super) bytes: Vec<u8>,
    /// Size and rows of each page.
    pub(super) pages: Vec<(usize, usize)>,
    /// Rows.
    pub(super) rows: usize,
    /// Values as parquet counts them: an empty or null list is one.
    pub(super) values: usize,
    /// Size of headers and bodies before compression.
    pub(super) uncompressed: usize,
}

impl Chunk {
    /// Appends the pages of the next batch.
    pub(super) fn join(&mut self, next: &Self) {
        self.bytes.extend_from_slice(&next.bytes);
        self.pages.extend_from_slice(&next.pages);
        self.rows += next.rows;
        self.values += next.values;
        self.uncompressed += next.uncompressed;
    }
}

/// What one thread compresses with: a context and buffers that are kept from page to page.
pub(super) struct Codec {
    compressor: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
}

impl Codec {
    /// Without a level: one probe a position, because the repeat of a prompt is found whichever probe hits it; matches
    /// of two ids or more, because one id costs less as a literal; a window of a whole page, so that rollouts which
    /// lie interleaved see themselves; and a table that stays in the first caches. Against level 3, on 40 M ids of
    /// agent-like prompts over real source text: 1.3 times as fast, 2 % smaller; without repeats 1.8 times, 5 % larger.
    pub(super) fn new(level: Option<i32>) -> Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level.unwrap_or(1)).map_err(|e| failed(&e))?;
        if level.is_none() {
            let parameters = [
                CParameter::Strategy(Strategy::ZSTD_fast),
                CParameter::WindowLog(23),
                CParameter::HashLog(15),
                CParameter::MinMatch(7),
            ];
            for parameter in parameters {
                compressor.set_parameter(parameter).map_err(|e| failed(&e))?;
            }
        }
        Ok(Self { compressor, compressed: Vec::new() })
    }

    /// A zstd frame of `raw`, valid until the next call.
    fn compress(&mut self, raw: &[u8]) -> Result<&[u8]> {
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.compressor.compress_to_buffer(raw, &mut self.compressed).map_err(|e| failed(&e))?;
        Ok(&self.compressed)
    }
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::check(format!("cannot encode a page: {error}"), "this is a bug in tito; please report it")
}

/// One run of equal levels after the other, in the run-length half of parquet's hybrid encoding.
#[derive(Default)]
struct Runs {
    bytes: Vec<u8>,
    level: u8,
    count: u64,
}

impl Runs {
    fn push(&mut self, level: u8, count: usize) {
        if count == 0 {
            return;
        }
        if level != self.level {
            self.end_run();
            self.level = level;
        }
        self.count += count as u64;
    }

    fn end_run(&mut self) {
        if self.count == 0 {
            return;
        }
        let mut header = self.count << 1;
        while header >= 0x80 {
            self.bytes.push(header as u8 | 0x80);
            header >>= 7;
        }
        self.bytes.push(header as u8);
        // Levels of up to 8 bits take one byte.
        self.bytes.push(self.level);
        self.count = 0;
    }

    fn finish(mut self) -> Vec<u8> {
        self.end_run();
        self.bytes
    }
}

/// Encodes a list column of non-null elements. `present` makes the lists nullable: false is null.
pub(super) fn encode<T: Pod>(
    codec: &mut Codec,
    lists: &Ragged<T>,
    present: Option<&[bool]>,
    page_bytes: usize,
) -> Result<Chunk> {
    let width = size_of::<T>();
    let mut chunk = Chunk { rows: lists.ranges.len(), ..Chunk::default() };
    let mut gathered = Vec::new();
    let mut first = 0;
    while first < lists.ranges.len() {
        let mut bytes = 0;
        let rows = lists.ranges[first..]
            .iter()
            .take_while(|range| {
                bytes += range.len() * width;
                bytes <= page_bytes
            })
            .count()
            .max(1);
        let ranges = &lists.ranges[first..first + rows];
        let (mut repetition, mut definition) = (Runs::default(), Runs::default());
        let (mut values, mut nulls) = (0, 0);
        for (row, range) in ranges.iter().enumerate() {
            let null = present.is_some_and(|present| !present[first + row]);
            if range.is_empty() || null {
                repetition.push(0, 1);
                definition.push(u8::from(present.is_some() && !null), 1);
                values += 1;
                nulls += 1;
            } else {
                repetition.push(0, 1);
                repetition.push(1, range.len() - 1);
                definition.push(if present.is_some() { 2 } else { 1 }, range.len());
                values += range.len();
            }
        }
        let raw = contiguous(&lists.values, ranges, &mut gathered);
        let raw: &[u8] = bytemuck::cast_slice(raw);
        if i32::try_from(raw.len()).is_err() {
            return Err(Error::check(
                format!("a row of {} values does not fit a parquet page", raw.len() / width),
                "set --max-length",
            ));
        }
        let (repetition, definition) = (repetition.finish(), definition.finish());
        let mut body = Vec::new();
        body.extend_from_slice(&repetition);
        body.extend_from_slice(&definition);
        if !raw.is_empty() {
            body.extend_from_slice(codec.compress(raw)?);
        }
        let page = Page::DataPageV2 {
            buf: body.into(),
            num_values: values as u32,
            encoding: Encoding::PLAIN,
            num_nulls: nulls,
            num_rows: rows as u32,
            def_levels_byte_len: definition.len() as u32,
            rep_levels_byte_len: repetition.len() as u32,
            is_compressed: !raw.is_empty(),
            statistics: None,
        };
        let page = CompressedPage::new(page, repetition.len() + definition.len() + raw.len());
        let written = Checked(&mut chunk.bytes).write_page(page).map_err(|e| failed(&e))?;
        chunk.pages.push((written.bytes_written as usize, rows));
        chunk.values += values;
        chunk.uncompressed += written.uncompressed_size;
        first += rows;
    }
    Ok(chunk)
}

/// The values of some ranges as one slice: where they lie if there are no gaps, gathered otherwise.
fn contiguous<'a, T: Copy>(values: &'a [T], ranges: &[std::ops::Range<usize>], gathered: &'a mut Vec<T>) -> &'a [T] {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return &[];
    };
    if ranges.windows(2).all(|pair| pair[0].end == pair[1].start) {
        return &values[first.start..last.end];
    }
    gathered.clear();
    for range in ranges {
        gathered.extend_from_slice(&values[range.clone()]);
    }
    gathered
}
