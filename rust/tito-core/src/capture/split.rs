//! Lines of one file to several, so that each can be read for itself.

use super::sources::{Opened, Raw};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Text that waits to be written.
const WAITING_BYTES: usize = 64 << 20;
/// Belongs to the file, not to its first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Written once, read once.
const LEVEL: i32 = 1;

/// Lines of a target, and how many stand in it or wait.
#[derive(Debug, Default)]
struct Target {
    waiting: Vec<u8>,
    lines: u64,
    begun: bool,
}

/// Writes each line to the file `FOLDER/NUMBER.jsonl.zst` of the number that it is given (`u32::MAX`: to none). Lines
/// keep their place: for one that stands elsewhere there is an empty one. Gives the hash of the bytes that were read.
///
/// # Errors
/// `Io`; `Cancelled`.
pub fn split(
    path: &Path,
    numbers: &[u32],
    folder: &Path,
    bytes: Arc<AtomicU64>,
    cancelled: &AtomicBool,
) -> Result<String> {
    let failed = |error| Error::io("read", path.to_string_lossy())(error);
    let mut opened = Opened::open(Raw::new(Box::new(File::open(path).map_err(failed)?), bytes)).map_err(failed)?;
    let mut targets: BTreeMap<u32, Target> = BTreeMap::new();
    let (mut line, mut waiting) = (Vec::new(), 0);
    let mut reader = BufReader::with_capacity(1 << 20, opened.reader());
    for (at, number) in numbers.iter().enumerate() {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(failed)?;
        if *number == u32::MAX {
            continue;
        }
        let line = if at == 0 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line) } else { &line[..] };
        let target = targets.entry(*number).or_default();
        let before = target.waiting.len();
        target.waiting.resize(before + (at as u64 - target.lines) as usize, b'\n');
        target.waiting.extend_from_slice(line);
        target.lines = at as u64 + 1;
        waiting += target.waiting.len() - before;
        if waiting > WAITING_BYTES {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            write(folder, &mut targets)?;
            waiting = 0;
        }
    }
    write(folder, &mut targets)?;
    io::copy(&mut reader, &mut io::sink()).map_err(failed)?;
    drop(reader);
    Ok(opened.raw().finish().map_err(failed)?.1)
}

/// Each time a frame of its own: no file stays open, however many there are.
fn write(folder: &Path, targets: &mut BTreeMap<u32, Target>) -> Result<()> {
    for (number, target) in targets.iter_mut().filter(|(_, target)| !target.waiting.is_empty()) {
        let path = folder.join(format!("{number}.jsonl.zst"));
        let wrote =
            OpenOptions::new().create(true).append(target.begun).write(true).truncate(!target.begun).open(&path);
        let wrote = wrote.and_then(|mut file| file.write_all(&zstd::encode_all(&target.waiting[..], LEVEL)?));
        wrote.map_err(Error::io("write", path.to_string_lossy()))?;
        target.begun = true;
        target.waiting = Vec::new();
    }
    Ok(())
}
