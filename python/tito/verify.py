"""Rows against the captures that they name: made once more, and compared. The core does the work in one call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tito import _core
from tito._core import Progress
from tito.calls import check_count
from tito.paths import Paths, utf8_path, utf8_paths
from tito.rows import find_files
from tito.watched import watched

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What a comparison found, over `data`, the core's JSON.

    `data` has the keys `rows`, `verified`, `files` (each with `file`, `rows`, `verified`), `failed` (rows by kind:
    `differs`, `no_row`, `no_capture`, `too_often`, `not_looked_at`), `failures` (the first of them, each with `file`,
    `row` counted from 0, `found`, where its capture is, and `differences`), `captures`, `moved` and `versions`.
    """

    data: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether every row is what its captures give, and files without any row are of captures that give none."""
        return self.rows == self.verified and (self.rows > 0 or self.missing == 0)

    @property
    def rows(self) -> int:
        """Rows compared."""
        return int(self.data["rows"])

    @property
    def verified(self) -> int:
        """Rows that are what their captures give."""
        return int(self.data["verified"])

    @property
    def missing(self) -> int:
        """Rows that the captures give and no file named holds."""
        return sum(captures["rows_not_here"] for captures in self.data["captures"])

    @property
    def failures(self) -> list[str]:
        """A line for each row that does not verify, at most as many as were asked for: the rows file, the row (from 0),
        and what differs at which position, or what became of its capture."""
        return [_failure(one) for one in self.data["failures"]]

    def text(self) -> str:
        """What was compared with what, without the failures; ends in a newline."""
        files, moved, versions = self.data["files"], self.data["moved"], self.data["versions"]
        lines = [f"verified  {self.verified:,} of {self.rows:,} rows in {_many(len(files), 'file')}"]
        if failed := self.data["failed"]:
            lines.append("failed    " + ", ".join(f"{_KINDS[kind]} {n:,}" for kind, n in failed.items()))
        for captures in self.data["captures"]:
            skipped = ", ".join(f"{reason} {n:,}" for reason, n in captures["skipped"].items())
            lines.append(
                f"captures  {_many(captures['calls'], 'call')}, {captures['calls_in_rows']:,} of them in "
                f"{_many(captures['rows'], 'row')}" + (f"; without a row: {skipped}" if skipped else "")
            )
            if captures["rows_not_here"]:
                lines.append(
                    f"not here  {_many(captures['rows_not_here'], 'row')} that these captures also give are in no file "
                    "named"
                )
        if moved["files"]:
            stated, read = moved["first"][0]
            lines.append(f"moved     {_many(moved['files'], 'capture')}: {stated} is {read}")
        if other := [version for version in versions["rows"] if version != versions["tito"]]:
            lines.append(f"versions  the rows were made by tito {', '.join(other)}; this is {versions['tito']}")
        return "".join(f"{line}\n" for line in lines)


_KINDS = {
    "differs": "other than captured",
    "no_row": "of calls that give no row",
    "no_capture": "without their capture",
    "too_often": "too often",
    "not_looked_at": "not looked at",
}


def verify(
    rows: Paths,
    captures: Paths,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    n: int = 10,
    workers: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Verification:
    """Makes rows again from their captures, with the policies and the profile that are stored with them, and compares
    every value of every row.

    `rows` are files that `convert` wrote, folders or globs of them: all rows of a run or some, in any order, in any
    number of files. What is missing is counted (`missing`); only files without any row, of captures that give some, are
    not `ok`. `captures` are files, folders or globs; they may have moved, been compressed, and lie among others.
    A capture's name is compared from its end: as many parts as its path has inside the folder that is named here, the
    file's own name where the file is. What depends on a whole run (copies drawn for fractions of weights, weights
    relative to others, the `#2` of a second rollout of one name) needs the captures of the whole run, in its order.

    `tokenizer` (a folder or `tokenizer.json`) is asked for where rules of the rows' policies read text. `n` is the
    number of failures that are listed. Memory is 32 bytes a row. Rows are never held; the captures are read
    a second time only when something does not verify.

    Raises `DataError` for a file that is damaged, has other columns than its policies name, does not say how it was
    made, whose account of itself was changed or lost its checksum, or whose policies cannot be applied to these
    captures; `UsageError` and `WorldError` as `convert` does.

    >>> found = verify("kept.parquet", "calls.jsonl")
    >>> found.ok, found.rows, found.failures
    (True, 36, [])
    """
    for name, number in (("n", n), ("workers", workers)):
        check_count(name, number)
    request = {
        "rows": [file for name in utf8_paths(rows) for file in find_files(name)],
        "captures": utf8_paths(captures),
        "tokenizer": None if tokenizer is None else utf8_path(tokenizer),
        "list": n,
        "workers": workers,
    }
    text = json.dumps(request)
    return Verification(json.loads(watched(lambda progress: _core.verify(text, progress), progress)))


def _failure(one: Mapping[str, Any]) -> str:
    turn = "" if one["turn"] is None else f", turn {one['turn']}"
    whence = f"{one['capture_file']}, record {one['capture_record']}{turn}"
    said = {
        "differs": "; ".join(_difference(difference) for difference in one["differences"]),
        "no_row": "its call gives no row under these policies",
        "no_capture": f"its call is not in these captures (ids {one['capture_hash']})",
        "too_often": "stands more often than its call gives it",
    }[one["found"]]
    return f"{one['file']}: row {one['row']}: {said} ({whence})"


def _difference(one: Mapping[str, Any]) -> str:
    at = "" if one.get("position") is None else f"[{one['position']}]"
    field = f".{one['field']}" if "field" in one else ""
    stated, derived = (json.dumps(one[side], ensure_ascii=False) for side in ("stated", "derived"))
    return f"{one['column']}{at}{field} is {stated}, captured {derived}"


def _many(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"
