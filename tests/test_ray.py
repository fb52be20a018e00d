"""Parts on Ray: a cluster of two workers makes the bytes that one process makes, though one of them is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import runs
import tito
from test_order import corpus
from test_parts import folder_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the worker to kill in /proc"),
]

# A cluster of two workers on this machine, then the command line.
TWO_WORKERS = """
import logging, sys
import ray
from tito.cli import main
ray.init(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
sys.exit(main())
"""
HERE = "import sys; from tito.cli import main; sys.exit(main())"


def command(program, *args):
    paths = [str(Path(tito.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    args = [sys.executable, "-c", program, "convert", *map(str, args)]
    return subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def parent(pid):
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


def below(pid, ancestor):
    """Whether a process descends from another: other clusters on this machine are nobody's business here."""
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parent(pid)
    return False


class Killer(threading.Thread):
    """Kills, by signal, the first worker that converts a part; notes all that did."""

    def __init__(self, driver):
        super().__init__(daemon=True)
        self.driver, self.killed, self.workers, self.over = driver, None, set(), threading.Event()

    def run(self):
        while not self.over.is_set():
            for process in Path("/proc").iterdir():
                try:
                    if not process.name.isdigit() or b"ray::convert_part" not in (process / "cmdline").read_bytes():
                        continue
                    pid = int(process.name)
                    if not below(pid, self.driver):
                        continue
                    self.workers.add(pid)
                    if self.killed is None:
                        os.kill(pid, signal.SIGKILL)
                        self.killed = pid
                except (FileNotFoundError, ProcessLookupError):
                    continue
            time.sleep(0.001)


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """30 MB in six files; calls of four rollouts at a time lie interleaved, line by line in all files."""
    folder = tmp_path_factory.mktemp("dump")
    made = corpus().parser().parse_args([str(folder / "c.jsonl"), "--size", "30MB", "--form", "B", "--live", "4"])
    with (folder / "c.jsonl").open("wb") as file:
        corpus().write(file, made)
    lines = (folder / "c.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "in").mkdir()
    for n in range(6):
        (folder / "in" / f"{n}.jsonl").write_bytes(b"".join(lines[n::6]))
    return folder / "in"


POLICIES = [
    ["--think", "strip", "--unterminated", "keep", "--upweight", "0-2:2.5", "--upweight-as", "copies"],
    ["--rows", "merged", "--normalize", "rollout", "--val", "0.2", "--val-by", "rollout"],
]


@pytest.mark.parametrize("policies", POLICIES, ids=["turn", "merged"])
def test_the_same_bytes_though_a_worker_is_killed(dump, tmp_path, policies):
    for where, program, on in (("here", HERE, []), ("ray", TWO_WORKERS, ["--ray"])):
        (tmp_path / where).mkdir()
        out = tmp_path / where / "rows.parquet"
        process = command(program, dump, "-o", out, "--part-mb", "4", *policies, *on)
        killer = Killer(process.pid)
        if on:
            killer.start()
        stdout, stderr = process.communicate(timeout=540)
        killer.over.set()
        assert (process.returncode, stdout) == (0, ""), stderr
        if on:
            killer.join()
            assert killer.killed is not None
            assert len(killer.workers) >= 2
    here, there = (
        {file.name: file.read_bytes() for file in (tmp_path / where).iterdir() if file.suffix == ".parquet"}
        for where in ("here", "ray")
    )
    assert len(here) >= 4
    assert here == there
    assert sorted(here) == runs.left_behind(tmp_path / "ray", "rows.parquet.manifest.json")
    manifests = [json.loads((tmp_path / where / "rows.parquet.manifest.json").read_text()) for where in ("here", "ray")]
    for manifest in manifests:
        for output in manifest["outputs"]:
            output["file"] = Path(output["file"]).name
    assert manifests[0] == manifests[1]
    assert tito.verify(tmp_path / "ray", dump).rows == sum(output["rows"] for output in manifests[0]["outputs"])


def test_an_error_of_the_data_comes_through(tmp_path):
    inputs = folder_of(tmp_path / "in", files=2)
    (inputs / "1.jsonl").write_text('{"prompt_ids": [1, -5], "output_ids": [2]}\n')
    process = command(TWO_WORKERS, inputs, "-o", tmp_path / "rows.parquet", "--ray")
    stdout, stderr = process.communicate(timeout=540)
    assert (process.returncode, stdout) == (1, ""), stderr
    assert f"error: {inputs}/1.jsonl: record 1, position 1: prompt_ids[1] is -5: negative" in stderr
    assert runs.left_behind(tmp_path) == ["in/0.jsonl", "in/1.jsonl"]
