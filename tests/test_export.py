"""Exports: every format equals its slow twin, keeps the total weight, counts what it leaves, and refuses the rest."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import made_rows
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference_export
import tito
from hypothesis import given
from hypothesis import strategies as st
from tito.export.from_captures import export_captures

CAPTURES = Path(__file__).parent / "captures"
# The two-turn rollout that the formats are explained with: one merged row, or two rows.
PROMPTS, OUTPUTS = [[9, 10, 11], [9, 10, 11, 40, 7, 8, 12]], [[40, 7], [41, 7]]
MERGED = made_rows.row([9, 10, 11, 40, 7, 8, 12, 41, 7], spans=[(3, 5, 1.0), (7, 9, 1.0)], rollout_id="r")
TURNS = [
    made_rows.row(prompt, output, turn=turn, rollout_id="r")
    for turn, (prompt, output) in enumerate(zip(PROMPTS, OUTPUTS, strict=True))
]
TABLES = [name for name in reference_export.FORMATS if name not in ("nemo-rl", "tinker", "slime")]
OBJECTS = ["nemo-rl", "tinker", "slime"]


def read(path):
    path = Path(path)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pq.read_table(path).to_pylist()


def export(folder, rows, name, out=None, **options):
    """What an export wrote, and what it says of itself."""
    source = made_rows.write(folder / "rows.parquet", rows, group=2)
    out = folder / (out or f"{name}.{'jsonl' if name in OBJECTS else 'parquet'}")
    exported = tito.export(source, out, format=name, **options)
    return read(out), exported


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


# What the formats say


def test_a_merged_row_in_every_format(tmp_path):
    ids, mask = MERGED["input_ids"], [0, 0, 0, 1, 1, 0, 0, 1, 1]
    labels = [-100, -100, -100, 40, 7, -100, -100, 41, 7]
    expected = {
        "trl": {"input_ids": ids, "labels": labels},
        "skyrl": {"input_ids": ids, "loss_mask": mask},
        "verl": {"input_ids": ids, "loss_mask": mask},
        "axolotl": {"input_ids": ids, "attention_mask": [1] * 9, "labels": labels},
        "tinker": {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": [9, 10, 11, 40, 7, 8, 12, 41]}]},
            "loss_fn_inputs": {
                "target_tokens": {"data": [10, 11, 40, 7, 8, 12, 41, 7], "dtype": "int64", "shape": [8]},
                "weights": {"data": [0, 0, 1, 1, 0, 0, 1, 1], "dtype": "float32", "shape": [8]},
            },
        },
    }
    for name, record in expected.items():
        assert export(tmp_path, [MERGED], name)[0] == [record], name
    [sample], _ = export(tmp_path, [MERGED], "slime")
    assert (sample["tokens"], sample["response_length"], sample["loss_mask"]) == (ids, 6, [1, 1, 0, 0, 1, 1])
    [datum], _ = export(tmp_path, [MERGED], "nemo-rl")
    assert [message["token_ids"] for message in datum["message_log"]] == [[9, 10, 11], [40, 7], [8, 12], [41, 7]]
    assert [message["role"] for message in datum["message_log"]] == ["user", "assistant", "user", "assistant"]


def test_rows_of_one_call_keep_their_own_prompts(tmp_path):
    """What the prompt of a later turn holds of an earlier answer is context, and never a target."""
    records, _ = export(tmp_path, TURNS, "trl")
    assert records == [
        {"input_ids": [9, 10, 11, 40, 7], "labels": [-100, -100, -100, 40, 7]},
        {"input_ids": [9, 10, 11, 40, 7, 8, 12, 41, 7], "labels": [-100] * 7 + [41, 7]},
    ]
    samples, _ = export(tmp_path, TURNS, "slime")
    assert [sample["response_length"] for sample in samples] == [2, 2]
    assert [sample["loss_mask"] for sample in samples] == [[1, 1], [1, 1]]


def test_the_columns_are_these_and_of_these_types(tmp_path):
    int32, int8 = (pa.list_(pa.field("element", kind)) for kind in (pa.int32(), pa.int8()))
    expected = {
        "trl": {"input_ids": int32, "labels": int32},
        "skyrl": {"input_ids": int32, "loss_mask": int8},
        "verl": {"input_ids": int32, "loss_mask": int8},
        "axolotl": {"input_ids": int32, "attention_mask": int8, "labels": int32},
    }
    for name, columns in expected.items():
        export(tmp_path, TURNS, name)
        file = pq.ParquetFile(tmp_path / f"{name}.parquet")
        assert {field.name: field.type for field in file.schema_arrow} == columns, name
        ids = file.metadata.row_group(0).column(0)
        assert (ids.compression, ids.has_offset_index) == ("ZSTD", True)
        assert not any("DICTIONARY" in encoding for encoding in ids.encodings)


# Laws


CHOICES = st.sampled_from(["error", "copies", "drop"])


@given(made_rows.rows(), st.sampled_from(sorted(reference_export.FORMATS)), CHOICES)
def test_every_format_is_its_twin(tmp_path_factory, rows, name, weights):
    folder = tmp_path_factory.mktemp("export")
    takes, make = reference_export.FORMATS[name]
    try:
        made, left_out = reference_export.examples(rows, takes, weights, seed=7)
    except reference_export.UntoldWeightError:
        with pytest.raises(tito.UsageError, match=f"row \\d+: it weighs .*, and {name} takes "):
            export(folder, rows, name, weights=weights, seed=7)
        return
    if not made:
        with pytest.raises(tito.DataError, match="no row is left to export"):
            export(folder, rows, name, weights=weights, seed=7)
        return
    records, exported = export(folder, rows, name, weights=weights, seed=7)
    # Which number a rollout gets is another test's.
    assert [without(r, "rollout_id") for r in records] == [make(*one, rows[one[0]]) for one in made]
    assert exported.left_out == left_out
    counts = exported.data["counts"]
    assert counts["rows_read"] == len(rows) == counts["rows_exported"] + sum(left_out.values())
    assert counts["rows_exported"] == len({number for number, _, _ in made})
    assert counts["longest"] == max(len(ids) for _, ids, _ in made)
    assert counts["weight_written"] == pytest.approx(sum(sum(of_ids) for _, _, of_ids in made))


@given(made_rows.rows(st.sampled_from([0.0, 1.0, 2.0, 12.0])))
def test_copies_of_whole_weights_state_the_same_total(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("export")
    made, _ = reference_export.examples(rows, "none", "copies")
    if not made:
        return
    _, exported = export(folder, rows, "trl", weights="copies")
    assert exported.data["counts"]["weight_written"] == exported.data["counts"]["weight_read"]
    for number, row in enumerate(rows):
        ids, of_ids = reference_export.weights_of(row)
        copies = [weights for at, _, weights in made if at == number]
        stated = [sum(copy[at] for copy in copies) for at in range(len(ids))]
        if copies:
            assert stated == [weight * row["weight"] for weight in of_ids]
        else:
            assert not any(of_ids) or not row["weight"]


@given(st.lists(st.floats(0, 4, width=32), min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_copies_of_fractions_stay_within_one(tmp_path_factory, weights, seed):
    rows = [made_rows.row([1, 2], [3], weight=weight) for weight in weights]
    try:
        _, exported = export(tmp_path_factory.mktemp("export"), rows, "trl", weights="copies", seed=seed)
    except tito.DataError:
        assert sum(weights) < 1
        return
    assert abs(exported.data["counts"]["sequences"] - sum(weights)) < 1 + 1e-5


@given(made_rows.rows(), st.sampled_from(TABLES))
def test_parquet_and_lines_are_the_same_rows_in_and_out(tmp_path_factory, rows, name):
    folder = tmp_path_factory.mktemp("export")
    sources = [made_rows.write(folder / f"rows.{kind}", rows) for kind in ("parquet", "jsonl")]
    outs = [folder / "out.parquet", *([] if name == "verl" else [folder / "out.jsonl"])]
    made, _ = reference_export.examples(rows, "none", "drop")
    for source in sources:
        for out in outs if made else []:
            tito.export(source, out, format=name, weights="drop")
            assert read(out) == [reference_export.FORMATS[name][1](*one, None) for one in made]


@given(made_rows.rows(st.just(1.0)), st.integers(16, 40))
def test_packs_are_sequences_end_to_end(tmp_path_factory, rows, length):
    folder = tmp_path_factory.mktemp("export")
    made, _ = reference_export.examples(rows, "none", most=length)
    if not made:
        return
    source = made_rows.write(folder / "rows.parquet", rows)
    exported = tito.export(source, folder / "o.parquet", format="trl", pack=length)
    planned, _ = reference_export.plan_packs([len(ids) for _, ids, _ in made], length)
    expected = [
        {
            "input_ids": [i for at in pack for i in made[at][1]],
            "labels": [i for at in pack for i in reference_export.labels(*made[at][1:])],
            "seq_lengths": [len(made[at][1]) for at in pack],
        }
        for pack in planned
    ]
    assert read(folder / "o.parquet") == expected
    counts = exported.data["counts"]
    assert (counts["rows_written"], counts["sequences"]) == (len(planned), len(made))
    assert "skip_prepare_dataset" in exported.data["settings"][0]


def test_large_batches_are_written_in_parts(tmp_path, monkeypatch):
    rows = [made_rows.row([1] * n, [2, 3], weight=float(n)) for n in range(1, 9)]
    whole, _ = export(tmp_path, rows, "trl", weights="copies")
    monkeypatch.setattr(sys.modules["tito.export.loss"], "_IDS_AT_A_TIME", 13)
    parts, _ = export(tmp_path, rows, "trl", weights="copies")
    assert parts == whole
    assert len(whole) == sum(range(1, 9))


def test_rollouts_get_numbers_by_first_appearance(tmp_path):
    names = ["b", "a", "b", None, None]
    samples, _ = export(tmp_path, [made_rows.row([1], [2], rollout_id=name) for name in names], "slime")
    assert [sample["rollout_id"] for sample in samples] == [0, 1, 0, -1, -2]
    assert [sample["metadata"]["rollout_id"] for sample in samples] == names


def test_logprobs_and_truncation_reach_slime(tmp_path):
    rows = [made_rows.row([1, 2], [3, 4], output_logprobs=[-0.5, -1.0], flags=1)]
    [sample], _ = export(tmp_path, rows, "slime")
    assert (sample["rollout_log_probs"], sample["status"], sample["reward"]) == ([-0.5, -1.0], "truncated", None)


def test_logprobs_of_merged_rows_are_those_of_the_response(tmp_path):
    """A merged row tells one for each of its ids; what trains nothing has none."""
    nan = float("nan")
    told = [nan, nan, nan, -0.5, -1.0, nan, nan, -2.0, -0.25]
    rows = [{**MERGED, "output_logprobs": told}, {**MERGED, "output_logprobs": None}]
    one, none = export(tmp_path, rows, "slime")[0]
    assert (one["response_length"], one["loss_mask"]) == (6, [1, 1, 0, 0, 1, 1])
    assert one["rollout_log_probs"] == [-0.5, -1.0, 0, 0, -2.0, -0.25]
    assert none["rollout_log_probs"] is None


@pytest.mark.parametrize("value", ["-inf", "nan"])
def test_a_logprob_that_json_cannot_say(tmp_path, value):
    bad = {**MERGED, "output_logprobs": [*[-1.0] * 7, float(value), -1.0]}
    rows = [{**MERGED, "output_logprobs": None}] * 3 + [bad]
    with pytest.raises(tito.DataError) as caught:
        export(tmp_path, rows, "slime")
    assert str(caught.value) == (
        f"{tmp_path}/rows.parquet: row 3: the logprob of trained id 4 of the response is {value}"
    )
    assert caught.value.hint == (
        "no JSON says that: convert without --columns output_logprobs, and slime computes them itself"
    )
    bad["output_logprobs"] = [-1.0] * 5
    with pytest.raises(tito.DataError) as caught:
        export(tmp_path, rows, "slime")
    assert str(caught.value) == f"{tmp_path}/rows.parquet: row 3: 5 logprobs for 6 ids"
    assert os.listdir(tmp_path) == ["rows.parquet"]


def test_an_export_is_one_file(tmp_path):
    """The rows that are set apart would be lost with the rows beside the output."""
    for policies, message, hint in (
        (
            tito.Policies(val=0.3, val_by="rollout"),
            "val=0.3 makes a second file of rows, an export is one",
            "convert with it and without a format, then export rows.parquet and rows.val.parquet",
        ),
        (
            tito.Policies(group_by="identity"),
            "group_by=identity makes several files, an export is one",
            "convert without a format, then export each file",
        ),
    ):
        with pytest.raises(tito.UsageError) as caught:
            export_captures(
                CAPTURES / "qwen3" / "calls.jsonl",
                tmp_path / "o.parquet",
                format="trl",
                options={"weights": "error", "seed": 0, "max_length": None, "overlong": "error", "pack": None},
                policies=policies,
            )
        assert (str(caught.value), caught.value.hint) == (message, hint)
    assert os.listdir(tmp_path) == []


# What is refused, and what is left behind


def test_options_that_cannot_be(tmp_path):
    for name, out, options, message, hint in (
        ("trll", "o.parquet", {}, "format: 'trll' is none of trl, skyrl, verl, axolotl, llamafactory, nemo-rl, tinker, "
         "slime", "choose one of them"),
        ("trl", "o.csv", {}, "trl does not read o.csv", "name a .parquet or .jsonl file"),
        ("verl", "o.jsonl", {}, "verl does not read o.jsonl", "name a .parquet file"),
        ("tinker", "o.parquet", {}, "tinker does not read o.parquet", "name a .jsonl file"),
        ("llamafactory", "o.parquet", {}, "llamafactory reads a folder, not o.parquet", "name a folder to make"),
        ("skyrl", "o.parquet", {"pack": 8}, "skyrl takes no packs",
         "leave pack out: this trainer packs by itself"),
        ("trl", "o.parquet", {"pack": 1}, "pack: rows of 1 ids hold no loss", "give more, like 8192"),
        ("trl", "o.parquet", {"max_length": 0}, "max_length: rows of 0 ids hold no loss", "give more, like 8192"),
        ("trl", "o.parquet", {"weights": "copy"}, "weights: 'copy' is none of error, copies, drop", "choose one"),
    ):  # fmt: skip
        with pytest.raises(tito.UsageError) as caught:
            export(tmp_path, TURNS, name, out=out, **options)
        assert (str(caught.value), caught.value.hint) == (message, hint)
    assert sorted(os.listdir(tmp_path)) == ["rows.parquet"]


def test_weights_are_never_dropped_in_silence(tmp_path):
    heavy = made_rows.row([1, 2], [3], weight=12.0)
    mixed = made_rows.row([1, 2, 3], spans=[(1, 2, 2.0), (2, 3, 0.5)])
    hint = "--weights copies repeats rows as often as they weigh, --weights drop forgets what they weigh"
    for rows, name, what in (
        ([TURNS[0], heavy], "trl", "row 1: it weighs 12, and trl takes no weights"),
        ([mixed], "skyrl", "row 0: it weighs its ids differently, and skyrl takes no weights"),
        ([mixed], "nemo-rl", "row 0: it weighs its ids differently, and nemo-rl takes one weight a row"),
    ):
        with pytest.raises(tito.UsageError) as caught:
            export(tmp_path, rows, name)
        assert (str(caught.value), caught.value.hint) == (f"{tmp_path}/rows.parquet: {what}", hint)
    _, exported = export(tmp_path, [TURNS[0], heavy], "trl", weights="drop")
    assert exported.warnings() == ["weights_dropped: 1 rows lost what they weigh"]
    [datum], _ = export(tmp_path, [heavy], "nemo-rl")
    assert datum["loss_multiplier"] == 12.0
    [datum], _ = export(tmp_path, [mixed], "tinker")
    assert datum["loss_fn_inputs"]["weights"]["data"] == [2.0, 0.5]
    with pytest.raises(tito.UsageError, match=r"row 0: it weighs 2e\+06, the limit is 1e\+06"):
        export(tmp_path, [made_rows.row([1], [2], weight=2e6)], "trl", weights="copies")


def test_rows_that_contradict_themselves(tmp_path):
    good = made_rows.row([1, 2], [3])
    for bad, message in (
        (made_rows.row([1, 2], [3], [(2, 4, 1.0)]), "a loss span lies outside of it"),
        (made_rows.row([1, 2], [3], [(-1, 2, 1.0)]), "a loss span lies outside of it"),
        (made_rows.row([1, 2], [3], [(2, 1, 1.0)]), "a loss span lies outside of it"),
        (made_rows.row([1, 2], [3], [(0, 2, 1.0), (1, 3, 1.0)]), "loss spans overlap or do not ascend"),
        (made_rows.row([1, 2], [3], [(0, 2, float("nan"))]), "a loss span has no weight"),
        (made_rows.row([1, 2], [3], weight=-1.0), "weight is no weight"),
        (made_rows.row([1, 2], [3], reward=float("nan")), "reward is no number"),
        (made_rows.row([1, 2], [3], weight=float("inf")), "weight is no weight"),
        (made_rows.row([1, -2], [3]), "an id is negative"),
    ):
        with pytest.raises(tito.DataError) as caught:
            export(tmp_path, [good, good, good, bad], "slime")
        assert str(caught.value) == f"{tmp_path}/rows.parquet: row 3: {message}"
        assert sorted(os.listdir(tmp_path)) == ["rows.parquet"]


def test_rows_that_are_too_long(tmp_path):
    rows = [*TURNS, made_rows.row([1], [2])]
    with pytest.raises(tito.DataError) as caught:
        export(tmp_path, rows, "trl", max_length=8)
    assert str(caught.value) == f"{tmp_path}/rows.parquet: row 1: 9 ids, the limit is 8"
    records, exported = export(tmp_path, rows, "trl", max_length=8, overlong="drop")
    assert (len(records), exported.left_out) == (2, {"overlong": 1})
    assert exported.warnings() == ["left_out: 1 of 3 rows: overlong"]


def test_lines_that_are_cut_off(tmp_path):
    source = made_rows.write(tmp_path / "rows.jsonl", TURNS)
    source.write_text(source.read_text()[:-30])
    with pytest.raises(tito.DataError, match=r"rows.jsonl: records 1 to 2: JSON parse error"):
        tito.export(source, tmp_path / "o.parquet", format="trl")
    assert sorted(os.listdir(tmp_path)) == ["rows.jsonl"]


def test_nothing_is_left_of_a_failed_export(tmp_path):
    out = tmp_path / "trl.parquet"
    out.write_text("before")
    for rows, options in (
        ([made_rows.row([1, 2], [])], {}),
        (TURNS, {"expect_rows": 3}),
        ([*TURNS * 9, made_rows.row([1, -2], [3])], {}),
    ):
        with pytest.raises(tito.DataError):
            export(tmp_path, rows, "trl", **options)
        assert (out.read_text(), sorted(os.listdir(tmp_path))) == ("before", ["rows.parquet", "trl.parquet"])
    with pytest.raises(tito.DataError) as caught:
        export(tmp_path, [made_rows.row([1, 2], []), made_rows.row([1], [2], weight=0.0)], "trl")
    assert str(caught.value) == f"{tmp_path}/rows.parquet: no row is left to export (zero_weight 1, without_loss 1)"


def test_where_it_cannot_be_written(tmp_path):
    source = made_rows.write(tmp_path / "rows.parquet", TURNS)
    (tmp_path / "folder").mkdir()
    for out, error, message in (
        ("rows.parquet", tito.UsageError, "rows.parquet is an input and would be written over"),
        ("folder", tito.UsageError, "folder is a folder that is there already"),
        ("none/o.parquet", tito.WorldError, "none/o.parquet: no such folder to write to"),
    ):
        name = "llamafactory" if out == "folder" else "trl"
        with pytest.raises(error) as caught:
            tito.export(source, tmp_path / out, format=name)
        assert str(caught.value) == f"{tmp_path}/{message}"
    with pytest.raises(tito.WorldError, match="no such file"):
        tito.export(tmp_path / "none.parquet", tmp_path / "o.parquet", format="trl")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(tito.DataError, match="no rows of row schema 1"):
        tito.export(tmp_path / "other.parquet", tmp_path / "o.parquet", format="trl")


LIMITED = """
import resource, signal, sys
import tito
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    tito.export("rows.parquet", sys.argv[1], format=sys.argv[2])
except tito.WorldError as error:
    print(error)
"""


@pytest.mark.parametrize(("out", "name"), [("o.parquet", "trl"), ("o.jsonl", "trl"), ("o.jsonl", "tinker")])
def test_a_file_that_may_not_grow_is_an_error_of_the_world(tmp_path, out, name):
    dice = np.random.default_rng(7)
    made_rows.write(tmp_path / "rows.parquet", [made_rows.row(dice.integers(0, 9**9, 4000).tolist(), [1, 2])])
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, out, name], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert child.stdout == f"{out}: cannot write: File too large\n"
    assert os.listdir(tmp_path) == ["rows.parquet"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "o.parquet").symlink_to(tmp_path / "there" / "real.parquet")
    records, exported = export(tmp_path, TURNS, "trl", out="o.parquet")
    assert (len(records), exported.output) == (2, str(tmp_path / "there" / "real.parquet"))
    assert (tmp_path / "o.parquet").is_symlink()
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(tito.UsageError, match="is no regular file and would be replaced by one"):
        export(tmp_path, TURNS, "trl", out="pipe.parquet")


def test_the_manifest_names_the_source(tmp_path):
    _, exported = export(tmp_path, TURNS, "trl")
    manifest = json.loads((tmp_path / "trl.parquet.manifest.json").read_text())
    assert manifest == exported.data
    [file] = manifest["source"]["files"]
    assert file == {
        "file": str(tmp_path / "rows.parquet"),
        "sha256": sha256((tmp_path / "rows.parquet").read_bytes()).hexdigest(),
    }
    assert (manifest["source"]["rows"], manifest["source"]["profile"]) == ("turn", "qwen3")
    assert manifest["output"]["bytes"] == (tmp_path / "trl.parquet").stat().st_size
    assert manifest["loses"] == ["weights", "provenance", "logprobs"]
    assert "max_length=1024" in manifest["settings"][0]


def test_the_first_id_of_a_sequence_has_no_loss(tmp_path):
    """verl rolls the mask of a flat batch by one: the sequence before would pay for it."""
    rows = [made_rows.row([], [5, 6, 7]), made_rows.row([], [5])]
    records, exported = export(tmp_path, rows, "verl")
    assert records == [{"input_ids": [5, 6, 7], "loss_mask": [0, 1, 1]}]
    assert exported.warnings() == [
        "left_out: 1 of 2 rows: without_loss",
        "first_ids: 2 ids with loss stand first and carry none now",
    ]


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Row groups are read one by one: nothing of one is kept when the next is read."""
    rows = [made_rows.row(list(range(400)), [1, 2]) for _ in range(64)]
    source = made_rows.write(tmp_path / "rows.parquet", rows, group=4)
    before = pa.total_allocated_bytes()
    most = 0
    from tito.export.batches import read_batches

    for batch in read_batches([str(source)]):
        assert len(batch) == 4
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 64 * 400 * 4
    assert np.array_equal(batch.lengths, [402] * 4)
