//! A row of several calls: the last call's sequence with the policies applied to every answer in it.

use super::Plan;
use super::build::{Logprobs, Part, Planned, Prompt, Scope, meta_of};
use super::decide::Verdict;
use super::identity::Known;
use super::options::{Tail, Think};
use super::report::{Counts, Tokens};
use super::sight::Sighted;
use crate::ids::Id;
use crate::ids::edit::Edits;
use crate::ids::think::keep_spans;
use crate::rows::{RowCall, flag};
use std::ops::Range;

/// Calls that continue one another, the last one ending the sequence, and which of them train in its row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence<'a> {
    pub(super) lineage: &'a [(usize, bool)],
    pub(super) calls: &'a [Sighted<'a>],
    pub(super) verdicts: &'a [Option<Verdict>],
}

impl<'a> Sequence<'a> {
    fn members(&self) -> impl Iterator<Item = (usize, bool, &'a Sighted<'a>, &'a Verdict)> {
        let Self { lineage, calls, verdicts } = *self;
        lineage.iter().filter_map(move |(at, trains)| Some((*at, *trains, &calls[*at], verdicts[*at].as_ref()?)))
    }

    /// Where its calls' outputs stand.
    fn samples(&self) -> Vec<Range<usize>> {
        self.members().map(|(_, _, s, _)| s.digest.prompt as usize..s.digest.length()).collect()
    }

    /// Those of some spans of assistant turns in the last call's prompt that stand in turns which no call of the
    /// sequence sampled.
    pub(super) fn not_sampled(&self, known: &Known, prompt: &[Id], spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
        // Both ascend, and so do the spans.
        let samples = self.samples();
        let mut turns = known.rule.assistant_turns(prompt).peekable();
        let mut is_sampled = |span: &Range<usize>| {
            while turns.next_if(|turn| turn.end < span.end).is_some() {}
            turns.peek().filter(|turn| turn.start <= span.start).is_some_and(|turn| {
                let first = samples.partition_point(|sample| sample.start < turn.start);
                samples.get(first).is_some_and(|sample| sample.start <= turn.end)
            })
        };
        spans.into_iter().filter(|span| !is_sampled(span)).collect()
    }
}

impl Plan {
    /// The row of a sequence: `prompt` and `output` are its last call's; `logprobs` gives those of any of its calls.
    pub(super) fn merged_row<'a>(
        &self,
        scope: &Scope<'_>,
        sequence: Sequence<'_>,
        (prompt, output): (&[Id], &[Id]),
        logprobs: impl Fn(usize) -> Option<&'a [f32]>,
        counts: &mut Counts,
    ) -> Option<Planned> {
        let (_, _, last, last_verdict) = sequence.members().last()?;
        let edits = self.row_edits(sequence, prompt, counts);
        let length = edits.length(prompt.len() + output.len());
        let mut row_logprobs = (self.options.write_options().optional.output_logprobs
            && sequence.members().any(|(call, trains, ..)| trains && logprobs(call).is_some()))
        .then(|| vec![f32::NAN; length]);
        let open_tail = self.leaves_tail_open(last_verdict);
        let mut flags = if edits.touches(prompt.len()) { 0 } else { flag::PROMPT_EXACT };
        flags |= if open_tail { flag::OPEN_THINK_TAIL } else { 0 };
        let (mut parts, mut tokens, mut absent) = (Vec::new(), Tokens::default(), true);
        for (call, _, sighted, verdict) in sequence.members().filter(|(_, trains, ..)| *trains) {
            let digest = sighted.digest;
            let at = digest.prompt as usize;
            let whole = at..digest.length();
            let keep: Vec<Range<usize>> = match self.options.think {
                Think::Keep => vec![whole.clone()],
                _ => keep_spans(digest.output as usize, &verdict.spans)
                    .into_iter()
                    .map(|r| at + r.start..at + r.end)
                    .collect(),
            };
            if let (Some(row), Some(values)) = (&mut row_logprobs, logprobs(call)) {
                let stays = if self.cuts() { &keep[..] } else { std::slice::from_ref(&whole) };
                for range in stays {
                    let to = edits.moved(range.start);
                    row[to..to + range.len()].copy_from_slice(&values[range.start - at..range.end - at]);
                }
            }
            let moved = |range: &Range<usize>| edits.moved(range.start) as i32..edits.moved(range.end) as i32;
            let sample = match (keep.first(), keep.last()) {
                // Cutting leaves the first kept id to the last.
                (Some(first), Some(last)) if self.cuts() => moved(&(first.start..last.end)),
                _ => moved(&whole),
            };
            let mine = self.tokens(digest.output as usize, verdict);
            flags |= verdict.flags & !flag::THINK_ABSENT;
            flags |= if mine.think_masked > 0 { flag::THINK_MASKED } else { 0 };
            absent &= verdict.flags & flag::THINK_ABSENT != 0;
            tokens.add(&mine);
            // Only the last call's sample stands behind the prompt.
            let said = prompt.get(whole.clone()).unwrap_or(output);
            let (weight, matched) = self.weight_of(scope, sighted, verdict, said, counts);
            parts.push(Part {
                call: RowCall {
                    start: sample.start,
                    end: sample.end,
                    turn: sighted.turn,
                    call_id: sighted.call.call_id.clone(),
                    file: sighted.file.clone(),
                    record: sighted.call.record as i64,
                    hash: digest.hash,
                },
                spans: match verdict.muted {
                    Some(_) => Vec::new(),
                    None if self.cuts() => vec![sample],
                    None => keep.iter().map(moved).collect(),
                },
                weight,
                matched,
                copies: 1,
                tokens: mine,
            });
        }
        tokens.prompt = length as u64 - (tokens.sampled - tokens.think_cut);
        flags |= if absent { flag::THINK_ABSENT } else { 0 };
        Some(Planned {
            identity: last.identity,
            side: self.weighing.side(scope.number),
            rollout: scope.number,
            prompt: match (edits.is_empty(), &last.call.prompt, &last.call.output) {
                (true, Some(prompt), Some(output)) => Prompt::Whole(prompt.clone(), output.clone()),
                _ => Prompt::Changed(edits.apply(prompt, output)),
            },
            output: 0..0,
            cut: Vec::new(),
            logprobs: row_logprobs.map_or(Logprobs::None, Logprobs::Row),
            meta: meta_of(scope.who, last, flags),
            tokens,
            copies: 1,
            matched: Vec::new(),
            parts,
        })
    }

    /// What the policies change in a sequence, in its own positions.
    pub(super) fn row_edits<'k>(&'k self, sequence: Sequence<'_>, prompt: &[Id], counts: &mut Counts) -> Edits<'k> {
        let mut edits = Edits::default();
        let identity = sequence.members().last().and_then(|(_, _, last, _)| last.identity);
        let Some(known) = identity.map(|index| self.identities.get(index)) else { return edits };
        for (_, trains, sighted, verdict) in sequence.members() {
            let at = sighted.digest.prompt as usize;
            if self.options.tail == Tail::NoThink {
                match known.rule.no_think_edit(prompt.get(..at).unwrap_or(prompt)) {
                    Some((range, with)) if !range.is_empty() => edits.put(range, with),
                    Some(_) => {}
                    None => counts.think.tail_unknown += u64::from(trains),
                }
            }
            if self.cuts() {
                for span in &verdict.spans {
                    edits.put(at + span.start..at + span.end, &[] as &[Id]);
                }
            }
        }
        if let (Some(section), Some(tokenizer)) = (&self.section, &self.tokenizer) {
            section.put(tokenizer, known, prompt, &sequence.samples(), &mut edits);
        }
        if self.options.think == Think::StripAll {
            self.strip_the_rest(known, sequence, prompt, &mut edits, counts);
        }
        edits
    }

    /// Assistant turns that no call of the sequence sampled: the same as in the prompt of a row of one call.
    fn strip_the_rest<'k>(
        &self,
        known: &'k Known,
        sequence: Sequence<'_>,
        prompt: &[Id],
        edits: &mut Edits<'k>,
        counts: &mut Counts,
    ) {
        let (spans, seen) = known.rule.history_spans(prompt);
        counts.think.history_left += seen.unterminated.max(seen.odd);
        let with = self.history_form(known);
        for span in sequence.not_sampled(known, prompt, spans) {
            if prompt[span.clone()] != *with {
                counts.think.history_stripped += 1;
                edits.put(span, with);
            }
        }
    }
}
