//! From what the user named to stretches of text: files, folders, globs, standard input; plain, gzip, zstd.
//!
//! One reader goes through all input in a fixed order and cuts it into units of whole records, each about
//! [`UNIT_BYTES`] long, so that the units (and with them the pages of the output) are the same for any number of
//! workers. Every byte is hashed as it lies on disk, once, on the way through.

use super::Origin;
use super::sniff::{FORMATS, Format, Looks, sniff};
use crate::error::{Error, Place, Result};
use crate::json::{Cursor, Fault, Scalar};
use flate2::read::MultiGzDecoder;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use twox_hash::xxhash3_128;

/// Text of a unit. Its ids fill one 8 MiB page, the size at which zstd sees most repeats.
pub const UNIT_BYTES: usize = 8 << 20;
/// How much is read at once: what is hashed and scanned next is then still in the second-level cache.
const READ_BYTES: usize = 512 << 10;

/// A buffer that keeps its zeroed length, so that a refill costs no clearing.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl Buffer {
    fn text(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    fn append(&mut self, text: &[u8]) {
        self.reserve(text.len());
        self.bytes[self.filled..self.filled + text.len()].copy_from_slice(text);
        self.filled += text.len();
    }

    fn reserve(&mut self, more: usize) {
        let needed = self.filled + more;
        if self.bytes.len() < needed {
            // Grown by an eighth at most: a line of 100 MB must not cost 200.
            self.bytes.resize(needed.max(self.bytes.len() + self.bytes.len() / 8), 0);
        }
    }

    fn read_from(&mut self, reader: &mut dyn Read, limit: usize) -> io::Result<usize> {
        self.reserve(limit);
        loop {
            match reader.read(&mut self.bytes[self.filled..self.filled + limit]) {
                Ok(n) => {
                    self.filled += n;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

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

/// Whole records of one file.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) origin: Arc<Origin>,
    pub(super) range: Range<usize>,
    pub(super) shape: Shape,
}

/// A stretch of input: whole records of one or more files.
#[derive(Debug, Default)]
pub struct Unit {
    /// Which one, from 0.
    pub number: u64,
    buffer: Buffer,
    pub(super) chunks: Vec<Chunk>,
}

impl Unit {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.buffer.text()
    }
}

/// What the manifest says of a file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// File as the user named it.
    pub file: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// xxh3-128 of the bytes on disk.
    pub hash: String,
    /// Format of its records; null if it holds no capture.
    pub format: Option<&'static str>,
}

/// Counts and hashes what passes.
struct Hashing<R> {
    inner: R,
    hash: xxhash3_128::Hasher,
    bytes: u64,
    progress: Arc<AtomicU64>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.write(&buffer[..n]);
        self.bytes += n as u64;
        self.progress.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

type Raw = Hashing<Box<dyn Read + Send>>;

/// The bytes of a file, the first four of them read once already.
type Whole = io::Chain<io::Cursor<Vec<u8>>, Raw>;

enum Opened {
    Plain(Box<Whole>),
    Gzip(Box<MultiGzDecoder<Whole>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, io::BufReader<Whole>>>),
}

impl Opened {
    fn open(mut raw: Raw) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(4);
        (&mut raw).take(4).read_to_end(&mut magic)?;
        let (gzip, zstd) = (magic.starts_with(&[0x1f, 0x8b]), magic == [0x28, 0xb5, 0x2f, 0xfd]);
        let whole = io::Cursor::new(magic).chain(raw);
        Ok(match (gzip, zstd) {
            (true, _) => Self::Gzip(Box::new(MultiGzDecoder::new(whole))),
            (_, true) => Self::Zstd(Box::new(zstd::stream::read::Decoder::new(whole)?)),
            _ => Self::Plain(Box::new(whole)),
        })
    }

    fn reader(&mut self) -> &mut dyn Read {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(reader) => reader,
            Self::Zstd(reader) => reader,
        }
    }

    fn raw(self) -> Raw {
        match self {
            Self::Plain(chain) => chain.into_inner().1,
            Self::Gzip(decoder) => decoder.into_inner().into_inner().1,
            Self::Zstd(decoder) => decoder.finish().into_inner().into_inner().1,
        }
    }

    fn compressed(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }
}

/// A file to read.
#[derive(Debug, Clone)]
struct Input {
    path: Option<PathBuf>,
    name: String,
    /// Found in a folder: what holds no capture is then passed over and counted.
    found: bool,
    bytes: u64,
}

struct Current {
    opened: Opened,
    origin: Arc<Origin>,
    shape: Shape,
    /// Number of the next line.
    next_line: u64,
}

/// All input, in order.
pub struct Sources {
    inputs: std::vec::IntoIter<Input>,
    forced: Option<&'static Format>,
    current: Option<(Input, Current)>,
    /// Text behind the last whole record of the unit before; becomes the next unit's buffer, so that it is copied once.
    ahead: Buffer,
    /// First text of a file, while it is looked at; kept so that small files do not each clear half a megabyte.
    head: Buffer,
    next_unit: u64,
    read: Vec<InputFile>,
    repeated: u64,
    total: u64,
    progress: Arc<AtomicU64>,
    eval: Option<(String, Option<f32>)>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sources({} of {} bytes)", self.progress.load(Ordering::Relaxed), self.total)
    }
}

impl Sources {
    /// Expands what the user named. `skip` is never read (the output of the run).
    ///
    /// # Errors
    /// `Usage` for an unknown format, `Io` for a path that is not there.
    pub fn new(named: &[String], from: Option<&str>, skip: Option<&Path>, progress: Arc<AtomicU64>) -> Result<Self> {
        let forced = from.map(format_named).transpose()?;
        if named.is_empty() {
            return Err(Error::usage("no input", "name files, folders or globs, or - for standard input"));
        }
        let mut inputs = Vec::new();
        for name in named {
            expand(name, &mut inputs)?;
        }
        let skip = skip.and_then(|path| path.canonicalize().ok());
        let before = inputs.len();
        let mut seen = HashSet::new();
        inputs.retain(|input: &Input| match &input.path {
            Some(path) => {
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                Some(&real) != skip.as_ref() && seen.insert(real)
            }
            None => seen.insert(PathBuf::from("-")),
        });
        let repeated = (before - inputs.len()) as u64;
        let total = inputs.iter().map(|input| input.bytes).sum();
        Ok(Self {
            inputs: inputs.into_iter(),
            forced,
            current: None,
            ahead: Buffer::default(),
            head: Buffer::default(),
            next_unit: 0,
            read: Vec::new(),
            repeated,
            total,
            progress,
            eval: None,
        })
    }

    /// Bytes on disk of all input; standard input counts as none.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Files read so far, and how many were named more than once.
    #[must_use]
    pub fn files(&self) -> (&[InputFile], u64) {
        (&self.read, self.repeated)
    }

    /// The next unit, in the buffers of an old one; null at the end.
    ///
    /// # Errors
    /// `Io`, or `Data` for a named file that holds no capture and for damaged compression.
    pub fn next_unit(&mut self, mut unit: Unit) -> Result<Option<Unit>> {
        unit.chunks.clear();
        std::mem::swap(&mut unit.buffer, &mut self.ahead);
        self.ahead.filled = 0;
        for buffer in [&mut unit.buffer, &mut self.ahead] {
            if buffer.filled < UNIT_BYTES && buffer.bytes.len() > 4 * UNIT_BYTES {
                // One long line must not keep its memory for the rest of the run.
                buffer.bytes.truncate(2 * UNIT_BYTES);
                buffer.bytes.shrink_to_fit();
            }
        }
        // Text carried over belongs to the current file and is counted from its start.
        let mut start = 0;
        loop {
            if self.current.is_none() && !self.open_next(&mut unit.buffer)? {
                break;
            }
            if self.fill(&mut unit, start)? || unit.buffer.filled >= UNIT_BYTES {
                break;
            }
            start = unit.buffer.filled;
        }
        if unit.chunks.is_empty() {
            return Ok(None);
        }
        unit.number = self.next_unit;
        self.next_unit += 1;
        Ok(Some(unit))
    }

    /// Reads from the current file, whose text begins at `start`; true when the unit is full.
    fn fill(&mut self, unit: &mut Unit, start: usize) -> Result<bool> {
        let Some((input, current)) = &mut self.current else { return Ok(false) };
        let lines = matches!(current.shape, Shape::Lines { .. });
        let mut newline =
            if lines { memchr::memrchr(b'\n', &unit.buffer.text()[start..]).map(|n| start + n) } else { None };
        let mut ended = false;
        loop {
            // A unit is full at its first line end behind UNIT_BYTES; a document or a first file is always read whole.
            if lines && unit.buffer.filled >= UNIT_BYTES && newline.is_some() {
                break;
            }
            let before = unit.buffer.filled;
            let read = unit
                .buffer
                .read_from(current.opened.reader(), READ_BYTES)
                .map_err(|e| damaged(input, &current.opened, e))?;
            if read == 0 {
                ended = true;
                break;
            }
            if lines && let Some(n) = memchr::memrchr(b'\n', &unit.buffer.text()[before..]) {
                newline = Some(before + n);
            }
        }
        let end = match newline {
            Some(at) if !ended => at + 1,
            _ => unit.buffer.filled,
        };
        self.ahead.append(&unit.buffer.text()[end..]);
        unit.buffer.filled = end;
        let shape = match current.shape {
            Shape::Lines { .. } => {
                let first = current.next_line;
                current.next_line += memchr::memchr_iter(b'\n', &unit.buffer.text()[start..end]).count() as u64;
                Shape::Lines { first, torn_end: ended }
            }
            other => other,
        };
        unit.chunks.push(Chunk { origin: Arc::clone(&current.origin), range: start..end, shape });
        if ended && let Some((input, current)) = self.current.take() {
            let format = Some(current.origin.format.name);
            self.close(input, current.opened.raw(), format)?;
        }
        Ok(!ended)
    }

    /// Opens the next file that holds captures and appends the text that told so; false when there is none.
    fn open_next(&mut self, text: &mut Buffer) -> Result<bool> {
        while let Some(input) = self.inputs.next() {
            let inner: Box<dyn Read + Send> = match &input.path {
                Some(path) => Box::new(File::open(path).map_err(Error::io("read", &input.name))?),
                None => Box::new(io::stdin()),
            };
            let raw =
                Hashing { inner, hash: xxhash3_128::Hasher::new(), bytes: 0, progress: Arc::clone(&self.progress) };
            let mut opened = Opened::open(raw).map_err(Error::io("read", &input.name))?;
            self.head.filled = 0;
            let looks = match look(&mut self.head, opened.reader(), self.forced) {
                Ok(looks) => looks,
                Err(e) => return Err(damaged(&input, &opened, e)),
            };
            match looks {
                Ok((format, shape)) => {
                    let origin = self.origin(&input, format, shape);
                    let head = self.head.text();
                    text.append(head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head));
                    self.current = Some((input, Current { opened, origin: Arc::new(origin), shape, next_line: 1 }));
                    return Ok(true);
                }
                Err(what) => {
                    if !input.found && input.bytes > 0 || self.forced.is_some() {
                        return Err(Error::data(
                            Place::file(&input.name),
                            what,
                            format!("known formats: {}; --from FORMAT forces one", format_names()),
                        ));
                    }
                    if !input.found && input.path.is_none() {
                        return Err(Error::data(Place::file("-"), what, "pipe captures into standard input"));
                    }
                    self.close(input, opened.raw(), None)?;
                }
            }
        }
        Ok(false)
    }

    fn origin(&mut self, input: &Input, format: &'static Format, shape: Shape) -> Origin {
        let folder =
            input.path.as_deref().and_then(Path::parent).map_or(String::new(), |p| p.to_string_lossy().into_owned());
        let document = matches!(shape, Shape::Document);
        let mut reward = None;
        if format.name == "cooperbench" && document {
            if self.eval.as_ref().is_none_or(|(known, _)| *known != folder) {
                let text = fs::read(Path::new(&folder).join("eval.json")).unwrap_or_default();
                self.eval = Some((folder.clone(), both_passed(&text)));
            }
            reward = self.eval.as_ref().and_then(|(_, reward)| *reward);
        }
        Origin { file: input.name.as_str().into(), folder: folder.into(), document, reward, format }
    }

    fn close(&mut self, input: Input, mut raw: Raw, format: Option<&'static str>) -> Result<()> {
        // What stands behind the data (padding of a compressed file, the rest of a passed-over one) is part of the hash
        // only for files that were read: a folder may hold gigabytes that are no captures.
        if format.is_some() {
            io::copy(&mut raw, &mut io::sink()).map_err(Error::io("read", &input.name))?;
        } else {
            self.progress.fetch_add(input.bytes.saturating_sub(raw.bytes), Ordering::Relaxed);
        }
        let hash = format!("xxh3-128:{:032x}", raw.hash.finish_128());
        self.read.push(InputFile {
            file: input.name,
            bytes: if format.is_some() { raw.bytes } else { input.bytes },
            hash: if format.is_some() { hash } else { String::new() },
            format,
        });
        Ok(())
    }
}

/// CooperBench's verdict on a pair, as a reward.
fn both_passed(text: &[u8]) -> Option<f32> {
    let mut passed = None;
    let read = Cursor::new(text).object::<Fault>(|c, key| {
        if key == b"both_passed"
            && let Scalar::Bool(yes) = c.scalar()?
        {
            passed = Some(if yes { 1.0 } else { 0.0 });
        }
        Ok(())
    });
    read.ok().and(passed)
}

fn damaged(input: &Input, opened: &Opened, error: io::Error) -> Error {
    if opened.compressed() && input.path.is_some() {
        return Error::data(
            Place::file(&input.name),
            format!("the compressed data is damaged or ends early: {error}"),
            "copy the file again; what is left can be read after `zstd -d` or `gzip -d` has saved it",
        );
    }
    Error::io("read", &input.name)(error)
}

fn format_names() -> String {
    FORMATS.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
}

fn format_named(name: &str) -> Result<&'static Format> {
    FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
        Error::usage(format!("unknown format {name:?}"), format!("--from takes one of {}", format_names()))
    })
}

/// Reads a file's first record into `head` and says what it is, or why it is no capture.
fn look(
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
                // A broken first line of JSONL is followed by another record; the second line of a document is indented.
                let next = end + next.start..end + next.end;
                if text[next.start] != b'{' || line.trim_ascii() == b"[" {
                    return read_all_and_judge(head, reader, start, forced);
                }
                if next.end == text.len() && !ended {
                    ended = head.read_from(reader, READ_BYTES)? == 0;
                    continue;
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

fn expand(name: &str, inputs: &mut Vec<Input>) -> Result<()> {
    if name == "-" {
        inputs.push(Input { path: None, name: "-".to_owned(), found: false, bytes: 0 });
        return Ok(());
    }
    let path = Path::new(name);
    if let Ok(meta) = fs::metadata(path) {
        if meta.is_dir() {
            let before = inputs.len();
            walk(path, inputs)?;
            if inputs.len() == before {
                return Err(Error::data(Place::file(name), "the folder is empty", "name a folder that holds captures"));
            }
        } else {
            inputs.push(Input { path: Some(path.to_owned()), name: name.to_owned(), found: false, bytes: meta.len() });
        }
        return Ok(());
    }
    if name.contains(['*', '?', '[']) {
        let matches =
            glob::glob(name).map_err(|e| Error::usage(format!("{name}: {e}"), "quote a name that is no glob"))?;
        let before = inputs.len();
        for found in matches {
            let found = found.map_err(|e| Error::io("read", e.path().to_string_lossy().into_owned())(e.into()))?;
            expand(&found.to_string_lossy(), inputs)?;
        }
        if inputs.len() > before {
            return Ok(());
        }
    }
    Err(Error::io("read", name)(io::Error::from_raw_os_error(2)))
}

/// All files below a folder, by name; hidden ones and linked folders are left out.
fn walk(folder: &Path, inputs: &mut Vec<Input>) -> Result<()> {
    let name = folder.to_string_lossy().into_owned();
    let mut entries: Vec<_> = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(Error::io("read", name))?
        .into_iter()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", path.to_string_lossy()))?;
        if kind.is_dir() {
            walk(&path, inputs)?;
        } else if let Ok(meta) = fs::metadata(&path)
            && meta.is_file()
        {
            let name = path.to_string_lossy().into_owned();
            inputs.push(Input { path: Some(path), name, found: true, bytes: meta.len() });
        }
    }
    Ok(())
}
