//! Faces the core's `ids::pack` and the copies of `ids::weight`.

use crate::arrays::{Ids, offsets};
use crate::errors::{raise, usage};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBool;
use std::sync::{Mutex, PoisonError};
use tito_core::ids::pack;
use tito_core::ids::weight::Copies as Core;

type Numbers<'py> = Bound<'py, PyArray1<i64>>;
type Floats<'py> = Bound<'py, PyArray1<f32>>;
type IdArray<'py> = Bound<'py, PyArray1<i32>>;
/// `input_ids`, `labels`, `weights`, `position_ids`, where sequences start, where packs start.
type Laid<'py> = (IdArray<'py>, IdArray<'py>, Floats<'py>, IdArray<'py>, Numbers<'py>, Numbers<'py>);

/// The length of a pack. Where its rows end is counted with 32 bits.
fn whole(length: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = length.py();
    let refuse = || {
        let shown = length.repr()?;
        Err(usage(py, format!("length: {shown} is no whole number of ids"), "give the ids of a pack, like 8192"))
    };
    let index = py.import("operator")?.call_method1("index", (length,));
    let (Ok(index), false) = (index, length.is_instance_of::<PyBool>()) else { return refuse() };
    match index.extract::<i64>() {
        Ok(length) if length <= i64::from(i32::MAX) => Ok(usize::try_from(length).unwrap_or(0)),
        _ if index.gt(0)? => {
            Err(usage(py, format!("length: a pack of {index} ids"), "a pack holds at most 2147483647 ids"))
        }
        _ => Ok(0),
    }
}

/// First-fit-decreasing. `tito.pack` wraps it.
#[pyfunction]
#[pyo3(signature = (lengths, length, *, drop_overlong=false))]
pub fn plan_packs<'py>(
    py: Python<'py>,
    lengths: &Bound<'py, PyAny>,
    length: &Bound<'py, PyAny>,
    drop_overlong: bool,
) -> PyResult<(Numbers<'py>, Numbers<'py>, Numbers<'py>)> {
    let length = whole(length)?;
    let lengths = offsets(lengths, "lengths")?;
    let lengths = lengths.as_slice()?;
    let overlong = if drop_overlong { pack::Overlong::Drop } else { pack::Overlong::Error };
    let made = py.detach(|| {
        let whole = lengths.iter().map(|length| usize::try_from(*length).map_err(|_| *length));
        whole.collect::<Result<Vec<_>, _>>().map(|lengths| pack::plan(&lengths, length, overlong))
    });
    let plan =
        made.map_err(|wrong| usage(py, format!("lengths: {wrong} is no length"), "give whole numbers of 0 or more"))?;
    let plan = plan.map_err(|e| raise(py, &e))?;
    let numbers = |all: Vec<usize>| all.into_iter().map(|n| n as i64).collect::<Vec<_>>().into_pyarray(py);
    Ok((numbers(plan.rows), numbers(plan.starts), numbers(plan.left_out)))
}

/// The rows of a plan behind each other. `tito.pack` wraps it.
#[pyfunction]
pub fn lay_packs<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    weights: PyReadonlyArray1<'py, f32>,
    row_offsets: &Bound<'py, PyAny>,
    rows: &Bound<'py, PyAny>,
    starts: &Bound<'py, PyAny>,
) -> PyResult<Laid<'py>> {
    let (ids, row_offsets) = (Ids::take(ids, "ids")?, offsets(row_offsets, "offsets")?);
    let (rows, starts) = (offsets(rows, "rows")?, offsets(starts, "starts")?);
    let all = pack::Rows { ids: ids.slice()?, weights: weights.as_slice()?, offsets: row_offsets.as_slice()? };
    let (rows, starts) = (rows.as_slice()?, starts.as_slice()?);
    let laid = py.detach(|| pack::lay(all, rows, starts)).map_err(|e| raise(py, &e))?;
    Ok((
        laid.input_ids.into_pyarray(py),
        laid.labels.into_pyarray(py),
        laid.weights.into_pyarray(py),
        laid.position_ids.into_pyarray(py),
        laid.sequence_starts.into_pyarray(py),
        laid.pack_starts.into_pyarray(py),
    ))
}

/// Weights to numbers of copies, batch after batch.
#[pyclass(frozen, module = "tito._core")]
pub struct Copies {
    core: Mutex<Core>,
}

#[pymethods]
impl Copies {
    #[new]
    fn new(seed: u64) -> Self {
        Self { core: Mutex::new(Core::new(seed)) }
    }

    fn draw<'py>(&self, py: Python<'py>, weights: PyReadonlyArray1<'py, f32>) -> PyResult<Numbers<'py>> {
        let weights = weights.as_slice()?;
        let copies: Vec<i64> = py.detach(|| {
            let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            weights.iter().map(|weight| core.draw(*weight) as i64).collect()
        });
        Ok(copies.into_pyarray(py))
    }
}
