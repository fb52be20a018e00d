//! Where loss falls, position by position: weights and labels, unshifted (the model shifts).

use crate::ids::Id;
use std::ops::Range;

/// The label of a position without loss.
pub const NO_LABEL: Id = -100;

/// The weight of each of `length` positions; spans may not overlap, positions outside all of them weigh 0.
///
/// # Panics
/// When a span ends behind `length`.
#[must_use]
pub fn weights(length: usize, spans: impl IntoIterator<Item = (Range<usize>, f32)>) -> Vec<f32> {
    let mut weights = vec![0.0; length];
    for (span, weight) in spans {
        weights[span].fill(weight);
    }
    weights
}

/// Each id where its weight is not 0, [`NO_LABEL`] elsewhere.
#[must_use]
pub fn labels(ids: impl IntoIterator<Item = Id>, weights: &[f32]) -> Vec<Id> {
    ids.into_iter().zip(weights).map(|(id, weight)| if *weight == 0.0 { NO_LABEL } else { id }).collect()
}
