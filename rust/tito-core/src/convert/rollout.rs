//! One rollout whose ids are in memory, through all policies to planned rows.

use super::Plan;
use super::batch::Ids;
use super::build::{Planned, Scope};
use super::leaks::refusal;
use super::merged::Sequence;
use super::report::Counts;
use super::sight::{Sighted, arrange};
use super::weave::{Item, Source, Woven};
use crate::capture::Who;
use crate::error::Result;
use crate::ids::{Id, merge};
use std::borrow::Cow;

/// Calls of one rollout with the arenas their ranges point into.
#[derive(Debug)]
pub struct Rollout<'a> {
    who: &'a Who,
    number: u32,
    calls: Vec<Sighted<'a>>,
    order: Cow<'a, [usize]>,
    arena: Ids<'a>,
}

impl<'a> Rollout<'a> {
    /// Calls as the input has them; `number` says which rollout of the input they are. `numbered`: the format has numbered the turns; `known`: they are one rollout's, not
    /// just calls that stand together.
    #[must_use]
    pub fn new(
        who: &'a Who,
        number: u32,
        mut calls: Vec<Sighted<'a>>,
        (numbered, known): (bool, bool),
        arena: Ids<'a>,
    ) -> Self {
        let order = arrange(&mut calls, numbered, known);
        Self { who, number, calls, order: order.into(), arena }
    }

    /// The same of calls that are numbered and have their order.
    pub(super) fn arranged(
        who: &'a Who,
        number: u32,
        calls: Vec<Sighted<'a>>,
        order: &'a [usize],
        arena: Ids<'a>,
    ) -> Self {
        Self { who, number, calls, order: order.into(), arena }
    }
}

impl Plan {
    /// Makes the rows of a rollout.
    ///
    /// # Errors
    /// None today: the ids are in memory.
    pub fn rows(&self, rollout: &Rollout<'_>, planned: &mut Vec<Planned>, counts: &mut Counts) -> Result<()> {
        let Rollout { who, number, calls, order, arena } = rollout;
        let scope = Scope::new(who, *number, calls);
        let woven = self.weave(&scope, calls, order, &mut InMemory { calls, arena: *arena }, counts)?;
        self.assemble(&scope, calls, &woven, &woven.items, *arena, planned, counts);
        Ok(())
    }

    /// Makes some of a rollout's rows; the ids of the calls that they are made of are in the arena.
    #[expect(clippy::too_many_arguments, reason = "what a row is made of, and where it goes")]
    pub(super) fn assemble(
        &self,
        scope: &Scope<'_>,
        calls: &[Sighted<'_>],
        woven: &Woven,
        items: &[Item],
        arena: Ids<'_>,
        planned: &mut Vec<Planned>,
        counts: &mut Counts,
    ) {
        for item in items {
            match *item {
                Item::Turn(call) => {
                    let (sighted, Some(verdict)) = (&calls[call], &woven.verdicts[call]) else { continue };
                    match self.turn_row(scope, sighted, verdict, arena, counts) {
                        Ok(row) => match self.leak(&row, arena) {
                            Some(leak) => refusal(leak).count(sighted, counts),
                            None => planned.push(row),
                        },
                        Err(refusal) => refusal.count(sighted, counts),
                    }
                }
                Item::Merged(leaf) => {
                    let lineage = woven.lineage(leaf);
                    let sequence = Sequence { lineage: &lineage, calls, verdicts: &woven.verdicts };
                    let logprobs = |call: usize| calls[call].call.logprobs.clone().map(|range| &arena.logprobs[range]);
                    let ids = ids_of(&calls[leaf], arena);
                    let row = self.merged_row(scope, sequence, ids, logprobs, counts);
                    match row.as_ref().and_then(|row| self.leak(row, arena)) {
                        Some(leak) => {
                            for (call, _) in lineage.iter().filter(|(_, trains)| *trains) {
                                refusal(leak.clone()).count(&calls[*call], counts);
                            }
                        }
                        None => planned.extend(row),
                    }
                }
            }
        }
    }
}

fn ids_of<'a>(call: &Sighted<'_>, arena: Ids<'a>) -> (&'a [Id], &'a [Id]) {
    let prompt = call.call.prompt.clone().map_or(&[][..], |range| &arena.prompts[range]);
    (prompt, call.call.output.clone().map_or(&[][..], |range| &arena.outputs[range]))
}

struct InMemory<'a> {
    calls: &'a [Sighted<'a>],
    arena: Ids<'a>,
}

impl Source for InMemory<'_> {
    fn ids(&mut self, call: usize) -> Result<(&[Id], &[Id])> {
        Ok(ids_of(&self.calls[call], self.arena))
    }

    fn shared(&mut self, before: usize, call: usize) -> Result<usize> {
        let of = |call: usize| ids_of(&self.calls[call], self.arena);
        Ok(merge::shared(of(before), of(call).0))
    }
}
