"""What training tests share: tiny models with real tokenizers, rows of real captures. Collected where torch is."""

from importlib.util import find_spec
from pathlib import Path

import pytest

CAPTURES = Path(__file__).parents[1] / "captures"

if find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("train")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of tiny models: `qwen3` (dense), `qwen35` (hybrid, in its wrapper with a vision tower)."""
    import tiny_models

    folder = tmp_path_factory.mktemp("models")
    small = {"width": 32, "context": 4096, "size": 0.16}
    families = {"qwen3": "qwen3", "qwen35": "qwen3.5"}
    return {name: tiny_models.save_model(folder / name, family, **small) for name, family in families.items()}


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Rows of both families: `qwen3`, `qwen3-val`, `qwen3-acts` (no thinking), `qwen35`, `merged` (of it)."""
    import tito

    folder = tmp_path_factory.mktemp("rows")
    made = {}
    for name, capture, policies in (
        ("qwen3", "qwen3", tito.Policies(upweight="0:3", columns="output_logprobs")),
        ("qwen3-val", "qwen3-stream", tito.Policies()),
        ("qwen3-acts", "qwen3", tito.Policies(think="strip")),
        ("qwen35", "qwen35", tito.Policies(upweight="0:3")),
        ("merged", "qwen35", tito.Policies(rows="merged", upweight="0:3")),
    ):
        made[name] = folder / f"{name}.parquet"
        tito.convert(CAPTURES / capture / "calls.jsonl", made[name], policies=policies)
    return made
