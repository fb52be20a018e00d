//! A tokenizer, where somebody asked for one: ids to text and text to ids, the same as the `tokenizers` package.
//!
//! Captures become rows without any of this. Only policies that are about text (a section of a prompt, n-grams, words
//! of an output) load one, from `--tokenizer`. Decoding is a table of bytes by id, so it is exact: a character whose
//! bytes stand in two ids comes out whole, and half a character stays half. Encoding takes text as an engine takes a
//! rendered prompt: added tokens are found in it, and none is put around it.

pub mod escapes;
mod hash;
pub mod ngrams;
mod pieces;
pub mod section;

use crate::error::{Error, Result};
use crate::ids::Id;
use pieces::Pieces;
use std::path::{Path, PathBuf};

/// See the module. Made once a run: 0.7 s and 110 MiB for the 150 k ids of Qwen3.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Pieces,
    hash: String,
    path: PathBuf,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or the one in a folder.
    ///
    /// # Errors
    /// `Io` for a file that cannot be read, `Usage` for one that is no tokenizer or of a kind that is not decoded here.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let name = file.to_string_lossy();
        let bytes = std::fs::read(&file).map_err(Error::io("read", name.clone()))?;
        let no = |why: String| {
            Error::usage(
                format!("{name}: not a tokenizer: {why}"),
                "name the folder of a model, or its tokenizer.json, with --tokenizer",
            )
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| no(e.to_string()))?;
        inner.with_truncation(None).map_err(|e| no(e.to_string()))?;
        inner.with_padding(None);
        let pieces = Pieces::of(&inner).map_err(no)?;
        let hash = hash::of(&inner).map_err(|e| no(e.to_string()))?;
        Ok(Self { inner, pieces, hash, path: path.to_owned() })
    }

    /// What makes two tokenizers one: every token and its id, the merges in order, the added tokens; what a profile
    /// holds as `tokenizer_hash`.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of an id; empty where it has no text (an id of the padded embedding).
    #[must_use]
    pub fn bytes_of(&self, id: Id) -> &[u8] {
        self.pieces.of_id(id)
    }

    /// Whether the id is a special token, like those that begin and end turns.
    #[must_use]
    pub fn is_special(&self, id: Id) -> bool {
        self.pieces.is_special(id)
    }

    /// Appends the bytes of ids.
    pub fn decode_into(&self, text: &mut Vec<u8>, ids: &[Id]) {
        ids.iter().for_each(|id| text.extend_from_slice(self.bytes_of(*id)));
    }

    /// The bytes of ids, exactly; UTF-8 but for characters that begin before or end behind them.
    #[must_use]
    pub fn decode(&self, ids: &[Id]) -> Vec<u8> {
        let mut text = Vec::with_capacity(ids.len() * 4);
        self.decode_into(&mut text, ids);
        text
    }

    /// The text of ids, to be read or searched: what is no character becomes U+FFFD.
    #[must_use]
    pub fn text(&self, ids: &[Id]) -> String {
        String::from_utf8(self.decode(ids)).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// The ids of a text. Added tokens in it are one id each, as an engine reads a rendered prompt; nothing is put
    /// before or behind it.
    ///
    /// # Errors
    /// `Check` when the tokenizer gives up.
    pub fn encode(&self, text: &str) -> Result<Vec<Id>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| {
            Error::check(format!("the tokenizer cannot encode: {e}"), "check the folder that --tokenizer names")
        })?;
        Ok(encoding.get_ids().iter().map(|id| *id as Id).collect())
    }
}
