"""axolotl: exactly `input_ids`, `attention_mask` and `labels`; with one of the three missing it would tokenise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from tito.export.contract import Contract, Counts, Examples


def _table(examples: Examples) -> Mapping[str, pa.Array]:
    return {
        "input_ids": examples.lists(examples.ids),
        "attention_mask": examples.lists(np.ones(len(examples.ids), np.int8)),
        "labels": examples.lists(examples.labels()),
    }


def _settings(counts: Counts) -> tuple[str, ...]:
    return (
        "datasets: [{path: OUT, ds_type: parquet (or json), type: }]: `type` stays empty",
        f"sequence_len: {counts.longest} or more: longer rows are dropped",
    )


CONTRACT = Contract(
    name="axolotl",
    about="axolotl, a dataset with an empty `type:`",
    weights="none",
    suffixes=(".parquet", ".jsonl"),
    loses=("weights", "provenance", "logprobs"),
    table=_table,
    settings=_settings,
)
