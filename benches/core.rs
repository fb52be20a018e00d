//! The hot kernels, each beside what it is measured against; every pair is first asserted to do the same work.
//!
//! `cargo bench -p tito-core --bench core` (about a minute); `-- strip` runs one group, `-- --save-baseline NAME` and
//! `-- --baseline NAME` compare two states of the code.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use serde::de::IgnoredAny;
use std::hint::black_box;
use std::time::Duration;
use tito_core::ids::merge::{Forest, shared};
use tito_core::ids::pack::{self, Overlong};
use tito_core::ids::think::{Opened, ThinkRule};
use tito_core::ids::{Id, Profile};
use tito_core::json::{Cursor, IdReader};
use tito_core::rows::{Batch, Encoder, Format, Ragged, RowMeta, Sink, WriteOptions};

const HEADER: [Id; 3] = [151_644, 77_091, 198];
const OPEN: Id = 151_667;
const CLOSE: Id = 151_668;
const BLANK_LINE: Id = 271;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() >> 33) as usize % most
    }

    /// Text-like: few ids are frequent, many are rare (about 12 bits an id), and a third is said again.
    fn text(&mut self, length: usize, into: &mut Vec<Id>) {
        let end = into.len() + length;
        while into.len() < end {
            if into.len() > 500 && self.below(30) == 0 {
                let start = into.len() - 1 - self.below(into.len().min(8000) - 1);
                let length = (4 + self.below(24)).min(end - into.len()).min(into.len() - start);
                into.extend_from_within(start..start + length);
            } else {
                let u = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
                into.push((150_000.0 * u.powi(6)) as Id);
            }
        }
    }
}

/// One turn: its prompt and what the row keeps of its output.
struct Turn {
    rollout: usize,
    turn: usize,
    prompt: Vec<Id>,
    said: Vec<Id>,
}

/// Rollouts of 20 to 100 turns. `late` of ten rewrite history: at every eighth turn the think parts of all earlier
/// outputs leave the prompt, as Qwen3's template does at a user message.
fn turns(total: usize, late: usize) -> Vec<Turn> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut system = Vec::new();
    random.text(2500, &mut system);
    let (mut made, mut all) = (0, Vec::new());
    for rollout in 0.. {
        let rewrites = rollout % 10 < late;
        // The history in pieces; the flag says that a piece is thinking.
        let mut history: Vec<(bool, Vec<Id>)> = vec![(false, system.clone())];
        for turn in 0..20 + random.below(80) {
            if rewrites && turn % 8 == 7 {
                history.retain(|(thinking, _)| !thinking);
            }
            let mut prompt: Vec<Id> = history.iter().flat_map(|(_, piece)| piece).copied().collect();
            prompt.extend(HEADER);
            let (mut thought, mut said, mut seen) = (vec![OPEN], Vec::new(), Vec::new());
            random.text(130, &mut thought);
            random.text(110, &mut said);
            let length = 90 + random.below(100);
            random.text(length, &mut seen);
            history.push((false, HEADER.to_vec()));
            if rewrites {
                history.push((true, thought));
            }
            history.extend([(false, said.clone()), (false, seen)]);
            made += prompt.len() + said.len();
            all.push(Turn { rollout, turn, prompt, said });
            if made > total {
                return all;
            }
        }
    }
    all
}

fn group<'c>(c: &'c mut Criterion, name: &str, bytes: usize) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes as u64));
    group
}

/// Growing prompts as JSON: parsed in full, and only where they are new.
fn id_lists(c: &mut Criterion) {
    let turns = turns(1 << 20, 2);
    let lists: Vec<String> = turns.iter().map(|turn| serde_json::to_string(&turn.prompt).unwrap()).collect();
    let text = lists.join("\n");
    let expected: Vec<Id> = turns.into_iter().flat_map(|turn| turn.prompt).collect();
    let mut group = group(c, "id_lists", text.len());
    for (name, alone) in [("alone", true), ("reuse", false)] {
        let mut memory = Vec::new();
        let mut read = || {
            let mut reader = if alone { IdReader::alone() } else { IdReader::default() };
            std::mem::swap(&mut reader.values, &mut memory);
            reader.values.clear();
            let mut cursor = Cursor::new(black_box(text.as_bytes()));
            while !cursor.at_end() {
                reader.read_like_before(&mut cursor).unwrap().unwrap();
            }
            memory = reader.values;
            memory.len()
        };
        assert_eq!(read(), expected.len());
        group.bench_function(name, |b| b.iter(&mut read));
        assert_eq!(memory, expected);
    }
    group.finish();
}

/// What nobody asks for: logprobs of a reply, and a request's text, which is mostly escapes where it is code. Beside
/// serde_json, which checks the grammar on the way.
fn skip(c: &mut Criterion) {
    let mut random = Random(1);
    let entries: Vec<_> = (0..2000)
        .map(|_| {
            let logprob = random.below(1 << 20) as f64 / -1e5;
            let bytes: Vec<usize> = (0..1 + random.below(8)).map(|_| random.below(256)).collect();
            serde_json::json!({"token": "a", "logprob": logprob, "bytes": bytes, "top_logprobs": []})
        })
        .collect();
    let line = |random: &mut Random| format!("{}if x[\"{:x}\"] == '\\n':", " ".repeat(random.below(12)), random.next());
    let code: Vec<String> = (0..4000).map(|_| line(&mut random)).collect();
    let nested = serde_json::json!({"content": entries}).to_string();
    let escaped = serde_json::json!(code.join("\n")).to_string();
    for (name, text) in [("skip_nested", nested), ("skip_escaped", escaped)] {
        let skip = |text: &[u8]| {
            let mut cursor = Cursor::new(text);
            cursor.skip().unwrap();
            cursor.pos()
        };
        let ignore = |text: &[u8]| {
            let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
            values.next().unwrap().unwrap();
            values.byte_offset()
        };
        assert_eq!((skip(text.as_bytes()), ignore(text.as_bytes())), (text.len(), text.len()));
        let mut group = group(c, name, text.len());
        group.bench_function("tito", |b| b.iter(|| skip(black_box(text.as_bytes()))));
        group.bench_function("serde_json", |b| b.iter(|| ignore(black_box(text.as_bytes()))));
        group.finish();
    }
}

/// An id without this byte: what `memchr` looks for in vain.
const ABSENT: u8 = 0xFF;

/// The floor of a strip: a vector search through the same bytes, and a copy of what stays.
fn floor(output: &[Id], from: usize) -> Vec<Id> {
    assert_eq!(memchr::memchr(ABSENT, bytemuck::cast_slice(black_box(output))), None);
    output[from..].to_vec()
}

/// Outputs that are thinking for a good half, and outputs without any marker.
fn think(c: &mut Criterion) {
    let rule = ThinkRule::new(&Profile::built_in("qwen3").unwrap());
    for length in [300, 3_000, 16_000, 100_000] {
        let mut text = Vec::new();
        Random(length as u64).text(length, &mut text);
        // No byte of these is 0xFF.
        text.iter_mut().for_each(|id| *id &= !0x0101);
        let mut output = text.clone();
        let behind = length * 56 / 100;
        output[0] = OPEN;
        output[behind - 2..behind].copy_from_slice(&[CLOSE, BLANK_LINE]);
        for (name, output, from) in [("strip", output, behind), ("strip_markerless", text, 0)] {
            assert_eq!(rule.strip(&output, Opened::No).0, floor(&output, from));
            let mut group = group(c, name, 4 * length);
            let id = |name| BenchmarkId::new(name, length);
            group.bench_function(id("tito"), |b| b.iter(|| rule.strip(black_box(&output), Opened::No)));
            group.bench_function(id("memchr_and_copy"), |b| b.iter(|| floor(&output, from)));
            if from == 0 {
                group.bench_function(id("find"), |b| b.iter(|| rule.find(black_box(&output), Opened::No)));
            }
            group.finish();
        }
    }
}

/// Calls of a rollout, and how many longest sequences they are.
type Calls = (Vec<(Vec<Id>, Vec<Id>)>, usize);

/// A rollout of 40 turns and 57,000 ids, of which 30 % are sampled: prompts that go on from each other; prompts that do
/// not hold 70 % of the answers before; two conversations that take turns.
fn calls(shape: &str) -> Calls {
    let mut random = Random(2);
    let mut text = |length: usize| {
        let mut ids = Vec::new();
        random.text(length, &mut ids);
        ids
    };
    let (turns, each) = (40, 1425);
    let chains = if shape == "sub" { 2 } else { 1 };
    let mut histories = vec![Vec::new(); chains];
    let mut calls = Vec::new();
    for turn in 0..turns {
        let history = &mut histories[turn % chains];
        history.extend(text(each * 7 / 10 + if shape == "think" { each * 21 / 100 } else { 0 }));
        let (prompt, output) = (history.clone(), text(each * 3 / 10));
        history.extend(&output[if shape == "think" { output.len() * 7 / 10 } else { 0 }..]);
        calls.push((prompt, output));
    }
    (calls, if shape == "think" { turns } else { chains })
}

/// Which call continues which, beside the floor: each prompt compared once with the sequence that it goes on from.
fn merge(c: &mut Criterion) {
    for shape in ["append", "think", "sub"] {
        let (calls, sequences) = calls(shape);
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.sort_by_key(|call| calls[*call].0.len());
        let grow = || {
            let mut forest = Forest::new(calls.iter().map(|(prompt, output)| prompt.len() + output.len()));
            let (mut before, mut roots) = (None::<usize>, 0);
            for &call in &order {
                let (prompt, output) = &calls[call];
                let with = |other: usize| shared((&calls[other].0, &calls[other].1), prompt);
                forest.enter(prompt, before.map_or(0, with));
                let fits = |f: &mut Forest| f.candidate().map(|c| c.proven || with(c.call as usize) >= c.length);
                roots += usize::from(!std::iter::from_fn(|| fits(&mut forest)).any(|holds| holds));
                forest.leave(call as u32, call, prompt, output);
                before = Some(call);
            }
            roots
        };
        assert_eq!(grow(), sequences);
        let step = if shape == "sub" { 2 } else { 1 };
        let floor = || -> usize {
            (step..calls.len()).map(|call| shared((&calls[call - step].0, &calls[call - step].1), &calls[call].0)).sum()
        };
        let ids: usize = calls.iter().map(|(prompt, output)| prompt.len() + output.len()).sum();
        let mut group = group(c, "merge", 4 * ids);
        group.bench_function(BenchmarkId::new("forest", shape), |b| b.iter(|| black_box(grow())));
        group.bench_function(BenchmarkId::new("compare_once", shape), |b| b.iter(|| black_box(floor())));
        group.finish();
    }
}

fn batch(turns: Vec<Turn>) -> Batch {
    let mut batch = Batch::default();
    let push = |lists: &mut Ragged<Id>, ids: &[Id]| {
        let start = lists.values.len();
        lists.values.extend_from_slice(ids);
        lists.ranges.push(start..lists.values.len());
    };
    for Turn { rollout, turn, prompt, said } in &turns {
        push(&mut batch.input_ids, prompt);
        push(&mut batch.output_ids, said);
        batch.meta.push(RowMeta {
            loss_spans: None,
            calls: None,
            weight: 1.0,
            rollout_id: Some(format!("rollout-{rollout}").into()),
            task_id: Some(format!("task-{}", rollout / 2).into()),
            pair_id: None,
            agent: Some("a".into()),
            call_id: Some(format!("chatcmpl-{rollout:08}{turn:04}").into()),
            kind: Some("solver".into()),
            status: Some("ok".into()),
            attempt: Some(0),
            turn: Some(*turn as i32),
            reward: Some(0.5),
            source: "native".into(),
            capture_format: "verifiers".into(),
            capture_file: "dump/results.jsonl".into(),
            capture_record: *rollout as i64 + 1,
            capture_hash: [*turn as u8; 16],
            flags: 2,
        });
    }
    batch
}

/// One batch of growing prompts into pages or lines; the rate is of raw int32.
fn encode(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    for (late, name) in [(0, "encode"), (2, "encode_rewritten")] {
        let batch = batch(turns(2 << 20, late));
        let ids = batch.input_ids.values.len() + batch.output_ids.values.len();
        let mut group = group(c, name, 4 * ids);
        group.sample_size(10);
        for (name, format, level) in [
            ("parquet", Format::Parquet, None),
            ("parquet_zstd1", Format::Parquet, Some(1)),
            ("jsonl", Format::Jsonl, None),
        ] {
            let options = WriteOptions { format, level, ..WriteOptions::default() };
            let mut encoder = Encoder::new(&options).unwrap();
            let mut sink = Sink::create(&folder.path().join(name), &options).unwrap();
            sink.append(encoder.encode(&mut batch.clone()).unwrap()).unwrap();
            let finished = sink.finish(&[]).unwrap();
            assert_eq!((finished.rows(), finished.ids()), (batch.meta.len() as u64, ids as u64));
            eprintln!("{name}: {:.4} bytes an id", finished.bytes() as f64 / ids as f64);
            group.bench_function(name, |b| {
                b.iter_batched(
                    || batch.clone(),
                    |mut batch| (encoder.encode(&mut batch).unwrap(), batch),
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }
}

/// First-fit-decreasing as it is said: each pack is asked in turn.
fn pack_by_scan(lengths: &[usize], length: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
    let (mut rooms, mut packs): (Vec<usize>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
    for row in order {
        let at = rooms.iter().position(|room| *room >= lengths[row]).unwrap_or_else(|| {
            rooms.push(length);
            packs.push(Vec::new());
            packs.len() - 1
        });
        rooms[at] -= lengths[row];
        packs[at].push(row);
    }
    packs.iter_mut().for_each(|rows| rows.sort_unstable());
    packs
}

/// Rows of agents (most short, some near the length of a pack) into packs; the rate is of rows.
fn pack(c: &mut Criterion) {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for rows in [1_000, 20_000, 200_000] {
        let lengths: Vec<usize> = (0..rows).map(|_| 100 + random.below(200) * random.below(150)).collect();
        let length = 32_768;
        let mut group = group(c, &format!("pack_{rows}"), rows);
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function("tree", |b| b.iter(|| pack::plan(black_box(&lengths), length, Overlong::Error).unwrap()));
        // A scan of many thousand packs a row takes seconds.
        if rows <= 20_000 {
            let plan = pack::plan(&lengths, length, Overlong::Error).unwrap();
            let packs: Vec<Vec<usize>> = plan.packs().map(<[usize]>::to_vec).collect();
            assert_eq!(packs, pack_by_scan(&lengths, length));
            group.sample_size(10);
            group.bench_function("scan", |b| b.iter(|| pack_by_scan(black_box(&lengths), length)));
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    id_lists(&mut criterion);
    skip(&mut criterion);
    think(&mut criterion);
    merge(&mut criterion);
    encode(&mut criterion);
    pack(&mut criterion);
    criterion.final_summary();
}
