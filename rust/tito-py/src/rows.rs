//! Faces the core's `rows` and `verify`.

use crate::convert::Progress;
use crate::errors::{raise, usage};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use tito_core::rows::{Reader, schema, told};
use tito_core::verify::{self as core, Request};

/// Compares rows with captures; gives the account as JSON. `tito.verify` wraps it.
#[pyfunction]
pub fn verify(py: Python<'_>, request_json: &str, progress: &Bound<'_, Progress>) -> PyResult<String> {
    let request: Request =
        serde_json::from_str(request_json).map_err(|e| usage(py, format!("request: {e}"), "see tito.verify"))?;
    let progress = progress.get();
    let result = py.detach(|| core::verify(&request, progress.inner()));
    result.map(|account| account.to_string()).map_err(|e| raise(py, &e))
}

/// What a rows file says of itself; nothing of JSON lines that are not what their manifest was written with.
#[pyfunction]
pub fn rows_metadata(py: Python<'_>, path: &str) -> PyResult<BTreeMap<String, String>> {
    let told = py.detach(|| {
        let reader = Reader::open(Path::new(path))?;
        Ok(if reader.is_told_of()? { reader.metadata().clone() } else { BTreeMap::new() })
    });
    told.map_err(|e| raise(py, &e))
}

/// Whether the checksum among a file's keys is that of the others.
#[pyfunction]
pub fn is_sealed(metadata: BTreeMap<String, String>) -> bool {
    told::is_sealed(&metadata)
}

/// The row schema, as JSON.
#[pyfunction]
pub fn schema_json() -> String {
    schema::describe().to_string()
}
