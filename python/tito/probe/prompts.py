"""Prompts to probe with: ids that were captured or trained on, and the requests that led to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tito.errors import DataError, UsageError, with_hint

__all__ = ["Prompt", "read_prompts"]

# Rows that are looked at for first turns; captures are read from their beginning.
_MOST_LOOKED = 5_000


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
    """`n` prompts, spread over a rows file, or the first `n` of a capture; those of turn 0 alone, where there are any.

    Raises `UsageError` for merged rows, which hold no prompts, and where there is nothing to ask.
    """
    from tito.rows import looks_like_rows

    found = _of_rows(path) if looks_like_rows(str(path)) else _of_captures(path)
    chosen = [p for p in found if p.turn == 0] if first_turns else []
    chosen = chosen or found
    if not chosen:
        raise with_hint(UsageError(f"{path}: no prompts"), "give rows or captures that hold ids")
    step = max(1, len(chosen) // max(1, n))
    return chosen[::step][:n]


def _of_rows(path: Path) -> list[Prompt]:
    from tito.rows import open_rows

    rows = open_rows(path)
    if rows.kind != "turn":
        raise with_hint(UsageError(f"{path}: merged rows, in which no prompt ends"), "convert with --rows turn")
    found = []
    step = max(1, len(rows) // _MOST_LOOKED)
    for at in range(0, len(rows), step):
        row = rows[at]
        where = f"{row.capture_file} record {row.capture_record}"
        ids, output = tuple(row.input_ids.tolist()), tuple(row.output_ids.tolist())
        request = _request(row.capture_file, row.capture_record, near=path)
        found.append(Prompt(ids, output, where, row.agent, row.turn, request))
    return found


def _of_captures(path: Path) -> list[Prompt]:
    from tito import _core
    from tito.paths import utf8_path

    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.json*") if p.is_file())
    found = []
    for file in files:
        for call in _core.call_ids(utf8_path(file), limit=_MOST_LOOKED):
            prompt, output = call.get("prompt_ids"), call.get("output_ids")
            if prompt is None or call.get("bad") or call.get("kind") in ("helper", "summariser"):
                continue
            where = f"{call['file']} record {call['record']}"
            ids = tuple(int(i) for i in prompt)
            sampled = tuple(int(i) for i in (output if output is not None else ()))
            request = _request(str(file), int(call["record"]), near=file)
            found.append(Prompt(ids, sampled, where, call.get("agent"), call.get("turn"), request))
        if len(found) >= _MOST_LOOKED:
            break
    return found


_LINES: dict[Path, Sequence[str]] = {}


def _request(name: str, record: int, *, near: Path) -> Mapping[str, Any] | None:
    """The chat request of a record in a call log of plain JSON lines; None for other formats, and where the file is not
    there any more."""
    for path in (Path(name), near.parent / name):
        if path.suffix == ".jsonl" and path.is_file():
            break
    else:
        return None
    if path not in _LINES:
        _LINES.clear()
        _LINES[path] = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    lines = _LINES[path]
    if not 0 < record <= len(lines):
        return None
    try:
        request = json.loads(lines[record - 1]).get("request")
    except (ValueError, AttributeError) as error:
        raise with_hint(DataError(f"{path} record {record}: {error}"), "`tito check` says what is wrong") from None
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        return None
    return {name: request[name] for name in ("messages", "tools", "chat_template_kwargs") if request.get(name)}
