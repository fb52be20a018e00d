//! From the calls of a rollout to rows: every policy that looks at one call is applied here, each with its count.

use super::identity::{Identities, Known};
use super::options::{Options, Overlong, Tail, Think, Truncated, Unterminated, UpweightAs};
use super::report::{Counts, Example, Tokens};
use crate::capture::{Bad, Call, Finish, Skip, Who};
use crate::error::{Error, Place, Result};
use crate::ids::Id;
use crate::ids::think::{Found, Opened, keep_spans};
use crate::ids::turns::Tail as SeenTail;
use crate::ids::weight::{Copies, Facts, Rule, check_product, weigh};
use crate::rows::{LossSpan, RowMeta, Text, flag};
use std::ops::Range;

/// What all calls of a run share.
#[derive(Debug)]
pub struct Plan {
    /// Options.
    pub options: Options,
    /// Weight rules.
    pub rules: Vec<Rule>,
    /// Profiles.
    pub identities: Identities,
}

impl Plan {
    /// Checks the options.
    ///
    /// # Errors
    /// `Usage`.
    pub fn new(options: Options) -> Result<Self> {
        let rules = options.upweight.iter().map(|rule| Rule::parse(rule)).collect::<Result<Vec<_>>>()?;
        check_product(&rules)?;
        let identities = Identities::new(options.profile.as_ref())?;
        if options.tail == Tail::NoThink
            && let Some(profile) = options.profile.as_ref().filter(|p| p.tail_no_think.is_none())
        {
            return Err(Error::usage(
                format!("profile {:?} has no no-thinking tail", profile.name),
                "leave --tail captured: its template cannot switch thinking off",
            ));
        }
        if options.think == Think::StripAll
            && let Some(profile) = options.profile.as_ref().filter(|p| !p.lone_close && !p.think_open.is_empty())
        {
            return Err(Error::usage(
                format!(
                    "profile {:?} closes thinking with an ordinary turn end, so earlier turns cannot be cut",
                    profile.name
                ),
                "use --think strip: it cuts the outputs",
            ));
        }
        Ok(Self { options, rules, identities })
    }
}

/// Calls of one rollout with the arenas their ranges point into.
#[derive(Debug)]
pub struct Rollout<'a> {
    /// Who.
    pub who: &'a Who,
    /// Calls in the order of rows.
    pub calls: Vec<Sighted<'a>>,
    /// Prompts.
    pub prompts: &'a [Id],
    /// Outputs.
    pub outputs: &'a [Id],
    /// Logprobs.
    pub logprobs: &'a [f32],
}

/// A call and what was found out about it before its row is made.
#[derive(Debug, Clone)]
pub struct Sighted<'a> {
    /// The call.
    pub call: &'a Call,
    /// File as the user named it.
    pub file: &'a Text,
    /// Format.
    pub format: &'static str,
    /// Whose ids these are.
    pub identity: Option<usize>,
    /// Hash of prompt and output.
    pub hash: [u8; 16],
    /// Turn as the rollout numbers it.
    pub turn: Option<i32>,
    /// Another call of the rollout has the same prompt.
    pub retried: bool,
    /// Known already to give no row.
    pub skip: Option<Skip>,
}

impl Sighted<'_> {
    fn place(&self) -> Place {
        Place::record(self.file, self.call.record).at_turn(self.turn)
    }
}

/// A row before its ids are gathered.
#[derive(Debug)]
pub struct Planned {
    pub(super) identity: Option<usize>,
    pub(super) prompt: Prompt,
    pub(super) output: Range<usize>,
    /// Spans cut from the output, counted from its start.
    pub(super) cut: Vec<Range<usize>>,
    /// Range of the logprobs, before cutting.
    pub(super) logprobs: Option<Range<usize>>,
    pub(super) meta: RowMeta,
    /// What became of the call's ids.
    tokens: Tokens,
    /// How often the row is written.
    pub(super) copies: u64,
}

#[derive(Debug)]
pub(super) enum Prompt {
    Captured(Range<usize>),
    Changed(Vec<Id>),
}

impl Prompt {
    pub(super) fn ids<'a>(&'a self, arena: &'a [Id]) -> &'a [Id] {
        match self {
            Self::Captured(range) => &arena[range.clone()],
            Self::Changed(ids) => ids,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Captured(range) => range.len(),
            Self::Changed(ids) => ids.len(),
        }
    }
}

/// A reason not to make a row, with what to say about it.
pub(super) struct Refusal(Skip, Option<u64>, String);

impl Refusal {
    fn new(reason: Skip, message: impl Into<String>) -> Self {
        Self(reason, None, message.into())
    }
}

impl Plan {
    /// Makes the rows of a rollout.
    pub fn rows(&self, rollout: &Rollout<'_>, planned: &mut Vec<Planned>, counts: &mut Counts) {
        counts.rollouts += 1;
        counts.rule_hits.resize(self.rules.len(), 0);
        let turns = || rollout.calls.iter().filter(|c| c.skip.is_none()).filter_map(|c| c.turn);
        let (first_turn, last_turn) = (turns().min(), turns().max());
        for sighted in &rollout.calls {
            counts.calls_seen += 1;
            let mut found = Found::default();
            match self.row(rollout, sighted, &mut found, counts) {
                Ok(mut row) => {
                    let who = rollout.who;
                    let attempt = who.attempt.map(|n| n.to_string());
                    let facts = Facts {
                        turn: sighted.turn,
                        first_turn,
                        last_turn,
                        values: [
                            who.agent.as_deref(),
                            row.meta.kind.as_deref(),
                            who.task_id.as_deref(),
                            who.pair_id.as_deref(),
                            who.rollout_id.as_deref(),
                            who.status.as_deref(),
                            attempt.as_deref(),
                        ],
                    };
                    row.meta.weight = weigh(&self.rules, &facts, &mut counts.rule_hits);
                    planned.push(row);
                }
                Err(Refusal(reason, position, message)) => {
                    let sampled = sighted.call.output.as_ref().map_or(0, |o| o.len() as u64);
                    counts.skip(reason, sampled, || {
                        let place = sighted.place();
                        Example { place: position.map_or(place.clone(), |at| place.at(at)), message }
                    });
                }
            }
        }
    }

    /// Why a call gives no row whatever its ids are.
    pub(super) fn leaves_out(&self, who: &Who, sighted: &Sighted<'_>) -> Option<Refusal> {
        let call = sighted.call;
        if let Some(Bad { reason, position, message }) = &call.bad {
            return Some(Refusal(*reason, *position, message.clone()));
        }
        let refuse = |reason, message: &str| Some(Refusal(reason, None, message.to_owned()));
        match sighted.skip {
            Some(Skip::Contradiction) => {
                return refuse(Skip::Contradiction, "the same call id came before with other ids");
            }
            Some(reason) => return refuse(reason, "the same call came before"),
            None => {}
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

    fn row(
        &self,
        rollout: &Rollout<'_>,
        sighted: &Sighted<'_>,
        found: &mut Found,
        counts: &mut Counts,
    ) -> std::result::Result<Planned, Refusal> {
        let (call, options) = (sighted.call, &self.options);
        if let Some(refusal) = self.leaves_out(rollout.who, sighted) {
            return Err(refusal);
        }
        let kind = kind_of(call);
        let (Some(prompt), Some(output)) = (&call.prompt, &call.output) else {
            let what = if call.prompt.is_none() { "prompt ids" } else { "output ids" };
            return Err(Refusal::new(Skip::NoCapture, format!("no {what}")));
        };
        if output.is_empty() || prompt.is_empty() {
            let what = if output.is_empty() { "output" } else { "prompt" };
            let reason = if output.is_empty() { Skip::EmptyOutput } else { Skip::NoCapture };
            return Err(Refusal::new(reason, format!("the {what} has no ids")));
        }
        let known = sighted.identity.map(|index| self.identities.get(index));
        let (prompt_ids, output_ids) = (&rollout.prompts[prompt.clone()], &rollout.outputs[output.clone()]);
        if let Some(known) = known {
            check_vocabulary(known, call, prompt_ids, output_ids)?;
        }

        let mut flags = flag::PROMPT_EXACT | if sighted.retried { flag::RETRIED } else { 0 };
        let truncated = is_truncated(known, call, output_ids, counts);
        if truncated {
            flags |= flag::TRUNCATED;
            if options.truncated == Truncated::Drop {
                return Err(Refusal::new(Skip::Truncated, "the output does not end in a stop id"));
            }
        }
        let opened = self.look_for_thinking(known, prompt_ids, output_ids, found, counts);
        if found.unterminated
            && !truncated
            && options.think != Think::Keep
            && options.unterminated == Unterminated::Drop
        {
            return Err(Refusal::new(Skip::UnterminatedThink, "the output opens thinking and never closes it"));
        }
        flags |= think_flags(found, known.is_some(), options.think != Think::Keep);

        let mut new_prompt = Prompt::Captured(prompt.clone());
        if let Some(known) = known {
            self.edit_prompt(known, rollout, &mut new_prompt, counts);
        }
        let cutting = matches!(options.think, Think::Strip | Think::StripAll);
        let spans = std::mem::take(&mut found.spans);
        let thinking: usize = spans.iter().map(ExactSizeIterator::len).sum();
        let cut = if cutting { spans.clone() } else { Vec::new() };
        let left = output.len() - if cutting { thinking } else { 0 };
        if left == 0 {
            return Err(Refusal::new(Skip::EmptyAfterStrip, "nothing is left of the output without its thinking"));
        }
        let open_tail = cutting && !spans.is_empty() && opened == Opened::Yes && options.tail == Tail::Captured;
        if open_tail {
            flags |= flag::OPEN_THINK_TAIL;
        }
        self.fit(known, rollout, &mut new_prompt, left, &mut flags)?;
        if let Prompt::Changed(_) = new_prompt {
            flags &= !flag::PROMPT_EXACT;
        }

        let at = new_prompt.len();
        let mut tokens =
            Tokens { sampled: output.len() as u64, prompt: at as u64, thinking: thinking as u64, ..Tokens::default() };
        let loss_spans = if truncated && options.truncated == Truncated::Mask {
            tokens.truncated_masked = left as u64;
            Some(Vec::new())
        } else if options.think == Think::Mask && !spans.is_empty() {
            let keep = keep_spans(output.len(), &spans);
            if keep.is_empty() {
                return Err(Refusal::new(Skip::EmptyAfterStrip, "the output is nothing but thinking"));
            }
            flags |= flag::THINK_MASKED;
            tokens.think_masked = thinking as u64;
            let span =
                |r: &Range<usize>| LossSpan { start: (at + r.start) as i32, end: (at + r.end) as i32, weight: 1.0 };
            Some(keep.iter().map(span).collect())
        } else {
            None
        };
        tokens.think_cut = if cutting { thinking as u64 } else { 0 };
        tokens.trained = tokens.sampled - tokens.think_cut - tokens.think_masked - tokens.truncated_masked;
        let who = rollout.who;
        Ok(Planned {
            identity: sighted.identity,
            prompt: new_prompt,
            output: output.clone(),
            cut,
            logprobs: call.logprobs.clone(),
            tokens,
            copies: 1,
            meta: RowMeta {
                loss_spans,
                calls: None,
                weight: 1.0,
                rollout_id: who.rollout_id.clone(),
                task_id: who.task_id.clone(),
                pair_id: who.pair_id.clone(),
                agent: who.agent.clone(),
                call_id: call.call_id.clone(),
                kind: Some(kind.into()),
                status: who.status.clone(),
                attempt: who.attempt,
                turn: sighted.turn,
                reward: who.reward,
                source: who.source.clone().unwrap_or_else(|| "native".into()),
                capture_format: sighted.format.into(),
                capture_file: sighted.file.clone(),
                capture_record: call.record as i64,
                capture_hash: sighted.hash,
                flags,
            },
        })
    }

    /// Finds thinking in the output, and counts its states when a policy asks for them.
    fn look_for_thinking(
        &self,
        known: Option<&Known>,
        prompt: &[Id],
        output: &[Id],
        found: &mut Found,
        counts: &mut Counts,
    ) -> Opened {
        let Some(known) = known else { return Opened::Unknown };
        let think = known.rule.think();
        let opened = think.opened_by(prompt);
        think.find_into(output, opened, found);
        let stray = &known.profile.stray_think;
        if !stray.is_empty() && output.iter().any(|id| stray.contains(id)) {
            found.odd = true;
            found.markers = true;
            found.absent = false;
        }
        let states = &mut counts.think;
        states.seen += 1;
        states.stripped += u64::from(!found.spans.is_empty());
        states.absent += u64::from(found.absent);
        states.unterminated += u64::from(found.unterminated);
        states.odd += u64::from(found.odd);
        states.split_marker += u64::from(found.split_marker);
        states.markers += u64::from(found.markers || opened == Opened::Yes);
        opened
    }

    fn edit_prompt(&self, known: &Known, rollout: &Rollout<'_>, prompt: &mut Prompt, counts: &mut Counts) {
        if self.options.think == Think::StripAll {
            let (changed, seen) = known.rule.strip_all(prompt.ids(rollout.prompts));
            counts.think.history_stripped += seen.stripped;
            counts.think.history_left += seen.unterminated.max(seen.odd);
            if let Some(ids) = changed {
                *prompt = Prompt::Changed(ids);
            }
        }
        if self.options.tail == Tail::NoThink {
            match known.rule.tail_of(prompt.ids(rollout.prompts)) {
                SeenTail::NoThink => {}
                SeenTail::Think | SeenTail::Other => match known.rule.no_think_tail(prompt.ids(rollout.prompts)) {
                    Some(ids) => *prompt = Prompt::Changed(ids),
                    None => counts.think.tail_unknown += 1,
                },
            }
        }
    }

    /// Applies the length limit.
    fn fit(
        &self,
        known: Option<&Known>,
        rollout: &Rollout<'_>,
        prompt: &mut Prompt,
        output: usize,
        flags: &mut i32,
    ) -> std::result::Result<(), Refusal> {
        let Some(most) = self.options.max_length else { return Ok(()) };
        let length = prompt.len() + output;
        if length <= most {
            return Ok(());
        }
        let too_long = || Refusal::new(Skip::Overlong, format!("the row has {length} ids, the limit is {most}"));
        if self.options.overlong != Overlong::TrimPrompt {
            return Err(too_long());
        }
        let ids = prompt.ids(rollout.prompts);
        let room = most.checked_sub(output).ok_or_else(too_long)?;
        let dropped = known.and_then(|known| known.rule.trim_prompt(ids, room)).ok_or_else(too_long)?;
        *prompt = Prompt::Changed([&ids[..dropped.start], &ids[dropped.end..]].concat());
        *flags |= flag::PROMPT_TRIMMED;
        Ok(())
    }
}

fn kind_of(call: &Call) -> &str {
    call.kind.as_deref().unwrap_or("solver")
}

fn think_flags(found: &Found, known: bool, cuts: bool) -> i32 {
    let bit = |on: bool, bit: i32| if on { bit } else { 0 };
    bit(cuts && !found.spans.is_empty(), flag::THINK_STRIPPED)
        | bit(known && found.absent, flag::THINK_ABSENT)
        | bit(found.unterminated, flag::THINK_UNTERMINATED)
        | bit(found.odd, flag::THINK_ODD)
        | bit(found.split_marker, flag::SPLIT_MARKER)
}

fn check_vocabulary(known: &Known, call: &Call, prompt: &[Id], output: &[Id]) -> std::result::Result<(), Refusal> {
    let limit = known.profile.id_limit;
    if call.max_id < limit {
        return Ok(());
    }
    // `max_id` may count ids of an earlier prompt, so look.
    for (name, ids) in [("prompt", prompt), ("output", output)] {
        if let Some(at) = ids.iter().position(|id| *id >= limit) {
            return Err(Refusal(
                Skip::IdOutOfVocab,
                Some(at as u64),
                format!("{name} id {} is beyond the {limit} ids of profile {}", ids[at], known.profile.name),
            ));
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
            counts.judged_by_finish += 1;
            call.finish == Finish::Length
        }
    }
}

/// Gives rows their copies and counts what is written, in the order of the input.
pub fn settle(plan: &Plan, planned: &mut Vec<Planned>, copies: &mut Copies, counts: &mut Counts) {
    planned.retain_mut(|row| {
        if plan.options.upweight_as == UpweightAs::Copies {
            row.copies = copies.draw(row.meta.weight);
            row.meta.weight = 1.0;
        }
        let (meta, tokens) = (&row.meta, &row.tokens);
        if row.copies == 0 {
            let place = Place::record(&meta.capture_file, meta.capture_record as u64).at_turn(meta.turn);
            counts.skip(Skip::NotDrawn, tokens.sampled, || Example { place, message: "no copy was drawn".to_owned() });
            return false;
        }
        counts.calls_used += 1;
        counts.copies += row.copies - 1;
        counts.tokens.add(tokens);
        counts.think.open_think_tail += u64::from(meta.flags & flag::OPEN_THINK_TAIL != 0);
        counts.prompts_changed += u64::from(meta.flags & flag::PROMPT_EXACT == 0);
        let cut = tokens.think_cut;
        counts.lengths.push((tokens.prompt + tokens.sampled - cut) as u32);
        *counts.identities.entry(plan.identities.name(row.identity).to_owned()).or_default() += row.copies;
        for _ in 0..row.copies {
            counts.row(meta.turn, meta.weight, tokens.trained);
        }
        true
    });
}
