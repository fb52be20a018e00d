//! A set of files gets its names as one. What stood there before is kept aside until the last file has its name, and is
//! put back when one is refused: half a set of shards, or rows beside the manifest of others, looks like a whole one.

use super::staged::Staged;
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use twox_hash::xxhash3_64;

/// Gives files their names, all or none.
pub(crate) fn name_all(files: Vec<Staged>) -> Result<()> {
    let mut before = Vec::with_capacity(files.len());
    if let Err(error) = name_each(&files, &mut before) {
        before.into_iter().rev().for_each(Predecessor::put_back);
        return Err(error);
    }
    before.into_iter().for_each(Predecessor::forget);
    // The bytes were synced before. Some file systems cannot sync a folder, and the files are whole either way.
    for folder in files.iter().map(|file| folder_of(file.target())).collect::<BTreeSet<_>>() {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(())
}

fn name_each(files: &[Staged], before: &mut Vec<Predecessor>) -> Result<()> {
    for file in files {
        before.push(Predecessor::keep(file)?);
    }
    for (file, before) in files.iter().zip(before) {
        file.rename()?;
        before.replaced = true;
    }
    Ok(())
}

/// What has a name that a file is to get.
struct Predecessor {
    target: PathBuf,
    /// A second name of it; none where nothing has the first.
    aside: Option<PathBuf>,
    replaced: bool,
}

impl Predecessor {
    fn keep(file: &Staged) -> Result<Self> {
        let target = file.target().to_owned();
        let aside = hidden(&target, "old");
        // Left by a run that was killed just here.
        let _ = fs::remove_file(&aside);
        let is_there = fs::symlink_metadata(&target).is_ok_and(|meta| !meta.is_dir());
        if is_there && fs::hard_link(&target, &aside).is_err() {
            // A file system without links: for a moment nothing has the name.
            fs::rename(&target, &aside).map_err(file.error("rename"))?;
        }
        Ok(Self { target, aside: is_there.then_some(aside), replaced: false })
    }

    fn put_back(self) {
        if let Some(aside) = &self.aside {
            // Does nothing where both are names of one file.
            if fs::rename(aside, &self.target).is_ok() {
                self.forget();
            }
        } else if self.replaced {
            let _ = fs::remove_file(&self.target);
        }
    }

    fn forget(self) {
        self.aside.map(fs::remove_file);
    }
}

/// A name beside a file's own, always the same: `.NAME.HASH.WHAT`. Cut, so that a long name does not become too long.
pub(super) fn hidden(target: &Path, what: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default();
    let mut hasher = xxhash3_64::Hasher::new();
    hasher.write(name.as_encoded_bytes());
    let short: String = name.to_string_lossy().chars().take(40).collect();
    target.with_file_name(format!(".{short}.{:016x}.{what}", hasher.finish()))
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// That nobody else writes an output; until it is dropped, or its process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of an output.
    ///
    /// # Errors
    /// `Busy` when another run has it, `Io` when the folder cannot be written to.
    pub(crate) fn take(target: &Path) -> Result<Self> {
        let path = hidden(target, "lock");
        let name = || target.display().to_string();
        loop {
            let opened = File::options().write(true).create(true).truncate(false).open(&path);
            let file = opened.map_err(Error::io("write", name()))?;
            // A file system that knows no locks has none.
            if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
                return Err(Error::Busy { path: name() });
            }
            // Its holder removes it; who opened it before then must open it anew.
            if is_one(&file, &path) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn is_one(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |meta: fs::Metadata| (meta.dev(), meta.ino());
    file.metadata().ok().map(of) == fs::metadata(path).ok().map(of)
}

#[cfg(not(unix))]
fn is_one(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn staged(path: &Path, text: &str) -> Staged {
        let (staged, mut file) = Staged::create(path).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        staged
    }

    fn there(folder: &Path) -> Vec<(String, Option<String>)> {
        let entries = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry"));
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut there: Vec<_> = entries.map(|e| (name(&e.path()), fs::read_to_string(e.path()).ok())).collect();
        there.sort();
        there
    }

    #[test]
    fn all_get_their_names_or_none() {
        let root = tempfile::tempdir().expect("a folder");
        for refused in [None, Some("a"), Some("b"), Some("c"), Some("d")] {
            let folder = root.path().join(refused.unwrap_or("none"));
            fs::create_dir(&folder).expect("a folder");
            let at = |name: &str| folder.join(name);
            fs::write(at("a"), "old a").expect("written");
            fs::write(at("c"), "old c").expect("written");
            // Left by a run that was killed.
            fs::write(hidden(&at("c"), "old"), "older").expect("written");
            let files = ["a", "b", "c", "d"].map(|name| staged(&at(name), name)).into_iter().collect();
            if let Some(name) = refused {
                // What cannot be replaced, and comes only now.
                let _ = fs::remove_file(at(name));
                fs::create_dir(at(name)).expect("a folder");
            }
            let mut before = there(&folder);
            before.retain(|(name, _)| !name.starts_with('.'));
            let result = name_all(files);
            let all = ["a", "b", "c", "d"].map(|name| (name.to_owned(), Some(name.to_owned()))).to_vec();
            assert_eq!(result.is_err(), refused.is_some());
            assert_eq!(there(&folder), if refused.is_some() { before } else { all }, "{refused:?}");
        }
    }

    #[test]
    fn a_lock_is_held_by_one_until_it_is_dropped() {
        let root = tempfile::tempdir().expect("a folder");
        let target = root.path().join("rows.parquet");
        for _ in 0..2 {
            let lock = Lock::take(&target).expect("the lock");
            let error = Lock::take(&target).expect_err("it is taken");
            assert_eq!(error.to_string(), format!("{}: another run is writing it", target.display()));
            assert!(Lock::take(&root.path().join("other.parquet")).is_ok());
            drop(lock);
            assert_eq!(there(root.path()), []);
        }
    }
}
