"""Rows files as sequences. A parquet file is read by row group, a JSON-lines file by line; nothing is read early."""

from __future__ import annotations

import glob
import json
import os
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

from tito._core import capture_format, in_name_order, is_sealed, rows_metadata, schema_json
from tito.calls import Row
from tito.errors import DataError, UsageError, WorldError, with_hint
from tito.parquet import damage, open_parquet, read_group

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["RowsFile", "find_files", "looks_like_rows", "open_rows"]

# Row groups kept decoded; each holds about 4 M ids, 16 MB.
_GROUPS_KEPT = 4
_ID_LISTS = {"input_ids": "int32", "output_ids": "int32", "labels": "int32"}
_LISTS = {**_ID_LISTS, "loss_mask": "int8", "loss_weights": "float32", "output_logprobs": "float32"}
# The key in a line of JSON, where its value is not null. In a text its quotes would have backslashes.
_CALLS = re.compile(rb'(?<!\\)"calls"\s*:\s*\[')
_NEEDED = ("input_ids", "output_ids", "loss_spans", "weight", "flags", "capture_file", "capture_hash")


_OURS = "open files that `tito convert` wrote"


def refuse_no_ids(values: Sequence[object], where: str, hint: str) -> None:
    """`DataError` for a list of JSON with anything but whole numbers: arrays would cut 2.9 to 2 without a word."""
    if not set(map(type, values)) <= {int}:
        raise with_hint(DataError(f"{where} holds what is no id"), hint)


@cache
def _declared() -> dict[str, dict[str, Any]]:
    """The columns of the row schema by name."""
    return {column["name"]: column for column in json.loads(schema_json())["columns"]}


def open_rows(path: str | os.PathLike[str]) -> RowsFile:
    """Opens rows that `convert` wrote: a parquet file, a JSON-lines file, a folder of them, or a glob of shards.

    The rows are a sequence: `len`, `[i]`, slices, iteration. `input_ids` and `output_ids` are int32; from parquet they
    are read-only views of the row group they stand in, without a copy. Reading in order costs one row group of memory
    at a time; the last four stay decoded, so a shuffle over many groups is slow.

    Raises `WorldError` for a path that is not there, `DataError` for a file that holds no rows, and for several files
    that do not belong together: their kinds, profiles, tokenizers or policies differ, one holds validation rows and
    another does not, or the same rows stand there as parquet and as JSON lines.

    >>> rows = open_rows("kept.parquet")
    >>> len(rows), rows.kind, rows[0].turn, rows[0].input_ids.dtype, rows[0].input_ids.flags.writeable
    (36, 'turn', 0, dtype('int32'), False)
    """
    return RowsFile(path)


class RowsFile(Sequence[Row]):
    """Rows of one file or of several, one behind the other in the order of their names. See `open_rows`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        names = find_files(self._path)
        _refuse_twins(self._path, names)
        self._files = [_open(name) for name in names]
        for file in self._files:
            _refuse_changed(file)
        self._ends = list(accumulate(len(file) for file in self._files))
        kinds = {file.kind for file in self._files}
        if len(kinds) > 1:
            raise with_hint(
                DataError(f"{self._path}: rows of different kinds ({', '.join(sorted(kinds))})"), "open them apart"
            )
        [self._kind] = kinds
        _refuse_mixed(self._path, self._files)

    @property
    def files(self) -> tuple[str, ...]:
        """The files, in the order of their rows."""
        return tuple(file.name for file in self._files)

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the first file says of itself: the keys `tito.*`. JSON lines have their manifest's, as long as
        they are byte for byte what it was written with, and else none."""
        return self._files[0].metadata

    @property
    def kind(self) -> str:
        """What a row is: `turn` (one call: prompt in `input_ids`, sample in `output_ids`), `merged` (a sequence of
        calls, whole in `input_ids`; a row whose `calls` is None is of one call) or `auto` (both)."""
        return self._kind

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, those on request included."""
        return self._files[0].columns

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        file = bisect_right(self._ends, at)
        return self._files[file].row(at - (self._ends[file - 1] if file else 0))

    def __iter__(self) -> Iterator[Row]:
        for file in self._files:
            for at in range(len(file)):
                yield file.row(at)

    def extent(self) -> tuple[int, int]:
        """How many ids the longest row has, prompt and output together, and the highest id of all (-1 without any).
        From parquet these are read by column, a row group at a time: 0.14 s of CPU for 10 M ids.
        """
        found = [file.extent() for file in self._files]
        return max((longest for longest, _ in found), default=0), max((highest for _, highest in found), default=-1)

    def __reduce__(self) -> tuple[Callable[[str], RowsFile], tuple[str]]:
        return open_rows, (self._path,)

    def __repr__(self) -> str:
        return f"<{len(self):,} {self.kind} rows of {self._path}>"


class _File(Protocol):
    name: str
    metadata: Mapping[str, str]
    columns: tuple[str, ...]
    kind: str

    def __len__(self) -> int: ...
    def row(self, at: int) -> Row: ...
    def extent(self) -> tuple[int, int]: ...


# What must be the same in files that are read as one, and its name for people.
_ONE_OF = {"tito.profile": "profiles", "tito.tokenizer_hash": "tokenizers", "tito.policies": "policies"}


def _refuse_twins(path: str, names: Sequence[str]) -> None:
    """Raises `DataError` for files that differ in their suffix alone: rows that were written twice."""
    stems: dict[str, str] = {}
    for name in names:
        if (other := stems.setdefault(os.path.splitext(name)[0], name)) != name:
            raise with_hint(
                DataError(f"{path}: {Path(other).name} and {Path(name).name} would be read as different rows"),
                "name one of them, or a glob like '*.parquet'",
            )


def _refuse_mixed(path: str, files: Sequence[_File]) -> None:
    """Raises `DataError` for files that say different things of themselves; those that say nothing go with any, but not
    with validation rows."""
    val = [file.name for file in files if file.metadata.get("tito.side") == "val"]
    if val and len(val) < len(files):
        other = next(file.name for file in files if file.name not in val)
        raise with_hint(
            DataError(f"{path}: training rows ({Path(other).name}) and validation rows ({Path(val[0]).name})"),
            f"name the files of one side, like {other}",
        )
    for key, what in _ONE_OF.items():
        first: tuple[str, object] | None = None
        for file in files:
            if (value := file.metadata.get(key)) is None:
                continue
            with damage(file.name):
                told = json.loads(value) if key == "tito.policies" else value
            if first is None:
                first = file.name, told
            elif told != first[1]:
                raise with_hint(
                    DataError(f"{path}: rows of different {what} ({_differ(first, (file.name, told))})"),
                    "open them apart",
                )


def _refuse_changed(file: _File) -> None:
    """Raises `DataError` for a file whose account of itself is not the one it was written with."""
    told = dict(file.metadata)
    if "tito.checksum" in told and not is_sealed(told):
        message = f"{file.name}: what the file says of itself (tito.*) was changed after it was written"
        raise with_hint(DataError(message), "convert again, or take the file from where it was written")


def _differ(one: tuple[str, object], other: tuple[str, object]) -> str:
    a, b = one[1], other[1]
    if isinstance(a, dict) and isinstance(b, dict):
        name = next(name for name in {**a, **b} if a.get(name) != b.get(name))
        a, b = (f"{name}={json.dumps(value.get(name))}" for value in (a, b))
    return f"{Path(one[0]).name}: {a}, {Path(other[0]).name}: {b}"


def _kind(with_calls: int, rows: int) -> str:
    """What a file that does not say it holds, by how many of its rows have `calls`."""
    return "turn" if not with_calls else "merged" if with_calls == rows else "auto"


def find_files(path: str) -> list[str]:
    """The files that a path, a folder or a glob names, in the order of their names: 9 before 10."""
    if os.path.isdir(path):
        found = in_name_order([str(p) for p in Path(path).iterdir() if p.suffix in (".parquet", ".jsonl")])
        if not found:
            raise with_hint(DataError(f"{path}: no .parquet and no .jsonl in this folder"), "name the file or the glob")
        return found
    if os.path.exists(path):
        return [path]
    if found := in_name_order(glob.glob(path)):
        return found
    raise with_hint(WorldError(f"{path}: no such file"), "check the path; a pattern must match at least one file")


def _open(name: str) -> _File:
    with open(name, "rb") as file:
        magic = file.read(4)
    return _ParquetFile(name) if magic == b"PAR1" else _LinesFile(name)


class _ParquetFile:
    def __init__(self, name: str) -> None:
        self.name = name
        self._file: pq.ParquetFile = open_parquet(name)
        with damage(name):
            stored = self._file.schema_arrow.metadata or self._file.metadata.metadata or {}
            keys = {key.decode(): value.decode() for key, value in stored.items() if key.startswith(b"tito.")}
        self.metadata: Mapping[str, str] = keys
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        version = keys.get("tito.schema_version")
        if version != "1" or any(column not in self.columns for column in _NEEDED):
            seen = f"row schema {version}" if version else f"columns {', '.join(self.columns[:8])}"
            raise with_hint(DataError(f"{name}: no rows of row schema 1 ({seen})"), _OURS)
        required = [name for name, declared in _declared().items() if not declared["optional"]]
        if missing := [name for name in required if name not in self.columns]:
            raise with_hint(DataError(f"{name}: no column {missing[0]}"), _OURS)
        for column in self._file.schema_arrow:
            if (declared := _declared().get(column.name)) is not None and not _fits(declared, column.type):
                message = f"{name}: column {column.name} is {column.type}, which row schema 1 does not have"
                raise with_hint(DataError(message), _OURS)
        groups = self._file.metadata
        self._ends = list(accumulate(groups.row_group(g).num_rows for g in range(groups.num_row_groups)))
        self._decoded: OrderedDict[int, tuple[dict[str, _Lists], dict[str, list[Any]]]] = OrderedDict()
        self.kind = keys.get("tito.rows") or self._judge()

    def _judge(self) -> str:
        calls = self._file.read(columns=["calls"]).column("calls")
        return _kind(len(calls) - calls.null_count, len(calls))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, at: int) -> Row:
        group = bisect_right(self._ends, at)
        lists, values = self._decode(group)
        at -= self._ends[group - 1] if group else 0
        columns: dict[str, Any] = {name: column.at(at) for name, column in lists.items()}
        columns |= {name: column[at] for name, column in values.items()}
        with damage(self.name):
            return Row.from_columns(columns)

    def extent(self) -> tuple[int, int]:
        longest, highest = 0, -1
        for group in range(len(self._ends)):
            table = read_group(self.name, self._file, group, ["input_ids", "output_ids"])
            lists = [_Lists(table.column(name)) for name in ("input_ids", "output_ids")]
            longest = max(longest, int((lists[0].lengths + lists[1].lengths).max(initial=0)))
            highest = max(highest, *(int(ids.inside.max(initial=-1)) for ids in lists))
        return longest, highest

    def _decode(self, group: int) -> tuple[dict[str, _Lists], dict[str, list[Any]]]:
        if group in self._decoded:
            self._decoded.move_to_end(group)
            return self._decoded[group]
        table = read_group(self.name, self._file, group)
        with damage(self.name):
            rows = self._file.metadata.row_group(group).num_rows
            if table.num_rows != rows:
                raise ValueError(f"{table.num_rows} rows in a row group of {rows}")
            lists = {name: _Lists(table.column(name)) for name in self.columns if name in _LISTS}
            values = {name: table.column(name).to_pylist() for name in self.columns if name not in _LISTS}
        self._decoded[group] = lists, values
        if len(self._decoded) > _GROUPS_KEPT:
            self._decoded.popitem(last=False)
        return lists, values


def _fits(declared: Mapping[str, Any], found: pa.DataType) -> bool:
    """Whether a column is of the type that the schema declares; tools may write longer offsets or a dictionary."""
    import pyarrow.types as is_a

    kind: str = declared["type"]
    if is_a.is_null(found):
        return bool(declared["nullable"])
    if kind == "string":
        found = found.value_type if is_a.is_dictionary(found) else found
        return bool(is_a.is_string(found) or is_a.is_large_string(found))
    if not kind.startswith("list<"):
        return not is_a.is_nested(found)
    if not (is_a.is_list(found) or is_a.is_large_list(found)):
        return False
    element = kind.removeprefix("list<").removesuffix(">")
    if element == "struct":
        inner = found.value_type
        return bool(is_a.is_struct(inner)) and {f["name"] for f in declared["fields"]} <= {f.name for f in inner}
    return bool(str(found.value_type) == {"float32": "float"}.get(element, element))


class _Lists:
    """A list column of one row group: slices of its values."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        self._offsets = chunk.offsets.to_numpy()
        self._values = chunk.values.to_numpy(zero_copy_only=True)
        self._valid = chunk.is_valid().to_numpy(zero_copy_only=False) if chunk.null_count else None

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = self._offsets[1:] - self._offsets[:-1]
        return found

    @property
    def inside(self) -> np.ndarray[Any, Any]:
        """The values of all rows, one behind the other."""
        values: np.ndarray[Any, Any] = self._values[self._offsets[0] : self._offsets[-1]]
        return values

    def at(self, row: int) -> np.ndarray[Any, Any] | None:
        if self._valid is not None and not self._valid[row]:
            return None
        values: np.ndarray[Any, Any] = self._values[self._offsets[row] : self._offsets[row + 1]]
        return values


class _LinesFile:
    def __init__(self, name: str) -> None:
        self.name = name
        starts, at = [], 0
        with open(name, "rb") as file:
            for line in file:
                if line.strip():
                    starts.append(at)
                at += len(line)
        self._starts = starts
        if not starts:
            # Refuses it unless its manifest says that no row was written.
            self.metadata: Mapping[str, str] = rows_metadata(name)
            self.columns: tuple[str, ...] = ()
            self.kind = self.metadata.get("tito.rows") or "turn"
            return
        first = self._columns(0)
        if missing := [column for column in _NEEDED if column not in first]:
            raise with_hint(
                DataError(f"{name}: line 1 is no row: no {missing[0]!r}"), "open files that `tito convert` wrote"
            )
        self.columns = tuple(first)
        self.metadata = rows_metadata(name)
        self.kind = self.metadata.get("tito.rows") or self._judge()

    def _judge(self) -> str:
        with open(self.name, "rb") as file:
            return _kind(sum(_CALLS.search(line) is not None for line in file), len(self))

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, at: int) -> Row:
        import numpy as np

        columns = self._columns(at)
        for name, dtype in _LISTS.items():
            if (values := columns.get(name)) is None:
                continue
            if dtype.startswith("int"):
                refuse_no_ids(values, f"{self.name}: record {at + 1}: {name}", "convert again")
            columns[name] = np.array(values, dtype)
            columns[name].flags.writeable = False
        try:
            return Row.from_columns(columns)
        except (KeyError, TypeError, ValueError) as error:
            raise with_hint(DataError(f"{self.name}: record {at + 1}: no row: {error}"), "convert again") from None

    def extent(self) -> tuple[int, int]:
        longest, highest = 0, -1
        for at in range(len(self)):
            row = self.row(at)
            longest = max(longest, len(row.input_ids) + len(row.output_ids))
            highest = max(highest, int(row.input_ids.max(initial=-1)), int(row.output_ids.max(initial=-1)))
        return longest, highest

    def _columns(self, at: int) -> dict[str, Any]:
        with open(self.name, "rb") as file:
            file.seek(self._starts[at])
            line = file.readline()
        try:
            columns = json.loads(line)
        except ValueError as error:
            raise with_hint(
                DataError(f"{self.name}: record {at + 1}: {error}"), "the file is cut off or no JSON lines"
            ) from None
        if not isinstance(columns, dict):
            raise with_hint(
                DataError(f"{self.name}: record {at + 1}: not a JSON object"), "open files that `tito convert` wrote"
            )
        return columns


def looks_like_rows(path: str) -> bool:
    """Whether a file holds rows (any parquet, or JSON lines of such columns), or a folder or glob does.

    Raises `UsageError` for a folder or glob that holds rows and captures: which of them are meant nobody can tell.
    """
    if os.path.isfile(path):
        return _is_parquet(path) or _is_lines(path)
    inside = sorted(str(p) for p in Path(path).iterdir()) if os.path.isdir(path) else sorted(glob.glob(path))
    files = [file for file in inside if os.path.isfile(file)]
    # Parquet of others may lie in any folder.
    rows = next((file for file in files if (_is_parquet(file) and _is_ours(file)) or _is_lines(file)), None)
    if rows is None:
        return False
    if capture := next(_captures(path if os.path.isdir(path) else None, inside), None):
        raise with_hint(
            UsageError(f"{path} holds rows ({rows}) and captures ({capture})"),
            "name the rows to work on rows, or keep them apart: captures in a folder of their own",
        )
    return True


def _captures(folder: str | None, inside: Sequence[str]) -> Iterator[str]:
    """The files that `convert` would read."""
    for name in inside:
        if folder is not None and Path(name).name.startswith("."):
            continue
        if os.path.isdir(name):
            yield from _captures(name, sorted(str(p) for p in Path(name).iterdir()))
        elif os.path.isfile(name) and capture_format(name):
            yield name


def _is_parquet(file: str) -> bool:
    with open(file, "rb") as opened:
        return opened.read(4) == b"PAR1"


def _is_ours(file: str) -> bool:
    try:
        schema = open_parquet(file).schema_arrow
    except DataError:
        return False
    return b"tito.schema_version" in (schema.metadata or {}) or all(name in schema.names for name in _NEEDED)


def _is_lines(file: str) -> bool:
    with open(file, "rb") as opened:
        try:
            first = json.loads(opened.readline())
        except ValueError:
            return False
    return isinstance(first, dict) and all(column in first for column in _NEEDED)
