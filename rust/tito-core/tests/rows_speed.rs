//! Encoding speed and size on agent-like rows, printed, not judged:
//! `cargo test --release -p tito-core --test rows_speed -- --ignored --nocapture`. `TITO_SPEED_OUT=FILE` keeps the file.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::PathBuf;
use std::time::{Duration, Instant};
use tito_core::rows::{Batch, Encoder, Format, Ragged, RowMeta, Sink, WriteOptions};

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
    fn text(&mut self, length: usize, into: &mut Vec<i32>) {
        let end = into.len() + length;
        while into.len() < end {
            if into.len() > 500 && self.below(30) == 0 {
                let start = into.len() - 1 - self.below(into.len().min(8000) - 1);
                let length = (4 + self.below(24)).min(end - into.len()).min(into.len() - start);
                into.extend_from_within(start..start + length);
            } else {
                let u = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
                into.push((150_000.0 * u.powi(6)) as i32);
            }
        }
    }
}

fn meta(rollout: usize, turn: usize) -> RowMeta {
    RowMeta {
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
        turn: Some(turn as i32),
        reward: Some(0.5),
        source: "native".into(),
        capture_format: "verifiers".into(),
        capture_file: "dump/results.jsonl".into(),
        capture_record: rollout as i64 + 1,
        capture_hash: [turn as u8; 16],
        flags: 2,
    }
}

/// Trajectories of 20 to 100 turns in batches of about 2 M ids. `late` of ten rewrite history: at every eighth turn the
/// think parts of all earlier outputs leave the prompt, as Qwen3's template does at a user message.
fn batches(total: usize, late: usize) -> Vec<Batch> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut system = Vec::new();
    random.text(2500, &mut system);
    let (mut batches, mut batch, mut made, mut rollout) = (Vec::new(), Batch::default(), 0, 0);
    while made < total {
        let turns = 20 + random.below(80);
        let rewrites = rollout % 10 < late;
        // The history in pieces; the flag says that a piece is thinking.
        let mut history: Vec<(bool, Vec<i32>)> = vec![(false, system.clone())];
        let mut before: Vec<i32> = Vec::new();
        for turn in 0..turns {
            if rewrites && turn % 8 == 7 {
                history.retain(|(thinking, _)| !thinking);
            }
            let mut prompt: Vec<i32> = history.iter().flat_map(|(_, piece)| piece).copied().collect();
            prompt.extend([151_644, 77_091, 198]);
            let (mut thought, mut said, mut seen) = (vec![151_667], Vec::new(), Vec::new());
            random.text(130, &mut thought);
            random.text(110, &mut said);
            let length = 90 + random.below(100);
            random.text(length, &mut seen);
            let shared = before.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
            push(&mut batch.input_ids, &prompt);
            push(&mut batch.output_ids, &said);
            batch.shared.push(if batch.meta.is_empty() { 0 } else { shared });
            batch.meta.push(meta(rollout, turn));
            made += prompt.len() + said.len();
            history.push((false, vec![151_644, 77_091, 198]));
            if rewrites {
                history.push((true, thought));
            }
            history.extend([(false, said), (false, seen)]);
            before = prompt;
            if batch.input_ids.values.len() + before.len() > 2 << 20 {
                batches.push(std::mem::take(&mut batch));
            }
        }
        rollout += 1;
    }
    batches.push(batch);
    batches
}

fn push(lists: &mut Ragged<i32>, values: &[i32]) {
    let start = lists.values.len();
    lists.values.extend_from_slice(values);
    lists.ranges.push(start..lists.values.len());
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn measure(name: &str, batches: &[Batch], options: &WriteOptions) {
    let ids: usize = batches.iter().map(|b| b.input_ids.values.len() + b.output_ids.values.len()).sum();
    let folder = tempfile::tempdir().unwrap();
    let mut seconds = Vec::new();
    let (mut bytes, mut appending) = (0, Duration::ZERO);
    for _ in 0..5 {
        let path = folder.path().join("rows");
        let mut encoder = Encoder::new(options).unwrap();
        let mut sink = Sink::create(&path, options).unwrap();
        let (mut encoding, mut rest) = (Duration::ZERO, Duration::ZERO);
        for batch in batches {
            let mut batch = batch.clone();
            let start = cpu_thread();
            let encoded = encoder.encode(&mut batch).unwrap();
            let middle = cpu_thread();
            sink.append(encoded).unwrap();
            encoding += middle - start;
            rest += cpu_thread() - middle;
        }
        let finished = sink.finish(&[]).unwrap();
        bytes = finished.bytes();
        finished.commit().unwrap();
        seconds.push(encoding);
        appending = rest;
        if let Ok(out) = std::env::var("TITO_SPEED_OUT") {
            std::fs::copy(&path, PathBuf::from(out).with_extension(name)).unwrap();
        }
    }
    seconds.sort();
    let rate = (4 * ids) as f64 / seconds[2].as_secs_f64() / 1e9;
    println!(
        "{name}: {:.0} MB of ids, encode {:.0} ms (median CPU of 5; {rate:.2} GB/s), append {:.0} ms, {:.2} MB, {:.4} B/id",
        4.0 * ids as f64 / 1e6,
        seconds[2].as_secs_f64() * 1e3,
        appending.as_secs_f64() * 1e3,
        bytes as f64 / 1e6,
        bytes as f64 / ids as f64,
    );
}

/// CPU time of this thread, at the scheduler's grain.
fn cpu_thread() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    for late in [0, 2] {
        let batches = batches(40_000_000, late);
        println!("{} batches, {late} of 10 rollouts rewrite their history", batches.len());
        let start = Instant::now();
        measure(&format!("own-{late}"), &batches, &WriteOptions::default());
        measure(&format!("zstd3-{late}"), &batches, &WriteOptions { level: Some(3), ..WriteOptions::default() });
        measure(&format!("zstd1-{late}"), &batches, &WriteOptions { level: Some(1), ..WriteOptions::default() });
        measure(&format!("jsonl-{late}"), &batches, &WriteOptions { format: Format::Jsonl, ..WriteOptions::default() });
        println!("{:.1} s wall, {:.1} s CPU so far", start.elapsed().as_secs_f64(), cpu().as_secs_f64());
    }
}
