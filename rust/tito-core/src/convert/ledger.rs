//! What must be known across the whole input, kept in its order: which calls came before, which rollouts there are,
//! whose ids they are.

use super::identity::Identities;
use super::options::GroupBy;
use super::sight::Sighted;
use crate::capture::{Piece, Skip, Who};
use crate::error::{Error, Place, Result};
use crate::rows::Text;
use std::collections::{HashMap, HashSet};
use std::hash::Hasher as _;
use twox_hash::xxhash3_64;

/// Ids of calls are remembered for the warning about repeats up to this many.
const REMEMBERED: usize = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    calls: HashMap<u64, u64>,
    contents: HashSet<u64>,
    /// Calls whose ids came before under another call id.
    pub repeated_ids: u64,
    rollouts: HashMap<u64, u32>,
    names: HashMap<u64, u32>,
    renamed: HashMap<u32, Text>,
    /// Names that rollouts had before they were renamed.
    originals: HashMap<u32, Text>,
    /// Rollouts of which there are only notes so far.
    unnamed: HashSet<u32>,
    notes: HashMap<u32, Who>,
    next_rollout: u32,
    first: Option<(Option<usize>, Place)>,
}

fn key(parts: &[&[u8]]) -> u64 {
    let mut hasher = xxhash3_64::Hasher::new();
    for part in parts {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish()
}

impl Ledger {
    /// What a call goes by: calls of one key are one call, or contradict each other.
    pub(super) fn key_of(piece: &Piece, sighted: &Sighted<'_>) -> Option<u64> {
        let (call, who) = (sighted.call, &piece.who);
        if call.bad.is_some() || call.prompt.is_none() || call.output.is_none() {
            return None;
        }
        let rollout = who.rollout_id.as_deref().unwrap_or_default().as_bytes();
        match (&call.call_id, call.started) {
            // What people number themselves is unique in a rollout only.
            (Some(id), _) if id.bytes().all(|b| b.is_ascii_digit()) => {
                Some(key(&[b"number", rollout, id.as_bytes(), &call.choice.to_le_bytes()]))
            }
            // A response has one id, whatever saved it; choices of a response share it.
            (Some(id), _) => Some(key(&[b"id", id.as_bytes(), &call.choice.to_le_bytes()])),
            // Trajectories of a folder overlap when one holds the segments before a compaction.
            (None, _) if !piece.scope.is_empty() => {
                Some(key(&[b"folder", piece.scope.as_bytes(), rollout, &sighted.digest.hash]))
            }
            // A line that was saved twice has the same time.
            (None, Some(started)) => {
                let turn = call.turn.unwrap_or(-1).to_le_bytes();
                Some(key(&[b"line", rollout, &turn, &started.to_le_bytes(), &sighted.digest.hash]))
            }
            (None, None) => None,
        }
    }

    /// What a rollout's name goes by, whichever rollout has it.
    pub(super) fn key_of_name(piece: &Piece) -> Option<u64> {
        piece.who.rollout_id.as_deref().map(|name| key(&[b"name", name.as_bytes()]))
    }

    /// Tells whether the call came before.
    pub fn call(&mut self, piece: &Piece, sighted: &mut Sighted<'_>) {
        let call = sighted.call;
        if call.bad.is_some() || call.prompt.is_none() || call.output.is_none() {
            return;
        }
        let content = u64::from_be_bytes(sighted.digest.hash[..8].try_into().unwrap_or_default());
        let known = Self::key_of(piece, sighted);
        if let Some(known) = known {
            match self.calls.get(&known) {
                Some(before) if *before == content => sighted.skip = Some(Skip::Duplicate),
                Some(_) => sighted.skip = Some(Skip::Contradiction),
                None => {
                    self.calls.insert(known, content);
                }
            }
        }
        if sighted.skip.is_none() {
            let full = self.contents.len() >= REMEMBERED;
            if self.contents.contains(&content) {
                self.repeated_ids += 1;
            } else if !full {
                self.contents.insert(content);
            }
        }
    }

    /// Refuses a second tokenizer or template.
    ///
    /// # Errors
    /// `Data`.
    pub fn identity(&mut self, sighted: &Sighted<'_>, identities: &Identities, group_by: GroupBy) -> Result<()> {
        if group_by == GroupBy::Identity || sighted.call.prompt.as_ref().is_none_or(std::ops::Range::is_empty) {
            return Ok(());
        }
        let here = || Place::record(sighted.file, sighted.call.record).at_turn(sighted.call.turn);
        match &self.first {
            None => self.first = Some((sighted.identity, here())),
            Some((identity, place)) if *identity != sighted.identity => {
                return Err(Error::data(
                    here(),
                    format!(
                        "two tokenizers or templates in one dump: {} here, {} at {place}",
                        identities.name(sighted.identity),
                        identities.name(*identity)
                    ),
                    "convert them apart, or give each its own file with --group-by identity",
                ));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The number of the piece's rollout, and its name when another rollout has the one it goes by.
    pub fn rollout(&mut self, piece: &Piece) -> (u32, Option<Text>) {
        let name = piece.who.rollout_id.as_deref();
        // Two agents that share a session are two rollouts, and so are two attempts.
        let part = |text: &Option<Text>| text.clone().unwrap_or_default();
        let (agent, task) = (part(&piece.who.agent), part(&piece.who.task_id));
        let attempt = piece.who.attempt.unwrap_or(-1).to_le_bytes();
        let parts = [piece.scope.as_bytes(), agent.as_bytes(), task.as_bytes(), &attempt];
        let scoped = name.map(|name| key(&[&parts[..], &[name.as_bytes()]].concat()));
        if !piece.complete
            && let Some(number) = scoped.and_then(|scoped| self.rollouts.get(&scoped).copied())
        {
            if piece.calls.is_empty() || !self.unnamed.remove(&number) {
                return (number, self.renamed.get(&number).cloned());
            }
            return (number, self.name(number, name, piece.complete));
        }
        let number = self.next_rollout;
        self.next_rollout += 1;
        if let (false, Some(scoped)) = (piece.complete, scoped) {
            self.rollouts.insert(scoped, number);
        }
        if piece.calls.is_empty() {
            // Lines that only tell of a rollout take no name away from one that has calls.
            self.unnamed.insert(number);
            return (number, None);
        }
        (number, self.name(number, name, piece.complete))
    }

    /// A rollout's name when another rollout has the one it goes by.
    fn name(&mut self, number: u32, name: Option<&str>, complete: bool) -> Option<Text> {
        let name = name?;
        let times = self.names.entry(key(&[name.as_bytes()])).or_insert(0);
        *times += 1;
        let renamed = (*times > 1).then(|| Text::from(format!("{name}#{times}")));
        if let (false, Some(renamed)) = (complete, &renamed) {
            self.renamed.insert(number, renamed.clone());
        }
        if renamed.is_some() {
            self.originals.insert(number, name.into());
        }
        renamed
    }

    /// Keeps what a line without calls tells of its rollout.
    pub fn note(&mut self, number: u32, who: &Who) {
        self.notes.entry(number).or_default().join(who, true);
    }

    /// What such lines told, by rollout.
    pub fn take_notes(&mut self) -> HashMap<u32, Who> {
        std::mem::take(&mut self.notes)
    }

    /// The name that a renamed rollout has in the capture.
    #[must_use]
    pub fn original(&self, rollout: u32) -> Option<Text> {
        self.originals.get(&rollout).cloned()
    }
}
