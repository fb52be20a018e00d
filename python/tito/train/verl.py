"""Rows as verl's own dataset class: `data.custom_cls.path=pkg://tito.train.verl data.custom_cls.name=TitoVerlDataset`.

Takes what `tito convert` wrote, with or without `--format verl`. verl shifts `loss_mask` itself and divides by its sum,
knows no weights but 0 and 1, and pads in its own loader: so rows are repeated by weight, every row has a loss token and
none has one at position 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from tito.errors import UsageError, with_hint
from tito.train.dataset import TitoSFTDataset

__all__ = ["TitoVerlDataset"]


class TitoVerlDataset(Dataset[dict[str, torch.Tensor]]):  # type: ignore[misc]
    """One file of rows, or several that belong together, for verl's SFT trainer.

    An item is `input_ids`, `position_ids` and `loss_mask`, int64 [length], unshifted. `config` is verl's `data`
    section: `max_length`, `pad_mode` (only `no_padding`). The tokenizer is not used. Raises `UsageError` for another
    `pad_mode` and for weights that differ inside a row, `DataError` for rows over `max_length` (verl would cut them).
    """

    def __init__(
        self,
        parquet_files: str | Sequence[str],
        tokenizer: object = None,
        config: Mapping[str, Any] | None = None,
        processor: object = None,
        max_samples: int | None = -1,
    ) -> None:
        settings = config or {}
        if (mode := settings.get("pad_mode", "no_padding")) != "no_padding":
            raise with_hint(
                UsageError(f"data.pad_mode={mode}: verl's loss reads another mask there"),
                "set data.pad_mode=no_padding",
            )
        files = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        weights = settings.get("tito_weights", "repeat")
        self._parts = [TitoSFTDataset(file, weights=weights, max_length=settings.get("max_length")) for file in files]
        total = sum(map(len, self._parts))
        self._length = total if max_samples is None or max_samples < 0 else min(max_samples, total)
        if uneven := sum(int((~part.survey.even).sum()) for part in self._parts):
            raise with_hint(
                UsageError(f"{uneven} rows weigh their tokens differently, and verl's loss knows only 0 and 1"),
                "convert with --rows turn, or train with `tito train`",
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self._length:
            raise IndexError(f"example {index} of {self._length}")
        for part in self._parts:
            if index < len(part):
                break
            index -= len(part)
        sample = part[index]
        ids = torch.from_numpy(sample["input_ids"].astype("int64"))
        mask = torch.from_numpy((sample["labels"] != -100).astype("int64"))
        return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}
