//! From the calls of a rollout to what its rows are of: every call is judged, and hung on the call it continues.
//!
//! Merging is judged on the ids as they were captured. A call trains in one row only: of several longest sequences that
//! hold it, in the first in the order of rows. Where a policy would make a sequence that no engine setting shows, the
//! calls of that sequence are written one a row, counted.

use super::Plan;
use super::build::Scope;
use super::decide::{Muted, Refusal, Verdict};
use super::identity::Known;
use super::merged::Sequence;
use super::options::{Ambiguous, Rows, Tail};
use super::report::Counts;
use super::sight::Sighted;
use crate::capture::Skip;
use crate::error::Result;
use crate::ids::Id;
use crate::ids::merge::Forest;
use crate::ids::think::{Found, Opened};

/// Where the ids of a rollout's calls are.
pub(super) trait Source {
    /// Prompt and output of a call; empty where it has none.
    fn ids(&mut self, call: usize) -> Result<(&[Id], &[Id])>;
    /// How many leading ids the prompt of `call` shares with prompt and output of `before`.
    fn shared(&mut self, before: usize, call: usize) -> Result<usize>;
}

/// What a row is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// One call.
    Turn(usize),
    /// The calls of a longest sequence in their order, the last one ending it; and which of them train here.
    Merged(Vec<(usize, bool)>),
}

impl Item {
    /// The call whose ids the row is made of.
    pub(super) fn last(&self) -> usize {
        match self {
            Self::Turn(call) => *call,
            Self::Merged(lineage) => lineage.last().map_or(0, |(call, _)| *call),
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
        let mut by_length: Vec<usize> = (0..calls.len()).collect();
        by_length.sort_by_key(|call| calls[*call].digest.prompt);
        let mut verdicts: Vec<Option<Verdict>> = vec![None; calls.len()];
        let mut refusals: Vec<Option<Refusal>> = Vec::new();
        refusals.resize_with(calls.len(), || None);
        let mut parents: Vec<Option<u32>> = vec![None; calls.len()];
        let mut rank = vec![0; calls.len()];
        order.iter().enumerate().for_each(|(at, call)| rank[*call] = at);
        let mut forest = Forest::new(calls.iter().filter(|c| c.digest.output > 0).map(|c| c.digest.length()));
        let (mut found, mut before) = (Found::default(), None);
        for call in by_length {
            // Asked for before the ids are: a source may hold one sequence at a time.
            let shared = before.map_or(Ok(0), |before| source.shared(before, call))?;
            match self.decide(scope.who, &calls[call], source.ids(call)?, &mut found, counts) {
                Ok(verdict) => verdicts[call] = Some(verdict),
                Err(refusal) => {
                    refusals[call] = Some(refusal);
                    continue;
                }
            }
            if calls.len() > 1 {
                parents[call] = hang(&mut forest, (call, rank[call]), shared, source)?;
                before = Some(call);
            }
        }
        if self.options.prove_think {
            self.prove(calls, order, source, counts)?;
        }
        self.settle_ambiguous(calls, order, &mut parents, &mut verdicts, &mut refusals, counts);
        for call in order {
            if let Some(refusal) = refusals[*call].take() {
                refusal.count(&calls[*call], counts);
            }
        }
        let mut has_child = vec![false; calls.len()];
        for call in order.iter().filter(|call| verdicts[**call].is_some()) {
            if let Some(parent) = parents[*call] {
                has_child[parent as usize] = true;
            }
        }
        let used = || order.iter().copied().filter(|call| verdicts[*call].is_some());
        counts.merge.calls += used().count() as u64;
        counts.merge.ids += used().map(|call| calls[call].digest.length() as u64).sum::<u64>();
        let leaves = || used().filter(|call| !has_child[*call]);
        counts.merge.merged_rows += leaves().count() as u64;
        counts.merge.merged_ids += leaves().map(|call| calls[call].digest.length() as u64).sum::<u64>();
        if self.options.rows == Rows::Turn {
            let items = used().map(Item::Turn).collect();
            return Ok(Woven { verdicts, items });
        }
        let mut items: Vec<Item> = Vec::new();
        let mut trained = vec![false; calls.len()];
        for leaf in leaves() {
            let mut lineage = vec![(leaf, true)];
            let mut at = leaf;
            while let Some(parent) = parents[at] {
                at = parent as usize;
                lineage.push((at, !trained[at]));
            }
            lineage.reverse();
            for (call, _) in &lineage {
                trained[*call] = true;
            }
            let alone = lineage.iter().filter(|(_, trains)| *trains).map(|(call, _)| *call);
            if self.options.rows == Rows::Auto && lineage.len() == 1 {
                items.push(Item::Turn(leaf));
            } else if !self.is_shown(&lineage, calls, &verdicts, source)? {
                counts.merge.fell_back += alone.clone().count() as u64;
                items.extend(alone.map(Item::Turn));
            } else if self.is_too_long(&lineage, calls, &verdicts, source)? {
                counts.merge.fell_back_overlong += alone.clone().count() as u64;
                items.extend(alone.map(Item::Turn));
            } else {
                items.push(Item::Merged(lineage));
            }
        }
        // Rows that fell back stand where their own turn puts them.
        items.sort_by_key(|item| rank[item.last()]);
        Ok(Woven { verdicts, items })
    }

    /// Finds the calls of which nobody can tell which one was kept, and settles them by policy.
    fn settle_ambiguous(
        &self,
        calls: &[Sighted<'_>],
        order: &[usize],
        parents: &mut [Option<u32>],
        verdicts: &mut [Option<Verdict>],
        refusals: &mut [Option<Refusal>],
        counts: &mut Counts,
    ) {
        let prompt = |call: usize| (calls[call].digest.prompt, calls[call].digest.prompt_hash);
        let mut siblings: Vec<usize> =
            order.iter().copied().filter(|c| calls[*c].retried && verdicts[*c].is_some()).collect();
        if siblings.is_empty() {
            return;
        }
        let mut continued = vec![false; calls.len()];
        for parent in (0..calls.len()).filter(|call| verdicts[*call].is_some()).filter_map(|call| parents[call]) {
            continued[parent as usize] = true;
        }
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
                // What continued it continues what it continued itself.
                let above = parents[call];
                for parent in parents.iter_mut().filter(|parent| **parent == Some(call as u32)) {
                    *parent = above;
                }
            }
        }
    }

    /// Whether each earlier answer of the sequence stands in it, after the policies, as the template shows it to the
    /// calls that come later.
    fn is_shown(
        &self,
        lineage: &[(usize, bool)],
        calls: &[Sighted<'_>],
        verdicts: &[Option<Verdict>],
        source: &mut impl Source,
    ) -> Result<bool> {
        let Some((_, earlier)) = lineage.split_last() else { return Ok(true) };
        for (call, _) in earlier {
            let (Some(verdict), Some(identity)) = (&verdicts[*call], calls[*call].identity) else { continue };
            let known = self.identities.get(identity);
            let cut = self.cuts() && !verdict.spans.is_empty();
            let tail = match self.options.tail {
                Tail::Captured => None,
                Tail::NoThink => known.rule.no_think_edit(source.ids(*call)?.0).map(|(range, _)| !range.is_empty()),
            };
            if !cut && tail != Some(true) {
                continue;
            }
            if !self.cuts() || !stands_as_shown(known, verdict, tail.is_some()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_too_long(
        &self,
        lineage: &[(usize, bool)],
        calls: &[Sighted<'_>],
        verdicts: &[Option<Verdict>],
        source: &mut impl Source,
    ) -> Result<bool> {
        let (Some(most), Some((leaf, _))) = (self.options.max_length, lineage.last()) else { return Ok(false) };
        let (prompt, output) = source.ids(*leaf)?;
        let edits = self.row_edits(Sequence { lineage, calls, verdicts }, prompt, &mut Counts::default());
        Ok(edits.length(prompt.len() + output.len()) > most)
    }
}

/// Whether an answer without its thinking begins as the template would have it begin in a later prompt.
fn stands_as_shown(known: &Known, verdict: &Verdict, no_think_tail: bool) -> bool {
    let begins = if no_think_tail { known.rule.no_think_opened() } else { verdict.opened };
    match begins {
        Opened::No => known.rule.history_pair().is_empty(),
        Opened::Pair => !known.rule.history_pair().is_empty(),
        Opened::Yes | Opened::Unknown => false,
    }
}

/// The call that this one continues.
fn hang(
    forest: &mut Forest,
    (call, rank): (usize, usize),
    shared: usize,
    source: &mut impl Source,
) -> Result<Option<u32>> {
    forest.enter(source.ids(call)?.0, shared);
    let mut parent = None;
    while let Some(candidate) = forest.candidate() {
        if candidate.proven || source.shared(candidate.call as usize, call)? >= candidate.length {
            parent = Some(candidate.call);
            break;
        }
    }
    let (prompt, output) = source.ids(call)?;
    forest.leave(call as u32, rank, prompt, output);
    Ok(parent)
}
