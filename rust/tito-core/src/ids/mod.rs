//! What is done to ids: pure functions on slices, no I/O.

pub mod loss;
pub mod profile;
pub mod think;
pub mod turns;
pub mod weight;

pub use profile::{Id, Marker, Profile};
