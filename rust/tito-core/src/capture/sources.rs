//! From what the user named to stretches of text: files, folders, globs, standard input; plain, gzip, zstd.
//!
//! One reader goes through all input in a fixed order and cuts it into units of whole records, each about
//! [`UNIT_BYTES`] long, so that the units (and with them the pages of the output) are the same for any number of
//! workers. Every byte is hashed as it lies on disk, once, on the way through.

use super::Origin;
use super::buffer::Buffer;
use super::files::{Called, Input, expand};
use super::look::{LINES, Shape, look};
use super::sniff::{FORMATS, Format, NoFormat, format_names};
use crate::error::{Error, Place, Result};
use crate::json::{Cursor, Fault, Scalar};
use crate::rows::Text;
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
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
pub(super) const READ_BYTES: usize = 512 << 10;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// File as the user named it.
    pub file: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// xxh3-128 of the bytes on disk.
    pub hash: String,
    /// Format of its records; null if it holds no capture.
    pub format: Option<Text>,
}

impl InputFile {
    fn passed_over(file: String) -> Self {
        Self { file, bytes: 0, hash: String::new(), format: None }
    }
}

/// Counts and hashes what passes.
pub(super) struct Hashing<R> {
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

pub(super) type Raw = Hashing<Box<dyn Read + Send>>;

impl Raw {
    pub(super) fn new(inner: Box<dyn Read + Send>, progress: Arc<AtomicU64>) -> Self {
        Self { inner, hash: xxhash3_128::Hasher::new(), bytes: 0, progress }
    }

    /// The hash of all that is read, to its end.
    pub(super) fn finish(mut self) -> io::Result<(u64, String)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.bytes, self.hash()))
    }

    fn hash(&self) -> String {
        format!("xxh3-128:{:032x}", self.hash.finish_128())
    }
}

/// The bytes of a file, the first four of them read once already.
type Whole = io::Chain<io::Cursor<Vec<u8>>, Raw>;

pub(super) enum Opened {
    Plain(Box<Whole>),
    Gzip(Box<MultiGzDecoder<Whole>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, io::BufReader<Whole>>>),
}

impl Opened {
    pub(super) fn open(mut raw: Raw) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(4);
        (&mut raw).take(4).read_to_end(&mut magic)?;
        // A zstd file may start with a frame to be skipped, as parallel compressors write it.
        let skippable = magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18];
        let (gzip, zstd) = (magic.starts_with(&[0x1f, 0x8b]), skippable || magic == [0x28, 0xb5, 0x2f, 0xfd]);
        let whole = io::Cursor::new(magic).chain(raw);
        Ok(match (gzip, zstd) {
            (true, _) => Self::Gzip(Box::new(MultiGzDecoder::new(whole))),
            (_, true) => Self::Zstd(Box::new(zstd::stream::read::Decoder::new(whole)?)),
            _ => Self::Plain(Box::new(whole)),
        })
    }

    pub(super) fn reader(&mut self) -> &mut dyn Read {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(reader) => reader,
            Self::Zstd(reader) => reader,
        }
    }

    pub(super) fn raw(self) -> Raw {
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
    /// Where the inputs really are.
    real: HashSet<PathBuf>,
    total: u64,
    /// An error was given: there is no next unit.
    failed: bool,
    progress: Arc<AtomicU64>,
    eval: Option<(String, Option<f32>)>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sources({} of {} bytes)", self.progress.load(Ordering::Relaxed), self.total)
    }
}

impl Sources {
    /// Expands what the user named.
    ///
    /// # Errors
    /// `Usage` for an unknown format, `Io` for a path that is not there.
    pub fn new(named: &[String], from: Option<&str>, progress: Arc<AtomicU64>) -> Result<Self> {
        Self::called(named, &[], from, progress)
    }

    /// The same of files that go by other names than their paths, one each (none: by their paths).
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn called(named: &[String], called: &[Called], from: Option<&str>, progress: Arc<AtomicU64>) -> Result<Self> {
        let forced = from.map(format_named).transpose()?;
        if named.is_empty() {
            return Err(Error::usage("no input", "name files, folders or globs, or - for standard input"));
        }
        let mut inputs = Vec::new();
        let mut left_out = Vec::new();
        for name in named {
            expand(name, &mut inputs, &mut left_out)?;
        }
        if !called.is_empty() {
            if called.len() != inputs.len() {
                return Err(Error::usage(
                    format!("{} names for {} files", called.len(), inputs.len()),
                    "give one name a file, or none",
                ));
            }
            for (input, called) in inputs.iter_mut().zip(called) {
                input.name.clone_from(&called.name);
                input.lines = called.lines.as_deref().map(format_named).transpose()?;
            }
        }
        let before = inputs.len();
        let mut seen = HashSet::new();
        inputs.retain(|input: &Input| match &input.path {
            Some(path) => {
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                seen.insert(real)
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
            read: left_out.into_iter().map(InputFile::passed_over).collect(),
            repeated,
            real: seen,
            total,
            failed: false,
            progress,
            eval: None,
        })
    }

    /// Bytes on disk of all input; standard input counts as none.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// What cannot be read a second time: standard input, a pipe.
    #[must_use]
    pub fn read_once_only(&self) -> Option<&str> {
        let input = self.inputs.as_slice().iter().find(|input| !input.regular)?;
        Some(if input.path.is_none() { "standard input" } else { &input.name })
    }

    /// Whether a path is one of the files to read and holds captures: rows of an earlier run may be written over.
    #[must_use]
    pub fn holds_captures(&self, path: &Path) -> bool {
        let named = path.canonicalize().is_ok_and(|real| self.real.contains(&real));
        named && self.look_at(path).is_none_or(|what| what.is_unread())
    }

    /// Why a file holds no captures; none if it does, or cannot be looked at.
    fn look_at(&self, path: &Path) -> Option<NoFormat> {
        look_into(path, self.forced).ok()?.err()
    }

    /// The files that will be read: name, bytes, and whether it was found in a folder that was named.
    pub fn listing(&self) -> impl Iterator<Item = (&str, u64, bool)> {
        self.inputs.as_slice().iter().map(|input| (input.name.as_str(), input.bytes, input.found))
    }

    /// What stood in a folder and is no file, so far.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.read.iter().map(|file| file.file.as_str())
    }

    /// Takes all files for ones that were found in a folder: what holds no capture is passed over.
    pub fn take_as_found(&mut self) {
        self.inputs.as_mut_slice().iter_mut().for_each(|input| input.found = true);
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
    pub fn next_unit(&mut self, unit: Unit) -> Result<Option<Unit>> {
        if self.failed {
            return Ok(None);
        }
        let next = self.read_unit(unit);
        self.failed = next.is_err();
        next
    }

    fn read_unit(&mut self, mut unit: Unit) -> Result<Option<Unit>> {
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
        // A unit of lines ends at the first line end at or behind UNIT_BYTES, however the text came in; a document is
        // read whole.
        let lines = matches!(current.shape, Shape::Lines { .. });
        let mut searched = UNIT_BYTES.max(start);
        let mut full = None;
        let mut ended = false;
        loop {
            if lines && unit.buffer.filled > searched {
                let found = memchr::memchr(b'\n', &unit.buffer.text()[searched..]);
                full = found.map(|n| searched + n + 1);
                searched = unit.buffer.filled;
            }
            if full.is_some() {
                break;
            }
            let read = unit.buffer.read_from(current.opened.reader(), READ_BYTES);
            if read.map_err(|e| damaged(input, &current.opened, e))? == 0 {
                ended = true;
                break;
            }
        }
        let end = full.unwrap_or(unit.buffer.filled);
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
            let mut opened =
                Opened::open(Raw::new(inner, Arc::clone(&self.progress))).map_err(Error::io("read", &input.name))?;
            self.head.filled = 0;
            let looks = match input.lines {
                Some(format) => Ok(Ok((format, LINES))),
                None => look(&mut self.head, opened.reader(), self.forced),
            };
            let looks = match looks {
                Ok(looks) => looks,
                Err(e) => return Err(damaged(&input, &opened, e)),
            };
            match looks {
                Ok((format, shape)) => {
                    let origin = self.origin(&input, format, shape)?;
                    let head = self.head.text();
                    text.append(head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head));
                    self.current = Some((input, Current { opened, origin: Arc::new(origin), shape, next_line: 1 }));
                    return Ok(true);
                }
                Err(what) => {
                    let named = !input.found && (input.bytes > 0 || !input.regular);
                    if named || self.forced.is_some() || what.is_unread() {
                        return Err(Error::data(Place::file(&input.name), what.to_string(), what.hint(&input.name)));
                    }
                    self.close(input, opened.raw(), None)?;
                }
            }
        }
        Ok(false)
    }

    fn origin(&mut self, input: &Input, format: &'static Format, shape: Shape) -> Result<Origin> {
        let folder = |path: Option<&Path>| {
            path.and_then(Path::parent).map_or(String::new(), |folder| folder.to_string_lossy().into_owned())
        };
        // What lies beside a file is where its bytes are; which files belong together is a matter of their names.
        let (beside, folder) = (folder(input.path.as_deref()), folder(Some(Path::new(&input.name))));
        let document = matches!(shape, Shape::Document);
        let mut reward = None;
        if format.name == "cooperbench" && document {
            if self.eval.as_ref().is_none_or(|(known, _)| *known != beside) {
                let verdict = both_passed(&Path::new(&beside).join("eval.json"))?;
                self.eval = Some((beside, verdict));
            }
            reward = self.eval.as_ref().and_then(|(_, reward)| *reward);
        }
        Ok(Origin { file: input.name.as_str().into(), folder: folder.into(), document, reward, format })
    }

    fn close(&mut self, input: Input, mut raw: Raw, format: Option<&str>) -> Result<()> {
        // What stands behind the data (padding of a compressed file, the rest of a passed-over one) is part of the hash
        // only for files that were read: a folder may hold gigabytes that are no captures.
        if format.is_some() {
            io::copy(&mut raw, &mut io::sink()).map_err(Error::io("read", &input.name))?;
            if input.regular && raw.bytes < input.bytes {
                return Err(Error::data(
                    Place::file(&input.name),
                    format!("the file shrank while it was read: {} bytes of {}", raw.bytes, input.bytes),
                    "convert a file that nobody writes to",
                ));
            }
        } else {
            self.progress.fetch_add(input.bytes.saturating_sub(raw.bytes), Ordering::Relaxed);
        }
        let hash = raw.hash();
        self.read.push(InputFile {
            file: input.name,
            bytes: if format.is_some() { raw.bytes } else { input.bytes },
            hash: if format.is_some() { hash } else { String::new() },
            format: format.map(Text::from),
        });
        Ok(())
    }
}

fn look_into(
    path: &Path,
    forced: Option<&'static Format>,
) -> io::Result<std::result::Result<(&'static Format, Shape), NoFormat>> {
    let inner: Box<dyn Read + Send> = Box::new(File::open(path)?);
    look(&mut Buffer::default(), Opened::open(Raw::new(inner, Arc::default()))?.reader(), forced)
}

/// The hash of a file's bytes as manifests tell it: `xxh3-128:` and 32 hex digits.
///
/// # Errors
/// `Io`.
pub fn content_hash(path: &str) -> Result<String> {
    let hash = |file: File| Raw::new(Box::new(file), Arc::default()).finish();
    let (_, hash) = File::open(path).and_then(hash).map_err(Error::io("read", path))?;
    Ok(hash)
}

/// The format of a file's captures, those that are known and not read included; none where it holds none.
///
/// # Errors
/// `Io`.
pub fn format_of(path: &str) -> Result<Option<&'static str>> {
    match look_into(Path::new(path), None).map_err(Error::io("read", path))? {
        Ok((format, _)) => Ok(Some(format.name)),
        Err(NoFormat::Unread(name)) => Ok(Some(name)),
        Err(_) => Ok(None),
    }
}

/// CooperBench's verdict on a pair, as a reward; none where there is no such file.
fn both_passed(path: &Path) -> Result<Option<f32>> {
    let name = path.to_string_lossy();
    let text = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("read", &*name))?,
    };
    let mut passed = None;
    let read = Cursor::new(&text).object::<Fault>(|c, key| {
        if key == b"both_passed"
            && let Scalar::Bool(yes) = c.scalar()?
        {
            passed = Some(if yes { 1.0 } else { 0.0 });
        }
        Ok(())
    });
    match read {
        Ok(_) => Ok(passed),
        Err(fault) => Err(Error::data(
            Place::file(&name).at(fault.at as u64),
            format!("not JSON: {}", fault.message),
            "it tells the reward of the trajectories beside it: mend it, or take it away",
        )),
    }
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

fn format_named(name: &str) -> Result<&'static Format> {
    FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
        Error::usage(format!("unknown format {name:?}"), format!("--from takes one of {}", format_names()))
    })
}
