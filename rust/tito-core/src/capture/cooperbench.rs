//! CooperBench trajectories: `messages[].extra.token_capture`, else the reply saved whole in `extra.response`.
//!
//! One trajectory a file or a line of a dump. Full trajectories (mini-swe-agent's layout, written when compaction
//! happened) hold overlapping `segments`; calls that stand in several are told by response id or by equal ids.

use super::Record;
use super::call::{Bad, Call, Parsed, Piece, Who, seconds, text};
use super::exchange::Saved;
use super::response::{Response, floats};
use crate::json::{Cursor, Fault};
use crate::rows::Text;

/// Reads one trajectory.
pub(super) fn read<'a>(c: &mut Cursor<'a>, parsed: &mut Parsed<'a>, record: &Record<'_>) -> Result<(), Fault> {
    let mut who = Who::default();
    let (mut repo, mut feature) = (None, None);
    let start = parsed.calls.len();
    let mut known = false;
    let mut segments = None;
    let (mut tools, mut model) = (None, None);
    c.object::<Fault>(|c, key| {
        match key {
            b"messages" => {
                c.once(&mut known)?;
                messages(c, parsed, record, None)?;
            }
            b"segments" => segments = Some(c.clone()),
            b"tools" | b"tool_defs" if parsed.exchanges.is_some() => tools = Some(c.raw()?),
            b"model" if parsed.exchanges.is_some() => model = Some(c.raw()?),
            b"repo" => repo = text(c)?,
            b"feature_id" => feature = text(c)?,
            b"info" => {
                c.object::<Fault>(|c, key| {
                    if key == b"exit_status" {
                        who.status = c.text_value()?.map(|word| super::call::status(&word).into());
                    }
                    Ok(())
                })?;
            }
            _ => {
                who.take(key, c)?;
            }
        }
        Ok(())
    })?;
    if !known {
        parsed.lose(record, Bad::unknown("no `messages` in a trajectory"));
        return Ok(());
    }
    if let Some(mut c) = segments
        && c.peek() == Some(b'[')
    {
        // The final list of messages is the last segment's once more.
        parsed.calls.truncate(start);
        if let Some(exchanges) = &mut parsed.exchanges {
            exchanges.truncate(start);
        }
        read_segments(&mut c, parsed, record)?;
    }
    if let Some(exchanges) = &mut parsed.exchanges {
        exchanges.told(start, tools, model);
    }
    let place = record.origin;
    name_rollout(&mut who, repo, feature, place);
    if who.reward.is_none() {
        who.reward = place.reward;
    }
    parsed.pieces.push(Piece {
        who,
        calls: start..parsed.calls.len(),
        complete: !place.document,
        numbered: true,
        scope: if place.document { place.folder.clone() } else { "".into() },
        file: place.file.clone(),
        format: place.format.name,
    });
    Ok(())
}

/// Task, pair and rollout from the trajectory's own keys, and from its folder `.../REPO/TASK/fA_fB` where they lack.
fn name_rollout(who: &mut Who, repo: Option<Text>, feature: Option<Text>, place: &super::Origin) {
    let mut folders = place.folder.rsplit(['/', '\\']);
    let pair_folder = folders.next().filter(|_| place.document).filter(|name| is_pair(name));
    let (folder_task, folder_repo) = match pair_folder {
        Some(_) => (folders.next(), folders.next()),
        None => (None, None),
    };
    let repo = repo.or(folder_repo.map(Text::from));
    let task = who.task_id.take().or(folder_task.map(Text::from));
    who.task_id = match (&repo, &task) {
        (Some(repo), Some(task)) => Some(format!("{repo}/{task}").into()),
        _ => task.or(repo),
    };
    if who.agent.is_none() {
        // `agent<N>_full_traj.json` is named by the agent's number, and says so nowhere inside.
        let name = place.file.rsplit(['/', '\\']).next().unwrap_or_default();
        who.agent = name.strip_suffix("_full_traj.json").filter(|n| n.starts_with("agent")).map(Text::from);
    }
    if who.pair_id.is_none()
        && let (Some(task), Some(pair)) = (&who.task_id, pair_folder)
    {
        who.pair_id = Some(format!("{task}/{pair}").into());
    }
    if who.rollout_id.is_none() {
        let of = who.pair_id.clone().or_else(|| match (&who.task_id, &feature) {
            (Some(task), Some(feature)) => Some(format!("{task}/f{feature}").into()),
            (task, _) => task.clone(),
        });
        who.rollout_id = match (of, &who.agent) {
            (Some(of), Some(agent)) => Some(format!("{of}/{agent}").into()),
            (of, agent) => of.or(agent.clone()),
        };
    }
}

/// `f1_f2`.
fn is_pair(name: &str) -> bool {
    let feature =
        |part: &str| part.strip_prefix('f').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    name.split_once('_').is_some_and(|(a, b)| feature(a) && feature(b))
}

fn read_segments<'a>(c: &mut Cursor<'a>, parsed: &mut Parsed<'a>, record: &Record<'_>) -> Result<(), Fault> {
    c.array::<Fault>(|c, _| {
        let mut kind = None;
        let mut inner = None;
        c.object::<Fault>(|c, key| {
            match key {
                b"kind" => kind = text(c)?,
                b"messages" => inner = Some(c.clone()),
                _ => {}
            }
            Ok(())
        })?;
        if let Some(mut inner) = inner {
            let kind = kind.filter(|kind| &**kind != "solver").map(|_| Text::from("summariser"));
            messages(&mut inner, parsed, record, kind)?;
        }
        Ok(())
    })?;
    Ok(())
}

fn messages<'a>(
    c: &mut Cursor<'a>,
    parsed: &mut Parsed<'a>,
    record: &Record<'_>,
    kind: Option<Text>,
) -> Result<(), Fault> {
    let start = parsed.calls.len();
    let mut turn = 0;
    let mut compacted = false;
    let mut saved = Saved::default();
    c.array::<Fault>(|c, _| {
        c.peek();
        let at = c.pos();
        let message = message(c, parsed, record)?;
        let calls = parsed.calls.len()..parsed.calls.len() + message.calls.len();
        saved.next(parsed, &c.text()[at..c.pos()], calls, message.assistant);
        compacted |= message.summary;
        let solver = kind.is_none();
        for mut call in message.calls {
            call.kind = kind.clone();
            call.turn = solver.then_some(turn);
            parsed.calls.push(call);
        }
        if message.assistant && solver && !message.summary {
            turn += 1;
        }
        Ok(())
    })?;
    if compacted {
        // Older turns are gone from a compacted list, so what is left cannot be numbered.
        for call in &mut parsed.calls[start..] {
            call.turn = None;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Message {
    assistant: bool,
    summary: bool,
    calls: Vec<Call>,
}

fn message<'a>(c: &mut Cursor<'a>, parsed: &mut Parsed<'a>, record: &Record<'_>) -> Result<Message, Fault> {
    let mut message = Message::default();
    let mut call = record.call();
    let mut captured = false;
    let mut response = None;
    let mut format_error = false;
    c.object::<Fault>(|c, key| {
        match key {
            b"role" => message.assistant = c.text_value()?.as_deref() == Some("assistant"),
            b"token_capture" => captured |= token_capture(c, parsed, &mut call)?,
            b"extra" => {
                c.object::<Fault>(|c, key| {
                    match key {
                        b"token_capture" => captured |= token_capture(c, parsed, &mut call)?,
                        b"response" => response = Some(c.clone()),
                        b"timestamp" => call.started = seconds(&c.scalar()?),
                        b"summary" => message.summary = c.scalar()?.is_true(),
                        b"interrupt_type" => format_error = c.text_value()?.as_deref() == Some("FormatError"),
                        _ => {}
                    }
                    Ok(())
                })?;
            }
            _ => {}
        }
        Ok(())
    })?;
    // A format error's reply hangs on the user message that complains about it.
    let complaint = format_error && response.is_some();
    if !(message.assistant || complaint) {
        return Ok(message);
    }
    call.parse_error = !message.assistant;
    match response {
        Some(mut c) if !captured => {
            let mut reply = Response::default();
            reply.read(&mut c, parsed)?;
            message.calls = reply.into_calls(parsed, &call);
        }
        Some(mut c) => {
            // The ids are known; the response still tells the call's id and how it ended, and its ids are not read twice.
            Response::describe(&mut c, &mut call)?;
            message.calls.push(call);
        }
        None if message.summary => {}
        None => message.calls.push(call),
    }
    Ok(message)
}

fn token_capture<'a>(c: &mut Cursor<'a>, parsed: &mut Parsed<'a>, call: &mut Call) -> Result<bool, Fault> {
    c.object::<Fault>(|c, key| {
        match key {
            b"prompt_token_ids" => {
                let read = parsed.prompts.read_like_before(c)?;
                parsed.set_prompt(call, read, "token_capture.prompt_token_ids");
            }
            b"output_token_ids" => {
                let read = parsed.outputs.read(c)?;
                parsed.set_output(call, read, "token_capture.output_token_ids");
            }
            b"output_logprobs" | b"logprobs" => {
                if let Some(values) = floats(c)? {
                    let start = parsed.logprobs.len();
                    parsed.logprobs.extend(values);
                    call.logprobs = Some(start..parsed.logprobs.len());
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    parsed.check_logprobs(call);
    Ok(call.prompt.is_some() && call.output.is_some() || call.bad.is_some())
}
