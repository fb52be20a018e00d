"""Examples to batches of tensors: padded on the right, or flat, rows one behind the other with positions that restart.

Ids and labels travel as they are: padding is told by the attention mask, never by an id. A flat batch holds
`position_ids`, `cu_seq_lens`, `max_length` and `seq_idx`, so that eager, SDPA, flash and linear attention can all keep
rows apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tito.train.dataset import Sample, TitoSFTDataset

__all__ = ["Examples", "TitoCollator"]


class TitoCollator:
    """Collates samples of `TitoSFTDataset`.

    Gives `input_ids`, `labels` int64 [batch, length]; `loss_weights` float32 with `weighted`; `attention_mask` int64,
    or (`flat`) `position_ids` int64 [1, length], `cu_seq_lens_q`, `cu_seq_lens_k` and `seq_idx` int32, `max_length_q`
    and `max_length_k`; and `rows` int64, the rows of the batch in order (-1: a filler). `pad_id` may be any id of the
    model.

    >>> import numpy as np
    >>> rows = [{"input_ids": np.array([7, 8]), "labels": np.array([-100, 8])}, {"input_ids": np.array([9])}]
    >>> rows[1]["labels"] = np.array([-100])
    >>> TitoCollator()(rows)["attention_mask"].tolist(), TitoCollator(flat=True)(rows)["position_ids"].tolist()
    ([[1, 1], [1, 0]], [[0, 1, 0]])
    """

    def __init__(self, *, pad_id: int = 0, flat: bool = False, weighted: bool = False) -> None:
        self.pad_id, self.flat, self.weighted = pad_id, flat, weighted

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        for sample in samples:
            self._refuse(sample)
        batch = self._flat(samples) if self.flat else self._padded(samples)
        if "rows" in samples[0]:
            batch["rows"] = torch.from_numpy(np.concatenate([sample["rows"] for sample in samples]))
        return batch

    def _refuse(self, sample: Sample) -> None:
        length = len(sample["input_ids"])
        for name in ("labels", *(["loss_weights"] if self.weighted else [])):
            if len(sample[name]) != length:
                raise ValueError(f"{name} has {len(sample[name])} values, input_ids {length}")

    def _padded(self, samples: Sequence[Sample]) -> dict[str, Any]:
        if any(len(sample.get("seq_lengths", ())) > 1 for sample in samples):
            raise ValueError("packs need a flat batch: padded rows would see one another")
        shape = len(samples), max(len(sample["input_ids"]) for sample in samples)
        ids, labels = np.full(shape, self.pad_id, np.int64), np.full(shape, -100, np.int64)
        mask, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for row, sample in enumerate(samples):
            length = len(sample["input_ids"])
            ids[row, :length], labels[row, :length], mask[row, :length] = sample["input_ids"], sample["labels"], 1
            if self.weighted:
                weights[row, :length] = sample["loss_weights"]
        arrays = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        return _tensors({**arrays, **({"loss_weights": weights} if self.weighted else {})})

    def _flat(self, samples: Sequence[Sample]) -> dict[str, Any]:
        names = ["input_ids", "labels", *(["loss_weights"] if self.weighted else [])]
        arrays = {name: np.concatenate([sample[name] for sample in samples])[None] for name in names}
        lengths = np.concatenate([sample.get("seq_lengths", [len(sample["input_ids"])]) for sample in samples])
        lengths = lengths.astype(np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths)))
        position = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        batch = _tensors({**arrays, "position_ids": position[None]})
        batch["labels"][batch["position_ids"] == 0] = -100
        ends = torch.from_numpy(starts.astype(np.int32))
        batch |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
        batch |= {"max_length_q": int(lengths.max()), "max_length_k": int(lengths.max())}
        batch["seq_idx"] = torch.from_numpy(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[None])
        return batch


def _tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        name: torch.from_numpy(value if value.dtype == np.float32 else value.astype(np.int64, copy=False))
        for name, value in arrays.items()
    }


class Examples:
    """A collator for loaders that hand numbers: `{"example": n}` becomes the dataset's sample, a filler from its length
    on."""

    def __init__(self, dataset: TitoSFTDataset, collator: TitoCollator) -> None:
        self.dataset, self.collator = dataset, collator

    def __call__(self, numbers: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return self.collator([self._sample(int(number["example"])) for number in numbers])

    def _sample(self, number: int) -> Sample:
        return self.dataset[number] if number < len(self.dataset) else filler(self.collator.pad_id)


def filler(pad_id: int) -> Sample:
    """An example that trains nothing: two ids, no loss."""
    return {
        "input_ids": np.full(2, pad_id, np.int32),
        "labels": np.full(2, -100, np.int32),
        "loss_weights": np.zeros(2, np.float32),
        "rows": np.array([-1]),
    }
