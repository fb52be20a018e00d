//! `--drop-section`: a section of text leaves the messages of prompts, never what an engine sampled.
//!
//! Only messages that are no assistant's are looked at: an answer that quotes the section was sampled, and stays. Each
//! distinct message is cut once and remembered by its hash; system prompts repeat in every call.

use super::decide::Refusal;
use super::identity::Known;
use super::report::Counts;
use crate::capture::Skip;
use crate::error::{Error, Result};
use crate::ids::Id;
use crate::ids::edit::Edits;
use crate::tokens::Tokenizer;
use crate::tokens::section::{Cut, CutKind, Section};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::{AddAssign, Range};
use std::sync::{Arc, PoisonError, RwLock};
use twox_hash::xxhash3_128;

/// Messages remembered at a time: some megabytes.
const REMEMBERED: usize = 1 << 16;

/// What cutting did to the prompts of calls that were judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionCounts {
    /// Calls whose prompt held the section.
    pub calls_with: u64,
    /// Calls whose prompt did not.
    pub calls_without: u64,
    /// How often the section stood in a prompt.
    pub sections: u64,
    /// Messages cut with every id left as captured, and proven to be what the tokenizer makes.
    pub pure: u64,
    /// Messages whose ids around the cut were made anew.
    pub reencoded: u64,
    /// Messages cut with every id left as captured that the tokenizer would have made otherwise even before.
    pub unproven: u64,
    /// Messages that held nothing else and left as a whole.
    pub whole: u64,
}

impl AddAssign for SectionCounts {
    fn add_assign(&mut self, other: Self) {
        self.calls_with += other.calls_with;
        self.calls_without += other.calls_without;
        self.sections += other.sections;
        self.pure += other.pure;
        self.reencoded += other.reencoded;
        self.unproven += other.unproven;
        self.whole += other.whole;
    }
}

/// The section of a run, and what became of the messages met so far.
#[derive(Debug)]
pub struct Sections {
    section: Section,
    cuts: RwLock<HashMap<Message, Arc<Cut>>>,
}

/// A message: the hash of its ids, and how they open.
type Message = (u128, (usize, bool));

/// A message that holds the section: where it begins, and its cut.
type Held = (usize, Arc<Cut>);

impl Sections {
    /// # Errors
    /// `Usage` when there is nothing to look for or no tokenizer to do it with.
    pub(super) fn new(text: &str, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let tokenizer = needed(tokenizer, "--drop-section")?;
        let Some(section) = Section::new(text, tokenizer)? else {
            return Err(Error::usage(
                "--drop-section: the text is empty",
                "name a file that holds the section as the prompts have it",
            ));
        };
        Ok(Self { section, cuts: RwLock::default() })
    }

    /// Judges the prompt of a call, and counts.
    pub(super) fn judge(
        &self,
        tokenizer: &Tokenizer,
        known: &Known,
        prompt: &[Id],
        counts: &mut SectionCounts,
    ) -> std::result::Result<(), Refusal> {
        let held = self.held(tokenizer, known, prompt);
        let mut seen = SectionCounts::default();
        for (_, cut) in &held {
            let (kind, sections) = match &**cut {
                Cut::Made { kind, sections, .. } => (kind, sections),
                Cut::InWord => {
                    return Err(Refusal::new(
                        Skip::SectionUncut,
                        "the prompt holds the section with an end inside a word: cutting it would leave half of the word",
                    ));
                }
                Cut::Stuck | Cut::Absent => {
                    return Err(Refusal::new(
                        Skip::SectionUncut,
                        "the prompt holds the section, its edge lies inside an id, and the tokenizer does not make these \
                         ids of the message's text",
                    ));
                }
            };
            seen.sections += *sections as u64;
            match kind {
                CutKind::Pure => seen.pure += 1,
                CutKind::Reencoded => seen.reencoded += 1,
                CutKind::Unproven => seen.unproven += 1,
                CutKind::Whole => seen.whole += 1,
            }
        }
        seen.calls_with = u64::from(!held.is_empty());
        seen.calls_without = u64::from(held.is_empty());
        *counts += seen;
        Ok(())
    }

    /// Adds the cuts in a prompt, or in the prompt part of a merged row, whose `samples` stay as they are.
    pub(super) fn put(
        &self,
        tokenizer: &Tokenizer,
        known: &Known,
        prompt: &[Id],
        samples: &[Range<usize>],
        edits: &mut Edits<'_>,
    ) {
        for (at, cut) in self.held(tokenizer, known, prompt) {
            let Cut::Made { edits: made, .. } = &*cut else { continue };
            let moved = |range: &Range<usize>| at + range.start..at + range.end;
            let sampled = |range: Range<usize>| samples.iter().any(|s| range.start < s.end && s.start < range.end);
            if made.iter().any(|(range, _)| sampled(moved(range))) {
                continue;
            }
            for (range, with) in made {
                edits.put(moved(range), with.clone());
            }
        }
    }

    fn held(&self, tokenizer: &Tokenizer, known: &Known, prompt: &[Id]) -> Vec<Held> {
        let mut held = Vec::new();
        for message in known.rule.messages(prompt) {
            let ids = &prompt[message.ids.clone()];
            let opening = (message.marker, message.role);
            let key = (xxhash3_128::Hasher::oneshot(bytemuck::cast_slice(ids)), opening);
            let seen = self.cuts.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            let cut = seen.unwrap_or_else(|| {
                let cut = Arc::new(self.section.cut(tokenizer, ids, opening));
                let mut cuts = self.cuts.write().unwrap_or_else(PoisonError::into_inner);
                if cuts.len() >= REMEMBERED {
                    cuts.clear();
                }
                cuts.insert(key, Arc::clone(&cut));
                cut
            });
            if *cut != Cut::Absent {
                held.push((message.ids.start, cut));
            }
        }
        held
    }
}

/// The tokenizer, without which a policy about text can do nothing.
pub(super) fn needed<'t>(tokenizer: Option<&'t Tokenizer>, option: &str) -> Result<&'t Tokenizer> {
    tokenizer.ok_or_else(|| {
        Error::usage(format!("{option} needs a tokenizer"), "name the folder of the model with --tokenizer DIR")
    })
}

/// Fails a run whose section stood in no prompt.
pub(super) fn judge_counts(counts: &Counts) -> Result<()> {
    match &counts.section {
        Some(section) if section.calls_with == 0 && section.calls_without > 0 => Err(Error::check(
            format!("--drop-section: the text occurs in no prompt of {} calls", section.calls_without),
            "it must stand in the prompts word for word, line ends included; print one with `tito show --tokenizer DIR`",
        )),
        _ => Ok(()),
    }
}
