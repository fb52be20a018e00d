"""Rows as training examples: map-style, numpy inside, without torch. An example is a row, or a pack of rows.

Weights are said by repetition where that is possible (`tito.train.weights`): then the dataset is longer than the file,
and each copy is the same arrays. It pickles as its path and a few small arrays, so workers may be forked or spawned.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tito._core import plan_packs
from tito.errors import DataError, UsageError, with_hint
from tito.train.order import WINDOW, epoch_order
from tito.train.survey import survey
from tito.train.table import Table
from tito.train.weights import Mode, expose

__all__ = ["Overlong", "Sample", "TitoSFTDataset"]

Sample = dict[str, Any]
Overlong = Literal["error", "drop"]
# Ids of a stretch that is shuffled as a whole: a window of them is 256 MiB of prompts and outputs.
_STRETCH = 1 << 23
_COPIES = 'take weights="repeat" to round them to copies, or train with `tito train`'
_NO_COPIES = "convert with --upweight-as copies, or train with `tito train`"


class TitoSFTDataset:
    """Training examples of a rows file (`tito convert`), or of a file with `input_ids` and `output_ids` or `labels`.

    `len` counts the examples of an epoch, copies by weight included. An example is a dict of numpy arrays of one
    length: `input_ids` int32, `labels` int32 (its own id, or -100 where no loss falls; not shifted), `loss_weights`
    float32 where the loss must be `weighted`, and `rows` int64, the numbers of its rows in the file. With `pack=N`
    examples are packs of rows up to N ids, and `seq_lengths` int64 says where they end.

    - `weights`: `auto` repeats rows by their weight, and turns to `loss_weights` where a weight is below 1 or differs
      inside a row; `repeat`, `loss`, `ignore` ask for one of them. `exposure.why` says what was chosen.
    - `max_length`, `overlong`: longer rows are an `error`, or are left out (`drop`; `dropped` counts them).
    - `rows_per_step`: rows or packs of an optimiser step, all ranks; only the weighted loss asks (`exposure.divisor`).
    - `keep_bytes`: what stays decoded in memory: unless told, a quarter of the machine's or the container's, divided by
      the ranks on it. It changes no order.

    Rows without a single loss token are left out and counted (`silent`). Raises `DataError` for rows that contradict
    themselves, with file and row, and where no loss token is left; `UsageError` for `repeat` where weights differ
    inside a row, which copies cannot say.

    >>> from tito.train import TitoSFTDataset
    >>> data = TitoSFTDataset("kept.parquet")
    >>> sample = data[0]
    >>> len(data), sample["input_ids"].dtype, len(sample["input_ids"]) == len(sample["labels"])
    (36, dtype('int32'), True)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        weights: Mode = "auto",
        pack: int | None = None,
        max_length: int | None = None,
        overlong: Overlong = "error",
        seed: int = 0,
        rows_per_step: int = 8,
        keep_bytes: int | None = None,
    ) -> None:
        self.table = Table(path, keep_bytes=keep_bytes)
        self.survey = seen = survey(self.table)
        keep = seen.loss_tokens > 0
        self.silent = int((~keep).sum())
        if not keep.any():
            raise with_hint(
                DataError(f"{self.table.path}: none of the {len(keep)} rows has a loss token"),
                "nothing would be trained; `tito show FILE` shows where loss falls",
            )
        long = keep & (seen.lengths > max_length) if max_length is not None else np.zeros(len(keep), bool)
        if long.any() and overlong == "error":
            first = int(np.flatnonzero(long)[0])
            raise with_hint(
                DataError(
                    f"{self.table.place(first)}: {int(seen.lengths[first])} ids, more than max_length {max_length}; "
                    f"{int(long.sum())} of {len(keep)} rows are longer, the longest has {int(seen.lengths.max())}"
                ),
                "raise max_length, leave them out with overlong: drop, or convert with --max-length N --overlong "
                "trim-prompt; outputs are never cut",
            )
        self.dropped = int(long.sum())
        keep &= ~long
        # A pack is several rows.
        one = rows_per_step == 1 and pack is None
        self.exposure = expose(seen, keep, mode=weights, seed=seed, one_row_a_step=one)
        order = self.exposure.order
        if not len(order):
            raise with_hint(
                DataError(f"{self.table.path}: no row is left: all are longer than max_length or weigh 0"),
                "raise max_length, or look at the weights with `tito show FILE`",
            )
        self.packed = pack is not None
        if pack is None:
            self._rows, self._starts = order, np.arange(len(order) + 1)
        else:
            if pack < int(longest := seen.lengths[order].max()):
                raise with_hint(
                    UsageError(f"packs of {pack} ids hold no row of {longest}"), "a pack is as long as the longest row"
                )
            members, self._starts, _ = plan_packs(seen.lengths[order], pack)
            self._rows = order[members]

    @property
    def weighted(self) -> bool:
        """Whether the loss must use `loss_weights`."""
        return self.exposure.mode == "loss"

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        """The stretch of the file in which each example stands: whole row groups of so many ids together, whatever
        stays decoded, so that one file has one order on every machine. None where the file is short: then every order
        is as likely."""
        ends = np.array(self.table.ends)
        before = np.concatenate(([0], np.cumsum(self.survey.lengths)))[np.concatenate(([0], ends[:-1]))]
        stretches = before // _STRETCH
        if len(np.unique(stretches)) <= WINDOW:
            return None
        found: npt.NDArray[np.int64] = stretches[np.searchsorted(ends, self._rows[self._starts[:-1]], side="right")]
        return found

    def order_hash(self, seed: int) -> str:
        """The hash of the first epoch's order: another one means that a run which goes on trains rows twice."""
        # Here, because importing the package loads no hashes.
        from hashlib import sha256

        order = epoch_order(len(self), seed=seed, epoch=0, blocks=self.blocks)
        return f"sha256:{sha256(order.astype('<i8').tobytes()).hexdigest()}"

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Sample:
        example = index + len(self) if index < 0 else index
        if not 0 <= example < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        rows = self.rows(example)
        if not self.packed:
            return {**self.row(int(rows[0])), "rows": rows}
        parts = [self.row(row) for row in rows.tolist()]
        joined: Sample = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {**joined, "rows": rows, "seq_lengths": np.array([len(part["labels"]) for part in parts])}

    def rows(self, example: int) -> npt.NDArray[np.int64]:
        """Numbers, in the file, of the rows in an example."""
        return self._rows[self._starts[example] : self._starts[example + 1]]

    def lengths(self) -> npt.NDArray[np.int64]:
        """Ids of each example."""
        return np.add.reduceat(self.survey.lengths[self._rows], self._starts[:-1])

    def loss_tokens(self) -> npt.NDArray[np.int64]:
        """Loss tokens of each example."""
        return np.add.reduceat(self.survey.loss_tokens[self._rows], self._starts[:-1])

    def row(self, row: int) -> Sample:
        """The arrays of a row by its number in the file."""
        group, at = self.table.locate(row)
        ids, labels = group.example(at)
        if self.weighted:
            weights = group.token_weights(at) * group.weight[at]
            return {"input_ids": ids, "labels": labels, "loss_weights": weights}
        return {"input_ids": ids, "labels": labels}

    def to_datasets(self) -> Any:
        """The examples as a `datasets.Dataset` with `input_ids` and `labels` (and `seq_lengths` of packs), for trainers
        that take nothing else (TRL: with `max_length=None` and `dataset_kwargs={"skip_prepare_dataset": True}`).

        Raises `UsageError` where weights can only be said by the loss: such trainers would ignore them.
        """
        import datasets

        if self.weighted:
            raise with_hint(
                UsageError(f"{self.exposure.why}, and trainers of this kind know no weights"),
                _NO_COPIES if not self.survey.even[self.exposure.copies > 0].all() else _COPIES,
            )
        names = ["input_ids", "labels", *(["seq_lengths"] if self.packed else [])]

        def samples() -> Any:
            for example in range(len(self)):
                sample = self[example]
                yield {name: sample[name] for name in names}

        return datasets.Dataset.from_list(list(samples())).with_format("numpy")

    def __repr__(self) -> str:
        return f"<{len(self):,} examples of {len(self.table):,} rows of {self.table.path}>"
