"""TRL's SFTTrainer: `input_ids` and `labels`. Labels are the only mask that every release and setting honours; a row of
prompt and output in two columns would be taken for its prompt alone."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from tito.export.contract import Contract, Counts, Examples


def _table(examples: Examples) -> Mapping[str, pa.Array]:
    return {"input_ids": examples.lists(examples.ids), "labels": examples.lists(examples.labels())}


def _settings(counts: Counts) -> tuple[str, ...]:
    if counts.packed:
        return (
            "SFTConfig(dataset_kwargs={'skip_prepare_dataset': True}, padding_free=True, max_length=None)",
            "an attention that keeps sequences apart by position_ids: run its isolation probe before a long run",
        )
    return (
        f"SFTConfig(max_length={max(counts.longest, 1024)}) or more: rows over it are cut at their end, silently",
        "no completion_only_loss, no assistant_only_loss: labels say where loss falls; packing='bfd' keeps rows whole",
    )


CONTRACT = Contract(
    name="trl",
    about="TRL SFTTrainer",
    weights="none",
    suffixes=(".parquet", ".jsonl"),
    packs=True,
    loses=("weights", "provenance", "logprobs"),
    table=_table,
    settings=_settings,
)
