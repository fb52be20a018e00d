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

/// Takes results as they come and hands them on in the order of the input: whoever brings the one that was missing hands
/// on those behind it too. Who is too far ahead waits, so that a stretch that takes long does not let the rest of the
/// input pile up here; the one that all wait for never does.
#[derive(Debug)]
pub struct InOrder<T> {
    next: Mutex<Waiting<T>>,
    changed: Condvar,
    ahead: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    due: u64,
    items: BTreeMap<u64, T>,
    broken_off: bool,
}

impl<T> InOrder<T> {
    /// As many stretches as `ahead` may lie here.
    pub fn new(ahead: u64) -> Self {
        let next = Waiting { due: 0, items: BTreeMap::new(), broken_off: false };
        Self { next: Mutex::new(next), changed: Condvar::new(), ahead }
    }

    /// Brings a stretch's result. False when the run was broken off.
    ///
    /// # Errors
    /// The first error of `hand_on`; what lies behind it stays.
    pub fn bring<E>(&self, number: u64, item: T, mut hand_on: impl FnMut(T) -> Result<(), E>) -> Result<bool, E> {
        let mut state = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while number > state.due + self.ahead && !state.broken_off {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.broken_off {
            return Ok(false);
        }
        state.items.insert(number, item);
        let first = state.due;
        loop {
            let due = state.due;
            let Some(item) = state.items.remove(&due) else { break };
            state.due += 1;
            hand_on(item)?;
        }
        if state.due > first {
            self.changed.notify_all();
        }
        Ok(true)
    }

    /// Lets everybody go who waits.
    pub fn break_off(&self) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).broken_off = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    /// Brings a stretch; tells whether it came through.
    fn bring(order: &InOrder<u64>, seen: &Mutex<Vec<u64>>, done: &Sender<(u64, bool)>, number: u64) {
        let hand_on = |n| -> Result<(), ()> {
            seen.lock().expect("the list").push(n);
            Ok(())
        };
        let brought = order.bring(number, number, hand_on).expect("no error");
        done.send((number, brought)).expect("a listener");
    }

    fn come(done: &Receiver<(u64, bool)>, n: usize) -> Vec<(u64, bool)> {
        let mut come: Vec<_> = (0..n).map(|_| done.recv().expect("one more")).collect();
        assert!(done.recv_timeout(Duration::from_millis(50)).is_err(), "none else comes");
        come.sort_unstable();
        come
    }

    /// Six stretches ahead of the one that is due, two of which may be; then `next`. Gives what was handed on.
    fn six_ahead(
        next: impl FnOnce(&InOrder<u64>, &Mutex<Vec<u64>>, &Sender<(u64, bool)>, &Receiver<(u64, bool)>),
    ) -> Vec<u64> {
        let (order, seen) = (InOrder::new(2), Mutex::new(Vec::new()));
        let (sender, done) = channel();
        std::thread::scope(|scope| {
            for number in 1..7 {
                let (sender, order, seen) = (sender.clone(), &order, &seen);
                scope.spawn(move || bring(order, seen, &sender, number));
            }
            assert_eq!(come(&done, 2), [(1, true), (2, true)]);
            next(&order, &seen, &sender, &done);
        });
        seen.into_inner().expect("the list")
    }

    #[test]
    fn who_is_too_far_ahead_waits_for_the_one_that_is_due() {
        let seen = six_ahead(|order, seen, sender, done| {
            bring(order, seen, sender, 0);
            assert_eq!(come(done, 5), [0, 3, 4, 5, 6].map(|n| (n, true)));
        });
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_run_that_is_broken_off_lets_them_go() {
        let seen = six_ahead(|order, _, _, done| {
            order.break_off();
            assert_eq!(come(done, 4), [3, 4, 5, 6].map(|n| (n, false)));
        });
        assert!(seen.is_empty());
    }
}
