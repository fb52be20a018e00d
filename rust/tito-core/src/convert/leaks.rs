//! `--leak-scan`: rows that still say what was to leave the prompts.
//!
//! Every id of a row is read, prompt, thinking and answer. A row is read turn by turn, and a turn that was found clean is
//! remembered by its hash: what calls of a rollout share is decoded once. No run of words goes over a turn's marker,
//! whose own words stand in between.

use super::Plan;
use super::batch::Ids;
use super::build::Planned;
use super::decide::Refusal;
use super::identity::Known;
use super::options::{Leaks, Options};
use super::report::Counts;
use super::section::needed;
use crate::capture::Skip;
use crate::error::{Error, Result};
use crate::ids::Id;
use crate::ids::think::cut_into;
use crate::tokens::Tokenizer;
use crate::tokens::escapes::unescaped;
use crate::tokens::ngrams::{Hit, Ngrams};
use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};
use twox_hash::xxhash3_128;

/// Clean turns remembered at a time: some megabytes.
const REMEMBERED: usize = 1 << 17;
/// How often a quote may be quoted.
const QUOTED: usize = 3;

/// What a run looks for, and the turns found clean so far.
#[derive(Debug)]
pub struct LeakScan {
    grams: Ngrams,
    clean: RwLock<HashSet<u128>>,
}

impl LeakScan {
    /// # Errors
    /// `Usage` when there is nothing to look for or no tokenizer to do it with.
    pub(super) fn new(options: &Options, tokenizer: Option<&Tokenizer>) -> Result<Option<Self>> {
        let Some(text) = &options.leak_scan else { return Ok(None) };
        needed(tokenizer, "--leak-scan")?;
        if options.leak_ngram == 0 {
            return Err(Error::usage("--leak-ngram 0: a run has words", "leave it out for 8"));
        }
        let ignored = options.leak_ignore.as_deref();
        let Some(grams) = Ngrams::new(text, options.leak_ngram, ignored.unwrap_or_default()) else {
            return Err(match ignored {
                Some(_) => Error::usage(
                    "--leak-ignore: that text holds every run of words of --leak-scan",
                    "name the default prompt, which does not hold the section",
                ),
                None => Error::usage(
                    "--leak-scan: the text has no words",
                    "name a file that holds the section as the prompts had it",
                ),
            });
        };
        Ok(Some(Self { grams, clean: RwLock::default() }))
    }

    /// The first run of words in a row: the position of its first id, and the words.
    fn find(
        &self,
        tokenizer: &Tokenizer,
        known: Option<&Known>,
        prompt: &[Id],
        output: &[Id],
    ) -> Option<(usize, String)> {
        let mut starts = known.map(|known| known.rule.turn_starts(prompt)).unwrap_or_default();
        starts.insert(0, 0);
        let mut text = Vec::new();
        for (at, start) in starts.iter().enumerate() {
            let found = match starts.get(at + 1) {
                Some(end) => self.find_in(tokenizer, &prompt[*start..*end], &mut text),
                // The output goes on with the turn that the prompt opens.
                None => self.find_in(tokenizer, &[&prompt[*start..], output].concat(), &mut text),
            };
            if let Some((at, words)) = found {
                return Some((start + at, words));
            }
        }
        None
    }

    fn find_in(&self, tokenizer: &Tokenizer, turn: &[Id], text: &mut Vec<u8>) -> Option<(usize, String)> {
        let key = xxhash3_128::Hasher::oneshot(bytemuck::cast_slice(turn));
        if self.clean.read().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return None;
        }
        text.clear();
        tokenizer.decode_into(text, turn);
        let Some(hit) = self.find_in_text(text) else {
            let mut clean = self.clean.write().unwrap_or_else(PoisonError::into_inner);
            if clean.len() >= REMEMBERED {
                clean.clear();
            }
            clean.insert(key);
            return None;
        };
        let mut end = 0;
        let holds = |id: &Id| {
            end += tokenizer.bytes_of(*id).len();
            end > hit.at
        };
        Some((turn.iter().position(holds).unwrap_or(0), hit.words))
    }

    /// The first run in a text, or in what it stands for where it is quoted in JSON (in JSON, and so on).
    fn find_in_text(&self, text: &[u8]) -> Option<Hit> {
        if let Some(hit) = self.grams.find(text) {
            return Some(hit);
        }
        let (mut text, mut from) = unescaped(text)?;
        for _ in 0..QUOTED {
            if let Some(hit) = self.grams.find(&text) {
                return Some(Hit { at: from.get(hit.at).map_or(0, |at| *at as usize), ..hit });
            }
            let (inner, places) = unescaped(&text)?;
            from = places.iter().map(|place| from.get(*place as usize).copied().unwrap_or_default()).collect();
            text = inner;
        }
        None
    }
}

impl Plan {
    /// Why a row that is made must not be written.
    pub(super) fn leak(&self, row: &Planned, arena: Ids<'_>) -> Option<(u64, String)> {
        let (scan, tokenizer) = (self.leaks.as_ref()?, self.tokenizer.as_ref()?);
        let known = row.identity.map(|index| self.identities.get(index));
        let mut output = Vec::new();
        let [prompt, rest] = row.prompt.ids(arena);
        output.extend_from_slice(rest);
        cut_into(&mut output, &arena.outputs[row.output.clone()], &row.cut);
        let (at, words) = scan.find(tokenizer, known, prompt, &output)?;
        let n = words.split(' ').count();
        Some((at as u64, format!("the row holds {n} words of the removed text: {words:?}")))
    }
}

/// A row that leaves takes its call with it.
pub(super) fn refusal((at, message): (u64, String)) -> Refusal {
    Refusal::at(Skip::Leaked, at, message)
}

/// Fails a run whose rows hold the removed text, unless they were to leave.
pub(super) fn judge_counts(options: &Options, counts: &Counts) -> Result<()> {
    let first = counts.examples.get(&Skip::Leaked).and_then(|list| list.first());
    match (counts.skipped.get(&Skip::Leaked), first) {
        (Some(n), Some(example)) if options.leaks == Leaks::Error => Err(Error::data(
            example.place.clone(),
            format!("{} (calls in such rows: {n})", example.message),
            "cut it from prompts with --drop-section, or leave such rows out with --leaks drop",
        )),
        _ => Ok(()),
    }
}
