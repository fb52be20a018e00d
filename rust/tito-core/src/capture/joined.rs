//! The reply that the deltas of a stream make: texts and lists of ids are joined as they are written.

use crate::json::{Cursor, Fault};

/// A member of a reply that stays as it is: name and JSON.
pub(crate) type Member = (Vec<u8>, Vec<u8>);

#[derive(Debug, Default)]
struct ToolCall {
    index: i64,
    /// `id`, `type` and what else there is, but the function.
    members: Vec<Member>,
    name: Vec<u8>,
    arguments: Vec<u8>,
}

/// One choice of a reply.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    pub(crate) index: i64,
    /// Texts of the message, joined: escaped, without quotes.
    texts: Vec<Member>,
    message: Vec<Member>,
    tools: Vec<ToolCall>,
    /// The choice itself: `finish_reason`, `stop_reason`, ...
    members: Vec<Member>,
    /// Lists that come in pieces, without brackets: `token_ids`, and those of `logprobs`.
    lists: Vec<Member>,
    logprobs: Vec<Member>,
    pub(crate) finished: bool,
    /// The completions route: its text stands in the choice.
    plain: bool,
}

impl Choice {
    fn new(index: i64) -> Self {
        Self { index, ..Self::default() }
    }

    /// Takes a member of a chunk's choice.
    pub(crate) fn take(&mut self, c: &mut Cursor<'_>, key: &[u8]) -> Result<(), Fault> {
        match key {
            b"index" => c.skip()?,
            b"delta" => self.delta(c)?,
            b"text" if c.peek() == Some(b'"') => {
                self.plain = true;
                join(&mut self.texts, key, inner(c.raw()?), b"");
            }
            b"token_ids" => {
                let ids = c.raw()?;
                if ids.first() == Some(&b'[') {
                    join(&mut self.lists, key, inner(ids).trim_ascii(), b",");
                } else if ids != b"null" {
                    // No list: kept as it is, so that the reader says what is wrong with it.
                    put(&mut self.members, key, ids);
                }
            }
            b"logprobs" => self.logprobs(c)?,
            _ => {
                let value = c.raw()?;
                if value != b"null" {
                    self.finished |= key == b"finish_reason";
                    put(&mut self.members, key, value);
                }
            }
        }
        Ok(())
    }

    fn delta(&mut self, c: &mut Cursor<'_>) -> Result<(), Fault> {
        c.object::<Fault>(|c, key| {
            match key {
                b"role" => put(&mut self.message, key, c.raw()?),
                b"tool_calls" => {
                    c.array::<Fault>(|c, at| self.tool(c, at as i64))?;
                }
                _ if c.peek() == Some(b'"') => join(&mut self.texts, key, inner(c.raw()?), b""),
                _ => {
                    let value = c.raw()?;
                    if value != b"null" {
                        put(&mut self.message, key, value);
                    }
                }
            }
            Ok(())
        })
        .map(|_| ())
    }

    fn tool(&mut self, c: &mut Cursor<'_>, at: i64) -> Result<(), Fault> {
        let mut delta = ToolCall { index: at, ..ToolCall::default() };
        c.object::<Fault>(|c, key| {
            match key {
                b"index" => delta.index = c.scalar()?.int().map_or(at, i64::from),
                b"function" => {
                    c.object::<Fault>(|c, key| {
                        let value = c.raw()?;
                        match key {
                            b"name" if value.first() == Some(&b'"') => delta.name = inner(value).to_vec(),
                            b"arguments" if value.first() == Some(&b'"') => delta.arguments = inner(value).to_vec(),
                            _ => {}
                        }
                        Ok(())
                    })?;
                }
                _ => {
                    let value = c.raw()?;
                    if value != b"null" {
                        put(&mut delta.members, key, value);
                    }
                }
            }
            Ok(())
        })?;
        match self.tools.iter_mut().find(|known| known.index == delta.index) {
            Some(known) => {
                for (key, value) in &delta.members {
                    put(&mut known.members, key, value);
                }
                if known.name.is_empty() {
                    known.name = delta.name;
                }
                known.arguments.extend_from_slice(&delta.arguments);
            }
            None => self.tools.push(delta),
        }
        Ok(())
    }

    /// Lists are joined (`content`, `token_logprobs`, ...); anything else is as the last chunk says.
    fn logprobs(&mut self, c: &mut Cursor<'_>) -> Result<(), Fault> {
        c.object::<Fault>(|c, key| {
            let value = c.raw()?;
            if value.first() == Some(&b'[') {
                join(&mut self.logprobs, key, inner(value).trim_ascii(), b",");
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Writes the choice as a whole reply has it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        member(out, b"index", self.index.to_string().as_bytes());
        if self.plain {
            self.write_texts(out);
        } else {
            name(out, b"message");
            self.write_message(out);
        }
        if !self.logprobs.is_empty() {
            name(out, b"logprobs");
            out.push(b'{');
            for (key, list) in &self.logprobs {
                write_list(out, key, list);
            }
            out.push(b'}');
        }
        for (key, value) in &self.members {
            member(out, key, value);
        }
        for (key, list) in &self.lists {
            write_list(out, key, list);
        }
        out.push(b'}');
    }

    /// Writes the message alone, if the choice has one: the completions route has none.
    pub(crate) fn message(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        (!self.plain).then(|| self.write_message(&mut out))?;
        Some(out)
    }

    fn write_message(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (key, value) in &self.message {
            member(out, key, value);
        }
        self.write_texts(out);
        if !self.tools.is_empty() {
            name(out, b"tool_calls");
            out.push(b'[');
            for (at, tool) in self.tools.iter().enumerate() {
                out.extend_from_slice(if at > 0 { b",{" } else { b"{" });
                for (key, value) in &tool.members {
                    member(out, key, value);
                }
                name(out, b"function");
                out.extend_from_slice(b"{\"name\":\"");
                out.extend_from_slice(&tool.name);
                out.extend_from_slice(b"\",\"arguments\":\"");
                out.extend_from_slice(&tool.arguments);
                out.extend_from_slice(b"\"}}");
            }
            out.push(b']');
        }
        out.push(b'}');
    }

    fn write_texts(&self, out: &mut Vec<u8>) {
        for (key, text) in &self.texts {
            name(out, key);
            out.push(b'"');
            out.extend_from_slice(text);
            out.push(b'"');
        }
    }
}

/// The choice that an entry of a chunk is about, a new one if it is the first: its index may stand anywhere in it.
///
/// # Errors
/// A fault of the JSON.
pub(crate) fn choice_of<'c>(choices: &'c mut Vec<Choice>, entry: &Cursor<'_>) -> Result<&'c mut Choice, Fault> {
    let mut index = 0;
    entry.clone().object::<Fault>(|c, key| {
        if key == b"index" {
            index = c.scalar()?.int().map_or(0, i64::from);
        }
        Ok(())
    })?;
    let at = choices.iter().position(|known| known.index == index).unwrap_or_else(|| {
        choices.push(Choice::new(index));
        choices.len() - 1
    });
    Ok(&mut choices[at])
}

/// A string without its quotes, a list without its brackets.
fn inner(value: &[u8]) -> &[u8] {
    value.get(1..value.len().saturating_sub(1)).unwrap_or_default()
}

/// Sets a member.
pub(crate) fn put(members: &mut Vec<Member>, key: &[u8], value: &[u8]) {
    match members.iter_mut().find(|(known, _)| known == key) {
        Some((_, known)) => {
            known.clear();
            known.extend_from_slice(value);
        }
        None => members.push((key.to_vec(), value.to_vec())),
    }
}

/// Appends to a member.
fn join(members: &mut Vec<Member>, key: &[u8], more: &[u8], between: &[u8]) {
    match members.iter_mut().find(|(known, _)| known == key) {
        Some((_, known)) => {
            if !known.is_empty() && !more.is_empty() {
                known.extend_from_slice(between);
            }
            known.extend_from_slice(more);
        }
        None => members.push((key.to_vec(), more.to_vec())),
    }
}

/// Begins a member.
pub(crate) fn name(out: &mut Vec<u8>, key: &[u8]) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
    let key = serde_json::Value::from(String::from_utf8_lossy(key)).to_string();
    out.extend_from_slice(key.as_bytes());
    out.push(b':');
}

/// Writes a member.
pub(crate) fn member(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    name(out, key);
    out.extend_from_slice(value);
}

fn write_list(out: &mut Vec<u8>, key: &[u8], list: &[u8]) {
    name(out, key);
    out.push(b'[');
    out.extend_from_slice(list);
    out.push(b']');
}
