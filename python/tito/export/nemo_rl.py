"""NeMo-RL: the fields of a `DatumSpec` as JSON lines, for a processor that makes tensors of the two id lists.

A message is a stretch with or without loss; its text is not known here and stays empty. `loss_multiplier` is the row's
weight: NeMo-RL multiplies the loss of a datum by it and divides by the sum of mask and multiplier over the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from tito.export.contract import Contract, Counts, Examples


def _records(parts: Iterator[Examples]) -> Iterator[dict[str, Any]]:
    for examples in parts:
        yield from _objects(examples)


def _objects(examples: Examples) -> Iterator[dict[str, Any]]:
    names = {name: examples.columns.column(name).to_pylist() for name in examples.columns.column_names}
    for at, number in enumerate(examples.numbers.tolist()):
        start, end = examples.offsets[at], examples.offsets[at + 1]
        ids, mask = examples.ids[start:end], examples.mask[start:end]
        edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
        yield {
            "message_log": [
                {
                    "role": "assistant" if mask[left] else "user",
                    "content": "",
                    "token_ids": ids[left:right].tolist(),
                    "token_loss_mask": [int(mask[left])] * (right - left),
                }
                for left, right in pairwise(edges)
            ],
            "length": len(ids),
            "loss_multiplier": float(examples.row_weights[at]),
            "idx": number,
            "task_name": "tito",
            "extra_env_info": {name: values[at] for name, values in names.items()},
        }


def _settings(counts: Counts) -> tuple[str, ...]:
    return (
        "a custom processor makes tensors of token_ids and token_loss_mask; do not let it mask by role",
        f"max_total_sequence_length: {counts.longest} or more",
    )


CONTRACT = Contract(
    name="nemo-rl",
    about="NeMo-RL DatumSpec, as JSON lines",
    weights="row",
    suffixes=(".jsonl",),
    columns=("rollout_id", "task_id", "call_id", "turn", "reward"),
    loses=("text", "logprobs"),
    records=_records,
    settings=_settings,
)
