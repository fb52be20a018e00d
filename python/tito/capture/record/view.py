"""What a recorder does, on a terminal: one small table that is drawn anew, and the last words."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tito.capture.record.stats import OUTCOMES

if TYPE_CHECKING:
    from rich.table import Table

    from tito.capture.record.app import Recorder

__all__ = ["farewell", "watch"]

_EVERY_SECONDS = 0.5


async def watch(recorder: Recorder) -> None:
    """Draws the table on stderr until it is cancelled."""
    from rich.console import Console
    from rich.live import Live

    before = (time.monotonic(), 0)
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while True:
            now = (time.monotonic(), recorder.stats.output_ids)
            rate = (now[1] - before[1]) / max(now[0] - before[0], 1e-9)
            before = now
            live.update(table(recorder, rate), refresh=True)
            await asyncio.sleep(_EVERY_SECONDS)


def table(recorder: Recorder, rate: float) -> Table:
    """The table, at a rate of so many sampled ids a second."""
    from rich.table import Table

    stats = recorder.stats
    drawn = Table(box=None, show_header=False, pad_edge=False)
    drawn.add_row("calls", f"{stats.calls:,} ended, {stats.open:,} open, {len(recorder.sessions):,} sessions")
    drawn.add_row("ids", f"{stats.output_ids:,} sampled ({rate:,.0f} a second), {stats.prompt_ids:,} of prompts")
    for outcome, count in stats.by_outcome().most_common():
        drawn.add_row(outcome, f"{count:,} {OUTCOMES[outcome]}")
    if stats.last_failure:
        drawn.add_row("last failure", stats.last_failure[:200])
    return drawn


def farewell(recorder: Recorder) -> str:
    """What was recorded, in a few lines.

    The outcomes of a call are a closed list, and their numbers add up to the calls.
    """
    stats = recorder.stats
    counted = ", ".join(f"{outcome} {count:,}" for outcome, count in stats.by_outcome().most_common())
    lines = [f"calls     {stats.calls:,}" + (f" ({counted})" if counted else "")]
    lines.append(f"ids       {stats.output_ids:,} sampled, {stats.prompt_ids:,} of prompts")
    if stats.marks:
        marks = ", ".join(f"{mark} {count:,}" for mark, count in stats.marks.most_common())
        lines.append(f"marks     {marks}")
    lines.append(f"log       {recorder.options.out}")
    return "\n".join(lines) + "\n"
