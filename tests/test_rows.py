"""Rows files: parquet, JSON lines and shards give the same rows; ids are views; what holds no rows is refused."""

import dataclasses
import gc
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import dumps
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tito
from tito import rows as module
from tito.rows import looks_like_rows

CAPTURES = Path(__file__).parent / "captures"
ALL_COLUMNS = tito.Policies(think="mask", columns="loss_mask,loss_weights,labels,output_logprobs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same rows as parquet, JSON lines and shards."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "shards").mkdir()
    (folder / "one").mkdir()
    for name, shard_bytes in {"rows.parquet": None, "rows.jsonl": None, "one/rows.jsonl": 10**9}.items():
        dump = CAPTURES / "qwen3" / "calls.jsonl"
        tito.convert(dump, folder / name, policies=ALL_COLUMNS, shard_bytes=shard_bytes)
    # Rows of a small dump are never split, so split them here.
    lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "shards" / "rows-00000.jsonl").write_text("".join(lines[:7]))
    (folder / "shards" / "rows-00001.jsonl").write_text("".join(lines[7:]))
    return folder


def plain(row):
    """A row that can be compared."""
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}


def test_every_format_gives_the_same_rows(folder):
    parquet, lines, shards = (tito.open_rows(folder / name) for name in ("rows.parquet", "rows.jsonl", "shards"))
    assert len(parquet) == len(lines) == len(shards) == 12
    assert [Path(file).name for file in shards.files] == ["rows-00000.jsonl", "rows-00001.jsonl"]
    for a, b, c in zip(parquet, lines, shards, strict=True):
        assert plain(a) == plain(b) == plain(c)
        assert all(row.input_ids.dtype == row.output_ids.dtype == row.labels.dtype == np.int32 for row in (a, b, c))
        assert all(row.loss_mask.dtype == np.int8 for row in (a, b, c))
        assert all(row.loss_weights.dtype == row.output_logprobs.dtype == np.float32 for row in (a, b, c))


def test_a_glob_opens_the_shards_in_order(folder):
    shards = tito.open_rows(str(folder / "shards" / "rows-*.jsonl"))
    assert list(shards.files) == sorted(shards.files)
    assert [plain(r) for r in shards] == [plain(r) for r in tito.open_rows(folder / "rows.parquet")]


def test_rows_are_a_sequence(folder):
    for name in ("rows.parquet", "shards"):
        rows = tito.open_rows(folder / name)
        every = [plain(row) for row in rows]
        assert [plain(rows[i]) for i in range(len(rows))] == every
        assert plain(rows[-1]) == every[-1]
        assert [plain(row) for row in rows[2:9:3]] == every[2:9:3]
        assert [plain(row) for row in reversed(rows)] == every[::-1]
        for index in (len(rows), -len(rows) - 1):
            with pytest.raises(IndexError):
                rows[index]
        assert repr(rows).startswith("<12 turn rows of ")


def test_ids_of_parquet_are_read_only_views_that_live_on(folder):
    rows = tito.open_rows(folder / "rows.parquet")
    first, second = rows[0], rows[1]
    assert first.input_ids.base is not None
    assert not first.input_ids.flags.writeable
    # One buffer holds the prompts of the row group.
    step = second.input_ids.ctypes.data - first.input_ids.ctypes.data
    assert step == 4 * len(first.input_ids)
    kept = first.input_ids.tolist()
    del rows, second
    gc.collect()
    assert first.input_ids.tolist() == kept


def test_the_extent_is_that_of_a_loop(folder, tmp_path):
    """By column from parquet, in one row group or many; merged rows hold everything in `input_ids`."""
    merged = tmp_path / "merged.parquet"
    tito.convert(CAPTURES / "qwen3" / "calls.jsonl", merged, policies=tito.Policies(rows="merged"))
    cut = tmp_path / "cut.parquet"
    pq.write_table(pq.read_table(folder / "rows.parquet").slice(3), cut, row_group_size=2)
    for path in (folder / "rows.parquet", folder / "rows.jsonl", folder / "shards", merged, cut):
        rows = tito.open_rows(path)
        longest = max(len(row.input_ids) + len(row.output_ids) for row in rows)
        highest = max(max([*row.input_ids.tolist(), *row.output_ids.tolist()]) for row in rows)
        assert rows.extent() == (longest, highest)
    pq.write_table(pq.read_table(folder / "rows.parquet").slice(0, 0), cut)
    assert tito.open_rows(cut).extent() == (0, -1)


def test_metadata_tells_kind_and_policies(folder):
    parquet, lines, shards = (tito.open_rows(folder / name) for name in ("rows.parquet", "rows.jsonl", "one"))
    assert parquet.kind == lines.kind == shards.kind == "turn"
    for rows in (parquet, lines, shards):
        assert rows.metadata["tito.schema_version"] == "1"
        assert '"think":"mask"' in rows.metadata["tito.policies"].replace(" ", "")
    assert parquet.metadata["tito.profile"] == "qwen3"
    assert parquet.columns[-4:] == ("loss_mask", "loss_weights", "labels", "output_logprobs")


def test_rows_pickle_by_their_path(folder):
    rows = pickle.loads(pickle.dumps(tito.open_rows(folder / "rows.parquet")))
    assert len(rows) == 12


def small_groups(folder, size):
    """The same rows in row groups of so many rows."""
    table = pq.read_table(folder / "rows.parquet")
    path = folder / f"groups-{size}.parquet"
    pq.write_table(table, path, row_group_size=size)
    return path


@pytest.mark.parametrize("size", [1, 5, 12])
def test_row_groups_are_decoded_one_at_a_time(folder, size, monkeypatch):
    read = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, g, **more: read.append(g) or original(self, g, **more)
    )
    rows = tito.open_rows(small_groups(folder, size))
    assert read == []
    assert [plain(r) for r in rows] == [plain(r) for r in tito.open_rows(folder / "rows.jsonl")]
    assert read == list(range(-(-12 // size)))
    rows[0]
    assert len(read) == -(-12 // size) + (size == 1)
    assert all(len(file._decoded) <= module._GROUPS_KEPT for file in rows._files)


def test_what_holds_no_rows_is_refused(tmp_path, folder):
    pq.write_table(pa.table({"input_ids": [[1]]}), tmp_path / "other.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((folder / "rows.parquet").read_bytes()[:-20])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "words.jsonl").write_text("hello\n")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "part.jsonl").write_text('{"input_ids": [1]}\n')
    for name, words in {
        "other.parquet": "no rows of row schema 1",
        "cut.parquet": "cut.parquet",
        "empty.jsonl": "the file is empty",
        "words.jsonl": "record 1",
        "list.jsonl": "not a JSON object",
        "part.jsonl": "no 'output_ids'",
    }.items():
        with pytest.raises(tito.DataError, match=words) as caught:
            tito.open_rows(tmp_path / name)
        assert caught.value.hint
    with pytest.raises(tito.WorldError, match="no such file"):
        tito.open_rows(tmp_path / "none.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(tito.DataError, match=r"no \.parquet"):
        tito.open_rows(tmp_path / "folder")


def test_a_later_schema_is_refused(tmp_path, folder):
    table = pq.read_table(folder / "rows.parquet")
    table = table.replace_schema_metadata({**table.schema.metadata, b"tito.schema_version": b"2"})
    pq.write_table(table, tmp_path / "later.parquet")
    with pytest.raises(tito.DataError, match="row schema 2"):
        tito.open_rows(tmp_path / "later.parquet")


def test_a_bad_line_is_named(tmp_path, folder):
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join([lines[0], lines[1].replace('"flags":', '"flogs":'), ""]))
    rows = tito.open_rows(tmp_path / "rows.jsonl")
    assert rows.metadata == {}
    assert rows[0].turn == 0
    with pytest.raises(tito.DataError, match="record 2"):
        rows[1]


def test_rows_are_told_from_captures(folder):
    for rows in ("rows.parquet", "rows.jsonl", "shards", "shards/rows-0000?.jsonl"):
        assert looks_like_rows(str(folder / rows))
    for capture in ("qwen3/calls.jsonl", "smollm2-chat.jsonl", "qwen3", "README.md", "none"):
        assert not looks_like_rows(str(CAPTURES / capture))


def test_rows_that_were_made_differently_are_not_read_as_one(tmp_path):
    dump = CAPTURES / "qwen3" / "calls.jsonl"
    for name in ("parquet", "jsonl"):
        for think in ("keep", "mask"):
            tito.convert(dump, tmp_path / f"{think}.{name}", policies=tito.Policies(think=think))
    with pytest.raises(
        tito.DataError, match=r'different policies \(keep.parquet: think="keep", mask.parquet'
    ) as caught:
        tito.open_rows(tmp_path / "*.parquet")
    assert caught.value.hint == "open them apart"
    table = pq.read_table(tmp_path / "keep.parquet")
    told = {key: value for key, value in table.schema.metadata.items() if key != b"tito.checksum"}
    for key, what in ((b"tito.profile", "profiles"), (b"tito.tokenizer_hash", "tokenizers")):
        (tmp_path / what).mkdir()
        pq.write_table(table, tmp_path / what / "a.parquet")
        other = table.replace_schema_metadata({**told, key: b"other"})
        pq.write_table(other, tmp_path / what / "b.parquet")
        with pytest.raises(tito.DataError, match=f"different {what}"):
            tito.open_rows(tmp_path / what)


VAL = tito.Policies(val=3, val_by="rollout")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_training_and_validation_rows_are_not_read_as_one(tmp_path, suffix):
    tito.convert(CAPTURES / "qwen3" / "calls.jsonl", tmp_path / f"v.{suffix}", policies=VAL)
    for path in (tmp_path, tmp_path / f"v*.{suffix}"):
        with pytest.raises(tito.DataError) as caught:
            tito.open_rows(path)
        assert str(caught.value) == f"{path}: training rows (v.{suffix}) and validation rows (v.val.{suffix})"
        assert caught.value.hint == f"name the files of one side, like {tmp_path / f'v.{suffix}'}"
    sides = [tito.open_rows(tmp_path / name) for name in (f"v.{suffix}", f"v.val.{suffix}")]
    assert [rows.metadata["tito.side"] for rows in sides] == ["train", "val"]
    with pytest.raises(tito.DataError, match="training rows"):
        tito.export(tmp_path, tmp_path / "t.parquet", format="trl")


def test_rows_of_which_nobody_says_the_side_do_not_join_validation_rows(tmp_path):
    tito.convert(CAPTURES / "qwen3" / "calls.jsonl", tmp_path / "v.jsonl", policies=VAL)
    (tmp_path / "d").mkdir()
    shutil.copy(tmp_path / "v.jsonl", tmp_path / "d" / "a.jsonl")
    tito.convert(CAPTURES / "qwen3" / "calls.jsonl", tmp_path / "d" / "v.parquet", policies=VAL)
    (tmp_path / "d" / "v.parquet").unlink()
    with pytest.raises(tito.DataError, match=r"training rows \(a.jsonl\) and validation rows \(v.val.parquet\)"):
        tito.open_rows(tmp_path / "d")


def test_rows_written_twice_are_not_read_twice(folder):
    with pytest.raises(tito.DataError) as caught:
        tito.open_rows(folder)
    assert str(caught.value) == f"{folder}: rows.jsonl and rows.parquet would be read as different rows"
    assert caught.value.hint == "name one of them, or a glob like '*.parquet'"


@pytest.mark.parametrize("kind", ["turn", "merged", "auto"])
def test_a_file_that_does_not_say_its_kind_is_judged_by_its_rows(tmp_path, kind):
    for suffix in ("parquet", "jsonl"):
        name = tmp_path / f"o.{suffix}"
        tito.convert(CAPTURES / "smollm2-chat.jsonl", name, policies=tito.Policies(rows=kind))
        Path(f"{name}.manifest.json").unlink()
    table = pq.read_table(tmp_path / "o.parquet")
    told = {key: value for key, value in table.schema.metadata.items() if key not in (b"tito.rows", b"tito.checksum")}
    pq.write_table(table.replace_schema_metadata(told), tmp_path / "o.parquet")
    assert [tito.open_rows(tmp_path / f"o.{suffix}").kind for suffix in ("parquet", "jsonl")] == [kind, kind]
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    spaced = [json.dumps(json.loads(line), separators=(" , ", " : ")) for line in lines]
    (tmp_path / "o.jsonl").write_text("\n".join(spaced))
    assert tito.open_rows(tmp_path / "o.jsonl").kind == kind


def test_a_manifest_says_nothing_of_other_lines(tmp_path):
    """Lines of another run under the same name, as a kill between two renames leaves them."""
    for kind in ("turn", "merged"):
        policies = tito.Policies(rows=kind, think="strip", unterminated="keep")
        tito.convert(CAPTURES / "qwen35" / "coop", tmp_path / f"{kind}.jsonl", policies=policies)
    policies = tito.Policies(rows="merged")
    tito.convert(CAPTURES / "qwen35" / "coop", tmp_path / "kept.jsonl", policies=policies)
    told = tito.open_rows(tmp_path / "turn.jsonl")
    assert (told.kind, json.loads(told.metadata["tito.policies"])["think"]) == ("turn", "strip")
    [output] = json.loads((tmp_path / "turn.jsonl.manifest.json").read_text())["outputs"]
    data = (tmp_path / "turn.jsonl").read_bytes()
    assert output["bytes"] == len(data)
    shutil.copy(tmp_path / "kept.jsonl", tmp_path / "turn.jsonl")
    rows = tito.open_rows(tmp_path / "turn.jsonl")
    assert (rows.kind, dict(rows.metadata)) == (tito.open_rows(tmp_path / "kept.jsonl").kind, {})
    # As many bytes, one of them another.
    (tmp_path / "turn.jsonl").write_bytes(data.replace(b'"weight":1.0', b'"weight":2.0', 1))
    assert dict(tito.open_rows(tmp_path / "turn.jsonl").metadata) == {}
    (tmp_path / "turn.jsonl").write_bytes(data)
    assert tito.open_rows(tmp_path / "turn.jsonl").metadata == told.metadata


def test_the_word_calls_in_a_text_says_nothing_of_the_kind(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, rollout_id='"calls":[{'))
    tito.convert(dump, tmp_path / "o.jsonl")
    (tmp_path / "o.jsonl.manifest.json").unlink()
    assert tito.open_rows(tmp_path / "o.jsonl").kind == "turn"


def test_a_file_that_was_written_without_a_row(tmp_path):
    lines = [dumps.line(n, rollout_id=f"r{n}", task_id=f"t{n}") for n in range(4)]
    for n, line in enumerate(lines):
        dumps.write(tmp_path / f"in{n}.jsonl", line)
    parts = [sys.executable, "-m", "tito", "convert", *(f"in{n}.jsonl" for n in range(4)), "-o", "r.jsonl"]
    subprocess.run([*parts, "--part-mb", "0.0001", "--val", "1", "--quiet"], cwd=tmp_path, check=True)
    empty = sorted(path for path in tmp_path.glob("r.val-*.jsonl") if not path.stat().st_size)
    assert len(empty) > 1
    assert len(tito.open_rows(empty[0])) == 0
    assert sum(len(tito.open_rows(path)) for path in tmp_path.glob("r.val-*.jsonl")) == 1
    full = next(path for path in tmp_path.glob("r.val-*.jsonl") if path.stat().st_size)
    full.write_bytes(b"")
    with pytest.raises(tito.DataError, match="the file is empty"):
        tito.open_rows(full)


@pytest.mark.parametrize("ids", [[1, 2.9, 3], [True, 2, 3], [1, 2, "3"], [1, None, 3]])
def test_what_is_no_id_is_refused(tmp_path, ids):
    tito.convert(dumps.write(tmp_path / "d.jsonl", dumps.line(0)), tmp_path / "r.jsonl")
    row = json.loads((tmp_path / "r.jsonl").read_text())
    (tmp_path / "other.jsonl").write_text(json.dumps({**row, "input_ids": ids}) + "\n")
    with pytest.raises(tito.DataError, match=r"other\.jsonl: record 1: "):
        tito.open_rows(tmp_path / "other.jsonl")[0]
