"""LLaMA-Factory's `tokenized_path`: a folder of `DatasetDict.save_to_disk` with the split `train`, no parquet."""

from __future__ import annotations

from tito.export import axolotl
from tito.export.contract import Contract, Counts


def _settings(counts: Counts) -> tuple[str, ...]:
    return (
        "tokenized_path: OUT (all other data arguments are ignored then)",
        f"cutoff_len does not apply; the longest row has {counts.longest} ids",
    )


CONTRACT = Contract(
    name="llamafactory",
    about="LLaMA-Factory tokenized_path",
    weights="none",
    suffixes=("",),
    loses=("weights", "provenance", "logprobs"),
    table=axolotl.CONTRACT.table,
    settings=_settings,
)
