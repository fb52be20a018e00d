//! Workers: the steps that they take in the order of the input, and how a run ends when one of them cannot go on.

use super::order::{InOrder, Turnstile};
use crate::error::{Error, Result};

/// The steps that happen in the order of the input; `T` is what a stretch gives.
#[derive(Debug)]
pub(super) struct Gates<T> {
    pub(super) enter: Turnstile,
    pub(super) settle: Turnstile,
    pub(super) append: InOrder<T>,
}

impl<T> Gates<T> {
    pub(super) fn new(workers: usize) -> Self {
        Self { enter: Turnstile::default(), settle: Turnstile::default(), append: InOrder::new(2 * workers as u64) }
    }

    /// Lets everybody go who waits.
    fn break_off(&self) {
        self.enter.break_off();
        self.settle.break_off();
        self.append.break_off();
    }
}

/// Breaks the gates off when dropped during a panic, so that no other worker waits for ever.
struct BreakOffOnPanic<'a, T>(&'a Gates<T>);

impl<T> Drop for BreakOffOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_off();
        }
    }
}

/// An error of a worker, and the stretch of input it came up at.
pub(super) struct Stopped {
    pub(super) number: u64,
    /// Boxed: it is large, and this is the rare way out.
    pub(super) error: Box<Error>,
    /// The stretches before may still end well, or with an earlier error.
    pub(super) soft: bool,
}

impl Stopped {
    pub(super) fn at(number: u64) -> impl Fn(Error) -> Self {
        move |error| Self { number, error: Box::new(error), soft: false }
    }
}

/// Runs `work` on so many threads; of several errors the one that comes first in the input counts.
pub(super) fn on_threads<T: Send>(
    workers: usize,
    gates: &Gates<T>,
    work: impl Fn() -> std::result::Result<(), Stopped> + Sync,
) -> Result<()> {
    let guarded = || {
        let _guard = BreakOffOnPanic(gates);
        let result = work();
        if result.as_ref().is_err_and(|stopped| !stopped.soft) {
            gates.break_off();
        }
        result
    };
    let results = if workers == 1 {
        vec![guarded()]
    } else {
        std::thread::scope(|scope| {
            let mut threads = Vec::with_capacity(workers);
            let mut refused = Vec::new();
            for _ in 0..workers {
                match std::thread::Builder::new().spawn_scoped(scope, guarded) {
                    Ok(thread) => threads.push(thread),
                    // As many as the system gives; the rows are the same.
                    Err(_) if !threads.is_empty() => break,
                    Err(error) => refused.push(Err(Stopped::at(0)(Error::io("start", "a thread")(error)))),
                }
            }
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            refused.into_iter().chain(threads.into_iter().map(join)).collect()
        })
    };
    match results.into_iter().filter_map(std::result::Result::err).min_by_key(|stopped| stopped.number) {
        Some(stopped) => Err(*stopped.error),
        None => Ok(()),
    }
}
