"""SkyRL's pretokenized data sets: `input_ids` and a 0/1 `loss_mask` of the same length, unpadded and unshifted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from tito.export.contract import Contract, Counts, Examples


def _table(examples: Examples) -> Mapping[str, pa.Array]:
    return {"input_ids": examples.lists(examples.ids), "loss_mask": examples.lists(examples.mask.astype(np.int8))}


def _settings(counts: Counts) -> tuple[str, ...]:
    return (
        "pretokenized_dataset_paths=[OUT]: name the file; in its folder the manifest counts as another format",
        f"max_length={counts.longest} or more: longer rows are cut at their end",
    )


CONTRACT = Contract(
    name="skyrl",
    about="SkyRL pretokenized_dataset_paths",
    weights="none",
    suffixes=(".parquet", ".jsonl"),
    loses=("weights", "provenance", "logprobs"),
    table=_table,
    settings=_settings,
)
