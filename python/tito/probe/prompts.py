"""Prompts to probe with: ids that were captured or trained on, and the requests that led to them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tito.errors import DataError, UsageError, with_hint

if TYPE_CHECKING:
    from tito.calls import Row

__all__ = ["Prompt", "read_prompts"]

# Rows that are looked at for first turns, spread over the file.
_MOST_LOOKED = 5_000
# Calls of a capture that are looked at, for each prompt that is wanted.
_CALLS_LOOKED = 20
_PACKED = {".zst": "zstd", ".gz": "gzip"}
_ASKED = ("messages", "tools", "chat_template_kwargs")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its ids, what was sampled after them, and the chat request that a server made them of."""

    ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    where: str
    """File and record."""
    agent: str | None
    turn: int | None
    request: Mapping[str, Any] | None
    """`messages`, `tools`, `chat_template_kwargs`; None where the capture holds none."""


def read_prompts(path: Path, n: int, *, first_turns: bool = True) -> list[Prompt]:
    """`n` prompts, spread over a rows file or over the beginning of a capture; those of turn 0 alone, where there are
    any.

    Raises `UsageError` where there is nothing to ask.
    """
    from tito.rows import looks_like_rows

    found = _of_rows(path, n, first_turns) if looks_like_rows(str(path)) else _of_captures(path, n, first_turns)
    if not found:
        raise with_hint(UsageError(f"{path}: no prompts"), "give rows or captures that hold ids")
    return found


def _spread(found: list[Any], n: int) -> list[Any]:
    step = max(1, len(found) // max(1, n))
    return found[::step][:n]


def _of_rows(path: Path, n: int, first_turns: bool) -> list[Prompt]:
    from tito.rows import open_rows

    rows = open_rows(path)
    looked = range(0, len(rows), max(1, len(rows) // _MOST_LOOKED))
    # A merged row holds the prompts of all its calls: what stands before the sample of each.
    asked = [(at, place, turn) for at in looked for place, turn in enumerate(_turns(rows[at]))]
    first = [call for call in asked if call[2] == 0] if first_turns else []
    found, of = [], []
    for at, place, turn in _spread(first or asked, n):
        row = rows[at]
        prompt, output, record = row.input_ids, row.output_ids, row.capture_record
        if row.calls:
            start, end = row.calls[place].start, row.calls[place].end
            prompt, output, record = row.input_ids[:start], row.input_ids[start:end], row.calls[place].record
        where = f"{row.capture_file} record {record}"
        of.append((row.capture_file, record))
        found.append(Prompt(tuple(prompt.tolist()), tuple(output.tolist()), where, row.agent, turn, None))
    return _with_requests(found, of, near=path)


def _turns(row: Row) -> list[int | None]:
    return [call.turn for call in row.calls] if row.calls else [row.turn]


def _of_captures(path: Path, n: int, first_turns: bool) -> list[Prompt]:
    from tito import _core
    from tito.paths import utf8_path

    calls: list[dict[str, Any]] = []
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*.json*") if p.is_file()):
        for call in _core.call_ids(utf8_path(file), limit=_CALLS_LOOKED * max(1, n)):
            if call.get("prompt_ids") is not None and not call.get("bad") and call.get("kind") in (None, "solver"):
                calls.append({**call, "path": file})
        if len(calls) >= _CALLS_LOOKED * n:
            break
    first = [call for call in calls if call.get("turn") == 0] if first_turns else []
    found, of = [], []
    for call in _spread(first or calls, n):
        ids = tuple(int(i) for i in call["prompt_ids"])
        output = tuple(int(i) for i in (() if call.get("output_ids") is None else call["output_ids"]))
        of.append((str(call["path"]), int(call["record"])))
        where = f"{call['file']} record {call['record']}"
        found.append(Prompt(ids, output, where, call.get("agent"), call.get("turn"), None))
    return _with_requests(found, of, near=path)


def _with_requests(prompts: Sequence[Prompt], of: Sequence[tuple[str, int]], *, near: Path) -> list[Prompt]:
    """The prompts with the requests of their records; each file is read once."""
    wanted: dict[str, set[int]] = {}
    for name, record in of:
        wanted.setdefault(name, set()).add(record)
    found = {name: _requests(name, records, near=near) for name, records in wanted.items()}
    return [
        replace(prompt, request=found[name].get(record)) for prompt, (name, record) in zip(prompts, of, strict=True)
    ]


def _requests(name: str, records: set[int], *, near: Path) -> dict[int, Mapping[str, Any]]:
    """The chat requests of records in a call log of JSON lines, packed or not; none for other formats, and where the
    file is not there any more."""
    path = _log(name, near)
    if path is None:
        return {}
    found: dict[int, Mapping[str, Any]] = {}
    try:
        with _open(path) as file:
            lines = islice((line for line in file if line.strip()), max(records))
            for number, line in enumerate(lines, 1):
                if number not in records:
                    continue
                try:
                    request = json.loads(line).get("request")
                except (ValueError, AttributeError) as error:
                    place = f"{path} record {number}"
                    raise with_hint(DataError(f"{place}: {error}"), "`tito check` says what is wrong") from None
                if isinstance(request, dict) and isinstance(request.get("messages"), list):
                    found[number] = {name: request[name] for name in _ASKED if request.get(name)}
    except OSError as error:
        raise with_hint(DataError(f"{path}: {error}"), "`tito check` says what is wrong") from None
    return found


def _log(name: str, near: Path) -> Path | None:
    """The call log where it was, or beside what was made of it; a log that was read while it grew is packed since."""
    bare = name.removesuffix(Path(name).suffix) if Path(name).suffix in _PACKED else name
    if Path(bare).suffix != ".jsonl":
        return None
    for place in (Path(name), near.parent / name, near.parent / Path(name).name):
        folder, stem = place.parent, Path(bare).name
        for path in (place, folder / stem, *(folder / (stem + packing) for packing in _PACKED)):
            if path.is_file():
                return path
    return None


def _open(path: Path) -> IO[bytes]:
    if path.suffix not in _PACKED:
        return path.open("rb")
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(path, compression=_PACKED[path.suffix]))
