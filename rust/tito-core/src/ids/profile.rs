//! What must be known of a tokenizer and its chat template to cut and compare ids.
//!
//! A profile is data (JSON), made by rendering a template on probes or shipped for a known family; nothing here
//! tokenises. Markers are lists of alternatives, each an id sequence: most tokenizers have one id a marker, some write
//! a marker as several ordinary ids.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A token id, at every boundary and on disk.
pub type Id = i32;

/// Alternatives of one marker, each an id sequence, the longest first.
pub type Marker = Vec<Vec<Id>>;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Version of this layout: 1.
    pub version: u32,
    /// Short name, `qwen3`.
    pub name: String,
    /// Number of ids of the tokenizer, added tokens included.
    pub vocab_size: Id,
    /// The first id that no model of the family can emit (its padded embedding size).
    pub id_limit: Id,
    /// What opens thinking; empty for a model that does not think.
    pub think_open: Marker,
    /// What closes thinking.
    pub think_close: Marker,
    /// Added tokens that look like think markers although the template never writes them: an output that holds one is
    /// odd, so that cutting nothing from such outputs is never silent.
    pub stray_think: Vec<Id>,
    /// Whether a closer without an opener in sight ends thinking (false where the closer is an ordinary turn end, as in harmony).
    pub lone_close: bool,
    /// Ids whose text is only newlines: they go with the span when they stand directly behind a closer.
    pub after_close: Vec<Id>,
    /// What opens a tool call: no closer counts behind it.
    pub tool_open: Marker,
    /// What opens a turn of any role.
    pub turn_start: Marker,
    /// What opens an assistant turn, header and newline included, think markers not.
    pub assistant_start: Marker,
    /// What ends a turn inside a rendered prompt.
    pub turn_end: Marker,
    /// Last ids of a cleanly finished output.
    pub stop_ids: Vec<Id>,
    /// The ids a rendered prompt of this template begins with (the same for every conversation), possibly empty.
    pub prompt_start: Vec<Id>,
    /// End of a generation prompt with thinking on.
    pub tail_think: Vec<Id>,
    /// End of a generation prompt with thinking off; null where the template cannot switch it off.
    pub tail_no_think: Option<Vec<Id>>,
    /// Whether the template writes the no-thinking tail's pair into an earlier assistant turn without reasoning (where
    /// it writes reasoning at all).
    pub history_pair: bool,
    /// Hash of vocabulary, merges and added tokens.
    pub tokenizer_hash: String,
    /// Hash of the chat template's text.
    pub template_hash: String,
}

const BUILT_IN: [(&str, &str); 2] =
    [("qwen3", include_str!("profiles/qwen3.json")), ("qwen3.5", include_str!("profiles/qwen3.5.json"))];

impl Profile {
    /// Names of the built-in profiles.
    #[must_use]
    pub fn built_in_names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// A built-in profile.
    ///
    /// # Errors
    /// `Usage` for an unknown name.
    pub fn built_in(name: &str) -> Result<Self> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, json)) => Self::from_json(json),
            None => Err(Error::usage(
                format!("no built-in profile is called {name:?}; there are {}", Self::built_in_names().join(", ")),
                "name a built-in profile, or a tokenizer directory or profile file with --profile",
            )),
        }
    }

    /// Reads a profile from JSON and checks it.
    ///
    /// # Errors
    /// `Usage` when the JSON is not a profile or contradicts itself.
    pub fn from_json(text: &str) -> Result<Self> {
        let profile: Self = serde_json::from_str(text).map_err(|e| {
            Error::usage(format!("not a profile: {e}"), "make one with `tito profile TOKENIZER_DIR -o FILE`")
        })?;
        profile.check()?;
        Ok(profile)
    }

    /// The profile as JSON, keys in their order of declaration.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    fn check(&self) -> Result<()> {
        let bad = |what: String| {
            Err(Error::usage(
                format!("profile {:?}: {what}", self.name),
                "make it anew with `tito profile TOKENIZER_DIR -o FILE`",
            ))
        };
        if self.version != 1 {
            return bad(format!("version {} is not 1", self.version));
        }
        if self.think_open.is_empty() != self.think_close.is_empty() {
            return bad("think_open and think_close must both be there or both be empty".to_owned());
        }
        let markers = [
            &self.think_open,
            &self.think_close,
            &self.tool_open,
            &self.turn_start,
            &self.assistant_start,
            &self.turn_end,
        ];
        if markers.iter().any(|m| m.iter().any(Vec::is_empty)) {
            return bad("a marker is empty".to_owned());
        }
        if self.id_limit < self.vocab_size || self.vocab_size <= 0 {
            return bad(format!("id_limit {} is below vocab_size {}", self.id_limit, self.vocab_size));
        }
        let lists = [&self.stray_think, &self.after_close, &self.stop_ids, &self.prompt_start, &self.tail_think];
        let ids = markers.iter().flat_map(|m| m.iter().flatten()).chain(lists.iter().flat_map(|l| l.iter()));
        if let Some(id) = ids.chain(self.tail_no_think.iter().flatten()).find(|id| **id < 0 || **id >= self.id_limit) {
            return bad(format!("id {id} is outside 0..{}", self.id_limit));
        }
        Ok(())
    }
}
