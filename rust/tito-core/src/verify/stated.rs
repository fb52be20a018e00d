//! What rows files state, as one digest a row, and the rows that captures give striking it out.

use super::account::Account;
use super::names::{Names, together};
use crate::convert::{Counts, Options, Progress, Side, Sighted, Watch};
use crate::error::{Error, Place, Result};
use crate::ids::Profile;
use crate::rows::schema::VERSION;
use crate::rows::{Batch, OptionalColumns, Reader, RowMeta, Text, compare, told};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files of rows that one run made, or runs that were asked for the same.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) files: Vec<String>,
    pub(super) told: BTreeMap<String, String>,
    pub(super) optional: OptionalColumns,
    /// By file, where a run has two.
    pub(super) sides: Vec<Option<String>>,
}

impl Group {
    /// The options of the run.
    pub(super) fn options(&self) -> Result<Options> {
        let stored = |key: &str| self.told.get(key).map_or("", String::as_str);
        let mut options = Options::stored(stored("tito.policies"), stored("tito.given")).map_err(|error| {
            Error::data(Place::file(&self.files[0]), error.to_string(), format!("{}; use that version", self.maker()))
        })?;
        (options.output, options.expect_rows, options.shard_bytes) = (None, None, None);
        Ok(options)
    }

    fn maker(&self) -> String {
        format!("the rows were made by tito {}", self.told.get("tito.version").map_or("?", String::as_str))
    }

    /// Rows by number: the file, and the number in it.
    pub(super) fn readers(&self) -> impl Iterator<Item = (usize, Result<Reader>)> {
        self.files.iter().map(|file| Reader::open(Path::new(file))).enumerate()
    }
}

/// Opens files of rows, and puts those together that one re-run serves.
pub(super) fn group(files: &[String]) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for file in files {
        let reader = Reader::open(Path::new(file))?;
        let (told, optional) = (reader.metadata(), reader.optional());
        check(file, told, optional)?;
        only_ours(file, &reader)?;
        let same = |group: &&mut Group| {
            let key = |key: &str| group.told.get(key) == told.get(key);
            key("tito.policies") && key("tito.given") && key("tito.version") && group.optional == optional
        };
        match groups.iter_mut().find(same) {
            Some(group) => {
                group.files.push(file.clone());
                group.sides.push(told.get("tito.side").cloned());
            }
            None => groups.push(Group {
                files: vec![file.clone()],
                told: told.clone(),
                optional,
                sides: vec![told.get("tito.side").cloned()],
            }),
        }
    }
    Ok(groups)
}

/// Refuses a file that does not say how it was made, or whose account of itself was changed.
fn check(file: &str, told: &BTreeMap<String, String>, optional: OptionalColumns) -> Result<()> {
    let wrong = |message: String, hint: &str| Err(Error::data(Place::file(file), message, hint));
    let (Some(version), Some(_)) = (told.get("tito.schema_version"), told.get("tito.policies")) else {
        return wrong(
            "nothing says how these rows were made".to_owned(),
            "verify files that `tito convert` wrote; JSON lines need their manifest beside them",
        );
    };
    if *version != VERSION.to_string() {
        return wrong(format!("row schema {version}; this tito knows {VERSION}"), "use the tito that wrote the file");
    }
    if !told.contains_key("tito.given") {
        return wrong(
            "the file does not say which profile its run was given".to_owned(),
            "it is of an older tito: convert again",
        );
    }
    if !told::is_sealed(told) {
        let what = if told.contains_key("tito.checksum") {
            "what the file says of itself (tito.*) was changed after it was written"
        } else {
            "what the file says of itself (tito.*) has no checksum: nobody can tell whether it was changed"
        };
        return wrong(what.to_owned(), "convert again, or take the file from where it was written");
    }
    let stored =
        told.get("tito.profile_json").filter(|_| told.get("tito.profile_source").is_some_and(|s| s == "found"));
    if let Some(stored) = stored {
        let profile: Profile = serde_json::from_str(stored)
            .map_err(|e| Error::data(Place::file(file), format!("profile: {e}"), "convert again"))?;
        if Profile::built_in(&profile.name).map_or(true, |built_in| built_in != profile) {
            return wrong(
                format!("its profile {:?} is not the built-in one of this tito", profile.name),
                "use the tito that wrote the file",
            );
        }
    }
    let asked = Options::stored(&told["tito.policies"], "{}").map(|options| options.write_options().optional);
    if asked.is_ok_and(|asked| asked != optional) {
        return wrong(
            "the columns on request are not those that its policies name".to_owned(),
            "verify the file as it was written: no column may be left out or added",
        );
    }
    Ok(())
}

/// Refuses a column beside those of the schema: nothing that was captured says what it should hold.
fn only_ours(file: &str, reader: &Reader) -> Result<()> {
    match reader.others().first() {
        None => Ok(()),
        Some(name) => Err(Error::data(
            Place::file(file),
            format!("column {name} is none that `tito convert` writes"),
            "verify the file as it was written: no column may be left out or added",
        )),
    }
}

/// A row of a rows file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    digest: u128,
    row: u32,
    /// The captures' names as the row states them.
    names: u32,
    /// Those of the row that struck this one out, counted from 1.
    read: u32,
}

/// The names that rows state, each list of them once and by number.
#[derive(Debug, Default)]
struct Known {
    lists: Vec<Vec<Text>>,
    numbers: HashMap<Vec<Text>, u32>,
}

impl Known {
    fn number(&mut self, meta: &RowMeta) -> u32 {
        let list: Vec<Text> = compare::files(meta).cloned().collect();
        match self.numbers.get(&list) {
            Some(number) => *number,
            None => {
                let number = self.lists.len() as u32;
                self.lists.push(list.clone());
                self.numbers.insert(list, number);
                number
            }
        }
    }

    fn list(&self, number: u32) -> &[Text] {
        &self.lists[number as usize]
    }
}

/// A name that is another in the rest of its file: of `capture_file`, or of that call's file.
#[derive(Debug)]
pub(super) struct OtherName {
    pub(super) call: Option<usize>,
    pub(super) name: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stated<'n> {
    names: &'n Names,
    optional: OptionalColumns,
    /// First row of each file, and the end of the last.
    starts: Vec<u64>,
    sides: Vec<Option<String>>,
    stated: Known,
    struck: Mutex<Struck>,
}

#[derive(Debug, Default)]
struct Struck {
    /// By digest.
    entries: Vec<Entry>,
    read: Known,
    /// Rows that the captures give and no rows file holds.
    not_here: u64,
}

fn file_of(starts: &[u64], row: u32) -> usize {
    starts.partition_point(|start| *start <= u64::from(row)) - 1
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'n> Stated<'n> {
    /// Reads all rows.
    pub(super) fn read(group: &Group, names: &'n Names, progress: &Progress) -> Result<Self> {
        let (mut entries, mut starts) = (Vec::new(), vec![0]);
        let mut stated = Known::default();
        for (file, reader) in group.readers() {
            let mut reader = reader?;
            let first = starts[file];
            while let Some(batch) = reader.next_batch()? {
                if progress.cancelled.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                for (row, meta) in batch.meta.iter().enumerate() {
                    let row_number = u32::try_from(entries.len()).map_err(|_| {
                        Error::usage("more than 4,294,967,295 rows at once", "verify some of the files at a time")
                    })?;
                    let digest = compare::digest(&batch, row, group.optional);
                    entries.push(Entry { digest, row: row_number, names: stated.number(meta), read: 0 });
                }
            }
            only_ours(&group.files[file], &reader)?;
            starts.push(first + reader.rows());
        }
        entries.sort_unstable_by_key(|entry| (entry.digest, entry.row));
        let struck = Mutex::new(Struck { entries, ..Struck::default() });
        let (optional, sides) = (group.optional, group.sides.clone());
        Ok(Self { names, optional, starts, sides, stated, struck })
    }

    /// Enters what was found in the account; gives the numbers of the rows that are left, in order, with those whose
    /// capture goes by another name in the rest of their file.
    pub(super) fn settle(self, group: &Group, account: &mut Account, counts: &Counts) -> Vec<(u64, Option<OtherName>)> {
        let struck = self.struck.into_inner().unwrap_or_else(PoisonError::into_inner);
        let file_of = |row: u32| file_of(&self.starts, row);
        let pairs = |entry: &Entry| together(self.stated.list(entry.names), struck.read.list(entry.read - 1));
        // One run gives a file one name. Where rows of one file disagree, the name that was read or most rows state counts.
        let mut stated: HashMap<(usize, &Text), BTreeMap<&Text, u64>> = HashMap::new();
        for entry in struck.entries.iter().filter(|entry| entry.read > 0) {
            for (name, read) in pairs(entry) {
                *stated.entry((file_of(entry.row), read)).or_default().entry(name).or_default() += 1;
            }
        }
        let mut right: HashMap<(usize, &Text), &Text> = HashMap::new();
        for ((file, read), names) in stated {
            let most =
                names.iter().max_by_key(|(name, rows)| (**rows, std::cmp::Reverse(**name))).map(|(name, _)| *name);
            let Some(best) = names.get_key_value(read).map(|(name, _)| *name).or(most) else { continue };
            if best != read {
                account.moved(best, read);
            }
            right.insert((file, read), best);
        }
        let mut left = Vec::new();
        let mut verified = vec![0; group.files.len()];
        for entry in &struck.entries {
            let file = file_of(entry.row);
            if entry.read == 0 {
                left.push((u64::from(entry.row), None));
                continue;
            }
            let mut wrong = pairs(entry).enumerate().filter_map(|(at, (name, read))| {
                let best = right.get(&(file, read)).filter(|best| **best != name)?;
                Some(OtherName { call: at.checked_sub(1), name: best.to_string() })
            });
            match wrong.next() {
                None => verified[file] += 1,
                other => left.push((u64::from(entry.row), other)),
            }
        }
        left.sort_unstable_by_key(|(row, _)| *row);
        for (file, verified) in verified.into_iter().enumerate() {
            account.file(&group.files[file], self.starts[file + 1] - self.starts[file], verified);
        }
        account.captures(counts, struck.not_here);
        account.made_by(group.told.get("tito.version").map_or("?", String::as_str));
        left
    }
}

impl Watch for Stated<'_> {
    fn saw(&self, _: &Sighted<'_>) {}

    fn made(&self, rows: &Batch, side: Side) -> Result<()> {
        let digests: Vec<u128> = (0..rows.meta.len()).map(|row| compare::digest(rows, row, self.optional)).collect();
        let mut struck = lock(&self.struck);
        let Struck { entries, read, not_here } = &mut *struck;
        for (meta, digest) in rows.meta.iter().zip(digests) {
            let number = read.number(meta);
            let first = entries.partition_point(|entry| entry.digest < digest);
            let same = entries[first..].iter_mut().take_while(|entry| entry.digest == digest);
            let mut open = same.filter(|entry| entry.read == 0);
            let named = |entry: &&mut Entry| {
                let here = self.sides[file_of(&self.starts, entry.row)].as_deref();
                here.is_none_or(|here| here == side.name())
                    && self.names.all_mean_one(self.stated.list(entry.names), read.list(number))
            };
            match open.find(named) {
                Some(entry) => entry.read = number + 1,
                None => *not_here += 1,
            }
        }
        Ok(())
    }
}
