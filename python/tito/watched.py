"""The core at work in a thread of its own, so that the calling one stays free to see Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from tito._core import Progress

__all__ = ["watched"]

# Often enough for a bar that moves, seldom enough to cost nothing.
_WATCH_SECONDS = 0.1
# For work that was stopped to put its files away; who waits for a silent pipe never sees that it was.
_STOP_SECONDS = 10

_Done = TypeVar("_Done")


def watched(work: Callable[[Progress], _Done], watch: Callable[[Progress], None] | None) -> _Done:
    """What `work` gives. `watch` is called about ten times a second from the calling thread; what it raises, and
    Ctrl-C, stop the work and come through. A Ctrl-C that comes when the work is done changes nothing.

    >>> watched(lambda progress: f"{progress.rows} rows", None)
    '0 rows'
    """
    progress = Progress()
    done: list[_Done] = []
    failures: list[BaseException] = []
    # Not `join`: a signal that comes during one makes Python 3.11 take the thread for ended.
    ended = threading.Event()

    def run() -> None:
        try:
            done.append(work(progress))
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="tito-core", daemon=True).start()
    try:
        while not ended.wait(_WATCH_SECONDS):
            if watch is not None:
                watch(progress)
        if watch is not None:
            watch(progress)
    except BaseException as stop:
        progress.cancel()
        ended.wait(_STOP_SECONDS)
        # Too late for Ctrl-C: the files stand, so say so by going on. What the watch raised is never lost.
        if not (done and isinstance(stop, KeyboardInterrupt)):
            raise
    if failures:
        raise failures[0]
    return done[0]
