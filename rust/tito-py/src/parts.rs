//! Faces the core's conversion in parts. What a part or file was found to be travels between machines: as bytes or JSON
//! that only the core reads.

use crate::convert::Progress;
use crate::errors::{raise, usage};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tito_core::capture::{InputFile, Sources, by_name};
use tito_core::convert::{self as core, Options, Scan, Weighing};
use tito_core::{Error, Result};

/// What only a version of tito that is not ours could have sent.
fn foreign(error: impl std::fmt::Display) -> Error {
    Error::usage(format!("parts: {error}"), "all machines need the same version of tito")
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(foreign)
}

fn write<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(foreign)
}

fn weighing_of(text: Option<&str>) -> Result<Weighing> {
    text.map_or_else(|| Ok(Weighing::default()), read)
}

/// Name, bytes, whether it was found in a folder.
type Listed = (String, u64, bool);

/// The files that inputs stand for; and what stood in folders and is none. `tito.distributed` asks.
#[pyfunction]
pub fn list_inputs(py: Python<'_>, inputs: Vec<String>) -> PyResult<(Vec<Listed>, Vec<String>)> {
    let sources = py.detach(|| Sources::new(&inputs, None, Arc::default())).map_err(|e| raise(py, &e))?;
    let files = sources.listing().map(|(name, bytes, found)| (name.to_owned(), bytes, found)).collect();
    Ok((files, sources.left_out().map(str::to_owned).collect()))
}

/// Names of files in the order in which inputs are read.
#[pyfunction]
pub fn in_name_order(mut names: Vec<String>) -> Vec<String> {
    names.sort_by(|a, b| by_name(a, b));
    names
}

/// Scans the one file among the inputs: what it is, as JSON, and what belongs together in it.
#[pyfunction]
pub fn scan_file<'py>(
    py: Python<'py>,
    options_json: &str,
    found: bool,
    progress: &Bound<'py, Progress>,
) -> PyResult<(String, Bound<'py, PyBytes>)> {
    let progress = progress.get().inner();
    let scanned = py.detach(|| {
        let (file, scan) = core::scan(&Options::from_json(options_json)?, found, progress)?;
        Ok((write(&file)?, scan.to_bytes()?))
    });
    let (file, scan) = scanned.map_err(|e: Error| raise(py, &e))?;
    Ok((file, PyBytes::new(py, &scan)))
}

/// Bytes on disk and numbers of files, by part; then of each file that parts share its number and the part of each line.
type Planned<'py> = (Vec<(u64, Vec<usize>)>, Vec<(usize, Bound<'py, PyBytes>)>);

/// Which files make which part.
#[pyfunction]
pub fn plan_parts<'py>(
    py: Python<'py>,
    scans: Vec<Bound<'py, PyBytes>>,
    sizes: Vec<u64>,
    part_bytes: u64,
) -> PyResult<Planned<'py>> {
    let scans: Result<Vec<Scan>> = scans.iter().map(|scan| Scan::from_bytes(scan.as_bytes())).collect();
    let scans = scans.map_err(|e| raise(py, &e))?;
    if scans.len() != sizes.len() {
        return Err(usage(py, format!("{} sizes of {} files", sizes.len(), scans.len()), "give one a file"));
    }
    let (parts, splits) = py.detach(|| core::plan_parts(&scans, &sizes, part_bytes));
    let parts = parts.into_iter().map(|part| (part.bytes, part.files)).collect();
    let bytes = |lines: Vec<u32>| {
        let bytes: Vec<u8> = lines.into_iter().flat_map(u32::to_le_bytes).collect();
        PyBytes::new(py, &bytes)
    };
    Ok((parts, splits.into_iter().map(|(file, lines)| (file, bytes(lines))).collect()))
}

/// Writes the lines that each part has of a file. `file_json` is what the scan said of it.
#[pyfunction]
pub fn split_file(
    py: Python<'_>,
    path: &str,
    file_json: &str,
    lines: &Bound<'_, PyBytes>,
    folder: &str,
    progress: &Bound<'_, Progress>,
) -> PyResult<()> {
    let (lines, progress) = (lines.as_bytes(), progress.get().inner());
    let done = py.detach(|| {
        let file: InputFile = read(file_json)?;
        let parts: Vec<u32> = lines.as_chunks().0.iter().map(|part| u32::from_le_bytes(*part)).collect();
        core::split_file(path, &file, &parts, folder, progress)
    });
    done.map_err(|e| raise(py, &e))
}

/// Surveys a part; gives what `settle_parts` takes.
#[pyfunction]
pub fn survey_part(py: Python<'_>, options_json: &str, progress: &Bound<'_, Progress>) -> PyResult<String> {
    let progress = progress.get().inner();
    let done = py.detach(|| write(&core::survey_part(Options::from_json(options_json)?, progress)?));
    done.map_err(|e| raise(py, &e))
}

/// Settles the survey of a run; gives what it decided for each part.
#[pyfunction]
pub fn settle_parts(py: Python<'_>, options_json: &str, surveys: Vec<String>, files: usize) -> PyResult<Vec<String>> {
    let done: Result<Vec<String>> = py.detach(|| {
        let surveys = surveys.iter().map(|one| read(one)).collect::<Result<Vec<_>>>()?;
        core::settle_parts(Options::from_json(options_json)?, surveys, files)?.iter().map(write).collect()
    });
    done.map_err(|e| raise(py, &e))
}

/// Converts a part; gives what `judge_parts` takes.
#[pyfunction]
pub fn convert_part(
    py: Python<'_>,
    options_json: &str,
    weighing: Option<&str>,
    progress: &Bound<'_, Progress>,
) -> PyResult<String> {
    let progress = progress.get().inner();
    let done =
        py.detach(|| write(&core::convert_part(Options::from_json(options_json)?, weighing_of(weighing)?, progress)?));
    done.map_err(|e| raise(py, &e))
}

/// Judges a run by its parts, in their order; gives its report as JSON.
#[pyfunction]
pub fn judge_parts(
    py: Python<'_>,
    options_json: &str,
    weighing: Option<&str>,
    files: Vec<String>,
    parts: Vec<String>,
) -> PyResult<String> {
    let done = py.detach(|| {
        let files = files.iter().map(|one| read(one)).collect::<Result<Vec<_>>>()?;
        let parts = parts.iter().map(|one| read(one)).collect::<Result<Vec<_>>>()?;
        core::judge_parts(Options::from_json(options_json)?, weighing_of(weighing)?, &files, parts)
    });
    done.map(|report| report.to_string()).map_err(|e| raise(py, &e))
}
