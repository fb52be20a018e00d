"""prime-rl's SFT: messages as text, which its renderer turns into ids again. **Lossy**: what was sampled is not in it.

It is made of the calls that `convert` would make rows of, of captures that hold messages: `rollout` keeps the last one
of a rollout with everything before it, `exchange` each one. A call that gives no row gives none here, for the same
reason; an exchange that the trainer would refuse, or that would have to be repaired, gives none either and is counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

from tito._core import Progress, __version__
from tito.calls import Policies
from tito.errors import DataError, UsageError, with_hint
from tito.exchanges import Exchange, Exchanges, read_exchanges
from tito.export.messages import UnfitError, fit_messages, fit_tools, load
from tito.export.run import Exported, output_path, write_manifest
from tito.export.write import write_records
from tito.files import staged
from tito.paths import Paths, utf8_paths
from tito.profile import Profile

__all__ = ["CHOOSING", "export_messages"]

# Policies that say which calls are used. All others change ids, or what ids weigh: text has neither.
CHOOSING = frozenset({"kind", "ambiguous", "bad", "group_by"})
_DEFAULTS = Policies()

_LOSES = ("token ids (all text is tokenised again)", "thinking", "logprobs", "weights", "other choices of a rollout")
_SETTINGS = (
    "seq_len: the default of 128 cuts nearly every row",
    "lossy: verl, trl or skyrl train what was sampled",
)


def export_messages(
    inputs: Paths,
    out: str | os.PathLike[str],
    *,
    row_mode: Literal["rollout", "exchange"] = "rollout",
    policies: Policies = _DEFAULTS,
    profile: Profile | str | os.PathLike[str] | None = None,
    from_format: str | None = None,
    expect_rows: int | None = None,
    workers: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Exported:
    """Writes the messages of captures as prime-sft JSON lines: `messages`, `tool_defs`, and who.

    Inputs, and the options not named here, are those of `convert`; of `policies` those that say which calls are used
    (`kind`, `ambiguous`, `bad`, `group_by`). Rows stand in the order of the captures.

    Raises `DataError` for bad data and captures without messages, `UsageError` for options, `WorldError` for files.

    >>> export_messages("calls.jsonl", "prime.jsonl", row_mode="exchange").rows > 0
    True
    """
    path = output_path(out)
    if path.suffix != ".jsonl":
        raise with_hint(UsageError(f"prime-sft does not read {path.name}"), "name a .jsonl file")
    if row_mode not in ("rollout", "exchange"):
        raise with_hint(UsageError(f"row_mode: {row_mode!r} is none of rollout, exchange"), "choose one")
    _refuse_others(policies)
    exchanges = read_exchanges(
        inputs,
        policies=policies,
        profile=profile,
        from_format=from_format,
        output=path,
        workers=workers,
        progress=progress,
    )
    reader = _Reader(exchanges, row_mode)
    with staged(path.with_name(path.name + ".manifest.json")) as manifest, staged(path) as place:
        write_records(reader.rows(), place)
        counts = reader.counts()
        if counts["rows_written"] == 0:
            reasons = ", ".join(f"{reason} {rows}" for reason, rows in counts["left_out"].items())
            raise with_hint(
                DataError(f"{', '.join(utf8_paths(inputs))}: no exchange gives a row ({reasons})"),
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
            "source": {"captures": exchanges.report.data["inputs"], "policies": policies.to_dict()},
            "output": {"file": str(path), "kind": "jsonl", "bytes": place.stat().st_size},
            "loses": list(_LOSES),
            "settings": list(_SETTINGS),
        }
        write_manifest(manifest, data)
    return Exported(data)


def _refuse_others(policies: Policies) -> None:
    given, defaults = policies.to_dict(), _DEFAULTS.to_dict()
    for name in given:
        if name not in CHOOSING and given[name] != defaults[name]:
            raise with_hint(UsageError(f"{name} belongs to rows, not to prime-sft"), "leave it out: text has no ids")
    if policies.ambiguous == "mask":
        raise with_hint(
            UsageError("ambiguous=mask takes loss away, and prime-sft cannot be told where loss falls"),
            "choose keep-all, keep-last or drop",
        )


class _Reader:
    """Makes rows of exchanges and counts."""

    def __init__(self, exchanges: Exchanges, row_mode: str) -> None:
        self._exchanges, self._row_mode = exchanges, row_mode
        self._written = self._calls = 0
        self._unfit: Counter[str] = Counter()

    def counts(self) -> dict[str, Any]:
        """Rows read = rows exported + the sum of those left out; a row is a call here."""
        report = self._exchanges.report
        return {
            "rollouts_seen": report.data["counts"]["rollouts"],
            "rows_read": report.calls_seen,
            "rows_exported": self._written,
            "rows_written": self._written,
            "rows_with_tool_calls": self._calls,
            "left_out": {**report.skipped, **dict(sorted(self._unfit.items()))},
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        for exchange in self._exchanges:
            if self._row_mode == "rollout" and not exchange.last:
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


def _row(exchange: Exchange) -> dict[str, Any]:
    tools = fit_tools(load(exchange.tools))
    names = {tool["function"]["name"] for tool in tools}
    row = {
        "messages": fit_messages(load(exchange.messages), load(exchange.reply), names),
        "tool_defs": tools,
        "task_name": exchange.task_id,
        "agent": exchange.agent,
        "reward": exchange.reward,
        "model": load(exchange.model),
        "rollout_id": exchange.rollout_id or f"{exchange.file}:{exchange.record}",
        "source": "tito",
        "source_path": exchange.file,
        "exchange_index": exchange.record if exchange.turn is None else exchange.turn,
    }
    return {name: value for name, value in row.items() if value is not None}
