//! Which calls the rows of a run are of: a note a call of 48 bytes, by which a second reading of the captures knows it
//! again.

use super::build::Planned;
use super::options::Rows;
use super::output::Output;
use super::survey::Side;
use super::{
    Options, Plan, Progress, Ran, Sighted, Taker, Watch, judge, judge_number, read_twice, run, same_files, sources_of,
    survey, workers,
};
use crate::capture::{Sources, Who};
use crate::error::{Error, Result};
use crate::rows::{Batch, RowMeta};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use twox_hash::xxhash3_128;

/// A call that gave a row.
#[derive(Debug, Clone, Copy)]
pub struct UsedCall {
    key: u128,
    /// Where it stands in the order of rows, among the calls of its rollout.
    order: (u32, u32),
    /// Which rollout of the input it is of.
    pub rollout: u32,
    /// Turn as the rollout numbers it.
    pub turn: Option<i32>,
    /// No used call of the rollout has a later turn, or stands behind it in the same one.
    pub last: bool,
    met: bool,
}

/// The calls that gave rows.
#[derive(Debug, Default)]
pub struct Used {
    calls: Vec<UsedCall>,
    /// What is known of named rollouts; of an unnamed one its record says all.
    who: HashMap<u32, Who>,
}

/// What a run that writes no rows leaves for a second reading.
#[derive(Debug)]
pub struct Found {
    /// The calls.
    pub used: Used,
    /// The report of the run.
    pub report: Value,
    /// Files as they were read.
    pub before: Sources,
    /// The same files, to be read again.
    pub again: Sources,
}

/// Runs a conversion that writes nothing, and notes the calls that its rows would be of. Rows are those of one call;
/// where the options name an output, it is only kept from being an input.
///
/// # Errors
/// What [`super::convert`] returns, and `Usage` for input that can be read only once.
pub fn used(options: Options, progress: &Progress) -> Result<Found> {
    let mut plan = Plan::new(Options { rows: Rows::Turn, ..options })?;
    let workers = workers(&plan.options)?;
    let sources = sources_of(&plan.options, progress)?;
    if let Some(output) = plan.options.output.as_deref().filter(|path| sources.holds_captures(Path::new(path))) {
        let message = format!("{output} is an input and would be written over");
        return Err(Error::usage(message, "write to another name"));
    }
    read_twice("an export of messages", &sources)?;
    let again = sources_of(&plan.options, progress)?;
    let surveyed = survey(&mut plan, progress, workers, &sources, judge)?;
    progress.total.fetch_add(sources.total_bytes(), Ordering::Relaxed);
    let noting = Noting::default();
    let Ran { counts, sources, .. } = run(&plan, progress, workers, sources, Taker::Watch(&noting))?;
    judge(&plan, &counts, sources.files().0.len())?;
    judge_number(&plan, &counts)?;
    if let Some(before) = &surveyed {
        same_files(before, &sources)?;
    }
    let quiet = Options { output: None, ..plan.options.clone() };
    let report = Output::new(&quiet)?.finish(&plan, &counts, &sources)?;
    Ok(Found { used: noting.settle(), report, before: sources, again })
}

impl Found {
    /// Makes sure that both readings saw the same.
    ///
    /// # Errors
    /// `Data` for files that changed in between.
    pub fn finish(&self) -> Result<()> {
        same_files(&self.before, &self.again)
    }
}

impl Used {
    /// Finds a call by its place and its ids; one that stands several times in a record is found as often as it was
    /// used.
    pub fn meet(&mut self, file: &str, record: u64, hash: &[u8; 16], call_id: Option<&str>) -> Option<UsedCall> {
        let key = key(file, record as i64, hash, call_id);
        let first = self.calls.partition_point(|call| call.key < key);
        let found = self.calls[first..].iter_mut().take_while(|call| call.key == key).find(|call| !call.met)?;
        found.met = true;
        Some(*found)
    }

    /// What the whole run told of a rollout; none for one that has no name.
    #[must_use]
    pub fn who(&self, rollout: u32) -> Option<&Who> {
        self.who.get(&rollout)
    }
}

fn key(file: &str, record: i64, hash: &[u8; 16], call_id: Option<&str>) -> u128 {
    let mut hasher = xxhash3_128::Hasher::new();
    hasher.write(hash);
    hasher.write(&record.to_le_bytes());
    hasher.write(&(file.len() as u64).to_le_bytes());
    hasher.write(file.as_bytes());
    hasher.write(call_id.unwrap_or_default().as_bytes());
    hasher.finish_128()
}

#[derive(Debug, Default)]
struct Noting(Mutex<Used>);

impl Noting {
    fn settle(self) -> Used {
        let mut used = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        used.calls.sort_unstable_by_key(|call| (call.rollout, call.turn, call.order));
        for at in 0..used.calls.len() {
            let next = used.calls.get(at + 1).map(|call| call.rollout);
            used.calls[at].last = next != Some(used.calls[at].rollout);
        }
        // Stable: of calls that cannot be told apart the one that came first is met first.
        used.calls.sort_by_key(|call| call.key);
        used
    }
}

impl Watch for Noting {
    fn saw(&self, _: &Sighted<'_>) {}

    fn planned(&self, stretch: u64, rows: &[Planned]) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.copies > 0) {
            let meta = &row.meta;
            used.calls.push(UsedCall {
                key: key(&meta.capture_file, meta.capture_record, &meta.capture_hash, meta.call_id.as_deref()),
                order: (stretch as u32, at as u32),
                rollout: row.rollout,
                turn: meta.turn,
                last: false,
                met: false,
            });
            if meta.rollout_id.is_some() {
                used.who.entry(row.rollout).or_insert_with(|| who(meta));
            }
        }
    }

    fn made(&self, _: &Batch, _: Side) -> Result<()> {
        Ok(())
    }
}

fn who(meta: &RowMeta) -> Who {
    Who {
        rollout_id: meta.rollout_id.clone(),
        task_id: meta.task_id.clone(),
        pair_id: meta.pair_id.clone(),
        agent: meta.agent.clone(),
        status: meta.status.clone(),
        attempt: meta.attempt,
        reward: meta.reward,
        source: Some(meta.source.clone()),
        ..Who::default()
    }
}
