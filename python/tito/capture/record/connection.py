"""Connections to the engine, where aiohttp trusts it more than a recorder may.

What comes on a connection that nobody reads from would be taken for the reply to the next call; and whoever reads a
body whose chunks turn out to be none would wait for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import aiohttp
from aiohttp import web
from yarl import URL

from tito.capture.record.errors import CallError

__all__ = ["Connections", "address", "read"]

# Servers close an idle connection after 5 s or more, and one that is closed under a request fails the call.
_KEPT_SECONDS = 4.0
_LOOK_SECONDS = 0.5
# An engine ends a body right after its last event.
_END_SECONDS = 1.0
# So many connections may be waiting for the end of a body.
_ENDS = 64


class Connections:
    """The connections to one engine, on one event loop. `idle_seconds`: the longest silence within a reply."""

    def __init__(self, idle_seconds: float | None) -> None:
        self.http = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=_KEPT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=idle_seconds),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=True,
        )
        self._reads: set[aiohttp.ClientResponse] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._closed = False
        self._watch = asyncio.ensure_future(self._watch_reads())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes them all."""
        # Calls that the server has told to end may still give theirs back.
        self._closed = True
        # A connection that is waited for would outlive the session it belongs to.
        tasks = [self._watch, *self._ends]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.http.close()

    @contextmanager
    def reading(self, upstream: aiohttp.ClientResponse) -> Iterator[None]:
        """While a reply is read: whoever waits for a body that is no HTTP is told. `CallError` for what is no reply."""
        if upstream.status < 200:
            raise CallError("upstream_error", f"the engine answered {upstream.status}, which is no reply")
        self._reads.add(upstream)
        try:
            yield
        finally:
            self._reads.discard(upstream)

    def give_back(self, upstream: aiohttp.ClientResponse, *, ends: bool) -> None:
        """Gives a connection back. One whose body has not ended is closed; with `ends`, when the last event has come,
        the end is waited for before, by nobody else.
        """
        if not ends or self._closed or upstream.content.at_eof() or len(self._ends) >= _ENDS:
            upstream.release()
            return

        def ended(task: asyncio.Task[None]) -> None:
            self._ends.discard(task)
            # Here, for a task that is cancelled before it begins.
            upstream.release()

        self._ends.add(task := asyncio.ensure_future(_read_end(upstream)))
        task.add_done_callback(ended)

    async def _watch_reads(self) -> None:
        """Ends the reading of bodies whose connection is closed and which were told of no end and no error."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for upstream in list(self._reads):
                connection, body = upstream.connection, upstream.content
                if connection is None or body.is_eof() or body.exception() is not None:
                    continue
                if connection.protocol is None or not connection.protocol.is_connected():
                    body.set_exception(aiohttp.ClientPayloadError("the body is no HTTP: the connection was closed"))


def address(base: str, http: web.BaseRequest) -> URL:
    """An address of the engine's, with the query of a client's request as it came."""
    query = http.rel_url.raw_query_string
    return URL(f"{URL(base)}?{query}", encoded=True) if query else URL(base)


async def read(reading: Awaitable[bytes]) -> bytes:
    """What is read of a body; aiohttp's word for a connection that it has closed is an error of its kind here."""
    try:
        return await reading
    except RuntimeError as error:
        raise aiohttp.ClientPayloadError(str(error)) from None


class _Connector(aiohttp.TCPConnector):
    """Gives no connection out again on which something came behind a reply."""

    async def _get(self, *which: Any) -> Any:
        while (connection := await super()._get(*which)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


async def _read_end(upstream: aiohttp.ClientResponse) -> None:
    """Takes the end of a body whose last event has come."""
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_END_SECONDS):
            while await read(upstream.content.readany()):
                pass
