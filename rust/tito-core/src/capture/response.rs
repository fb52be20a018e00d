//! A reply in OpenAI's shape, with ids: vLLM chat and completions, SGLang chat, and both as LiteLLM saves them.
//!
//! Where the ids may stand, first match wins: prompt at the root, then per choice, then under
//! `provider_specific_fields`, then `sglext`; output likewise. A stream is the same reply in pieces: ids are deltas,
//! joined by choice index, and `usage` must agree with what was joined.

use super::call::{Bad, Call, Finish, Parsed, Skip, seconds, text};
use crate::ids::Id;
use crate::json::{Cursor, Fault, IdFault, IdList, IdReader, Scalar};
use crate::rows::Text;

type Read = std::result::Result<Option<IdList>, IdFault>;

/// One reply while it is read.
#[derive(Debug, Default)]
pub struct Response {
    id: Option<Text>,
    created: Option<f64>,
    prompt: Option<(Read, &'static str)>,
    sglext_prompt: Option<Read>,
    sglext_outputs: Vec<Read>,
    choices: Vec<Choice>,
    usage_prompt: Option<u64>,
    usage_completion: Option<u64>,
    odd_usage: bool,
    failed: bool,
    seen: bool,
}

#[derive(Debug)]
struct Choice {
    index: i32,
    prompt: Option<(u8, Read, &'static str)>,
    output: Option<(u8, Read, &'static str)>,
    /// Deltas of a stream.
    joined: Vec<Id>,
    joined_fault: Option<IdFault>,
    streamed: bool,
    logprobs: Option<Vec<f32>>,
    finish: Finish,
    stop_string: bool,
    stop_id: Option<Id>,
}

impl Choice {
    fn new(index: i32) -> Self {
        Self {
            index,
            prompt: None,
            output: None,
            joined: Vec::new(),
            joined_fault: None,
            streamed: false,
            logprobs: None,
            finish: Finish::Unknown,
            stop_string: false,
            stop_id: None,
        }
    }
}

/// Puts what was read into a slot unless a better place was read before; null is nothing.
fn offer(slot: &mut Option<(u8, Read, &'static str)>, rank: u8, read: Read, key: &'static str) {
    if !matches!(read, Ok(None)) && slot.as_ref().is_none_or(|(best, ..)| rank < *best) {
        *slot = Some((rank, read, key));
    }
}

const OUTPUT_KEYS: [(&[u8], &str); 3] = [
    (b"token_ids", "token_ids"),
    (b"response_token_ids", "response_token_ids"),
    (b"output_token_ids", "output_token_ids"),
];

impl Response {
    /// Reads a whole reply.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn read<'a>(&mut self, cursor: &mut Cursor<'a>, parsed: &mut Parsed<'a>) -> Result<(), Fault> {
        cursor.object(|c, key| self.root_key(c, key, parsed))?;
        Ok(())
    }

    /// Takes one key of a reply's root.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn root_key<'a>(&mut self, c: &mut Cursor<'a>, key: &[u8], parsed: &mut Parsed<'a>) -> Result<(), Fault> {
        match key {
            b"prompt_token_ids" => {
                let read = parsed.prompts.read_like_before(c)?;
                if !matches!(read, Ok(None)) {
                    self.prompt = Some((read, "prompt_token_ids"));
                }
            }
            b"choices" => {
                c.once(&mut self.seen)?;
                c.array(|c, at| self.choice(c, at, parsed))?;
            }
            b"sglext" => {
                c.object::<Fault>(|c, key| match key {
                    b"input_ids" => {
                        self.sglext_prompt = Some(parsed.prompts.read_like_before(c)?);
                        Ok(())
                    }
                    b"output_ids" => c
                        .array::<Fault>(|c, _| {
                            self.sglext_outputs.push(parsed.outputs.read(c)?);
                            Ok(())
                        })
                        .map(|_| ()),
                    _ => Ok(()),
                })?;
            }
            _ => self.small_key(c, key)?,
        }
        Ok(())
    }

    fn small_key(&mut self, c: &mut Cursor<'_>, key: &[u8]) -> Result<(), Fault> {
        match key {
            b"id" => self.id = c.text_value()?.map(|id| Text::from(&*id)),
            b"created" => self.created = seconds(&c.scalar()?),
            b"error" => self.failed |= c.raw()? != b"null",
            b"usage" => {
                c.object::<Fault>(|c, key| {
                    match key {
                        b"prompt_tokens" => self.usage_prompt = self.count(c)?,
                        b"completion_tokens" => self.usage_completion = self.count(c)?,
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A number of tokens; null is none, anything else is a lie to be told.
    fn count(&mut self, c: &mut Cursor<'_>) -> Result<Option<u64>, Fault> {
        let raw = c.raw()?;
        let count = std::str::from_utf8(raw).ok().and_then(|text| text.parse().ok());
        self.odd_usage |= count.is_none() && raw != b"null";
        Ok(count)
    }

    fn choice<'a>(&mut self, c: &mut Cursor<'a>, at: usize, parsed: &mut Parsed<'a>) -> Result<(), Fault> {
        let mut choice = Choice::new(at as i32);
        c.object::<Fault>(|c, key| {
            match key {
                b"index" => choice.index = c.scalar()?.int().unwrap_or(choice.index),
                b"prompt_token_ids" => {
                    offer(&mut choice.prompt, 0, parsed.prompts.read_like_before(c)?, "choices[].prompt_token_ids");
                }
                b"provider_specific_fields" => {
                    c.object::<Fault>(|c, key| {
                        if key == b"prompt_token_ids" {
                            let read = parsed.prompts.read_like_before(c)?;
                            offer(&mut choice.prompt, 1, read, "provider_specific_fields.prompt_token_ids");
                        } else if let Some(n) = OUTPUT_KEYS.iter().position(|(k, _)| *k == key) {
                            offer(&mut choice.output, 3 + n as u8, parsed.outputs.read(c)?, OUTPUT_KEYS[n].1);
                        } else {
                            stop_key(&mut choice, c, key)?;
                        }
                        Ok(())
                    })?;
                }
                b"message" => {
                    c.object::<Fault>(|c, key| {
                        if key == b"token_ids" {
                            offer(&mut choice.output, 6, parsed.outputs.read(c)?, "message.token_ids");
                        }
                        Ok(())
                    })?;
                }
                b"logprobs" => choice.logprobs = logprobs(c)?,
                _ => {
                    if let Some(n) = OUTPUT_KEYS.iter().position(|(k, _)| *k == key) {
                        offer(&mut choice.output, n as u8, parsed.outputs.read(c)?, OUTPUT_KEYS[n].1);
                    } else {
                        stop_key(&mut choice, c, key)?;
                    }
                }
            }
            Ok(())
        })?;
        self.choices.push(choice);
        Ok(())
    }

    /// Takes one chunk of a stream.
    fn chunk(&mut self, c: &mut Cursor<'_>, parsed: &mut Parsed<'_>) -> Result<(), Fault> {
        let mut root_prompt: Read = Ok(None);
        let mut ids = IdReader::default();
        c.object::<Fault>(|c, key| {
            match key {
                b"prompt_token_ids" => root_prompt = parsed.prompts.read(c)?,
                b"choices" => {
                    self.seen = true;
                    c.array::<Fault>(|c, _| self.chunk_choice(c, parsed, &mut ids))?;
                }
                _ => self.small_key(c, key)?,
            }
            Ok(())
        })?;
        if !c.at_end() {
            return Err(Fault { at: c.pos(), message: "more text behind the value" });
        }
        // Each choice's first chunk repeats the prompt; one is enough.
        if self.prompt.is_none() && !matches!(root_prompt, Ok(None)) {
            self.prompt = Some((root_prompt, "prompt_token_ids"));
        }
        Ok(())
    }

    fn chunk_choice(
        &mut self,
        c: &mut Cursor<'_>,
        parsed: &mut Parsed<'_>,
        ids: &mut IdReader<'static>,
    ) -> Result<(), Fault> {
        // The index may stand behind the ids: read into a fresh choice, then join.
        let mut delta = Choice::new(0);
        let mut delta_logprobs = None;
        ids.values.clear();
        c.object::<Fault>(|c, key| {
            match key {
                b"index" => delta.index = c.scalar()?.int().unwrap_or(0),
                b"token_ids" => match ids.read(c)? {
                    Ok(list) => delta.streamed = list.is_some(),
                    Err(fault) => delta.joined_fault = Some(fault),
                },
                b"prompt_token_ids" => {
                    offer(&mut delta.prompt, 0, parsed.prompts.read(c)?, "choices[].prompt_token_ids");
                }
                b"logprobs" => delta_logprobs = logprobs(c)?,
                _ => stop_key(&mut delta, c, key)?,
            }
            Ok(())
        })?;
        let at = self.choices.iter().position(|known| known.index == delta.index).unwrap_or_else(|| {
            self.choices.push(Choice::new(delta.index));
            self.choices.len() - 1
        });
        let choice = &mut self.choices[at];
        choice.joined.extend_from_slice(&ids.values);
        choice.streamed |= delta.streamed;
        choice.joined_fault = choice.joined_fault.take().or(delta.joined_fault);
        choice.prompt = choice.prompt.take().or(delta.prompt);
        choice.stop_string |= delta.stop_string;
        choice.stop_id = choice.stop_id.or(delta.stop_id);
        if delta.finish != Finish::Unknown {
            choice.finish = delta.finish;
        }
        if let Some(more) = delta_logprobs {
            choice.logprobs.get_or_insert_default().extend(more);
        }
        Ok(())
    }

    /// Reads server-sent events up to `[DONE]` or the end; gives the number of bytes read.
    ///
    /// # Errors
    /// A fault of the JSON inside an event; its offset counts from the start of `text`.
    pub fn read_stream(&mut self, text: &[u8], parsed: &mut Parsed<'_>) -> Result<usize, Fault> {
        let mut at = 0;
        let mut done = false;
        while at < text.len() && !done {
            let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n + 1);
            if let Some(data) = text[at..end].trim_ascii().strip_prefix(b"data:") {
                let data = data.trim_ascii();
                if data == b"[DONE]" {
                    done = true;
                } else if !data.is_empty() {
                    self.chunk(&mut Cursor::new(data), parsed).map_err(|f| Fault { at: at + f.at, ..f })?;
                }
            }
            at = end;
        }
        // A client that went away leaves no [DONE]; whether ids are missing is then for `usage` and the finish to say.
        if !done && self.choices.iter().any(|c| c.finish == Finish::Unknown) {
            self.failed = true;
        }
        Ok(at)
    }

    /// The calls of the reply, one a choice. `defaults` holds what is known from elsewhere.
    pub fn into_calls(mut self, parsed: &mut Parsed<'_>, defaults: &Call) -> Vec<Call> {
        let mut calls = Vec::new();
        if self.choices.is_empty() {
            // A failed request has no choices; a reply without choices has lost its ids.
            calls.push(Call { failed: self.failed || defaults.failed, call_id: self.id.take(), ..defaults.clone() });
            return calls;
        }
        for mut choice in std::mem::take(&mut self.choices) {
            let mut call = Call { choice: choice.index, ..defaults.clone() };
            call.call_id = self.id.clone().or(call.call_id);
            call.started = call.started.or(self.created);
            call.failed |= self.failed || choice.finish == Finish::Failed;
            call.finish = choice.finish;
            call.stop_string |= choice.stop_string;
            call.stop_id = choice.stop_id;
            let from_choice = choice.prompt.take().map(|(_, read, key)| (read, key));
            let from_sglext = self.sglext_prompt.clone().map(|read| (read, "sglext.input_ids"));
            if let Some((read, key)) = self.prompt.clone().or(from_choice).or(from_sglext) {
                parsed.set_prompt(&mut call, read, key);
            }
            if let Some(fault) = choice.joined_fault {
                parsed.set_output(&mut call, Err(fault), "token_ids");
            } else if choice.streamed {
                let start = parsed.outputs.values.len();
                let max = choice.joined.iter().copied().max().unwrap_or(-1);
                parsed.outputs.values.extend_from_slice(&choice.joined);
                let ids = start..parsed.outputs.values.len();
                parsed.set_output(&mut call, Ok(Some(IdList { ids, max })), "token_ids");
            } else if let Some((_, read, key)) = choice.output {
                parsed.set_output(&mut call, read, key);
            } else if let Some(read) = usize::try_from(choice.index).ok().and_then(|i| self.sglext_outputs.get(i)) {
                parsed.set_output(&mut call, read.clone(), "sglext.output_ids");
            }
            // An empty list means that nobody asked for logprobs.
            if let Some(values) = choice.logprobs.filter(|values| !values.is_empty()) {
                let start = parsed.logprobs.len();
                parsed.logprobs.extend(values);
                call.logprobs = Some(start..parsed.logprobs.len());
            }
            calls.push(call);
        }
        if !calls.iter().any(|call| call.failed) {
            self.check_usage(&mut calls, &parsed.prompts.values);
        }
        for call in &mut calls {
            parsed.check_logprobs(call);
        }
        calls
    }

    fn check_usage(&self, calls: &mut [Call], arena: &[Id]) {
        let Some(message) = self.usage_mismatch(calls, arena) else { return };
        for call in calls.iter_mut().filter(|call| call.bad.is_none()) {
            call.bad = Some(Bad { reason: Skip::UsageMismatch, position: None, message: message.clone() });
        }
    }

    fn usage_mismatch(&self, calls: &[Call], arena: &[Id]) -> Option<String> {
        if self.odd_usage {
            return Some("usage holds a number of tokens that is no whole number".to_owned());
        }
        let outputs: Option<u64> = calls.iter().map(|call| call.output.as_ref().map(|ids| ids.len() as u64)).sum();
        if let (Some(said), Some(seen)) = (self.usage_completion, outputs)
            && said != seen
        {
            return Some(format!("usage.completion_tokens is {said}, the outputs hold {seen} ids"));
        }
        // Choices of one request share a prompt; a completions request may also hold a list of prompts, each with its
        // choices side by side.
        let mut prompts: Vec<_> =
            calls.iter().filter_map(|call| call.prompt.as_ref().map(|range| &arena[range.clone()])).collect();
        let first = prompts.first()?.len() as u64;
        let all: u64 = prompts.iter().map(|ids| ids.len() as u64).sum();
        prompts.dedup();
        let different: u64 = prompts.iter().map(|ids| ids.len() as u64).sum();
        let said = self.usage_prompt?;
        // Only choices with prompts of their own may have been sent as several prompts.
        let all = if self.prompt.is_some() { first } else { all };
        (![first, different, all].contains(&said))
            .then(|| format!("usage.prompt_tokens is {said}, the prompt holds {first} ids"))
    }

    /// Gives a call whose ids are known its id and finish from the saved reply.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn describe(c: &mut Cursor<'_>, call: &mut Call) -> Result<(), Fault> {
        let mut counts = Self::default();
        let mut choices = 0;
        c.object::<Fault>(|c, key| {
            match key {
                b"id" => call.call_id = text(c)?,
                b"created" => call.started = call.started.or(seconds(&c.scalar()?)),
                b"choices" => {
                    let mut choice = Choice::new(0);
                    c.array::<Fault>(|c, at| {
                        choices += 1;
                        if at == 0 {
                            c.object::<Fault>(|c, key| stop_key(&mut choice, c, key))?;
                        }
                        Ok(())
                    })?;
                    call.finish = choice.finish;
                    call.stop_string = choice.stop_string;
                    call.stop_id = choice.stop_id;
                }
                b"usage" => counts.small_key(c, key)?,
                _ => {}
            }
            Ok(())
        })?;
        if choices == 1
            && let (Some(said), Some(output)) = (counts.usage_completion, &call.output)
            && said != output.len() as u64
        {
            let message = format!("usage.completion_tokens is {said}, the outputs hold {} ids", output.len());
            call.bad = call.bad.take().or(Some(Bad { reason: Skip::UsageMismatch, position: None, message }));
        }
        Ok(())
    }

    /// Whether the text looked like a reply at all.
    #[must_use]
    pub fn is_reply(&self) -> bool {
        self.seen || self.failed || self.prompt.is_some()
    }
}

fn stop_key(choice: &mut Choice, c: &mut Cursor<'_>, key: &[u8]) -> Result<(), Fault> {
    match key {
        b"finish_reason" => {
            if let Some(word) = c.text_value()? {
                choice.finish = Finish::parse(&word);
            }
        }
        b"stop_reason" | b"matched_stop" => match c.scalar()? {
            Scalar::Text(text) => {
                // SGLang writes this when it replaced an impossible sample by a stop id.
                choice.stop_string = text != "NaN happened" && text != "repetition_detected";
                if !choice.stop_string {
                    choice.finish = Finish::Failed;
                }
            }
            other => choice.stop_id = other.int().or(choice.stop_id),
        },
        _ => {}
    }
    Ok(())
}

/// Logprobs of the sampled ids: chat's `content[].logprob` or completions' `token_logprobs`.
fn logprobs(c: &mut Cursor<'_>) -> Result<Option<Vec<f32>>, Fault> {
    let mut values = None;
    c.object::<Fault>(|c, key| {
        match key {
            b"content" => {
                let mut list = Vec::new();
                let is_list = c.array::<Fault>(|c, _| {
                    let mut value = f32::NAN;
                    c.object::<Fault>(|c, key| {
                        if key == b"logprob" {
                            value = float(&c.scalar()?);
                        }
                        Ok(())
                    })?;
                    list.push(value);
                    Ok(())
                })?;
                values = is_list.then_some(list).or(values.take());
            }
            b"token_logprobs" => values = floats(c)?.or(values.take()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(values)
}

/// A logprob; minus infinity is one.
fn float(value: &Scalar<'_>) -> f32 {
    match value {
        Scalar::Number(n) => *n as f32,
        _ => f32::NAN,
    }
}

/// A list of floats; entries that are none become NaN, so that the length stays what it is.
///
/// # Errors
/// A fault of the JSON.
pub fn floats(c: &mut Cursor<'_>) -> Result<Option<Vec<f32>>, Fault> {
    let mut list = Vec::new();
    let is_list = c.array::<Fault>(|c, _| {
        list.push(float(&c.scalar()?));
        Ok(())
    })?;
    Ok(is_list.then_some(list))
}
