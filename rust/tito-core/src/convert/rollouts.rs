//! Which rollout a line belongs to, kept in the order of the input.
//!
//! A rollout goes by its name together with task, agent and attempt. A line that leaves some of them out belongs to the
//! one rollout of that name that it can mean; where it can mean several it stands as a rollout of its own, counted.

use super::ledger::key;
use crate::capture::{Piece, Who};
use crate::rows::Text;
use std::collections::{HashMap, HashSet};

/// Task, agent and attempt as hashes; 0 is not said.
type Said = [u64; 3];

/// A rollout as some of its lines name it.
#[derive(Debug)]
struct Met {
    number: u32,
    /// Hash of its name, and of the name within its scope.
    name: Option<u64>,
    session: u64,
    said: Said,
    /// Nothing elsewhere in the input belongs to it.
    whole: bool,
    calls: u64,
}

impl Met {
    /// Whether both may be one rollout, of which the other says more.
    fn is_less_than(&self, other: &Self) -> bool {
        self.said != other.said && self.said.iter().zip(other.said).all(|(mine, theirs)| *mine == 0 || *mine == theirs)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    next: u32,
    exact: HashMap<u64, usize>,
    met: Vec<Met>,
    /// Rollouts of a name, by its hash.
    names: HashMap<u64, u32>,
    /// Names that were there before, by rollout.
    repeated: HashMap<u32, Text>,
    notes: HashMap<u32, Who>,
    /// Rollouts that were begun more than once.
    again: HashSet<u32>,
}

/// What is known when all input is read.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Rollouts that are another one, under which less or more was said.
    joined: HashMap<u32, u32>,
    /// New names, where another rollout has the one it goes by.
    pub(super) renamed: HashMap<u32, Text>,
    /// What lines without calls tell.
    pub(super) notes: HashMap<u32, Who>,
    /// Calls that do not say which of several rollouts of a name they belong to, and such a name.
    pub(super) unplaced: u64,
    pub(super) unplaced_in: Option<Text>,
    /// Rollouts that are told of and have no call.
    pub(super) without_calls: u64,
    /// Rollouts that were begun more than once.
    pub(super) begun_again: u64,
}

impl Settled {
    /// The number that a rollout goes by once it is joined.
    pub(super) fn first(&self, rollout: u32) -> u32 {
        self.joined.get(&rollout).copied().unwrap_or(rollout)
    }
}

impl Rollouts {
    /// The number of a rollout that stands in one piece, and its name when another rollout has the one it goes by.
    pub(super) fn whole(&mut self, piece: &Piece) -> (u32, Option<Text>) {
        let number = self.number();
        let Some(name) = piece.who.rollout_id.as_ref() else { return (number, None) };
        let times = self.names.entry(key(&[name.as_bytes()])).or_insert(0);
        *times += 1;
        if *times == 1 {
            return (number, None);
        }
        self.repeated.insert(number, name.clone());
        (number, Some(renamed(name, *times)))
    }

    /// The number of a rollout of which other pieces may follow, until all is settled.
    pub(super) fn part(&mut self, piece: &Piece) -> u32 {
        let who = &piece.who;
        let said = |text: &Option<Text>| text.as_ref().map_or(0, |text| key(&[text.as_bytes()]));
        let attempt = who.attempt.map_or(0, |attempt| key(&[&attempt.to_le_bytes()]));
        let said = [said(&who.task_id), said(&who.agent), attempt];
        let name = who.rollout_id.as_ref().map(|name| key(&[name.as_bytes()]));
        let whole = piece.complete || name.is_none();
        let session = key(&[piece.scope.as_bytes(), &name.unwrap_or_default().to_le_bytes()]);
        let parts: Vec<[u8; 8]> = [session].iter().chain(&said).map(|part| part.to_le_bytes()).collect();
        let exact = key(&parts.iter().map(|part| &part[..]).collect::<Vec<_>>());
        let known = self.exact.get(&exact).copied().filter(|_| !whole);
        let at = known.unwrap_or_else(|| {
            let number = self.number();
            if let (Some(name), Some(text)) = (name, &who.rollout_id) {
                match self.names.entry(name) {
                    std::collections::hash_map::Entry::Occupied(_) => {
                        self.repeated.insert(number, text.clone());
                    }
                    std::collections::hash_map::Entry::Vacant(first) => {
                        first.insert(0);
                    }
                }
            }
            self.met.push(Met { number, name, session, said, whole, calls: 0 });
            if !whole {
                self.exact.insert(exact, self.met.len() - 1);
            }
            self.met.len() - 1
        });
        let met = &mut self.met[at];
        met.calls += piece.calls.len() as u64;
        if piece.calls.is_empty() {
            let note = self.notes.entry(met.number).or_default();
            if note.outcome.begun && who.outcome.begun {
                self.again.insert(met.number);
            }
            note.join(who, true);
        }
        met.number
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// The name that a renamed rollout has in the capture.
    #[must_use]
    pub(super) fn original(&self, rollout: u32) -> Option<Text> {
        self.repeated.get(&rollout).cloned()
    }

    /// Nothing more will come: joins what belongs together and gives names.
    pub(super) fn settle(&mut self) -> Settled {
        let mut settled = Settled { begun_again: self.again.len() as u64, ..Settled::default() };
        let mut notes: Vec<_> = std::mem::take(&mut self.notes).into_iter().collect();
        let mut parts: Vec<&Met> = self.met.iter().filter(|met| !met.whole).collect();
        parts.sort_unstable_by_key(|met| (met.session, met.number));
        for session in parts.chunk_by(|a, b| a.session == b.session) {
            if session.len() > 1 && session.iter().any(|met| met.said.contains(&0)) {
                self.join(session, &mut settled, &mut notes);
            }
        }
        notes.sort_by_key(|(number, _)| *number);
        for (number, who) in notes {
            settled.notes.entry(settled.first(number)).or_default().join(&who, true);
        }
        let mut calls: HashMap<u32, u64> = HashMap::new();
        for met in &self.met {
            *calls.entry(settled.first(met.number)).or_default() += met.calls;
        }
        for met in &self.met {
            match (calls.remove(&met.number), met.name) {
                (Some(0), _) => settled.without_calls += 1,
                (Some(_), Some(name)) => {
                    let times = self.names.entry(name).or_insert(0);
                    *times += 1;
                    if let (2.., Some(name)) = (*times, self.repeated.get(&met.number)) {
                        settled.renamed.insert(met.number, renamed(name, *times));
                    }
                }
                _ => {}
            }
        }
        settled
    }

    /// Joins the rollouts of one name, in the order of their numbers. `notes` is told what belongs to several.
    fn join(&self, session: &[&Met], settled: &mut Settled, notes: &mut Vec<(u32, Who)>) {
        let one = (0..3).all(|part| {
            let mut said = session.iter().map(|met| met.said[part]).filter(|said| *said != 0);
            said.next().is_none_or(|first| said.all(|other| other == first))
        });
        if one {
            settled.joined.extend(session[1..].iter().map(|met| (met.number, session[0].number)));
            return;
        }
        let says_most = |met: &Met| !session.iter().any(|other| met.is_less_than(other));
        let full: Vec<&Met> = session.iter().copied().filter(|met| says_most(met)).collect();
        // By the rollout that says the most: the first of all that are that one.
        let mut firsts: HashMap<u32, u32> = HashMap::new();
        for met in session {
            let meant: Vec<_> = full.iter().filter(|other| met.is_less_than(other)).collect();
            let of = match &meant[..] {
                [] => met.number,
                [only] => only.number,
                [first, others @ ..] => {
                    // What is told of the name is told of each. A line without calls joins the first.
                    let copied = if met.calls == 0 { others } else { &meant };
                    for who in
                        notes.iter().filter(|(n, _)| *n == met.number).map(|(_, who)| who.clone()).collect::<Vec<_>>()
                    {
                        notes.extend(copied.iter().map(|other| (other.number, who.clone())));
                    }
                    if met.calls == 0 {
                        first.number
                    } else {
                        settled.unplaced += met.calls;
                        let name = || meant.iter().find_map(|other| self.original(other.number));
                        settled.unplaced_in = settled.unplaced_in.take().or_else(name);
                        met.number
                    }
                }
            };
            let first = *firsts.entry(of).or_insert(met.number);
            if first != met.number {
                settled.joined.insert(met.number, first);
            }
        }
    }
}

fn renamed(name: &str, times: u32) -> Text {
    format!("{name}#{times}").into()
}
