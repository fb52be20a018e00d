//! What is done to ids: pure functions on slices, no I/O.

pub mod profile;
pub mod think;
pub mod turns;

pub use profile::{Id, Marker, Profile};
