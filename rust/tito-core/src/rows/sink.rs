//! Where a run's rows go: one file or numbered shards, parquet or JSON lines, named all together at the end.

use super::encode::{EncodedBatch, Format, WriteOptions};
use super::naming::name_all;
use super::staged::{FinishedFile, Staged};
use super::{jsonl, parquet};
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Takes encoded batches in order. Nothing has its name before [`Finished::commit`].
pub struct Sink {
    path: PathBuf,
    options: WriteOptions,
    full: Vec<Open>,
    open: Open,
    /// Ids in `open`.
    ids: usize,
}

enum Open {
    Parquet(Box<parquet::FileWriter>),
    Jsonl(Box<jsonl::FileWriter>),
}

impl Sink {
    /// Opens `path`, or with a size of shards (bytes, ids) the first of `NAME-00000.EXT`, `NAME-00001.EXT`, ...
    ///
    /// # Errors
    /// `Io` when the folder cannot be written to. `Usage` for a path that names no file, and when shards of an earlier
    /// run are there: some of them might stay among the new ones and be read with them.
    pub fn create(path: &Path, options: &WriteOptions) -> Result<Self> {
        if is_sharded(options) {
            refuse_old_shards(path)?;
        }
        let open = Open::create(&shard(path, options, 0), options)?;
        Ok(Self { path: path.to_owned(), options: options.clone(), full: Vec::new(), open, ids: 0 })
    }

    /// Appends the next batch.
    ///
    /// # Errors
    /// `Io` when the system refuses to write, naming the final path.
    pub fn append(&mut self, batch: EncodedBatch) -> Result<()> {
        // Here and not behind the batch, so that no shard is empty.
        if self.ends_before(&batch) {
            let next = Open::create(&shard(&self.path, &self.options, self.full.len() + 1), &self.options)?;
            self.full.push(std::mem::replace(&mut self.open, next));
            self.ids = 0;
        }
        self.ids += batch.ids;
        match &mut self.open {
            Open::Parquet(file) => file.append(batch),
            Open::Jsonl(file) => file.append(&batch),
        }
    }

    /// Whether the open shard is full. It looks at whole batches in their order alone, so the shards are the same for
    /// any number of workers; by ids a shard ends where it is nearest to its size, half a batch from it at most.
    fn ends_before(&self, batch: &EncodedBatch) -> bool {
        let by_bytes = self.options.shard_bytes.is_some_and(|most| self.open.may_end() && self.open.bytes() > most);
        let by_ids = self.options.shard_ids.is_some_and(|size| {
            let missing = size.saturating_sub(self.ids);
            self.ids > 0 && batch.ids.saturating_sub(missing) > missing
        });
        by_bytes || by_ids
    }

    /// Completes all files and syncs them. Every parquet file gets the keys; JSON lines have no place for them.
    ///
    /// # Errors
    /// `Io` when the system refuses to write, naming the final path.
    pub fn finish(self, key_values: &[(String, String)]) -> Result<Finished> {
        let files = self.full.into_iter().chain([self.open]).map(|open| match open {
            Open::Parquet(file) => file.finish(key_values),
            Open::Jsonl(file) => file.finish(),
        });
        Ok(Finished { files: files.collect::<Result<_>>()? })
    }
}

impl Open {
    fn create(path: &Path, options: &WriteOptions) -> Result<Self> {
        Ok(match options.format {
            Format::Parquet => Self::Parquet(Box::new(parquet::FileWriter::create(path, options)?)),
            Format::Jsonl => Self::Jsonl(Box::new(jsonl::FileWriter::create(path, options)?)),
        })
    }

    fn may_end(&self) -> bool {
        match self {
            Self::Parquet(file) => file.at_row_group(),
            Self::Jsonl(_) => true,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Parquet(file) => file.bytes(),
            Self::Jsonl(file) => file.bytes(),
        }
    }
}

fn is_sharded(options: &WriteOptions) -> bool {
    options.shard_bytes.is_some() || options.shard_ids.is_some()
}

/// Name of a shard: the number goes before the extension.
fn shard(path: &Path, options: &WriteOptions, number: usize) -> PathBuf {
    if !is_sharded(options) && options.part.is_none() {
        return path.to_owned();
    }
    let number = options.part.unwrap_or(number);
    let (stem, extension) = halves(path);
    path.with_file_name(format!("{stem}-{number:05}{extension}"))
}

/// File name up to the last dot, and the rest with the dot.
fn halves(path: &Path) -> (String, String) {
    let part = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let extension = part(path.extension()).map(|e| format!(".{e}")).unwrap_or_default();
    (part(path.file_stem()).unwrap_or_default(), extension)
}

fn refuse_old_shards(path: &Path) -> Result<()> {
    let (stem, extension) = halves(path);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A folder that cannot be read is reported when the file is created in it.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number =
            name.strip_prefix(&stem).and_then(|n| n.strip_prefix('-')).and_then(|n| n.strip_suffix(&extension));
        if number.is_some_and(|n| n.len() >= 5 && n.bytes().all(|b| b.is_ascii_digit())) {
            return Err(Error::usage(
                format!("{} is there already", folder.join(name).display()),
                format!("remove {stem}-*{extension} or write elsewhere: old shards would be read with the new ones"),
            ));
        }
    }
    Ok(())
}

/// Complete files that are still without their names. Dropped they are removed.
#[derive(Debug)]
pub struct Finished {
    files: Vec<FinishedFile>,
}

impl Finished {
    /// The files in order.
    #[must_use]
    pub fn files(&self) -> &[FinishedFile] {
        &self.files
    }

    /// Rows in all of them.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }

    /// Ids in `input_ids` and `output_ids`.
    #[must_use]
    pub fn ids(&self) -> u64 {
        self.files.iter().map(|f| f.ids).sum()
    }

    /// Size of all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Gives all files their names, or none, and says which.
    ///
    /// # Errors
    /// `Io` when the system refuses a rename.
    pub fn commit(self) -> Result<Vec<PathBuf>> {
        let names = self.files.iter().map(|file| file.path().to_owned()).collect();
        name_all(self.into_staged())?;
        Ok(names)
    }

    /// The files, to be named with others.
    pub(crate) fn into_staged(self) -> Vec<Staged> {
        self.files.into_iter().map(|file| file.staged).collect()
    }
}
