//! Faces the core's `convert` and `capture`. Options and reports cross as JSON: there are few of them, and the
//! core's own reader refuses unknown names.

use crate::arrays::Ids;
use crate::errors::{raise, usage};
use numpy::{Element, IntoPyArray, PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tito_core::capture::{self, FORMATS, Format, Parsed, Sources, Unit};
use tito_core::convert::{self as core, CallFacts, Options, Plan};
use tito_core::ids::Profile;
use tito_core::rows::{Batch, Ragged, jsonl};

/// How far a run is.
#[pyclass(frozen, module = "tito._core")]
#[derive(Default)]
pub struct Progress {
    inner: core::Progress,
}

impl Progress {
    /// What the core writes to.
    pub fn inner(&self) -> &core::Progress {
        &self.inner
    }
}

#[pymethods]
impl Progress {
    #[new]
    fn new() -> Self {
        Self::default()
    }
    #[getter]
    fn bytes(&self) -> u64 {
        self.inner.bytes.load(Ordering::Relaxed)
    }
    #[getter]
    fn total(&self) -> u64 {
        self.inner.total.load(Ordering::Relaxed)
    }
    #[getter]
    fn calls(&self) -> u64 {
        self.inner.calls.load(Ordering::Relaxed)
    }
    #[getter]
    fn rows(&self) -> u64 {
        self.inner.rows.load(Ordering::Relaxed)
    }
    fn cancel(&self) {
        self.inner.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Runs a conversion; gives its report as JSON. `tito.convert` wraps it.
#[pyfunction]
pub fn convert(py: Python<'_>, options_json: &str, progress: &Bound<'_, Progress>) -> PyResult<String> {
    let progress = progress.get();
    let result = py.detach(|| core::convert(Options::from_json(options_json)?, &progress.inner));
    result.map(|report| report.to_string()).map_err(|e| raise(py, &e))
}

/// Rows as Python gets them: ids, then everything else as JSON.
type Expanded<'py> = (Bound<'py, PyList>, String);

/// Rows of one rollout. `tito.expand_turns` and `tito.merge_calls` wrap it.
#[pyfunction]
#[pyo3(signature = (prompts, outputs, logprobs, calls_json, options_json))]
pub fn expand_turns<'py>(
    py: Python<'py>,
    prompts: Vec<Bound<'py, PyAny>>,
    outputs: Vec<Bound<'py, PyAny>>,
    logprobs: Vec<Option<Bound<'py, PyArray1<f32>>>>,
    calls_json: &str,
    options_json: &str,
) -> PyResult<Expanded<'py>> {
    if prompts.len() != outputs.len() || prompts.len() != logprobs.len() {
        let message = format!("{} prompts, {} outputs, {} logprobs", prompts.len(), outputs.len(), logprobs.len());
        return Err(usage(py, message, "give one of each a call"));
    }
    let length = |ids: &Bound<'py, PyAny>| ids.len().unwrap_or(0);
    let longest = prompts.iter().zip(&outputs).map(|(prompt, output)| length(prompt) + length(output)).max();
    let mut given = core::Given::new(longest.unwrap_or(0));
    // numpy's borrows of arrays that are views of one are checked each against all that are held: one call at a time.
    for ((prompt, output), logprobs) in prompts.iter().zip(&outputs).zip(&logprobs) {
        let (prompt, output) = (Ids::take(prompt, "prompt_ids")?, Ids::take(output, "output_ids")?);
        let logprobs = logprobs.as_ref().map(PyArrayMethods::readonly);
        let logprobs = logprobs.as_ref().map(|values| values.as_slice()).transpose()?;
        given.push(prompt.slice()?, output.slice()?, logprobs).map_err(|e| raise(py, &e))?;
    }
    let made = py.detach(|| {
        let facts: Vec<CallFacts> = serde_json::from_str(calls_json)
            .map_err(|e| tito_core::Error::usage(format!("calls: {e}"), "see tito.Call for the names"))?;
        let mut plan = Plan::new(Options::from_json(options_json)?)?;
        let (batches, _) = core::expand(&mut plan, given, facts)?;
        let metas =
            batches.iter().flat_map(|batch| &batch.meta).map(jsonl::meta).collect::<tito_core::Result<Vec<_>>>()?;
        Ok::<_, tito_core::Error>((batches, format!("[{}]", metas.join(","))))
    });
    let (batches, metas) = made.map_err(|e| raise(py, &e))?;
    let rows = PyList::empty(py);
    for mut batch in batches {
        add_rows(py, &rows, &mut batch)?;
    }
    Ok((rows, metas))
}

fn add_rows(py: Python<'_>, rows: &Bound<'_, PyList>, batch: &mut Batch) -> PyResult<()> {
    for row in 0..batch.meta.len() {
        let prompt = array_of(py, &mut batch.input_ids, row);
        let output = array_of(py, &mut batch.output_ids, row);
        let logprobs = batch.output_logprobs.as_mut().filter(|(_, present)| present[row]);
        let logprobs = logprobs.map(|(all, _)| array_of(py, all, row));
        rows.append((prompt, output, logprobs))?;
    }
    Ok(())
}

/// A list that is all there is becomes the array; of several each is copied.
fn array_of<'py, T: Element + Copy>(py: Python<'py>, lists: &mut Ragged<T>, row: usize) -> Bound<'py, PyArray1<T>> {
    let range = lists.ranges[row].clone();
    if lists.ranges.len() == 1 && range == (0..lists.values.len()) {
        lists.values.shrink_to_fit();
        return std::mem::take(&mut lists.values).into_pyarray(py);
    }
    PyArray1::from_slice(py, &lists.values[range])
}

/// JSON of a built-in profile.
#[pyfunction]
pub fn built_in_profile(py: Python<'_>, name: &str) -> PyResult<String> {
    Profile::built_in(name).map(|profile| profile.to_json()).map_err(|e| raise(py, &e))
}

/// Names of the built-in profiles.
#[pyfunction]
pub fn built_in_profiles() -> Vec<&'static str> {
    Profile::built_in_names()
}

/// The capture formats that are read, as JSON.
#[pyfunction]
pub fn formats_json() -> String {
    let told = |f: &Format| serde_json::json!({"name": f.name, "about": f.about, "example": f.example});
    let all: Vec<_> = FORMATS.iter().map(told).collect();
    serde_json::Value::from(all).to_string()
}

/// The format of a file's captures, those that are known and not read included; None where it holds none.
#[pyfunction]
pub fn capture_format(py: Python<'_>, path: &str) -> PyResult<Option<&'static str>> {
    py.detach(|| capture::format_of(path)).map_err(|e| raise(py, &e))
}

/// The hash of a file's bytes, as manifests tell it.
#[pyfunction]
pub fn content_hash(py: Python<'_>, path: &str) -> PyResult<String> {
    py.detach(|| capture::content_hash(path)).map_err(|e| raise(py, &e))
}

/// All options of `convert` with their defaults, as JSON.
#[pyfunction]
pub fn defaults_json(py: Python<'_>) -> PyResult<String> {
    serde_json::to_string(&Options::default()).map_err(|e| usage(py, e.to_string(), "this is a bug in tito"))
}

/// The first calls of a capture file, or those of one record (counted from 1).
#[pyfunction]
#[pyo3(signature = (path, *, record=None, limit=3, from_format=None))]
pub fn call_ids<'py>(
    py: Python<'py>,
    path: &str,
    record: Option<u64>,
    limit: usize,
    from_format: Option<&str>,
) -> PyResult<Bound<'py, PyList>> {
    let shown = PyList::empty(py);
    let sources = Sources::new(&[path.to_owned()], from_format, Arc::new(AtomicU64::new(0)));
    let mut sources = sources.map_err(|e| raise(py, &e))?;
    let mut unit = Unit::default();
    while shown.len() < limit {
        let next = py.detach(|| sources.next_unit(std::mem::take(&mut unit))).map_err(|e| raise(py, &e))?;
        let Some(next) = next else { break };
        unit = next;
        let mut parsed = Parsed::default();
        py.detach(|| capture::parse(&unit, &mut parsed));
        for lost in parsed.lost.iter().filter(|lost| record.is_none_or(|wanted| wanted == lost.record)) {
            let entry = PyDict::new(py);
            entry.set_item("file", &*lost.file)?;
            entry.set_item("record", lost.record)?;
            entry.set_item("bad", &lost.bad.message)?;
            shown.append(entry)?;
        }
        for piece in &parsed.pieces {
            for call in &parsed.calls[piece.calls.clone()] {
                if shown.len() == limit || record.is_some_and(|wanted| wanted != call.record) {
                    continue;
                }
                let entry = PyDict::new(py);
                let ids = |range: &Option<std::ops::Range<usize>>, arena: &[i32]| {
                    range.as_ref().map(|range| arena[range.clone()].to_vec().into_pyarray(py))
                };
                entry.set_item("file", &*piece.file)?;
                entry.set_item("record", call.record)?;
                entry.set_item("format", piece.format)?;
                entry.set_item("rollout_id", piece.who.rollout_id.as_deref())?;
                entry.set_item("task_id", piece.who.task_id.as_deref())?;
                entry.set_item("agent", piece.who.agent.as_deref())?;
                entry.set_item("status", piece.who.status.as_deref())?;
                entry.set_item("reward", piece.who.reward)?;
                entry.set_item("turn", call.turn)?;
                entry.set_item("call_id", call.call_id.as_deref())?;
                entry.set_item("kind", call.kind.as_deref())?;
                entry.set_item("parse_error", call.parse_error)?;
                entry.set_item("prompt_ids", ids(&call.prompt, &parsed.prompts.values))?;
                entry.set_item("output_ids", ids(&call.output, &parsed.outputs.values))?;
                entry.set_item("bad", call.bad.as_ref().map(|bad| bad.message.as_str()))?;
                shown.append(entry)?;
            }
        }
    }
    Ok(shown)
}
