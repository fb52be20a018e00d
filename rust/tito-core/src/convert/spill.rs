//! Calls of rollouts that lie interleaved in a dump wait here, in compact form, until all input is read.
//!
//! A prompt is stored as what it adds to the call before it of the same rollout. In memory stays an index of 24 bytes a
//! call and, bounded, the last call of the rollouts that are live.

use super::build::Sighted;
use crate::capture::{Call, FORMATS, Parsed, Piece, Skip, Who};
use crate::error::{Error, Result};
use crate::ids::Id;
use crate::json::common_prefix;
use crate::rows::Text;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Spills up to this size stay in memory.
const IN_MEMORY: usize = 16 << 20;
/// Ids of last calls that are kept to compare with (32 MiB).
const LIVE_IDS: usize = 8 << 20;

/// How many rollouts that are.
const LIVE_ROLLOUTS: usize = 4096;

/// Where a stored call is.
#[derive(Debug, Clone, Copy)]
struct Entry {
    rollout: u32,
    ids: u32,
    length: u32,
    offset: u64,
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    prompt: Option<Prompt<'a>>,
    #[serde(borrow)]
    output: Option<&'a [u8]>,
    #[serde(borrow)]
    logprobs: Option<&'a [u8]>,
    call: Call,
    who: Who,
    file: Text,
    format: u8,
    numbered: bool,
    identity: Option<u8>,
    hash: [u8; 16],
    skip: Option<Skip>,
}

#[derive(Serialize, Deserialize)]
struct Prompt<'a> {
    shared: u32,
    #[serde(borrow)]
    new: &'a [u8],
}

/// See the module.
#[derive(Debug)]
pub struct Spill {
    memory: Vec<u8>,
    file: Option<File>,
    written: u64,
    folder: std::path::PathBuf,
    index: Vec<Entry>,
    live: HashMap<u32, (u64, Vec<Id>)>,
    live_ids: usize,
    /// Rollouts by the clock at which they were touched.
    queue: VecDeque<(u64, u32)>,
    clock: u64,
}

/// One rollout, read back.
#[derive(Debug)]
pub struct Returned {
    /// Who, joined from all calls.
    pub who: Who,
    /// Calls in the order of the input.
    pub calls: Vec<ReturnedCall>,
    /// Time of the latest call.
    latest: f64,
}

/// One call, read back.
#[derive(Debug)]
pub struct ReturnedCall {
    /// The call, its ranges pointing into the arena it was read into.
    pub call: Call,
    /// File.
    pub file: Text,
    /// Format.
    pub format: &'static str,
    /// Whose ids.
    pub identity: Option<usize>,
    /// Hash.
    pub hash: [u8; 16],
    /// Known to give no row.
    pub skip: Option<Skip>,
    /// Numbered by its format.
    pub numbered: bool,
}

impl Spill {
    /// An empty one; its file, if it needs one, is made in `folder` and has no name.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
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
    pub fn push(&mut self, rollout: u32, parsed: &Parsed<'_>, piece: &Piece, sighted: &Sighted<'_>) -> Result<()> {
        let call = sighted.call;
        let mut last = self.live.remove(&rollout).map_or_else(Vec::new, |(_, ids)| {
            self.live_ids -= ids.len();
            ids
        });
        let prompt = call.prompt.as_ref().map(|range| &parsed.prompts.values[range.clone()]);
        let output = call.output.as_ref().map(|range| &parsed.outputs.values[range.clone()]);
        let logprobs = call.logprobs.as_ref().map(|range| &parsed.logprobs[range.clone()]);
        let shared = prompt.map_or(0, |prompt| common_prefix(prompt, &last));
        let stored = Stored {
            prompt: prompt.map(|ids| Prompt { shared: shared as u32, new: bytemuck::cast_slice(&ids[shared..]) }),
            output: output.map(bytemuck::cast_slice),
            logprobs: logprobs.map(bytemuck::cast_slice),
            call: Call { prompt: None, output: None, logprobs: None, ..call.clone() },
            who: piece.who.clone(),
            file: piece.file.clone(),
            format: FORMATS.iter().position(|f| f.name == piece.format).unwrap_or(0) as u8,
            numbered: piece.numbered,
            identity: sighted.identity.map(|i| i as u8),
            hash: sighted.hash,
            skip: sighted.skip,
        };
        let before = self.memory.len();
        self.memory = postcard::to_extend(&stored, std::mem::take(&mut self.memory)).map_err(broken)?;
        let length = (self.memory.len() - before) as u32;
        let ids = prompt.map_or(0, <[Id]>::len) + output.map_or(0, <[Id]>::len);
        self.index.push(Entry { rollout, ids: ids as u32, length, offset: self.written + before as u64 });
        if self.memory.len() > IN_MEMORY {
            self.flush()?;
        }
        if let Some(prompt) = prompt {
            last.truncate(shared);
            last.extend_from_slice(&prompt[shared..]);
            last.extend_from_slice(output.unwrap_or_default());
        }
        self.keep_live(rollout, last);
        Ok(())
    }

    fn keep_live(&mut self, rollout: u32, ids: Vec<Id>) {
        self.live_ids += ids.len();
        self.clock += 1;
        self.live.insert(rollout, (self.clock, ids));
        self.queue.push_back((self.clock, rollout));
        // An entry of the queue whose rollout was touched again is stale: that rollout stands further back.
        while self.live_ids > LIVE_IDS || self.live.len() > LIVE_ROLLOUTS || self.queue.len() > 2 * LIVE_ROLLOUTS {
            let Some((clock, oldest)) = self.queue.pop_front() else { break };
            if clock != self.clock
                && self.live.get(&oldest).is_some_and(|(touched, _)| *touched == clock)
                && let Some((_, ids)) = self.live.remove(&oldest)
            {
                self.live_ids -= ids.len();
            }
            if self.queue.is_empty() {
                break;
            }
        }
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

    /// Nothing more will come: gives what reads it back.
    ///
    /// # Errors
    /// `Io`.
    pub fn seal(mut self) -> Result<Sealed> {
        if self.file.is_some() {
            self.flush()?;
        }
        self.live.clear();
        // Stable: inside a rollout the order of the input stays.
        self.index.sort_by_key(|entry| entry.rollout);
        Ok(Sealed { spill: self, next: Mutex::default() })
    }
}

/// A spill that is complete, and how far it was handed out.
#[derive(Debug)]
pub struct Sealed {
    spill: Spill,
    /// Next entry, next stretch.
    next: Mutex<(usize, u64)>,
}

impl Sealed {
    /// The next rollouts, with about `ids` ids, as a range of the index; and their number in the order.
    pub fn next_stretch(&self, ids: usize) -> Option<(u64, Range<usize>)> {
        let index = &self.spill.index;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, number) = *next;
        let (mut end, mut sum) = (start, 0usize);
        while let Some(entry) = index.get(end) {
            if end > start && entry.rollout != index[end - 1].rollout && sum >= ids {
                break;
            }
            sum += entry.ids as usize;
            end += 1;
        }
        *next = (end, number + 1);
        (end > start).then_some((number, start..end))
    }

    /// Reads rollouts back into an arena.
    ///
    /// # Errors
    /// `Io`.
    pub fn read(&self, stretch: Range<usize>, parsed: &mut Parsed<'_>) -> Result<Vec<Returned>> {
        let mut rollouts: Vec<Returned> = Vec::new();
        let mut bytes = Vec::new();
        let mut last: Vec<Id> = Vec::new();
        let mut current = None;
        for entry in &self.spill.index[stretch] {
            if current != Some(entry.rollout) {
                current = Some(entry.rollout);
                last.clear();
                rollouts.push(Returned { who: Who::default(), calls: Vec::new(), latest: f64::NEG_INFINITY });
            }
            bytes.resize(entry.length as usize, 0);
            match &self.spill.file {
                Some(file) => {
                    let name = self.spill.folder.to_string_lossy().into_owned();
                    file.read_exact_at(&mut bytes, entry.offset).map_err(Error::io("read a spill in", name))?;
                }
                None => {
                    let start = entry.offset as usize;
                    bytes.copy_from_slice(&self.spill.memory[start..start + entry.length as usize]);
                }
            }
            let stored: Stored<'_> = postcard::from_bytes(&bytes).map_err(broken)?;
            let mut call = stored.call;
            if let Some(prompt) = &stored.prompt {
                last.truncate(prompt.shared as usize);
                extend(&mut last, prompt.new);
                let start = parsed.prompts.values.len();
                parsed.prompts.values.extend_from_slice(&last);
                call.prompt = Some(start..parsed.prompts.values.len());
            }
            if let Some(output) = stored.output {
                let start = parsed.outputs.values.len();
                extend(&mut parsed.outputs.values, output);
                if stored.prompt.is_some() {
                    last.extend_from_slice(&parsed.outputs.values[start..]);
                }
                call.output = Some(start..parsed.outputs.values.len());
            }
            if let Some(logprobs) = stored.logprobs {
                let start = parsed.logprobs.len();
                extend(&mut parsed.logprobs, logprobs);
                call.logprobs = Some(start..parsed.logprobs.len());
            }
            if let Some(rollout) = rollouts.last_mut() {
                let started = call.started.unwrap_or(f64::NEG_INFINITY);
                join(&mut rollout.who, stored.who, started >= rollout.latest);
                rollout.latest = rollout.latest.max(started);
                rollout.calls.push(ReturnedCall {
                    call,
                    file: stored.file,
                    format: FORMATS[stored.format as usize].name,
                    identity: stored.identity.map(usize::from),
                    hash: stored.hash,
                    skip: stored.skip,
                    numbered: stored.numbered,
                });
            }
        }
        Ok(rollouts)
    }
}

/// What a call says of its rollout: names as they were first said, outcome as the latest call says it.
fn join(who: &mut Who, more: Who, latest: bool) {
    who.rollout_id = who.rollout_id.take().or(more.rollout_id);
    who.task_id = who.task_id.take().or(more.task_id);
    who.pair_id = who.pair_id.take().or(more.pair_id);
    who.agent = who.agent.take().or(more.agent);
    who.source = who.source.take().or(more.source);
    who.attempt = who.attempt.or(more.attempt);
    let (status, reward) = (who.status.take(), who.reward);
    (who.status, who.reward) = match latest {
        true => (more.status.or(status), more.reward.or(reward)),
        false => (status.or(more.status), reward.or(more.reward)),
    };
}

/// Appends values stored as bytes, which stand at any address.
fn extend<T: bytemuck::AnyBitPattern>(values: &mut Vec<T>, bytes: &[u8]) {
    values.extend(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned::<T>));
}

fn broken(error: postcard::Error) -> Error {
    Error::check(format!("the spill cannot be read back: {error}"), "this is a bug in tito; please report it")
}
