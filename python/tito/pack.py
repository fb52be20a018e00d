"""Rows laid end to end, so that a batch holds little padding; a row is never cut and never split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

from tito import _core
from tito.calls import Row
from tito.errors import UsageError, with_hint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Pack", "Packs", "pack"]


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Rows behind each other, ready for attention that keeps them apart.

    `input_ids`, `labels`, `position_ids` (int32) and `loss_weights` (float32) are equally long. `labels` are the ids,
    unshifted, -100 where no loss falls and at the first id of each row. `loss_weights` is the weight of each id, the
    row's times the span's, 0 where the label is -100. `position_ids` begin at 0 in each row. `cu_seqlens` (int32) holds
    where each row starts, and the length at the end. `rows` (int64) says which rows these are.
    """

    input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    loss_weights: npt.NDArray[np.float32]
    position_ids: npt.NDArray[np.int32]
    cu_seqlens: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]


class Packs(Sequence[Pack]):
    """Packs of rows, each laid when it is asked for. See `pack`."""

    def __init__(self, rows: Sequence[Row], length: int, overlong: Literal["error", "drop"]) -> None:
        import numpy as np

        self._rows = rows
        self.length = length
        self.lengths: npt.NDArray[np.int64] = np.array([len(r.input_ids) + len(r.output_ids) for r in rows], np.int64)
        planned = _core.plan_packs(self.lengths, length, drop_overlong=overlong == "drop")
        self._order, self._starts, self.left_out = planned

    @property
    def fill(self) -> float:
        """Share of the room that is used; 0 without packs."""
        return float(self.lengths[self._order].sum()) / (self.length * len(self)) if len(self) else 0.0

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Pack: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pack]: ...
    def __getitem__(self, index: int | slice) -> Pack | list[Pack]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"pack {index} of {len(self)}")
        import numpy as np

        numbers = self._order[self._starts[at] : self._starts[at + 1]]
        rows = [self._rows[int(number)] for number in numbers]
        ids = np.concatenate([part for row in rows for part in (row.input_ids, row.output_ids)])
        weights = np.concatenate([_weights(row) for row in rows])
        offsets = np.concatenate([[0], np.cumsum(self.lengths[numbers])])
        inside = np.arange(len(rows))
        laid = _core.lay_packs(ids, weights, offsets, inside, [0, len(rows)])
        return Pack(laid[0], laid[1], laid[2], laid[3], laid[4].astype(np.int32), numbers)

    def __repr__(self) -> str:
        return f"<{len(self):,} packs of {self.length:,} ids, {self.fill:.1%} full>"


def _weights(row: Row) -> npt.NDArray[np.float32]:
    weights = _core.loss_weights(row.input_ids, row.output_ids, row.loss_spans)
    weights *= row.weight
    return weights


def pack(rows: Sequence[Row], length: int, *, overlong: Literal["error", "drop"] = "error") -> Packs:
    """Lays whole rows into packs of at most `length` ids, prompts and outputs counted.

    First-fit-decreasing: the longest rows first, each into the first pack that has room; of equal rows the earlier goes
    first, so equal rows give equal packs. Inside a pack rows stand in their order. `rows` is a list of `Row`, or what
    `open_rows` gives; ids are read when a pack is asked for. `Packs.left_out` are the rows longer than a pack, which
    are an error unless `overlong` is `drop`. For lengths alone there is `tito.plan_packs`.

    Raises `UsageError` for a length below 1 and for rows longer than a pack.

    >>> from tito import open_rows
    >>> packs = pack(open_rows("kept.parquet"), 1024)
    >>> packs, packs[0].cu_seqlens.tolist(), packs[0].position_ids[[0, 306, 307]].tolist()
    (<10 packs of 1,024 ids, 94.8% full>, [0, 307, 614, 921], [0, 306, 0])
    """
    if overlong not in ("error", "drop"):
        raise with_hint(UsageError(f"overlong: {overlong!r} is none of error, drop"), "choose one of them")
    return Packs(rows, length, overlong)
