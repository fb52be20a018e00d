//! A second look at rows that no capture gave: is their capture there, does it give a row at all, and what differs.

use super::account::{Account, Failure, Found};
use super::names::{Names, last};
use super::stated::{Group, OtherName};
use crate::convert::{Progress, Side, Sighted, Watch};
use crate::error::{Error, Result};
use crate::rows::compare::{Difference, differences, take};
use crate::rows::{Batch, OptionalColumns, RowMeta};
use std::collections::HashMap;
use std::hash::Hasher as _;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use twox_hash::xxhash3_64;

/// How many rows are looked at; of more than that nobody reads a list.
const LOOKED_AT: usize = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Look<'n> {
    names: &'n Names,
    optional: OptionalColumns,
    left: usize,
    rows: Mutex<Vec<One>>,
    by_key: HashMap<u64, Vec<u32>>,
}

/// A row that is left.
#[derive(Debug)]
struct One {
    file: usize,
    row: u64,
    meta: RowMeta,
    /// The row itself, while few are listed.
    whole: Option<Batch>,
    other_name: Option<OtherName>,
    /// Of its file, where a run has two.
    side: Option<String>,
    call_seen: bool,
    nearest: Option<Vec<Difference>>,
    row_seen: bool,
}

/// The two ways by which a row names its call; a single change leaves one of them.
fn keys(hash: &[u8; 16], file: &str, record: i64, turn: Option<i32>) -> [u64; 2] {
    let mut by_place = xxhash3_64::Hasher::new();
    by_place.write(last(file).as_bytes());
    by_place.write(&record.to_le_bytes());
    by_place.write(&turn.unwrap_or(-1).to_le_bytes());
    let mut by_hash = xxhash3_64::Hasher::new();
    by_hash.write(hash);
    [by_hash.finish(), by_place.finish()]
}

fn keys_of(meta: &RowMeta) -> [u64; 2] {
    keys(&meta.capture_hash, &meta.capture_file, meta.capture_record, meta.turn)
}

impl<'n> Look<'n> {
    /// Reads the rows that are left: what each says of its capture, and the first `list` whole.
    pub(super) fn read(
        group: &Group,
        names: &'n Names,
        left: Vec<(u64, Option<OtherName>)>,
        list: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let count = left.len();
        let mut wanted = left.into_iter().take(LOOKED_AT).peekable();
        let (mut rows, mut by_key) = (Vec::new(), HashMap::<u64, Vec<u32>>::new());
        let mut before = 0;
        for (file, reader) in group.readers() {
            let mut reader = reader?;
            let mut first = 0;
            while let (Some(_), Some(batch)) = (wanted.peek(), reader.next_batch()?) {
                if progress.cancelled.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                let end = before + first + batch.meta.len() as u64;
                while let Some((number, other_name)) = wanted.next_if(|(number, _)| *number < end) {
                    let at = (number - before - first) as usize;
                    let meta = batch.meta[at].clone();
                    for key in keys_of(&meta) {
                        by_key.entry(key).or_default().push(rows.len() as u32);
                    }
                    rows.push(One {
                        file,
                        row: number - before,
                        whole: (rows.len() < list).then(|| take(&batch, at)),
                        meta,
                        other_name,
                        side: group.sides[file].clone(),
                        call_seen: false,
                        nearest: None,
                        row_seen: false,
                    });
                }
                first += batch.meta.len() as u64;
            }
            while wanted.peek().is_some() && reader.next_batch()?.is_some() {}
            before += reader.rows();
        }
        Ok(Self { names, optional: group.optional, left: count, rows: Mutex::new(rows), by_key })
    }

    fn each(&self, keys: [u64; 2], mut found: impl FnMut(&mut One)) {
        for key in keys {
            let Some(numbers) = self.by_key.get(&key) else { continue };
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            numbers.iter().for_each(|number| found(&mut rows[*number as usize]));
        }
    }

    /// Enters what was found in the account.
    pub(super) fn tell(self, group: &Group, account: &mut Account) {
        let rows = self.rows.into_inner().unwrap_or_else(PoisonError::into_inner);
        account.not_looked_at(self.left - rows.len());
        for one in rows {
            let mut differences = one.nearest.unwrap_or_default();
            if let Some(other) = one.other_name {
                differences = vec![other_file(&one.meta, other.call, &other.name)];
            }
            let found = match (one.row_seen, one.call_seen) {
                (true, _) if one.whole.is_some() && differences.is_empty() => Found::TooOften,
                (true, _) => Found::Differs,
                (false, true) => Found::NoRow,
                (false, false) => Found::NoCapture,
            };
            account.failure(Failure {
                file: group.files[one.file].clone(),
                row: one.row,
                found,
                capture_file: one.meta.capture_file.to_string(),
                capture_record: one.meta.capture_record,
                turn: one.meta.turn,
                capture_hash: format!("{:032x}", u128::from_be_bytes(one.meta.capture_hash)),
                differences,
            });
        }
    }
}

/// That a row names another file than the captures do: its own, or a call's.
fn other_file(meta: &RowMeta, call: Option<usize>, derived: &str) -> Difference {
    let of_call = call.and_then(|at| meta.calls.as_deref()?.get(at));
    Difference {
        column: if of_call.is_some() { "calls" } else { "capture_file" },
        position: of_call.and(call),
        field: of_call.map(|_| "file"),
        stated: of_call.map_or(&meta.capture_file, |call| &call.file).to_string().into(),
        derived: derived.into(),
    }
}

impl Watch for Look<'_> {
    fn saw(&self, call: &Sighted<'_>) {
        let record = i64::try_from(call.call.record).unwrap_or_default();
        self.each(keys(&call.digest.hash, call.file, record, call.turn), |one| one.call_seen = true);
    }

    fn made(&self, rows: &Batch, side: Side) -> Result<()> {
        for (at, meta) in rows.meta.iter().enumerate() {
            self.each(keys_of(meta), |one| {
                one.row_seen = true;
                let Some(whole) = &one.whole else { return };
                let mut found = differences((whole, 0), (rows, at), self.optional);
                if !self.names.mean_one(&one.meta.capture_file, &meta.capture_file) {
                    found.push(other_file(&one.meta, None, &meta.capture_file));
                }
                let calls = |meta: &RowMeta| meta.calls.clone().unwrap_or_default();
                let mut files =
                    calls(&one.meta).into_iter().zip(calls(meta)).map(|(a, b)| (a.file, b.file)).enumerate();
                if let Some((at, (_, read))) = files.find(|(_, (stated, read))| !self.names.mean_one(stated, read)) {
                    found.push(other_file(&one.meta, Some(at), &read));
                }
                if let Some(here) = one.side.as_deref().filter(|here| *here != side.name()) {
                    found.push(Difference {
                        column: "side",
                        position: None,
                        field: None,
                        stated: here.into(),
                        derived: side.name().into(),
                    });
                }
                if one.nearest.as_ref().is_none_or(|nearest| found.len() < nearest.len()) {
                    one.nearest = Some(found);
                }
            });
        }
        Ok(())
    }
}
