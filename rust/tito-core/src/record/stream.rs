//! A stream of server-sent events on its way: each event goes on as soon as it is whole, less what nobody asked for,
//! and its deltas are joined to the reply that the log keeps. Texts and ids are joined as they are written.
//!
//! What ends the reply for a client (the last finish reason, `[DONE]`) is held back until the reply is on disk.

use super::edit::{Edits, Fate};
use super::reply;
use crate::capture::joined::{Choice, Member, choice_of, member, name, put};
use crate::json::{Cursor, Fault};

/// What a client that asked for nothing would not have been sent.
#[derive(Debug, Clone, Copy)]
struct Hide {
    ids: bool,
    usage: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Stream {
    hide: Hide,
    expected: usize,
    buffer: Vec<u8>,
    /// What was held back.
    held: Vec<u8>,
    holding: bool,
    done: bool,
    error: Option<Vec<u8>>,
    fault: Option<String>,
    chunks: u64,
    roots: Vec<Member>,
    choices: Vec<Choice>,
}

impl Stream {
    /// A stream of a reply with so many choices.
    #[must_use]
    pub fn new(choices: usize, hide_ids: bool, hide_usage: bool) -> Self {
        Self {
            hide: Hide { ids: hide_ids, usage: hide_usage },
            expected: choices.max(1),
            buffer: Vec::new(),
            held: Vec::new(),
            holding: false,
            done: false,
            error: None,
            fault: None,
            chunks: 0,
            roots: Vec::new(),
            choices: Vec::new(),
        }
    }

    /// Takes bytes as they came; gives what goes on to the client now.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        // What came before holds no whole event: of its end only the part that may begin a blank line is looked at again,
        // or an event that comes in many pieces would be read as many times.
        let mut from = self.buffer.len().saturating_sub(2);
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while let Some(end) = event_end(&buffer, from) {
            self.event(&buffer[at..end], &mut out);
            (at, from) = (end, end);
        }
        self.buffer = buffer;
        self.buffer.drain(..at);
        out
    }

    /// The stream ended with `[DONE]`.
    #[must_use]
    pub fn done(&self) -> bool {
        self.done
    }

    /// Every choice has a finish reason.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.choices.len() >= self.expected && self.choices.iter().all(|choice| choice.finished)
    }

    /// The error that the engine sent in the stream, as it stood there.
    #[must_use]
    pub fn error(&self) -> Option<&[u8]> {
        self.error.as_deref()
    }

    /// Why an event could not be read.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Events with a chunk.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Events that were held back, all of them whole.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    fn event(&mut self, event: &[u8], out: &mut Vec<u8>) {
        let mut edited = Vec::new();
        let passes = match self.read_event(event, &mut edited) {
            Ok(passes) => passes,
            Err(fault) => {
                // What cannot be read cannot be recorded, so it does not go on either.
                self.fault.get_or_insert_with(|| format!("an event of the stream is not JSON: {}", fault.message));
                false
            }
        };
        self.holding |= self.done || self.finished();
        if passes {
            if self.holding { self.held.extend_from_slice(&edited) } else { out.extend_from_slice(&edited) }
        }
    }

    /// Reads an event and writes what is left of it; false when nobody asked for it.
    fn read_event(&mut self, event: &[u8], out: &mut Vec<u8>) -> Result<bool, Fault> {
        let mut passes = true;
        let mut at = 0;
        while at < event.len() {
            let end = memchr::memchr(b'\n', &event[at..]).map_or(event.len(), |n| at + n + 1);
            let line = &event[at..end];
            at = end;
            let Some(rest) = line.trim_ascii_start().strip_prefix(b"data:").map(<[u8]>::trim_ascii_start) else {
                out.extend_from_slice(line);
                continue;
            };
            let (start, data) = (line.len() - rest.len(), rest.trim_ascii_end());
            if data == b"[DONE]" {
                self.done = true;
                out.extend_from_slice(line);
            } else if data.is_empty() {
                out.extend_from_slice(line);
            } else {
                let mut edits = Edits::default();
                passes &= self.chunk(data, &mut edits)?;
                // The text from `data:` up to the JSON, and the line's end, stay what they are.
                out.extend_from_slice(&line[..start]);
                edits.apply(data, out);
                out.extend_from_slice(&line[start + data.len()..]);
            }
        }
        Ok(passes)
    }

    fn chunk(&mut self, data: &[u8], edits: &mut Edits) -> Result<bool, Fault> {
        self.chunks += 1;
        let (mut empty, mut ours) = (true, false);
        let mut cursor = Cursor::new(data);
        let hide = self.hide;
        edits.members(&mut cursor, |edits, c, key| {
            match key {
                b"choices" => {
                    c.array::<Fault>(|c, _| {
                        empty = false;
                        self.choice(c, edits)
                    })?;
                    return Ok(Fate::Keep);
                }
                b"object" => {
                    let object = c.raw()?;
                    let whole: &[u8] =
                        if object == b"\"chat.completion.chunk\"" { b"\"chat.completion\"" } else { object };
                    put(&mut self.roots, key, whole);
                }
                b"error" => {
                    let error = c.raw()?;
                    if error != b"null" {
                        self.error.get_or_insert_with(|| error.to_vec());
                        empty = false;
                    }
                }
                _ => {
                    let value = c.raw()?;
                    if value != b"null" {
                        ours |= matches!(key, b"usage" if hide.usage) || matches!(key, b"sglext" if hide.ids);
                        put(&mut self.roots, key, value);
                    }
                }
            }
            Ok(match key {
                b"usage" if hide.usage => Fate::Cut,
                _ if hide.ids => gone(key),
                _ => Fate::Keep,
            })
        })?;
        if !cursor.at_end() {
            return Err(Fault { at: cursor.pos(), message: "more text behind the value" });
        }
        Ok(!(empty && ours))
    }

    fn choice(&mut self, c: &mut Cursor<'_>, edits: &mut Edits) -> Result<(), Fault> {
        let choice = choice_of(&mut self.choices, c)?;
        let hide = self.hide.ids;
        edits.members(c, |_, c, key| {
            choice.take(c, key)?;
            Ok(if hide { gone(key) } else { Fate::Keep })
        })?;
        Ok(())
    }

    /// The reply that the deltas make, as one JSON object.
    #[must_use]
    pub fn reply(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.push(b'{');
        for (key, value) in self.roots.iter().filter(|(key, _)| key != b"usage") {
            member(&mut out, key, value);
        }
        if let Some(error) = &self.error {
            member(&mut out, b"error", error);
        }
        name(&mut out, b"choices");
        out.push(b'[');
        let mut choices: Vec<_> = self.choices.iter().collect();
        choices.sort_by_key(|choice| choice.index);
        for (at, choice) in choices.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            choice.write(&mut out);
        }
        out.push(b']');
        if let Some((_, usage)) = self.roots.iter().find(|(key, _)| key == b"usage") {
            member(&mut out, b"usage", usage);
        }
        out.push(b'}');
        out
    }
}

/// In chunks unset keys are left out, so ids go with their keys.
fn gone(key: &[u8]) -> Fate {
    if reply::fate(key) == Fate::Keep { Fate::Keep } else { Fate::Cut }
}

/// Where the first event ends whose blank line begins at `from` or later: behind that line.
fn event_end(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(n) = memchr::memchr(b'\n', &text[at..]) {
        let next = at + n + 1;
        match &text[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => at = next,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::verify;
    use super::*;
    use serde_json::{Value, json};

    fn run(events: &str, step: usize, hide: bool) -> (Stream, String) {
        let mut stream = Stream::new(1, hide, hide);
        let mut out = Vec::new();
        for part in events.as_bytes().chunks(step) {
            out.extend(stream.feed(part));
        }
        (stream, String::from_utf8(out).expect("text"))
    }

    const EVENTS: &str = concat!(
        ": ping\n\n",
        r#"data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"prompt_token_ids":[9,10,11]}"#,
        "\n\n",
        r#"data: {"id":"c1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"h\"e\ud83d"},"token_ids":[40,41],"logprobs":{"content":[{"logprob":-1}, {"logprob":-2}]}}]}"#,
        "\n\n",
        r#"data: {"id":"c1","choices":[{"index":0,"delta":{"content":"\ude00","tool_calls":[{"index":0,"id":"t1","type":"function","function":{"name":"f","arguments":"{\"a"}}]},"token_ids":[42],"logprobs":{"content":[{"logprob":-3}]}}]}"#,
        "\r\n\r\n",
        r#"data: {"id":"c1","choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\":1}"}}]},"index":0,"finish_reason":"stop","token_ids":[7],"logprobs":{"content":[{"logprob":-4}]}}]}"#,
        "\n\n",
        r#"data: {"id":"c1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
        "\n\ndata: [DONE]\n\n",
    );

    #[test]
    fn deltas_make_the_reply_however_they_are_cut() {
        let expected = json!({
            "id": "c1", "object": "chat.completion", "created": 1, "model": "m", "prompt_token_ids": [9, 10, 11],
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "h\"e\u{1f600}",
                            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
                "logprobs": {"content": [{"logprob": -1}, {"logprob": -2}, {"logprob": -3}, {"logprob": -4}]},
                "finish_reason": "stop", "token_ids": [40, 41, 42, 7],
            }],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        });
        for step in [1, 2, 7, 100, EVENTS.len()] {
            let (stream, out) = run(EVENTS, step, true);
            assert_eq!(serde_json::from_slice::<Value>(&stream.reply()).expect("good JSON"), expected);
            assert!(stream.done() && stream.finished() && stream.error().is_none() && stream.fault().is_none());
            assert_eq!(stream.chunks(), 5);
            let held = String::from_utf8_lossy(stream.held());
            assert!(!out.contains("token_ids") && !held.contains("token_ids"), "{out}{held}");
            assert!(!held.contains("usage") && held.ends_with("data: [DONE]\n\n") && held.contains("finish_reason"));
            assert!(out.starts_with(": ping\n\ndata: {\"id\":\"c1\"") && out.contains("h\\\"e"));
            let reply = verify(&stream.reply()).expect("good JSON");
            assert_eq!(
                (reply.choices[0].prompt, reply.choices[0].output, &reply.choices[0].bad),
                (Some(3), Some(4), &None)
            );
        }
    }

    #[test]
    fn an_event_ends_where_its_blank_line_does_however_it_came() {
        for text in ["data: {}\n\n", "data: {}\r\n\r\n", "a\n\r\n", "\n\n", "\ndata: {}\n\n", "\r\n\r\ndata: {}\n\n"] {
            for step in 1..=text.len() {
                let mut stream = Stream::new(1, false, false);
                let passed: Vec<_> = text.as_bytes().chunks(step).flat_map(|part| stream.feed(part)).collect();
                assert_eq!((passed.as_slice(), stream.buffer.len()), (text.as_bytes(), 0), "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn what_was_asked_for_goes_on_byte_for_byte() {
        let (stream, out) = run(EVENTS, 11, false);
        assert_eq!(out + &String::from_utf8_lossy(stream.held()), EVENTS);
    }

    #[test]
    fn a_stream_that_breaks_says_how() {
        let (cut, _) = run(&EVENTS[..EVENTS.len() - 14], 9, true);
        assert!(!cut.done() && cut.finished());
        let (error, out) = run("data: {\"error\":{\"message\":\"boom\"}}\n\n", 5, true);
        assert_eq!((error.error(), out.contains("boom")), (Some(&b"{\"message\":\"boom\"}"[..]), true));
        let (torn, _) = run("data: {\"choices\":[\n\ndata: [DONE]\n\n", 50, true);
        assert!(torn.fault().is_some_and(|fault| fault.starts_with("an event of the stream is not JSON")));
    }
}
