//! Finding markers in ids, by blocks of 64 and the widest vector instructions that the machine has.
//!
//! A block becomes 64 bits, one for each id that a marker may start with, so ids are looked at once however many markers
//! there are. What runs for each block is `inline(always)` and holds no closures: else it would not be built with the
//! instructions of its level.

use super::profile::{Id, Marker};
use fearless_simd::{Level, Simd, dispatch, i32x16, mask32x16, prelude::*};

/// One marker in a list of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit<K> {
    pub(super) kind: K,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Finds markers: the longest alternative wins, whatever its kind; markers do not overlap.
#[derive(Debug, Clone)]
pub(super) struct Finder<K> {
    /// The longest first; of equal length, as given.
    alternatives: Vec<Alternative<K>>,
    /// The ids that an alternative starts with.
    firsts: Vec<Id>,
    /// Set where hardly any id of a text reaches the lowest of `firsts`.
    floor: Option<Id>,
    /// The vector instructions of this machine.
    level: Level,
}

#[derive(Debug, Clone)]
struct Alternative<K> {
    first: Id,
    /// Mostly nothing: a comparison of `first` is all it takes then.
    rest: Vec<Id>,
    kind: K,
}

/// Added tokens stand at the end of a vocabulary. Where all markers start with one of them, a single comparison an id
/// is enough to pass over text.
const ADDED: Id = 1024;

impl<K: Copy> Finder<K> {
    pub(super) fn new(markers: &[(&Marker, K)], vocab_size: Id) -> Self {
        let mut alternatives: Vec<Alternative<K>> = markers
            .iter()
            .flat_map(|(marker, kind)| marker.iter().map(move |ids| (ids, kind)))
            .filter_map(|(ids, &kind)| {
                ids.split_first().map(|(&first, rest)| Alternative { first, rest: rest.to_vec(), kind })
            })
            .collect();
        alternatives.sort_by_key(|alternative| std::cmp::Reverse(alternative.rest.len()));
        let mut firsts: Vec<Id> = alternatives.iter().map(|alternative| alternative.first).collect();
        firsts.sort_unstable();
        firsts.dedup();
        let floor = firsts.first().copied().filter(|first| vocab_size > ADDED && vocab_size - first <= ADDED);
        Self { alternatives, firsts, floor, level: Level::new() }
    }

    /// The marker that starts exactly at `start`.
    #[inline]
    pub(super) fn at(&self, ids: &[Id], start: usize) -> Option<Hit<K>> {
        let (id, behind) = ids.get(start..)?.split_first()?;
        let of_marker = |a: &&Alternative<K>| a.first == *id && (a.rest.is_empty() || behind.starts_with(&a.rest));
        let Alternative { rest, kind, .. } = self.alternatives.iter().find(of_marker)?;
        Some(Hit { kind: *kind, start, end: start + 1 + rest.len() })
    }

    /// The first marker that starts at `from` or later.
    pub(super) fn next(&self, ids: &[Id], from: usize) -> Option<Hit<K>> {
        Hits { from, at: from, ..self.all(ids) }.next()
    }

    /// All markers from left to right.
    pub(super) fn all<'a>(&'a self, ids: &'a [Id]) -> Hits<'a, K, Level> {
        self.all_by(self.level, ids)
    }

    /// The same inside vector instructions of the caller.
    #[inline(always)]
    pub(super) fn all_by<'a, L: Looks>(&'a self, looks: L, ids: &'a [Id]) -> Hits<'a, K, L> {
        Hits { finder: self, looks, ids, from: 0, base: 0, at: 0, candidates: 0 }
    }

    /// The marker that starts last, found from the end.
    pub(super) fn last(&self, ids: &[Id]) -> Option<Hit<K>> {
        (0..ids.len()).rev().filter(|&start| self.firsts.contains(&ids[start])).find_map(|start| self.at(ids, start))
    }
}

/// Ids that are looked at together.
const BLOCK: usize = 64;

/// Markers from left to right.
pub(super) struct Hits<'a, K, L> {
    finder: &'a Finder<K>,
    looks: L,
    ids: &'a [Id],
    /// No marker is wanted that starts before.
    pub(super) from: usize,
    /// Where the block of `candidates` starts.
    base: usize,
    /// Where the next block starts.
    at: usize,
    /// A bit for each id of the block that a marker may start with.
    candidates: u64,
}

/// Where vector instructions come from: chosen for each look, or by who calls.
pub(super) trait Looks: Copy {
    /// See [`first_block`].
    fn block<K>(self, finder: &Finder<K>, ids: &[Id], at: usize) -> (usize, u64);
}

impl Looks for Level {
    #[inline]
    fn block<K>(self, finder: &Finder<K>, ids: &[Id], at: usize) -> (usize, u64) {
        dispatch!(self, simd => Inside(simd).block(finder, ids, at))
    }
}

/// In a function that is built for a level.
#[derive(Clone, Copy)]
pub(super) struct Inside<S>(pub(super) S);

impl<S: Simd> Looks for Inside<S> {
    #[inline(always)]
    fn block<K>(self, finder: &Finder<K>, ids: &[Id], at: usize) -> (usize, u64) {
        match finder.floor {
            Some(floor) => first_block(self.0, ids, at, Above(floor - 1)),
            None => first_block(self.0, ids, at, OneOf(&finder.firsts)),
        }
    }
}

impl<K: Copy, L: Looks> Hits<'_, K, L> {
    /// Goes to the next block with candidates; says whether there is one.
    #[inline(always)]
    fn fill(&mut self) -> bool {
        if self.at >= self.ids.len() {
            return false;
        }
        (self.base, self.candidates) = if self.ids.len() < BLOCK {
            let mut block = [0; BLOCK];
            let before = BLOCK - self.ids.len();
            block[before..].copy_from_slice(self.ids);
            let (base, candidates) = self.looks.block(self.finder, &block, before + self.at);
            (base - before, candidates)
        } else {
            self.looks.block(self.finder, self.ids, self.at)
        };
        self.at = self.base + BLOCK;
        self.candidates != 0
    }
}

/// The first block at `at` or later with wanted ids, and a bit for each of these; no bit where there is none. `ids` hold
/// a block or more.
#[inline(always)]
fn first_block<S: Simd>(simd: S, ids: &[Id], mut at: usize, wanted: impl Wanted) -> (usize, u64) {
    let (blocks, tail) = ids[at..].as_chunks::<BLOCK>();
    for block in blocks {
        let bits = bits(simd, block, wanted);
        if bits != 0 {
            return (at, bits);
        }
        at += BLOCK;
    }
    // The last ids, fewer than a block: it reaches back over ids that were looked at.
    match ids.last_chunk() {
        Some(block) if !tail.is_empty() => (at, bits(simd, block, wanted) >> (BLOCK - tail.len())),
        _ => (at, 0),
    }
}

/// A bit for each wanted id of a block.
#[inline(always)]
fn bits<S: Simd>(simd: S, block: &[Id; BLOCK], wanted: impl Wanted) -> u64 {
    let [a, b, c, d] = look(simd, block, wanted);
    if !((a | b) | (c | d)).any_true() {
        return 0;
    }
    a.to_bitmask() | b.to_bitmask() << 16 | c.to_bitmask() << 32 | d.to_bitmask() << 48
}

/// Which ids may start a marker.
trait Wanted: Copy {
    fn of<S: Simd>(self, simd: S, ids: i32x16<S>) -> mask32x16<S>;
}

#[derive(Clone, Copy)]
struct Above(Id);

#[derive(Clone, Copy)]
struct OneOf<'a>(&'a [Id]);

impl Wanted for Above {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, ids: i32x16<S>) -> mask32x16<S> {
        ids.simd_gt(i32x16::splat(simd, self.0))
    }
}

impl Wanted for OneOf<'_> {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, ids: i32x16<S>) -> mask32x16<S> {
        let mut any = mask32x16::splat(simd, false);
        for &id in self.0 {
            any |= ids.simd_eq(i32x16::splat(simd, id));
        }
        any
    }
}

#[inline(always)]
fn look<S: Simd>(simd: S, block: &[Id; BLOCK], wanted: impl Wanted) -> [mask32x16<S>; 4] {
    let a = wanted.of(simd, i32x16::from_slice(simd, &block[..16]));
    let b = wanted.of(simd, i32x16::from_slice(simd, &block[16..32]));
    let c = wanted.of(simd, i32x16::from_slice(simd, &block[32..48]));
    let d = wanted.of(simd, i32x16::from_slice(simd, &block[48..]));
    [a, b, c, d]
}

impl<K: Copy, L: Looks> Iterator for Hits<'_, K, L> {
    type Item = Hit<K>;

    #[inline(always)]
    fn next(&mut self) -> Option<Hit<K>> {
        loop {
            while self.candidates == 0 {
                if !self.fill() {
                    return None;
                }
            }
            let start = self.base + self.candidates.trailing_zeros() as usize;
            self.candidates &= self.candidates - 1;
            if start >= self.from
                && let Some(hit) = self.finder.at(self.ids, start)
            {
                self.from = hit.end;
                return Some(hit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// On whatever machine it runs: the instructions that every machine has, and the best that this one has.
        #[test]
        fn every_level_finds_the_same(
            ids in prop::collection::vec(prop_oneof![30 => 0..2000, 1 => 1995..2000], 0..300),
            from in 0usize..320,
            vocab in prop_oneof![Just(9), Just(2000)],
        ) {
            let marker = vec![vec![1998, 1999], vec![1998], vec![1996]];
            let mut finder = Finder::new(&[(&marker, ())], vocab);
            prop_assert_eq!(finder.floor.is_some(), vocab == 2000);
            let (mut slow, mut at) = (Vec::new(), 0);
            while at < ids.len() {
                match finder.at(&ids, at) {
                    Some(hit) => { slow.push(hit); at = hit.end }
                    None => at += 1,
                }
            }
            let first = (from..ids.len()).find_map(|at| finder.at(&ids, at));
            for level in [Level::new(), Level::baseline()] {
                finder.level = level;
                prop_assert_eq!(&finder.all(&ids).collect::<Vec<_>>(), &slow);
                prop_assert_eq!(finder.next(&ids, from), first);
            }
        }
    }
}
