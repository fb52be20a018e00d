"""What the examples in docstrings and in the README find in their folder: a real capture, and rows made of it."""

import os
import shutil
from pathlib import Path

import pytest

# It imports torch, which only verl's users have.
collect_ignore = ["python/tito/export/verl_dataset.py"]

CAPTURES = Path(__file__).parent / "tests" / "captures"


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory):
    """A folder that holds `calls.jsonl` and `kept.parquet`."""
    import tito

    folder = tmp_path_factory.mktemp("example")
    (folder / "tests").symlink_to(CAPTURES.parent)
    shutil.copy(CAPTURES / "qwen3" / "calls.jsonl", folder)
    tito.convert(folder / "calls.jsonl", folder / "kept.parquet")
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
