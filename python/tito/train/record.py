"""`tito_train.json`: what was trained on what, with which versions and results, written beside the adapter.

It stands there from the first step on and is replaced whole at each checkpoint, so a run that was killed says how far
it came.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tito.files import file_hash, write_whole

__all__ = ["Record", "data_hashes", "write_whole"]

_PACKAGES = (
    "tito-distill",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "numpy",
    "pyarrow",
)


def data_hashes(files: Sequence[str]) -> dict[str, str]:
    """sha256 of each file's bytes."""
    return {name: file_hash(name) for name in files}


class Record:
    """The record of a run; only the first rank writes."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, writes: bool) -> None:
        self.path, self._writes = folder / "tito_train.json", writes
        self.facts: dict[str, Any] = {
            "version": 1,
            "reader": "tito",
            "state": "running",
            "versions": {"python": platform.python_version(), **_versions()},
            **facts,
            "steps_done": 0,
            "stopped": None,
            "checks": [],
            "metrics": [],
            "best": None,
        }

    def add(self, **facts: Any) -> None:
        """Sets facts and writes the record."""
        self.facts |= facts
        if self._writes:
            write_whole(self.path, json.dumps(self.facts, indent=2, ensure_ascii=False, default=str) + "\n")


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
