"""The core at work in a thread of its own, so that the calling one stays free to see Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from tito._core import Progress

__all__ = ["watched"]

_Done = TypeVar("_Done")
# Often enough for a bar that moves, seldom enough to cost nothing.
_WATCH_SECONDS = 0.1


def watched(work: Callable[[Progress], _Done], watch: Callable[[Progress], None] | None) -> _Done:
    """What `work` gives. `watch` is called about ten times a second from the calling thread; what it raises, and
    Ctrl-C, stop the work and come through. A Ctrl-C that comes when the work is done changes nothing.

    >>> watched(lambda progress: f"{progress.rows} rows", None)
    '0 rows'
    """
    progress = Progress()
    done: list[_Done] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work(progress))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="tito-core", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_WATCH_SECONDS)
            if watch is not None:
                watch(progress)
    except BaseException as stop:
        progress.cancel()
        thread.join()
        # Too late for Ctrl-C: the files stand, so say so by going on. What the watch raised is never lost.
        if not (done and isinstance(stop, KeyboardInterrupt)):
            raise
    if failures:
        raise failures[0]
    return done[0]
