//! What must be known across the whole input, kept in its order: which calls came before, which rollouts there are,
//! whose ids they are.

use super::build::Sighted;
use super::identity::Identities;
use super::options::GroupBy;
use crate::capture::{Finish, Parsed, Piece, Skip};
use crate::error::{Error, Place, Result};
use crate::ids::Id;
use crate::rows::Text;
use std::collections::{HashMap, HashSet};
use std::hash::Hasher as _;
use twox_hash::{xxhash3_64, xxhash3_128};

/// Ids of calls are remembered for the warning about repeats up to this many.
const REMEMBERED: usize = 1 << 20;

/// Hash of a call's ids: what the `capture_hash` column holds. xxh3-128 over the prompt's length (64 bit, little
/// endian), the prompt and the output (32 bit each).
#[must_use]
pub fn hash_ids(prompt: &[Id], output: &[Id]) -> [u8; 16] {
    let mut hasher = xxhash3_128::Hasher::new();
    hasher.write(&(prompt.len() as u64).to_le_bytes());
    hasher.write(bytemuck::cast_slice(prompt));
    hasher.write(bytemuck::cast_slice(output));
    hasher.finish_128().to_be_bytes()
}

/// Looks at the calls of a stretch: everything that needs no knowledge of other stretches.
#[must_use]
pub fn sight<'a>(parsed: &'a Parsed<'_>, identities: &Identities) -> Vec<Sighted<'a>> {
    let mut sighted = Vec::with_capacity(parsed.calls.len());
    for piece in &parsed.pieces {
        for call in &parsed.calls[piece.calls.clone()] {
            let prompt = call.prompt.as_ref().map(|range| &parsed.prompts.values[range.clone()]);
            let output = call.output.as_ref().map(|range| &parsed.outputs.values[range.clone()]);
            sighted.push(Sighted {
                call,
                file: &piece.file,
                format: piece.format,
                identity: prompt.and_then(|prompt| identities.of(prompt)),
                hash: hash_ids(prompt.unwrap_or_default(), output.unwrap_or_default()),
                turn: call.turn,
                retried: false,
                skip: None,
            });
        }
    }
    sighted
}

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
    /// Tells whether the call came before.
    pub fn call(&mut self, piece: &Piece, sighted: &mut Sighted<'_>) {
        let (call, who) = (sighted.call, &piece.who);
        if call.bad.is_some() || call.prompt.is_none() || call.output.is_none() {
            return;
        }
        let content = u64::from_be_bytes(sighted.hash[..8].try_into().unwrap_or_default());
        let rollout = who.rollout_id.as_deref().unwrap_or_default().as_bytes();
        let known = match (&call.call_id, call.started) {
            // What people number themselves is unique in a rollout only.
            (Some(id), _) if id.bytes().all(|b| b.is_ascii_digit()) => {
                Some(key(&[b"number", rollout, id.as_bytes(), &call.choice.to_le_bytes()]))
            }
            // A response has one id, whatever saved it; choices of a response share it.
            (Some(id), _) => Some(key(&[b"id", id.as_bytes(), &call.choice.to_le_bytes()])),
            // Trajectories of a folder overlap when one holds the segments before a compaction.
            (None, _) if !piece.scope.is_empty() => {
                Some(key(&[b"folder", piece.scope.as_bytes(), rollout, &sighted.hash]))
            }
            // A line that was saved twice has the same time.
            (None, Some(started)) => {
                let turn = call.turn.unwrap_or(-1).to_le_bytes();
                Some(key(&[b"line", rollout, &turn, &started.to_le_bytes(), &sighted.hash]))
            }
            (None, None) => None,
        };
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
            return (number, self.renamed.get(&number).cloned());
        }
        let number = self.next_rollout;
        self.next_rollout += 1;
        if let (false, Some(scoped)) = (piece.complete, scoped) {
            self.rollouts.insert(scoped, number);
        }
        let Some(name) = name else { return (number, None) };
        let times = self.names.entry(key(&[name.as_bytes()])).or_insert(0);
        *times += 1;
        let renamed = (*times > 1).then(|| Text::from(format!("{name}#{times}")));
        if let (false, Some(renamed)) = (piece.complete, &renamed) {
            self.renamed.insert(number, renamed.clone());
        }
        (number, renamed)
    }
}

/// What choices of one reply have in common.
#[derive(PartialEq)]
enum Reply {
    Id(Text),
    Record(Text, u64, u32),
}

/// Numbers the turns of a rollout where its format has not, marks retries, and puts the calls in the order of rows.
pub fn arrange(calls: &mut Vec<Sighted<'_>>, prompts: &[Id], numbered: bool, known_rollout: bool) {
    let solver = |c: &Sighted<'_>| {
        let failed = c.call.failed || c.call.finish == Finish::Failed;
        c.call.kind.as_deref().is_none_or(|kind| kind == "solver") && c.skip.is_none() && !failed
    };
    if !numbered && known_rollout && calls.iter().all(|c| !solver(c) || c.turn.is_none()) {
        // Histories grow, so among calls of one second the longer prompt came later. Without times the order of the
        // input is all there is.
        if calls.iter().all(|c| c.call.started.is_some()) {
            calls.sort_by(|a, b| {
                by_time(a)
                    .total_cmp(&by_time(b))
                    .then(prompt_length(a).cmp(&prompt_length(b)))
                    .then_with(|| a.call.call_id.cmp(&b.call.call_id))
                    .then(a.call.choice.cmp(&b.call.choice))
            });
        }
        let (mut turn, mut last) = (-1, None);
        for call in calls.iter_mut() {
            call.turn = None;
            if solver(call) {
                // Choices of one reply are siblings; a dropped reply carries the number of the next kept one.
                let reply = match &call.call.call_id {
                    Some(id) => Reply::Id(id.clone()),
                    None => Reply::Record(call.file.clone(), call.call.record, call.call.reply),
                };
                if last.as_ref() != Some(&reply) {
                    turn += 1;
                    last = Some(reply);
                }
                call.turn = Some(turn);
                if call.call.parse_error {
                    turn -= 1;
                    last = None;
                }
            }
        }
    }
    let order = |c: &Sighted<'_>| c.turn.unwrap_or(i32::MAX);
    calls.sort_by(|a, b| {
        order(a)
            .cmp(&order(b))
            .then(by_time(a).total_cmp(&by_time(b)))
            .then_with(|| a.call.call_id.cmp(&b.call.call_id))
            .then(a.call.choice.cmp(&b.call.choice))
    });
    let ids = |i: usize| calls[i].call.prompt.as_ref().map_or(&[][..], |range| &prompts[range.clone()]);
    let same_first = |a: usize, b: usize| ids(a).len().cmp(&ids(b).len()).then_with(|| ids(a).cmp(ids(b)));
    let mut by_prompt: Vec<usize> =
        (0..calls.len()).filter(|i| calls[*i].skip.is_none() && calls[*i].call.prompt.is_some()).collect();
    by_prompt.sort_by(|a, b| same_first(*a, *b));
    let mut retried = Vec::new();
    for pair in by_prompt.windows(2) {
        if ids(pair[0]) == ids(pair[1]) {
            retried.extend_from_slice(pair);
        }
    }
    for i in retried {
        calls[i].retried = true;
    }
}

/// Calls without a time stand last.
fn by_time(call: &Sighted<'_>) -> f64 {
    call.call.started.unwrap_or(f64::INFINITY)
}

fn prompt_length(call: &Sighted<'_>) -> usize {
    call.call.prompt.as_ref().map_or(0, ExactSizeIterator::len)
}
