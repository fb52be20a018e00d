"""The log as the event loop sees it: a line is appended, and awaited until the disk (or the system) has it.

Short lines that need no sync may be written where they are appended. For all others the core's thread writes what waits
in one go and wakes the loop through a socket, so that no Python thread contends for the interpreter.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tito._core import CallLog
from tito.errors import WorldError, with_hint
from tito.paths import utf8_path

__all__ = ["VERSION", "Log", "NotWrittenError", "line", "longer", "when_settled"]

VERSION = 1
"""Of the log's format; the reader refuses others."""

# After a write failed, one call in this many seconds tries again; the others are refused before the engine works.
_RETRY_SECONDS = 1.0


class NotWrittenError(Exception):
    """The log could not take a record; the text says what the system said."""


def when_settled(written: asyncio.Future[None], then: Callable[[str | None], None]) -> None:
    """Tells why a record is not in the log, None where it is: now, or as the first thing when it is known."""

    def tell(written: asyncio.Future[None]) -> None:
        if written.cancelled():
            then("the log was closed")
        else:
            failed = written.exception()
            then(None if failed is None else str(failed))

    if written.done():
        tell(written)
    else:
        written.add_done_callback(tell)


class Log:
    """See the module. One recorder writes to a folder at a time."""

    def __init__(self, folder: Path, segment_bytes: int, *, fsync: bool, opening: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.earlier = any(folder.glob("calls-*.jsonl*"))
        """Whether another run has written here."""
        self._lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            hint = "give each recorder a folder of its own"
            raise with_hint(WorldError(f"{folder}: another recorder writes here"), hint) from None
        try:
            self._core = CallLog(utf8_path(folder), segment_bytes, fsync, _opening(opening))
        except BaseException:
            os.close(self._lock)
            raise
        self.torn: int = self._core.torn
        """Bytes of torn lines that were cut off at the start."""
        self.broken: str | None = None
        """What the system said when a record could not be written; None again after one that could."""
        self._broken_at = 0.0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._core.fd, self._settle)

    @property
    def written(self) -> tuple[int, int]:
        """Segments begun, and bytes of records written to them."""
        segments, written = self._core.written
        return segments, written

    def refuses(self) -> str | None:
        """Why a call should not even be started, if so."""
        if self.broken is None or time.monotonic() - self._broken_at > _RETRY_SECONDS:
            self._broken_at = time.monotonic()
            return None
        return self.broken

    def append(
        self, line: str, request: bytes | None = None, response: bytes | None = None, *, here: bool = True
    ) -> asyncio.Future[None]:
        """Hands a record over (see `line`), with the texts of a request and its response as members; the future is
        done when it is written, which with `here` may be now, or raises `NotWrittenError`.
        """
        number, settled = self._core.append(line.encode(), request, response, here)
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[number] = future
        if settled:
            self._look()
        return future

    def set_opening(self, opening: dict[str, Any]) -> None:
        """What the next segment begins with."""
        self._core.set_opening(_opening(opening))

    def close(self) -> None:
        """Writes what waits, closes and packs the segment. Every record is settled then, however slow the disk."""
        fd = self._core.fd
        self._loop.remove_reader(fd)
        self._core.close()
        self._settle()
        for future in self._waiting.values():
            if not future.done():
                future.cancel()
        os.close(fd)
        os.close(self._lock)

    def _settle(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._core.fd, 4096)
        self._look()

    def _look(self) -> None:
        """Tells whoever waits what became of the records."""
        upto, failed = self._core.settled()
        for first, last, why in failed:
            if last == upto:
                self.broken, self._broken_at = why, time.monotonic()
            for number in range(first, last + 1):
                if (future := self._waiting.pop(number, None)) and not future.done():
                    future.set_exception(NotWrittenError(why))
        # Numbers grow, and so does the order in which they stand here.
        while self._waiting and (number := next(iter(self._waiting))) <= upto:
            future = self._waiting.pop(number)
            if number == upto:
                self.broken = None
            if not future.done():
                future.set_result(None)


def line(kind: str, head: dict[str, Any]) -> str:
    """A record, without what is None.

    >>> line("mark", {"call_id": "c", "kind": None})
    '{"tito_log": 1, "type": "mark", "call_id": "c"}'
    """
    return json.dumps({"tito_log": VERSION, "type": kind, **_known(head)})


def longer(line: str, more: dict[str, Any]) -> str:
    """A record with more members, without those that are None.

    >>> longer('{"type": "call"}', {"text_only": True, "error": None})
    '{"type": "call", "text_only": true}'
    """
    return f"{line[:-1]}, {json.dumps(known)[1:]}" if (known := _known(more)) else line


def _known(head: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in head.items() if value is not None}


def _opening(identity: dict[str, Any]) -> bytes:
    return line("identity", identity).encode() + b"\n"
