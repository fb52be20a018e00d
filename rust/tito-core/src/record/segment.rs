//! Segments at rest: packing one that is full, and mending what a crash left.
//!
//! A segment is known by its first line, which says what recorded it; a file without one is somebody else's and stays
//! as it is, whatever its name.

use crate::error::{Error, Result};
use crate::json::{Cursor, Fault};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What the first line of a segment begins with.
const OPENING: &[u8] = b"{\"tito_log\": ";
/// A first line that is longer is none of this log's.
const LONGEST_OPENING: u64 = 16 << 20;

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The highest number of a segment.
    pub last: u64,
    /// Bytes of torn lines that were cut off.
    pub torn: u64,
    /// Segments that were still open, and their bytes.
    pub open: Vec<(PathBuf, u64)>,
}

/// Packs the first `length` bytes of a segment, its whole lines: the packed file gets its name when it is whole and on
/// disk, then the plain one goes. Where somebody else's file has that name both stay as they are.
pub(super) fn pack(path: &Path, length: u64) -> io::Result<()> {
    let (temporary, packed) = (hidden(path), with_zst(path));
    if packed.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let made = || -> io::Result<()> {
        let from = File::open(path)?;
        if from.metadata()?.len() > length {
            // A line that failed and could not be taken back; should packing fail, the next start would find it.
            let _ = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(length));
        }
        let to = File::create(&temporary)?;
        let mut encoder = zstd::stream::write::Encoder::new(to, 3)?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(length))?;
        // Prompts grow from call to call, so what repeats lies far back.
        encoder.long_distance_matching(true)?;
        io::copy(&mut from.take(length), &mut encoder)?;
        encoder.finish()?.sync_all()?;
        give_name(&temporary, &packed)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        fs::remove_file(path)
    };
    made().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Renames a file, never over another one.
fn give_name(temporary: &Path, name: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, name) {
        Ok(()) => fs::remove_file(temporary),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // A file system without links.
        Err(_) if name.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(temporary, name),
    }
}

/// Whether a segment's packed file holds what the segment does.
fn is_packed(path: &Path, packed: &Path) -> io::Result<bool> {
    let mut plain = BufReader::new(File::open(path)?);
    let Ok(decoder) = zstd::stream::read::Decoder::new(File::open(packed)?) else { return Ok(false) };
    let mut decoder = BufReader::new(decoder);
    loop {
        let mine = plain.fill_buf()?;
        // What cannot be unpacked is not this log's.
        let Ok(theirs) = decoder.fill_buf() else { return Ok(false) };
        let common = mine.len().min(theirs.len());
        if common == 0 {
            return Ok(mine.is_empty() && theirs.is_empty());
        }
        if mine[..common] != theirs[..common] {
            return Ok(false);
        }
        plain.consume(common);
        decoder.consume(common);
    }
}

pub(super) fn with_zst(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".zst");
    PathBuf::from(name)
}

fn hidden(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.zst.tmp"))
}

/// Cuts off what a crash left torn, and clears away what a crash left half packed.
///
/// # Errors
/// `Io`.
pub fn repair(folder: &Path) -> Result<Repaired> {
    let mut repaired = Repaired::default();
    let named = |path: &Path| path.to_string_lossy().into_owned();
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<_> = entries.map_err(Error::io("read", named(folder)))?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let (name, is_hidden) = name.strip_prefix('.').map_or((name, false), |name| (name, true));
        let Some((number, rest)) = name.strip_prefix("calls-").and_then(|name| name.split_once('.')) else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        if is_hidden {
            if rest == "jsonl.zst.tmp" {
                fs::remove_file(&path).map_err(Error::io("remove", named(&path)))?;
            }
            continue;
        }
        repaired.last = repaired.last.max(number);
        if rest != "jsonl" {
            continue;
        }
        match whose(&path).map_err(Error::io("read", named(&path)))? {
            Whose::Ours => {}
            Whose::Begun => {
                repaired.torn += fs::metadata(&path).map_err(Error::io("read", named(&path)))?.len();
                fs::remove_file(&path).map_err(Error::io("remove", named(&path)))?;
                continue;
            }
            Whose::Theirs => continue,
        }
        let packed = with_zst(&path);
        if packed.exists() && is_packed(&path, &packed).map_err(Error::io("read", named(&path)))? {
            fs::remove_file(&path).map_err(Error::io("remove", named(&path)))?;
            continue;
        }
        let torn = cut_torn(&path).map_err(Error::io("repair", named(&path)))?;
        repaired.torn += torn;
        let length = fs::metadata(&path).map_err(Error::io("read", named(&path)))?.len();
        repaired.open.push((path, length));
    }
    Ok(repaired)
}

enum Whose {
    /// A segment.
    Ours,
    /// A segment that ends in its first line: it holds no record.
    Begun,
    Theirs,
}

/// Whose a file is.
fn whose(path: &Path) -> io::Result<Whose> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(Whose::Theirs);
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Whose::Theirs),
        Err(error) => return Err(error),
    };
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    file.by_ref().take(LONGEST_OPENING).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        return Ok(if is_identity(&line) { Whose::Ours } else { Whose::Theirs });
    }
    let begun = line.iter().position(|byte| *byte == 0).map_or(&line[..], |zeros| &line[..zeros]);
    let ours = begun.starts_with(OPENING) || OPENING.starts_with(begun);
    // After a loss of power zeros may stand for what was written.
    let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    if !ours || !zeros(&line[begun.len()..]) {
        return Ok(Whose::Theirs);
    }
    loop {
        let more = file.fill_buf()?;
        if more.is_empty() {
            return Ok(Whose::Begun);
        }
        if !zeros(more) {
            return Ok(Whose::Theirs);
        }
        let length = more.len();
        file.consume(length);
    }
}

fn is_identity(line: &[u8]) -> bool {
    let (mut version, mut identity) = (false, false);
    let mut cursor = Cursor::new(line);
    let read = cursor.object::<Fault>(|c, key| {
        match key {
            b"tito_log" => version = c.scalar()?.number().is_some(),
            b"type" => identity = c.raw()? == b"\"identity\"",
            _ => {}
        }
        Ok(())
    });
    read.is_ok() && cursor.at_end() && version && identity
}

/// Cuts a file behind its last whole line; gives how many bytes went.
fn cut_torn(path: &Path) -> io::Result<u64> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = line_start(&mut file, end)?;
        let mut line = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut line)?;
        // After a loss of power a line may be whole in length and hold zeros.
        let mut cursor = Cursor::new(&line);
        if line.last() == Some(&b'\n') && cursor.skip().is_ok() && cursor.at_end() {
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(length - end)
}

/// Where the line begins that ends at `end`.
fn line_start(file: &mut File, end: u64) -> io::Result<u64> {
    let mut block = vec![0; 1 << 16];
    // The line's own end does not count.
    let mut upto = end - 1;
    while upto > 0 {
        let from = upto.saturating_sub(block.len() as u64);
        let part = &mut block[..(upto - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(part)?;
        if let Some(n) = memchr::memrchr(b'\n', part) {
            return Ok(from + n as u64 + 1);
        }
        upto = from;
    }
    Ok(0)
}
