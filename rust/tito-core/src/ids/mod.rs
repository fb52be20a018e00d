//! What is done to ids: pure functions on slices, no I/O.

pub mod edit;
pub mod loss;
mod markers;
pub mod merge;
pub mod pack;
pub mod profile;
pub mod select;
pub mod think;
mod tools;
pub mod turns;
pub mod weight;

pub use profile::{Id, Marker, Profile};

/// Length of the common prefix. Whole blocks are compared as slices, which is a vectorised memcmp.
pub(crate) fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    const BLOCK: usize = 256;
    let n = a.len().min(b.len());
    // Prompts that go on from each other may lie in the same memory.
    if std::ptr::eq(a.as_ptr(), b.as_ptr()) {
        return n;
    }
    let mut at = 0;
    while at + BLOCK <= n && a[at..at + BLOCK] == b[at..at + BLOCK] {
        at += BLOCK;
    }
    at + a[at..n].iter().zip(&b[at..n]).take_while(|(x, y)| x == y).count()
}
