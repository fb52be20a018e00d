"""Rows files as batches of flat arrays: ids of all rows behind each other, spans of all rows behind each other.

A parquet file is read by row group, JSON lines by stretches of whole lines, so memory is a few row groups whatever the
size of the file. Ids go from Arrow's buffers to numpy's; no list of Python numbers is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from tito._core import loss_weights
from tito.errors import DataError, with_hint
from tito.parquet import open_parquet, read_group

__all__ = ["Batch", "read_batches"]

Ids = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# Bytes of JSON lines that are parsed together.
_STRETCH = 32 << 20
_SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("weight", pa.float32())])
_NEEDED = {
    "input_ids": pa.list_(pa.int32()),
    "output_ids": pa.list_(pa.int32()),
    "loss_spans": pa.list_(_SPAN),
    "weight": pa.float32(),
}
_TYPES = {
    **_NEEDED,
    "rollout_id": pa.string(),
    "task_id": pa.string(),
    "call_id": pa.string(),
    "turn": pa.int32(),
    "reward": pa.float32(),
    "flags": pa.int32(),
    "output_logprobs": pa.list_(pa.float32()),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are read together. Positions count in a row's `input_ids + output_ids`."""

    file: str
    first: int
    """Number of the first row in its file, from 0."""
    ids: Ids
    offsets: Ints
    """Where each row starts in `ids`, and where the last ends."""
    prompt_lengths: Ints
    """Ids of `input_ids` in each row."""
    span_rows: Ints
    """Row of each span, ascending."""
    span_starts: Ints
    span_ends: Ints
    span_weights: Floats
    weights: Floats
    """Row weights."""
    columns: pa.Table
    """The columns that were asked for besides."""

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> Ints:
        """Ids of each row."""
        return np.diff(self.offsets)

    def position_weights(self) -> Floats:
        """Weight of each id, without the row's own."""
        first = self.offsets[self.span_rows]
        spans = zip(
            (first + self.span_starts).tolist(),
            (first + self.span_ends).tolist(),
            self.span_weights.tolist(),
            strict=True,
        )
        return loss_weights(self.ids, self.ids[:0], list(spans))


def runs(starts: Ints, lengths: Ints) -> Ints:
    """The whole numbers of many runs, one behind the other.

    >>> runs(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total, dtype=np.int64)


def read_batches(files: Sequence[str], columns: Sequence[str] = ()) -> Iterator[Batch]:
    """The rows of files that `open_rows` accepted. `columns` are read besides, null where a file lacks them.

    Raises `DataError` with file and row for rows that contradict themselves.
    """
    names = [*_NEEDED, *columns]
    for file in files:
        with open(file, "rb") as opened:
            is_parquet = opened.read(4) == b"PAR1"
        first = 0
        for table in _parquet(file, names) if is_parquet else _lines(file, names):
            for name in names:
                if name not in table.column_names:
                    table = table.append_column(name, pa.nulls(len(table), _TYPES[name]))
            if len(table):
                yield _batch(file, first, table.select(names), columns)
            first += len(table)


def _parquet(file: str, names: Sequence[str]) -> Iterator[pa.Table]:
    opened = open_parquet(file)
    present = [name for name in names if name in opened.schema_arrow.names]
    for group in range(opened.num_row_groups):
        yield read_group(file, opened, group, present)


def _lines(file: str, names: Sequence[str]) -> Iterator[pa.Table]:
    schema = pa.schema([(name, _TYPES[name]) for name in names])
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    first = 0
    with open(file, "rb") as opened:
        while lines := opened.readlines(_STRETCH):
            text = b"".join(lines)
            # A block must hold a whole line.
            reading = pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1)
            try:
                table = pa.json.read_json(BytesIO(text), read_options=reading, parse_options=options)
            except pa.ArrowInvalid as error:
                place = f"{file}: records {first + 1} to {first + len(lines)}"
                raise with_hint(DataError(f"{place}: {error}"), "the file is cut off; convert again") from None
            yield table
            first += len(lines)


def _batch(file: str, first: int, table: pa.Table, columns: Sequence[str]) -> Batch:
    def refuse(wrong: npt.NDArray[np.bool_], what: str, rows: Ints | None = None) -> None:
        if wrong.any():
            at = int(np.argmax(wrong))
            row = first + (at if rows is None else int(rows[at]))
            raise with_hint(DataError(f"{file}: row {row}: {what}"), "the file is no output of convert; convert again")

    for name in ("input_ids", "output_ids", "weight"):
        refuse(np.asarray(table.column(name).is_null()), f"{name} is null")
    for name in ("input_ids", "output_ids"):
        if pc.list_flatten(table.column(name)).null_count:
            raise with_hint(DataError(f"{file}: {name}: an id is null"), "the file is no output of convert")
    prompts, prompt_lengths = _lists(table.column("input_ids"))
    outputs, output_lengths = _lists(table.column("output_ids"))
    both = np.stack([prompt_lengths, output_lengths], axis=1)
    is_prompt = np.repeat(np.tile([True, False], len(both)), both.ravel())
    ids = np.empty(len(is_prompt), np.int32)
    ids[is_prompt] = prompts
    ids[~is_prompt] = outputs
    lengths = prompt_lengths + output_lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if len(ids) and ids.min() < 0:
        negative = np.minimum.reduceat(ids, offsets[:-1][lengths > 0]) < 0
        refuse(negative, "an id is negative", np.flatnonzero(lengths > 0))
    weights = table.column("weight").to_numpy().astype(np.float32)
    refuse(~(np.isfinite(weights) & (weights >= 0)), "weight is no weight")
    if "reward" in columns:
        refuse(~np.isfinite(pc.fill_null(table.column("reward"), 0).to_numpy()), "reward is no number")

    # Null spans stand for one of weight 1 over the output.
    spans = table.column("loss_spans").combine_chunks()
    whole = np.flatnonzero(np.asarray(spans.is_null()) & (output_lengths > 0))
    counts = np.asarray(pc.fill_null(pc.list_value_length(spans), 0), np.int64)
    told = spans.flatten()
    rows = np.concatenate([np.repeat(np.arange(len(counts)), counts), whole])
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    starts = np.concatenate([_field(told, "start", np.int64), prompt_lengths[whole]])[order]
    ends = np.concatenate([_field(told, "end", np.int64), lengths[whole]])[order]
    span_weights = np.concatenate([_field(told, "weight", np.float32), np.ones(len(whole), np.float32)])[order]
    refuse((starts < 0) | (ends < starts) | (ends > lengths[rows]), "a loss span lies outside of it", rows)
    refuse(~(np.isfinite(span_weights) & (span_weights >= 0)), "a loss span has no weight", rows)
    overlap = (rows[1:] == rows[:-1]) & (starts[1:] < ends[:-1])
    refuse(overlap, "loss spans overlap or do not ascend", rows[1:])
    return Batch(
        file, first, ids, offsets, prompt_lengths, rows, starts, ends, span_weights, weights, table.select(columns)
    )


def _lists(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], Ints]:
    lists = column.combine_chunks()
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
    return lists.flatten().to_numpy(zero_copy_only=False), lengths


def _field(structs: pa.StructArray, name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.asarray(structs.field(name), dtype)
