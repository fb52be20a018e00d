//! Rollouts that come back from the spill, in stretches: some small ones whole, or a part of a large one.
//!
//! Of a large rollout only what is known of its calls is in memory, not their ids: those are read for the rows of one
//! stretch at a time, from the nearest prompt that stands whole.

use super::STRETCH_IDS;
use super::batch::Arena;
use super::build::{Plan, Planned, Scope};
use super::report::Counts;
use super::rollout::Rollout;
use super::rollouts::Settled;
use super::sight::{Sighted, arrange};
use super::spill::{Entry, Shelf, Stored};
use super::weave::{Item, Source, Woven};
use crate::capture::Who;
use crate::error::Result;
use crate::ids::{Id, merge};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A complete spill, and how far it was handed out.
#[derive(Debug)]
pub(super) struct Replay {
    shelf: Shelf,
    settled: Settled,
    next: Mutex<Next>,
}

#[derive(Debug, Default)]
struct Next {
    entry: usize,
    stretch: u64,
    /// A large rollout and its first item that was not handed out.
    large: Option<(Arc<Large>, usize)>,
}

/// What one worker makes rows of.
#[derive(Debug)]
pub(super) enum Stretch {
    /// Whole rollouts, as ranges of the index.
    Whole(Vec<Range<usize>>),
    /// Some items of a large one, and what was counted when it was judged, with the first of them.
    Part(Arc<Large>, Range<usize>, Option<Box<Counts>>),
}

/// A rollout of more ids than one stretch has.
#[derive(Debug)]
pub(super) struct Large {
    entries: Range<usize>,
    pub(super) told: Told,
    pub(super) woven: Woven,
}

/// What is known of a rollout and its calls.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) who: Who,
    /// Its calls say unlike things of how it ended.
    disputed: bool,
    /// Which rollout of the input it is.
    number: u32,
    pub(super) stored: Vec<Stored>,
    /// Turn and whether it is a retry, by call.
    numbers: Vec<(Option<i32>, bool)>,
    pub(super) order: Vec<usize>,
}

impl Told {
    /// `noted`: what lines without calls tell; it is the last word on the rollout's outcome.
    fn new(number: u32, mut stored: Vec<Stored>, noted: Option<&Who>) -> Self {
        let mut who = Who::default();
        // The latest call has the last word, whatever the order of the lines.
        let mut in_time: Vec<&Stored> = stored.iter().collect();
        in_time.sort_by(|a, b| {
            let started = |stored: &Stored| stored.call.started.unwrap_or(f64::NEG_INFINITY);
            let place = |stored: &Stored| (stored.call.turn, stored.call.choice);
            let name = |stored: &Stored| stored.call.call_id.clone();
            started(a).total_cmp(&started(b)).then(place(a).cmp(&place(b))).then_with(|| name(a).cmp(&name(b)))
        });
        let mut disputed = false;
        for call in in_time {
            disputed |= who.reward.is_some_and(|reward| call.who.reward.is_some_and(|other| other != reward));
            disputed |= who.status.is_some() && call.who.status.is_some() && who.status != call.who.status;
            who.join(&call.who, true);
        }
        if let Some(noted) = noted {
            who.join(noted, true);
            stored.iter_mut().for_each(|call| who.outcome.settle(&mut call.call));
        }
        let mut told = Self { who, disputed, number, stored, numbers: Vec::new(), order: Vec::new() };
        let mut sighted: Vec<_> = told.stored.iter().map(Stored::sighted).collect();
        let numbered = told.stored.iter().any(|call| call.numbered);
        let order = arrange(&mut sighted, numbered, told.who.rollout_id.is_some());
        told.numbers = sighted.iter().map(|call| (call.turn, call.retried)).collect();
        told.order = order;
        told
    }

    /// The calls as the policies see them.
    fn sighted(&self) -> Vec<Sighted<'_>> {
        self.numbered(&self.stored)
    }

    /// The same of copies of the calls.
    fn numbered<'a>(&self, stored: &'a [Stored]) -> Vec<Sighted<'a>> {
        stored
            .iter()
            .zip(&self.numbers)
            .map(|(stored, (turn, retried))| Sighted { turn: *turn, retried: *retried, ..stored.sighted() })
            .collect()
    }
}

impl Replay {
    pub(super) fn new(shelf: Shelf, settled: Settled) -> Self {
        Self { shelf, settled, next: Mutex::default() }
    }

    /// The next stretch and its number. A large rollout is judged by the worker that comes to it first.
    pub(super) fn next(&self, plan: &Plan) -> Result<Option<(u64, Stretch)>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let next = &mut *next;
        let mut judged = None;
        let index = &self.shelf.index;
        if next.large.is_none() {
            let (mut rollouts, mut sum) = (Vec::new(), 0);
            while next.entry < index.len() && sum < STRETCH_IDS {
                let rollout = index[next.entry].rollout;
                let length = index[next.entry..].iter().take_while(|entry| entry.rollout == rollout).count();
                let entries = next.entry..next.entry + length;
                let ids: usize = index[entries.clone()].iter().map(Entry::ids).sum();
                if ids > STRETCH_IDS && length > 1 {
                    if rollouts.is_empty() {
                        let (large, counts) = self.judge(plan, entries.clone())?;
                        (next.large, judged) = (Some((Arc::new(large), 0)), Some(Box::new(counts)));
                        next.entry = entries.end;
                    }
                    break;
                }
                sum += ids;
                next.entry = entries.end;
                rollouts.push(entries);
            }
            if !rollouts.is_empty() {
                next.stretch += 1;
                return Ok(Some((next.stretch - 1, Stretch::Whole(rollouts))));
            }
        }
        let Some((large, from)) = next.large.take() else { return Ok(None) };
        let (mut to, mut sum) = (from, 0);
        while to < large.woven.items.len() && (to == from || sum < STRETCH_IDS) {
            sum += large.told.stored[large.woven.items[to].last()].digest.length();
            to += 1;
        }
        if to < large.woven.items.len() {
            next.large = Some((Arc::clone(&large), to));
        }
        next.stretch += 1;
        Ok(Some((next.stretch - 1, Stretch::Part(large, from..to, judged))))
    }

    fn judge(&self, plan: &Plan, entries: Range<usize>) -> Result<(Large, Counts)> {
        let told = self.told(entries.clone())?;
        let mut counts = Counts { disputed: u64::from(told.disputed), ..Counts::default() };
        let calls = told.sighted();
        let mut reader = Reader::new(&self.shelf, entries.clone());
        let woven =
            plan.weave(&Scope::new(&told.who, told.number, &calls), &calls, &told.order, &mut reader, &mut counts)?;
        drop(calls);
        Ok((Large { entries, told, woven }, counts))
    }

    /// Makes the rows of a stretch; gives the arena that they point into.
    pub(super) fn rows(
        &self,
        plan: &Plan,
        stretch: Stretch,
        planned: &mut Vec<Planned>,
        counts: &mut Counts,
    ) -> Result<Arena> {
        let mut arena = Arena::default();
        match stretch {
            Stretch::Whole(rollouts) => {
                let mut read = Vec::new();
                for entries in rollouts {
                    let mut told = self.told(entries.clone())?;
                    self.load(entries, |_| true, |_| true, &mut told.stored, &mut arena)?;
                    read.push(told);
                }
                for told in &read {
                    counts.disputed += u64::from(told.disputed);
                    plan.rows(
                        &Rollout::arranged(&told.who, told.number, told.sighted(), &told.order, arena.view()),
                        planned,
                        counts,
                    )?;
                }
            }
            Stretch::Part(large, items, judged) => {
                if let Some(judged) = judged {
                    counts.add(*judged);
                }
                let items = &large.woven.items[items];
                let mut ends = vec![false; large.told.stored.len()];
                let mut members = ends.clone();
                for item in items {
                    ends[item.last()] = true;
                    if let Item::Merged(leaf) = item {
                        let lineage = large.woven.lineage(*leaf);
                        lineage.iter().filter(|(_, trains)| *trains).for_each(|(call, _)| members[*call] = true);
                    }
                }
                let mut stored = large.told.stored.clone();
                self.load(large.entries.clone(), |at| ends[at], |at| members[at], &mut stored, &mut arena)?;
                let calls = large.told.numbered(&stored);
                let scope = Scope::new(&large.told.who, large.told.number, &calls);
                plan.assemble(&scope, &calls, &large.woven, items, arena.view(), planned, counts);
            }
        }
        Ok(arena)
    }

    /// What is known of a rollout.
    fn told(&self, entries: Range<usize>) -> Result<Told> {
        let mut buffer = Vec::new();
        let number = self.shelf.index.get(entries.start).map_or(0, |entry| entry.rollout);
        let stored: Result<Vec<_>> =
            self.shelf.index[entries].iter().map(|entry| self.shelf.facts(entry, &mut buffer)).collect();
        let mut told = Told::new(number, stored?, self.settled.notes.get(&number));
        if let Some(name) = self.settled.renamed.get(&number) {
            told.who.rollout_id = Some(name.clone());
        }
        Ok(told)
    }

    /// Reads the ids of some calls of a rollout into an arena, and points the calls there; and the logprobs of these
    /// and of some more.
    fn load(
        &self,
        entries: Range<usize>,
        ids: impl Fn(usize) -> bool,
        logprobs: impl Fn(usize) -> bool,
        calls: &mut [Stored],
        arena: &mut Arena,
    ) -> Result<()> {
        fn add<T: Copy>(arena: &mut Vec<T>, values: &[T]) -> Range<usize> {
            arena.extend_from_slice(values);
            arena.len() - values.len()..arena.len()
        }
        let mut reader = Reader::new(&self.shelf, entries);
        for (at, stored) in calls.iter_mut().enumerate() {
            let call = &mut stored.call;
            if ids(at) {
                reader.seek(at)?;
                let (prompt, output) = reader.sequence.split_at(reader.prompt);
                call.prompt = call.prompt.take().map(|_| add(&mut arena.prompts, prompt));
                call.output = call.output.take().map(|_| add(&mut arena.outputs, output));
            }
            if call.logprobs.is_some() {
                let start = arena.logprobs.len();
                if ids(at) || logprobs(at) {
                    reader.logprobs(at, &mut arena.logprobs)?;
                }
                call.logprobs = Some(start..arena.logprobs.len());
            }
        }
        Ok(())
    }
}

/// Gives the sequences of a rollout one at a time.
struct Reader<'s> {
    shelf: &'s Shelf,
    entries: Range<usize>,
    /// The call whose sequence is held.
    at: Option<usize>,
    sequence: Vec<Id>,
    prompt: usize,
    /// A sequence that was asked for as one to compare with.
    before: (Option<usize>, Vec<Id>),
    buffer: Vec<u8>,
}

impl<'s> Reader<'s> {
    fn new(shelf: &'s Shelf, entries: Range<usize>) -> Self {
        Self {
            shelf,
            entries,
            at: None,
            sequence: Vec::new(),
            prompt: 0,
            before: (None, Vec::new()),
            buffer: Vec::new(),
        }
    }

    fn seek(&mut self, call: usize) -> Result<()> {
        if self.at == Some(call) {
            return Ok(());
        }
        let entries = &self.shelf.index[self.entries.clone()];
        let chain = entries[call].chain;
        let begins = |at: &usize| entries[*at].chain == chain && entries[*at].is_whole();
        let whole = (0..=call).rev().find(begins).unwrap_or(0);
        let from = match self.at {
            Some(at) if at < call && at >= whole && entries[at].chain == chain => at + 1,
            _ => whole,
        };
        self.at = None;
        for entry in entries[from..=call].iter().filter(|entry| entry.chain == chain) {
            let arrays = self.shelf.arrays(entry, &mut self.buffer)?;
            self.sequence.truncate(arrays.shared);
            extend(&mut self.sequence, arrays.new);
            self.prompt = self.sequence.len();
            extend(&mut self.sequence, arrays.output);
        }
        self.at = Some(call);
        Ok(())
    }

    fn logprobs(&mut self, call: usize, values: &mut Vec<f32>) -> Result<()> {
        let entry = &self.shelf.index[self.entries.clone()][call];
        extend(values, self.shelf.arrays(entry, &mut self.buffer)?.logprobs);
        Ok(())
    }
}

impl Source for Reader<'_> {
    fn ids(&mut self, call: usize) -> Result<(&[Id], &[Id])> {
        self.seek(call)?;
        Ok(self.sequence.split_at(self.prompt))
    }

    fn shared(&mut self, before: usize, call: usize) -> Result<usize> {
        if self.before.0 != Some(before) {
            self.seek(before)?;
            self.before.1.clear();
            self.before.1.extend_from_slice(&self.sequence);
            self.before.0 = Some(before);
        }
        self.seek(call)?;
        Ok(merge::shared((&self.before.1, &[]), &self.sequence[..self.prompt]))
    }
}

/// Appends values stored as bytes, which stand at any address.
fn extend<T: bytemuck::AnyBitPattern>(values: &mut Vec<T>, bytes: &[u8]) {
    values.extend(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned::<T>));
}
