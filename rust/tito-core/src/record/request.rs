//! A request: what it asks for, what was said before, and the switches that make an engine return ids.

use super::edit::{Edits, Fate};
use super::message;
use super::reply::all_json;
use crate::json::{Cursor, Fault};

/// A member that stands twice in a request, of which nobody knows which one counts.
const TWICE: [&[u8]; 4] = [b"messages", b"prompt", b"stream", b"n"];

/// What the client asks of the reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Server-sent events.
    pub stream: bool,
    /// The ids.
    pub ids: bool,
    /// Usage at the end of a stream.
    pub usage: bool,
    /// Choices of the reply: `n` for each prompt.
    pub choices: usize,
    /// Tools are offered.
    pub tools: bool,
}

/// A request of the chat or the completions route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Model.
    pub model: Option<String>,
    /// What is asked of the reply.
    pub asked: Asked,
    /// Hash of each message.
    pub messages: Vec<u64>,
    /// Hash of each message and all before it.
    pub chain: Vec<u64>,
    /// First letter of each message's role.
    pub roles: Vec<u8>,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// A fault of the JSON; a text that is no object; a member that counts and stands twice.
    pub fn read(body: &[u8]) -> Result<Self, Fault> {
        let mut request = Self { asked: Asked { choices: 1, ..Asked::default() }, ..Self::default() };
        let (mut n, mut prompts, mut seen) = (1usize, 1usize, [false; TWICE.len()]);
        let mut cursor = Cursor::new(body);
        let object = cursor.object::<Fault>(|c, key| {
            if let Some(at) = TWICE.iter().position(|name| *name == key) {
                c.once(&mut seen[at])?;
            }
            match key {
                b"model" => request.model = c.text_value()?.map(std::borrow::Cow::into_owned),
                b"stream" => request.asked.stream = c.scalar()?.is_true(),
                b"n" => n = c.scalar()?.int().and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1),
                b"return_token_ids" => request.asked.ids = c.scalar()?.is_true(),
                b"stream_options" => {
                    c.object::<Fault>(|c, key| {
                        if key == b"include_usage" {
                            request.asked.usage = c.scalar()?.is_true();
                        }
                        Ok(())
                    })?;
                }
                b"tools" => request.asked.tools = c.array::<Fault>(|_, _| Ok(()))?,
                b"messages" => {
                    c.array::<Fault>(|c, _| {
                        let message = message::read(c)?;
                        request.say(&message);
                        Ok(())
                    })?;
                }
                b"prompt" => prompts = request.prompt(c)?,
                _ => {}
            }
            Ok(())
        })?;
        if !object {
            return Err(Fault { at: 0, message: "a request is a JSON object" });
        }
        if !cursor.at_end() {
            return Err(Fault { at: cursor.pos(), message: "more text behind the value" });
        }
        all_json(body)?;
        request.asked.choices = n * prompts.max(1);
        Ok(request)
    }

    fn say(&mut self, message: &message::Message) {
        let before = self.chain.last().copied().unwrap_or_default();
        self.chain.push(message::chain(before, message.hash));
        self.messages.push(message.hash);
        self.roles.push(message.role);
    }

    /// A prompt of the completions route counts as one message; gives how many prompts there are.
    fn prompt(&mut self, c: &mut Cursor<'_>) -> Result<usize, Fault> {
        let raw = c.raw()?;
        let said = message::Message {
            hash: message::chain(0, message::chain(raw.len() as u64, text_hash(raw))),
            role: b'p',
            ..Default::default()
        };
        self.say(&said);
        let (mut count, mut nested) = (0, false);
        let is_list = Cursor::new(raw).array::<Fault>(|c, _| {
            nested |= matches!(c.peek(), Some(b'"' | b'['));
            count += 1;
            Ok(())
        })?;
        // A list of ids is one prompt; a list of texts or of lists is several.
        Ok(if is_list && nested { count } else { 1 })
    }
}

fn text_hash(text: &[u8]) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = twox_hash::xxhash3_64::Hasher::new();
    hasher.write(text);
    hasher.finish()
}

/// The request with members put in place of its own; each is a key and a JSON value. `usage` asks for usage at the end
/// of a stream. Everything else stays as it was, byte for byte.
///
/// # Errors
/// A fault of the JSON.
pub fn amend(body: &[u8], members: &[(String, String)], usage: bool) -> Result<Vec<u8>, Fault> {
    let mut edits = Edits::default();
    let mut options: &[u8] = b"{}";
    let mut cursor = Cursor::new(body);
    let mut kept = false;
    edits.members(&mut cursor, |_, c, key| {
        if usage && key == b"stream_options" {
            options = c.raw()?;
            return Ok(Fate::Cut);
        }
        let ours = members.iter().any(|(name, _)| name.as_bytes() == key);
        kept |= !ours;
        Ok(if ours { Fate::Cut } else { Fate::Keep })
    })?;
    let end = cursor.pos() - 1;
    let mut out = Vec::with_capacity(body.len() + 64);
    edits.apply(&body[..end], &mut out);
    let mut add = |key: &[u8], value: &[u8]| {
        out.extend_from_slice(if std::mem::replace(&mut kept, true) { b", \"" } else { b"\"" });
        out.extend_from_slice(key);
        out.extend_from_slice(b"\": ");
        out.extend_from_slice(value);
    };
    for (key, value) in members {
        add(key.as_bytes(), value.as_bytes());
    }
    if usage {
        let options = if options.first() == Some(&b'{') { options } else { b"{}" };
        add(b"stream_options", &amend(options, &[("include_usage".to_owned(), "true".to_owned())], false)?);
    }
    out.extend_from_slice(&body[end..]);
    Ok(out)
}

/// Whether a message that no model wrote holds a text: a summary comes back as what the user says.
///
/// # Errors
/// A fault of the JSON.
pub fn mentions(body: &[u8], text: &[u8]) -> Result<bool, Fault> {
    let text = text.trim_ascii();
    let mut found = false;
    if text.is_empty() {
        return Ok(false);
    }
    let finder = memchr::memmem::Finder::new(text);
    Cursor::new(body).object::<Fault>(|c, key| {
        if key == b"messages" {
            c.array::<Fault>(|c, _| {
                if !found {
                    let message = message::read(c)?;
                    found = message.role != b'a' && finder.find(&message.text).is_some();
                }
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_it_asks() {
        let request = Request::read(
            br#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}],
                "n":2,"stream":true,"stream_options":{"include_usage":true},"tools":[{}],"return_token_ids":true}"#,
        )
        .expect("good JSON");
        assert_eq!(request.model.as_deref(), Some("m"));
        assert_eq!(request.asked, Asked { stream: true, ids: true, usage: true, choices: 2, tools: true });
        assert_eq!((&request.roles[..], request.chain.len()), (&b"su"[..], 2));
        let longer = Request::read(
            br#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"u "}]},{"role":"assistant"}]}"#,
        )
        .expect("good JSON");
        assert_eq!(longer.chain[..2], request.chain[..]);
        for (prompt, choices) in [("\"a\"", 1), ("[1,2]", 1), ("[\"a\",\"b\"]", 2), ("[[1],[2],[3]]", 3)] {
            let text = format!("{{\"prompt\":{prompt}}}");
            assert_eq!(Request::read(text.as_bytes()).expect("good JSON").asked.choices, choices, "{prompt}");
        }
        for bad in ["", "[]", "{", "{} x", r#"{"n":1,"n":2}"#, r#"{"x":{"y":nul}}"#] {
            assert!(Request::read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Request::read(b"{\"x\":\"caf\xe9\"}").is_err());
    }

    #[test]
    fn switches_are_put_in_and_nothing_else_changes() {
        let switch = [("return_token_ids".to_owned(), "true".to_owned())];
        for (before, usage, after) in [
            ("{}", false, r#"{"return_token_ids": true}"#),
            (r#"{"a": 1}"#, false, r#"{"a": 1, "return_token_ids": true}"#),
            (r#"{"return_token_ids":false,"a":"}"}"#, false, r#"{"a":"}", "return_token_ids": true}"#),
            (r#"{"return_token_ids":false}"#, false, r#"{"return_token_ids": true}"#),
            (
                r#"{"stream_options":{"x":1,"include_usage":false},"a":1}"#,
                true,
                r#"{"a":1, "return_token_ids": true, "stream_options": {"x":1, "include_usage": true}}"#,
            ),
            (
                r#"{"stream_options":null}"#,
                true,
                r#"{"return_token_ids": true, "stream_options": {"include_usage": true}}"#,
            ),
        ] {
            let out = amend(before.as_bytes(), &switch, usage).expect("good JSON");
            assert_eq!(String::from_utf8_lossy(&out), after, "{before}");
        }
    }

    #[test]
    fn a_summary_is_found_in_what_is_said_to_the_model() {
        let body =
            br#"{"messages":[{"role":"user","content":"so far:\n\u0041 b"},{"role":"assistant","content":"own"}]}"#;
        assert_eq!(mentions(body, b" A b "), Ok(true));
        assert_eq!(mentions(body, b"own"), Ok(false));
        assert_eq!(mentions(body, b""), Ok(false));
    }
}
