//! What must be known across the whole input, kept in its order: which calls came before, which rollouts there are,
//! whose ids they are.

use super::identity::Identities;
use super::options::GroupBy;
use super::rollouts::Rollouts;
use super::sight::Sighted;
use crate::capture::{Call, Finish, Piece, Skip};
use crate::error::{Error, Place, Result};
use crate::rows::Text;
use std::collections::{HashMap, HashSet};
use std::hash::Hasher as _;
use twox_hash::xxhash3_64;

/// Ids of calls are remembered for the warning about repeats up to this many.
const REMEMBERED: usize = 1 << 20;
/// The format whose ids of calls are what people give.
const NATIVE: &str = "native";

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    calls: HashMap<u64, (u64, Facts)>,
    contents: HashSet<u64>,
    /// Calls whose ids came before under another call id.
    pub repeated_ids: u64,
    /// Calls that came again with the same ids and other facts, or under another rollout.
    pub retold: u64,
    /// Which rollouts there are.
    pub(super) rollouts: Rollouts,
    first: Option<(Option<usize>, Place)>,
}

/// What a line says of a call besides its ids, 16 bits each; 0 where it says nothing.
#[derive(Debug, Clone, Copy)]
struct Facts([u16; 5]);

impl Facts {
    fn of(call: &Call, rollout: Option<&str>) -> Self {
        let said = |text: &[u8]| (key(&[text]) as u16).max(1);
        let finish = match call.finish {
            Finish::Unknown => 0,
            finish => 1 + finish as u16,
        };
        let kind = call.kind.as_deref().map_or(0, |kind| said(kind.as_bytes()));
        let turn = call.turn.map_or(0, |turn| said(&turn.to_le_bytes()));
        let rollout = rollout.map_or(0, |name| said(name.as_bytes()));
        Self([finish, kind, turn, rollout, u16::from(call.parse_error)])
    }

    fn contradicts(self, other: Self) -> bool {
        let [.., failed] = self.0;
        let [.., also] = other.0;
        // False is a word like true here: who says nothing of a parse error has seen none.
        failed != also || self.0.iter().zip(other.0).any(|(a, b)| *a != 0 && b != 0 && *a != b)
    }
}

/// One hash of several texts.
pub(super) fn key(parts: &[&[u8]]) -> u64 {
    let mut hasher = xxhash3_64::Hasher::new();
    for part in parts {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish()
}

impl Ledger {
    /// What a call goes by: calls of one key are one call, or contradict each other. The second is what it may go by
    /// elsewhere.
    pub(super) fn keys_of(piece: &Piece, sighted: &Sighted<'_>) -> (Option<u64>, Option<u64>) {
        let (call, who) = (sighted.call, &piece.who);
        if call.bad.is_some() || call.prompt.is_none() || call.output.is_none() {
            return (None, None);
        }
        let rollout = who.rollout_id.as_deref().unwrap_or_default().as_bytes();
        let in_rollout = |id: &str| {
            let part = |text: &Option<Text>| text.clone().unwrap_or_default();
            let (task, agent) = (part(&who.task_id), part(&who.agent));
            let (attempt, choice) = (who.attempt.unwrap_or(-1).to_le_bytes(), call.choice.to_le_bytes());
            let parts = [rollout, task.as_bytes(), agent.as_bytes(), &attempt, id.as_bytes(), &choice];
            key(&[&[&b"number"[..]], &parts[..]].concat())
        };
        // A response has one id, whatever saved it; choices of a response share it.
        let anywhere = |id: &str| key(&[b"id", id.as_bytes(), &call.choice.to_le_bytes()]);
        match (&call.call_id, call.started) {
            // What people number themselves is unique in a rollout only.
            (Some(id), _) if id.bytes().all(|b| b.is_ascii_digit()) => (Some(in_rollout(id)), None),
            // So may be what they name themselves, unless it is a reply's id, and the reply is here too.
            (Some(id), _) if piece.format == NATIVE => (Some(in_rollout(id)), Some(anywhere(id))),
            (Some(id), _) => (Some(anywhere(id)), Some(in_rollout(id))),
            // Trajectories of a folder overlap when one holds the segments before a compaction.
            (None, _) if !piece.scope.is_empty() => {
                (Some(key(&[b"folder", piece.scope.as_bytes(), rollout, &sighted.digest.hash])), None)
            }
            // A line that was saved twice has the same time.
            (None, Some(started)) => {
                let turn = call.turn.unwrap_or(-1).to_le_bytes();
                (Some(key(&[b"line", rollout, &turn, &started.to_le_bytes(), &sighted.digest.hash])), None)
            }
            (None, None) => (None, None),
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
        let (own, other) = Self::keys_of(piece, sighted);
        let facts = Facts::of(call, piece.who.rollout_id.as_deref());
        // What came before under a key: whether it had the same ids, and said the same of them.
        let known = |key: Option<u64>| {
            let before = key.and_then(|key| self.calls.get(&key));
            before.map(|(ids, said)| (*ids == content, said.contradicts(facts)))
        };
        match (known(own), known(other)) {
            (Some((true, retold)), _) | (None, Some((true, retold))) => {
                sighted.skip = Some(Skip::Duplicate);
                self.retold += u64::from(retold);
            }
            (Some((false, _)), _) => sighted.skip = Some(Skip::Contradiction),
            (None, _) => self.calls.extend(own.map(|own| (own, (content, facts)))),
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
}
