"""Which rows are written, how often, and where loss falls: the step from rows to `Examples`.

A trainer that takes no weights cannot be handed weighted rows in silence, so the user chooses: an error (the default),
copies (each row, and each level of weight inside one, as often as it weighs; the total stays), or weights dropped. Rows
of weight 0 leave in any case. The first id of a sequence never carries loss: nothing stands before it to predict it
from, and a trainer that shifts a flat batch would charge it to the sequence before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tito._core import Copies
from tito.errors import DataError, UsageError, with_hint
from tito.export.batches import Batch, Floats, Ints, runs
from tito.export.contract import Contract, Counts, Examples

__all__ = ["Chooser", "Weights"]

Weights = Literal["error", "copies", "drop"]

# Ids of what is made at a time, and of a row group that is written: with copies a batch can become many times itself.
_IDS_AT_A_TIME = 1 << 20
# Packs that are made at a time at least, if so many ids are read together: the last of them is seldom full.
_PACKS_AT_A_TIME = 64
# As in the core: what is meant as a weight is far below it, and as copies it would fill a disk.
_MOST_COPIES = 1e6


class _Rows(NamedTuple):
    """The rows of a batch that have loss, and what their ids with loss weigh."""

    at: Ints
    low: Floats
    high: Floats
    span_rows: Ints
    span_weights: Floats


class Chooser:
    """Makes examples of batches; keeps what runs on from one to the next: counts, and the sum copies are drawn from."""

    def __init__(
        self,
        contract: Contract,
        *,
        weights: Weights = "error",
        seed: int = 0,
        max_length: int | None = None,
        drop_overlong: bool = False,
        pack: int = 0,
    ) -> None:
        self.counts = Counts()
        self._contract, self._weights = contract, weights
        self._max_length, self._drop_overlong = max_length, drop_overlong
        self._copies = Copies(seed)
        self._at_a_time = max(_IDS_AT_A_TIME, _PACKS_AT_A_TIME * pack)
        self._numbered = 0

    def examples(self, batch: Batch) -> Iterator[Examples]:
        """What a batch becomes, a few million ids at a time."""
        counts = self.counts
        position_weights = batch.position_weights()
        heads = batch.offsets[:-1][batch.lengths > 0]
        counts.first_ids += int(np.count_nonzero(position_weights[heads]))
        position_weights[heads] = 0
        rows = self._live(batch)
        sources, least = self._draw(batch, rows)
        counts.rows_read += len(batch)
        counts.rows_exported += len(np.unique(sources))
        lengths = batch.lengths[sources]
        parts = (np.cumsum(lengths) - lengths) // self._at_a_time
        for part in np.split(np.arange(len(sources)), np.flatnonzero(np.diff(parts)) + 1):
            if len(part):
                yield self._make(batch, position_weights, rows, sources[part], least[part])
        self._numbered += len(batch)

    def _live(self, batch: Batch) -> _Rows:
        """The rows that can be trained on; counts the others."""
        starts = np.maximum(batch.span_starts, 1)
        lengths = np.maximum(batch.span_ends - starts, 0)
        here = (lengths > 0) & (batch.span_weights > 0)
        trained = np.zeros(len(batch), bool)
        trained[batch.span_rows[here]] = True
        weighs = batch.weights > 0
        long = weighs & trained & (batch.lengths > (self._max_length or np.iinfo(np.int64).max))
        if long.any() and not self._drop_overlong:
            at = int(np.argmax(long))
            raise with_hint(
                DataError(f"{_place(batch, at)}: {batch.lengths[at]} ids, the limit is {self._max_length}"),
                "--overlong drop leaves such rows out; convert with --overlong trim-prompt to shorten their prompts",
            )
        left_out = self.counts.left_out
        left_out["zero_weight"] += int(np.count_nonzero(~weighs))
        left_out["without_loss"] += int(np.count_nonzero(weighs & ~trained))
        left_out["overlong"] += int(np.count_nonzero(long))
        live = weighs & trained & ~long
        here &= live[batch.span_rows]
        rows, weights = batch.span_rows[here], batch.span_weights[here]
        self.counts.weight_read += float(
            np.sum(lengths[here] * weights.astype(np.float64) * batch.weights[rows].astype(np.float64))
        )
        if not len(rows):
            return _Rows(rows, weights, weights, rows, weights)
        firsts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
        low, high = np.minimum.reduceat(weights, firsts), np.maximum.reduceat(weights, firsts)
        return _Rows(rows[firsts], low, high, rows, weights)

    def _draw(self, batch: Batch, rows: _Rows) -> tuple[Ints, Floats]:
        """The row behind each example, and the weight from which an id of it carries loss."""
        totals = batch.weights[rows.at].astype(np.float64) * rows.high
        if self._weights == "copies":
            return self._copied(batch, rows)
        if self._weights == "drop":
            self.counts.weights_dropped += int(np.count_nonzero((totals != 1) | (rows.low != rows.high)))
        elif self._contract.weights != "token":
            mixed = rows.low != rows.high
            untold = mixed | (totals != 1) if self._contract.weights == "none" else mixed
            if untold.any():
                at = int(np.argmax(untold))
                what = "weighs its ids differently" if mixed[at] else f"weighs {totals[at]:g}"
                takes = "takes no weights" if self._contract.weights == "none" else "takes one weight a row"
                raise with_hint(
                    UsageError(f"{_place(batch, int(rows.at[at]))}: it {what}, and {self._contract.name} {takes}"),
                    "--weights copies repeats rows as often as they weigh, --weights drop forgets what they weigh",
                )
        return rows.at, np.zeros(len(rows.at), np.float32)

    def _copied(self, batch: Batch, rows: _Rows) -> tuple[Ints, Floats]:
        """Each level of weight in a row is drawn by itself: ids of weight 12 beside ids of weight 1 stand with loss in
        twelve copies, the others in one of them."""
        mixed = np.flatnonzero(rows.low != rows.high)
        at, least, steps = [np.delete(rows.at, mixed)], [np.delete(rows.low, mixed)], [np.delete(rows.high, mixed)]
        for row in rows.at[mixed]:
            span = slice(*np.searchsorted(rows.span_rows, [row, row + 1]))
            levels = np.unique(rows.span_weights[span])
            at.append(np.full(len(levels), row))
            least.append(levels)
            steps.append(np.diff(levels.astype(np.float64), prepend=0))
        sources, thresholds = np.concatenate(at), np.concatenate(least)
        order = np.argsort(sources, kind="stable")
        sources, thresholds = sources[order], thresholds[order]
        weights = batch.weights[sources].astype(np.float64) * np.concatenate(steps)[order]
        if (weights > _MOST_COPIES).any():
            row = int(sources[np.argmax(weights)])
            raise with_hint(
                UsageError(f"{_place(batch, row)}: it weighs {weights.max():g}, the limit is {_MOST_COPIES:g}"),
                "use smaller weights: only their ratios matter to a trainer",
            )
        drawn = self._copies.draw(weights.astype(np.float32))
        self.counts.left_out["not_drawn"] += len(rows.at) - len(np.unique(sources[drawn > 0]))
        return np.repeat(sources, drawn), np.repeat(thresholds, drawn).astype(np.float32)

    def _make(self, batch: Batch, position_weights: Floats, rows: _Rows, sources: Ints, least: Floats) -> Examples:
        lengths = batch.lengths[sources]
        where: slice | Ints
        if (np.diff(sources) == 1).all():
            where = slice(int(batch.offsets[sources[0]]), int(batch.offsets[sources[-1] + 1]))
        else:
            where = runs(batch.offsets[sources], lengths)
        weights = position_weights[where]
        mask = (weights > 0) & (weights >= np.repeat(least, lengths))
        if self._weights == "error":
            row_weights = batch.weights[sources]
            weights = weights * np.repeat(row_weights, lengths)
            of_row = np.searchsorted(rows.at, sources)
            same = rows.low[of_row] == rows.high[of_row]
            row_weights = np.where(same, row_weights * rows.high[of_row], np.float32(np.nan))
        else:
            row_weights = np.ones(len(sources), np.float32)
            weights = mask.astype(np.float32)
        self._count(lengths, mask, weights)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Examples(
            ids=batch.ids[where],
            offsets=offsets,
            mask=mask,
            weights=weights,
            row_weights=row_weights,
            file=batch.file,
            file_rows=batch.first + sources,
            numbers=self._numbered + sources,
            prompt_lengths=batch.prompt_lengths[sources],
            columns=batch.columns.take(sources),
        )

    def _count(self, lengths: Ints, mask: npt.NDArray[np.bool_], weights: Floats) -> None:
        counts = self.counts
        counts.sequences += len(lengths)
        counts.rows_written += len(lengths)
        counts.ids += int(lengths.sum())
        counts.longest = max(counts.longest, int(lengths.max()))
        counts.loss_ids += int(np.count_nonzero(mask))
        counts.weight_written += float(weights.sum(dtype=np.float64))


def _place(batch: Batch, row: int) -> str:
    return f"{batch.file}: row {batch.first + row}"
