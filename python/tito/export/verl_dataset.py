"""The data set class that verl loads: `data.custom_cls.path=pkg://tito.export.verl_dataset`, `name=RowsDataset`.

It hands over what `tito convert --format verl` wrote, id for id; the tokenizer is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tito.errors import DataError, UsageError, with_hint

__all__ = ["RowsDataset"]


class RowsDataset(torch.utils.data.Dataset):  # type: ignore[misc]
    """Rows as verl's `no_padding` mode takes them: `input_ids`, `position_ids`, `loss_mask`, 1-D int64, equally long.

    Raises `UsageError` for another `pad_mode`, `DataError` for a row longer than `max_length` (verl would cut it or
    fail in the middle of a run), for one whose first id has loss, and for one without any loss.
    """

    def __init__(
        self,
        parquet_files: str | Sequence[str],
        tokenizer: Any = None,
        config: Mapping[str, Any] | None = None,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        config = {} if config is None else config
        if (pad_mode := config.get("pad_mode", "no_padding")) != "no_padding":
            raise with_hint(UsageError(f"data.pad_mode={pad_mode}: not offered"), "set data.pad_mode=no_padding")
        files = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        table = pa.concat_tables([pq.read_table(file, columns=["input_ids", "loss_mask"]) for file in files])
        if max_samples is not None and max_samples >= 0:
            table = table.slice(0, max_samples)
        self._ids, self._offsets = _flat(table, "input_ids")
        self._mask, offsets = _flat(table, "loss_mask")
        if not np.array_equal(offsets, self._offsets):
            raise with_hint(DataError("input_ids and loss_mask differ in length"), "export again with --format verl")
        self._check(int(config.get("max_length", 1024)))

    def _check(self, max_length: int) -> None:
        lengths = np.diff(self._offsets)
        has_loss = np.zeros(len(lengths), bool)
        has_loss[np.repeat(np.arange(len(lengths)), lengths)[self._mask > 0]] = True
        first = self._offsets[:-1][lengths > 0]
        for wrong, what, hint in (
            (lengths > max_length, f"it is longer than data.max_length={max_length}", "set a larger data.max_length"),
            (~has_loss, "no id has loss", "export again with --format verl, which leaves such rows out"),
            (self._mask[first] > 0, "its first id has loss", "export again with --format verl"),
        ):
            if wrong.any():
                raise with_hint(DataError(f"row {int(np.argmax(wrong))}: {what}"), hint)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        where = slice(self._offsets[index], self._offsets[index + 1])
        ids = torch.from_numpy(self._ids[where].astype(np.int64))
        mask = torch.from_numpy(self._mask[where].astype(np.int64))
        return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}


def _flat(table: pa.Table, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Values of a list column behind each other, and where each list starts."""
    chunks = table.column(name).chunks
    lengths = np.concatenate([[0], *(np.diff(chunk.offsets.to_numpy()) for chunk in chunks)])
    values = [chunk.flatten().to_numpy() for chunk in chunks]
    return np.concatenate(values) if values else np.zeros(0, np.int32), np.cumsum(lengths).astype(np.int64)
