//! From the calls of a rollout to what its rows are of: every call is judged, and hung on the call it continues.
//!
//! Merging is judged on the ids as they were captured, of calls of one tokenizer. A call trains in one row only: of
//! several longest sequences that hold it, in the first in the order of rows. Where a policy would make a sequence that
//! no engine setting shows, the calls of that sequence are written one a row, counted.

use super::Plan;
use super::build::Scope;
use super::decide::{Muted, Refusal, Verdict, kind_of};
use super::identity::Known;
use super::merged::Sequence;
use super::options::{Ambiguous, Rows, Tail, Think};
use super::report::Counts;
use super::sight::Sighted;
use crate::capture::Skip;
use crate::error::{Place, Result};
use crate::ids::Id;
use crate::ids::merge::Forest;
use crate::ids::think::{Found, Opened};
use crate::ids::turns::Tail as TailOf;
use crate::rows::flag;

/// Where the ids of a rollout's calls are.
pub(super) trait Source {
    /// Prompt and output of a call; empty where it has none.
    fn ids(&mut self, call: usize) -> Result<(&[Id], &[Id])>;
    /// How many leading ids the prompt of `call` shares with prompt and output of `before`.
    fn shared(&mut self, before: usize, call: usize) -> Result<usize>;
}

/// What a row is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// One call.
    Turn(usize),
    /// All calls of the longest sequence that this one ends.
    Merged(usize),
}

impl Item {
    /// The call whose ids the row is made of.
    pub(super) fn last(self) -> usize {
        match self {
            Self::Turn(call) | Self::Merged(call) => call,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Woven {
    /// By call; none = it gives no row, and is counted.
    pub(super) verdicts: Vec<Option<Verdict>>,
    /// In the order of rows.
    pub(super) items: Vec<Item>,
    /// By call: the one it continues.
    parents: Vec<Option<u32>>,
    /// By call: the last call of the sequence in which it trains.
    homes: Vec<u32>,
}

impl Woven {
    /// The calls of the longest sequence that `leaf` ends, in their order, and which of them train in its row.
    pub(super) fn lineage(&self, leaf: usize) -> Vec<(usize, bool)> {
        let up = std::iter::successors(Some(leaf), |call| self.parents[*call].map(|parent| parent as usize));
        let mut lineage: Vec<_> = up.map(|call| (call, self.homes[call] as usize == leaf)).collect();
        lineage.reverse();
        lineage
    }
}

/// What is found out about the calls while they are judged.
struct Judged {
    verdicts: Vec<Option<Verdict>>,
    refusals: Vec<Option<Refusal>>,
    /// The call that each one continues, refused ones included.
    parents: Vec<Option<u32>>,
}

impl Plan {
    /// Judges the calls of a rollout and says what its rows are of. `order` is that of rows.
    pub(super) fn weave(
        &self,
        scope: &Scope<'_>,
        calls: &[Sighted<'_>],
        order: &[usize],
        source: &mut impl Source,
        counts: &mut Counts,
    ) -> Result<Woven> {
        counts.rollouts += 1;
        counts.calls_seen += calls.len() as u64;
        calls.iter().for_each(|call| counts.kind(kind_of(call.call)));
        let mut rank = vec![0; calls.len()];
        order.iter().enumerate().for_each(|(at, call)| rank[*call] = at);
        let mut judged = self.judge_calls(scope, calls, &rank, source, counts)?;
        if self.settle_ambiguous(calls, order, &mut judged, counts) {
            let stays = |call: usize| judged.verdicts[call].is_some();
            judged.parents = grow(calls, &rank, source, stays)?;
        }
        if self.options.prove_think {
            self.prove(calls, order, source, counts)?;
        }
        let Judged { verdicts, mut refusals, parents } = judged;
        for call in order {
            if let Some(refusal) = refusals[*call].take() {
                refusal.count(&calls[*call], counts);
            }
        }
        let used: Vec<usize> = order.iter().copied().filter(|call| verdicts[*call].is_some()).collect();
        if scope.who.rollout_id.is_none() {
            counts.unnamed += calls.len() as u64;
        }
        for call in &used {
            let (call, Some(parent)) = (&calls[*call], parents[*call].map(|parent| &calls[parent as usize])) else {
                continue;
            };
            if let (Some(turn), Some(before)) = (call.turn, parent.turn)
                && turn < before
            {
                counts.backwards += 1;
                let place = |call: &Sighted<'_>| Place::record(call.file, call.call.record);
                let say = || format!("{} is turn {turn} and continues {}, turn {before}", place(call), place(parent));
                counts.backwards_first.get_or_insert_with(say);
            }
        }
        let mut has_child = vec![false; calls.len()];
        used.iter().filter_map(|call| parents[*call]).for_each(|parent| has_child[parent as usize] = true);
        let leaves: Vec<usize> = used.iter().copied().filter(|call| !has_child[*call]).collect();
        let ids = |list: &[usize]| list.iter().map(|call| calls[*call].digest.length() as u64).sum::<u64>();
        counts.merge.calls += used.len() as u64;
        counts.merge.ids += ids(&used);
        counts.merge.merged_rows += leaves.len() as u64;
        counts.merge.merged_ids += ids(&leaves);
        if self.options.rows == Rows::Turn {
            let items = used.into_iter().map(Item::Turn).collect();
            return Ok(Woven { verdicts, items, ..Woven::default() });
        }
        let mut woven = Woven { verdicts, items: Vec::new(), parents, homes: vec![u32::MAX; calls.len()] };
        for leaf in leaves {
            let mut at = Some(leaf);
            while let Some(call) = at.filter(|call| woven.homes[*call] == u32::MAX) {
                woven.homes[call] = leaf as u32;
                at = woven.parents[call].map(|parent| parent as usize);
            }
            let item = self.item_of(leaf, &woven, calls, source, counts)?;
            match item {
                Some(item) => woven.items.push(item),
                None => {
                    let lineage = woven.lineage(leaf);
                    woven.items.extend(lineage.iter().filter(|(_, trains)| *trains).map(|(call, _)| Item::Turn(*call)));
                }
            }
        }
        // Rows that fell back stand where their own turn puts them.
        woven.items.sort_by_key(|item| rank[item.last()]);
        Ok(woven)
    }

    /// Judges each call, and hangs it on the one it continues. Calls that are refused continue others, and none
    /// continues them.
    fn judge_calls(
        &self,
        scope: &Scope<'_>,
        calls: &[Sighted<'_>],
        rank: &[usize],
        source: &mut impl Source,
        counts: &mut Counts,
    ) -> Result<Judged> {
        let mut verdicts: Vec<Option<Verdict>> = vec![None; calls.len()];
        let mut refusals: Vec<Option<Refusal>> = Vec::new();
        refusals.resize_with(calls.len(), || None);
        let mut walk = Walk::new(calls, rank);
        let mut found = Found::default();
        for call in by_length(calls) {
            // Asked for before the ids are: a source may hold one sequence at a time.
            let shared = walk.shared(call, source)?;
            match self.decide(scope.who, &calls[call], source.ids(call)?, &mut found, counts) {
                Ok(verdict) => verdicts[call] = Some(verdict),
                Err(refusal) => refusals[call] = Some(refusal),
            }
            walk.hang(call, verdicts[call].is_some(), shared, source)?;
        }
        Ok(Judged { verdicts, refusals, parents: walk.parents })
    }

    /// What the row of a longest sequence is; none: its calls are written one a row, counted.
    fn item_of(
        &self,
        leaf: usize,
        woven: &Woven,
        calls: &[Sighted<'_>],
        source: &mut impl Source,
        counts: &mut Counts,
    ) -> Result<Option<Item>> {
        if woven.parents[leaf].is_none() && self.options.rows == Rows::Auto {
            return Ok(Some(Item::Turn(leaf)));
        }
        let asks = self.options.max_length.is_some() || self.cuts() || self.options.tail == Tail::NoThink;
        if !asks {
            return Ok(Some(Item::Merged(leaf)));
        }
        let lineage = woven.lineage(leaf);
        let sequence = Sequence { lineage: &lineage, calls, verdicts: &woven.verdicts };
        let alone = lineage.iter().filter(|(_, trains)| *trains).count() as u64;
        if !self.is_shown(sequence, source)? {
            counts.merge.fell_back += alone;
            return Ok(None);
        }
        if self.is_too_long(sequence, source)? {
            counts.merge.fell_back_overlong += alone;
            return Ok(None);
        }
        Ok(Some(Item::Merged(leaf)))
    }

    /// Finds the calls of which nobody can tell which one was kept, and settles them by policy. True: a call that
    /// others continue was left out.
    fn settle_ambiguous(
        &self,
        calls: &[Sighted<'_>],
        order: &[usize],
        judged: &mut Judged,
        counts: &mut Counts,
    ) -> bool {
        let Judged { verdicts, refusals, parents } = judged;
        let prompt = |call: usize| (calls[call].digest.prompt, calls[call].digest.prompt_hash);
        let mut siblings: Vec<usize> =
            order.iter().copied().filter(|c| calls[*c].retried && verdicts[*c].is_some()).collect();
        if siblings.is_empty() {
            return false;
        }
        // A call that gives no row still tells what its prompt continues.
        let mut continued = vec![false; calls.len()];
        parents.iter().flatten().for_each(|parent| continued[*parent as usize] = true);
        let mut left_out = false;
        // Stable: inside a group the order of rows stays.
        siblings.sort_by_key(|call| prompt(*call));
        for group in siblings.chunk_by(|a, b| prompt(*a) == prompt(*b)) {
            let first = group[0];
            // Choices of one reply were asked for as such.
            if group.iter().all(|call| calls[first].same_reply(&calls[*call])) {
                continue;
            }
            let twin =
                |call: usize| group.iter().filter(|c| calls[**c].digest.hash == calls[call].digest.hash).count() > 1;
            let kept = group.iter().filter(|call| continued[**call]).count();
            let unsettled: Vec<usize> = match kept {
                0 => group.to_vec(),
                _ => group.iter().copied().filter(|call| twin(*call)).collect(),
            };
            counts.merge.ambiguous += unsettled.len() as u64;
            if kept == 1 {
                let replaced = group.iter().filter(|call| !continued[**call] && !twin(**call)).count();
                counts.merge.superseded += replaced as u64;
            }
            let Some((last, earlier)) = unsettled.split_last() else { continue };
            let leaves: Vec<usize> = match self.options.ambiguous {
                Ambiguous::KeepAll => continue,
                Ambiguous::Mask => {
                    for call in unsettled {
                        if let Some(verdict) = &mut verdicts[call] {
                            verdict.muted = verdict.muted.or(Some(Muted::Ambiguous));
                        }
                    }
                    continue;
                }
                Ambiguous::KeepLast => earlier.iter().copied().filter(|call| *call != *last).collect(),
                Ambiguous::Drop => unsettled,
            };
            for call in leaves {
                let message = "the prompt was answered more than once, and no later prompt tells which reply was kept";
                refusals[call] = Some(Refusal::new(Skip::Ambiguous, message));
                verdicts[call] = None;
                left_out |= continued[call];
            }
        }
        left_out
    }

    /// Whether each earlier answer of the sequence stands in it, after the policies, as the template shows it to the
    /// calls that come later; where one was changed, the answers that no call of the sequence sampled must look alike.
    fn is_shown(&self, sequence: Sequence<'_>, source: &mut impl Source) -> Result<bool> {
        let Some(((leaf, _), earlier)) = sequence.lineage.split_last() else { return Ok(true) };
        let prompt = source.ids(*leaf)?.0;
        let mut changed = None;
        for (call, _) in earlier {
            let sighted = &sequence.calls[*call];
            let (Some(verdict), Some(identity)) = (&sequence.verdicts[*call], sighted.identity) else { continue };
            let known = self.identities.get(identity);
            let tail = known.rule.tail_of(&prompt[..sighted.digest.prompt as usize]);
            let cut = self.cuts() && !verdict.spans.is_empty();
            let rewritten = self.options.tail == Tail::NoThink && tail == TailOf::Think;
            if !cut && !rewritten {
                continue;
            }
            let begins = match (self.options.tail, tail) {
                // The answer goes on from words that were put into its mouth.
                (_, TailOf::Other) => return Ok(false),
                (Tail::NoThink, _) => known.rule.no_think_opened(),
                (Tail::Captured, _) => verdict.opened,
            };
            if !self.is_without_thinking(verdict) || !begins_as_shown(known, begins) {
                return Ok(false);
            }
            changed = Some(known);
        }
        let Some(known) = changed.filter(|_| self.options.think != Think::StripAll) else { return Ok(true) };
        let (spans, _) = known.rule.history_spans(prompt);
        let rest = sequence.not_sampled(known, prompt, spans);
        Ok(rest.into_iter().all(|span| prompt[span] == *known.rule.history_pair()))
    }

    /// Whether an answer, after the policies, is what the template would keep of it: nothing before its thinking, and no
    /// marker left behind it.
    fn is_without_thinking(&self, verdict: &Verdict) -> bool {
        let left = flag::THINK_ODD | flag::THINK_UNTERMINATED;
        let spans = match &verdict.spans[..] {
            [] => true,
            [span] => self.cuts() && span.start == 0,
            _ => false,
        };
        spans && verdict.flags & left == 0
    }

    fn is_too_long(&self, sequence: Sequence<'_>, source: &mut impl Source) -> Result<bool> {
        let (Some(most), Some((leaf, _))) = (self.options.max_length, sequence.lineage.last()) else {
            return Ok(false);
        };
        let (prompt, output) = source.ids(*leaf)?;
        let edits = self.row_edits(sequence, prompt, &mut Counts::default());
        Ok(edits.length(prompt.len() + output.len()) > most)
    }
}

/// Whether an answer without its thinking begins as the template would have it begin in a later prompt.
fn begins_as_shown(known: &Known, begins: Opened) -> bool {
    match begins {
        Opened::No => known.rule.history_pair().is_empty(),
        Opened::Pair => !known.rule.history_pair().is_empty(),
        Opened::Yes | Opened::Unknown => false,
    }
}

/// The calls, shorter prompts first: what a call continues stands before it.
fn by_length(calls: &[Sighted<'_>]) -> Vec<usize> {
    let mut by_length: Vec<usize> = (0..calls.len()).collect();
    by_length.sort_by_key(|call| calls[*call].digest.prompt);
    by_length
}

/// Hangs the calls that stay on the ones they continue.
fn grow(
    calls: &[Sighted<'_>],
    rank: &[usize],
    source: &mut impl Source,
    stays: impl Fn(usize) -> bool,
) -> Result<Vec<Option<u32>>> {
    let mut walk = Walk::new(calls, rank);
    for call in by_length(calls).into_iter().filter(|call| stays(*call)) {
        let shared = walk.shared(call, source)?;
        walk.hang(call, true, shared, source)?;
    }
    Ok(walk.parents)
}

/// Comes to the calls of a rollout one after another, shorter prompts first.
struct Walk<'a> {
    calls: &'a [Sighted<'a>],
    rank: &'a [usize],
    forest: Forest,
    /// The call before.
    before: Option<usize>,
    parents: Vec<Option<u32>>,
}

impl<'a> Walk<'a> {
    fn new(calls: &'a [Sighted<'a>], rank: &'a [usize]) -> Self {
        let forest = Forest::new(calls.iter().filter(|c| c.digest.output > 0).map(|c| c.digest.length()));
        Self { calls, rank, forest, before: None, parents: vec![None; calls.len()] }
    }

    fn is_told_by_ids(&self, call: usize) -> bool {
        let sighted = &self.calls[call];
        self.calls.len() > 1 && sighted.digest.prompt > 0 && sighted.skip.is_none() && sighted.call.bad.is_none()
    }

    /// How many ids the prompt shares with the sequence before.
    fn shared(&self, call: usize, source: &mut impl Source) -> Result<usize> {
        match self.before.filter(|_| self.is_told_by_ids(call)) {
            Some(before) => source.shared(before, call),
            None => Ok(0),
        }
    }

    /// Finds the call that this one continues. `stays`: others may continue it.
    fn hang(&mut self, call: usize, stays: bool, shared: usize, source: &mut impl Source) -> Result<()> {
        if !self.is_told_by_ids(call) {
            return Ok(());
        }
        self.forest.enter(source.ids(call)?.0, shared);
        while let Some(candidate) = self.forest.candidate() {
            let at = candidate.call as usize;
            if self.calls[at].identity == self.calls[call].identity
                && (candidate.proven || source.shared(at, call)? >= candidate.length)
            {
                self.parents[call] = Some(candidate.call);
                break;
            }
        }
        if stays {
            let (prompt, output) = source.ids(call)?;
            self.forest.leave(call as u32, self.rank[call], prompt, output);
        }
        self.before = Some(call);
        Ok(())
    }
}
