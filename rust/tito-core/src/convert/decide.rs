//! What the policies say of one call by itself: whether it trains, and what of its output is thinking.
//!
//! Nothing is cut here. A verdict is given once a call, whatever rows it ends up in.

use super::Plan;
use super::identity::Known;
use super::options::{Think, Truncated, Unterminated};
use super::report::{Counts, Example};
use super::sight::Sighted;
use crate::capture::{Bad, Call, Finish, Skip, Who};
use crate::ids::Id;
use crate::ids::think::{Found, Opened};
use crate::rows::flag;
use std::ops::Range;

/// A reason not to make a row, with what to say about it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: Skip,
    position: Option<u64>,
    message: String,
}

impl Refusal {
    pub(super) fn new(reason: Skip, message: impl Into<String>) -> Self {
        Self { reason, position: None, message: message.into() }
    }

    pub(super) fn at(reason: Skip, position: u64, message: String) -> Self {
        Self { reason, position: Some(position), message }
    }

    /// Counts the call as left out.
    pub(super) fn count(self, sighted: &Sighted<'_>, counts: &mut Counts) {
        let sampled = sighted.call.output.as_ref().map_or(0, |o| o.len() as u64);
        counts.skip(self.reason, sampled, || {
            let place = sighted.place();
            Example { place: self.position.map_or(place.clone(), |at| place.at(at)), message: self.message }
        });
    }
}

/// A call that trains, unless the rows it would stand in cannot be made.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    /// How the prompt ended.
    pub(super) opened: Opened,
    /// Thinking, counted from the output's start.
    pub(super) spans: Vec<Range<usize>>,
    /// Bits that the call gives its row.
    pub(super) flags: i32,
    /// The ids stay, and none has loss.
    pub(super) muted: Option<Muted>,
}

/// Why a call that stays has no loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Muted {
    /// It is cut off.
    Truncated,
    /// Nobody can tell whether it was kept.
    Ambiguous,
}

impl Verdict {
    /// How many ids are thinking.
    pub(super) fn thinking(&self) -> usize {
        self.spans.iter().map(ExactSizeIterator::len).sum()
    }
}

pub(super) fn kind_of(call: &Call) -> &str {
    call.kind.as_deref().unwrap_or("solver")
}

impl Plan {
    /// Why a call gives no row whatever its ids are.
    pub(super) fn leaves_out(&self, who: &Who, sighted: &Sighted<'_>) -> Option<Refusal> {
        let call = sighted.call;
        if let Some(Bad { reason, position, message }) = &call.bad {
            return Some(Refusal { reason: *reason, position: *position, message: message.clone() });
        }
        let refuse = |reason, message: &str| Some(Refusal::new(reason, message));
        match sighted.skip {
            Some(Skip::Contradiction) => {
                return refuse(Skip::Contradiction, "the same call id came before with other ids");
            }
            Some(reason) => return refuse(reason, "the same call came before"),
            None => {}
        }
        if let Some(reason) = call.set_aside {
            return refuse(reason, reason.about());
        }
        if call.failed || call.finish == Finish::Failed || who.status.as_deref() == Some("infra_error") {
            return refuse(Skip::InfraError, "the call or its rollout failed in the infrastructure");
        }
        let kind = kind_of(call);
        if !self.options.kind.iter().any(|wanted| wanted == kind) {
            return refuse(Skip::Kind, &format!("kind {kind:?} was not asked for"));
        }
        if call.parse_error {
            return refuse(Skip::ParseError, "the harness could not parse the reply");
        }
        None
    }

    /// Judges a call by its ids; `found` is memory used again. Think states are counted whenever a policy asks for them.
    pub(super) fn decide(
        &self,
        who: &Who,
        sighted: &Sighted<'_>,
        ids: (&[Id], &[Id]),
        found: &mut Found,
        counts: &mut Counts,
    ) -> Result<Verdict, Refusal> {
        let (call, options) = (sighted.call, &self.options);
        if let Some(refusal) = self.leaves_out(who, sighted) {
            return Err(refusal);
        }
        if call.prompt.is_none() || call.output.is_none() {
            let what = if call.prompt.is_none() { "prompt ids" } else { "output ids" };
            return Err(Refusal::new(Skip::NoCapture, format!("no {what}")));
        }
        let (prompt, output) = ids;
        if output.is_empty() || prompt.is_empty() {
            let what = if output.is_empty() { "output" } else { "prompt" };
            let reason = if output.is_empty() { Skip::EmptyOutput } else { Skip::NoCapture };
            return Err(Refusal::new(reason, format!("the {what} has no ids")));
        }
        // One id may well come again.
        counts.prompt_in_output += u64::from(prompt.len() > 1 && output.starts_with(prompt));
        let known = sighted.identity.map(|index| self.identities.get(index));
        if let Some(known) = known {
            check_vocabulary(known, call, prompt, output)?;
        }
        let truncated = is_truncated(known, call, output, counts);
        if truncated && options.truncated == Truncated::Drop {
            let why =
                if known.is_some() { "the output does not end in a stop id" } else { "the finish word is \"length\"" };
            return Err(Refusal::new(Skip::Truncated, why));
        }
        let opened = look_for_thinking(known, prompt, output, found, counts);
        let muted = (truncated && options.truncated == Truncated::Mask).then_some(Muted::Truncated);
        // What has no loss teaches no thinking.
        if found.unterminated
            && muted.is_none()
            && options.think != Think::Keep
            && options.unterminated == Unterminated::Drop
        {
            return Err(Refusal::new(Skip::UnterminatedThink, "the output opens thinking and never closes it"));
        }
        let cuts = matches!(options.think, Think::Strip | Think::StripAll);
        if found.cut_ids() == output.len() && options.think != Think::Keep {
            if cuts {
                return Err(Refusal::new(Skip::EmptyAfterStrip, "nothing is left of the output without its thinking"));
            }
            if muted.is_none() {
                return Err(Refusal::new(Skip::EmptyAfterStrip, "the output is nothing but thinking"));
            }
        }
        if let (Some(section), Some(tokenizer), Some(known)) = (&self.section, &self.tokenizer, known) {
            section.judge(tokenizer, known, prompt, counts.section.get_or_insert_default())?;
        }
        let bit = |on: bool, bit: i32| if on { bit } else { 0 };
        let flags = bit(sighted.retried, flag::RETRIED)
            | bit(truncated, flag::TRUNCATED)
            | bit(options.think != Think::Keep && !found.spans.is_empty(), flag::THINK_STRIPPED)
            | bit(known.is_some() && found.absent, flag::THINK_ABSENT)
            | bit(found.unterminated, flag::THINK_UNTERMINATED)
            | bit(found.odd, flag::THINK_ODD)
            | bit(found.split_marker, flag::SPLIT_MARKER);
        Ok(Verdict { opened, spans: std::mem::take(&mut found.spans).into_vec(), flags, muted })
    }
}

/// Finds thinking in the output, and counts its states.
fn look_for_thinking(
    known: Option<&Known>,
    prompt: &[Id],
    output: &[Id],
    found: &mut Found,
    counts: &mut Counts,
) -> Opened {
    let Some(known) = known else {
        *found = Found::default();
        return Opened::Unknown;
    };
    let think = known.rule.think();
    let opened = think.opened_by(prompt);
    think.find_into(output, opened, found);
    let stray = &known.profile.stray_think;
    if !stray.is_empty() && output.iter().any(|id| stray.contains(id)) {
        found.odd = true;
        found.markers = true;
        found.absent = false;
    }
    counts.think.outputs.add(found);
    counts.think.markers += u64::from(found.markers || opened == Opened::Yes);
    opened
}

fn check_vocabulary(known: &Known, call: &Call, prompt: &[Id], output: &[Id]) -> Result<(), Refusal> {
    let limit = known.profile.id_limit;
    if call.max_id < limit {
        return Ok(());
    }
    // `max_id` may count ids of an earlier prompt, so look.
    for (name, ids) in [("prompt", prompt), ("output", output)] {
        if let Some(at) = ids.iter().position(|id| *id >= limit) {
            let message = format!("{name} id {} is beyond the {limit} ids of profile {}", ids[at], known.profile.name);
            return Err(Refusal { reason: Skip::IdOutOfVocab, position: Some(at as u64), message });
        }
    }
    Ok(())
}

/// The last id tells; the finish word only where the stop ids are not known, because servers overwrite it.
fn is_truncated(known: Option<&Known>, call: &Call, output: &[Id], counts: &mut Counts) -> bool {
    let ends_in = |ids: &[Id]| output.last().is_some_and(|last| ids.contains(last));
    match known {
        Some(known) => {
            counts.judged_by_id += 1;
            let told = call.stop_id.is_some_and(|id| ends_in(&[id]));
            !(call.stop_string || told || ends_in(&known.profile.stop_ids) || ends_in(&call.stop_ids))
        }
        None => {
            let told = if call.finish == Finish::Unknown {
                &mut counts.judged_by_nothing
            } else {
                &mut counts.judged_by_finish
            };
            *told += 1;
            call.finish == Finish::Length
        }
    }
}
