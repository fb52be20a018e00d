//! A capture file of any bytes, read as `tito convert` reads it: no panic, no hang, ranges inside the arenas, and the
//! same calls whether or not ids are copied from earlier lists.
//!
//! From the root of the repository, with `cargo install cargo-fuzz` and the stable toolchain (likewise `json_vs_serde`):
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir rust/fuzz --sanitizer none reader rust/fuzz/corpus/reader
//! rust/fuzz/seeds/reader -- -dict=rust/fuzz/json.dict -max_len=16384 -timeout=5 -max_total_time=300`
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};
use tito_core::capture::{Call, FORMATS, Finish, Parsed, Sources, Unit, parse, status};
use tito_core::convert::Options;
use tito_core::ids::Profile;
use tito_core::json::{Cursor, IdReader};

/// In memory, and named so that CooperBench's reading of folders and file names has something to find.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("tito-fuzz-{}", std::process::id()));
    let shared = PathBuf::from("/dev/shm");
    let folder = if shared.is_dir() { shared.join(folder.file_name().expect("it has a name")) } else { folder };
    let folder = folder.join("x_task/12/f3_f7");
    std::fs::create_dir_all(&folder).expect("a folder for the capture");
    folder.join("agent1_full_traj.json")
});

/// A call with its ids in place of ranges, and without what reuse may change.
type Plain = (Option<Vec<i32>>, Option<Vec<i32>>, Option<Vec<u32>>, Call);

fn plain(parsed: &Parsed<'_>, call: &Call) -> Plain {
    let ids = |range: &Option<Range<usize>>, arena: &[i32]| {
        range.clone().map(|range| arena.get(range).expect("ids lie in the arena").to_vec())
    };
    let prompt = ids(&call.prompt, &parsed.prompts.values);
    let output = ids(&call.output, &parsed.outputs.values);
    // Bits, so that NaN is equal to itself.
    let logprobs = call.logprobs.clone().map(|range| {
        parsed.logprobs.get(range).expect("logprobs lie in the arena").iter().map(|p| p.to_bits()).collect()
    });
    for ids in [&prompt, &output].into_iter().flatten() {
        assert!(ids.iter().all(|id| (0..=call.max_id).contains(id)), "an id beyond 0..={}", call.max_id);
    }
    if let (Some((earlier, n)), Some(prompt)) = (&call.shared, &prompt) {
        let earlier = &parsed.prompts.values[earlier.clone()];
        assert_eq!(earlier[..*n], prompt[..*n], "a shared prefix that is none");
    }
    let rest = Call { prompt: None, output: None, logprobs: None, shared: None, max_id: 0, ..call.clone() };
    (prompt, output, logprobs, rest)
}

fn read_file(from: Option<&str>) -> Result<(), tito_core::Error> {
    let named = [FILE.to_string_lossy().into_owned()];
    let mut sources = Sources::new(&named, from, None, Arc::new(AtomicU64::new(0)))?;
    while let Some(unit) = sources.next_unit(Unit::default())? {
        let mut parsed = Parsed::default();
        parse(&unit, &mut parsed);
        let mut alone = Parsed { prompts: IdReader::alone(), ..Parsed::default() };
        parse(&unit, &mut alone);
        let mut next = 0;
        for piece in &parsed.pieces {
            assert_eq!(piece.calls.start, next, "pieces do not follow each other");
            assert!(piece.calls.start <= piece.calls.end && piece.calls.end <= parsed.calls.len());
            next = piece.calls.end;
        }
        assert_eq!(next, parsed.calls.len(), "a call in no piece");
        let calls = |parsed: &Parsed<'_>| parsed.calls.iter().map(|call| plain(parsed, call)).collect::<Vec<_>>();
        assert_eq!(calls(&parsed), calls(&alone), "calls differ by reuse");
        assert_eq!(parsed.pieces, alone.pieces);
        assert_eq!(parsed.lost, alone.lost);
    }
    Ok(())
}

/// Reads a list at every bracket, whatever the file is: once as the next of many, once alone.
fn read_lists(text: &[u8]) {
    let mut reader = IdReader::default();
    for at in text.iter().enumerate().filter(|(_, byte)| **byte == b'[').map(|(at, _)| at).take(64) {
        let (mut one, mut other, mut alone) = (Cursor::new(&text[at..]), Cursor::new(&text[at..]), IdReader::default());
        match (reader.read_like_before(&mut one), alone.read(&mut other)) {
            (Ok(Ok(Some(list))), Ok(Ok(Some(lone)))) => {
                assert_eq!(reader.values[list.ids.clone()], alone.values[lone.ids]);
                assert!(list.max >= lone.max);
                assert_eq!(one.pos(), other.pos());
            }
            (Ok(Err(fault)), Ok(Err(lone))) => {
                assert_eq!(fault, lone);
                assert_eq!(one.pos(), other.pos());
            }
            (Err(fault), Err(lone)) => assert_eq!(fault, lone),
            (read, lone) => panic!("{read:?} is not {lone:?}"),
        }
    }
}

fuzz_target!(|text: &[u8]| {
    std::fs::write(&*FILE, text).expect("room for the capture");
    if read_file(None).is_err() {
        // What is no capture by its keys is read as one all the same.
        let _ = read_file(Some(FORMATS[text.len() % FORMATS.len()].name));
    }
    read_lists(text);
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = (Options::from_json(text), Profile::from_json(text), Finish::parse(text), status(text));
    }
});
