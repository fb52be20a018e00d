//! One map from the core's error to exceptions. The classes also derive from the standard ones they replace, which the
//! macro of pyo3 cannot say, so they are made when the module is.

use pyo3::exceptions::{PyException, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use tito_core::{Error, Kind};

/// TitoError, DataError, UsageError, WorldError.
static CLASSES: PyOnceLock<[Py<PyType>; 4]> = PyOnceLock::new();

fn classes(py: Python<'_>) -> PyResult<&[Py<PyType>; 4]> {
    CLASSES.get_or_try_init(py, || {
        let make = |name: &str, doc: &str, bases: &[&Bound<'_, PyType>]| -> PyResult<Py<PyType>> {
            let inner = PyDict::new(py);
            inner.set_item("__module__", "tito")?;
            inner.set_item("__doc__", doc)?;
            inner.set_item("hint", "")?;
            let class = py.get_type::<PyType>().call1((name, PyTuple::new(py, bases)?, inner))?;
            Ok(class.cast_into::<PyType>()?.unbind())
        };
        let base = make(
            "TitoError",
            "Base of all errors: ``str(error)`` names the place, ``error.hint`` says what to do about it.",
            &[&py.get_type::<PyException>()],
        )?;
        let parent = base.bind(py);
        let data = "The data is bad, or a check over a whole run failed (exit code 1).";
        let usage = "An option or an argument is wrong (exit code 2).";
        let world = "The operating system refused: disk, permission, missing file (exit code 3).";
        Ok([
            base.clone_ref(py),
            make("DataError", data, &[parent, &py.get_type::<PyValueError>()])?,
            make("UsageError", usage, &[parent, &py.get_type::<PyValueError>()])?,
            make("WorldError", world, &[parent, &py.get_type::<PyOSError>()])?,
        ])
    })
}

/// Puts the classes into the module.
pub fn add_classes(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    for (name, class) in ["TitoError", "DataError", "UsageError", "WorldError"].into_iter().zip(classes(py)?) {
        module.add(name, class)?;
    }
    Ok(())
}

/// The exception for an error of the core.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let made = classes(py).and_then(|[_, data, usage, world]| {
        let class = match error.kind() {
            Kind::Data => data,
            Kind::Usage => usage,
            Kind::World => world,
        };
        let exception = class.bind(py).call1((error.to_string(),))?;
        exception.setattr("hint", error.hint())?;
        Ok(PyErr::from_value(exception))
    });
    made.unwrap_or_else(|failed| failed)
}

/// Wrong use of a function of the binding.
pub fn usage(py: Python<'_>, message: impl Into<String>, hint: &str) -> PyErr {
    raise(py, &Error::usage(message, hint))
}
