//! From what the user named to files: files, folders, globs, `-`.

use super::names::by_name;
use super::sniff::Format;
use crate::error::{Error, Place, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file that goes by another name than its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Called {
    /// What it is called in rows and reports.
    pub name: String,
    /// Where it holds only some lines of the file so called, and empty ones for the others: their format.
    pub lines: Option<String>,
}

/// A file to read.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) path: Option<PathBuf>,
    pub(super) name: String,
    /// Found in a folder: what holds no capture is then passed over and counted.
    pub(super) found: bool,
    pub(super) bytes: u64,
    /// A file proper: not a pipe, not a device.
    pub(super) regular: bool,
    /// Format of its lines, where it needs no look.
    pub(super) lines: Option<&'static Format>,
}

/// Appends what a name stands for, in a fixed order.
pub(super) fn expand(name: &str, inputs: &mut Vec<Input>, left_out: &mut Vec<String>) -> Result<()> {
    if name == "-" {
        inputs.push(Input { path: None, name: "-".to_owned(), found: false, bytes: 0, regular: false, lines: None });
        return Ok(());
    }
    let path = Path::new(name);
    if let Ok(meta) = fs::metadata(path) {
        if meta.is_dir() {
            let before = inputs.len();
            walk(path, inputs, left_out)?;
            if inputs.len() == before {
                return Err(Error::data(Place::file(name), "the folder is empty", "name a folder that holds captures"));
            }
        } else {
            inputs.push(Input {
                path: Some(path.to_owned()),
                name: name.to_owned(),
                found: false,
                bytes: meta.len(),
                regular: meta.is_file(),
                lines: None,
            });
        }
        return Ok(());
    }
    if name.contains(['*', '?', '[']) {
        let matches =
            glob::glob(name).map_err(|e| Error::usage(format!("{name}: {e}"), "quote a name that is no glob"))?;
        let before = inputs.len();
        let mut names = Vec::new();
        for found in matches {
            let found = found.map_err(|e| Error::io("read", e.path().to_string_lossy().into_owned())(e.into()))?;
            names.push(found.to_string_lossy().into_owned());
        }
        names.sort_by(|a, b| by_name(a, b));
        for name in &names {
            expand(name, inputs, left_out)?;
        }
        if inputs.len() > before {
            return Ok(());
        }
        let nothing = io::Error::new(io::ErrorKind::NotFound, "the pattern matches no file");
        return Err(Error::io("read", name)(nothing));
    }
    Err(Error::io("read", name)(io::Error::from_raw_os_error(2)))
}

/// All files below a folder, in the order of [`by_name`]. Hidden ones are no data; linked folders, dead links and pipes
/// are told of.
fn walk(folder: &Path, inputs: &mut Vec<Input>, left_out: &mut Vec<String>) -> Result<()> {
    let name = folder.to_string_lossy().into_owned();
    let mut entries: Vec<_> = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(Error::io("read", name))?
        .into_iter()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .collect();
    let name_of = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.sort_by(|a, b| by_name(&name_of(a), &name_of(b)).then_with(|| a.file_name().cmp(&b.file_name())));
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", path.to_string_lossy()))?;
        if kind.is_dir() {
            walk(&path, inputs, left_out)?;
        } else if let Ok(meta) = fs::metadata(&path)
            && meta.is_file()
        {
            let name = path.to_string_lossy().into_owned();
            inputs.push(Input { path: Some(path), name, found: true, bytes: meta.len(), regular: true, lines: None });
        } else {
            left_out.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
