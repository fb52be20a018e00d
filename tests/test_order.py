"""Determinism: the same bytes for any number of workers, the same rows for shuffled lines and compressed files."""

import gzip
import importlib.util
import json
import random
import sys
import tempfile
from pathlib import Path

import pytest
import reference_convert
import runs
import strategies
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tito import _core

ROOT = Path(__file__).parents[1]
PLACE = ("capture_file", "capture_record", "file", "record")
ROWS = st.sampled_from(("turn", "merged", "auto"))


def corpus():
    """benches/corpus.py as a module."""
    spec = importlib.util.spec_from_file_location("corpus", ROOT / "benches" / "corpus.py")
    module = sys.modules["corpus"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["A", "B"])
def dump(request, tmp_path_factory):
    """30 MB: several stretches of input."""
    path = tmp_path_factory.mktemp("corpus") / f"{request.param}.jsonl"
    made = corpus().parser().parse_args([str(path), "--size", "30MB", "--form", request.param])
    with path.open("wb") as file:
        corpus().write(file, made)
    return path


@pytest.mark.parametrize("rows", ["turn", "merged", "auto"])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_any_number_of_workers_writes_the_same_bytes(dump, tmp_path, suffix, rows):
    options = {"think": "strip", "upweight": ["0-2:2.5"], "upweight_as": "copies", "jsonl": suffix == "jsonl"}
    options["rows"] = rows
    written = []
    for workers in (1, 2, 7):
        out = tmp_path / f"o.{suffix}"
        text = runs.options_json(dump, out, **{**options, "workers": workers})
        report = json.loads(_core.convert(text, _core.Progress()))
        written.append((out.read_bytes(), report["counts"]))
        assert json.loads((tmp_path / f"o.{suffix}.manifest.json").read_text())["counts"] == report["counts"]
    assert written[0] == written[1] == written[2]


@given(strategies.dumps(), strategies.POLICIES, ROWS, st.integers(2, 7))
def test_small_dumps_too(dump, drawn, rows, workers):
    drawn = {**drawn, "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        dump.write(Path(folder))
        inputs = [Path(folder) / name for name, _ in dump.files]
        results = []
        for n in (1, workers):
            text = runs.options_json(inputs, Path(folder) / "o.jsonl", bad="skip", jsonl=True, expect_rows=None)
            options = {**json.loads(text), **strategies.policies(drawn), "workers": n}
            try:
                _core.convert(json.dumps(options), _core.Progress())
                results.append((Path(folder) / "o.jsonl").read_bytes())
            except _core.DataError as error:
                results.append(str(error))
        assert results[0] == results[1]


def bare(rows):
    """Rows without their place, as a sorted list."""
    return sorted(json.dumps(placeless(row, PLACE), sort_keys=True) for row in rows)


def placeless(row, names):
    """A row without some columns, and its calls without some fields."""
    calls = row["calls"] and [{k: v for k, v in call.items() if k not in names} for call in row["calls"]]
    return {**{k: v for k, v in row.items() if k not in names}, "calls": calls}


@given(strategies.dumps(forms=("calls", "native", "response"), plain=True), strategies.POLICIES, ROWS, st.randoms())
def test_shuffled_lines_give_the_same_rows(dump, drawn, rows, dice):
    drawn = {key: value for key, value in drawn.items() if key != "upweight_as"} | {"rows": rows}
    if not dump.timed:
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        lines = [
            line for _, data in dump.files for line in data.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()
        ]
        results = []
        for n in range(2):
            (folder / f"{n}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
            options = {"bad": "skip", "jsonl": True, **strategies.policies(drawn)}
            try:
                rows = runs.convert(folder / f"{n}.jsonl", folder / f"o{n}.jsonl", **options).rows
                # Rollouts that share a name are numbered as they come.
                named = [{**row, "rollout_id": (row["rollout_id"] or "").partition("#")[0]} for row in rows]
                results.append(bare(named))
            except _core.DataError as error:
                # Which call stands first is what the shuffle changes.
                results.append(str(error).replace(f"{n}.jsonl", "").partition("; first ")[0])
            dice.shuffle(lines)
        assert results[0] == results[1]


@pytest.mark.parametrize("rows", ["turn", "merged"])
@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_compressed_files_give_the_same_rows(dump, tmp_path, kind, rows):
    data = dump.read_bytes()[: 12 << 20].rpartition(b"\n")[0] + b"\n"
    plain = tmp_path / "d.jsonl"
    plain.write_bytes(data)
    packed = tmp_path / f"d.jsonl.{kind}"
    packed.write_bytes(gzip.compress(data, 1) if kind == "gz" else zstandard.ZstdCompressor().compress(data))
    made = [runs.convert(path, tmp_path / "o.parquet", think="strip", rows=rows).rows for path in (plain, packed)]
    for one, other in zip(*made, strict=True):
        assert placeless(one, ("capture_file", "file")) == placeless(other, ("capture_file", "file"))


def test_the_twin_agrees_on_a_larger_dump(dump, tmp_path):
    lines = dump.read_bytes().splitlines(keepends=True)
    some = b"".join(lines[:2] if "A" in dump.name else random.Random(1).sample(lines[:400], 60))
    path = tmp_path / "d.jsonl"
    path.write_bytes(some)
    twin = reference_convert.convert([(str(path), some)], {**runs.DEFAULTS, "think": "strip"}, runs.BUILT_IN)
    run = runs.convert(path, tmp_path / "o.parquet", think="strip", workers=2)
    for row, expected in zip(run.rows, twin["rows"], strict=True):
        assert {key: row[key] for key in expected} == expected
