"""prime-rl's SFT: messages as text, which its renderer turns into ids again. **Lossy**: what was sampled is not in it.

It is made of captures that hold messages, not of rows: `rollout` keeps the last exchange of a rollout with everything
before it, `exchange` each one. An exchange that the trainer would refuse, or that would have to be repaired, gives no
row and is counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from tito._core import __version__
from tito.errors import DataError, UsageError, with_hint
from tito.export.messages import Exchange, UnfitError, find_files, fit_messages, fit_tools, read_exchanges
from tito.export.run import Exported, describe_files, output_path, write_manifest
from tito.export.write import staged, write_records
from tito.paths import utf8_path

__all__ = ["export_messages"]

_LOSES = ("token ids (all text is tokenised again)", "thinking", "logprobs", "weights", "other choices of a rollout")
_SETTINGS = (
    "seq_len: the default of 128 cuts nearly every row",
    "lossy: verl, trl or skyrl train what was sampled",
)


def export_messages(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    row_mode: Literal["rollout", "exchange"] = "rollout",
    expect_rows: int | None = None,
) -> Exported:
    """Writes the messages of captures as prime-sft JSON lines: `messages`, `tool_defs`, and who.

    Raises `DataError` for captures without messages, `UsageError` for options, `WorldError` for files.

    >>> export_messages("calls.jsonl", "prime.jsonl", row_mode="exchange").rows > 0
    True
    """
    path = output_path(out)
    if path.suffix != ".jsonl":
        raise with_hint(UsageError(f"prime-sft does not read {path.name}"), "name a .jsonl file")
    if row_mode not in ("rollout", "exchange"):
        raise with_hint(UsageError(f"row_mode: {row_mode!r} is none of rollout, exchange"), "choose one")
    named = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    files = find_files([utf8_path(name) for name in named])
    if path.exists() and any(path.samefile(file) for file in files):
        raise with_hint(UsageError(f"{path} is an input and would be written over"), "write to another name")
    reader = _Reader(files, row_mode)
    with staged(path.with_name(path.name + ".manifest.json")) as manifest, staged(path) as place:
        write_records(reader.rows(), place)
        counts = reader.counts()
        if counts["rows_written"] == 0:
            reasons = ", ".join(f"{reason} {rows}" for reason, rows in counts["left_out"].items()) or "there were none"
            raise with_hint(
                DataError(f"{', '.join(map(str, named))}: no exchange gives a row ({reasons})"),
                "prime-sft needs messages: call logs with `request`, or saved trajectories",
            )
        if expect_rows is not None and counts["rows_written"] != expect_rows:
            raise with_hint(
                DataError(f"{counts['rows_written']} rows, {expect_rows} were expected"), "nothing was written"
            )
        data = {
            "versions": {"tito": __version__},
            "format": "prime-sft",
            "options": {"row_mode": row_mode},
            "counts": counts,
            "source": describe_files(files),
            "output": {"file": str(path), "kind": "jsonl", "bytes": place.stat().st_size},
            "loses": list(_LOSES),
            "settings": list(_SETTINGS),
        }
        write_manifest(manifest, data)
    return Exported(data)


class _Reader:
    """Reads the files, twice where the last exchange of a rollout must be known, and counts."""

    def __init__(self, files: Sequence[str], row_mode: str) -> None:
        self._files, self._row_mode = files, row_mode
        self._seen = self._written = self._calls = 0
        self._rollouts: set[str] = set()
        self._unfit: Counter[str] = Counter()

    def counts(self) -> dict[str, Any]:
        return {
            "rollouts_seen": len(self._rollouts),
            "rows_read": self._seen,
            "rows_exported": self._written,
            "rows_written": self._written,
            "rows_with_tool_calls": self._calls,
            "left_out": dict(sorted(self._unfit.items())),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        last = self._last() if self._row_mode == "rollout" else None
        for exchange in self._exchanges():
            self._seen += 1
            if exchange is None:
                self._unfit["no_messages"] += 1
                continue
            self._rollouts.add(exchange.rollout)
            if last is not None and last[exchange.rollout][1] != self._seen:
                self._unfit["not_the_last"] += 1
                continue
            try:
                row = _row(exchange)
            except UnfitError as reason:
                self._unfit[str(reason)] += 1
                continue
            self._written += 1
            self._calls += any("tool_calls" in message for message in row["messages"])
            yield row

    def _last(self) -> dict[str, tuple[int, int]]:
        """For each rollout the turn of its last exchange that was answered, and which exchange that is."""
        last: dict[str, tuple[int, int]] = {}
        for number, exchange in enumerate(self._exchanges(), 1):
            if exchange is not None:
                turn = exchange.turn if isinstance(exchange.reply, dict) else -1
                if exchange.rollout not in last or turn > last[exchange.rollout][0]:
                    last[exchange.rollout] = turn, number
        return last

    def _exchanges(self) -> Iterator[Exchange | None]:
        for file in self._files:
            yield from read_exchanges(file)


def _row(exchange: Exchange) -> dict[str, Any]:
    tools = fit_tools(exchange.tools)
    row = {
        "messages": fit_messages(exchange, {tool["function"]["name"] for tool in tools}),
        "tool_defs": tools,
        **exchange.facts,
        "rollout_id": exchange.rollout,
        "source": "tito",
        "source_path": exchange.file,
        "exchange_index": exchange.turn,
    }
    return {name: value for name, value in row.items() if value is not None}
