//! Call logs: one line a call, `{session_id, task_id, agent, turn, started, request, response}`, or `stream` (the raw
//! server-sent events as one string) in place of `response`. Also what stands alone: a bare reply, a bare stream.
//!
//! `tito record` writes such lines, with the log's version in `tito_log`, and between them lines of other types: the
//! engine's identity, the begin and the end of a rollout, and marks of calls that stand before.

use super::call::{Bad, Call, Parsed, Piece, Skip, Who, is_of_field, notes, seconds, status, stop_ids, text, turn};
use super::exchange::{Logged, Reply};
use super::outcome::ReplyFate;
use super::response::Response;
use super::served::Served;
use super::{Origin, Record};
use crate::json::{Cursor, Fault};

/// Version of the log that is read.
const VERSION: i32 = 1;

/// Reads one line of a call log.
pub(super) fn read<'a>(c: &mut Cursor<'a>, parsed: &mut Parsed<'a>, record: &Record<'_>) -> Result<(), Fault> {
    let mut who = Who::default();
    let mut call = record.call();
    let mut response = Response::default();
    let mut known = false;
    let mut version = None;
    let (mut sort, mut mark) = (None, None);
    let (mut tokenizer_hash, mut template_hash) = (None, None);
    let (asked, mut logged) = (parsed.exchanges.is_some(), Logged::default());
    c.object::<Fault>(|c, key| {
        match key {
            b"tito_log" => version = Some(c.scalar()?.int().unwrap_or(0)),
            b"type" => sort = text(c)?,
            b"mark" => mark = text(c)?,
            b"tokenizer_hash" => tokenizer_hash = text(c)?,
            b"template_hash" => template_hash = text(c)?,
            b"text_only" => call.set_aside = c.scalar()?.is_true().then_some(Skip::TextOnly).or(call.set_aside),
            b"consumed" => {
                let mut ids = Vec::new();
                let is_list = c.array::<Fault>(|c, _| {
                    ids.extend(text(c)?);
                    Ok(())
                })?;
                if is_list {
                    who.outcome.consumed = Some(ids.into());
                }
            }
            b"status" => {
                let word = c.text_value()?;
                who.outcome.abandoned = word.as_deref() == Some("abandoned");
                who.status = word.map(|word| status(&word).into());
            }
            b"response" => {
                c.once(&mut known)?;
                if asked {
                    logged.reply = Reply::Whole(c.clone());
                }
                response.read(c, parsed)?;
            }
            b"stream" => {
                if c.peek() == Some(b'"') {
                    c.once(&mut known)?;
                    let at = c.pos();
                    let events = c.string_bytes()?;
                    response.read_stream(&events, parsed).map_err(|f| Fault { at, ..f })?;
                    if asked {
                        logged.reply = Reply::Events(events.into_owned());
                    }
                }
            }
            b"request" => {
                logged.request = asked.then(|| c.clone());
                c.object::<Fault>(|c, key| {
                    match key {
                        b"stop_token_ids" => call.stop_ids = stop_ids(c)?,
                        b"messages" => parsed.passed.skip(c)?,
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            b"turn" => call.turn = turn(c)?,
            b"kind" => call.kind = text(c)?,
            b"call_id" => call.call_id = text(c)?,
            b"annotations" => call.notes = notes(c)?,
            b"started" | b"timestamp" => call.started = call.started.or(seconds(&c.scalar()?)),
            b"parse_error" => call.parse_error |= c.scalar()?.is_true(),
            b"error" => {
                let error = c.raw()?;
                call.failed |= !matches!(error, b"null" | b"false" | b"\"\"");
                Cursor::new(error).object::<Fault>(|c, key| {
                    if key == b"type" {
                        // What `tito record` calls failures that have a reason of their own here.
                        call.set_aside = match text(c)?.as_deref() {
                            Some("context_overflow") => Some(Skip::ContextOverflow),
                            Some("missing_ids") => Some(Skip::NoCapture),
                            _ => call.set_aside,
                        };
                    }
                    Ok(())
                })?;
            }
            _ => {
                if !who.take(key, c)? && version.is_none() {
                    parsed.unread.note(key);
                }
            }
        }
        Ok(())
    })?;
    if let Some(version) = version {
        if version != VERSION {
            let message = format!("version {version} of the call log; version {VERSION} is read");
            parsed.lose(record, Bad::unknown(&message));
            return Ok(());
        }
        match sort.as_deref() {
            Some("call") => {}
            Some("identity") => {
                if tokenizer_hash.is_some() || template_hash.is_some() {
                    parsed.served.push(Served { place: record.place(), tokenizer_hash, template_hash });
                }
                return Ok(());
            }
            Some("begin" | "end" | "mark") => {
                let told = &mut who.outcome;
                (told.begun, told.ended) = (sort.as_deref() == Some("begin"), sort.as_deref() == Some("end"));
                if let (Some(id), Some(word)) = (call.call_id, mark) {
                    let mark = match &*word {
                        "kept" => ReplyFate::Kept,
                        "parse_error" => ReplyFate::ParseError,
                        "dropped" => ReplyFate::Dropped,
                        _ => ReplyFate::Kind(call.kind.unwrap_or_default()),
                    };
                    told.marks.push((id, mark));
                }
                push_piece(parsed, record, who, 0);
                return Ok(());
            }
            _ => {
                let message = format!("no type of line that a call log has: {:?}", sort.unwrap_or_default());
                parsed.lose(record, Bad::unknown(&message));
                return Ok(());
            }
        }
    }
    if !known && !call.failed {
        parsed.lose(record, Bad::unknown("no `response` and no `stream` in a call log"));
        return Ok(());
    }
    if let Some(exchanges) = &mut parsed.exchanges {
        exchanges.logged(parsed.calls.len(), logged);
    }
    push(parsed, record, who, &call, response);
    Ok(())
}

/// Reads a bare reply: a record that is a chat completion or a text completion.
pub(super) fn read_bare<'a>(c: &mut Cursor<'a>, parsed: &mut Parsed<'a>, record: &Record<'_>) -> Result<(), Fault> {
    let mut response = Response::default();
    let mut who = Who::default();
    let mut call = record.call();
    c.object::<Fault>(|c, key| {
        match key {
            b"turn" => call.turn = turn(c)?,
            b"kind" => call.kind = text(c)?,
            b"annotations" => call.notes = notes(c)?,
            b"started" | b"timestamp" => call.started = seconds(&c.scalar()?),
            _ if who.take(key, c)? => {}
            _ => response.root_key(c, key, parsed)?,
        }
        Ok(())
    })?;
    if response.is_reply() {
        push(parsed, record, who, &call, response);
    } else {
        parsed.lose(record, Bad::unknown("no `choices` in a reply"));
    }
    Ok(())
}

/// Reads a file of server-sent events: one reply up to each `[DONE]`.
pub(super) fn read_events(mut events: &[u8], parsed: &mut Parsed<'_>, origin: &Origin) {
    let mut number = 0;
    loop {
        events = events.trim_ascii_start();
        if events.is_empty() {
            return;
        }
        number += 1;
        let record = Record { origin, number, item: 0 };
        let mut response = Response::default();
        match response.read_stream(events, parsed) {
            Ok(read) => {
                events = &events[read..];
                if response.is_reply() {
                    push(parsed, &record, Who::default(), &Call { record: number, ..Call::default() }, response);
                }
            }
            Err(fault) => {
                // What follows up to the next end of a stream may belong to the broken one.
                parsed.lose(&record, Bad::json(&fault));
                let rest = &events[fault.at.min(events.len())..];
                let Some(done) = memchr::memmem::find(rest, b"[DONE]") else { return };
                events = &rest[done + b"[DONE]".len()..];
            }
        }
    }
}

fn push(parsed: &mut Parsed<'_>, record: &Record<'_>, who: Who, call: &Call, response: Response) {
    let calls = response.into_calls(parsed, call);
    let count = calls.len();
    parsed.calls.extend(calls);
    push_piece(parsed, record, who, count);
}

/// Adds the piece that the last `count` calls are; none of them is a line that only tells of a rollout.
fn push_piece(parsed: &mut Parsed<'_>, record: &Record<'_>, who: Who, count: usize) {
    // Without a session a reply is all that is known of its rollout.
    let complete = who.rollout_id.is_none();
    parsed.pieces.push(Piece {
        who,
        calls: parsed.calls.len() - count..parsed.calls.len(),
        complete,
        numbered: false,
        scope: "".into(),
        file: record.origin.file.clone(),
        format: record.origin.format.name,
    });
}

/// Reads a reply that stands alone, and judges it as one in a log.
///
/// # Errors
/// A fault of the JSON.
pub fn read_reply<'a>(body: &'a [u8], parsed: &mut Parsed<'a>) -> Result<Vec<Call>, Fault> {
    let mut response = Response::default();
    response.read(&mut Cursor::new(body), parsed)?;
    Ok(response.into_calls(parsed, &Call::default()))
}

impl Bad {
    /// A record that is JSON but holds nothing to read.
    #[must_use]
    pub fn unknown(message: &str) -> Self {
        Self { reason: Skip::UnknownRecord, position: None, message: message.to_owned() }
    }

    /// A record that is not JSON.
    #[must_use]
    pub fn json(fault: &Fault) -> Self {
        if is_of_field(fault) {
            let message = fault.message.to_owned();
            return Self { reason: Skip::BadField, position: Some(fault.at as u64), message };
        }
        Self { reason: Skip::BadJson, position: Some(fault.at as u64), message: format!("not JSON: {}", fault.message) }
    }
}
