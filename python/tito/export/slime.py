"""slime and miles: the fields of a `Sample` as JSON lines. The response of a per-turn row is its output, of a merged
row all from the first id with loss on; mask and logprobs are of the response alone. Rows of one rollout share a number,
so that the loss is averaged inside it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tito.calls import Flag
from tito.errors import DataError, with_hint
from tito.export.contract import Contract, Counts, Examples


def _records(parts: Iterator[Examples]) -> Iterator[dict[str, Any]]:
    numbers: dict[str, int] = {}
    unnamed = count(-1, -1)
    for examples in parts:
        for record, name in _objects(examples):
            # A row that belongs to no rollout is one by itself.
            record["rollout_id"] = next(unnamed) if name is None else numbers.setdefault(name, len(numbers))
            yield record


def _objects(examples: Examples) -> Iterator[tuple[dict[str, Any], str | None]]:
    columns = {name: examples.columns.column(name) for name in CONTRACT.columns}
    rollouts, turns = columns["rollout_id"].to_pylist(), columns["turn"].to_pylist()
    rewards, flags = columns["reward"].to_pylist(), columns["flags"].to_pylist()
    for at, number in enumerate(examples.numbers.tolist()):
        start, end = int(examples.offsets[at]), int(examples.offsets[at + 1])
        mask = examples.mask[start:end]
        prompt = int(examples.prompt_lengths[at])
        # A merged row is all prompt by its columns.
        response = prompt if prompt < end - start else int(np.argmax(mask))
        record = {
            "index": number,
            "tokens": examples.ids[start:end].tolist(),
            "response_length": end - start - response,
            "loss_mask": mask[response:].astype(np.int8).tolist(),
            "rollout_log_probs": _logprobs(examples, at, mask[response:], columns["output_logprobs"][at]),
            "reward": rewards[at],
            "status": "truncated" if (flags[at] or 0) & Flag.TRUNCATED else "completed",
            "metadata": {"rollout_id": rollouts[at], "turn": turns[at]},
        }
        yield record, rollouts[at]


def _logprobs(examples: Examples, at: int, mask: npt.NDArray[np.bool_], told: pa.ListScalar) -> list[float] | None:
    """Those of the response, 0 where no loss falls. A merged row tells one for each of its ids."""
    if told.values is None:
        return None
    values = told.values.to_numpy(zero_copy_only=False)
    whole = int(examples.offsets[at + 1] - examples.offsets[at])
    if len(values) not in (whole, len(mask)):
        raise with_hint(
            DataError(f"{examples.place(at)}: {len(values)} logprobs for {len(mask)} ids"),
            "the file is no output of convert; convert again",
        )
    values = np.where(mask, values[len(values) - len(mask) :], np.float32(0))
    if not np.isfinite(values).all():
        wrong = int(np.argmin(np.isfinite(values)))
        raise with_hint(
            DataError(f"{examples.place(at)}: the logprob of trained id {wrong} of the response is {values[wrong]}"),
            "no JSON says that: convert without --columns output_logprobs, and slime computes them itself",
        )
    return [float(value) for value in values]


def _settings(counts: Counts) -> tuple[str, ...]:
    return (
        "Sample.from_dict reads a line; a reward of null is a rollout that nobody scored",
        f"the longest row has {counts.longest} ids",
    )


CONTRACT = Contract(
    name="slime",
    about="slime and miles Sample, as JSON lines",
    weights="none",
    suffixes=(".jsonl",),
    columns=("rollout_id", "turn", "reward", "flags", "output_logprobs"),
    loses=("weights", "capture provenance"),
    records=_records,
    settings=_settings,
)
