"""The client's side of a call: what it sends is read within bounds, and it is told of failures in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, Protocol

import aiohttp
from aiohttp import web

from tito.capture.record.errors import CallError, chat_error, refused, said

__all__ = ["Dialect", "OpenAI", "failure", "read_body"]


class Dialect(Protocol):
    """How a client speaks. Chat and completions go through as they are; other routes are translated to chat."""

    route: str

    def error(self, error: CallError) -> bytes:
        """The body of a failure."""

    def error_event(self, error: CallError) -> bytes:
        """A failure in a stream, in place of its end."""

    def reply(self, body: bytes) -> bytes:
        """A whole reply."""

    def events(self, text: bytes) -> bytes:
        """Whole events of a stream."""


@dataclass(slots=True)
class OpenAI:
    """Chat completions and completions: everything goes on as it came."""

    route: str

    def error(self, error: CallError) -> bytes:
        """See `Dialect`."""
        return chat_error(error)

    def error_event(self, error: CallError) -> bytes:
        """See `Dialect`."""
        return b"data: " + chat_error(error) + b"\n\n"

    def reply(self, body: bytes) -> bytes:
        """See `Dialect`."""
        return body

    def events(self, text: bytes) -> bytes:
        """See `Dialect`."""
        return text


def failure(error: CallError, dialect: Dialect) -> web.Response:
    """The reply to a client whose call has failed."""
    headers = {"x-tito-error": error.outcome}
    if not error.retry:
        headers["x-should-retry"] = "false"
    body = dialect.error(error)
    return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)


async def read_body(http: web.BaseRequest, limit: int) -> bytes:
    """The request's body, read up to a limit."""
    if (http.content_length or 0) > limit:
        _too_long(limit)
    if http.headers.get("Expect", "").lower() == "100-continue" and http.version >= (1, 1):
        # Who asks waits for it: curl a second with a body of more than 1 MB, others for ever.
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        http.writer.output_size = 0
    content = http.content
    parts: list[bytes] = []
    size = 0
    try:
        while not parts or not content.at_eof():
            parts.append(part := await content.readany())
            size += len(part)
            if size > limit:
                _too_long(limit)
    except (web.RequestPayloadError, aiohttp.ClientError, OSError) as error:
        raise CallError("client_closed", f"the request broke off: {said(error)}", status=400) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(limit: int) -> NoReturn:
    raise refused(f"the request has more than {limit:,} bytes", 413)
