"""verl's SFT trainer through a data set class of ours: `input_ids` and a 0/1 `loss_mask`, unshifted.

verl's own class tokenises messages again. Its loss rolls the mask of a whole flat batch by one, so a first id with loss
would be charged to the sequence before: there is none.
"""

from __future__ import annotations

from tito.export import skyrl
from tito.export.contract import Contract, Counts


def _settings(counts: Counts) -> tuple[str, ...]:
    return (
        "data.custom_cls.path=pkg://tito.train.verl data.custom_cls.name=TitoVerlDataset",
        f"data.pad_mode=no_padding; data.max_length and data.max_token_len_per_gpu: {counts.longest} or more",
        "the loader drops the last partial batch",
    )


CONTRACT = Contract(
    name="verl",
    about="verl SFT, by tito.train.verl",
    weights="none",
    suffixes=(".parquet",),
    loses=("weights", "provenance", "logprobs"),
    table=skyrl.CONTRACT.table,
    settings=_settings,
)
