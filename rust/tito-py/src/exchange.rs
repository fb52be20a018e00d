//! Faces the core's `exchange`.

use crate::convert::Progress;
use crate::errors::raise;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use std::sync::{Mutex, PoisonError};
use tito_core::convert::Options;
use tito_core::exchange::{Exchange, Reader};

/// What the calls that are used were asked and answered. `tito.exchanges` wraps it.
#[pyclass(frozen, module = "tito._core")]
pub struct Exchanges {
    reader: Mutex<Reader>,
    report: String,
}

#[pymethods]
impl Exchanges {
    #[new]
    fn new(py: Python<'_>, options_json: &str, progress: &Bound<'_, Progress>) -> PyResult<Self> {
        let progress = progress.get();
        let reader = py.detach(|| Reader::open(Options::from_json(options_json)?, progress.inner()));
        let reader = reader.map_err(|e| raise(py, &e))?;
        Ok(Self { report: reader.report().to_string(), reader: Mutex::new(reader) })
    }

    /// The report of the first reading, as JSON.
    #[getter]
    fn report(&self) -> &str {
        &self.report
    }

    /// The exchanges of the next stretch of input; None at the end.
    fn next_batch<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let read = py.detach(|| self.reader.lock().unwrap_or_else(PoisonError::into_inner).next_batch());
        let Some(exchanges) = read.map_err(|e| raise(py, &e))? else { return Ok(None) };
        let batch = PyList::empty(py);
        for exchange in &exchanges {
            batch.append(columns(py, exchange)?)?;
        }
        Ok(Some(batch))
    }
}

fn columns<'py>(py: Python<'py>, exchange: &Exchange) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    let who = &exchange.who;
    entry.set_item("file", &*exchange.file)?;
    entry.set_item("record", exchange.record)?;
    entry.set_item("rollout", exchange.rollout)?;
    entry.set_item("rollout_id", who.rollout_id.as_deref())?;
    entry.set_item("task_id", who.task_id.as_deref())?;
    entry.set_item("pair_id", who.pair_id.as_deref())?;
    entry.set_item("agent", who.agent.as_deref())?;
    entry.set_item("status", who.status.as_deref())?;
    entry.set_item("attempt", who.attempt)?;
    entry.set_item("reward", who.reward)?;
    entry.set_item("call_id", exchange.call_id.as_deref())?;
    entry.set_item("kind", exchange.kind.as_deref())?;
    entry.set_item("turn", exchange.turn)?;
    entry.set_item("last", exchange.last)?;
    let said = exchange.said.as_ref();
    let bytes = |json: Option<&Vec<u8>>| json.map(|json| PyBytes::new(py, json));
    entry.set_item("messages", bytes(said.map(|said| &said.messages)))?;
    entry.set_item("tools", bytes(said.and_then(|said| said.tools.as_ref())))?;
    entry.set_item("model", bytes(said.and_then(|said| said.model.as_ref())))?;
    entry.set_item("reply", bytes(said.and_then(|said| said.reply.as_ref())))?;
    Ok(entry)
}
