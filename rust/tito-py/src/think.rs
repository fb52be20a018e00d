//! Faces the core's `ids`: one array, or many as values and offsets, or an Arrow list array.

use crate::arrays::{Ids, offsets as take_offsets};
use crate::errors::{raise, usage};
use arrow::array::{Array, ArrayData, GenericListArray, Int32Array, ListArray, OffsetSizeTrait, make_array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use arrow_pyarrow::{FromPyArrow, ToPyArrow};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};
use std::sync::{Arc, LazyLock};
use tito_core::ids::think::{self, Opened};
use tito_core::ids::{Id, Profile, loss};

/// A profile made ready to search with.
#[pyclass(frozen, module = "tito._core")]
pub struct ThinkRule {
    rule: think::ThinkRule,
    name: String,
    limit: Id,
}

#[pymethods]
impl ThinkRule {
    #[new]
    fn new(py: Python<'_>, profile_json: &str) -> PyResult<Self> {
        let profile = Profile::from_json(profile_json).map_err(|e| raise(py, &e))?;
        Ok(Self { rule: think::ThinkRule::new(&profile), name: profile.name, limit: profile.id_limit })
    }
}

/// Used when nobody names a profile: Qwen3, by far the most common family of captures, and a guess.
static GUESS: LazyLock<Option<(think::ThinkRule, Id)>> = LazyLock::new(|| {
    let profile = Profile::built_in("qwen3").ok()?;
    Some((think::ThinkRule::new(&profile), profile.id_limit))
});

/// Where thinking is in one output.
#[pyclass(frozen, module = "tito._core")]
pub struct Found {
    found: think::Found,
}

#[pymethods]
impl Found {
    /// int64 array of shape (n, 2).
    #[getter]
    fn spans<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i64>>> {
        let flat: Vec<i64> = self.found.spans.iter().flat_map(|span| [span.start as i64, span.end as i64]).collect();
        let rows = flat.len() / 2;
        flat.into_pyarray(py).reshape([rows, 2])
    }
    /// No marker in the output, and the prompt left no thinking open.
    #[getter]
    fn absent(&self) -> bool {
        self.found.absent
    }
    /// Thinking is open at the end.
    #[getter]
    fn unterminated(&self) -> bool {
        self.found.unterminated
    }
    /// A marker stays that no rule explains.
    #[getter]
    fn odd(&self) -> bool {
        self.found.odd
    }
    /// A marker was matched as several ids.
    #[getter]
    fn split_marker(&self) -> bool {
        self.found.split_marker
    }
    fn __repr__(&self) -> String {
        let spans: Vec<_> = self.found.spans.iter().map(|s| (s.start, s.end)).collect();
        let f = &self.found;
        format!(
            "Found(spans={spans:?}, absent={}, unterminated={}, odd={})",
            PyWord(f.absent),
            PyWord(f.unterminated),
            PyWord(f.odd)
        )
    }
}

struct PyWord(bool);

impl std::fmt::Display for PyWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0 { "True" } else { "False" })
    }
}

/// What an output is searched with.
struct Search<'a> {
    rule: &'a think::ThinkRule,
    /// Ids from here on are not of the family.
    limit: Id,
    /// Its name; none when it is a guess.
    name: Option<&'a str>,
}

/// The rule behind a `profile` argument: a Profile of ours keeps its own, made at first use.
fn with_rule<T>(
    py: Python<'_>,
    profile: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(Search<'_>) -> PyResult<T>,
) -> PyResult<T> {
    match profile {
        None => match &*GUESS {
            Some((rule, limit)) => work(Search { rule, limit: *limit, name: None }),
            None => Err(usage(py, "the built-in profile does not read", "name one with profile=")),
        },
        Some(profile) => {
            let owner = profile.getattr(pyo3::intern!(py, "think_rule")).map_err(|_| {
                usage(py, "profile: not a tito.Profile", "make one with tito.Profile.named or from_tokenizer")
            })?;
            let rule = owner.cast::<ThinkRule>()?.get();
            work(Search { rule: &rule.rule, limit: rule.limit, name: Some(&rule.name) })
        }
    }
}

impl Search<'_> {
    /// Refuses what is no id, and ids of another family where the profile is a guess.
    fn check(&self, py: Python<'_>, ids: &[Id], name: &str) -> PyResult<()> {
        // As unsigned numbers negative ones are above the limit too. Without an early exit this vectorises; the position
        // is looked for only when something is wrong.
        let limit = self.limit as u32;
        if !ids.iter().fold(false, |any, id| any | (*id as u32 >= limit)) {
            return Ok(());
        }
        let at = ids.iter().position(|id| *id as u32 >= limit).unwrap_or(0);
        let id = ids[at];
        match self.name {
            _ if id < 0 => Err(usage(py, format!("{name}: {id} is no id"), crate::arrays::HINT)),
            Some(profile) => Err(usage(
                py,
                format!("{name}: id {id} at position {at} is beyond the {limit} ids of profile {profile}"),
                "give the profile of the tokenizer that made the ids",
            )),
            None => Err(usage(
                py,
                format!("id {id} at position {at} is not a Qwen3 id, and without profile= Qwen3 is assumed"),
                "name the family: profile=tito.Profile.named(\"qwen3.5\"), or tito.Profile.from_tokenizer(DIR)",
            )),
        }
    }
}

fn opened_of(
    py: Python<'_>,
    search: &Search<'_>,
    prompt: Option<&Bound<'_, PyAny>>,
    opened: Option<&Bound<'_, PyAny>>,
) -> PyResult<Opened> {
    let wrong =
        || usage(py, "opened: not True, False, \"yes\", \"pair\" or \"no\"", "or give prompt= and leave it out");
    match (prompt, opened) {
        (Some(_), Some(_)) => {
            Err(usage(py, "prompt and opened are both given", "give one: the prompt tells the other"))
        }
        (Some(prompt), None) => {
            let prompt = Ids::take(prompt, "prompt")?;
            search.check(py, prompt.slice()?, "prompt")?;
            Ok(search.rule.opened_by(prompt.slice()?))
        }
        (None, Some(opened)) => {
            if let Ok(flag) = opened.cast::<PyBool>() {
                return Ok(if flag.is_true() { Opened::Yes } else { Opened::No });
            }
            match opened.cast::<PyString>().map_err(|_| wrong())?.to_str()? {
                "yes" => Ok(Opened::Yes),
                "pair" => Ok(Opened::Pair),
                "no" => Ok(Opened::No),
                _ => Err(wrong()),
            }
        }
        (None, None) => Ok(Opened::Unknown),
    }
}

/// Where thinking is in one output; nothing is cut.
///
/// ``ids`` is one output, int32 of one dimension. How thinking begins is told by ``prompt`` (the ids the output
/// answers) or by ``opened``: True or ``"yes"`` when the prompt ends inside thinking, ``"pair"`` when it ends in a
/// closed pair, False or ``"no"`` when it ends in no marker. With neither, the first closer ends a span from the start.
/// Behind the first opener of a tool call nothing is thinking.
///
/// Without ``profile`` the ids are taken for Qwen3's: a guess. Raises ``UsageError`` for an id of 151,936 or more then,
/// and for arrays that are no ids.
///
/// >>> found = find_think([151667, 40, 151668, 271, 9707, 151645], opened=False)
/// >>> found.spans.tolist(), found.absent, found.unterminated
/// ([[0, 4]], False, False)
#[pyfunction]
#[pyo3(signature = (ids, /, *, prompt=None, opened=None, profile=None))]
pub fn find_think(
    py: Python<'_>,
    ids: &Bound<'_, PyAny>,
    prompt: Option<&Bound<'_, PyAny>>,
    opened: Option<&Bound<'_, PyAny>>,
    profile: Option<&Bound<'_, PyAny>>,
) -> PyResult<Found> {
    let ids = Ids::take(ids, "ids")?;
    with_rule(py, profile, |search| {
        search.check(py, ids.slice()?, "ids")?;
        let opened = opened_of(py, &search, prompt, opened)?;
        let (slice, rule) = (ids.slice()?, search.rule);
        Ok(Found { found: detached(py, slice.len(), || rule.find(slice, opened)) })
    })
}

/// An output without its thinking: a new int32 array; the ids given are not touched.
///
/// The rules, ``prompt``, ``opened`` and ``profile`` are those of ``find_think``; newline ids directly behind a closer
/// go with the span, and a span that nothing closes stays. With ``offsets`` (int64, ascending, one more than there are
/// outputs) ``ids`` holds many outputs one behind the other, and new values and offsets come back. An Arrow array of
/// lists of int32 (anything with ``__arrow_c_array__``) gives an Arrow array.
///
/// Without ``profile`` the ids are taken for Qwen3's: a guess. Raises ``UsageError`` for an id of 151,936 or more then,
/// and for arrays that are no ids.
///
/// >>> strip_think([151667, 40, 151668, 271, 9707, 151645]).tolist()
/// [9707, 151645]
/// >>> values, offsets = strip_think([40, 151668, 271, 9707, 9707, 151645], offsets=[0, 4, 6])
/// >>> values.tolist(), offsets.tolist()
/// ([9707, 9707, 151645], [0, 1, 3])
#[pyfunction]
#[pyo3(signature = (ids, /, *, offsets=None, prompt=None, opened=None, profile=None))]
pub fn strip_think<'py>(
    py: Python<'py>,
    ids: &Bound<'py, PyAny>,
    offsets: Option<&Bound<'py, PyAny>>,
    prompt: Option<&Bound<'py, PyAny>>,
    opened: Option<&Bound<'py, PyAny>>,
    profile: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    if offsets.is_none() && !ids.is_instance_of::<PyArray1<Id>>() && ids.hasattr("__arrow_c_array__")? {
        let data = ArrayData::from_pyarrow_bound(ids)?;
        // A flat Arrow array is one list of ids; a list array is many.
        if data.data_type() != &DataType::Int32 {
            return strip_arrow(py, data, prompt, opened, profile);
        }
    }
    let values = Ids::take(ids, "ids")?;
    with_rule(py, profile, |search| {
        search.check(py, values.slice()?, "ids")?;
        if let Some(offsets) = offsets {
            no_prompt(py, prompt)?;
            let offsets = take_offsets(offsets, "offsets")?;
            whole(py, offsets.as_slice()?, values.slice()?.len())?;
            let opened = opened_of(py, &search, None, opened)?;
            let (slice, rule) = (values.slice()?, search.rule);
            let offsets = offsets.as_slice()?;
            let stripped = detached(py, slice.len(), || rule.strip_batch(slice, offsets, &[opened]));
            let (values, offsets, _) = stripped.map_err(|e| raise(py, &e))?;
            return Ok((values.into_pyarray(py), offsets.into_pyarray(py)).into_pyobject(py)?.into_any());
        }
        let opened = opened_of(py, &search, prompt, opened)?;
        let (slice, rule) = (values.slice()?, search.rule);
        let (kept, _) = detached(py, slice.len(), || rule.strip(slice, opened));
        Ok(kept.into_pyarray(py).into_any())
    })
}

/// Refuses offsets that leave ids out: what they are of would be lost without a word.
fn whole(py: Python<'_>, offsets: &[i64], ids: usize) -> PyResult<()> {
    let seen = match (offsets.first(), offsets.last()) {
        (Some(0), Some(last)) if usize::try_from(*last) == Ok(ids) => return Ok(()),
        (Some(first), Some(last)) => format!("they go from {first} to {last}"),
        _ => "there are none".to_owned(),
    };
    let message = format!("offsets: {seen}, and there are {ids} ids");
    Err(usage(py, message, "offsets go from 0 to the number of ids, one more than there are outputs"))
}

fn no_prompt(py: Python<'_>, prompt: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    match prompt {
        None => Ok(()),
        Some(_) => {
            Err(usage(py, "prompt: a batch has many prompts", "say how they end with opened=, or strip one by one"))
        }
    }
}

fn strip_arrow<'py>(
    py: Python<'py>,
    data: ArrayData,
    prompt: Option<&Bound<'py, PyAny>>,
    opened: Option<&Bound<'py, PyAny>>,
    profile: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    no_prompt(py, prompt)?;
    let array = make_array(data);
    if let Some(lists) = array.as_any().downcast_ref::<ListArray>() {
        return strip_lists(py, lists, opened, profile);
    }
    if let Some(lists) = array.as_any().downcast_ref::<GenericListArray<i64>>() {
        return strip_lists(py, lists, opened, profile);
    }
    Err(usage(py, format!("ids: an Arrow array of {}", array.data_type()), "give list<int32> or large_list<int32>"))
}

fn strip_lists<'py, O: OffsetSizeTrait + ToI64>(
    py: Python<'py>,
    lists: &GenericListArray<O>,
    opened: Option<&Bound<'py, PyAny>>,
    profile: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    // A slice of an array shares the values of the whole: what lies outside it is not looked at.
    let ends = lists.value_offsets();
    let first = ends.first().map_or(0, |o| o.to_i64());
    let offsets: Vec<i64> = ends.iter().map(|o| o.to_i64() - first).collect();
    let inside = lists.values().slice(first as usize, offsets.last().map_or(0, |last| *last as usize));
    let Some(values) = inside.as_any().downcast_ref::<Int32Array>().filter(|v| v.null_count() == 0) else {
        return Err(usage(
            py,
            "ids: the lists do not hold int32 without nulls",
            "give list<int32> or large_list<int32>",
        ));
    };
    with_rule(py, profile, |search| {
        let slice: &[Id] = values.values();
        search.check(py, slice, "ids")?;
        let opened = opened_of(py, &search, None, opened)?;
        let rule = search.rule;
        let stripped = detached(py, slice.len(), || rule.strip_batch(slice, &offsets, &[opened]));
        let (kept, ends, _) = stripped.map_err(|e| raise(py, &e))?;
        let field = Arc::new(Field::new("item", DataType::Int32, true));
        let ends = OffsetBuffer::new(ends.into_iter().map(O::from_i64).collect::<Vec<_>>().into());
        let list = GenericListArray::<O>::new(field, ends, Arc::new(Int32Array::from(kept)), lists.nulls().cloned());
        list.to_data().to_pyarrow(py)
    })
}

/// Both offset types as int64, which the core takes; what is stripped is never longer, so the way back fits.
pub trait ToI64 {
    fn to_i64(&self) -> i64;
    fn from_i64(value: i64) -> Self;
}

impl ToI64 for i32 {
    fn to_i64(&self) -> i64 {
        i64::from(*self)
    }
    fn from_i64(value: i64) -> Self {
        value as Self
    }
}

impl ToI64 for i64 {
    fn to_i64(&self) -> i64 {
        *self
    }
    fn from_i64(value: i64) -> Self {
        value
    }
}

/// Releases the GIL around work on so many ids. Short work keeps it: letting go and taking it back costs more than
/// cutting a few thousand ids.
fn detached<T: Send>(py: Python<'_>, ids: usize, work: impl FnOnce() -> T + Send) -> T {
    const WORTH_IT: usize = 16 << 10;
    if ids < WORTH_IT { work() } else { py.detach(work) }
}

fn weights(py: Python<'_>, prompt: usize, output: usize, loss_spans: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<f32>> {
    let length = prompt + output;
    let Some(spans) = loss_spans else { return Ok(loss::weights(length, [(prompt..length, 1.0)])) };
    const HINT: &str = "a span is (start, end), (start, end, weight) or a mapping of these names; spans do not overlap";
    let mut taken: Vec<(std::ops::Range<usize>, f32)> = Vec::new();
    // A row has a handful of spans; readers hand them as arrays, tuples or dicts.
    let no = |value: &Bound<'_, PyAny>, what: &str| match value.repr() {
        Ok(shown) => usage(py, format!("loss_spans: {shown} is no {what}"), HINT),
        Err(error) => error,
    };
    for span in spans.try_iter().map_err(|_| no(spans, "list of spans"))? {
        let span = span?;
        let (start, end, weight) = span_of(&span).map_err(|_| no(&span, "span"))?;
        let inside = start >= 0.0 && end >= start && end <= length as f64 && start.fract() == 0.0 && end.fract() == 0.0;
        if !inside {
            let message = format!("loss_spans: [{start}, {end}) is not inside the {length} ids of the row");
            return Err(usage(py, message, "spans are half-open and count from the start of input_ids"));
        }
        let weight = weight as f32;
        if !(weight.is_finite() && weight >= 0.0) {
            let message = format!("loss_spans: the weight of [{start}, {end}) is {weight}");
            return Err(usage(py, message, "a weight is a finite number of 0 or more"));
        }
        if start < end {
            taken.push((start as usize..end as usize, weight));
        }
    }
    taken.sort_by_key(|(span, _)| span.start);
    if let Some(pair) = taken.windows(2).find(|pair| pair[1].0.start < pair[0].0.end) {
        let message = format!("loss_spans: {:?} and {:?} overlap", pair[0].0, pair[1].0);
        return Err(usage(py, message, HINT));
    }
    Ok(loss::weights(length, taken))
}

/// Start, end and weight, which is 1 where a span has none.
fn span_of(span: &Bound<'_, PyAny>) -> PyResult<(f64, f64, f64)> {
    if span.hasattr("keys")? {
        let value = |name: &str| span.get_item(name)?.extract();
        return Ok((value("start")?, value("end")?, value("weight")?));
    }
    let value = |at: usize| span.get_item(at)?.extract();
    match span.len()? {
        2 => Ok((value(0)?, value(1)?, 1.0)),
        3 => Ok((value(0)?, value(1)?, value(2)?)),
        n => Err(PyValueError::new_err(n)),
    }
}

/// 1 where loss falls, 0 elsewhere: int8, as long as ``input_ids`` and ``output_ids`` together.
///
/// ``loss_spans`` are half-open positions in both together: an array (or list) of shape (n, 2) or, with weights,
/// (n, 3); None means all of ``output_ids``. Raises ``UsageError`` for a span outside the row.
///
/// >>> loss_mask([5, 6], [7, 8, 9]).tolist(), loss_mask([5, 6], [7, 8, 9], [(3, 5)]).tolist()
/// ([0, 0, 1, 1, 1], [0, 0, 0, 1, 1])
#[pyfunction]
#[pyo3(signature = (input_ids, output_ids, loss_spans=None))]
pub fn loss_mask<'py>(
    py: Python<'py>,
    input_ids: &Bound<'py, PyAny>,
    output_ids: &Bound<'py, PyAny>,
    loss_spans: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyArray1<i8>>> {
    let (prompt, output) = (Ids::take_checked(input_ids, "input_ids")?, Ids::take_checked(output_ids, "output_ids")?);
    let weights = weights(py, prompt.slice()?.len(), output.slice()?.len(), loss_spans)?;
    Ok(weights.iter().map(|weight| i8::from(*weight != 0.0)).collect::<Vec<_>>().into_pyarray(py))
}

/// ``input_ids`` and ``output_ids`` together, int32, with -100 where no loss falls (what PyTorch's loss ignores).
///
/// ``loss_spans`` as in ``loss_mask``. Not shifted: position i is labelled with its own id, as trainers expect.
///
/// >>> labels([5, 6], [7, 8, 9]).tolist()
/// [-100, -100, 7, 8, 9]
#[pyfunction]
#[pyo3(signature = (input_ids, output_ids, loss_spans=None))]
pub fn labels<'py>(
    py: Python<'py>,
    input_ids: &Bound<'py, PyAny>,
    output_ids: &Bound<'py, PyAny>,
    loss_spans: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyArray1<Id>>> {
    let (prompt, output) = (Ids::take_checked(input_ids, "input_ids")?, Ids::take_checked(output_ids, "output_ids")?);
    let weights = weights(py, prompt.slice()?.len(), output.slice()?.len(), loss_spans)?;
    let ids = prompt.slice()?.iter().chain(output.slice()?).copied();
    Ok(loss::labels(ids, &weights).into_pyarray(py))
}

/// What each position weighs: float32, as long as ``input_ids`` and ``output_ids`` together; ``loss_spans`` as in
/// ``loss_mask``. A row's own weight is not in it.
#[pyfunction]
#[pyo3(signature = (input_ids, output_ids, loss_spans=None))]
pub fn loss_weights<'py>(
    py: Python<'py>,
    input_ids: &Bound<'py, PyAny>,
    output_ids: &Bound<'py, PyAny>,
    loss_spans: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let (prompt, output) = (Ids::take_checked(input_ids, "input_ids")?, Ids::take_checked(output_ids, "output_ids")?);
    let weights = weights(py, prompt.slice()?.len(), output.slice()?.len(), loss_spans)?;
    Ok(weights.into_pyarray(py))
}
