"""One pass over the rows before anything is trained: lengths, loss tokens, weights, and what is wrong with them.

Vectorised by row group; what it finds wrong is named by file and row. The arrays it leaves, one value a row, are what
plan, weights and packing are made of: ids are not read twice for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tito.errors import DataError, with_hint
from tito.train.table import Group, Lists, Table

__all__ = ["Survey", "survey"]

_TOLD = (("loss_spans", "spans"), ("labels", "labels"), ("loss_mask", "mask"))
"""Columns that say where loss falls, the one that is taken first; and what a group calls them."""
_MASK_LENGTH = "loss_mask is as long as neither the row nor its output"
_AGAIN = "convert again, or look at the row with `tito show FILE --row N`"


@dataclass(frozen=True, slots=True)
class Survey:
    """What the rows are, one value a row in file order."""

    lengths: npt.NDArray[np.int64]
    """Ids of the row, prompt and output together."""
    loss_tokens: npt.NDArray[np.int64]
    """Positions whose loss weight is above 0."""
    token_weight: npt.NDArray[np.float64]
    """Mean loss weight of those positions, without the row's own weight; 1 where spans say nothing."""
    even: npt.NDArray[np.bool_]
    """Whether all those positions weigh the same."""
    row_weight: npt.NDArray[np.float32]
    turn: npt.NDArray[np.int32]
    """Turn of the row's last call; -1 where it is not known."""
    last_id: npt.NDArray[np.int32]
    """The last id of the row."""
    highest_id: int
    lowest_id: int
    highest_at: int
    """The row in which the highest id stands."""
    lowest_at: int
    floor: tuple[float, int] | None
    """Sum of the teacher's -logprob over ids with loss, by their whole weight, and how many such ids have one; None
    where no row holds logprobs."""
    floor_weight: float
    turns: tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.int64]]
    """Stretches of loss by turn: turn, weight x tokens, row. A merged row has one a call, another row has one."""

    @property
    def weight(self) -> npt.NDArray[np.float64]:
        """The whole weight of each row: its own, times the mean of its loss positions."""
        return self.row_weight.astype(np.float64) * self.token_weight


def survey(table: Table) -> Survey:
    """Reads all rows. `DataError` names the first row whose spans, weights or lengths contradict each other."""
    if not len(table):
        raise with_hint(DataError(f"{table.path}: no rows"), "there is nothing to train on")
    parts: list[dict[str, npt.NDArray[Any]]] = []
    highest, lowest, highest_at, lowest_at, start = -1, 2**31, 0, 0, 0
    floor_sum, floor_weight, floor_count = 0.0, 0.0, 0
    for group in table.groups():
        try:
            part = _measure(group)
        except _WrongError as wrong:
            raise with_hint(DataError(f"{table.place(start + wrong.row)}: {wrong}"), wrong.hint) from None
        part["turn_row"] = part["turn_row"] + start
        for column in (group.prompt, group.output):
            if column is None or not len(column.values):
                continue
            top, low = int(column.values.max()), int(column.values.min())
            if top > highest:
                highest, highest_at = top, start + _row_of(column, int(column.values.argmax()))
            if low < lowest:
                lowest, lowest_at = low, start + _row_of(column, int(column.values.argmin()))
        if group.logprobs is not None:
            total, weight, count = _floor(group)
            floor_sum, floor_weight, floor_count = floor_sum + total, floor_weight + weight, floor_count + count
        parts.append(part)
        start += group.rows
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    turns = whole.pop("turn_of"), whole.pop("turn_weight"), whole.pop("turn_row")
    return Survey(
        **whole,
        highest_id=highest,
        lowest_id=lowest,
        highest_at=highest_at,
        lowest_at=lowest_at,
        floor=(floor_sum, floor_count) if floor_count else None,
        floor_weight=floor_weight,
        turns=turns,
    )


class _WrongError(Exception):
    def __init__(self, rows: npt.NDArray[np.bool_], message: str, hint: str = _AGAIN) -> None:
        super().__init__(message)
        self.hint = hint
        self.row = int(np.flatnonzero(rows)[0])


def _refuse(rows: npt.NDArray[np.bool_], message: str, hint: str = _AGAIN) -> None:
    if rows.any():
        raise _WrongError(rows, message, hint)


def _row_of(column: Lists, at: int) -> int:
    """The row of a list column in which a value stands; empty rows before it are passed over."""
    return int(np.searchsorted(column.starts, at, side="right")) - 1


def _measure(group: Group) -> dict[str, npt.NDArray[Any]]:
    lengths, prompt = group.lengths, group.prompt.lengths
    _refuse(lengths == 0, "no ids")
    _refuse(~np.isfinite(group.weight) | (group.weight < 0), "a weight that is no number of 0 or more")
    rows = np.arange(group.rows)
    tokens = lengths - prompt if group.output is not None else lengths.copy()
    sums, even = tokens.astype(np.float64), np.ones(group.rows, bool)
    first_is_loss = (prompt == 0) & (tokens > 0)
    if group.spans is not None:
        tokens, sums, even, first_is_loss = _spans(group, lengths, tokens, first_is_loss)
    elif group.labels is not None:
        ids_of = "input_ids" if group.output is None else "input_ids and output_ids"
        _refuse(group.labels.lengths != lengths, f"labels are not as long as {ids_of}")
        labels = group.labels.values[group.labels.starts[0] : group.labels.starts[-1]]
        ids = group.whole()
        loss = labels != -100
        row = np.repeat(rows, lengths)
        _refuse(_any(row, loss & (labels != ids), group.rows), "a label that is not its own id and not -100")
        tokens = np.bincount(row[loss], minlength=group.rows)
        sums = tokens.astype(np.float64)
        first_is_loss = loss[group.labels.starts[:-1] - group.labels.starts[0]]
    elif group.mask is not None:
        of_output = group.mask.lengths == (group.output.lengths if group.output is not None else -1)
        _refuse(~of_output & (group.mask.lengths != lengths), _MASK_LENGTH)
        mask = group.mask.values[group.mask.starts[0] : group.mask.starts[-1]]
        row = np.repeat(rows, group.mask.lengths)
        wrong = _any(row, ~np.isfinite(mask) | (mask < 0), group.rows)
        _refuse(wrong, "a loss_mask value that is no number of 0 or more")
        tokens = np.bincount(row[mask > 0], minlength=group.rows)
        sums = np.bincount(row, mask.astype(np.float64), minlength=group.rows).astype(np.float64)
        mean = sums / np.maximum(tokens, 1)
        even = ~_any(row, (mask > 0) & (np.abs(mask - mean[row]) > 1e-6), group.rows)
        starts = group.mask.starts[:-1] - group.mask.starts[0]
        whole = group.mask.lengths == lengths
        first_is_loss = np.zeros(group.rows, bool)
        first_is_loss[whole] = mask[starts[whole]] > 0
        first_is_loss |= ~whole & (prompt == 0) & (group.mask.lengths > 0)
    _refuse(first_is_loss, "loss on position 0, which no model predicts")
    _refuse_two_tales(group, lengths)
    return {
        "lengths": lengths,
        "loss_tokens": tokens,
        "token_weight": np.where(tokens > 0, sums / np.maximum(tokens, 1), 1.0),
        "even": even,
        "row_weight": group.weight,
        "turn": group.turn,
        "last_id": _last_ids(group),
        **_by_turn(group, sums),
    }


def _refuse_two_tales(group: Group, lengths: npt.NDArray[Any]) -> None:
    """Of several columns that say where loss falls one is taken. The others must say the same; those of only 0 and 1
    may leave out the weights. Rows of weight 0 are not trained, whatever they say."""
    told = [(name, field) for name, field in _TOLD if getattr(group, field) is not None]
    for name, field in told[1:]:
        other = getattr(group, field)
        fits = other.lengths == lengths
        if field == "mask" and group.output is not None:
            fits |= other.lengths == group.output.lengths
        _refuse(~fits, f"{name} are not as long as the row" if field == "labels" else _MASK_LENGTH)
        none: dict[str, Any] = {each: None for _, each in _TOLD if each != field}
        alone = replace(group, **none)
        differ = np.zeros(group.rows, bool)
        for row in np.flatnonzero(group.weight > 0).tolist():
            taken, said = group.token_weights(row), alone.token_weights(row)
            differ[row] = not np.array_equal(taken > 0 if set(said.tolist()) <= {0, 1} else taken, said)
        what = f"{told[0][0]} and {name} disagree on where loss falls, or with what weight"
        _refuse(differ, what, "one of the columns is right: leave the other out")


def _any(row: npt.NDArray[Any], what: npt.NDArray[np.bool_], rows: int) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = np.bincount(row[what], minlength=rows) > 0
    return found


def _spans(
    group: Group, lengths: npt.NDArray[Any], whole: npt.NDArray[Any], first: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    spans = group.spans
    assert spans is not None
    row = np.repeat(np.arange(group.rows), spans.lengths)
    value = spans.values[spans.starts[0] : spans.starts[-1]]
    start, end, weight = value["start"], value["end"], value["weight"]
    outside = (start < 0) | (end > lengths[row]) | (start >= end)
    _refuse(_any(row, outside, group.rows), "a loss span that is not inside the row")
    overlap = np.zeros(len(row), bool)
    overlap[1:] = (row[1:] == row[:-1]) & (start[1:] < end[:-1])
    _refuse(_any(row, overlap, group.rows), "loss spans that overlap or are out of order")
    _refuse(_any(row, ~np.isfinite(weight) | (weight < 0), group.rows), "a span weight that is no number of 0 or more")
    some = weight > 0
    size = np.where(some, end - start, 0)
    tokens = np.bincount(row, size, minlength=group.rows).astype(np.int64)
    sums = np.bincount(row, size * weight.astype(np.float64), minlength=group.rows)
    mean = sums / np.maximum(tokens, 1)
    even = ~_any(row, some & (np.abs(weight - mean[row]) > 1e-6 * np.maximum(mean[row], 1)), group.rows)
    zero = _any(row, some & (start == 0), group.rows)
    null = np.zeros(group.rows, bool) if spans.valid is None else ~spans.valid
    return (
        np.where(null, whole, tokens),
        np.where(null, whole.astype(np.float64), sums),
        even | null,
        np.where(null, first, zero),
    )


def _last_ids(group: Group) -> npt.NDArray[np.int32]:
    prompt = group.prompt
    ends = np.maximum(prompt.starts[1:] - 1, 0)
    last: npt.NDArray[np.int32] = prompt.values[ends] if len(prompt.values) else np.zeros(group.rows, np.int32)
    if group.output is not None and len(group.output.values):
        of_output = group.output.values[np.maximum(group.output.starts[1:] - 1, 0)]
        last = np.where(group.output.lengths > 0, of_output, last)
    return last


def _by_turn(group: Group, sums: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[Any]]:
    """Where the loss of each row belongs: to the turns of its calls in merged rows, else to the row's turn."""
    turn_of, turn_weight, turn_row = [], [], []
    merged = np.zeros(group.rows, bool)
    if group.calls is not None and group.spans is not None:
        merged = group.calls.lengths > 0
        for row in np.flatnonzero(merged).tolist():
            spans = group.spans.at(row)
            for start, end, turn in group.calls.at(row).tolist():
                inside = np.minimum(spans["end"], end) - np.maximum(spans["start"], start)
                weight = float((np.maximum(inside, 0) * spans["weight"].astype(np.float64)).sum())
                turn_of.append(turn)
                turn_weight.append(weight * float(group.weight[row]))
                turn_row.append(row)
    plain = np.flatnonzero(~merged)
    return {
        "turn_of": np.concatenate((np.array(turn_of, np.int32), group.turn[plain])),
        "turn_weight": np.concatenate((np.array(turn_weight), (sums * group.weight)[plain])),
        "turn_row": np.concatenate((np.array(turn_row, np.int64), plain)),
    }


def _floor(group: Group) -> tuple[float, float, int]:
    """Weighted sum of -logprob over positions with loss, the weight, and how many positions."""
    total, weight_sum, count = 0.0, 0.0, 0
    for row, values in _logprobs(group):
        weights = group.token_weights(row)
        weights = weights[len(weights) - len(values) :]
        here = (weights > 0) & np.isfinite(values)
        by = weights[here].astype(np.float64) * float(group.weight[row])
        total += float(-(by * values[here]).sum())
        weight_sum += float(by.sum())
        count += int(here.sum())
    return total, weight_sum, count


def _logprobs(group: Group) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Rows that hold logprobs, with them: as long as the output, or in merged rows as the whole row."""
    assert group.logprobs is not None
    for row in np.flatnonzero(group.logprobs.lengths).tolist():
        values = group.logprobs.at(row)
        if group.output is not None and len(values) not in (int(group.output.lengths[row]), int(group.lengths[row])):
            raise _WrongError(
                np.arange(group.rows) == row, "output_logprobs are as long as neither the row nor its output"
            )
        yield row, values
