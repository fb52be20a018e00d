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

/// Reads a reply with the very code that will read the log.
///
/// # Errors
/// A fault of the JSON.
pub fn verify(body: &[u8]) -> Result<Reply, Fault> {
    let mut reply = Reply::default();
    let mut messages = Vec::new();
    let mut cursor = Cursor::new(body);
    cursor.object::<Fault>(|c, key| {
        match key {
            b"id" => reply.id = c.text_value()?.map(std::borrow::Cow::into_owned),
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
    let mut parsed = Parsed::default();
    let calls = read_reply(body, &mut parsed)?;
    for (at, call) in calls.iter().enumerate() {
        let said = messages.get_mut(at).map(std::mem::take).unwrap_or_default();
        reply.choices.push(ReplyChoice {
            prompt: call.prompt.as_ref().map(ExactSizeIterator::len),
            output: call.output.as_ref().map(ExactSizeIterator::len),
            bad: call.bad.as_ref().map(|Bad { message, .. }| message.clone()),
            failed: call.failed,
            hash: said.hash,
            calls: said.calls,
            text: String::from_utf8_lossy(&said.text).into_owned(),
        });
    }
    Ok(reply)
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
    }
}
