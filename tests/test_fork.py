"""A process that used the core may fork, and the child may use it too."""

import os
import subprocess
import sys
from pathlib import Path

import dumps
import pytest
import tito

SCRIPT = """
import json, multiprocessing, os, sys
import numpy as np
import tito
from tito import _core
import runs

def work(name):
    ids = np.tile(np.array([151667, 5, 151668, 7], np.int32), 50_000)
    assert tito.strip_think(ids).tolist() == [7] * 50_000
    report = json.loads(_core.convert(runs.options_json(sys.argv[1], name, workers=2, think="strip"), _core.Progress()))
    assert report["counts"]["rows"] == 300, report
    return 0

work(sys.argv[2] + "/parent.parquet")
if sys.argv[3] == "fork":
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work(sys.argv[2] + "/child.parquet")
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
else:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, [f"{sys.argv[2]}/child{n}.parquet" for n in range(4)]) == [0] * 4
work(sys.argv[2] + "/after.parquet")
print("done")
"""


@pytest.mark.parametrize("how", ["fork", "pool"])
def test_a_forked_child_does_the_same(tmp_path, how):
    lines = [dumps.line(n, output=dumps.THOUGHT, rollout_id=str(n % 7)) for n in range(300)]
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(dump), str(tmp_path), how]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    assert (child.stdout, child.returncode) == ("done\n", 0), child.stderr


def environment():
    tests = Path(__file__).parent
    paths = [str(tests), str(Path(tito.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
