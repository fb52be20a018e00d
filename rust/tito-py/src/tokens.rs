//! Faces the core's `tokens`.

use crate::arrays::Ids;
use crate::errors::raise;
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::PathBuf;
use tito_core::tokens;

/// A tokenizer, read from a folder or a file.
#[pyclass(frozen, module = "tito._core")]
pub struct Tokenizer {
    inner: tokens::Tokenizer,
}

#[pymethods]
impl Tokenizer {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let inner = py.detach(|| tokens::Tokenizer::load(&path)).map_err(|e| raise(py, &e))?;
        Ok(Self { inner })
    }
    #[getter]
    fn hash(&self) -> &str {
        self.inner.hash()
    }
    fn encode<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyArray1<i32>>> {
        let ids = py.detach(|| self.inner.encode(text)).map_err(|e| raise(py, &e))?;
        Ok(ids.into_pyarray(py))
    }
    fn decode<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let ids = Ids::take_checked(ids, "ids")?;
        let ids = ids.slice()?;
        let text = py.detach(|| self.inner.decode(ids));
        Ok(PyBytes::new(py, &text))
    }
}
