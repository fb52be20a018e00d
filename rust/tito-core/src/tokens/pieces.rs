//! The bytes of every id, as one table.
//!
//! Two ways of writing bytes as tokens are known: byte-level BPE (GPT-2's letters for bytes) and SentencePiece (`▁` for
//! a space, `<0x0A>` for a byte). Added tokens stand for themselves. Any other decoder is refused.

use crate::ids::Id;
use serde_json::Value;

/// See the module.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where the bytes of id `i` begin; one more than there are ids.
    starts: Vec<u32>,
    /// Ascending.
    special: Vec<Id>,
}

/// How tokens of the vocabulary write bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    ByteLevel,
    SentencePiece,
}

impl Pieces {
    /// # Errors
    /// Why the tokenizer is not one that is decoded here.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Result<Self, String> {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(|e| e.to_string())?;
        let form = form(&decoder)?;
        let letters = byte_letters();
        let added = tokenizer.get_added_tokens_decoder();
        let mut tokens: Vec<Option<String>> = Vec::new();
        for (token, id) in tokenizer.get_vocab(true) {
            let at = id as usize;
            if at >= tokens.len() {
                tokens.resize(at + 1, None);
            }
            tokens[at] = Some(token);
        }
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        for (id, token) in tokens.iter().enumerate() {
            match (added.get(&(id as u32)), token) {
                (Some(added), _) => bytes.extend_from_slice(added.content.as_bytes()),
                (None, Some(token)) => write(&mut bytes, token, form, &letters),
                (None, None) => {}
            }
            starts.push(u32::try_from(bytes.len()).map_err(|_| "its texts are over 4 GB".to_owned())?);
        }
        let mut special: Vec<Id> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id as Id).collect();
        special.sort_unstable();
        Ok(Self { bytes, starts, special })
    }

    pub(super) fn of_id(&self, id: Id) -> &[u8] {
        let at = id as usize;
        match (self.starts.get(at), self.starts.get(at.wrapping_add(1))) {
            (Some(start), Some(end)) => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }

    pub(super) fn is_special(&self, id: Id) -> bool {
        self.special.binary_search(&id).is_ok()
    }
}

/// Looks at the decoder and, where it is a list, at its parts.
fn form(decoder: &Value) -> Result<Form, String> {
    let parts = match decoder["decoders"].as_array() {
        Some(parts) => parts.iter().collect(),
        None => vec![decoder],
    };
    let kinds: Vec<&str> = parts.iter().map(|part| part["type"].as_str().unwrap_or("none")).collect();
    let known = |kinds: &[&str], allowed: &[&str]| kinds.iter().all(|kind| allowed.contains(kind));
    if kinds.contains(&"ByteLevel") && known(&kinds, &["ByteLevel", "Fuse"]) {
        return Ok(Form::ByteLevel);
    }
    let space = |part: &&Value| part["pattern"]["String"] == "\u{2581}" && part["content"] == " ";
    let replaces =
        parts.iter().any(|part| part["type"] == "Metaspace" && part["replacement"] == "\u{2581}" || space(part));
    if replaces && known(&kinds, &["Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"]) {
        return Ok(Form::SentencePiece);
    }
    Err(format!("its decoder ({}) is neither byte-level nor SentencePiece", kinds.join(", ")))
}

fn write(bytes: &mut Vec<u8>, token: &str, form: Form, letters: &[Option<u8>]) {
    match form {
        Form::ByteLevel => {
            let byte = |letter: char| letters.get(letter as usize).copied().flatten();
            // A token with a letter that stands for no byte stands for itself, as the package decodes it.
            if token.chars().all(|letter| byte(letter).is_some()) {
                bytes.extend(token.chars().filter_map(byte));
            } else {
                bytes.extend_from_slice(token.as_bytes());
            }
        }
        Form::SentencePiece => {
            let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(token.replace('\u{2581}', " ").as_bytes()),
            }
        }
    }
}

/// The byte that each letter stands for: printable ones for themselves, the rest from U+0100 on.
fn byte_letters() -> Vec<Option<u8>> {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut letters = vec![None; 0x200];
    let mut next = 0x100;
    for byte in 0..=u8::MAX {
        if plain(byte) {
            letters[byte as usize] = Some(byte);
        } else {
            letters[next] = Some(byte);
            next += 1;
        }
    }
    letters
}
