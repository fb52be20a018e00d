//! What a log says of the engine behind its calls: a recorder opens each segment with it.

use crate::error::Place;
use crate::rows::Text;
use serde::{Deserialize, Serialize};

/// The tokenizer and the template that an engine served, as far as its log knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Where it is said first.
    pub place: Place,
    /// Hash of the tokenizer.
    pub tokenizer_hash: Option<Text>,
    /// Hash of the chat template.
    pub template_hash: Option<Text>,
}

impl Served {
    /// Whether both say the same, wherever they say it.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        (&self.tokenizer_hash, &self.template_hash) == (&other.tokenizer_hash, &other.template_hash)
    }
}
