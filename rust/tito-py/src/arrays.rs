//! Arrays at the door: int32, one dimension, contiguous; a list or an array of another integer type is converted once
//! by numpy, and only if every value fits.

use crate::errors::usage;
use numpy::{PyArray1, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use tito_core::ids::Id;

/// Ids that numpy keeps alive.
pub struct Ids<'py>(PyReadonlyArray1<'py, Id>);

impl<'py> Ids<'py> {
    /// Takes ids from whatever Python has.
    pub fn take(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        refuse_masked(value, name)?;
        if let Ok(array) = value.cast::<PyArray1<Id>>() {
            let array = array.readonly();
            // Refused when the memory has gaps or stands at an odd address, as a view of a file may.
            if array.as_slice().is_ok() {
                return Ok(Self(array));
            }
        }
        Ok(Self(convert(value, name)?.readonly()))
    }

    /// The same, and no id is negative.
    pub fn take_checked(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        let ids = Self::take(value, name)?;
        // One bit tells of all of them, several at a time.
        if ids.slice()?.iter().fold(0, |bits, id| bits | id) < 0 {
            let wrong = ids.slice()?.iter().find(|id| **id < 0).unwrap_or(&-1);
            return Err(usage(value.py(), format!("{name}: {wrong} is no id"), HINT));
        }
        Ok(ids)
    }

    /// The ids.
    pub fn slice(&self) -> PyResult<&[Id]> {
        Ok(self.0.as_slice()?)
    }
}

/// Offsets of a batch, and other numbers of it.
pub fn offsets<'py>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<PyReadonlyArray1<'py, i64>> {
    let py = value.py();
    refuse_masked(value, name)?;
    let array = as_array(value, name, "int64")?;
    Ok(array
        .cast_into::<PyArray1<i64>>()
        .map_err(|_| usage(py, format!("{name}: not one list of whole numbers"), HINT))?
        .readonly())
}

/// An array of numpy's with a mask is one whose values do not all count; what is made of it here would have none.
fn refuse_masked(value: &Bound<'_, PyAny>, name: &str) -> PyResult<()> {
    let py = value.py();
    if !value.is_instance_of::<PyUntypedArray>() || value.get_type().is(py.get_type::<PyUntypedArray>()) {
        return Ok(());
    }
    if py.import("numpy")?.getattr("ma")?.call_method1("is_masked", (value,))?.is_truthy()? {
        return Err(usage(py, format!("{name}: values are masked"), "give the values that count, without a mask"));
    }
    Ok(())
}

/// numpy takes truths among whole numbers for 1 and 0.
fn refuse_truths(value: &Bound<'_, PyAny>, name: &str, array: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
    if !(value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>()) {
        return Ok(());
    }
    let small = array.call_method1("__lt__", (2,))?.call_method0("nonzero")?.get_item(0)?;
    for at in small.try_iter()? {
        let at = at?.extract::<usize>()?;
        let one = value.get_item(at)?;
        if matches!(&*one.get_type().name()?.to_string_lossy(), "bool" | "bool_") {
            return Err(usage(value.py(), format!("{name}: {one} at position {at} is no whole number"), HINT));
        }
    }
    Ok(())
}

/// What ids are.
pub const HINT: &str = "ids are one-dimensional arrays (or lists) of whole numbers from 0 to 2147483647";

fn convert<'py>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyArray1<Id>>> {
    let py = value.py();
    let array = as_array(value, name, "int32")?;
    array.cast_into::<PyArray1<Id>>().map_err(|_| usage(py, format!("{name}: not a list of ids"), HINT))
}

fn as_array<'py>(value: &Bound<'py, PyAny>, name: &str, dtype: &str) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    let numpy = py.import("numpy")?;
    let array =
        numpy.call_method1("asarray", (value,)).map_err(|error| match error.is_instance_of::<PyException>(py) {
            true => usage(py, format!("{name}: not one list of numbers"), HINT),
            false => error,
        })?;
    let array = array.cast::<PyUntypedArray>().map_err(PyErr::from)?;
    if array.ndim() != 1 {
        return Err(usage(py, format!("{name}: {} dimensions, not 1", array.ndim()), HINT));
    }
    let kind = array.dtype().kind();
    if array.len() > 0 && !matches!(kind, b'i' | b'u') {
        return Err(usage(py, format!("{name}: values of type {}, not whole numbers", array.dtype()), HINT));
    }
    if array.len() > 0 {
        refuse_truths(value, name, array)?;
    }
    if array.len() > 0 && dtype == "int32" {
        let (low, high) = (array.call_method0("min")?, array.call_method0("max")?);
        if low.lt(0)? || high.gt(i32::MAX)? {
            let wrong = if low.lt(0)? { low } else { high };
            return Err(usage(py, format!("{name}: {wrong} is no id"), HINT));
        }
    }
    let options = PyDict::new(py);
    options.set_item("dtype", dtype)?;
    options.set_item("requirements", ["C_CONTIGUOUS", "ALIGNED"])?;
    numpy.call_method("require", (array,), Some(&options))
}
