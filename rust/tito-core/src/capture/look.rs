//! What a file is, by a look at its first record: how its text divides, and which format its records are in.

use super::buffer::Buffer;
use super::sniff::{FORMATS, Format, Looks, sniff};
use super::sources::READ_BYTES;
use crate::json::Cursor;
use std::io::{self, Read};
use std::ops::Range;

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

const LINES: Shape = Shape::Lines { first: 1, torn_end: false };

/// Reads a file's first record into `head` and says what it is, or why it is no capture.
pub(super) fn look(
    head: &mut Buffer,
    reader: &mut dyn Read,
    forced: Option<&'static Format>,
) -> io::Result<std::result::Result<(&'static Format, Shape), String>> {
    let mut scanned = 0;
    let mut ended = false;
    loop {
        let text = head.text();
        let start = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let start = start + text[start..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        if let Some(first) = text.get(start) {
            let rest = &text[start..];
            // A first read may give no more than the magic bytes.
            if rest.len() < b"event:".len() && !ended {
                ended = head.read_from(reader, READ_BYTES)? == 0;
                continue;
            }
            if rest.starts_with(b"data:") || rest.starts_with(b"event:") || rest.starts_with(b": ") {
                let format = forced.or_else(|| FORMATS.iter().find(|f| f.name == "response"));
                return Ok(format.map(|f| (f, Shape::Events)).ok_or_else(|| "no format reads events".to_owned()));
            }
            if !matches!(first, b'{' | b'[') {
                return Ok(Err("is not JSON".to_owned()));
            }
            let newline = memchr::memchr(b'\n', &rest[scanned.min(rest.len())..]).map(|n| start + scanned + n);
            if newline.is_some() || ended {
                let end = newline.unwrap_or(text.len());
                let Some(next) = second_line(&text[end..]) else {
                    if !ended {
                        ended = head.read_from(reader, READ_BYTES)? == 0;
                        continue;
                    }
                    // A file of one line is a document, unless that line is torn.
                    let line = &text[start..end];
                    let whole = first_line_is_whole(line);
                    return Ok(judge(line, forced, if whole { Shape::Document } else { LINES }));
                };
                let line = &text[start..end];
                if first_line_is_whole(line) {
                    return Ok(judge(line, forced, LINES));
                }
                // A broken first line of JSONL is followed by a line that is a record; no line of a document is one.
                let next = end + next.start..end + next.end;
                if text[next.start] != b'{' || line.trim_ascii() == b"[" {
                    return read_all_and_judge(head, reader, start, forced);
                }
                if next.end == text.len() && !ended {
                    ended = head.read_from(reader, READ_BYTES)? == 0;
                    continue;
                }
                let mut cursor = Cursor::new(&text[next.clone()]);
                if cursor.skip().is_err() || !cursor.at_end() {
                    return read_all_and_judge(head, reader, start, forced);
                }
                return Ok(judge(&text[next], forced, LINES));
            }
            scanned = rest.len();
        } else if ended {
            return Ok(Err("is empty".to_owned()));
        }
        ended = head.read_from(reader, READ_BYTES)? == 0;
    }
}

/// A document's deciding keys may stand anywhere in it, so it is read whole; it will be parsed whole anyway.
fn read_all_and_judge(
    head: &mut Buffer,
    reader: &mut dyn Read,
    start: usize,
    forced: Option<&'static Format>,
) -> io::Result<std::result::Result<(&'static Format, Shape), String>> {
    while head.read_from(reader, READ_BYTES)? > 0 {}
    Ok(judge(&head.text()[start..], forced, Shape::Document))
}

fn judge(
    record: &[u8],
    forced: Option<&'static Format>,
    shape: Shape,
) -> std::result::Result<(&'static Format, Shape), String> {
    match (forced, sniff(record)) {
        (Some(format), _) | (None, Looks::Like(format)) => Ok((format, shape)),
        (None, Looks::Unknown(what)) => Err(what),
    }
}

fn first_line_is_whole(line: &[u8]) -> bool {
    let mut cursor = Cursor::new(line);
    cursor.skip().is_ok()
}

/// The first line of a text that is not blank; it may not be whole yet.
fn second_line(text: &[u8]) -> Option<Range<usize>> {
    let mut start = 0;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let end = start + line.len();
        if !line.trim_ascii().is_empty() {
            return Some(start..end);
        }
        start = end;
    }
    None
}
