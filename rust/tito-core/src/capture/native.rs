//! The project's own JSON lines: `{prompt_ids, output_ids, ...}`, one call a line, flat or with a nested `metadata`.
//!
//! `input_ids` is taken for `prompt_ids`, so that rows written as JSONL and other people's `{input_ids, output_ids}`
//! are read too. Lines that bring a loss of their own are refused: what is trained is for policies to say.

use super::Record;
use super::call::{Bad, Call, Finish, Parsed, Piece, Who, notes, seconds, stop_ids, text, turn};
use super::response::floats;
use super::unread::Unread;
use crate::json::{Cursor, Fault};

/// Keys of rows, not of captures.
const LOSS: [&str; 5] = ["loss_mask", "loss_spans", "loss_weights", "labels", "weight"];

/// Reads one line.
pub(super) fn read<'a>(c: &mut Cursor<'a>, parsed: &mut Parsed<'a>, record: &Record<'_>) -> Result<(), Fault> {
    let mut who = Who::default();
    let mut call = record.call();
    let mut known = (false, false);
    let mut loss: Option<&str> = None;
    c.object::<Fault>(|c, key| {
        match key {
            b"prompt_ids" | b"input_ids" => {
                c.once(&mut known.0)?;
                let read = parsed.prompts.read_like_before(c)?;
                parsed.set_prompt(&mut call, read, if key == b"prompt_ids" { "prompt_ids" } else { "input_ids" });
            }
            b"output_ids" => {
                c.once(&mut known.1)?;
                let read = parsed.outputs.read(c)?;
                parsed.set_output(&mut call, read, "output_ids");
            }
            b"logprobs" | b"output_logprobs" => {
                if let Some(values) = floats(c)? {
                    let start = parsed.logprobs.len();
                    parsed.logprobs.extend(values);
                    call.logprobs = Some(start..parsed.logprobs.len());
                }
            }
            b"metadata" => {
                c.object::<Fault>(|c, key| small_key(c, key, &mut call, &mut who, &mut parsed.unread))?;
            }
            _ => match LOSS.iter().find(|name| name.as_bytes() == key) {
                Some(name) => loss = if c.raw()? == b"null" { loss } else { Some(name) },
                None => small_key(c, key, &mut call, &mut who, &mut parsed.unread)?,
            },
        }
        Ok(())
    })?;
    if known == (false, false) {
        parsed.lose(record, Bad::unknown("no `prompt_ids` and no `output_ids`"));
        return Ok(());
    }
    if let Some(name) = loss {
        let message = format!("`{name}` would be passed over: captures hold no loss, policies like --upweight make it");
        parsed.lose(record, Bad::unknown(&message));
        return Ok(());
    }
    parsed.check_logprobs(&mut call);
    let start = parsed.calls.len();
    parsed.calls.push(call);
    parsed.pieces.push(Piece {
        complete: who.rollout_id.is_none(),
        who,
        calls: start..start + 1,
        numbered: false,
        scope: "".into(),
        file: record.origin.file.clone(),
        format: record.origin.format.name,
    });
    Ok(())
}

fn small_key(c: &mut Cursor<'_>, key: &[u8], call: &mut Call, who: &mut Who, unread: &mut Unread) -> Result<(), Fault> {
    match key {
        b"finish" | b"finish_reason" => call.finish = c.text_value()?.map_or(Finish::Unknown, |w| Finish::parse(&w)),
        b"stop_string" => call.stop_string = c.text_value()?.is_some(),
        b"stop_token_ids" => {
            call.stop_ids = stop_ids(c)?;
        }
        b"call_id" | b"id" => call.call_id = text(c)?.or(call.call_id.take()),
        b"annotations" => call.notes = notes(c)?,
        b"choice" => call.choice = c.scalar()?.int().unwrap_or(0),
        b"kind" => call.kind = text(c)?,
        b"turn" => call.turn = turn(c)?,
        b"started" | b"timestamp" => call.started = seconds(&c.scalar()?),
        b"parse_error" => call.parse_error = c.scalar()?.is_true(),
        b"error" => call.failed |= !matches!(c.raw()?, b"null" | b"false" | b"\"\""),
        _ => {
            if !who.take(key, c)? {
                unread.note(key);
            }
        }
    }
    Ok(())
}
