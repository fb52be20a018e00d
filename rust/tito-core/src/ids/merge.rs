//! Which calls of a rollout continue which, judged on the ids alone.
//!
//! A call hangs on the longest `prompt + output` of another call that is a prefix of its prompt. Boundaries between
//! prompts and outputs are the only places where that can be, so prompts are hashed from boundary to boundary, and only
//! behind what they share with the sequence before; a hit by hash is compared once before it counts. Calls come in the
//! order of their prompts' lengths: a call's parent has then always been seen.
//!
//! Cost: what is new in each sequence is hashed once, what is shared is compared once.

use super::{Id, common_prefix};
use std::collections::HashMap;
use twox_hash::xxhash3_64;

/// A call's place among the boundaries of the walk.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Hash of everything up to the boundary.
    hash: u64,
    /// The call whose sequence ends here, if the walk came through it.
    exact: Option<u32>,
}

/// A call that may be the one to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The call.
    pub call: u32,
    /// Ids of its sequence.
    pub length: usize,
    /// What the prompt shares with the sequence before proves it; else the hash says so, and it is to be compared.
    pub proven: bool,
}

/// See the module. For each call: [`Forest::enter`], [`Forest::candidate`] until one holds, [`Forest::leave`].
#[derive(Debug, Default)]
pub struct Forest {
    /// Lengths of all sequences, ascending.
    boundaries: Vec<usize>,
    /// One entry for each boundary that the sequence of the last call reaches.
    marks: Vec<Mark>,
    /// By length and hash: the call that ends there; of identical twins the one that ranks last.
    ends: HashMap<(usize, u64), (usize, u32)>,
    scratch: Vec<Id>,
    /// Boundaries inside the entered prompt that were not offered yet.
    inside: usize,
}

impl Forest {
    /// `lengths` are those of all sequences that will be added.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut boundaries: Vec<usize> = lengths.into_iter().collect();
        boundaries.sort_unstable();
        boundaries.dedup();
        Self { boundaries, ..Self::default() }
    }

    /// Comes to the next call. `shared` leading ids of its prompt are those of the sequence (prompt and output) of the
    /// call before.
    pub fn enter(&mut self, prompt: &[Id], shared: usize) {
        let keep = self.boundaries[..self.marks.len()].partition_point(|boundary| *boundary <= shared);
        self.marks.truncate(keep);
        self.inside = self.boundaries.partition_point(|boundary| *boundary <= prompt.len());
        self.reach(self.inside, prompt, &[]);
    }

    /// The longest sequence that may be a prefix of the entered prompt; asked again, the next shorter one.
    pub fn candidate(&mut self) -> Option<Candidate> {
        while let Some(at) = self.inside.checked_sub(1) {
            self.inside = at;
            let (length, mark) = (self.boundaries[at], self.marks[at]);
            if let Some((_, call)) = self.ends.get(&(length, mark.hash)) {
                return Some(Candidate { call: *call, length, proven: mark.exact == Some(*call) });
            }
        }
        None
    }

    /// Makes the entered call one that others can continue. Its output is not empty; of identical twins the one with
    /// the highest rank counts.
    pub fn leave(&mut self, call: u32, rank: usize, prompt: &[Id], output: &[Id]) {
        let length = prompt.len() + output.len();
        let reached = self.boundaries.partition_point(|boundary| *boundary <= length);
        self.reach(reached, prompt, output);
        if let Some(mark) = self.marks.last_mut() {
            mark.exact = Some(call);
            let end = self.ends.entry((length, mark.hash)).or_insert((rank, call));
            if end.0 < rank {
                *end = (rank, call);
            }
        }
    }

    fn reach(&mut self, boundaries: usize, prompt: &[Id], output: &[Id]) {
        while self.marks.len() < boundaries {
            let hash = self.step(prompt, output);
            self.marks.push(Mark { hash, exact: None });
        }
    }

    /// Hashes up to the next boundary.
    fn step(&mut self, prompt: &[Id], output: &[Id]) -> u64 {
        let next = self.marks.len();
        let from = next.checked_sub(1).map_or(0, |last| self.boundaries[last]);
        let seed = self.marks.last().map_or(0, |mark| mark.hash);
        let to = self.boundaries[next];
        let ids = if to <= prompt.len() {
            &prompt[from..to]
        } else if let Some(from) = from.checked_sub(prompt.len()) {
            &output[from..to - prompt.len()]
        } else {
            self.scratch.clear();
            self.scratch.extend_from_slice(&prompt[from..]);
            self.scratch.extend_from_slice(&output[..to - prompt.len()]);
            &self.scratch
        };
        xxhash3_64::Hasher::oneshot_with_seed(seed, bytemuck::cast_slice(ids))
    }
}

/// How many leading ids `prompt` shares with `before` (a prompt and its output).
#[must_use]
pub fn shared(before: (&[Id], &[Id]), prompt: &[Id]) -> usize {
    let first = common_prefix(before.0, prompt);
    if first < before.0.len() { first } else { first + common_prefix(before.1, &prompt[first..]) }
}
