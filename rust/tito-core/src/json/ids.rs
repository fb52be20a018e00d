//! Lists of ids, parsed only where they are new.
//!
//! 97 % of a prompt's text stands in an earlier prompt of its rollout, so a list is first compared as bytes with the
//! recent ones (7 GB/s against 1 GB/s for parsing digits), their ids are copied up to the last comma of the common
//! text, and only the rest is parsed. Equal text has equal ids, so this is exact whatever the lists hold.

use super::cursor::{Cursor, Fault};
use super::recent::Recent;
use crate::ids::Id;
use memchr::{memchr_iter, memrchr};
use std::ops::Range;

/// A mark (byte offset of an id) is kept every so many ids, to find how many ids a common text holds.
const MARK_EVERY: usize = 512;

/// A list of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdList {
    /// Range in [`IdReader::values`].
    pub ids: Range<usize>,
    /// The largest id, or a little more (ids of the earlier list that were not shared count).
    pub max: Id,
}

/// An entry that is no id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdFault {
    /// Index in the list.
    pub index: usize,
    /// The entry as it is written, cut to 24 bytes.
    pub entry: String,
    /// Why it is no id.
    pub why: &'static str,
}

/// What is known of a list that was read.
#[derive(Debug)]
struct Known {
    ids: Ids,
    marks: Vec<u32>,
    max: Id,
}

#[derive(Debug)]
enum Ids {
    /// In [`IdReader::values`].
    Read(Range<usize>),
    /// Read by a reader before.
    Kept(Vec<Id>),
}

impl Known {
    /// Bytes of the ids.
    fn size(&self) -> usize {
        let ids = match &self.ids {
            Ids::Read(range) => range.len(),
            Ids::Kept(ids) => ids.len(),
        };
        size_of::<Id>() * ids
    }
}

/// Lists that a reader leaves to the next one, to compare with.
#[derive(Debug, Default)]
pub struct KeptIds(Recent<'static, Known>);

/// Reads lists of ids into one buffer.
#[derive(Default)]
pub struct IdReader<'a> {
    /// All ids read so far.
    pub values: Vec<Id>,
    recent: Recent<'a, Known>,
    alone: bool,
}

impl std::fmt::Debug for IdReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IdReader({} ids)", self.values.len())
    }
}

/// A list, no list (missing), or a list with an entry that is no id; the cursor stands behind the value in each case.
pub type Read = std::result::Result<Option<IdList>, IdFault>;

impl<'a> IdReader<'a> {
    /// A reader that writes into an empty buffer.
    #[must_use]
    pub fn new(mut buffer: Vec<Id>) -> Self {
        buffer.clear();
        Self { values: buffer, ..Self::default() }
    }

    /// The same, and lists are compared with some of an earlier reader's too.
    #[must_use]
    pub fn going_on(buffer: Vec<Id>, kept: KeptIds) -> Self {
        Self { recent: kept.0, ..Self::new(buffer) }
    }

    /// The last lists, as many as `bytes` hold, for a reader of other text.
    pub fn keep(&mut self, bytes: usize) -> KeptIds {
        let values = &self.values;
        let kept = |known: Known| match known.ids {
            Ids::Read(range) => Known { ids: Ids::Kept(values[range].to_vec()), ..known },
            Ids::Kept(_) => known,
        };
        KeptIds(self.recent.keep(bytes, Known::size, kept))
    }

    /// A reader that parses every list in full: what reuse is checked against, and measured against.
    #[must_use]
    pub fn alone() -> Self {
        Self { alone: true, ..Self::default() }
    }

    /// Reads a list that is like nothing before.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<Read, Fault> {
        if cursor.peek() != Some(b'[') {
            return self.no_list(cursor);
        }
        let (start, at) = (self.values.len(), cursor.pos());
        let mut max = -1;
        let read = self.parse_entries(cursor, at, start, None, &mut max)?;
        Ok(read.map(|()| Some(IdList { ids: start..self.values.len(), max })))
    }

    /// Reads a list that probably starts like a recent one, and remembers it.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn read_like_before(&mut self, cursor: &mut Cursor<'a>) -> Result<Read, Fault> {
        if self.alone || cursor.peek() != Some(b'[') {
            return self.read(cursor);
        }
        let (start, at, text) = (self.values.len(), cursor.pos(), cursor.text());
        let rest = &text[at..];
        let nearest = self.recent.nearest(rest, |_| true);
        let mut marks = Vec::new();
        let (mut max, mut resumed) = (-1, false);
        if let Some(nearest) = nearest
            && let Some(comma) = memrchr(b',', &rest[..nearest.common])
        {
            let recent = self.recent.known(nearest);
            let marked = recent.marks.partition_point(|m| (*m as usize) <= comma);
            let from = marked.checked_sub(1).map_or((1, 0), |m| (recent.marks[m] as usize, m * MARK_EVERY));
            let count = from.1 + memchr_iter(b',', &rest[from.0..=comma]).count();
            marks.extend_from_slice(&recent.marks[..marked]);
            match &recent.ids {
                Ids::Read(ids) => self.values.extend_from_within(ids.start..ids.start + count),
                Ids::Kept(ids) => self.values.extend_from_slice(&ids[..count]),
            }
            (max, resumed) = (recent.max, true);
            cursor.set_pos(at + comma + 1);
        }
        match self.parse_entries(cursor, at, start, Some((&mut marks, resumed)), &mut max)? {
            Ok(()) => {
                let ids = start..self.values.len();
                let known = Known { ids: Ids::Read(ids.clone()), marks, max };
                self.recent.remember(&text[at..cursor.pos()], known, nearest);
                Ok(Ok(Some(IdList { ids, max })))
            }
            Err(fault) => Ok(Err(fault)),
        }
    }

    fn no_list(&mut self, cursor: &mut Cursor<'_>) -> Result<Read, Fault> {
        let raw = cursor.raw()?;
        if raw == b"null" { Ok(Ok(None)) } else { Ok(Err(bad_entry(0, raw, "not a list of ids"))) }
    }

    /// Parses entries from the cursor (behind '[' or behind a comma) to the closing bracket. `marks` gets the byte
    /// offset, relative to `at`, of every 512th id.
    fn parse_entries(
        &mut self,
        cursor: &mut Cursor<'_>,
        at: usize,
        start: usize,
        marks: Option<(&mut Vec<u32>, bool)>,
        max: &mut Id,
    ) -> Result<std::result::Result<(), IdFault>, Fault> {
        let text = cursor.text();
        let (mut marks, resumed) = match marks {
            Some((marks, resumed)) => (Some(marks), resumed),
            None => (None, false),
        };
        if !resumed {
            cursor.set_pos(at + 1);
            if cursor.peek() == Some(b']') {
                cursor.set_pos(cursor.pos() + 1);
                return Ok(Ok(()));
            }
        }
        let mut pos = cursor.pos();
        let mut next_mark = start + marks.as_ref().map_or(0, |m| m.len() * MARK_EVERY);
        let mut largest = *max;
        loop {
            while matches!(text.get(pos), Some(b' ' | b'\n' | b'\r' | b'\t')) {
                pos += 1;
            }
            if self.values.len() == next_mark
                && let Some(marks) = marks.as_deref_mut()
            {
                // A list of over 4 GiB of text has no marks behind that point; it is then parsed anew.
                if let Ok(offset) = u32::try_from(pos - at) {
                    marks.push(offset);
                    next_mark += MARK_EVERY;
                }
            }
            let first = pos;
            let mut value: u64 = 0;
            // Ten digits hold every int32; an eleventh leaves the loop and is refused below.
            while let Some(digit) = text.get(pos).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10)
                && pos - first < 11
            {
                value = value * 10 + u64::from(digit);
                pos += 1;
            }
            let digits = pos - first;
            let mut end = pos;
            while matches!(text.get(end), Some(b' ' | b'\n' | b'\r' | b'\t')) {
                end += 1;
            }
            let leading_zero = digits > 1 && text[first] == b'0';
            let closing = text.get(end).copied();
            if digits == 0 || leading_zero || value > Id::MAX as u64 || !matches!(closing, Some(b',' | b']')) {
                cursor.set_pos(first);
                let index = self.values.len() - start;
                self.values.truncate(start);
                return self.refuse(cursor, index);
            }
            let id = value as Id;
            self.values.push(id);
            largest = largest.max(id);
            pos = end + 1;
            if closing == Some(b']') {
                cursor.set_pos(pos);
                *max = largest;
                return Ok(Ok(()));
            }
        }
    }

    /// The entry at the cursor is no id: says why and skips the rest of the list.
    fn refuse(&mut self, cursor: &mut Cursor<'_>, index: usize) -> Result<std::result::Result<(), IdFault>, Fault> {
        let raw = cursor.raw()?;
        let why = match raw.first() {
            Some(b'"') => "a string",
            Some(b'[' | b'{') => "a list or an object",
            Some(b'-') if raw[1..].iter().all(u8::is_ascii_digit) => "negative",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ if raw.iter().all(u8::is_ascii_digit) => "2^31 or more",
            _ => "not a whole number",
        };
        let fault = bad_entry(index, raw, why);
        loop {
            match cursor.peek() {
                Some(b',') => {
                    cursor.set_pos(cursor.pos() + 1);
                    cursor.skip()?;
                }
                Some(b']') => {
                    cursor.set_pos(cursor.pos() + 1);
                    return Ok(Err(fault));
                }
                _ => return cursor.fault("expected ',' or ']' in a list"),
            }
        }
    }
}

fn bad_entry(index: usize, raw: &[u8], why: &'static str) -> IdFault {
    IdFault { index, entry: String::from_utf8_lossy(&raw[..raw.len().min(24)]).into_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fresh(text: &str) -> Read {
        IdReader::default().read(&mut Cursor::new(text.as_bytes())).unwrap()
    }

    #[test]
    fn entries_that_are_no_ids_are_named() {
        for (text, index, entry, why) in [
            ("[1, -5, 3]", 1, "-5", "negative"),
            ("[1,2147483648]", 1, "2147483648", "2^31 or more"),
            ("[99999999999999999999999999]", 0, "999999999999999999999999", "2^31 or more"),
            ("[1.0]", 0, "1.0", "not a whole number"),
            ("[1e3]", 0, "1e3", "not a whole number"),
            ("[\"7\"]", 0, "\"7\"", "a string"),
            ("[true]", 0, "true", "a boolean"),
            ("[1,null]", 1, "null", "null"),
            ("[[1]]", 0, "[1]", "a list or an object"),
            ("\"[1]\"", 0, "\"[1]\"", "not a list of ids"),
        ] {
            let fault = fresh(text).unwrap_err();
            assert_eq!((fault.index, fault.entry.as_str(), fault.why), (index, entry, why), "{text}");
        }
    }

    #[test]
    fn leading_zeros_and_torn_lists_are_faults_of_the_json() {
        for text in ["[01]", "[1,]", "[1", "[1 2]", "[,1]"] {
            assert!(IdReader::default().read(&mut Cursor::new(text.as_bytes())).is_err(), "{text}");
        }
    }

    fn write(ids: &[Id], spacing: usize) -> String {
        let separator = [",", ", ", ",\n      "][spacing];
        format!("[{}]", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator))
    }

    proptest! {
        #[test]
        fn lists_read_with_reuse_are_the_lists_read_alone(
            seeds in prop::collection::vec((0usize..6, 0usize..3000, prop::collection::vec(0..300_000i32, 0..40)), 1..40),
            spacing in 0usize..3,
            break_at in 0usize..40,
            keep in 0usize..30_000,
        ) {
            // Each list is a cut of an earlier one with something new behind it: what prompts of a rollout look like.
            let mut lists: Vec<Vec<Id>> = Vec::new();
            for (back, cut, new) in seeds {
                let mut ids = lists.len().checked_sub(1 + back).map_or(Vec::new(), |i| lists[i].clone());
                ids.truncate(cut);
                ids.extend(new);
                lists.push(ids);
            }
            let text = lists.iter().map(|l| write(l, spacing)).collect::<Vec<_>>().join(" ");
            let mut cursor = Cursor::new(text.as_bytes());
            let mut reader = IdReader::default();
            for (at, list) in lists.iter().enumerate() {
                if at == break_at {
                    let kept = reader.keep(keep);
                    prop_assert!(kept.0.bytes(Known::size) <= keep);
                    reader = IdReader::going_on(std::mem::take(&mut reader.values), kept);
                }
                let read = reader.read_like_before(&mut cursor).unwrap().unwrap().unwrap();
                prop_assert_eq!(&reader.values[read.ids.clone()], &list[..]);
                prop_assert!(list.iter().all(|id| *id <= read.max));
            }
        }
    }
}
