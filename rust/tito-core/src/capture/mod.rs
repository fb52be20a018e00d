//! Captures: from files to calls.
//!
//! [`Sources`] gives stretches of input ([`Unit`]) in order; [`parse`] turns one into calls and may run on any thread.
//! A format is a row of [`FORMATS`]: how a record looks (its keys, never its file name) and the function that reads it.

mod buffer;
mod call;
mod calllog;
mod cooperbench;
mod exchange;
mod files;
pub(crate) mod joined;
mod look;
mod names;
mod native;
mod outcome;
mod response;
mod served;
mod sniff;
mod sources;
mod split;
mod unread;

pub use call::{Bad, Call, Finish, Kept, Line, Lost, Parsed, Piece, Skip, Who, status};
pub use calllog::read_reply;
pub use exchange::{Exchange, Exchanges};
pub use files::Called;
pub use names::by_name;
pub use outcome::{Outcome, ReplyFate};
pub use served::Served;
pub use sniff::{FORMATS, Format};
pub use sources::{InputFile, Sources, Unit, content_hash, format_of};
pub use split::split;
pub use unread::Unread;

use crate::error::Place;
use crate::json::{Cursor, Fault};
use crate::rows::Text;
use look::Shape;
use sources::Chunk;

/// Where records come from: one file.
#[derive(Debug)]
pub struct Origin {
    /// File as the user named it.
    pub file: Text,
    /// The folder it lies in.
    pub folder: Text,
    /// The file is one document, not a line per record.
    pub document: bool,
    /// Reward that a file beside it tells (CooperBench's `eval.json`).
    pub reward: Option<f32>,
    /// Format of its records.
    pub format: &'static Format,
}

/// One record of a file.
#[derive(Debug)]
pub struct Record<'o> {
    /// The file.
    pub origin: &'o Origin,
    /// Which one, from 1: the line, or the item of a list that is the whole file.
    pub number: u64,
    /// Item of a list that stands on a line.
    pub item: u32,
}

impl Record<'_> {
    /// A call of this record, of which nothing else is known yet.
    fn call(&self) -> Call {
        Call { record: self.number, reply: self.item, ..Call::default() }
    }

    /// Where it stands.
    fn place(&self) -> Place {
        Place::record(&self.origin.file, self.number)
    }
}

/// Reads all records of a unit.
pub fn parse<'a>(unit: &'a Unit, parsed: &mut Parsed<'a>) {
    for chunk in &unit.chunks {
        let text = &unit.text()[chunk.range.clone()];
        match chunk.shape {
            Shape::Lines { first, torn_end } => read_lines(text, chunk, first, torn_end, parsed),
            Shape::Document => read_document(text, chunk, parsed),
            Shape::Events => calllog::read_events(text, parsed, &chunk.origin),
        }
        if !matches!(chunk.shape, Shape::Lines { .. }) {
            parsed.lines.push(Line { number: None, bytes: text.len(), pieces: parsed.pieces.len() });
        }
    }
}

fn read_lines<'a>(text: &'a [u8], chunk: &Chunk, first: u64, torn_end: bool, parsed: &mut Parsed<'a>) {
    let mut number = first;
    let mut at = 0;
    while at < text.len() {
        let (end, whole) = match memchr::memchr(b'\n', &text[at..]) {
            Some(n) => (at + n, true),
            None => (text.len(), !torn_end),
        };
        let line = text[at..end].trim_ascii();
        if !line.is_empty() {
            let record = Record { origin: &chunk.origin, number, item: 0 };
            let mut cursor = Cursor::new(line);
            let before = Mark::of(parsed);
            let read = read_value(&mut cursor, parsed, &record);
            if let Err(fault) = read.and_then(|_| only_one(&mut cursor).inspect_err(|_| before.restore(parsed))) {
                let mut bad = Bad::json(&fault);
                // Torn is what would go on; a last line that is wrong in itself is bad like any other.
                if !whole && Cursor::new(line).skip().is_err_and(|fault| fault.ends_early()) {
                    bad.reason = Skip::TornRecord;
                }
                parsed.lose(&record, bad);
            }
            parsed.lines.push(Line { number: Some(number), bytes: line.len(), pieces: parsed.pieces.len() });
        }
        number += 1;
        at = end + 1;
    }
}

fn read_document<'a>(text: &'a [u8], chunk: &Chunk, parsed: &mut Parsed<'a>) {
    let mut cursor = Cursor::new(text);
    let mut number = 1;
    while !cursor.at_end() {
        let record = Record { origin: &chunk.origin, number, item: 0 };
        match read_value(&mut cursor, parsed, &record) {
            Ok(items) => number += items,
            Err(fault) => {
                parsed.lose(&record, Bad::json(&fault));
                return;
            }
        }
    }
}

fn only_one(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    if cursor.at_end() { Ok(()) } else { Err(Fault { at: cursor.pos(), message: "more text behind the value" }) }
}

/// Reads a record, or each item of a list of records; gives how many. What stands before a fault in a list stays.
fn read_value<'a>(cursor: &mut Cursor<'a>, parsed: &mut Parsed<'a>, record: &Record<'_>) -> Result<u64, Fault> {
    let Record { origin, number, .. } = *record;
    if cursor.peek() != Some(b'[') {
        return read_one(cursor, parsed, record).map(|()| 1);
    }
    let mut items = 0;
    cursor.array::<Fault>(|c, at| {
        items = at as u64 + 1;
        // On a line of its own kind the number is the line's.
        let (number, item) = if origin.document { (number + at as u64, 0) } else { (number, at as u32) };
        read_one(c, parsed, &Record { origin, number, item })
    })?;
    Ok(items)
}

fn read_one<'a>(cursor: &mut Cursor<'a>, parsed: &mut Parsed<'a>, record: &Record<'_>) -> Result<(), Fault> {
    if cursor.peek() != Some(b'{') {
        cursor.skip()?;
        parsed.lose(record, Bad::unknown("not a JSON object"));
        return Ok(());
    }
    let before = Mark::of(parsed);
    (record.origin.format.read)(cursor, parsed, record).inspect_err(|_| before.restore(parsed))
}

/// The lengths of what was parsed: a record that turns out broken leaves nothing behind.
struct Mark {
    calls: usize,
    pieces: usize,
    lost: usize,
}

impl Mark {
    fn of(parsed: &Parsed<'_>) -> Self {
        Self { calls: parsed.calls.len(), pieces: parsed.pieces.len(), lost: parsed.lost.len() }
    }

    fn restore(&self, parsed: &mut Parsed<'_>) {
        // Ids stay in the arena, unused: earlier lists may be compared with them.
        parsed.calls.truncate(self.calls);
        parsed.pieces.truncate(self.pieces);
        parsed.lost.truncate(self.lost);
        if let Some(exchanges) = &mut parsed.exchanges {
            exchanges.truncate(self.calls);
        }
    }
}
