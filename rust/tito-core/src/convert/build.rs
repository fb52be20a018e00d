//! A row of one call: the prompt as policies leave it, the output with its cuts and its loss.

use super::batch::Ids;
use super::decide::{Muted, Refusal, Verdict, kind_of};
use super::identity::{Identities, Known};
use super::leaks::LeakScan;
use super::options::{Options, Overlong, Tail, Think, UpweightAs};
use super::report::{Counts, Example, RuleCount, Tokens};
use super::section::Sections;
use super::sight::Sighted;
use super::survey::{Side, Weighing};
use crate::capture::{Skip, Who};
use crate::error::{Error, Place, Result};
use crate::ids::Id;
use crate::ids::edit::Edits;
use crate::ids::select::Facts;
use crate::ids::think::{Opened, keep_spans};
use crate::ids::weight::{Copies, Rule, check_product, weigh};
use crate::rows::{LossSpan, RowCall, RowMeta, flag};
use crate::tokens::Tokenizer;
use std::ops::Range;
use std::path::Path;

/// What all calls of a run share.
#[derive(Debug)]
pub struct Plan {
    /// Options.
    pub options: Options,
    /// Weight rules.
    pub rules: Vec<Rule>,
    /// Profiles.
    pub identities: Identities,
    /// Where text was asked for.
    pub tokenizer: Option<Tokenizer>,
    /// What was found out about all rollouts, where a policy asks for it.
    pub weighing: Weighing,
    /// What leaves prompts.
    pub section: Option<Sections>,
    /// What no row may hold.
    pub leaks: Option<LeakScan>,
}

impl Plan {
    /// Checks the options.
    ///
    /// # Errors
    /// `Usage`.
    pub fn new(options: Options) -> Result<Self> {
        let rules = options.upweight.iter().map(|rule| Rule::parse(rule)).collect::<Result<Vec<_>>>()?;
        check_product(&rules)?;
        options.check_val()?;
        options.check_words()?;
        if let (None, Some(rule)) = (&options.tokenizer, rules.iter().find(|rule| rule.selector.needs_text())) {
            return Err(Error::usage(
                format!("--upweight {:?} reads the text of outputs, which needs a tokenizer", rule.text),
                "name its folder with --tokenizer",
            ));
        }
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
        let tokenizer = options.tokenizer.as_ref().map(|path| Tokenizer::load(Path::new(path))).transpose()?;
        let section = options.drop_section.as_ref();
        let section = section.map(|text| Sections::new(text, tokenizer.as_ref())).transpose()?;
        let leaks = LeakScan::new(&options, tokenizer.as_ref())?;
        Ok(Self { options, rules, identities, tokenizer, weighing: Weighing::default(), section, leaks })
    }

    /// Refuses a call whose ids are not the tokenizer's.
    ///
    /// # Errors
    /// `Data`.
    pub fn check_tokenizer(&self, sighted: &Sighted<'_>) -> Result<()> {
        let (Some(tokenizer), Some(index)) = (&self.tokenizer, sighted.identity) else { return Ok(()) };
        let profile = &self.identities.get(index).profile;
        if tokenizer.hash() == profile.tokenizer_hash {
            return Ok(());
        }
        Err(Error::data(
            sighted.place(),
            format!(
                "--tokenizer {} is not the tokenizer of these ids: its hash is {}, that of profile {} is {}",
                tokenizer.path().display(),
                tokenizer.hash(),
                profile.name,
                profile.tokenizer_hash
            ),
            "name the folder of the model that made the captures, or the profile of this one with --profile",
        ))
    }
}

/// What a call's rollout says of all its rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) who: &'a Who,
    /// Which rollout of the input it is.
    pub(super) number: u32,
    pub(super) first_turn: Option<i32>,
    pub(super) last_turn: Option<i32>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(who: &'a Who, number: u32, calls: &[Sighted<'_>]) -> Self {
        let turns = || calls.iter().filter(|c| c.skip.is_none()).filter_map(|c| c.turn);
        Self { who, number, first_turn: turns().min(), last_turn: turns().max() }
    }
}

/// A row before its ids are gathered.
#[derive(Debug)]
pub struct Planned {
    pub(super) identity: Option<usize>,
    pub(super) side: Side,
    pub(super) rollout: u32,
    pub(super) prompt: Prompt,
    /// Empty for a merged row.
    pub(super) output: Range<usize>,
    /// Spans cut from the output, counted from its start.
    pub(super) cut: Vec<Range<usize>>,
    pub(super) logprobs: Logprobs,
    pub(super) meta: RowMeta,
    /// What became of the call's ids.
    pub(super) tokens: Tokens,
    /// How often the row is written.
    pub(super) copies: u64,
    /// Weight rules that are about the call.
    pub(super) matched: Vec<u32>,
    /// What a merged row trains, call by call; empty for a row of one call.
    pub(super) parts: Vec<Part>,
}

/// A call in a merged row.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) call: RowCall,
    /// Where it has loss, in positions of the row.
    pub(super) spans: Vec<Range<i32>>,
    pub(super) weight: f32,
    pub(super) matched: Vec<u32>,
    /// How many of the row's copies train it.
    pub(super) copies: u64,
    pub(super) tokens: Tokens,
}

#[derive(Debug)]
pub(super) enum Prompt {
    Captured(Range<usize>),
    Changed(Vec<Id>),
    /// A merged row in which nothing changed: prompt and output of its last call.
    Whole(Range<usize>, Range<usize>),
}

impl Prompt {
    /// Two pieces, one behind the other.
    pub(super) fn ids<'a>(&'a self, arena: Ids<'a>) -> [&'a [Id]; 2] {
        match self {
            Self::Captured(range) => [&arena.prompts[range.clone()], &[]],
            Self::Changed(ids) => [ids, &[]],
            Self::Whole(prompt, output) => [&arena.prompts[prompt.clone()], &arena.outputs[output.clone()]],
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Captured(range) => range.len(),
            Self::Changed(ids) => ids.len(),
            Self::Whole(prompt, output) => prompt.len() + output.len(),
        }
    }
}

/// Where a row's logprobs are.
#[derive(Debug)]
pub(super) enum Logprobs {
    /// The capture has none.
    None,
    /// Those of the output before cutting.
    Captured(Range<usize>),
    /// One for each id of a merged row; NaN where the id was not sampled by a call that the row trains.
    Row(Vec<f32>),
}

impl Plan {
    /// The row of one call. Its ids lie in the arenas where the call says.
    pub(super) fn turn_row(
        &self,
        scope: &Scope<'_>,
        sighted: &Sighted<'_>,
        verdict: &Verdict,
        ids: Ids<'_>,
        counts: &mut Counts,
    ) -> std::result::Result<Planned, Refusal> {
        let prompts = ids.prompts;
        let (call, options) = (sighted.call, &self.options);
        let (prompt, output) = (call.prompt.clone().unwrap_or_default(), call.output.clone().unwrap_or_default());
        let known = sighted.identity.map(|index| self.identities.get(index));
        let mut flags = flag::PROMPT_EXACT | verdict.flags;
        let mut new_prompt = Prompt::Captured(prompt.clone());
        if let Some(known) = known {
            let edits = self.prompt_edits(known, &prompts[prompt.clone()], counts);
            if !edits.is_empty() {
                new_prompt = Prompt::Changed(edits.apply(&prompts[prompt], &[]));
            }
        }
        let cutting = self.cuts();
        let thinking = verdict.thinking();
        let left = output.len() - if cutting { thinking } else { 0 };
        if self.leaves_tail_open(verdict) {
            flags |= flag::OPEN_THINK_TAIL;
        }
        self.fit(known, prompts, &mut new_prompt, left, &mut flags)?;
        if let Prompt::Changed(_) = new_prompt {
            flags &= !flag::PROMPT_EXACT;
        }
        let at = new_prompt.len();
        let mut tokens = self.tokens(output.len(), verdict);
        tokens.prompt = at as u64;
        let loss_spans = match verdict.muted {
            Some(_) => Some(Vec::new()),
            None if options.think == Think::Mask && thinking > 0 => {
                flags |= flag::THINK_MASKED;
                let span =
                    |r: &Range<usize>| LossSpan { start: (at + r.start) as i32, end: (at + r.end) as i32, weight: 1.0 };
                Some(keep_spans(output.len(), &verdict.spans).iter().map(span).collect())
            }
            None => None,
        };
        let mut meta = meta_of(scope.who, sighted, flags);
        meta.loss_spans = loss_spans;
        let (weight, matched) = self.weight_of(scope, sighted, verdict, &ids.outputs[output.clone()], counts);
        meta.weight = weight;
        Ok(Planned {
            identity: sighted.identity,
            side: self.weighing.side(scope.number),
            rollout: scope.number,
            prompt: new_prompt,
            output,
            cut: if cutting { verdict.spans.clone() } else { Vec::new() },
            logprobs: call.logprobs.clone().map_or(Logprobs::None, Logprobs::Captured),
            meta,
            tokens,
            copies: 1,
            matched,
            parts: Vec::new(),
        })
    }

    /// Whether thinking is cut.
    pub(super) fn cuts(&self) -> bool {
        matches!(self.options.think, Think::Strip | Think::StripAll)
    }

    /// Whether thinking is cut behind a prompt that still ends in its opener.
    pub(super) fn leaves_tail_open(&self, verdict: &Verdict) -> bool {
        let open = verdict.opened == Opened::Yes && self.options.tail == Tail::Captured;
        self.cuts() && open && verdict.thinking() > 0
    }

    /// What becomes of the ids of one output.
    pub(super) fn tokens(&self, output: usize, verdict: &Verdict) -> Tokens {
        let thinking = verdict.thinking() as u64;
        let mut tokens = Tokens { sampled: output as u64, thinking, ..Tokens::default() };
        tokens.think_cut = if self.cuts() { thinking } else { 0 };
        let left = tokens.sampled - tokens.think_cut;
        match verdict.muted {
            Some(Muted::Truncated) => tokens.truncated_masked = left,
            Some(Muted::Ambiguous) => tokens.ambiguous_masked = left,
            None if self.options.think == Think::Mask => tokens.think_masked = thinking,
            None => {}
        }
        tokens.trained = left - tokens.think_masked - tokens.truncated_masked - tokens.ambiguous_masked;
        tokens
    }

    /// What a call weighs, and the rules that say so. What is set apart weighs 1, whatever they say.
    pub(super) fn weight_of(
        &self,
        scope: &Scope<'_>,
        sighted: &Sighted<'_>,
        verdict: &Verdict,
        output: &[Id],
        counts: &mut Counts,
    ) -> (f32, Vec<u32>) {
        if self.weighing.side(scope.number) == Side::Val {
            return (1.0, Vec::new());
        }
        let who = scope.who;
        let thinking = if self.options.think == Think::Keep { &[][..] } else { &verdict.spans };
        let text = self.text_of(output, thinking);
        let said = if thinking == verdict.spans { None } else { self.text_of(output, &verdict.spans) };
        let attempt = who.attempt.map(|n| n.to_string());
        let facts = Facts {
            turn: sighted.turn,
            first_turn: scope.first_turn,
            last_turn: scope.last_turn,
            values: [
                who.agent.as_deref(),
                Some(kind_of(sighted.call)),
                who.task_id.as_deref(),
                who.pair_id.as_deref(),
                who.rollout_id.as_deref(),
                who.status.as_deref(),
                attempt.as_deref(),
            ],
            reward: who.reward,
            notes: &sighted.call.notes,
            text: text.as_deref(),
            said: said.as_deref().or(text.as_deref()),
        };
        let mut matched = Vec::new();
        let weight = f64::from(weigh(&self.rules, &facts, &mut matched)) * self.weighing.factor(scope.number);
        counts.rules.resize(self.rules.len(), RuleCount::default());
        matched.iter().for_each(|rule| counts.rules[*rule as usize].calls += 1);
        (weight as f32, matched)
    }

    /// The text of an output without what is left out of it, if a rule asks for it.
    fn text_of(&self, output: &[Id], left_out: &[Range<usize>]) -> Option<Vec<u8>> {
        let tokenizer = self.tokenizer.as_ref()?;
        if !self.rules.iter().any(|rule| rule.selector.needs_text()) {
            return None;
        }
        let mut text = Vec::new();
        for span in keep_spans(output.len(), left_out) {
            tokenizer.decode_into(&mut text, &output[span]);
        }
        Some(text)
    }

    /// What the policies change in a prompt.
    fn prompt_edits<'k>(&self, known: &'k Known, prompt: &[Id], counts: &mut Counts) -> Edits<'k> {
        let mut edits = Edits::default();
        if let (Some(section), Some(tokenizer)) = (&self.section, &self.tokenizer) {
            section.put(tokenizer, known, prompt, &[], &mut edits);
        }
        if self.options.think == Think::StripAll {
            let (spans, seen) = known.rule.history_spans(prompt);
            counts.think.history_stripped += seen.stripped;
            counts.think.history_left += seen.unterminated.max(seen.odd);
            let with = self.history_form(known);
            for span in spans.into_iter().filter(|span| prompt[span.clone()] != *with) {
                edits.put(span, with);
            }
        }
        if self.options.tail == Tail::NoThink {
            match known.rule.no_think_edit(prompt) {
                Some((range, with)) if !range.is_empty() => edits.put(range, with),
                Some(_) => {}
                None => counts.think.tail_unknown += 1,
            }
        }
        edits
    }

    /// What stands in an earlier answer where its thinking was cut: with thinking off from the start, the template
    /// would have written its empty pair there.
    pub(super) fn history_form<'k>(&self, known: &'k Known) -> &'k [Id] {
        match self.options.tail {
            Tail::NoThink => known.rule.history_pair(),
            Tail::Captured => &[],
        }
    }

    /// Applies the length limit.
    fn fit(
        &self,
        known: Option<&Known>,
        prompts: &[Id],
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
        let ids = match prompt {
            Prompt::Changed(ids) => &ids[..],
            Prompt::Captured(range) | Prompt::Whole(range, _) => &prompts[range.clone()],
        };
        let room = most.checked_sub(output).ok_or_else(too_long)?;
        let dropped = known.and_then(|known| known.rule.trim_prompt(ids, room)).ok_or_else(too_long)?;
        *prompt = Prompt::Changed([&ids[..dropped.start], &ids[dropped.end..]].concat());
        *flags |= flag::PROMPT_TRIMMED;
        Ok(())
    }
}

/// The scalar columns of a call's row, with weight 1.
pub(super) fn meta_of(who: &Who, sighted: &Sighted<'_>, flags: i32) -> RowMeta {
    let call = sighted.call;
    RowMeta {
        loss_spans: None,
        calls: None,
        weight: 1.0,
        rollout_id: who.rollout_id.clone(),
        task_id: who.task_id.clone(),
        pair_id: who.pair_id.clone(),
        agent: who.agent.clone(),
        call_id: call.call_id.clone(),
        kind: Some(kind_of(call).into()),
        status: who.status.clone(),
        attempt: who.attempt,
        turn: sighted.turn,
        reward: who.reward,
        source: who.source.clone().unwrap_or_else(|| "native".into()),
        capture_format: sighted.format.into(),
        capture_file: sighted.file.clone(),
        capture_record: call.record as i64,
        capture_hash: sighted.digest.hash,
        flags,
    }
}

/// Gives rows their copies and counts what is written, in the order of the input.
pub fn settle(plan: &Plan, planned: &mut Vec<Planned>, copies: &mut Copies, counts: &mut Counts) {
    planned.retain_mut(|row| {
        let as_copies = plan.options.upweight_as == UpweightAs::Copies && row.side == Side::Train;
        if as_copies && row.parts.is_empty() {
            row.copies = copies.draw(row.meta.weight);
            row.meta.weight = 1.0;
        } else if as_copies {
            // Copy i of a merged row trains the calls that have more than i copies.
            for part in &mut row.parts {
                part.copies = copies.draw(part.weight);
                part.weight = 1.0;
            }
            row.copies = row.parts.iter().map(|part| part.copies).max().unwrap_or(1);
        }
        let meta = &row.meta;
        let not_drawn = |record: i64, turn, sampled, counts: &mut Counts| {
            let place = Place::record(&meta.capture_file, record as u64).at_turn(turn);
            counts.skip(Skip::NotDrawn, sampled, || Example { place, message: "no copy was drawn".to_owned() });
        };
        let mut length = row.tokens.prompt;
        if row.parts.is_empty() && row.copies > 0 {
            counts.calls_used += 1;
            counts.tokens.add(&row.tokens);
            length += row.tokens.sampled - row.tokens.think_cut;
            counts.call(row.side, meta.turn, (row.copies, meta.weight, row.tokens.trained), &row.matched);
        } else if row.parts.is_empty() {
            not_drawn(meta.capture_record, meta.turn, row.tokens.sampled, counts);
        }
        for part in &row.parts {
            if part.copies == 0 {
                not_drawn(part.call.record, part.call.turn, part.tokens.sampled, counts);
                continue;
            }
            counts.calls_used += 1;
            counts.tokens.add(&part.tokens);
            counts.call(row.side, part.call.turn, (part.copies, part.weight, part.tokens.trained), &part.matched);
        }
        if row.copies == 0 {
            return false;
        }
        counts.rows += row.copies;
        counts.copies += row.copies - 1;
        counts.sides[row.side as usize].rows += row.copies;
        if !row.parts.is_empty() {
            counts.tokens.prompt += row.tokens.prompt;
            length += row.tokens.sampled - row.tokens.think_cut;
        }
        counts.think.open_think_tail += u64::from(meta.flags & flag::OPEN_THINK_TAIL != 0);
        counts.prompts_changed += u64::from(meta.flags & flag::PROMPT_EXACT == 0);
        counts.lengths.push(length as u32);
        *counts.identities.entry(plan.identities.name(row.identity).to_owned()).or_default() += row.copies;
        true
    });
}

impl Planned {
    /// The scalar columns of one of the row's copies.
    pub(super) fn meta_of_copy(&self, copy: u64) -> RowMeta {
        let mut meta = self.meta.clone();
        if copy > 0 {
            meta.flags |= flag::COPIED;
        }
        if !self.parts.is_empty() {
            let parts = || self.parts.iter().filter(|part| part.copies > copy);
            meta.calls = Some(parts().map(|part| part.call.clone()).collect());
            let span =
                |part: &Part, range: &Range<i32>| LossSpan { start: range.start, end: range.end, weight: part.weight };
            meta.loss_spans =
                Some(parts().flat_map(|part| part.spans.iter().map(move |range| span(part, range))).collect());
        }
        meta
    }
}
