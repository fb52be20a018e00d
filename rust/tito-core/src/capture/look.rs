//! What a file is, by a look at its first record: how its text divides, and which format its records are in.

use super::buffer::Buffer;
use super::sniff::{FORMATS, Format, Looks, NoFormat, sniff};
use super::sources::READ_BYTES;
use crate::json::Cursor;
use std::io::{self, Read};

/// How the text of a chunk divides into records.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A record a line; the first line's number; whether the last line may be torn.
    Lines { first: u64, torn_end: bool },
    /// One JSON value over many lines (or a few, one after another).
    Document,
    /// Server-sent events.
    Events,
}

pub(super) const LINES: Shape = Shape::Lines { first: 1, torn_end: false };

/// Reads a file's first record into `head` and says what it is, or why it is no capture.
pub(super) fn look(
    head: &mut Buffer,
    reader: &mut dyn Read,
    forced: Option<&'static Format>,
) -> io::Result<std::result::Result<(&'static Format, Shape), NoFormat>> {
    // Where the first record starts, how far its line end was looked for, and how far the text behind it is blank: what
    // was looked at once is not looked at again when more is read.
    let (mut start, mut searched, mut blank) = (0, 0, 0);
    let mut ended = false;
    loop {
        let text = head.text();
        if start == 0 && text.starts_with(b"\xef\xbb\xbf") {
            start = 3;
        }
        start += blank_bytes(&text[start..]);
        let rest = &text[start..];
        // A first read may give no more than the magic bytes.
        if rest.len() < b"event:".len() && !ended {
            ended = head.read_from(reader, READ_BYTES)? == 0;
            continue;
        }
        let Some(first) = rest.first() else { return Ok(Err(NoFormat::Other("is empty"))) };
        if rest.starts_with(b"data:") || rest.starts_with(b"event:") || rest.starts_with(b": ") {
            let format = forced.or_else(|| FORMATS.iter().find(|f| f.name == "response"));
            return Ok(format.map(|f| (f, Shape::Events)).ok_or(NoFormat::Other("no format reads events")));
        }
        if !matches!(first, b'{' | b'[') {
            return Ok(Err(if rest.starts_with(b"PAR1") { NoFormat::Parquet } else { NoFormat::Other("is not JSON") }));
        }
        searched = searched.max(start);
        let newline = memchr::memchr(b'\n', &text[searched..]).map(|n| searched + n);
        searched = newline.unwrap_or(text.len());
        if newline.is_some() {
            blank = blank.max(searched);
            blank += blank_bytes(&text[blank..]);
        } else {
            blank = text.len();
        }
        if blank == text.len() && !ended {
            ended = head.read_from(reader, READ_BYTES)? == 0;
            continue;
        }
        let line = &text[start..searched];
        if blank == text.len() {
            // A file of one line is a document, unless that line is torn.
            return Ok(judge(line, forced, if starts_whole(line) { Shape::Document } else { LINES }));
        }
        if starts_whole(line) {
            return Ok(judge(line, forced, LINES));
        }
        // A broken first line of JSONL is followed by a line that is a record; no line of a document is one.
        if text[blank] != b'{' || text[blank - 1] != b'\n' || line.starts_with(b"[") {
            return read_all_and_judge(head, reader, start, forced);
        }
        let Some(end) = memchr::memchr(b'\n', &text[blank..]).map(|n| blank + n).or(ended.then_some(text.len())) else {
            ended = head.read_from(reader, READ_BYTES)? == 0;
            continue;
        };
        let mut next = Cursor::new(&text[blank..end]);
        if next.skip().is_err() || !next.at_end() {
            return read_all_and_judge(head, reader, start, forced);
        }
        return Ok(judge(&text[blank..end], forced, LINES));
    }
}

fn blank_bytes(text: &[u8]) -> usize {
    text.iter().take_while(|b| b.is_ascii_whitespace()).count()
}

/// A document's deciding keys may stand anywhere in it, so it is read whole; it will be parsed whole anyway.
fn read_all_and_judge(
    head: &mut Buffer,
    reader: &mut dyn Read,
    start: usize,
    forced: Option<&'static Format>,
) -> io::Result<std::result::Result<(&'static Format, Shape), NoFormat>> {
    while head.read_from(reader, READ_BYTES)? > 0 {}
    Ok(judge(&head.text()[start..], forced, Shape::Document))
}

fn judge(
    record: &[u8],
    forced: Option<&'static Format>,
    shape: Shape,
) -> std::result::Result<(&'static Format, Shape), NoFormat> {
    match (forced, sniff(record)) {
        (Some(format), _) | (None, Looks::Like(format)) => Ok((format, shape)),
        (None, Looks::Unknown(what)) => Err(what),
    }
}

/// Whether a line starts with a whole JSON value.
fn starts_whole(line: &[u8]) -> bool {
    Cursor::new(line).skip().is_ok()
}
