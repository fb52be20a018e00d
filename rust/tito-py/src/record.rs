//! Faces the core's `record`: bytes in, bytes out. A chunk of a stream is small, so the GIL is kept for it; whole
//! requests and replies are read without it.

use crate::errors::{raise, usage};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tito_core::Error;
use tito_core::json::Fault;
use tito_core::record as core;
use tito_core::{Place, Result};

fn fault(py: Python<'_>, what: &str, fault: &Fault) -> PyErr {
    let place = Place::default().at(fault.at as u64);
    raise(py, &Error::data(place, format!("{what} is not JSON: {}", fault.message), "send JSON"))
}

/// A request of the chat or the completions route.
#[pyclass(frozen, module = "tito._core")]
pub struct Request {
    inner: core::Request,
}

#[pymethods]
impl Request {
    #[new]
    fn new(py: Python<'_>, body: &[u8]) -> PyResult<Self> {
        let read = py.detach(|| core::Request::read(body));
        Ok(Self { inner: read.map_err(|f| fault(py, "the request", &f))? })
    }
    #[getter]
    fn model(&self) -> Option<&str> {
        self.inner.model.as_deref()
    }
    #[getter]
    fn stream(&self) -> bool {
        self.inner.asked.stream
    }
    #[getter]
    fn wants_ids(&self) -> bool {
        self.inner.asked.ids
    }
    #[getter]
    fn wants_usage(&self) -> bool {
        self.inner.asked.usage
    }
    #[getter]
    fn choices(&self) -> usize {
        self.inner.asked.choices
    }
    #[getter]
    fn tools(&self) -> bool {
        self.inner.asked.tools
    }
    #[getter]
    fn messages(&self) -> Vec<u64> {
        self.inner.messages.clone()
    }
    #[getter]
    fn chain(&self) -> Vec<u64> {
        self.inner.chain.clone()
    }
    #[getter]
    fn roles(&self) -> String {
        self.inner.roles.iter().map(|role| char::from(*role)).collect()
    }
}

/// A request with members put in place of its own.
#[pyfunction]
pub fn amend_request<'py>(
    py: Python<'py>,
    body: &[u8],
    members: Vec<(String, String)>,
    usage: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let amended = py.detach(|| core::amend(body, &members, usage));
    Ok(PyBytes::new(py, &amended.map_err(|f| fault(py, "the request", &f))?))
}

/// Whether a message that no model wrote holds a text.
#[pyfunction]
pub fn request_mentions(py: Python<'_>, body: &[u8], text: &str) -> PyResult<bool> {
    py.detach(|| core::mentions(body, text.as_bytes())).map_err(|f| fault(py, "the request", &f))
}

/// A reply without its ids.
#[pyfunction]
pub fn strip_reply<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let stripped = py.detach(|| core::strip_reply(body));
    Ok(PyBytes::new(py, &stripped.map_err(|f| fault(py, "the reply", &f))?))
}

/// What the reader of call logs makes of a reply.
#[pyclass(frozen, module = "tito._core")]
pub struct Reply {
    inner: core::Reply,
    /// Made once: they are looked at several times while a client waits.
    choices: Py<PyTuple>,
}

type ReplyChoice = (Option<usize>, Option<usize>, Option<String>, bool, u64, bool, String);

#[pymethods]
impl Reply {
    #[new]
    fn new(py: Python<'_>, body: &[u8]) -> PyResult<Self> {
        let inner = py.detach(|| core::verify(body)).map_err(|f| fault(py, "the reply", &f))?;
        let of = |c: &core::ReplyChoice| (c.prompt, c.output, c.bad.clone(), c.failed, c.hash, c.calls, c.text.clone());
        let choices: Vec<ReplyChoice> = inner.choices.iter().map(of).collect();
        let choices = PyTuple::new(py, choices)?.unbind();
        Ok(Self { inner, choices })
    }
    #[getter]
    fn id(&self) -> Option<&str> {
        self.inner.id.as_deref()
    }
    #[getter]
    fn usage(&self) -> bool {
        self.inner.usage
    }
    #[getter]
    fn failed(&self) -> bool {
        self.inner.choices.iter().any(|c| c.failed)
    }
    #[getter]
    fn output_ids(&self) -> usize {
        self.inner.choices.iter().filter_map(|c| c.output).sum()
    }
    #[getter]
    fn choices<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
        self.choices.bind(py).clone()
    }
}

/// A stream of events on its way.
#[pyclass(frozen, module = "tito._core")]
pub struct EventStream {
    inner: Mutex<core::Stream>,
}

impl EventStream {
    fn lock(&self) -> MutexGuard<'_, core::Stream> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl EventStream {
    #[new]
    fn new(choices: usize, hide_ids: bool, hide_usage: bool) -> Self {
        Self { inner: Mutex::new(core::Stream::new(choices, hide_ids, hide_usage)) }
    }
    fn feed<'py>(&self, py: Python<'py>, chunk: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.lock().feed(chunk))
    }
    fn reply<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.lock().reply())
    }
    #[getter]
    fn held<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.lock().held())
    }
    #[getter]
    fn over(&self) -> bool {
        let inner = self.lock();
        inner.done() || inner.fault().is_some()
    }
    #[getter]
    fn done(&self) -> bool {
        self.lock().done()
    }
    #[getter]
    fn finished(&self) -> bool {
        self.lock().finished()
    }
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.lock().error().map(|error| PyBytes::new(py, error))
    }
    #[getter]
    fn fault(&self) -> Option<String> {
        self.lock().fault().map(str::to_owned)
    }
    #[getter]
    fn chunks(&self) -> u64 {
        self.lock().chunks()
    }
}

/// First and last number of lines that are not in the log, and why.
type Failed = Vec<(u64, u64, String)>;

/// The log on disk, and the thread that writes it.
#[pyclass(frozen, module = "tito._core")]
pub struct CallLog {
    inner: Mutex<Option<core::Log>>,
    closed: Mutex<Option<core::Log>>,
    fd: i32,
    torn: u64,
}

impl CallLog {
    fn with<T>(&self, py: Python<'_>, f: impl FnOnce(&core::Log) -> T) -> PyResult<T> {
        match &*self.inner.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(log) => Ok(f(log)),
            None => Err(closed(py)),
        }
    }
}

fn closed(py: Python<'_>) -> PyErr {
    usage(py, "the log is closed", "open another one")
}

#[pymethods]
impl CallLog {
    #[new]
    fn new(py: Python<'_>, folder: &str, limit: u64, fsync: bool, opening: &[u8]) -> PyResult<Self> {
        let opening = opening.to_vec();
        let durability = if fsync { core::Durability::Fsync } else { core::Durability::Flush };
        let opened = py.detach(|| -> Result<_> {
            let (wake, listen) = UnixStream::pair().map_err(Error::io("make", "a pair of sockets"))?;
            listen.set_nonblocking(true).map_err(Error::io("set up", "a pair of sockets"))?;
            let (log, repaired) = core::Log::open(Path::new(folder), limit, durability, opening, wake)?;
            Ok((log, repaired.torn, listen))
        });
        let (log, torn, listen) = opened.map_err(|e| raise(py, &e))?;
        Ok(Self { inner: Mutex::new(Some(log)), closed: Mutex::default(), fd: listen.into_raw_fd(), torn })
    }
    /// Readable when `settled` has news; whoever opened the log closes it.
    #[getter]
    fn fd(&self) -> i32 {
        self.fd
    }
    #[getter]
    fn torn(&self) -> u64 {
        self.torn
    }
    /// The line's number, and whether `settled` tells of it already.
    #[pyo3(signature = (head, request=None, response=None, here=true))]
    fn append(
        &self,
        py: Python<'_>,
        head: &[u8],
        request: Option<&[u8]>,
        response: Option<&[u8]>,
        here: bool,
    ) -> PyResult<(u64, bool)> {
        // A write may take as long as the disk pleases.
        py.detach(|| {
            let line = core::line(head, request, response);
            self.inner.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|log| log.append(line, here))
        })
        .ok_or_else(|| closed(py))
    }
    fn settled(&self, py: Python<'_>) -> PyResult<(u64, Failed)> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(core::Log::settled);
        let settled = closed.map_or_else(|| self.with(py, core::Log::settled), Ok)?;
        Ok((settled.upto, settled.failed))
    }
    fn set_opening(&self, py: Python<'_>, opening: &[u8]) -> PyResult<()> {
        self.with(py, |log| log.set_opening(opening.to_vec()))
    }
    #[getter]
    fn written(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        self.with(py, core::Log::written)
    }
    /// Writes what waits and closes; `settled` tells afterwards what became of it.
    fn close(&self, py: Python<'_>) {
        let taken = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut log) = taken {
            py.detach(|| log.close());
            *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
        }
    }
}
