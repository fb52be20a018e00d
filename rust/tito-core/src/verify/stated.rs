//! What rows files state, as one digest a row, and the rows that captures give striking it out.

use super::account::Account;
use super::names::Names;
use crate::convert::{Counts, Options, Progress, Side, Sighted, Watch};
use crate::error::{Error, Place, Result};
use crate::ids::Profile;
use crate::rows::schema::VERSION;
use crate::rows::{Batch, OptionalColumns, Reader, Text, compare, told};
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
    // A manifest is for people too, and holds more than the file's keys.
    if told.contains_key("tito.checksum") && !told::is_sealed(told) {
        return wrong(
            "what the file says of itself (tito.*) was changed after it was written".to_owned(),
            "convert again, or take the file from where it was written",
        );
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

/// A row of a rows file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    digest: u128,
    row: u32,
    /// The capture's name as the row states it.
    name: u32,
    /// The file whose row struck this one out, counted from 1.
    read: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stated<'n> {
    names: &'n Names,
    optional: OptionalColumns,
    /// First row of each file, and the end of the last.
    starts: Vec<u64>,
    sides: Vec<Option<String>>,
    capture_names: Vec<Text>,
    struck: Mutex<Struck>,
}

#[derive(Debug, Default)]
struct Struck {
    /// By digest.
    entries: Vec<Entry>,
    read: Vec<Text>,
    by_name: HashMap<Text, u32>,
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
        let (mut capture_names, mut by_name) = (Vec::new(), HashMap::<Text, u32>::new());
        for (file, reader) in group.readers() {
            let mut reader = reader?;
            let first = starts[file];
            while let Some(batch) = reader.next_batch()? {
                if progress.cancelled.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                for (row, meta) in batch.meta.iter().enumerate() {
                    let name = *by_name.entry(meta.capture_file.clone()).or_insert_with(|| {
                        capture_names.push(meta.capture_file.clone());
                        capture_names.len() as u32 - 1
                    });
                    let row_number = u32::try_from(entries.len()).map_err(|_| {
                        Error::usage("more than 4,294,967,295 rows at once", "verify some of the files at a time")
                    })?;
                    let digest = compare::digest(&batch, row, group.optional);
                    entries.push(Entry { digest, row: row_number, name, read: 0 });
                }
            }
            starts.push(first + reader.rows());
        }
        entries.sort_unstable_by_key(|entry| (entry.digest, entry.row));
        let struck = Mutex::new(Struck { entries, ..Struck::default() });
        let (optional, sides) = (group.optional, group.sides.clone());
        Ok(Self { names, optional, starts, sides, capture_names, struck })
    }

    /// Enters what was found in the account; gives the numbers of the rows that are left, in order, with those whose
    /// capture goes by another name in the rest of their file.
    pub(super) fn settle(self, group: &Group, account: &mut Account, counts: &Counts) -> Vec<(u64, Option<String>)> {
        let struck = self.struck.into_inner().unwrap_or_else(PoisonError::into_inner);
        let file_of = |row: u32| file_of(&self.starts, row);
        // One run gives a file one name. Where rows of one file disagree, the name that was read or most rows state counts.
        let mut stated: HashMap<(usize, u32), BTreeMap<u32, u64>> = HashMap::new();
        for entry in struck.entries.iter().filter(|entry| entry.read > 0) {
            *stated.entry((file_of(entry.row), entry.read)).or_default().entry(entry.name).or_default() += 1;
        }
        let mut right: HashMap<(usize, u32), u32> = HashMap::new();
        for ((file, read), names) in stated {
            let as_read = |name: &u32| *self.capture_names[*name as usize] == *struck.read[read as usize - 1];
            let best = names.keys().copied().find(as_read);
            let most =
                names.iter().max_by_key(|(name, rows)| (**rows, std::cmp::Reverse(**name))).map(|(name, _)| *name);
            let Some(best) = best.or(most) else { continue };
            if !as_read(&best) {
                account.moved(&self.capture_names[best as usize], &struck.read[read as usize - 1]);
            }
            right.insert((file, read), best);
        }
        let mut left = Vec::new();
        let mut verified = vec![0; group.files.len()];
        for entry in &struck.entries {
            let file = file_of(entry.row);
            match right.get(&(file, entry.read)) {
                Some(name) if *name == entry.name => verified[file] += 1,
                Some(name) => left.push((u64::from(entry.row), Some(self.capture_names[*name as usize].to_string()))),
                None => left.push((u64::from(entry.row), None)),
            }
        }
        left.sort_unstable();
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
        let Struck { entries, read, by_name, not_here } = &mut *struck;
        for (meta, digest) in rows.meta.iter().zip(digests) {
            let file = *by_name.entry(meta.capture_file.clone()).or_insert_with(|| {
                read.push(meta.capture_file.clone());
                read.len() as u32
            });
            let first = entries.partition_point(|entry| entry.digest < digest);
            let same = entries[first..].iter_mut().take_while(|entry| entry.digest == digest);
            let mut open = same.filter(|entry| entry.read == 0);
            let named = |entry: &&mut Entry| {
                let here = self.sides[file_of(&self.starts, entry.row)].as_deref();
                here.is_none_or(|here| here == side.name())
                    && self.names.mean_one(&self.capture_names[entry.name as usize], &meta.capture_file)
            };
            match open.find(named) {
                Some(entry) => entry.read = file,
                None => *not_here += 1,
            }
        }
        Ok(())
    }
}
