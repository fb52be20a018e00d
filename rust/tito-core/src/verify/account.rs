//! What a comparison found, as JSON.

use crate::convert::Counts;
use crate::error::Result;
use crate::rows::compare::Difference;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How many moved files are named.
const NAMED: usize = 3;

/// Why a row does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Found {
    /// Its call gives another row.
    Differs,
    /// Its call gives no row under these policies.
    NoRow,
    /// Its call is not in the captures.
    NoCapture,
    /// It stands more often than the captures give it.
    TooOften,
    /// There were too many to look at each.
    NotLookedAt,
}

impl Found {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Differs, "differs"),
        (Self::NoRow, "no_row"),
        (Self::NoCapture, "no_capture"),
        (Self::TooOften, "too_often"),
        (Self::NotLookedAt, "not_looked_at"),
    ];
}

/// A row that does not verify.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    pub(super) file: String,
    /// From 0.
    pub(super) row: u64,
    pub(super) found: Found,
    pub(super) capture_file: String,
    pub(super) capture_record: i64,
    pub(super) turn: Option<i32>,
    pub(super) capture_hash: String,
    pub(super) differences: Vec<Difference>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Account {
    files: Vec<(String, u64, u64)>,
    failed: BTreeMap<Found, u64>,
    failures: Vec<Failure>,
    captures: Vec<Value>,
    moved: (u64, Vec<[String; 2]>),
    made_by: BTreeSet<String>,
}

impl Account {
    pub(super) fn file(&mut self, name: &str, rows: u64, verified: u64) {
        self.files.push((name.to_owned(), rows, verified));
    }

    pub(super) fn moved(&mut self, stated: &str, read: &str) {
        self.moved.0 += 1;
        self.moved.1.push([stated.to_owned(), read.to_owned()]);
        // Sorted, so that the account does not depend on which thread was first.
        self.moved.1.sort_unstable();
        self.moved.1.truncate(NAMED);
    }

    pub(super) fn made_by(&mut self, version: &str) {
        self.made_by.insert(version.to_owned());
    }

    pub(super) fn captures(&mut self, counts: &Counts, not_here: u64) {
        let skipped: BTreeMap<_, _> = counts.skipped.iter().map(|(reason, n)| (reason.name(), n)).collect();
        self.captures.push(json!({
            "calls": counts.calls_seen, "calls_in_rows": counts.calls_used, "skipped": skipped,
            "rows": counts.rows, "rows_not_here": not_here,
        }));
    }

    pub(super) fn not_looked_at(&mut self, rows: usize) {
        if rows > 0 {
            *self.failed.entry(Found::NotLookedAt).or_default() += rows as u64;
        }
    }

    pub(super) fn failure(&mut self, failure: Failure) {
        *self.failed.entry(failure.found).or_default() += 1;
        self.failures.push(failure);
    }

    pub(super) fn finish(mut self, list: usize) -> Result<Value> {
        self.failures.truncate(list);
        let sum = |of: fn(&(String, u64, u64)) -> u64| self.files.iter().map(of).sum::<u64>();
        let files: Vec<_> = self
            .files
            .iter()
            .map(|(f, rows, verified)| json!({"file": f, "rows": rows, "verified": verified}))
            .collect();
        let failed: serde_json::Map<_, _> = Found::ALL
            .iter()
            .filter_map(|(kind, name)| Some(((*name).to_owned(), json!(self.failed.get(kind)?))))
            .collect();
        Ok(json!({
            "rows": sum(|file| file.1), "verified": sum(|file| file.2), "files": files,
            "failed": failed, "failures": self.failures, "captures": self.captures,
            "moved": {"files": self.moved.0, "first": self.moved.1},
            "versions": {"tito": env!("CARGO_PKG_VERSION"), "rows": self.made_by},
        }))
    }
}
