//! Rows files back to batches: what the writers here wrote, or another tool that kept their columns.
//!
//! Columns are found by name and must be of the type that the schema declares; others are passed over. Batches hold
//! about [`BATCH_IDS`] ids, so memory does not depend on the size of the file.

mod damage;
mod lines;
mod pages;

use super::schema::{COLUMNS, Column, Kind, List, OPTIONAL, VERSION};
use super::{Batch, OptionalColumns, Ragged};
use crate::error::{Error, Place, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Ids near which a batch ends.
const BATCH_IDS: usize = 1 << 20;
/// Rows at which it ends at the latest.
const BATCH_ROWS: usize = 1 << 14;

/// What to do about a file that is none of ours.
const NOT_OURS: &str = "name files that `tito convert` wrote";
/// What to do about a file that cannot be read to its end.
const BROKEN: &str = "the file is cut off or was changed; convert again";

/// Reads one file of rows.
pub struct Reader {
    metadata: BTreeMap<String, String>,
    optional: OptionalColumns,
    rows: u64,
    inner: Inner,
    path: PathBuf,
    /// Of JSON lines that a manifest names.
    written: Option<lines::Written>,
}

enum Inner {
    Pages(pages::Pages),
    Lines(lines::Lines),
}

impl Reader {
    /// Opens a parquet file or a file of JSON lines.
    ///
    /// # Errors
    /// `Io` for a file that cannot be read, `Data` for one that holds no rows of this schema.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.to_string_lossy().into_owned();
        let mut magic = Vec::with_capacity(4);
        let file = File::open(path).map_err(Error::io("read", name.clone()))?;
        (&file).take(4).read_to_end(&mut magic).map_err(Error::io("read", name.clone()))?;
        let (metadata, written, optional, inner) = if magic == *b"PAR1" {
            let (pages, metadata) = pages::Pages::open(file, name)?;
            (metadata, None, pages.optional(), Inner::Pages(pages))
        } else {
            let (metadata, written) = lines::manifest(path)?;
            let lines = lines::Lines::open(file, name, written.as_ref().is_some_and(lines::Written::is_empty))?;
            (metadata, written, lines.optional(), Inner::Lines(lines))
        };
        Ok(Self { metadata, optional, rows: 0, inner, path: path.to_owned(), written })
    }

    /// Whether what [`Self::metadata`] says is of this file: JSON lines do not hold it, and another file may stand where
    /// the one stood that their manifest was written with. Reads them whole.
    ///
    /// # Errors
    /// `Io` for a file that cannot be read.
    pub fn is_told_of(&self) -> Result<bool> {
        match (&self.inner, &self.written) {
            (Inner::Pages(_), _) => Ok(true),
            (Inner::Lines(_), None) => Ok(false),
            (Inner::Lines(_), Some(written)) => written.is(&self.path),
        }
    }

    /// What the file says of itself: its keys `tito.*`; of JSON lines, what the manifest says that names them.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The columns on request that are there.
    #[must_use]
    pub fn optional(&self) -> OptionalColumns {
        self.optional
    }

    /// Columns met so far that are none of the schema's: they were passed over.
    #[must_use]
    pub fn others(&self) -> &BTreeSet<String> {
        match &self.inner {
            Inner::Pages(pages) => pages.others(),
            Inner::Lines(lines) => lines.others(),
        }
    }

    /// Rows read so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The next rows; none at the end.
    ///
    /// # Errors
    /// `Data` for a value that the schema does not allow, naming the row (counted from 0), `Io`.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let batch = match &mut self.inner {
            Inner::Pages(pages) => pages.next_batch(self.rows)?,
            Inner::Lines(lines) => lines.next_batch()?,
        };
        self.rows += batch.as_ref().map_or(0, |batch| batch.meta.len() as u64);
        Ok(batch)
    }
}

/// Which of the columns on request a file has; all others must be there.
fn columns_there(name: &str, has: impl Fn(&str) -> bool, seen: impl Fn() -> String) -> Result<OptionalColumns> {
    if let Some(missing) = COLUMNS.iter().find(|column| !has(column.name)) {
        let message = format!("no rows of row schema {VERSION}: no column {} ({})", missing.name, seen());
        return Err(Error::data(Place::file(name), message, NOT_OURS));
    }
    let list = |list: List| {
        let of = |column: &&Column| matches!(column.kind, Kind::List(kind) if kind == list);
        OPTIONAL.iter().find(of).is_some_and(|column| has(column.name))
    };
    Ok(OptionalColumns {
        loss_mask: list(List::LossMask),
        loss_weights: list(List::LossWeights),
        labels: list(List::Labels),
        output_logprobs: list(List::OutputLogprobs),
    })
}

/// Whether the schema has a column of this name.
fn is_ours(name: &str) -> bool {
    COLUMNS.iter().chain(OPTIONAL).any(|column| column.name == name)
}

/// A batch that values can be put into.
fn empty(optional: OptionalColumns) -> Batch {
    Batch {
        loss_mask: optional.loss_mask.then(Ragged::default),
        loss_weights: optional.loss_weights.then(Ragged::default),
        labels: optional.labels.then(Ragged::default),
        output_logprobs: optional.output_logprobs.then(Default::default),
        ..Batch::default()
    }
}

/// A value that the schema does not allow: in which row, and what is wrong.
struct Wrong {
    row: usize,
    message: String,
}

impl Wrong {
    fn null(row: usize) -> Self {
        Self { row, message: "is null".to_owned() }
    }

    /// `row` of the file, counted from 0, as people are told of rows.
    fn at(self, name: &str, column: &str, first: u64) -> Error {
        let row = first + self.row as u64;
        Error::data(Place::file(name), format!("row {row}: {column} {}", self.message), BROKEN)
    }
}
