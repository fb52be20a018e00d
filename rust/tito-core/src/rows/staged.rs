//! Files that get their name when they are finished, and leave nothing behind when they are not.

use super::naming::name_all;
use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use twox_hash::xxhash3_128;

/// A file under a hidden temporary name beside its final one. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Staged {
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Opens a new file in the folder of `target`. The name is hidden and unique: `.NAME.tmp-PID-N`.
    pub(crate) fn create(target: &Path) -> Result<(Self, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            return Err(Error::usage(
                format!("{} names no file", target.display()),
                "give the name of a file to write",
            ));
        };
        // A folder in the way would only be noticed by the rename, after all the work.
        if target.is_dir() {
            return Err(Error::usage(format!("{} is a folder", target.display()), "give the name of a file to write"));
        }
        // Cut, so that a long name does not become one that is too long.
        let name: String = name.to_string_lossy().chars().take(40).collect();
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let temporary = target.with_file_name(format!(".{name}.tmp-{}-{n}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    return Ok((Self { temporary, target: target.to_owned() }, file));
                }
                // Left by a killed process that had our id.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("write", target.display().to_string())(e)),
            }
        }
    }

    /// The final path.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// An error of the operating system, about the final path.
    pub(crate) fn error(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::io(action, self.target.display().to_string())
    }

    /// Gives the file its name, in place of what has it.
    pub(super) fn rename(&self) -> Result<()> {
        fs::rename(&self.temporary, &self.target).map_err(self.error("rename"))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Once the file has its name this finds nothing.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A file that is hashed while it is written: to read it again would cost more.
pub(super) struct Hashed<W> {
    pub(super) file: W,
    hash: xxhash3_128::Hasher,
}

impl<W> Hashed<W> {
    pub(super) fn new(file: W) -> Self {
        Self { file, hash: xxhash3_128::Hasher::new() }
    }

    /// `xxh3-128:` and 32 hex digits, of all that was written.
    pub(super) fn hash(&self) -> String {
        format!("xxh3-128:{:032x}", self.hash.finish_128())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buffer)?;
        self.hash.write(&buffer[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that is complete and on disk, but still without its name. Dropping it removes it.
#[derive(Debug)]
pub struct FinishedFile {
    pub(super) staged: Staged,
    /// Rows in it.
    pub rows: u64,
    /// Ids in `input_ids` and `output_ids`.
    pub ids: u64,
    /// Its size.
    pub bytes: u64,
    /// `xxh3-128:` and 32 hex digits, of its bytes.
    pub hash: String,
    /// Row groups (0 for JSON lines).
    pub row_groups: usize,
}

impl FinishedFile {
    /// The name it will have.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.staged.target()
    }

    /// Gives it its name, atomically.
    ///
    /// # Errors
    /// `Io` when the system refuses the rename.
    pub fn commit(self) -> Result<()> {
        name_all(vec![self.staged])
    }
}
