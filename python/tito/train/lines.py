"""Rows of JSON lines as Arrow tables, a stretch of whole lines at a time: numbers are Python's only for a moment.

What a file is made of is found in one pass over its bytes; a stretch is parsed when its rows are asked for, and parsed
again where it was not kept.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tito.errors import DataError, with_hint
from tito.rows import refuse_no_ids

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SAYING", "Stretch", "first_record", "read_stretch", "refuse_inside", "stretches"]

SAYING = {"output_ids", "loss_spans", "labels", "loss_mask", "loss_weights", "weight"}
"""Columns that change what is trained."""
_IDS = {"input_ids", "output_ids", "labels"}
# Bytes of text of a stretch, and of those whose values are Python's at a time.
_STRETCH, _AT_ONCE = 8 << 20, 1 << 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """Whole lines of a file."""

    start: int
    """Where its first byte stands."""
    size: int
    rows: int
    first: int
    """Number of its first record, from 1."""


def stretches(name: str) -> list[Stretch]:
    """The stretches of a file, by its bytes alone."""
    found: list[Stretch] = []
    start, first, size, rows = 0, 1, 0, 0
    with open(name, "rb") as file:
        for line in file:
            size += len(line)
            rows += bool(line.strip())
            if size >= _STRETCH:
                found.append(Stretch(start, size, rows, first))
                start, first, size, rows = start + size, first + rows, 0, 0
    return [*found, Stretch(start, size, rows, first)] if rows else found


def first_record(name: str) -> dict[str, Any] | None:
    """The first record; None of an empty file."""
    with open(name, "rb") as file:
        return next((_record(name, 1, line) for line in file if line.strip()), None)


def read_stretch(name: str, stretch: Stretch, columns: Sequence[str], unsaid: Collection[str], hint: str) -> pa.Table:
    """The columns of a stretch's rows, null where a record says nothing. `DataError` for a record that has a key of
    `unsaid`, which the first one has not, or one of `SAYING` inside its `metadata`; for what is no JSON object; and for
    values of another type."""
    import pyarrow as pa

    types = {column: _type(column) for column in columns}
    parts = [pa.schema(types).empty_table()]
    for records in _some(name, stretch):
        for number, record in records.items():
            if isinstance(inner := record.get("metadata"), dict):
                refuse_inside(f"{name}: record {number}", inner)
            if more := sorted(unsaid & record.keys()):
                raise with_hint(
                    DataError(f"{name}: record {number}: {more[0]}, which record 1 has not"),
                    "give every record the same keys; null where it says nothing",
                )
            for column in _IDS & types.keys():
                values = record.get(column)
                if isinstance(values, list):
                    refuse_no_ids(values, f"{name}: record {number}: {column}", hint)
        try:
            parts.append(
                pa.table({c: pa.array([r.get(c) for r in records.values()], kind) for c, kind in types.items()})
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            place = f"{name}: records {min(records)} to {max(records)}"
            raise with_hint(DataError(f"{place}: {error}"), hint) from None
    return pa.concat_tables(parts)


def refuse_inside(place: str, metadata: Mapping[str, Any]) -> None:
    """`DataError` where `metadata` says what is trained: `tito verify` reads it as part of the row, and training, which
    reads the row's own keys, would pass over it without a word. A null says nothing."""
    if said := sorted(key for key in SAYING & metadata.keys() if metadata[key] is not None):
        raise with_hint(
            DataError(f"{place}: {said[0]} stands inside metadata, where training does not read it"),
            f"put {said[0]} at the top level of the row, as `tito convert` writes it",
        )


def _some(name: str, stretch: Stretch) -> Iterator[dict[int, dict[str, Any]]]:
    """Records by their numbers, some at a time."""
    found: dict[int, dict[str, Any]] = {}
    number, size, left = stretch.first, 0, stretch.size
    with open(name, "rb") as file:
        file.seek(stretch.start)
        while left > 0 and (line := file.readline()):
            left -= len(line)
            if line.strip():
                found[number] = _record(name, number, line)
                number, size = number + 1, size + len(line)
            if size >= _AT_ONCE:
                yield found
                found, size = {}, 0
    if found:
        yield found


def _record(name: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise with_hint(DataError(f"{name}: record {number}: {error}"), "the file is cut off") from None
    if not isinstance(record, dict):
        raise with_hint(DataError(f"{name}: record {number}: not a JSON object"), _OBJECTS)
    return record


_OBJECTS = "a line is one row: an object with `input_ids` and `output_ids`, or `input_ids` and `labels`"


def _type(column: str) -> Any:
    import pyarrow as pa

    span = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("weight", pa.float32())])
    call = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("turn", pa.int32())])
    return {
        "loss_spans": pa.list_(span),
        "calls": pa.list_(call),
        "weight": pa.float32(),
        "turn": pa.int32(),
        "output_logprobs": pa.list_(pa.float32()),
        "loss_mask": pa.list_(pa.float32()),
    }.get(column, pa.list_(pa.int64()))
