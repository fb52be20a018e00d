"""What a trainer reads, said once: one `Contract` a trainer, made of `Examples`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tito.export.batches import Floats, Ids, Ints

__all__ = ["NO_LABEL", "Contract", "Counts", "Examples"]

NO_LABEL = -100


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows as a trainer gets them: whole sequences, loss position by position, and never on a sequence's first id.

    `mask` and `weights` are as long as `ids`; `weights` holds the loss weight of each id, 0 outside the mask.
    """

    ids: Ids
    offsets: Ints
    """Where each sequence starts in `ids`, and where the last ends."""
    mask: npt.NDArray[np.bool_]
    weights: Floats
    row_weights: Floats
    """The weight that all ids with loss of a sequence have; not a number where they differ."""
    file: str
    """The file that all of them are of."""
    file_rows: Ints
    """Which row of it each is, from 0."""
    numbers: Ints
    """Which row of the source each is, from 0."""
    prompt_lengths: Ints
    columns: pa.Table
    """The columns that the contract asks for, of the same rows."""

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, at: int) -> str:
        """Where a row stands, for people."""
        return f"{self.file}: row {self.file_rows[at]}"

    def labels(self) -> Ids:
        """The ids, -100 where no loss falls."""
        return np.where(self.mask, self.ids, np.int32(NO_LABEL))

    def lists(self, values: npt.NDArray[Any]) -> pa.ListArray:
        """Values as long as `ids`, as an Arrow list a sequence; nothing is copied."""
        return as_lists(values, self.offsets)


def as_lists(values: npt.NDArray[Any], offsets: Ints) -> pa.ListArray:
    """An Arrow list array over flat values."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


@dataclass(slots=True)
class Counts:
    """What became of the rows; rows read = rows exported + the sum of those left out."""

    rows_read: int = 0
    rows_exported: int = 0
    """Rows that are in the output at least once."""
    sequences: int = 0
    """Rows of the output, copies included."""
    rows_written: int = 0
    """Records of the output: sequences, or packs of them."""
    left_out: dict[str, int] = field(
        default_factory=lambda: {"zero_weight": 0, "without_loss": 0, "overlong": 0, "not_drawn": 0}
    )
    packed: bool = False
    """Whether records are packs."""
    ids: int = 0
    loss_ids: int = 0
    longest: int = 0
    """Ids of the longest record."""
    weight_read: float = 0.0
    """Sum over all ids with loss of what they weigh, rows that are too long left aside."""
    weight_written: float = 0.0
    """The same of the output."""
    weights_dropped: int = 0
    """Rows whose weight the output does not tell."""
    first_ids: int = 0
    """Ids that carry loss in the rows and cannot in a sequence, because nothing stands before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One trainer."""

    name: str
    about: str
    """Who reads it, in a line."""
    weights: Literal["none", "row", "token"]
    """Whether the trainer takes a weight a row, a weight an id, or none."""
    suffixes: tuple[str, ...]
    """What the output may be; the first is what any other name gets. An empty one is a folder."""
    columns: tuple[str, ...] = ()
    """Columns of rows that are asked for besides ids, loss and weight."""
    packs: bool = False
    """Whether rows may be packed."""
    loses: tuple[str, ...]
    """What stands in rows and not in the output."""
    table: Callable[[Examples], Mapping[str, pa.Array]] | None = None
    """Columns of a table."""
    records: Callable[[Iterator[Examples]], Iterator[dict[str, Any]]] | None = None
    """Objects, where the contract is no table."""
    settings: Callable[[Counts], tuple[str, ...]]
    """What to tell the trainer, a line each."""
