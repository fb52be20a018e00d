"""Connections to the engine, where aiohttp trusts it more than a recorder may.

What comes on a connection that nobody reads from would be taken for the reply to the next call; and whoever reads a
body whose chunks turn out to be none would wait for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import aiohttp

__all__ = ["Connector", "read", "read_end", "watch"]

_LOOK_SECONDS = 0.5
# An engine ends a body right after its last event.
_END_SECONDS = 1.0


class Connector(aiohttp.TCPConnector):
    """Gives no connection out again on which something came behind a reply."""

    async def _get(self, *which: Any) -> Any:
        while (connection := await super()._get(*which)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


async def read(reading: Awaitable[bytes]) -> bytes:
    """What is read of a body; aiohttp's word for a connection that it has closed is an error of its kind here."""
    try:
        return await reading
    except RuntimeError as error:
        raise aiohttp.ClientPayloadError(str(error)) from None


async def read_end(upstream: aiohttp.ClientResponse) -> None:
    """Takes the end of a body whose last event has come, and gives the connection back."""
    try:
        with suppress(aiohttp.ClientError, OSError):
            async with asyncio.timeout(_END_SECONDS):
                while await read(upstream.content.readany()):
                    pass
    finally:
        upstream.release()


async def watch(reads: set[aiohttp.ClientResponse]) -> None:
    """Ends the reading of bodies whose connection is closed and which were told neither of an end nor of an error."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for upstream in list(reads):
            connection, body = upstream.connection, upstream.content
            if connection is None or body.is_eof() or body.exception() is not None:
                continue
            if connection.protocol is None or not connection.protocol.is_connected():
                body.set_exception(aiohttp.ClientPayloadError("the body is no HTTP: the connection was closed"))
