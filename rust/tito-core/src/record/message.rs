//! What a chat message says, as one number: the same for a content given as text or as parts, with or without spaces
//! around it, in whatever order its keys stand. A reply and its copy in the next prompt have the same one.

use crate::json::{Cursor, Fault};
use std::borrow::Cow;
use std::hash::Hasher as _;
use twox_hash::xxhash3_64;

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Hash of role, text and calls.
    pub(super) hash: u64,
    /// First letter of the role.
    pub(super) role: u8,
    /// It calls tools.
    pub(super) calls: bool,
    /// Its text, trimmed.
    pub(super) text: Vec<u8>,
}

/// Reads one message.
pub(super) fn read(c: &mut Cursor<'_>) -> Result<Message, Fault> {
    let mut role = Cow::Borrowed(&b""[..]);
    let (mut text, mut calls) = (Vec::new(), Vec::new());
    c.object::<Fault>(|c, key| {
        match key {
            b"role" if c.peek() == Some(b'"') => role = Cow::Owned(c.string_bytes()?.into_owned()),
            b"content" => content(c, &mut text)?,
            b"tool_call_id" if c.peek() == Some(b'"') => calls.extend_from_slice(&c.string_bytes()?),
            b"tool_calls" => {
                c.array::<Fault>(|c, _| {
                    c.object::<Fault>(|c, key| {
                        if key == b"id" && c.peek() == Some(b'"') {
                            calls.push(0);
                            calls.extend_from_slice(&c.string_bytes()?);
                        }
                        Ok(())
                    })
                    .map(|_| ())
                })?;
            }
            _ => {}
        }
        Ok(())
    })?;
    let text = text.trim_ascii().to_vec();
    let mut hasher = xxhash3_64::Hasher::new();
    for part in [&role[..], &text[..], &calls[..]] {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part);
    }
    Ok(Message { hash: hasher.finish(), role: role.first().copied().unwrap_or(b'?'), calls: !calls.is_empty(), text })
}

/// Appends the text of a content: a string, or parts; a part that is no text counts as it is written.
fn content(c: &mut Cursor<'_>, text: &mut Vec<u8>) -> Result<(), Fault> {
    if c.peek() == Some(b'"') {
        text.extend_from_slice(&c.string_bytes()?);
        return Ok(());
    }
    c.array::<Fault>(|c, _| {
        let part = Cursor::new(c.raw()?);
        let mut found = false;
        part.clone().object::<Fault>(|c, key| {
            if key == b"text" && c.peek() == Some(b'"') {
                text.extend_from_slice(&c.string_bytes()?);
                found = true;
            }
            Ok(())
        })?;
        if !found {
            text.extend_from_slice(part.text());
        }
        Ok(())
    })
    .map(|_| ())
}

/// Hash of a chain of messages and one more.
pub(super) fn chain(before: u64, hash: u64) -> u64 {
    let mut hasher = xxhash3_64::Hasher::new();
    hasher.write(&before.to_le_bytes());
    hasher.write(&hash.to_le_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> u64 {
        read(&mut Cursor::new(text.as_bytes())).expect("good JSON").hash
    }

    #[test]
    fn what_is_said_counts_not_how() {
        let plain = hash(r#"{"role":"user","content":"a\nb"}"#);
        assert_eq!(plain, hash(r#"{"content":[{"type":"text","text":"a\nb","cache_control":{}}],"role":"user"}"#));
        assert_eq!(plain, hash(r#"{"role":"user","content":" a\u000ab\n"}"#));
        assert_ne!(plain, hash(r#"{"role":"assistant","content":"a\nb"}"#));
        assert_ne!(plain, hash(r#"{"role":"user","content":"a b"}"#));
        let called = hash(r#"{"role":"assistant","content":null,"tool_calls":[{"id":"t1","function":{}}]}"#);
        assert_eq!(
            called,
            hash(r#"{"role":"assistant","content":"","tool_calls":[{"function":{"name":"x"},"id":"t1"}]}"#)
        );
        assert_ne!(called, hash(r#"{"role":"assistant","content":"","tool_calls":[{"id":"t2"}]}"#));
        assert_ne!(plain, hash(r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}"#));
    }
}
