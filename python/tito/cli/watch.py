"""A run and its report on the screen: the bar (on a terminal only), then what the run did, then warnings and notes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tito.report import Report

__all__ = ["bar", "tell"]


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    """Gives what `tito.convert` takes as `progress`: a bar on stderr, None where nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = BarColumn(), DownloadColumn(), TextColumn("{task.fields[calls]:,} calls"), TimeRemainingColumn()
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None, calls=0)

        def watch(progress: Any) -> None:
            bars.update(task, completed=progress.bytes, total=progress.total or None, calls=progress.calls)

        yield watch


def tell(report: Report, *, quiet: bool, as_json: bool) -> None:
    """Report, warnings and notes to stderr; with `as_json` all as one JSON object to stdout, in place of the text."""
    warnings, notes = report.warnings(), report.notes()
    if as_json:
        print(json.dumps({**report.data, "warnings": warnings, "notes": notes}, indent=2, ensure_ascii=False))
    elif not quiet:
        sys.stderr.write(report.text())
    if not as_json:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        for note in () if quiet else notes:
            print(f"note: {note}", file=sys.stderr)
