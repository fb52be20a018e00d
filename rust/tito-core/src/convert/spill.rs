//! Calls of rollouts that lie interleaved in a dump wait here, in compact form, until all input is read.
//!
//! A prompt is stored as what it adds to the call before it of the same rollout; every [`STRETCH_IDS`] ids of a rollout
//! one stands whole, so that reading can begin there. In memory stays an index of 32 bytes a call and, bounded, the last
//! call of the rollouts that are live.

use super::STRETCH_IDS;
use super::rollouts::Settled;
use super::sight::{Digest, Sighted};
use crate::capture::{Call, FORMATS, Parsed, Piece, Skip, Who};
use crate::error::{Error, Result};
use crate::ids::{Id, common_prefix};
use crate::rows::Text;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Spills up to this size stay in memory.
const IN_MEMORY: usize = 16 << 20;
/// What is kept in memory of the last calls, to compare with.
#[derive(Debug, Clone, Copy)]
struct Most {
    ids: usize,
    rollouts: usize,
}

/// 32 MiB of ids.
const LIVE: Most = Most { ids: 8 << 20, rollouts: 4096 };
/// Set in [`Entry::ids`] where the prompt stands whole.
const WHOLE: u32 = 1 << 31;

/// Where a stored call is: what is known of it, and behind that its ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) rollout: u32,
    /// The rollout it was stored under: what it shares it shares with the call before it of that one.
    pub(super) chain: u32,
    ids: u32,
    facts: u32,
    arrays: u32,
    offset: u64,
}

impl Entry {
    /// Ids of prompt and output.
    pub(super) fn ids(&self) -> usize {
        (self.ids & !WHOLE) as usize
    }

    /// Whether the prompt stands whole.
    pub(super) fn is_whole(&self) -> bool {
        self.ids & WHOLE != 0
    }
}

/// What is stored of a call besides its ids. The ranges of the call start at 0.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) call: Call,
    pub(super) who: Who,
    pub(super) file: Text,
    format: u8,
    pub(super) numbered: bool,
    identity: Option<u8>,
    pub(super) digest: Digest,
    skip: Option<Skip>,
}

impl Stored {
    /// The call as the policies see it.
    pub(super) fn sighted(&self) -> Sighted<'_> {
        Sighted {
            call: &self.call,
            file: &self.file,
            format: FORMATS[self.format as usize].name,
            identity: self.identity.map(usize::from),
            digest: self.digest,
            turn: self.call.turn,
            retried: false,
            skip: self.skip,
        }
    }
}

/// The arrays of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrays<'b> {
    /// How many ids of the sequence before the prompt begins with.
    pub(super) shared: usize,
    /// The prompt's other ids, as bytes like all that follows.
    pub(super) new: &'b [u8],
    pub(super) output: &'b [u8],
    pub(super) logprobs: &'b [u8],
}

/// The last call of a rollout.
#[derive(Debug, Default)]
struct Live {
    touched: u64,
    ids: Vec<Id>,
    /// Ids of calls since a prompt was stored whole.
    since: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spill {
    most: Most,
    memory: Vec<u8>,
    file: Option<File>,
    written: u64,
    folder: std::path::PathBuf,
    index: Vec<Entry>,
    live: HashMap<u32, Live>,
    /// Ids that the lists of `live` have room for.
    live_ids: usize,
    /// Rollouts by the clock at which they were touched.
    queue: VecDeque<(u64, u32)>,
    clock: u64,
}

impl Spill {
    /// An empty one; its file, if it needs one, is made in `folder` and has no name.
    pub(super) fn new(folder: &Path) -> Self {
        Self::keeping(LIVE, folder)
    }

    fn keeping(most: Most, folder: &Path) -> Self {
        Self {
            most,
            memory: Vec::new(),
            file: None,
            written: 0,
            folder: folder.to_owned(),
            index: Vec::new(),
            live: HashMap::new(),
            live_ids: 0,
            queue: VecDeque::new(),
            clock: 0,
        }
    }

    /// Stores a call.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn push(
        &mut self,
        rollout: u32,
        parsed: &Parsed<'_>,
        piece: &Piece,
        sighted: &Sighted<'_>,
    ) -> Result<()> {
        let call = sighted.call;
        let mut live = self.live.remove(&rollout).unwrap_or_default();
        self.live_ids -= live.ids.capacity();
        let prompt = call.prompt.as_ref().map(|range| &parsed.prompts.values[range.clone()]);
        let output = call.output.as_ref().map_or(&[][..], |range| &parsed.outputs.values[range.clone()]);
        let logprobs = call.logprobs.as_ref().map_or(&[][..], |range| &parsed.logprobs[range.clone()]);
        let ids = prompt.map_or(0, <[Id]>::len) + output.len();
        live.since += ids;
        let whole = live.ids.is_empty() || live.since > STRETCH_IDS;
        let shared = if whole { 0 } else { prompt.map_or(0, |prompt| common_prefix(prompt, &live.ids)) };
        let new = &prompt.unwrap_or_default()[shared..];
        let from_0 = |range: &Option<std::ops::Range<usize>>| range.as_ref().map(|range| 0..range.len());
        let stored = Stored {
            call: Call {
                prompt: from_0(&call.prompt),
                output: from_0(&call.output),
                logprobs: from_0(&call.logprobs),
                ..call.clone()
            },
            who: piece.who.clone(),
            file: piece.file.clone(),
            format: FORMATS.iter().position(|f| f.name == piece.format).unwrap_or(0) as u8,
            numbered: piece.numbered,
            identity: sighted.identity.map(|i| i as u8),
            digest: sighted.digest,
            skip: sighted.skip,
        };
        let before = self.memory.len();
        self.memory = postcard::to_extend(&stored, std::mem::take(&mut self.memory)).map_err(broken)?;
        let facts = self.memory.len() - before;
        let head = [shared as u32, new.len() as u32, output.len() as u32];
        self.memory.extend_from_slice(bytemuck::bytes_of(&head));
        self.memory.extend_from_slice(bytemuck::cast_slice(new));
        self.memory.extend_from_slice(bytemuck::cast_slice(output));
        self.memory.extend_from_slice(bytemuck::cast_slice(logprobs));
        self.index.push(Entry {
            rollout,
            chain: rollout,
            ids: ids as u32 | if whole { WHOLE } else { 0 },
            facts: facts as u32,
            arrays: (self.memory.len() - before - facts) as u32,
            offset: self.written + before as u64,
        });
        if self.memory.len() > IN_MEMORY {
            self.flush()?;
        }
        if whole {
            live.since = ids;
        }
        // A list that alone is beyond the bound would drive out all others and itself stay: the rollout's next call
        // stands whole.
        if ids <= self.most.ids {
            live.ids.truncate(shared);
            // Doubled room would hold twice what is counted: 66 MB, not 33, of a dump of long calls.
            live.ids.reserve_exact(new.len() + output.len());
            live.ids.extend_from_slice(new);
            live.ids.extend_from_slice(output);
            if live.ids.capacity() / 2 > ids {
                live.ids.shrink_to_fit();
            }
            self.keep_live(rollout, live);
        }
        Ok(())
    }

    fn keep_live(&mut self, rollout: u32, mut live: Live) {
        self.live_ids += live.ids.capacity();
        self.clock += 1;
        live.touched = self.clock;
        self.live.insert(rollout, live);
        self.queue.push_back((self.clock, rollout));
        // The last entry is this rollout's. One taken from the queue that stayed live could never be driven out.
        while self.queue.len() > 1 && self.is_full() {
            let Some((clock, oldest)) = self.queue.pop_front() else { break };
            // An entry whose rollout was touched again is stale: that rollout stands further back.
            if self.live.get(&oldest).is_some_and(|live| live.touched == clock)
                && let Some(live) = self.live.remove(&oldest)
            {
                self.live_ids -= live.ids.capacity();
            }
        }
    }

    fn is_full(&self) -> bool {
        self.live_ids > self.most.ids
            || self.live.len() > self.most.rollouts
            || self.queue.len() > 2 * self.most.rollouts
    }

    fn flush(&mut self) -> Result<()> {
        let name = || self.folder.to_string_lossy().into_owned();
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile_in(&self.folder).map_err(Error::io("write a spill in", name()))?);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.memory).map_err(Error::io("write a spill in", name()))?;
        }
        self.written += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Nothing more will come: gives what reads it back. `settled` says which rollouts turned out to be another one.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn seal(mut self, settled: &Settled) -> Result<Shelf> {
        if self.file.is_some() {
            self.flush()?;
        }
        for entry in &mut self.index {
            entry.rollout = settled.first(entry.chain);
        }
        // Stable: inside a rollout the order of the input stays.
        self.index.sort_by_key(|entry| entry.rollout);
        Ok(Shelf { memory: self.memory, file: self.file, folder: self.folder, index: self.index })
    }
}

/// A spill that is complete.
#[derive(Debug)]
pub(super) struct Shelf {
    memory: Vec<u8>,
    file: Option<File>,
    folder: std::path::PathBuf,
    /// By rollout, inside a rollout in the order of the input.
    pub(super) index: Vec<Entry>,
}

impl Shelf {
    /// What is known of a call; `buffer` is memory used again.
    pub(super) fn facts(&self, entry: &Entry, buffer: &mut Vec<u8>) -> Result<Stored> {
        postcard::from_bytes(self.read(entry.offset, entry.facts, buffer)?).map_err(broken)
    }

    /// The ids and logprobs of a call.
    pub(super) fn arrays<'b>(&'b self, entry: &Entry, buffer: &'b mut Vec<u8>) -> Result<Arrays<'b>> {
        let bytes = self.read(entry.offset + u64::from(entry.facts), entry.arrays, buffer)?;
        let (head, arrays) = bytes.split_at(size_of::<[u32; 3]>());
        let [shared, new, output]: [u32; 3] = bytemuck::pod_read_unaligned(head);
        let (new, rest) = arrays.split_at(size_of::<Id>() * new as usize);
        let (output, logprobs) = rest.split_at(size_of::<Id>() * output as usize);
        Ok(Arrays { shared: shared as usize, new, output, logprobs })
    }

    fn read<'b>(&'b self, offset: u64, length: u32, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        let length = length as usize;
        let Some(file) = &self.file else { return Ok(&self.memory[offset as usize..offset as usize + length]) };
        buffer.resize(length, 0);
        let name = || self.folder.to_string_lossy().into_owned();
        file.read_exact_at(buffer, offset).map_err(|error| Error::io("read a spill in", name())(error))?;
        Ok(buffer)
    }
}

fn broken(error: postcard::Error) -> Error {
    Error::check(format!("the spill cannot be read back: {error}"), "this is a bug in tito; please report it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { ids: 1000, rollouts: 8 };

    /// A spill and what was pushed into it: rollout, prompt, output.
    struct Pushed {
        spill: Spill,
        calls: Vec<(u32, Vec<Id>, Vec<Id>)>,
    }

    impl Pushed {
        fn new() -> Self {
            Self { spill: Spill::keeping(MOST, &std::env::temp_dir()), calls: Vec::new() }
        }

        /// A call whose prompt begins with `shared` ids that are the same in every call of the rollout.
        fn push(&mut self, rollout: u32, shared: usize, new: usize, output: usize) {
            let n = self.calls.len() as Id;
            let own = |from: usize, length: usize| (from..from + length).map(move |at| 1000 * n + at as Id);
            let prompt: Vec<Id> = (0..shared as Id).map(|id| 7 * id + rollout as Id).chain(own(0, new)).collect();
            let output: Vec<Id> = own(new, output).collect();
            let mut parsed = Parsed::default();
            parsed.prompts.values.clone_from(&prompt);
            parsed.outputs.values.clone_from(&output);
            let call =
                Call { prompt: Some(0..prompt.len()), output: Some(0..output.len()), record: 1, ..Call::default() };
            let piece = Piece {
                who: Who::default(),
                calls: 0..1,
                complete: false,
                numbered: false,
                scope: "".into(),
                file: "a".into(),
                format: FORMATS[0].name,
            };
            let sighted = Sighted {
                call: &call,
                file: &piece.file,
                format: piece.format,
                identity: None,
                digest: Digest::of(&prompt, &output),
                turn: None,
                retried: false,
                skip: None,
            };
            self.spill.push(rollout, &parsed, &piece, &sighted).expect("memory");
            self.calls.push((rollout, prompt, output));
            self.is_bounded();
        }

        fn is_bounded(&self) {
            let spill = &self.spill;
            let room: usize = spill.live.values().map(|live| live.ids.capacity()).sum();
            assert_eq!(room, spill.live_ids);
            assert!(room <= MOST.ids, "{room} ids in memory");
            assert!(spill.live.len() <= MOST.rollouts && spill.queue.len() <= 2 * MOST.rollouts);
            for (rollout, live) in &spill.live {
                assert!(spill.queue.contains(&(live.touched, *rollout)), "{rollout} can never be driven out");
            }
        }

        /// Reads all of it back, and gives how many calls of each rollout stand whole.
        fn read_back(self) -> HashMap<u32, usize> {
            let shelf = self.spill.seal(&Settled::default()).expect("memory");
            let mut calls = self.calls;
            calls.sort_by_key(|(rollout, ..)| *rollout);
            assert_eq!(shelf.index.len(), calls.len());
            let (mut whole, mut before, mut buffer) = (HashMap::new(), Vec::new(), Vec::new());
            for (entry, (rollout, prompt, output)) in shelf.index.iter().zip(calls) {
                let arrays = shelf.arrays(entry, &mut buffer).expect("memory");
                assert_eq!((entry.rollout, entry.ids()), (rollout, prompt.len() + output.len()));
                assert!(!entry.is_whole() || arrays.shared == 0);
                let ids =
                    |bytes: &[u8]| -> Vec<Id> { bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect() };
                before.truncate(arrays.shared);
                before.extend(ids(arrays.new));
                assert_eq!(before, prompt);
                assert_eq!(ids(arrays.output), output);
                before.extend(output);
                *whole.entry(rollout).or_insert(0) += usize::from(entry.is_whole());
            }
            whole
        }
    }

    #[test]
    fn a_call_beyond_the_bound_is_not_kept_and_those_behind_it_stay_within() {
        let mut pushed = Pushed::new();
        pushed.push(0, 100, 0, 10);
        pushed.push(1, 100, 0, 10);
        pushed.push(0, 110, 4000, 10);
        for rollout in (0..40).chain(0..40) {
            pushed.push(rollout, 120, 5, 10);
            pushed.push(rollout, 130, 5, 10);
        }
        let whole = pushed.read_back();
        // Behind the large call, and where the rollout comes up again: others have driven it out.
        assert_eq!(whole[&0], 3);
        // The large call drove out none.
        assert_eq!(whole[&1], 2);
        assert_eq!(whole[&2], 2);
    }

    #[test]
    fn a_rollout_that_begins_anew_gives_back_its_room() {
        let mut pushed = Pushed::new();
        pushed.push(0, 900, 0, 50);
        pushed.push(0, 20, 0, 10);
        assert!(pushed.spill.live_ids < 100);
        (1..5).for_each(|rollout| pushed.push(rollout, 190, 0, 10));
        pushed.push(0, 30, 0, 10);
        assert_eq!(pushed.read_back()[&0], 1);
    }
}
