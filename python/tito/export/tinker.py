"""tinker: the fields of a `Datum` as JSON lines, shifted already: the model sees ids[:-1] and is asked for ids[1:],
each with its own float weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tito.export.contract import Contract, Counts, Examples


def _records(parts: Iterator[Examples]) -> Iterator[dict[str, Any]]:
    for examples in parts:
        yield from _objects(examples)


def _objects(examples: Examples) -> Iterator[dict[str, Any]]:
    for start, end in zip(examples.offsets[:-1].tolist(), examples.offsets[1:].tolist(), strict=True):
        ids = examples.ids[start:end].tolist()
        shape = [end - start - 1]
        yield {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": ids[:-1]}]},
            "loss_fn_inputs": {
                "target_tokens": {"data": ids[1:], "dtype": "int64", "shape": shape},
                "weights": {
                    "data": examples.weights[start + 1 : end].tolist(),
                    "dtype": "float32",
                    "shape": shape,
                },
            },
        }


def _settings(counts: Counts) -> tuple[str, ...]:
    return (f"loss_fn='cross_entropy'; the longest input has {max(counts.longest - 1, 0)} ids",)


CONTRACT = Contract(
    name="tinker",
    about="tinker Datum, as JSON lines",
    weights="token",
    suffixes=(".jsonl",),
    loses=("provenance", "logprobs"),
    records=_records,
    settings=_settings,
)
