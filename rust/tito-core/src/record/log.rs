//! The log on disk: segments of lines, one thread that writes them, and the repair of what a crash left.
//!
//! A line is whole or not there: a write that fails is taken back, what is torn behind the last line end is cut off at
//! the next start. Lines that wait are written and synced together. A segment that is full is compressed under another
//! name, which it gets when it is whole. A short line that only the system must have may be written where it is appended,
//! while writing is quick: two threads that wake each other take longer.

use super::segment::{Repaired, pack, repair, with_zst};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// When a line counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The system has it: it survives the end of this process.
    Flush,
    /// The disk has it: it survives the end of the machine.
    Fsync,
}

/// What became of lines: all up to `upto` are settled, and those in `failed` are not in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Number of the last line that was dealt with.
    pub upto: u64,
    /// First and last number, and what the system said.
    pub failed: Vec<(u64, u64, String)>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    appended: u64,
    opening: Vec<u8>,
    settled: Settled,
    segments: u64,
    bytes: u64,
    closing: bool,
}

/// Longer lines are the thread's: the system may take its time for them.
const AT_ONCE: usize = 1 << 16;
/// A write that takes so long says that the disk is behind; for a while then whoever appends waits for none.
const SLOW: Duration = Duration::from_millis(5);
const SLOW_FOR: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    /// Locked before the queue.
    writer: Mutex<Writer>,
    wake: UnixStream,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line where that is quick: nothing waits, nobody writes, and the segment takes it. Gives its number, or
    /// the line back.
    fn at_once(&self, line: Vec<u8>) -> std::result::Result<u64, Vec<u8>> {
        let Ok(mut writer) = self.writer.try_lock() else { return Err(line) };
        let mut queue = self.lock();
        if line.len() > AT_ONCE || !writer.is_quick() || !queue.waiting.is_empty() || queue.closing {
            return Err(line);
        }
        queue.appended += 1;
        let number = queue.appended;
        drop(queue);
        let begun = Instant::now();
        writer.settle(&[line], number, self);
        if begun.elapsed() > SLOW {
            writer.slow_until = Some(Instant::now() + SLOW_FOR);
        }
        Ok(number)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// Repairs what lies in the folder and starts a new segment, which begins with `opening` (whole lines). A byte is
    /// written to `wake` whenever [`Log::settled`] has news.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(
        folder: &Path,
        limit: u64,
        durability: Durability,
        opening: Vec<u8>,
        wake: UnixStream,
    ) -> Result<(Self, Repaired)> {
        let name = folder.to_string_lossy().into_owned();
        fs::create_dir_all(folder).map_err(Error::io("make", &name))?;
        let repaired = repair(folder)?;
        wake.set_nonblocking(true).map_err(Error::io("set up the thread that writes to", &name))?;
        let mut writer = Writer {
            folder: folder.to_owned(),
            limit,
            durability,
            number: repaired.last,
            segment: None,
            packers: Vec::new(),
            slow_until: None,
        };
        // What was left open is packed while the new segment is written.
        for (path, length) in &repaired.open {
            writer.pack(path.clone(), *length);
        }
        writer.begin(opening.clone())?;
        let queue = Queue { opening, segments: 1, ..Queue::default() };
        let shared =
            Arc::new(Shared { queue: Mutex::new(queue), more: Condvar::new(), writer: Mutex::new(writer), wake });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("tito-log".to_owned()).spawn(move || run(&shared))
        };
        let thread = thread.map_err(Error::io("start the thread that writes to", &name))?;
        Ok((Self { shared, thread: Some(thread) }, repaired))
    }

    /// Hands a line over (with its line end), to be written here if `here` and if that is quick, else by the thread. Gives
    /// its number, from 1, and whether [`Log::settled`] tells of it already.
    pub fn append(&self, line: Vec<u8>, here: bool) -> (u64, bool) {
        let line = match if here { self.shared.at_once(line) } else { Err(line) } {
            Ok(number) => return (number, true),
            Err(line) => line,
        };
        let mut queue = self.shared.lock();
        queue.appended += 1;
        let number = queue.appended;
        if queue.closing {
            queue.settled.upto = number;
            queue.settled.failed.push((number, number, "the log is closed".to_owned()));
            return (number, true);
        }
        // A thread that is at work looks again before it sleeps.
        let asleep = queue.waiting.is_empty();
        queue.waiting.push_back(line);
        drop(queue);
        if asleep {
            self.shared.more.notify_one();
        }
        (number, false)
    }

    /// What became of lines since the last time.
    #[must_use]
    pub fn settled(&self) -> Settled {
        let mut queue = self.shared.lock();
        Settled { upto: queue.settled.upto, failed: std::mem::take(&mut queue.settled.failed) }
    }

    /// What the next segment begins with.
    pub fn set_opening(&self, opening: Vec<u8>) {
        self.shared.lock().opening = opening;
    }

    /// Segments begun, and bytes written to them.
    #[must_use]
    pub fn written(&self) -> (u64, u64) {
        let queue = self.shared.lock();
        (queue.segments, queue.bytes)
    }

    /// Writes what waits, closes and packs the segment.
    pub fn close(&mut self) {
        self.shared.lock().closing = true;
        self.shared.more.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was told on its own; its lines are settled as failed by whoever waits no longer.
            let _ = thread.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// A line of the log: an object's members, then the request and the reply as they stand, on one line.
#[must_use]
pub fn line(head: &[u8], request: Option<&[u8]>, response: Option<&[u8]>) -> Vec<u8> {
    let length = |part: Option<&[u8]>| part.map_or(0, |part| part.len() + 16);
    let mut out = Vec::with_capacity(head.len() + length(request) + length(response) + 2);
    out.extend_from_slice(head.strip_suffix(b"}").unwrap_or(head));
    for (key, part) in [("request", request), ("response", response)] {
        if let Some(part) = part {
            out.extend_from_slice(b", \"");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\": ");
            // A line end in JSON stands between values: inside a string it is written as an escape.
            let mut start = out.len();
            out.extend_from_slice(part);
            while let Some(end) = memchr::memchr2(b'\n', b'\r', &out[start..]) {
                out[start + end] = b' ';
                start += end + 1;
            }
        }
    }
    out.extend_from_slice(b"}\n");
    out
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    /// Lines besides the opening.
    lines: u64,
}

#[derive(Debug)]
struct Writer {
    folder: PathBuf,
    limit: u64,
    durability: Durability,
    number: u64,
    segment: Option<Segment>,
    packers: Vec<JoinHandle<()>>,
    slow_until: Option<Instant>,
}

/// The thread that writes.
fn run(shared: &Shared) {
    let mut batch = Vec::new();
    loop {
        let mut queue = shared.lock();
        while queue.waiting.is_empty() && !queue.closing {
            queue = shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        let mut writer = shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue = shared.lock();
        batch.extend(queue.waiting.drain(..));
        let upto = queue.appended;
        drop(queue);
        if batch.is_empty() {
            writer.end();
            for packer in writer.packers.drain(..) {
                let _ = packer.join();
            }
            return;
        }
        writer.settle(&batch, upto, shared);
        batch.clear();
        drop(writer);
        // Full means that whoever listens has not looked yet, and will; gone means that nobody listens.
        let _ = (&shared.wake).write(&[1]);
    }
}

impl Writer {
    /// Whether a line can be written without a sync, without another segment, and the last ones took no time.
    fn is_quick(&self) -> bool {
        self.durability == Durability::Flush
            && self.segment.as_ref().is_some_and(|segment| segment.length < self.limit)
            && self.slow_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Writes lines, the last of which has the number `upto`, and says what became of them.
    fn settle(&mut self, lines: &[Vec<u8>], upto: u64, shared: &Shared) {
        let written = self.write(lines, shared);
        let mut queue = shared.lock();
        queue.settled.upto = upto;
        match written {
            Ok(()) => queue.bytes += lines.iter().map(|line| line.len() as u64).sum::<u64>(),
            Err(error) => queue.settled.failed.push((upto - lines.len() as u64 + 1, upto, error.to_string())),
        }
    }

    /// Writes lines; all of them or none.
    fn write(&mut self, batch: &[Vec<u8>], shared: &Shared) -> Result<()> {
        if self.segment.as_ref().is_some_and(|segment| segment.length >= self.limit) {
            self.end();
        }
        if self.segment.is_none() {
            let opening = shared.lock().opening.clone();
            self.begin(opening)?;
            shared.lock().segments += 1;
        }
        let Some(segment) = &mut self.segment else { return Ok(()) };
        match append(segment, batch, self.durability) {
            Ok(()) => {
                segment.lines += batch.len() as u64;
                Ok(())
            }
            Err(error) => {
                // After a failed sync nobody knows what the disk holds, so the segment gets no more lines.
                let name = segment.path.to_string_lossy().into_owned();
                self.end();
                Err(Error::io("write", name)(error))
            }
        }
    }

    fn begin(&mut self, opening: Vec<u8>) -> Result<()> {
        let (path, file) = loop {
            let path = self.folder.join(format!("calls-{:06}.jsonl", self.number + 1));
            if with_zst(&path).exists() {
                self.number += 1;
                continue;
            }
            match OpenOptions::new().create_new(true).append(true).open(&path) {
                Ok(file) => break (path, file),
                // Somebody put it there since the start: it is not this log's to touch.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.number += 1,
                Err(error) => return Err(Error::io("write", path.to_string_lossy())(error)),
            }
        };
        let mut segment = Segment { path: path.clone(), file, length: 0, lines: 0 };
        let opened = append(&mut segment, &[opening], self.durability).and_then(|()| match self.durability {
            Durability::Flush => Ok(()),
            Durability::Fsync => File::open(&self.folder)?.sync_all(),
        });
        if let Err(error) = opened {
            // An empty file that is left on a full disk would be one more with every try.
            let _ = fs::remove_file(&path);
            return Err(Error::io("write", path.to_string_lossy())(error));
        }
        self.number += 1;
        self.segment = Some(segment);
        Ok(())
    }

    /// Closes the segment and packs it on a thread of its own.
    fn end(&mut self) {
        let Some(segment) = self.segment.take() else { return };
        let Segment { path, lines, length, .. } = segment;
        if lines == 0 {
            let _ = fs::remove_file(&path);
            return;
        }
        self.pack(path, length);
    }

    fn pack(&mut self, path: PathBuf, length: u64) {
        self.packers.retain(|packer| !packer.is_finished());
        let spawned = std::thread::Builder::new().name("tito-pack".to_owned()).spawn(move || {
            // What cannot be packed (a full disk) stays as it is, is read like any other file, and is packed at the
            // next start.
            let _ = pack(&path, length);
        });
        self.packers.extend(spawned.ok());
    }
}

fn append(segment: &mut Segment, lines: &[Vec<u8>], durability: Durability) -> io::Result<()> {
    let result = write_all(&mut segment.file, lines).and_then(|()| match durability {
        Durability::Flush => Ok(()),
        Durability::Fsync => segment.file.sync_data(),
    });
    match result {
        Ok(()) => segment.length += lines.iter().map(|line| line.len() as u64).sum::<u64>(),
        // What stays of the lines all the same is not packed with the whole ones.
        Err(_) => segment.file.set_len(segment.length)?,
    }
    result
}

fn write_all(file: &mut File, lines: &[Vec<u8>]) -> io::Result<()> {
    match lines {
        [line] => file.write_all(line),
        _ => file.write_all(&lines.concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const OPENING: &str = "{\"tito_log\": 1, \"type\": \"identity\"}\n";

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn open_with(folder: &Path, limit: u64, durability: Durability) -> (Log, Repaired, UnixStream) {
        let (wake, listen) = UnixStream::pair().expect("a pair");
        let (log, repaired) = Log::open(folder, limit, durability, OPENING.as_bytes().to_vec(), wake).expect("a log");
        (log, repaired, listen)
    }

    fn open(folder: &Path, limit: u64) -> (Log, Repaired) {
        let (log, repaired, _) = open_with(folder, limit, Durability::Flush);
        (log, repaired)
    }

    /// Appends a line and waits until it is settled.
    fn write(log: &Log, listen: &mut UnixStream, line: &str) -> (u64, bool) {
        let (number, at_once) = log.append(line.as_bytes().to_vec(), true);
        if !at_once {
            listen.read_exact(&mut [0]).expect("a wake");
        }
        (number, at_once)
    }

    fn text(path: &Path) -> String {
        String::from_utf8(zstd::stream::decode_all(File::open(path).expect("a file")).expect("zstd")).expect("text")
    }

    #[test]
    fn lines_are_settled_segments_turn_and_are_packed() {
        for durability in [Durability::Flush, Durability::Fsync] {
            lines_are_settled(durability);
        }
    }

    fn lines_are_settled(durability: Durability) {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut log, repaired, mut listen) = open_with(folder.path(), 40, durability);
        assert_eq!(repaired, Repaired::default());
        for n in 1..=4 {
            // The others come to a full segment, and another one is the thread's to begin.
            let at_once = durability == Durability::Flush && n == 1;
            let line = format!("{{\"line\":{n},\"text\":\"0123456789\"}}\n");
            assert_eq!(write(&log, &mut listen, &line), (n, at_once));
            assert_eq!(log.settled(), Settled { upto: n, failed: Vec::new() });
        }
        log.close();
        let packed =
            ["calls-000001.jsonl.zst", "calls-000002.jsonl.zst", "calls-000003.jsonl.zst", "calls-000004.jsonl.zst"];
        assert_eq!(names(folder.path()), packed);
        for (n, name) in (1..).zip(packed) {
            let expected = format!("{OPENING}{{\"line\":{n},\"text\":\"0123456789\"}}\n");
            assert_eq!(text(&folder.path().join(name)), expected);
        }
        let (mut log, repaired) = open(folder.path(), 40);
        assert_eq!(repaired.last, 4);
        log.close();
        assert_eq!(names(folder.path()), packed, "a segment without lines leaves nothing");
    }

    #[test]
    fn a_long_line_is_written_by_the_thread_and_a_short_one_stays_behind_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut log, _, mut listen) = open_with(folder.path(), 1 << 30, Durability::Flush);
        let long = |n: usize| format!("{{\"line\":{n},\"text\":\"{}\"}}\n", "x".repeat(AT_ONCE)).into_bytes();
        let mut expected = OPENING.to_owned();
        for n in 0..100 {
            assert_eq!(log.append(long(n), true), (2 * n as u64 + 1, false));
            let short = format!("{{\"line\":{n}}}\n").into_bytes();
            expected += &String::from_utf8([long(n), short.clone()].concat()).expect("text");
            assert_eq!(log.append(short, true).0, 2 * n as u64 + 2);
        }
        while log.settled().upto < 200 {
            listen.read_exact(&mut [0]).expect("a wake");
        }
        log.close();
        assert!(text(&folder.path().join("calls-000001.jsonl.zst")) == expected);
    }

    #[test]
    fn a_closed_log_takes_no_line_and_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut log, _) = open(folder.path(), 1 << 30);
        log.append(b"{\"a\":1}\n".to_vec(), true);
        log.close();
        for n in [2, 3] {
            assert_eq!(log.append(b"{\"b\":2}\n".to_vec(), true), (n, true));
            let failed = vec![(n, n, "the log is closed".to_owned())];
            assert_eq!(log.settled(), Settled { upto: n, failed });
        }
        assert_eq!(names(folder.path()), ["calls-000001.jsonl.zst"]);
        assert_eq!(text(&folder.path().join("calls-000001.jsonl.zst")), format!("{OPENING}{{\"a\":1}}\n"));
    }

    #[test]
    fn whoever_appends_waits_for_no_slow_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, _, mut listen) = open_with(folder.path(), 1 << 30, Durability::Flush);
        let slow_until = |at| log.shared.writer.lock().expect("no panic").slow_until = Some(at);
        slow_until(Instant::now() + SLOW_FOR);
        assert_eq!(write(&log, &mut listen, "{}\n"), (1, false));
        slow_until(Instant::now());
        assert_eq!(write(&log, &mut listen, "{}\n"), (2, true));
    }

    #[test]
    fn a_file_that_came_to_lie_in_the_folder_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let (mut log, _, mut listen) = open_with(folder.path(), 40, Durability::Flush);
        fs::write(at("calls-000002.jsonl"), "mine\n").expect("written");
        fs::write(at("calls-000003.jsonl"), "mine too\n").expect("written");
        for n in 1..=2 {
            write(&log, &mut listen, &format!("{{\"line\":{n},\"text\":\"0123456789\"}}\n"));
            assert_eq!(log.settled(), Settled { upto: n, failed: Vec::new() });
        }
        assert_eq!(log.written().0, 2);
        log.close();
        let kept = ["calls-000001.jsonl.zst", "calls-000002.jsonl", "calls-000003.jsonl", "calls-000004.jsonl.zst"];
        assert_eq!(names(folder.path()), kept);
        // Neither do later starts take it for what a crash left.
        fs::write(at("calls-7.jsonl"), "{\"a\":1}\nnote to self\n").expect("written");
        fs::write(at("calls-8.jsonl"), "{\"tito_log\": 1, \"type\": \"call\"}\n{\"torn").expect("written");
        fs::write(at("calls-9.jsonl"), "no line end").expect("written");
        fs::create_dir(at("calls-10.jsonl")).expect("made");
        fs::write(at(".calls-mine.zst.tmp"), "mine").expect("written");
        let before = names(folder.path());
        for _ in 0..2 {
            let (mut log, repaired) = open(folder.path(), 40);
            assert_eq!(repaired, Repaired { last: 10, ..Repaired::default() });
            log.close();
        }
        assert_eq!(names(folder.path()), before);
        assert_eq!(fs::read_to_string(at("calls-7.jsonl")).expect("text"), "{\"a\":1}\nnote to self\n");
        assert_eq!(fs::read(at("calls-9.jsonl")).expect("bytes"), b"no line end");
        assert_eq!(fs::read_to_string(at("calls-000002.jsonl")).expect("text"), "mine\n");
        assert_eq!(fs::read_to_string(at("calls-000003.jsonl")).expect("text"), "mine too\n");
        assert_eq!(text(&at("calls-000004.jsonl.zst")), format!("{OPENING}{{\"line\":2,\"text\":\"0123456789\"}}\n"));
    }

    #[test]
    fn a_packed_segment_never_replaces_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for _ in 0..2 {
            // The second time a start finds both, and no more has the first one's name.
            let (mut log, _) = open(folder.path(), 40);
            log.append(b"{\"line\":1}\n".to_vec(), true);
            fs::write(at("calls-000001.jsonl.zst"), "mine").expect("written");
            log.close();
            assert_eq!(fs::read_to_string(at("calls-000001.jsonl.zst")).expect("text"), "mine");
            let kept = fs::read_to_string(at("calls-000001.jsonl")).expect("text");
            assert_eq!(kept, format!("{OPENING}{{\"line\":1}}\n"));
        }
        let names = names(folder.path());
        assert_eq!(names, ["calls-000001.jsonl", "calls-000001.jsonl.zst", "calls-000002.jsonl.zst"]);
    }

    #[test]
    fn a_number_whose_packed_name_is_taken_is_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut log, _, mut listen) = open_with(folder.path(), 38, Durability::Flush);
        fs::write(folder.path().join("calls-000002.jsonl.zst"), "mine").expect("written");
        for _ in 0..2 {
            write(&log, &mut listen, "{}\n");
        }
        log.close();
        let kept = ["calls-000001.jsonl.zst", "calls-000002.jsonl.zst", "calls-000003.jsonl.zst"];
        assert_eq!(names(folder.path()), kept);
        assert_eq!(fs::read(folder.path().join("calls-000002.jsonl.zst")).expect("bytes"), b"mine");
    }

    #[test]
    fn a_line_that_could_not_be_taken_back_is_not_packed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("calls-000001.jsonl");
        fs::write(&path, "{\"a\":1}\n{\"b\":2}\n{\"torn").expect("written");
        // Neither can it be written to nor be cut.
        let file = OpenOptions::new().append(true).open("/dev/full").expect("a full device");
        let (wake, _listen) = UnixStream::pair().expect("a pair");
        let writer = Writer {
            folder: folder.path().to_owned(),
            limit: 1000,
            durability: Durability::Flush,
            number: 1,
            segment: Some(Segment { path, file, length: 8, lines: 1 }),
            packers: Vec::new(),
            slow_until: None,
        };
        let shared = Shared { queue: Mutex::default(), more: Condvar::new(), writer: Mutex::new(writer), wake };
        assert_eq!(shared.at_once(b"{\"b\":2}\n".to_vec()), Ok(1));
        let settled = shared.lock().settled.clone();
        assert!(matches!(&settled.failed[..], [(1, 1, _)]), "{settled:?}");
        for packer in shared.writer.into_inner().expect("no panic").packers {
            packer.join().expect("no panic");
        }
        assert_eq!(names(folder.path()), ["calls-000001.jsonl.zst"]);
        assert_eq!(text(&folder.path().join("calls-000001.jsonl.zst")), "{\"a\":1}\n");
    }

    #[test]
    fn what_a_crash_left_is_mended() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(at(name), text).expect("written");
        let whole = format!("{OPENING}{{\"b\":\"x\\n\"}}\n");
        let zeros = "\0".repeat(200_000);
        write("calls-000001.jsonl", &format!("{whole}{{\"c\":[1,2"));
        write("calls-000002.jsonl", &format!("{whole}{zeros}"));
        write("calls-000003.jsonl", "{\"tito_log\": 1, \"ty");
        write("calls-000004.jsonl", OPENING);
        fs::write(at("calls-000004.jsonl.zst"), zstd::encode_all(OPENING.as_bytes(), 3).expect("zstd"))
            .expect("written");
        write(".calls-000005.jsonl.zst.tmp", "half");
        write("calls-000005.jsonl", &format!("{OPENING}null }}\n"));
        write("calls-000006.jsonl", "");
        write("calls-000007.jsonl", &zeros);
        write("calls-000008.jsonl", &format!("{{\"tito{zeros}"));
        write("notes.txt", "mine");
        let (mut log, repaired) = open(folder.path(), 40);
        let torn = 9 + 200_000 + 19 + 7 + 200_000 + 200_006;
        assert_eq!((repaired.last, repaired.torn, repaired.open.len()), (8, torn, 3));
        log.close();
        let packed = names(folder.path());
        assert_eq!(packed[..2], ["calls-000001.jsonl.zst", "calls-000002.jsonl.zst"]);
        assert_eq!(packed[2..], ["calls-000004.jsonl.zst", "calls-000005.jsonl.zst", "notes.txt"]);
        assert_eq!(text(&at("calls-000001.jsonl.zst")), whole);
        assert_eq!(text(&at("calls-000002.jsonl.zst")), whole);
    }
}
