"""The order of files, wherever they are listed: natural, one on every machine, and against a slow twin."""

import json
import re

import dumps
import pytest
import runs
import tito
from hypothesis import given
from hypothesis import strategies as st
from tito import _core
from tito.distributed.files import list_files

NAMES = ["a/reply_1.json", "a/reply_02.json", "a/reply_2.json", "a/reply_10.json", "a.b/x.json", "b/1.json"]


def twin(name):
    """Part by part: bytes and numbers, a number where its first digit would stand; then the bytes as they are."""
    parts = [part.encode() for part in name.split("/")]
    return [
        ([(48, int(t)) if t.isdigit() else (t[0], 0) for t in re.findall(rb"[0-9]+|[^0-9]", part, re.S)], part)
        for part in parts
    ]


@given(st.lists(st.text("019a-./_é²", max_size=8), max_size=8))
def test_the_twin_agrees(names):
    assert _core.in_name_order(names) == sorted(names, key=twin)


@given(st.permutations(NAMES))
def test_the_order_of_the_question_does_not_matter(names):
    assert _core.in_name_order(names) == NAMES


@pytest.fixture
def folder(tmp_path):
    """A reply a file, written in the other order, none of which says which turn it is."""
    folder = tmp_path / "in"
    for number, name in reversed(list(enumerate(NAMES))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        dumps.write(folder / name, json.dumps(dumps.reply(number)))
    return folder


def test_folders_and_globs_are_read_in_it(tmp_path, folder):
    for given_name in (folder, folder / "*", folder / "**" / "*.json"):
        run = runs.convert(given_name, tmp_path / "o.parquet")
        assert [row["capture_file"] for row in run.rows] == [str(folder / name) for name in NAMES]


def test_files_that_are_named_are_read_as_named(tmp_path, folder):
    names = [folder / NAMES[3], folder / NAMES[0]]
    run = runs.convert(names, tmp_path / "o.parquet")
    assert [row["capture_file"] for row in run.rows] == [str(name) for name in names]


@pytest.mark.parametrize("pattern", ["", "/**/*.json"])
def test_urls_are_listed_in_it(folder, pattern):
    found, _, _ = list_files([f"file://{folder}{pattern}"])
    assert [file.name for file in found] == [f"file://{folder}/{name}" for name in NAMES]


def test_turns_are_numbered_by_it(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        line = {"rollout_id": "r", "prompt_ids": [1, number], "output_ids": [3]}
        dumps.write(folder / f"reply_{number}.jsonl", json.dumps(line))
    run = runs.convert(folder, tmp_path / "o.parquet")
    assert [(row["turn"], row["input_ids"][1]) for row in run.rows] == [(n, n) for n in range(12)]


def test_shards_of_rows_are_opened_in_it(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    for number in (10, 9, 0):
        dump = dumps.write(tmp_path / "d.jsonl", dumps.line(number))
        tito.convert(dump, tmp_path / "one.jsonl")
        (made / f"rows-{number}.jsonl").write_bytes((tmp_path / "one.jsonl").read_bytes())
    for given_name in (made, made / "rows-*.jsonl"):
        assert [row.turn for row in tito.open_rows(given_name)] == [0, 9, 10]
