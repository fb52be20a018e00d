//! Stretches of input are worked on by any thread, but some steps must happen in the order of the input.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

/// Lets stretch 0 pass, then 1, then 2, ...
#[derive(Debug, Default)]
pub struct Turnstile {
    next: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Turnstile {
    /// Waits for the stretch's place in the order, runs the step and lets the next one in. None when the run was
    /// broken off; a step that returns an error breaks it off.
    pub fn pass<T, E>(&self, number: u64, step: impl FnOnce() -> Result<T, E>) -> Option<Result<T, E>> {
        // A panicking step leaves the lock poisoned; the run is broken off by then, the numbers are still right.
        let mut state = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 != number && !state.1 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.1 {
            return None;
        }
        drop(state);
        let result = step();
        let mut state = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        state.1 |= result.is_err();
        drop(state);
        self.changed.notify_all();
        Some(result)
    }

    /// Lets everybody go who waits.
    pub fn break_off(&self) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}

/// Takes results as they come and hands them on in the order of the input. Nobody waits: whoever brings the one that
/// was missing hands on those behind it too. What lies here is encoded, a hundredth of its input.
#[derive(Debug)]
pub struct InOrder<T> {
    next: Mutex<(u64, BTreeMap<u64, T>)>,
}

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self { next: Mutex::default() }
    }
}

impl<T> InOrder<T> {
    /// Brings a stretch's result.
    ///
    /// # Errors
    /// The first error of `hand_on`; what lies behind it stays.
    pub fn bring<E>(&self, number: u64, item: T, mut hand_on: impl FnMut(T) -> Result<(), E>) -> Result<(), E> {
        let mut state = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.insert(number, item);
        loop {
            let due = state.0;
            let Some(item) = state.1.remove(&due) else { return Ok(()) };
            state.0 += 1;
            hand_on(item)?;
        }
    }
}

/// Breaks turnstiles off when dropped during a panic, so that no other worker waits for ever.
#[derive(Debug)]
pub struct BreakOffOnPanic<'a>(pub &'a [&'a Turnstile]);

impl Drop for BreakOffOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.iter().for_each(|turnstile| turnstile.break_off());
        }
    }
}
