//! Rows that were written are read back by the parquet crate and by serde_json as what they were.
#![allow(clippy::unwrap_used)]

use parquet::basic::Encoding;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::path::Path;
use tito_core::rows::{
    Batch, Encoder, Format, LossSpan, OptionalColumns, Ragged, Reader, RowCall, RowMeta, Sink, Text, WriteOptions,
    compare, encode, schema,
};
use twox_hash::xxhash3_128;

const ALL: OptionalColumns =
    OptionalColumns { loss_mask: true, loss_weights: true, labels: true, output_logprobs: true };

/// One row as the test thinks of it.
#[derive(Debug, Clone)]
struct Row {
    input: Vec<i32>,
    output: Vec<i32>,
    logprobs: bool,
    gap: usize,
    meta: RowMeta,
}

fn hex(hash: &[u8; 16]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

impl Row {
    fn mask(&self) -> Vec<i8> {
        self.labels().iter().map(|l| i8::from(*l != -100)).collect()
    }

    fn weights(&self) -> Vec<f32> {
        self.mask().iter().map(|m| f32::from(*m) * 0.1).collect()
    }

    fn labels(&self) -> Vec<i32> {
        self.input.iter().map(|_| -100).chain(self.output.iter().copied()).collect()
    }

    fn probabilities(&self) -> Vec<f32> {
        if self.logprobs { self.output.iter().map(|id| *id as f32 / -1000.0).collect() } else { Vec::new() }
    }

    /// What a reader must see, spelled out without the schema's help.
    fn expected(&self, optional: OptionalColumns) -> Value {
        let m = &self.meta;
        let mut row = json!({
            "input_ids": self.input,
            "output_ids": self.output,
            "loss_spans": m.loss_spans.as_ref().map(|spans| spans.iter()
                .map(|s| json!({"start": s.start, "end": s.end, "weight": s.weight})).collect::<Vec<_>>()),
            "calls": m.calls.as_ref().map(|calls| calls.iter().map(|c| json!({
                "start": c.start, "end": c.end, "turn": c.turn, "call_id": c.call_id.as_deref(),
                "file": &*c.file, "record": c.record, "hash": hex(&c.hash),
            })).collect::<Vec<_>>()),
            "weight": m.weight,
            "rollout_id": m.rollout_id.as_deref(),
            "task_id": m.task_id.as_deref(),
            "pair_id": m.pair_id.as_deref(),
            "agent": m.agent.as_deref(),
            "call_id": m.call_id.as_deref(),
            "kind": m.kind.as_deref(),
            "status": m.status.as_deref(),
            "attempt": m.attempt,
            "turn": m.turn,
            "reward": m.reward,
            "source": &*m.source,
            "capture_format": &*m.capture_format,
            "capture_file": &*m.capture_file,
            "capture_record": m.capture_record,
            "capture_hash": hex(&m.capture_hash),
            "flags": m.flags,
        });
        if optional == ALL {
            row["loss_mask"] = json!(self.mask());
            row["loss_weights"] = json!(self.weights());
            row["labels"] = json!(self.labels());
            row["output_logprobs"] = if self.logprobs { json!(self.probabilities()) } else { Value::Null };
        }
        row
    }
}

fn push<T: Copy + Default>(lists: &mut Ragged<T>, gap: usize, values: &[T]) {
    lists.values.extend(std::iter::repeat_n(T::default(), gap));
    let start = lists.values.len();
    lists.values.extend_from_slice(values);
    lists.ranges.push(start..lists.values.len());
}

fn batch(rows: &[Row], optional: OptionalColumns) -> Batch {
    let mut batch = Batch::default();
    let (mut mask, mut weights, mut labels) = (Ragged::default(), Ragged::default(), Ragged::default());
    let mut logprobs = (Ragged::default(), Vec::new());
    for row in rows {
        push(&mut batch.input_ids, row.gap, &row.input);
        push(&mut batch.output_ids, row.gap / 2, &row.output);
        push(&mut mask, 0, &row.mask());
        push(&mut weights, row.gap, &row.weights());
        push(&mut labels, 0, &row.labels());
        push(&mut logprobs.0, row.gap, &row.probabilities());
        logprobs.1.push(row.logprobs);
        batch.meta.push(row.meta.clone());
    }
    if optional == ALL {
        batch.loss_mask = Some(mask);
        batch.loss_weights = Some(weights);
        batch.labels = Some(labels);
        batch.output_logprobs = Some(logprobs);
    }
    batch
}

fn write(path: &Path, rows: &[Row], split: usize, options: &WriteOptions) {
    let mut encoder = Encoder::new(options).unwrap();
    let mut sink = Sink::create(path, options).unwrap();
    for rows in rows.chunks(split) {
        sink.append(encoder.encode(&mut batch(rows, options.optional)).unwrap()).unwrap();
    }
    let finished = sink.finish(&[("tito.schema".to_owned(), "1".to_owned())]).unwrap();
    assert_eq!(finished.rows(), rows.len() as u64);
    assert_eq!(finished.ids(), rows.iter().map(|r| r.input.len() + r.output.len()).sum::<usize>() as u64);
    let stated: Vec<_> = finished.files().iter().map(|file| (file.bytes, file.hash.clone())).collect();
    let written = finished.commit().unwrap().into_iter().map(|path| {
        let data = fs::read(path).unwrap();
        (data.len() as u64, format!("xxh3-128:{:032x}", xxhash3_128::Hasher::oneshot(&data)))
    });
    assert_eq!(stated, written.collect::<Vec<_>>());
}

/// A field of the record reader as JSON.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Byte(v) => json!(v),
        Field::Int(v) => json!(v),
        Field::Long(v) => json!(v),
        Field::Float(v) => json!(v),
        Field::Str(v) => json!(v),
        Field::Bytes(v) => json!(hex(v.data().try_into().unwrap())),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::Group(row) => row.get_column_iter().map(|(n, f)| (n.clone(), value(f))).collect::<Map<_, _>>().into(),
        other => panic!("unexpected {other:?}"),
    }
}

fn read_parquet(path: &Path) -> Vec<Value> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().get_column_iter().map(|(n, f)| (n.clone(), value(f))).collect::<Map<_, _>>().into())
        .collect()
}

fn read_lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// JSON text holds the shortest digits of a float32; as float64 they are another number. Compare as float32.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && same(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            a.is_f64() == b.is_f64() && a.as_f64().map(|v| v as f32) == b.as_f64().map(|v| v as f32)
        }
        _ => a == b,
    }
}

fn assert_rows(read: &[Value], rows: &[Row], optional: OptionalColumns) {
    assert_eq!(read.len(), rows.len());
    for (index, (read, row)) in read.iter().zip(rows).enumerate() {
        let expected = row.expected(optional);
        assert!(same(read, &expected), "row {index}\nread     {read}\nexpected {expected}");
    }
}

/// The project's own reader gives the batches back, row for row.
fn assert_read_back(path: &Path, rows: &[Row], optional: OptionalColumns) {
    if rows.is_empty() && path.extension().is_some_and(|e| e == "jsonl") {
        let error = Reader::open(path).err().unwrap();
        assert_eq!(error.to_string(), format!("{}: the file is empty", path.display()));
        return;
    }
    let mut reader = Reader::open(path).unwrap();
    assert_eq!(reader.optional(), optional);
    let mut expected = rows.iter();
    while let Some(read) = reader.next_batch().unwrap() {
        for row in 0..read.meta.len() {
            let written = batch(std::slice::from_ref(expected.next().unwrap()), optional);
            assert_eq!(compare::take(&read, row), compare::take(&written, 0));
            assert_eq!(compare::digest(&read, row, optional), compare::digest(&written, 0, optional));
            assert_eq!(compare::differences((&read, row), (&written, 0), optional), []);
        }
    }
    assert!(expected.next().is_none());
    assert_eq!(reader.rows(), rows.len() as u64);
}

/// One row with one value changed, and the column it is in.
fn changed(row: &Row, way: usize) -> Option<(Row, &'static str)> {
    let mut row = row.clone();
    let other = |text: &mut Option<Text>| *text = if text.is_some() { None } else { Some("".into()) };
    let m = &mut row.meta;
    let column = match way {
        0 => {
            *row.input.last_mut()? ^= 1;
            "input_ids"
        }
        1 => {
            // The same ids, cut elsewhere.
            row.output.insert(0, row.input.pop()?);
            "input_ids"
        }
        2 => {
            *row.output.first_mut()? ^= 1;
            "output_ids"
        }
        3 => {
            m.loss_spans = if m.loss_spans.is_some() { None } else { Some(Vec::new()) };
            "loss_spans"
        }
        4 => {
            m.loss_spans.as_mut()?.last_mut()?.weight *= -1.5;
            "loss_spans"
        }
        5 => {
            m.calls.as_mut()?.first_mut()?.hash[15] ^= 1;
            "calls"
        }
        6 => {
            other(&mut m.calls.as_mut()?.first_mut()?.call_id);
            "calls"
        }
        7 => {
            m.weight += 1.0;
            "weight"
        }
        8 => {
            other(&mut m.task_id);
            "task_id"
        }
        9 => {
            m.turn = m.turn.map_or(Some(0), |_| None);
            "turn"
        }
        10 => {
            m.reward = m.reward.map_or(Some(0.0), |_| None);
            "reward"
        }
        11 => {
            m.capture_record ^= 1;
            "capture_record"
        }
        12 => {
            m.flags ^= 1 << 31;
            "flags"
        }
        _ => {
            row.logprobs = !row.logprobs;
            "output_logprobs"
        }
    };
    Some((row, column))
}

fn text() -> impl Strategy<Value = Option<Text>> {
    prop::option::of(
        prop::sample::select(vec!["", "a", "rollout-7", "naïve \"quoted\"\n\u{1}", "𝔘"]).prop_map(Text::from),
    )
}

prop_compose! {
    fn span()(start in 0..100i32, length in 0..100i32, weight in -2.0f32..100.0) -> LossSpan {
        LossSpan { start, end: start + length, weight }
    }
}

prop_compose! {
    fn call()(start in any::<i32>(), end in any::<i32>(), turn in any::<Option<i32>>(), call_id in text(),
              file in text(), record in any::<i64>(), hash in any::<[u8; 16]>()) -> RowCall {
        RowCall { start, end, turn, call_id, file: file.unwrap_or_default(), record, hash }
    }
}

prop_compose! {
    fn meta()(
        (loss_spans, calls, weight, reward) in (
            prop::option::of(prop::collection::vec(span(), 0..4)), prop::option::of(prop::collection::vec(call(), 0..4)),
            0.0f32..50.0, prop::option::of(-1.0f32..1.0)),
        (rollout_id, task_id, pair_id, agent, call_id, kind, status) in
            (text(), text(), text(), text(), text(), text(), text()),
        (attempt, turn, capture_record, capture_hash, flags) in
            (any::<Option<i32>>(), any::<Option<i32>>(), any::<i64>(), any::<[u8; 16]>(), any::<i32>()),
        source in text(),
    ) -> RowMeta {
        RowMeta {
            loss_spans, calls, weight, rollout_id, task_id, pair_id, agent, call_id, kind, status, attempt, turn, reward,
            source: source.unwrap_or_else(|| "native".into()), capture_format: "verifiers".into(),
            capture_file: "dump/a.jsonl".into(), capture_record, capture_hash, flags,
        }
    }
}

/// Rows whose prompts repeat those before up to a break, cut a piece out, or start anew.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let step = (0..5u8, prop::collection::vec(-5..300_000i32, 0..60), prop::collection::vec(0..300_000i32, 0..30));
    let row = (step, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3usize, any::<bool>(), meta());
    prop::collection::vec(row, 0..24).prop_map(|steps| {
        let mut prompt: Vec<i32> = Vec::new();
        steps
            .into_iter()
            .map(|((way, new, output), from, to, gap, logprobs, meta)| {
                match way {
                    0 => prompt.clear(),
                    1 => prompt.truncate(from.index(prompt.len() + 1)),
                    2 => {
                        let (a, b) = (from.index(prompt.len() + 1), to.index(prompt.len() + 1));
                        prompt.drain(a.min(b)..a.max(b));
                    }
                    _ => {}
                }
                prompt.extend(new);
                // Those of a merged row are as long as its prompt; the laws of merged rows look at them.
                let logprobs = logprobs && meta.calls.is_none();
                let row = Row { input: prompt.clone(), output: output.clone(), logprobs, gap, meta };
                if way == 3 {
                    prompt.extend(output);
                }
                row
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Parquet and JSON lines give back what went in, however it is cut into pages, batches and row groups.
    #[test]
    fn round_trip(rows in rows(), split in 1..9usize, page in 4..2000usize, group in 1..2000usize, all in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let optional = if all { ALL } else { OptionalColumns::default() };
        let options = WriteOptions { optional, page_bytes: page, row_group_ids: group, ..WriteOptions::default() };
        let path = folder.path().join("rows.parquet");
        write(&path, &rows, split, &options);
        assert_rows(&read_parquet(&path), &rows, optional);
        assert_read_back(&path, &rows, optional);

        let lines = folder.path().join("rows.jsonl");
        write(&lines, &rows, split, &WriteOptions { format: Format::Jsonl, ..options.clone() });
        assert_rows(&read_lines(&lines), &rows, optional);
        assert_read_back(&lines, &rows, optional);

        let again = folder.path().join("again.parquet");
        write(&again, &rows, split, &options);
        prop_assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap());
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    /// A digest is of every value, and what differs is named.
    #[test]
    fn no_change_goes_unseen(rows in rows(), way in 0..14usize) {
        for row in &rows {
            let Some((other, column)) = changed(row, way) else { continue };
            let (a, b) = (batch(std::slice::from_ref(row), ALL), batch(&[other], ALL));
            prop_assert_ne!(compare::digest(&a, 0, ALL), compare::digest(&b, 0, ALL));
            let found = compare::differences((&a, 0), (&b, 0), ALL);
            prop_assert!(found.iter().any(|difference| difference.column == column), "{column}: {found:?}");
        }
    }

    /// An encoder that has worked before makes the same pages as a new one.
    #[test]
    fn encoders_have_no_memory(rows in rows(), others in rows()) {
        let options = WriteOptions::default();
        let mut used = Encoder::new(&options).unwrap();
        used.encode(&mut batch(&others, options.optional)).unwrap();
        let used = used.encode(&mut batch(&rows, options.optional)).unwrap();
        let fresh = encode(batch(&rows, options.optional), &options).unwrap();
        prop_assert_eq!(format!("{used:?}"), format!("{fresh:?}"));
    }
}

fn plain_meta(record: i64) -> RowMeta {
    RowMeta {
        loss_spans: None,
        calls: None,
        weight: 1.0,
        rollout_id: Some("r".into()),
        task_id: None,
        pair_id: None,
        agent: None,
        call_id: None,
        kind: Some("solver".into()),
        status: None,
        attempt: None,
        turn: Some(0),
        reward: None,
        source: "native".into(),
        capture_format: "verifiers".into(),
        capture_file: "a.jsonl".into(),
        capture_record: record,
        capture_hash: [7; 16],
        flags: 0,
    }
}

/// Rows of one growing conversation.
fn conversation(count: usize) -> Vec<Row> {
    let mut prompt: Vec<i32> = (0..1000).map(|i| i * 7919 % 151_000).collect();
    (0..count)
        .map(|turn| {
            let output: Vec<i32> = (0..50).map(|i| (i * 31 + turn as i32 * 977) % 151_000).collect();
            let row = Row {
                input: prompt.clone(),
                output: output.clone(),
                logprobs: false,
                gap: 0,
                meta: plain_meta(turn as i64),
            };
            prompt.extend(output);
            row
        })
        .collect()
}

#[test]
fn footer_says_what_the_design_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    let rows = conversation(40);
    write(&path, &rows, 4, &WriteOptions { row_group_ids: 20_000, page_bytes: 8000, ..WriteOptions::default() });
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    let file = reader.metadata().file_metadata();
    assert_eq!(file.created_by(), Some(concat!("tito version ", env!("CARGO_PKG_VERSION"))));
    let keys = file.key_value_metadata().unwrap();
    assert!(keys.iter().any(|kv| kv.key == "tito.schema" && kv.value.as_deref() == Some("1")));
    assert!(reader.num_row_groups() > 1);
    for group in reader.metadata().row_groups() {
        let ids = &group.columns()[..2];
        let total: i64 = ids.iter().map(|c| c.num_values()).sum();
        assert!((10_000..=30_000).contains(&total), "{total} ids");
        for column in ids {
            assert!(column.statistics().is_none());
            assert!(column.encodings().all(|e| matches!(e, Encoding::PLAIN | Encoding::RLE)));
        }
        for column in group.columns() {
            assert!(column.offset_index_offset().is_some(), "{}", column.column_path());
            assert!(column.column_index_offset().is_none(), "{}", column.column_path());
        }
    }
    let names: Vec<&str> = file.schema().get_fields().iter().map(|f| f.name()).collect();
    let declared: Vec<&str> = OptionalColumns::default().columns().map(|c| c.name).collect();
    assert_eq!(names, declared);
}

#[test]
fn dropping_leaves_nothing() {
    for format in [Format::Parquet, Format::Jsonl] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let options = WriteOptions { format, row_group_ids: 2000, shard_bytes: Some(1), ..WriteOptions::default() };
        let open = || {
            let mut sink = Sink::create(&path, &options).unwrap();
            for rows in conversation(9).chunks(1) {
                sink.append(encode(batch(rows, options.optional), &options).unwrap()).unwrap();
            }
            sink
        };
        let sink = open();
        assert!(fs::read_dir(folder.path()).unwrap().count() > 1);
        drop(sink);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let finished = open().finish(&[]).unwrap();
        assert!(
            fs::read_dir(folder.path()).unwrap().all(|e| e.unwrap().file_name().to_string_lossy().starts_with('.'))
        );
        drop(finished);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let panicked = std::panic::catch_unwind(|| {
            let _sink = open();
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn shards_join_to_the_whole() {
    for (format, extension) in [(Format::Parquet, "parquet"), (Format::Jsonl, "jsonl")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("my.rows.{extension}"));
        let rows = conversation(40);
        let options =
            WriteOptions { format, row_group_ids: 4000, shard_bytes: Some(20_000), ..WriteOptions::default() };
        write(&path, &rows, 2, &options);
        let mut read = Vec::new();
        let count = fs::read_dir(folder.path()).unwrap().count();
        assert!(count > 1);
        for shard in 0..count {
            let part = folder.path().join(format!("my.rows-{shard:05}.{extension}"));
            let part = if format == Format::Parquet { read_parquet(&part) } else { read_lines(&part) };
            assert!(!part.is_empty());
            read.extend(part);
        }
        assert_rows(&read, &rows, options.optional);
        let error = Sink::create(&path, &options).err().unwrap();
        assert_eq!(error.kind(), tito_core::Kind::Usage);
        assert!(error.to_string().contains("my.rows-000"), "{error}");
    }
}

#[test]
fn shards_hold_equal_numbers_of_ids() {
    for format in [Format::Parquet, Format::Jsonl] {
        let folder = tempfile::tempdir().unwrap();
        let rows = conversation(40);
        let size = 20_000;
        let options = WriteOptions { format, shard_ids: Some(size), ..WriteOptions::default() };
        let mut sink = Sink::create(&folder.path().join("rows"), &options).unwrap();
        let mut largest = 0;
        for rows in rows.chunks(2) {
            let encoded = encode(batch(rows, options.optional), &options).unwrap();
            largest = largest.max(encoded.ids());
            sink.append(encoded).unwrap();
        }
        let finished = sink.finish(&[]).unwrap();
        let shards: Vec<usize> = finished.files().iter().map(|file| file.ids as usize).collect();
        assert!(shards.len() > 2, "{shards:?}");
        let (last, full) = shards.split_last().unwrap();
        assert!(full.iter().all(|ids| ids.abs_diff(size) <= largest / 2), "{shards:?}, batches of {largest}");
        assert!(*last <= size + largest / 2, "{shards:?}");
        assert_eq!(finished.rows(), 40);
    }
}

#[test]
fn errors_name_the_final_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/rows.parquet");
    let error = Sink::create(&path, &WriteOptions::default()).err().unwrap();
    assert!(error.to_string().starts_with(&format!("{}: cannot write", path.display())), "{error}");
    let error = Sink::create(folder.path(), &WriteOptions::default()).err().unwrap();
    assert_eq!(error.kind(), tito_core::Kind::Usage);
}

#[test]
fn a_batch_must_not_contradict_itself() {
    let options = WriteOptions::default();
    let good = batch(&conversation(3), options.optional);
    let mut bad = good.clone();
    bad.output_ids.ranges.pop();
    assert!(encode(bad, &options).is_err());
    let mut bad = good.clone();
    bad.input_ids.ranges[1].end = usize::MAX;
    assert!(encode(bad, &options).is_err());
    let mut bad = good.clone();
    bad.input_ids.ranges.swap(0, 1);
    assert!(encode(bad, &options).is_err());
    assert!(encode(good.clone(), &WriteOptions { optional: ALL, ..options.clone() }).is_err());
    assert!(encode(good, &options).is_ok());
}

#[test]
fn json_refuses_what_it_cannot_hold() {
    let mut rows = conversation(1);
    rows[0].meta.reward = Some(f32::NAN);
    let options = WriteOptions { format: Format::Jsonl, ..WriteOptions::default() };
    let error = encode(batch(&rows, options.optional), &options).unwrap_err();
    assert!(error.to_string().contains("reward is NaN"), "{error}");
}

#[test]
fn lines_are_compact() {
    let options = WriteOptions { format: Format::Jsonl, ..WriteOptions::default() };
    let mut rows = conversation(1);
    rows[0].input = vec![0, 7, 10, 99, 100, 151_935, -100, i32::MAX, i32::MIN];
    rows[0].output = vec![];
    let encoded = encode(batch(&rows, options.optional), &options).unwrap();
    let text = std::str::from_utf8(encoded.lines().unwrap()).unwrap();
    let start = r#"{"input_ids":[0,7,10,99,100,151935,-100,2147483647,-2147483648],"output_ids":[],"loss_spans":null,"#;
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains(r#""weight":1.0,"#), "{text}");
}

#[test]
fn the_listing_has_every_column() {
    let listing = schema::describe();
    assert_eq!(listing["version"], 1);
    let names: Vec<&str> = listing["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ALL.columns().map(|c| c.name).collect::<Vec<_>>());
    assert_eq!(listing["columns"][0]["type"], "list<int32>");
}
