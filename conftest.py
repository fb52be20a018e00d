"""What the examples in docstrings, README and docs find in their folder: a real capture, and rows made of it."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

# They import torch as they load; their examples run where it is.
TORCH = (
    "check_after",
    "check_model",
    "collate",
    "export",
    "loss",
    "replies",
    "rhythm",
    "stream",
    "trainer",
    "verl",
    "work",
)

collect_ignore = []
if find_spec("torch") is None:
    collect_ignore += [f"python/tito/train/{name}.py" for name in TORCH]
    collect_ignore += [f"tests/train/{name}.py" for name in ("sharded", "stopping", "trained")]

CAPTURES = Path(__file__).parent / "tests" / "captures"


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory):
    """A folder that holds `calls.jsonl`, `kept.parquet`, and the `rows.parquet` that the README makes."""
    import tito

    folder = tmp_path_factory.mktemp("example")
    (folder / "tests").symlink_to(CAPTURES.parent)
    shutil.copy(CAPTURES / "qwen3" / "calls.jsonl", folder)
    tito.convert(folder / "calls.jsonl", folder / "kept.parquet")
    policies = tito.Policies(think="strip", upweight="0-2:12")
    tito.convert(folder / "calls.jsonl", folder / "rows.parquet", policies=policies)
    return folder


@pytest.fixture(autouse=True)
def examples_run_there(request):
    """Examples name files without a folder, so they run in one that has them."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    before = Path.cwd()
    os.chdir(request.getfixturevalue("example_folder"))
    yield
    os.chdir(before)
