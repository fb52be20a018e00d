"""What is trained, as arrays: the rows of one file or of several, decoded by row group and kept while memory lasts.

Reads the rows that `tito convert` wrote, and other people's files in which the ids stand as `input_ids` + `output_ids`
(loss on the outputs, or where `labels` or `loss_mask` say), `input_ids` + `labels`, or `input_ids` + `loss_mask`. Where
two columns say it, the survey refuses rows in which they disagree. A row whose `metadata` says it is refused. Only the
columns that training needs are read. Nothing here knows a tokenizer, and no id is ever made.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tito.errors import DataError, with_hint
from tito.parquet import open_parquet, read_group
from tito.rows import find_files, looks_like_rows, open_rows
from tito.train.lines import SAYING, first_record, read_stretch, refuse_inside, stretches
from tito.train.machine import fair_share

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    Ids = npt.NDArray[np.int32]
    Weights = npt.NDArray[np.float32]

__all__ = ["Group", "Lists", "Table"]

_READ = ("input_ids", "output_ids", "loss_spans", "labels", "loss_mask", "weight", "turn", "calls", "output_logprobs")
_ROWS_AT_ONCE = 1024
_SAYS_WHERE = "a file to train on has `input_ids` and `output_ids`, or `input_ids` and `labels`"


@dataclass(frozen=True, slots=True)
class Lists:
    """A list column: row `i` is `values[starts[i] : starts[i + 1]]`."""

    values: npt.NDArray[Any]
    starts: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_] | None = None
    """Rows that are not null; None where all are there."""

    def at(self, row: int) -> npt.NDArray[Any]:
        """The row's values, a view."""
        return self.values[self.starts[row] : self.starts[row + 1]]

    def null(self, row: int) -> bool:
        """Whether the row is null."""
        return self.valid is not None and not self.valid[row]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many values each row has."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one row group, column by column. The first of `spans`, `labels` and `mask` that is there says where loss
    falls; where none is, it falls on all of `output`."""

    rows: int
    prompt: Lists
    output: Lists | None
    spans: Lists | None
    """Values are of the record type `SPAN`."""
    labels: Lists | None
    mask: Lists | None
    weight: npt.NDArray[np.float32]
    turn: npt.NDArray[np.int32]
    """-1 where it is not known."""
    calls: Lists | None
    """The calls of merged rows, of the record type `CALL`."""
    logprobs: Lists | None
    nbytes: int

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Ids of each row, prompt and output together."""
        prompt = self.prompt.lengths
        return prompt if self.output is None else prompt + self.output.lengths

    def ids(self, row: int) -> Ids:
        """All ids of a row, int32. A view where the row stands in one column, else a copy."""
        prompt = self.prompt.at(row)
        if self.output is None or not len(output := self.output.at(row)):
            return prompt
        joined: Ids = np.concatenate((prompt, output))
        return joined

    def example(self, row: int) -> tuple[Ids, Ids]:
        """Ids and labels of a row: where loss falls, its own id, else -100."""
        ids = self.ids(row)
        if self.spans is None and self.labels is not None:
            return ids, self.labels.at(row)
        plain = self.mask is None if self.spans is None else self.spans.null(row)
        if plain and self.output is not None:
            labels = np.empty_like(ids)
            before = len(ids) - len(output := self.output.at(row))
            labels[:before], labels[before:] = -100, output
            return ids, labels
        return ids, np.where(self.token_weights(row) > 0, ids, np.int32(-100))

    def whole(self) -> Ids:
        """All ids of all rows, one row behind the other."""
        if self.output is None:
            return self.prompt.values[self.prompt.starts[0] : self.prompt.starts[-1]]
        return np.concatenate([self.ids(row) for row in range(self.rows)])

    def token_weights(self, row: int) -> Weights:
        """The loss weight of each position, float32; 0 where no loss falls. The row's own weight is not in it."""
        start, end = self.prompt.starts[row], self.prompt.starts[row + 1]
        length = before = int(end - start)
        if self.output is not None:
            length += int(self.output.starts[row + 1] - self.output.starts[row])
        weights = np.zeros(length, np.float32)
        if self.spans is not None and not self.spans.null(row):
            for first, last, weight in self.spans.at(row).tolist():
                weights[first:last] = weight
        elif self.spans is not None:
            weights[before:] = 1
        elif self.labels is not None:
            weights[self.labels.at(row) != -100] = 1
        elif self.mask is not None:
            mask = self.mask.at(row)
            weights[length - len(mask) :] = mask
        else:
            weights[before:] = 1
        return weights


SPAN = np.dtype([("start", np.int32), ("end", np.int32), ("weight", np.float32)])
CALL = np.dtype([("start", np.int32), ("end", np.int32), ("turn", np.int32)])


class Table:
    """Rows of parquet files or JSON lines by number; see the module.

    `keep_bytes` bounds what stays decoded (default: this process's share of memory, `tito.train.machine`); the row
    groups used last stay. A group is one of the parquet file's, or a stretch of JSON lines.
    Pickles as its path: each process decodes for itself. Raises `WorldError` for a path that is not there, `DataError`
    for a file that does not say what is trained.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_bytes: int | None = None) -> None:
        self.path = os.fspath(path)
        self.keep_bytes = fair_share() if keep_bytes is None else keep_bytes
        self.metadata: Mapping[str, str] = {}
        self.ours = looks_like_rows(self.path) and _says_schema(self.path)
        if self.ours:
            rows = open_rows(self.path)  # refuses what does not belong together
            self.files, self.metadata, self.kind = rows.files, rows.metadata, rows.kind
        else:
            self.files, self.kind = tuple(find_files(self.path)), "foreign"
        self._groups: list[tuple[str, Callable[[int], pa.Table], int]] = []
        sizes: list[list[int]] = []
        for name in self.files:
            read, rows_of = _open(name)
            self._groups += [(name, read, number) for number in range(len(rows_of))]
            sizes.append(rows_of)
        self.ends = list(accumulate(chain.from_iterable(sizes)))
        self._file_ends = list(accumulate(map(sum, sizes)))
        self._decoded: OrderedDict[int, Group] = OrderedDict()
        self._held = 0

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __reduce__(self) -> tuple[Callable[..., Table], tuple[str, int]]:
        return _again, (self.path, self.keep_bytes)

    def locate(self, row: int) -> tuple[Group, int]:
        """The group in which a row stands, and where in it."""
        number = bisect_right(self.ends, row)
        return self.group(number), row - (self.ends[number - 1] if number else 0)

    def group(self, number: int) -> Group:
        """A row group, decoded or kept from before."""
        if (group := self._decoded.get(number)) is not None:
            self._decoded.move_to_end(number)
            return group
        name, read, of_file = self._groups[number]
        group = _group(name, read(of_file), ours=self.ours)
        self._decoded[number] = group
        self._held += group.nbytes
        while self._held > self.keep_bytes and len(self._decoded) > 1:
            self._held -= self._decoded.popitem(last=False)[1].nbytes
        return group

    def groups(self) -> Iterator[Group]:
        """All groups in order."""
        for number in range(len(self._groups)):
            yield self.group(number)

    def plain(self, row: int) -> dict[str, Any]:
        """A row's columns as Python values, read from the file once more by pyarrow alone: for checks."""
        number = bisect_right(self.ends, row)
        _, read, of_file = self._groups[number]
        found: dict[str, Any] = read(of_file).slice(row - (self.ends[number - 1] if number else 0), 1).to_pylist()[0]
        return found

    def place(self, row: int) -> str:
        """Where a row stands, for people: the file and its number there, counted from 0."""
        file = bisect_right(self._file_ends, row)
        return f"{Path(self.files[file]).name}: row {row - (self._file_ends[file - 1] if file else 0)}"


def _again(path: str, keep_bytes: int) -> Table:
    return Table(path, keep_bytes=keep_bytes)


def _says_schema(path: str) -> bool:
    """Whether the first file is one of ours (`looks_like_rows` takes any parquet for rows)."""
    name = find_files(path)[0]
    if not _is_parquet(name):
        return True
    schema = open_parquet(name).schema_arrow
    return b"tito.schema_version" in (schema.metadata or {})


def _is_parquet(name: str) -> bool:
    with open(name, "rb") as file:
        return file.read(4) == b"PAR1"


def _open(name: str) -> tuple[Callable[[int], pa.Table], list[int]]:
    """What reads a group of the file, and the rows of each group."""
    if not _is_parquet(name):
        return _lines(name)
    file = open_parquet(name)
    have = file.schema_arrow.names
    _refuse_inside(name, file)
    _refuse_silent(name, have)
    columns = [column for column in _READ if column in have]
    groups = file.metadata
    return (
        lambda number: read_group(name, file, number, columns),
        [groups.row_group(n).num_rows for n in range(groups.num_row_groups)],
    )


def _refuse_inside(name: str, file: pq.ParquetFile) -> None:
    """`refuse_inside` for a column `metadata` of structs or maps. Of structs only the fields in question are read."""
    import pyarrow as pa

    if "metadata" not in file.schema_arrow.names:
        return
    kind = file.schema_arrow.field("metadata").type
    if pa.types.is_struct(kind):
        columns = [f"metadata.{kind.field(at).name}" for at in range(kind.num_fields) if kind.field(at).name in SAYING]
    else:
        columns = ["metadata"] if pa.types.is_map(kind) else []
    row = 0
    for number in range(file.metadata.num_row_groups) if columns else ():
        for batch in read_group(name, file, number, columns).to_batches(max_chunksize=_ROWS_AT_ONCE):
            for inner in batch.column("metadata"):
                if (said := inner.as_py()) is not None:
                    refuse_inside(f"{name}: row {row}", dict(said))
                row += 1


def _refuse_silent(name: str, have: list[str]) -> None:
    if "input_ids" not in have:
        raise with_hint(DataError(f"{name}: no column input_ids (columns {', '.join(have[:8])})"), _SAYS_WHERE)
    if "loss_weights" in have and "loss_spans" not in have:
        raise with_hint(
            DataError(f"{name}: loss_weights says what each id weighs, and without loss_spans it is not read"),
            "say the weights in loss_mask (a number of 0 or more an id), and leave loss_weights out",
        )
    if {"loss_weights", "loss_spans"} <= set(have) and "capture_hash" not in have:
        raise with_hint(
            DataError(f"{name}: loss_spans and loss_weights both say what an id weighs"), "leave loss_weights out"
        )
    if not {"output_ids", "labels", "loss_mask"} & set(have):
        raise with_hint(DataError(f"{name}: nothing says where loss falls: no output_ids and no labels"), _SAYS_WHERE)


def _lines(name: str) -> tuple[Callable[[int], pa.Table], list[int]]:
    if (first := first_record(name)) is None:
        raise with_hint(DataError(f"{name}: the file is empty"), _SAYS_WHERE)
    if isinstance(inner := first.get("metadata"), dict):
        # Said before the record is told to say nothing.
        refuse_inside(f"{name}: record 1", inner)
    _refuse_silent(name, list(first))
    columns, unsaid = [column for column in _READ if column in first], SAYING - first.keys()
    parts = stretches(name)
    return (
        lambda number: read_stretch(name, parts[number], columns, unsaid, _SAYS_WHERE),
        [part.rows for part in parts],
    )


def _group(name: str, table: pa.Table, *, ours: bool) -> Group:
    # Rows of ours say it by their spans; what else stands there was made of those (`tito verify`).
    have = set(table.column_names) - ({"labels", "loss_mask"} if ours else set())

    def lists(column: str, dtype: Any) -> Lists | None:
        return _lists(name, table, column, dtype) if column in have else None

    def numbers(column: str, dtype: Any, missing: Any) -> npt.NDArray[Any]:
        if column not in have:
            return np.full(table.num_rows, missing, dtype)
        values = table.column(column).fill_null(missing).to_numpy()
        typed: npt.NDArray[Any] = values.astype(dtype, copy=False)
        return typed

    prompt = lists("input_ids", np.int32)
    assert prompt is not None  # `_refuse_silent` saw it
    columns = {
        "output": lists("output_ids", np.int32),
        "spans": _records(name, table, "loss_spans", SPAN) if "loss_spans" in have else None,
        "labels": lists("labels", np.int32),
        "mask": lists("loss_mask", np.float32),
        "calls": _records(name, table, "calls", CALL) if "calls" in have else None,
        "logprobs": lists("output_logprobs", np.float32),
    }
    weight, turn = numbers("weight", np.float32, 1.0), numbers("turn", np.int32, -1)
    held = [prompt, *columns.values()]
    nbytes = weight.nbytes + turn.nbytes + sum(c.values.nbytes + c.starts.nbytes for c in held if c is not None)
    return Group(rows=table.num_rows, prompt=prompt, weight=weight, turn=turn, nbytes=nbytes, **columns)


def _lists(name: str, table: pa.Table, column: str, dtype: Any) -> Lists:
    chunk = _one(table, column)
    values = chunk.flatten() if chunk.null_count else chunk.values
    if getattr(values, "null_count", 0) and dtype == np.int32:
        raise with_hint(DataError(f"{name}: {column}: a null among the ids"), "an id is a whole number")
    array = values.to_numpy(zero_copy_only=False)
    if dtype == np.int32 and array.dtype != np.int32 and len(array):
        if not np.issubdtype(array.dtype, np.integer):
            raise with_hint(DataError(f"{name}: {column}: values of type {array.dtype}"), "an id is a whole number")
        if int(array.max()) >= 2**31 or int(array.min()) < -(2**31):
            raise with_hint(DataError(f"{name}: {column}: {int(array.max())} is no id"), "ids are 32-bit")
    valid = chunk.is_valid().to_numpy(zero_copy_only=False) if chunk.null_count else None
    return Lists(array.astype(dtype, copy=False), _starts(chunk), valid)


def _records(name: str, table: pa.Table, column: str, dtype: np.dtype[Any]) -> Lists:
    chunk = _one(table, column)
    values = chunk.flatten() if chunk.null_count else chunk.values
    records = np.empty(len(values), dtype)
    for field in dtype.names or ():
        part = values.field(field)
        records[field] = part.fill_null(-1).to_numpy(zero_copy_only=False)
    valid = chunk.is_valid().to_numpy(zero_copy_only=False) if chunk.null_count else None
    return Lists(records, _starts(chunk), valid)


def _one(table: pa.Table, column: str) -> Any:
    """The column as one list array."""
    import pyarrow as pa

    kind = table.schema.field(column).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise with_hint(DataError(f"column {column} is {kind}, not a list"), _SAYS_WHERE)
    chunks = table.column(column)
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


def _starts(chunk: Any) -> npt.NDArray[np.int64]:
    """Offsets into `flatten()` where rows are null, else into `values`."""
    offsets: npt.NDArray[np.int64] = chunk.offsets.to_numpy().astype(np.int64, copy=False)
    if not chunk.null_count:
        return offsets
    lengths = np.where(chunk.is_valid().to_numpy(zero_copy_only=False), np.diff(offsets), 0)
    return np.concatenate(([0], np.cumsum(lengths)))
