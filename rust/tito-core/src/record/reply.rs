//! A whole reply: the text without ids for the client, and what the reader of call logs makes of it.

use super::edit::{Edits, Fate};
use super::message;
use crate::capture::{Bad, Parsed, read_reply};
use crate::json::{Cursor, Fault};

/// One choice, as `tito convert` will read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplyChoice {
    /// Ids of the prompt; none are there = `None`.
    pub prompt: Option<usize>,
    /// Ids of the output.
    pub output: Option<usize>,
    /// Why the ids may not be used.
    pub bad: Option<String>,
    /// The engine reports a failure.
    pub failed: bool,
    /// Hash of the message, as a later prompt would hold it.
    pub hash: u64,
    /// Tools are called.
    pub calls: bool,
    /// What the message says.
    pub text: String,
}

/// What a reply holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The engine's id of it.
    pub id: Option<String>,
    /// One or more.
    pub choices: Vec<ReplyChoice>,
    /// `usage` tells the number of output ids.
    pub usage: bool,
}

/// What becomes of a member that holds ids: null where vLLM writes null when nobody asks, gone elsewhere.
pub(super) fn fate(key: &[u8]) -> Fate {
    match key {
        b"prompt_token_ids" | b"token_ids" => Fate::Null,
        b"response_token_ids" | b"output_token_ids" | b"sglext" => Fate::Cut,
        _ => Fate::Keep,
    }
}

/// A reply as the engine would have sent it had nobody asked for ids.
///
/// # Errors
/// A fault of the JSON.
pub fn strip_reply(body: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut edits = Edits::default();
    let mut cursor = Cursor::new(body);
    edits.members(&mut cursor, |edits, c, key| {
        if key == b"choices" {
            c.array::<Fault>(|c, _| edits.members(c, |_, _, key| Ok(fate(key))).map(|_| ()))?;
        }
        Ok(fate(key))
    })?;
    let mut out = Vec::with_capacity(body.len());
    edits.apply(body, &mut out);
    Ok(out)
}

/// Reads a reply with the very code that will read the log. Where the reply tells of an error, or has no
/// choice, it has failed.
///
/// # Errors
/// A fault of the JSON.
pub fn verify(body: &[u8]) -> Result<Reply, Fault> {
    let mut error = false;
    let mut reply = Reply::default();
    let mut messages = Vec::new();
    let mut cursor = Cursor::new(body);
    cursor.object::<Fault>(|c, key| {
        match key {
            b"id" => reply.id = c.text_value()?.map(std::borrow::Cow::into_owned),
            b"error" => error = c.raw()? != b"null",
            b"usage" => {
                c.object::<Fault>(|c, key| {
                    reply.usage |= key == b"completion_tokens" && c.scalar()?.number().is_some();
                    Ok(())
                })?;
            }
            b"choices" => {
                c.array::<Fault>(|c, _| {
                    let mut said = message::Message::default();
                    c.object::<Fault>(|c, key| {
                        match key {
                            b"message" => said = message::read(c)?,
                            b"text" if c.peek() == Some(b'"') => said.text = c.string_bytes()?.into_owned(),
                            _ => {}
                        }
                        Ok(())
                    })?;
                    messages.push(said);
                    Ok(())
                })?;
            }
            _ => {}
        }
        Ok(())
    })?;
    if !cursor.at_end() {
        return Err(Fault { at: cursor.pos(), message: "more text behind the value" });
    }
    error |= messages.is_empty();
    let mut parsed = Parsed::default();
    let calls = read_reply(body, &mut parsed)?;
    if calls.iter().any(|call| call.bad.is_some()) {
        all_json(body)?;
    } else {
        // The lists of ids were read just now, and looking at them once more takes as long again.
        all_json(&without_lists(body)?)?;
    }
    for (at, call) in calls.iter().enumerate() {
        let said = messages.get_mut(at).map(std::mem::take).unwrap_or_default();
        reply.choices.push(ReplyChoice {
            prompt: call.prompt.as_ref().map(ExactSizeIterator::len),
            output: call.output.as_ref().map(ExactSizeIterator::len),
            bad: call.bad.as_ref().map(|Bad { message, .. }| message.clone()),
            failed: call.failed || error,
            hash: said.hash,
            calls: said.calls,
            text: String::from_utf8_lossy(&said.text).into_owned(),
        });
    }
    Ok(reply)
}

/// A reply with null for its lists of ids.
fn without_lists(body: &[u8]) -> Result<Vec<u8>, Fault> {
    let listed = |c: &mut Cursor<'_>, key: &[u8]| {
        let is_list = key.ends_with(b"token_ids") && fate(key) != Fate::Keep && c.peek() == Some(b'[');
        if is_list { Fate::Null } else { Fate::Keep }
    };
    let mut edits = Edits::default();
    edits.members(&mut Cursor::new(body), |edits, c, key| {
        if key == b"choices" {
            c.array::<Fault>(|c, _| edits.members(c, |_, c, key| Ok(listed(c, key))).map(|_| ()))?;
        }
        Ok(listed(c, key))
    })?;
    let mut out = Vec::new();
    edits.apply(body, &mut out);
    Ok(out)
}

/// Whether a text is JSON down to its last value, as everyone who reads the log takes it to be. What is looked for in it
/// is read by a [`Cursor`], which passes over the rest.
pub(super) fn all_json(text: &[u8]) -> Result<(), Fault> {
    let text = std::str::from_utf8(text).map_err(|bad| Fault { at: bad.valid_up_to(), message: "invalid UTF-8" })?;
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault { at: error.column(), message: "a value that is no JSON" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VLLM: &str = r#"{"id":"c1","object":"chat.completion","prompt_token_ids":[9,10,11],"choices":[{"index":0,"message":{"role":"assistant","content":" hi","token_idsx":[1]},"finish_reason":"stop","token_ids":[40,7]}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;

    #[test]
    fn ids_go_and_the_rest_stays() {
        let out = strip_reply(VLLM.as_bytes()).expect("good JSON");
        let expected = VLLM.replace("[9,10,11]", "null").replace("[40,7]", "null");
        assert_eq!(String::from_utf8_lossy(&out), expected);
        let sglang =
            br#"{"choices":[{"index":0,"prompt_token_ids":[9],"response_token_ids":[7]}],"sglext":{"input_ids":[9]}}"#;
        let out = strip_reply(sglang).expect("good JSON");
        assert_eq!(String::from_utf8_lossy(&out), r#"{"choices":[{"index":0,"prompt_token_ids":null}]}"#);
    }

    #[test]
    fn a_reply_is_judged_as_the_log_will_be() {
        let good = verify(VLLM.as_bytes()).expect("good JSON");
        assert_eq!((good.id.as_deref(), good.usage), (Some("c1"), true));
        let choice = &good.choices[0];
        assert_eq!((choice.prompt, choice.output, &choice.bad, choice.text.as_str()), (Some(3), Some(2), &None, "hi"));
        let wrong = VLLM.replace("\"completion_tokens\":2", "\"completion_tokens\":3");
        let bad = verify(wrong.as_bytes()).expect("good JSON").choices[0].bad.clone();
        assert_eq!(bad.as_deref(), Some("usage.completion_tokens is 3, the outputs hold 2 ids"));
        let bare = verify(br#"{"choices":[{"index":0,"token_ids":null}]}"#).expect("good JSON");
        assert_eq!((bare.choices[0].prompt, bare.choices[0].output, bare.usage), (None, None, false));
        assert!(verify(b"{\"choices\":[").is_err() && verify(b"{} {}").is_err());
        let failed = VLLM.replace("{\"id\"", "{\"error\":{\"message\":\"boom\"},\"id\"");
        assert!(verify(failed.as_bytes()).expect("good JSON").choices[0].failed);
        assert!(verify(br#"{"object":"error","message":"boom"}"#).expect("good JSON").choices[0].failed);
    }

    #[test]
    fn what_is_no_json_is_no_reply() {
        for (bad, said) in [
            (&b"{\"x\":{\"y\":nul}}"[..], "a value that is no JSON"),
            (b"{\"x\":{\"y\":\"a\nb\"}}", "a value that is no JSON"),
            (b"{\"x\":\"caf\xe9\"}", "invalid UTF-8"),
        ] {
            assert_eq!(verify(bad).map_err(|fault| fault.message), Err(said));
        }
        for ids in ["[1,nul]", "[1 2]", "[1,]", "[[1,tru]]", "{\"x\":nul}"] {
            let text = format!("{{\"choices\":[{{\"token_ids\":{ids}}}]}}");
            assert!(verify(text.as_bytes()).is_err(), "{ids}");
        }
    }
}
