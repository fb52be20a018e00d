//! What a file holds, as far as parts go: groups of records that belong together, and what ties them to other files.

use super::super::identity::Identities;
use super::super::ledger::Ledger;
use super::super::order::Turnstile;
use super::super::{Gates, Options, Progress, Sighted, Stopped, lock, on_threads, sight, sources_of, workers};
use crate::capture::{InputFile, Parsed, Unit, parse};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// Of an empty line.
pub(super) const NO_GROUP: u32 = u32::MAX;

/// See the module. Groups are numbered as they first appear.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Text of each group, in bytes.
    pub(super) groups: Vec<u64>,
    /// Hashes of the names of a group's rollouts and of its calls; each once.
    pub(super) keys: Vec<(u64, u32)>,
    /// The group of each line; empty for a file that is one record.
    pub(super) lines: Vec<u32>,
}

impl Scan {
    /// As it travels.
    ///
    /// # Errors
    /// None that is known.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        postcard::to_stdvec(self).map_err(|error| foreign(&error))
    }

    /// What travelled.
    ///
    /// # Errors
    /// `Usage` for what another version has written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        postcard::from_bytes(bytes).map_err(|error| foreign(&error))
    }
}

fn foreign(error: &postcard::Error) -> Error {
    Error::usage(format!("a scan cannot be read: {error}"), "all machines need the same version of tito")
}

/// Sets that grow together; the least member stands for all.
#[derive(Debug, Default)]
pub(super) struct Sets(Vec<u32>);

impl Sets {
    pub(super) fn add(&mut self) -> u32 {
        self.0.push(self.0.len() as u32);
        self.0.len() as u32 - 1
    }

    pub(super) fn first(&mut self, mut at: u32) -> u32 {
        while self.0[at as usize] != at {
            self.0[at as usize] = self.0[self.0[at as usize] as usize];
            at = self.0[at as usize];
        }
        at
    }

    pub(super) fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.first(one), self.first(other));
        self.0[one.max(other) as usize] = one.min(other);
    }
}

#[derive(Debug, Default)]
struct Scanning {
    sets: Sets,
    bytes: Vec<u64>,
    keys: HashMap<u64, u32>,
    lines: Vec<u32>,
}

impl Scanning {
    fn add(&mut self, parsed: &Parsed<'_>, sighted: &[Sighted<'_>]) {
        let (mut pieces, mut calls) = (parsed.pieces.iter(), sighted.iter());
        let mut before = 0;
        for line in &parsed.lines {
            // A record that names nothing, or cannot be read, is a group of its own.
            let set = self.sets.add();
            self.bytes.push(line.bytes as u64);
            for piece in pieces.by_ref().take(line.pieces - before) {
                let of_calls = calls
                    .by_ref()
                    .take(piece.calls.len())
                    .flat_map(|call| <[_; 2]>::from(Ledger::keys_of(piece, call)))
                    .flatten();
                for key in Ledger::key_of_name(piece).into_iter().chain(of_calls) {
                    self.sets.join(*self.keys.entry(key).or_insert(set), set);
                }
            }
            before = line.pieces;
            if let Some(number) = line.number {
                self.lines.resize(number as usize - 1, NO_GROUP);
                self.lines.push(set);
            }
        }
    }

    fn done(mut self) -> Scan {
        let mut scan = Scan::default();
        let mut numbers = vec![NO_GROUP; self.bytes.len()];
        for (set, bytes) in self.bytes.iter().enumerate() {
            let first = self.sets.first(set as u32) as usize;
            if numbers[first] == NO_GROUP {
                numbers[first] = scan.groups.len() as u32;
                scan.groups.push(0);
            }
            numbers[set] = numbers[first];
            scan.groups[numbers[set] as usize] += bytes;
        }
        scan.keys = self.keys.into_iter().map(|(key, set)| (key, numbers[set as usize])).collect();
        scan.keys.sort_unstable();
        let group = |set: &u32| numbers.get(*set as usize).copied().unwrap_or(NO_GROUP);
        scan.lines = self.lines.iter().map(group).collect();
        scan
    }
}

/// Scans the one file among the inputs. With `found` it is no error that it holds no capture.
///
/// # Errors
/// `Usage`, `Io`, and `Data` for a file that cannot be read to its end.
pub fn scan(options: &Options, found: bool, progress: &Progress) -> Result<(InputFile, Scan)> {
    let mut sources = sources_of(options, progress)?;
    if found {
        sources.take_as_found();
    }
    progress.total.store(sources.total_bytes(), Ordering::Relaxed);
    let nobody = Identities::new(options.profile.as_ref())?;
    let (sources, scanning) = (Mutex::new(sources), Mutex::<Scanning>::default());
    let workers = workers(options)?;
    let gates = Gates::<()>::new(workers);
    on_threads(workers, &gates, || {
        let mut unit = Unit::default();
        loop {
            if progress.cancelled.load(Ordering::Relaxed) {
                return Err(Stopped::at(0)(Error::Cancelled));
            }
            let Some(next) = lock(&sources).next_unit(unit).map_err(Stopped::at(u64::MAX))? else { return Ok(()) };
            unit = next;
            let mut parsed = Parsed::default();
            parse(&unit, &mut parsed);
            progress.calls.fetch_add(parsed.calls.len() as u64, Ordering::Relaxed);
            let sighted = sight(&parsed, &nobody);
            let enter: &Turnstile = &gates.enter;
            let add = || {
                lock(&scanning).add(&parsed, &sighted);
                Ok::<_, Error>(())
            };
            if enter.pass(unit.number, add).is_none() {
                return Ok(());
            }
        }
    })?;
    let scan = std::mem::take(&mut *lock(&scanning)).done();
    let sources = lock(&sources);
    match sources.files().0 {
        [file] => Ok((file.clone(), scan)),
        files => Err(Error::usage(format!("{} files where one is scanned", files.len()), "this is a bug in tito")),
    }
}
