"""A run that ends badly leaves nothing: no output, no temporary file, and what stood there before still stands."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dumps
import numpy as np
import pyarrow.parquet as pq
import pytest
import runs
from tito import DataError, UsageError, WorldError, _core

CHILD = """
import json, sys
from tito import _core
_core.convert(sys.argv[1], _core.Progress())
"""

FAILURES = {
    "bad ids": ([dumps.line(0), dumps.line(1, prompt_ids=[-1])], {}, DataError),
    "bad json": ([dumps.line(0), "{"], {}, DataError),
    "two tokenizers": ([dumps.line(0), dumps.line(1, prompt_ids=dumps.PROMPT_35)], {}, DataError),
    "expected rows": ([dumps.line(0)], {"expect_rows": 2}, DataError),
    "no rows": ([dumps.line(0, kind="helper")], {}, DataError),
    "overlong": ([dumps.line(0)], {"max_length": 1}, DataError),
    "rule that matches nothing": ([dumps.line(0)], {"upweight": ["9:2"]}, DataError),
    "rule that is none": ([dumps.line(0)], {"upweight": ["x"]}, UsageError),
    "no profile": ([dumps.line(0, prompt_ids=[1])], {"think": "strip"}, DataError),
    "json cannot hold it": (
        [dumps.line(0, logprobs=[-1, float("nan"), -1])],
        {"columns": ["output_logprobs"]},
        DataError,
    ),
}


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("name", FAILURES)
def test_no_error_leaves_a_file(tmp_path, name, suffix, interleaved):
    lines, options, error = FAILURES[name]
    if not interleaved:
        # Each call a rollout of its own: rows go straight to the output.
        lines = [line.replace('"rollout_id": "r"', '"rollout_id": null') for line in lines]
    if name == "json cannot hold it" and suffix == "parquet":
        error = None
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / f"o.{suffix}"
    out.write_text("before")
    if error is None:
        # Parquet can hold it.
        rows = runs.convert(dump, out, jsonl=False, **options).rows
        logprobs = np.array([row["output_logprobs"] for row in rows], np.float32)
        assert np.array_equal(logprobs, np.array([[-1, np.nan, -1]], np.float32), equal_nan=True)
        return
    with pytest.raises(error):
        runs.convert(dump, out, jsonl=suffix == "jsonl", **options)
    assert (runs.left_behind(tmp_path / "out"), out.read_text()) == ([out.name], "before")


def test_a_manifest_that_cannot_be_written_leaves_no_rows(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    (tmp_path / "o.parquet.manifest.json").mkdir()
    with pytest.raises((WorldError, UsageError)):
        runs.convert(dump, tmp_path / "o.parquet")
    assert runs.left_behind(tmp_path) == ["d.jsonl"]


@pytest.mark.parametrize("kind", ["folder", "file as folder", "no folder", "proc"])
def test_an_output_that_cannot_be_written_is_told_at_once(tmp_path, kind):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, prompt_ids=[-1]))
    (tmp_path / "folder").mkdir()
    out, error, message, hint = {
        "folder": (
            tmp_path / "folder",
            UsageError,
            f"{tmp_path}/folder is a folder",
            "name the file to write, like rows.parquet",
        ),
        "file as folder": (
            dump / "o.parquet",
            WorldError,
            f"{dump}/o.parquet: cannot write: Not a directory (os error 20)",
            "see the system's message above",
        ),
        "no folder": (
            tmp_path / "no" / "o.parquet",
            WorldError,
            f"{tmp_path}/no/o.parquet: cannot write: No such file or directory (os error 2)",
            f"there is no folder {tmp_path}/no; make it first: mkdir -p {tmp_path}/no",
        ),
        "proc": (Path("/proc/o.parquet"), WorldError, None, None),
    }[kind]
    with pytest.raises(error) as caught:
        runs.convert(dump, out)
    if message is not None:
        assert str(caught.value).startswith(message.split(" (os error")[0])
        assert caught.value.hint == hint
    else:
        assert str(caught.value).startswith("/proc/o.parquet: cannot write: ")
    assert runs.left_behind(tmp_path) == ["d.jsonl"]


def test_parquet_cannot_go_to_standard_output(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    with pytest.raises(UsageError) as caught:
        _core.convert(runs.options_json(dump, "-"), _core.Progress())
    assert str(caught.value) == "parquet cannot go to standard output"
    assert caught.value.hint == "write to a file, or add --jsonl"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """About 4 MB of rows that do not compress, in two shapes: rollouts by line, and interleaved."""
    dice = random.Random(1)
    folder = tmp_path_factory.mktemp("large")
    for name, rollouts in (("whole", None), ("interleaved", 50)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for n in range(1500):
                words = [dice.randrange(1000, 150000) for _ in range(700)]
                ids = [*dumps.PROMPT[:3], *words, *dumps.PROMPT[3:]]
                rollout = None if rollouts is None else f"r{n % rollouts}"
                call = {"rollout_id": rollout, "call_id": f"c{n}", "turn": n, "prompt_ids": ids}
                file.write(json.dumps({**call, "output_ids": [*words[:50], 151645]}) + "\n")
    return folder


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("shape", ["whole", "interleaved"])
def test_a_killed_run_leaves_the_whole_file_or_none(large, tmp_path, shape, suffix):
    out = tmp_path / f"o.{suffix}"
    text = runs.options_json(large / f"{shape}.jsonl", out, workers=2, jsonl=suffix == "jsonl")
    before = time.monotonic()
    subprocess.run([sys.executable, "-c", CHILD, text], check=True)
    whole = out.read_bytes()
    longest = time.monotonic() - before
    out.unlink()
    dice = random.Random(shape)
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", CHILD, text])
        try:
            child.wait(dice.uniform(0, longest * 1.2))
        except subprocess.TimeoutExpired:
            child.kill()
        child.wait()
        if out.exists():
            assert out.read_bytes() == whole
            out.unlink()
        else:
            assert child.returncode == -signal.SIGKILL
    runs.convert(large / f"{shape}.jsonl", out, jsonl=suffix == "jsonl")
    assert out.exists()


FULL = """
import json, resource, signal, sys
from tito import _core
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    _core.convert(sys.argv[1], _core.Progress())
except _core.WorldError as error:
    print(json.dumps([str(error), error.hint]))
"""


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("shape", ["whole", "interleaved"])
def test_a_file_that_may_not_grow_is_an_error_of_the_world(large, tmp_path, shape, suffix):
    out = tmp_path / f"o.{suffix}"
    text = runs.options_json(large / f"{shape}.jsonl", out, workers=2, jsonl=suffix == "jsonl")
    child = subprocess.run([sys.executable, "-c", FULL, text], check=True, capture_output=True, text=True)
    message, hint = json.loads(child.stdout)
    assert ": cannot write" in message
    assert "File too large (os error 27)" in message
    assert message.startswith(str(out) if shape == "whole" else str(tmp_path))
    assert hint == "see the system's message above"
    assert runs.left_behind(tmp_path) == []


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("shape", ["whole", "interleaved"])
def test_a_full_disk(large, tmp_path, shape, suffix):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True
        ).returncode
    )
    if not mounted:
        # Who may not mount has the limit on file sizes above.
        return
    try:
        with pytest.raises(WorldError) as caught:
            runs.convert(large / f"{shape}.jsonl", disk / f"o.{suffix}", jsonl=suffix == "jsonl")
        assert "cannot write" in str(caught.value)
        assert "No space left on device (os error 28)" in str(caught.value)
        expected = "free some space or write elsewhere; nothing was left under the final name"
        assert caught.value.hint == expected
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_cancelled_run_leaves_nothing(large, tmp_path):
    progress = _core.Progress()
    progress.cancel()
    with pytest.raises(WorldError) as caught:
        _core.convert(runs.options_json(large / "whole.jsonl", tmp_path / "o.parquet"), progress)
    assert str(caught.value) == "stopped; nothing was written under the final name"
    assert caught.value.hint == "run the same command again to start over"
    assert runs.left_behind(tmp_path) == []


def test_shards_are_named_together(large, tmp_path):
    text = runs.options_json(large / "whole.jsonl", tmp_path / "o.jsonl", jsonl=True, shard_bytes=1_000_000)
    report = json.loads(_core.convert(text, _core.Progress()))
    names = [Path(file["file"]).name for file in report["outputs"]]
    assert names == sorted(names)
    assert runs.left_behind(tmp_path, "o.jsonl.manifest.json") == names
    assert sum(file["rows"] for file in report["outputs"]) == 1500
    with pytest.raises(UsageError, match=r"is there already$"):
        _core.convert(text, _core.Progress())


# What an earlier run is asked for beside the plain one, the file of it that the plain one would leave, and the suffix.
EARLIER = {
    "validation side": ({"val": 0.5, "val_by": "rollout"}, "o.val.parquet"),
    "lines of a validation side": ({"val": 0.5, "val_by": "rollout", "jsonl": True}, "o.val.jsonl"),
    "identities": ({"group_by": "identity"}, "o.qwen3.parquet"),
    "shards": ({"shard_tokens": 4}, "o-00000.parquet"),
    "lines in shards": ({"shard_tokens": 4, "jsonl": True}, "o-00000.jsonl"),
}


@pytest.mark.parametrize("name", EARLIER)
def test_files_of_an_earlier_run_are_not_left_among_the_new_ones(tmp_path, name):
    options, left = EARLIER[name]
    jsonl = options.get("jsonl", False)
    out = tmp_path / f"o{Path(left).suffix}"
    dump = dumps.write(tmp_path / "d.jsonl", *(dumps.line(n, rollout_id=f"r{n}") for n in range(6)))
    runs.convert_report(dump, out, **options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError) as caught:
        runs.convert(dump, out, jsonl=jsonl)
    assert str(caught.value) == f"{tmp_path / left} of an earlier run is there already"
    expected = (
        f"remove what {out.name}.manifest.json names, or write elsewhere: its rows would be read with the new ones"
    )
    assert caught.value.hint == expected
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # What is another file by now is not touched and in nobody's way.
    for path in tmp_path.glob(f"o?*{Path(left).suffix}"):
        path.write_text("mine")
    run = runs.convert(dump, out, jsonl=jsonl)
    assert len(run.rows) == 6
    assert (tmp_path / left).read_text() == "mine"


@pytest.mark.parametrize("options", [{}, {"val": 0.5, "val_by": "rollout"}])
def test_a_run_replaces_what_the_same_run_wrote(tmp_path, options):
    dump = dumps.write(tmp_path / "d.jsonl", *(dumps.line(n, rollout_id=f"r{n}") for n in range(6)))
    for _ in range(2):
        run = runs.convert(dump, tmp_path / "o.parquet", **options)
        assert len(run.rows) + len(run.val) == 6
    assert not [name for name in runs.left_behind(tmp_path) if name.startswith(".")]


class Held:
    """A run that waits for the rest of its input."""

    def __init__(self, folder, out, **options):
        os.mkfifo(folder / "fifo")
        self.error = None
        self.thread = threading.Thread(target=self.run, args=(folder / "fifo", out, options))
        self.thread.start()
        # Opened for reading only once the output is the run's.
        self.file = (folder / "fifo").open("w")

    def run(self, fifo, out, options):
        try:
            self.report = runs.convert_report(fifo, out, **options)
        except Exception as error:
            self.error = error

    def end(self):
        self.file.close()
        self.thread.join()


def test_an_output_is_written_by_one_run_at_a_time(tmp_path):
    out = tmp_path / "o.parquet"
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(1))
    held = Held(tmp_path, out)
    with pytest.raises(WorldError) as caught:
        runs.convert(dump, out)
    assert str(caught.value) == f"{out}: another run is writing it"
    assert caught.value.hint == "wait until it has ended, or write elsewhere"
    runs.convert(dump, tmp_path / "other.parquet")
    held.file.write(dumps.line(0))
    held.end()
    assert held.error is None
    assert held.report["outputs"][0]["rows"] == len(runs.read_rows(out)) == 1
    assert len(runs.convert(dump, out).rows) == 2
    assert not [name for name in runs.left_behind(tmp_path) if name.startswith(".")]


def test_a_killed_run_holds_nothing(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, runs.options_json(tmp_path / "fifo", tmp_path / "o.parquet")]
    )
    with (tmp_path / "fifo").open("w"):
        child.kill()
        child.wait()
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    assert len(runs.convert(dump, tmp_path / "o.parquet").rows) == 1


def test_a_name_that_is_refused_at_the_end_leaves_what_was_there(tmp_path):
    (tmp_path / "out").mkdir()
    first, second = (tmp_path / "out" / f"o.{name}.parquet" for name in ("qwen3", "qwen3.5"))
    first.write_text("before")
    held = Held(tmp_path, tmp_path / "out" / "o.parquet", group_by="identity", workers=2)
    n = 0
    while len(list((tmp_path / "out").glob(".o.qwen3*.tmp-*"))) < 2:
        prompt, output = (dumps.PROMPT_35, [9, 248046]) if n % 2 else (dumps.PROMPT, None)
        ids = [*prompt[:3], *[9] * 20_000, *prompt[3:]]
        held.file.write(dumps.line(n, rollout_id=None, prompt_ids=ids, output=output) + "\n")
        n += 1
        assert n < 5000
    second.mkdir()
    held.end()
    assert isinstance(held.error, WorldError)
    assert str(held.error).startswith(f"{second}: cannot rename: ")
    assert first.read_text() == "before"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [second.name, first.name]


def test_the_file_says_what_made_it(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    run = runs.convert(dump, tmp_path / "o.parquet")
    metadata = pq.read_schema(run.path).metadata
    assert metadata[b"tito.rows"] == b"turn"
    assert metadata[b"tito.profile"] == b"qwen3"
    assert json.loads(metadata[b"tito.counts"]) == run.counts
    assert json.loads(metadata[b"tito.policies"]) == run.report["policies"]
