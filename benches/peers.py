"""What peers do with the calls of one rollout: their own functions, unmodified, from their own wheels.

Only the definitions named here are compiled from the installed source, so a wheel is enough and none of what the rest
of its package imports (`pip install --no-deps trl skyrl`). slime and NeMo Gym are on no package index, so they are not
run; slime's rule is TRL's but for one threshold.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

# TRL's default.
FORK_THRESHOLD = 1024


class Turn(NamedTuple):
    """One call as peers take it."""

    prompt: list[int]
    output: list[int]


class Row(NamedTuple):
    """One training row: ids, and 1 where loss falls."""

    ids: list[int]
    mask: list[int]


Merge = Callable[[Sequence[Turn]], list[Row]]


@dataclass
class Peer:
    """A merge function; `prepare` turns calls into what it takes, which is not measured, and `read` its rows."""

    name: str
    prepare: Callable[[Sequence[Turn]], Any]
    merge: Callable[[Any], Any]
    read: Callable[[Any], list[Row]]


def definitions(package: str, path: str, names: Sequence[str], known: dict[str, Any]) -> SimpleNamespace | None:
    """Some definitions of an installed module, compiled as they stand; None where it is not installed or has not the
    last one. The others may be missing: versions differ in what they call."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0], path)
    if not file.exists():
        return None
    tree = ast.parse(file.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    if names[-1] not in {getattr(node, "name", None) for node in tree.body}:
        return None
    # What stands behind a colon is not looked at, so the types need not be there.
    exec(compile(tree, file, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True), known)
    return SimpleNamespace(**known)


def trl() -> Peer | None:
    names = ("TurnRecord", "TrainingSequence", "_common_prefix_len", "DriftKind", "_SampleBuilder")
    known = {"__name__": __name__, "dataclass": dataclass, "field": field, "enum": SimpleNamespace(Enum=Enum)}
    path = "experimental/async_grpo/async_rollout_worker.py"
    code = definitions("trl", path, (*names, "_chain_to_sequences"), known)
    if code is None:
        return None

    def prepare(turns: Sequence[Turn]) -> Any:
        return [code.TurnRecord(turn.prompt, turn.output, [0.0] * len(turn.output)) for turn in turns]

    return Peer(
        f"TRL {version('trl')}",
        prepare,
        lambda records: code._chain_to_sequences(records, "r", FORK_THRESHOLD)[0],
        lambda made: [Row(one.input_ids, one.completion_mask) for one in made],
    )


def skyrl() -> Peer | None:
    known = {"__name__": __name__, "np": np}
    names = ("_is_prefix", "_concat_sample_support", "_merge_single_trajectory")
    code = definitions("skyrl", "train/generators/utils.py", names, known)
    if code is None:
        return None

    def prepare(turns: Sequence[Turn]) -> Any:
        return {
            "prompt_token_ids": [turn.prompt for turn in turns],
            "response_ids": [turn.output for turn in turns],
            "loss_masks": [[1] * len(turn.output) for turn in turns],
            "rewards": [0.0] * len(turns),
            "stop_reasons": None,
            "rollout_logprobs": None,
            "trajectory_ids": ["r"] * len(turns),
            "is_last_step": [n + 1 == len(turns) for n in range(len(turns))],
        }

    def read(made: Any) -> list[Row]:
        parts = zip(made["prompt_token_ids"], made["response_ids"], made["loss_masks"], strict=True)
        return [Row(prompt + response, [0] * len(prompt) + mask) for prompt, response, mask in parts]

    return Peer(f"SkyRL {version('skyrl')}", prepare, code._merge_single_trajectory, read)


def version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def installed() -> list[Peer]:
    """The peers that are."""
    return [peer for peer in (trl(), skyrl()) if peer is not None]
