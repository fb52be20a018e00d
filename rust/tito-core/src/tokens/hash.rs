//! The hash of a tokenizer: SHA-256 over a canonical JSON text, the same that `tito profile` computes.
//!
//! File bytes, the padded embedding size, normaliser and template do not count.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;

pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> serde_json::Result<String> {
    let model = serde_json::to_value(tokenizer.get_model())?;
    let mut vocabulary: Vec<(u32, String)> =
        tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
    vocabulary.sort_unstable();
    let mut added: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().collect();
    added.sort_unstable_by_key(|(id, _)| *id);
    let mut text = String::from("{\"vocabulary\":");
    list(&mut text, vocabulary.iter().map(|(id, token)| json!([token, id]).to_string()));
    text.push_str(",\"merges\":");
    text.push_str(&model.get("merges").filter(|merges| merges.is_array()).unwrap_or(&json!([])).to_string());
    text.push_str(",\"scores\":");
    match model["vocab"].as_array() {
        Some(scored) => list(&mut text, scored.iter().map(|entry| float(&entry[1]))),
        None => text.push_str("null"),
    }
    text.push_str(",\"added\":");
    let flags = added
        .iter()
        .map(|(id, t)| json!([id, t.content, t.special, t.lstrip, t.rstrip, t.single_word, t.normalized]).to_string());
    list(&mut text, flags);
    text.push('}');
    let mut hash = String::from("sha256:");
    for byte in Sha256::digest(text.as_bytes()) {
        let _ = write!(hash, "{byte:02x}");
    }
    Ok(hash)
}

fn list(text: &mut String, items: impl Iterator<Item = String>) {
    text.push('[');
    for (at, item) in items.enumerate() {
        text.push_str(if at > 0 { "," } else { "" });
        text.push_str(&item);
    }
    text.push(']');
}

/// A number as Python writes it: both write the shortest digits, but not the same exponents.
fn float(value: &Value) -> String {
    let Some(number) = value.as_f64() else { return value.to_string() };
    let magnitude = number.abs();
    if number == 0.0 || (1e-4..1e16).contains(&magnitude) {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}
