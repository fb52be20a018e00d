"""What a recorder counted, for its metrics, its view and its last words."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["FAILURES", "OUTCOMES", "Stats"]

OUTCOMES = {
    "recorded": "recorded exactly",
    "text_only": "recorded as text, without ids",
    "passed": "passed on without a record, because ids were missing",
    "context_overflow": "longer than the model's context",
    "upstream_status": "refused by the engine",
    "upstream_error": "the engine failed or went away",
    "missing_ids": "the engine gave no ids",
    "mismatch": "the ids are not what the engine counted",
    "broken_stream": "the stream could not be read",
    "client_closed": "the client went away",
    "stopped": "on their way when the recorder was stopped",
    "not_written": "the log could not take the record",
    "refused": "no request that can be recorded",
    "internal_error": "a fault of the recorder itself",
}
"""How a call can end, and what that means; each call ends in one way."""

FAILURES = frozenset(OUTCOMES) - {"recorded", "text_only", "passed", "context_overflow"}


@dataclass(slots=True)
class Stats:
    """See the module. Everything only grows, but `open`."""

    started: float = field(default_factory=time.time)
    open: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By route and outcome."""
    prompt_ids: int = 0
    output_ids: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    write_seconds: float = 0.0
    writes: int = 0
    last_failure: str | None = None

    def end(self, route: str, outcome: str, why: str | None = None) -> None:
        """Counts a call that ended."""
        self.outcomes[route, outcome] += 1
        if why is not None:
            self.last_failure = f"{outcome}: {why}"

    @property
    def calls(self) -> int:
        """Calls that ended."""
        return sum(self.outcomes.values())

    def by_outcome(self) -> Counter[str]:
        """Calls that ended, by how."""
        counted: Counter[str] = Counter()
        for (_, outcome), count in self.outcomes.items():
            counted[outcome] += count
        return counted

    @property
    def failures(self) -> int:
        """Calls whose client was told of a failure (or was gone)."""
        return sum(count for outcome, count in self.by_outcome().items() if outcome in FAILURES)

    def prometheus(self, *, sessions: int, segments: int, written: int, broken: bool) -> str:
        """The counters in Prometheus' text format."""
        lines: list[str] = []

        def metric(name: str, kind: str, about: str, *values: tuple[str, float]) -> None:
            lines.extend([f"# HELP tito_record_{name} {about}", f"# TYPE tito_record_{name} {kind}"])
            lines.extend(f"tito_record_{name}{labels} {value}" for labels, value in values)

        by_route = [(f'{{route="{r}",outcome="{o}"}}', float(n)) for (r, o), n in sorted(self.outcomes.items())]
        metric("calls_total", "counter", "Calls that ended, by how.", *by_route)
        metric("open_calls", "gauge", "Calls on their way.", ("", self.open))
        metric("sessions", "gauge", "Sessions that are known.", ("", sessions))
        metric("prompt_ids_total", "counter", "Ids of recorded prompts, the first of a call.", ("", self.prompt_ids))
        metric("output_ids_total", "counter", "Ids of recorded outputs.", ("", self.output_ids))
        marks = [(f'{{mark="{mark}"}}', float(count)) for mark, count in sorted(self.marks.items())]
        metric("marks_total", "counter", "Replies that later prompts told of.", *marks)
        metric("written_bytes_total", "counter", "Bytes of records.", ("", written))
        metric("segments_total", "counter", "Segments of the log begun.", ("", segments))
        metric("write_seconds_total", "counter", "Time that calls waited for their records.", ("", self.write_seconds))
        metric("writes_total", "counter", "Records that calls waited for.", ("", self.writes))
        metric("log_broken", "gauge", "1 while the log cannot be written.", ("", int(broken)))
        return "\n".join(lines) + "\n"
