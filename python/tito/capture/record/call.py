"""One call on its way: the request with the switches put in, the reply passed on, the record written.

What ends the reply for the client is sent when the record is on disk, never before: whoever saw a whole reply finds it
in the log. A call that could not be captured exactly ends in an error, not in a reply.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tito._core import EventStream, Reply, Request, amend_request, strip_reply
from tito.capture.record.client import Dialect, OpenAI
from tito.capture.record.connection import address, read
from tito.capture.record.engine import overflows
from tito.capture.record.errors import CallError, refused, said
from tito.capture.record.log import NotWrittenError, line, longer, when_settled
from tito.capture.record.replies import Replied, kept_text
from tito.capture.record.session import Placed
from tito.errors import DataError

if TYPE_CHECKING:
    from tito.capture.record.app import Recorder
    from tito.capture.record.tags import Tags

__all__ = ["Exchange", "check", "sent_headers"]

_PARTIAL = 1 << 20
# Of one connection, or changed on the way.
_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "host", "content-length", "accept-encoding", "content-encoding", "expect"}
)


def sent_headers(headers: CIMultiDict[str] | Any, key: str | None, own: dict[str, str]) -> CIMultiDict[str]:
    """A client's headers as they go on to the engine: without those of the connection and without tags.

    `key` None sends the client's own key on; a text replaces it (an empty one by none). `own` wins over both.
    """
    left_out = _HOP if key is None else _HOP | {"authorization", "x-api-key"}
    sent: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        lower = name.lower()
        if lower not in left_out and not lower.startswith("x-tito-"):
            sent.add(name, value)
    if key:
        sent["Authorization"] = f"Bearer {key}"
    sent.update(own)
    sent["Accept-Encoding"] = "identity"
    return sent


class _GoneError(Exception):
    """The client went away."""


class Exchange:
    """One call, from its request to its record."""

    def __init__(
        self, recorder: Recorder, http: web.BaseRequest, dialect: Dialect, body: bytes, tags: Tags, key: str | None
    ) -> None:
        self.recorder = recorder
        self.http = http
        self.dialect = dialect
        self.key = key
        self.started = time.time()
        try:
            self.request = Request(body)
        except DataError as error:
            raise refused(str(error)) from None
        self._placed: Placed | None = None
        self._head: str | None = None
        text_only = recorder.options.text_only
        stream = self.request.stream
        switches = [] if text_only else recorder.engine.switches(_engine_route(dialect.route), stream=stream)
        self.sent = amend_request(body, switches, stream) if switches or stream else body
        self.streamed = False
        self.said_all = False
        self.number = recorder.next_number()
        recorder.late.leave(partial(self._place, tags, body))
        self.response: web.StreamResponse | None = None
        self.outcome: str | None = None
        self.appended = False

    def _place(self, tags: Tags, body: bytes) -> None:
        self._placed = self.recorder.sessions.place(tags, self.request, body)
        self.recorder.mark(self._placed.marks)
        self.recorder.late.leave(self._begin_record)

    @property
    def placed(self) -> Placed:
        """Where the call belongs."""
        while self._placed is None:
            if not self.recorder.late.next():
                raise RuntimeError("where the call belongs could not be told")
        return self._placed

    def _begin_record(self) -> str:
        """The record, as far as it goes before the reply."""
        if self._head is None:
            placed = self.placed
            head = {
                **placed.tags.record(),
                "kind": placed.tags.kind,
                "session_guessed": placed.guessed_session or None,
                "kind_guessed": placed.guessed_kind or None,
                "number": self.number,
                "route": self.dialect.route,
                "started": self.started,
            }
            self._head = line("call", head)
        return self._head

    async def run(self, path: str) -> web.StreamResponse:
        """Sends the request on and brings the reply back; raises `CallError` where no reply has begun."""
        options, connections = self.recorder.options, self.recorder.connections
        headers = sent_headers(self.http.headers, self.key, options.headers)
        headers["Content-Type"] = "application/json"
        url = address(options.upstream.api + path, self.http)
        try:
            upstream = await connections.http.post(url, data=self.sent, headers=headers, allow_redirects=False)
            try:
                with connections.reading(upstream):
                    if upstream.status == 200 and upstream.content_type == "text/event-stream":
                        return await self._stream(upstream)
                    body = await read(upstream.read())
                    if upstream.status != 200:
                        return await self._refused(upstream, body)
                    return await self._whole(upstream, body)
            finally:
                connections.give_back(upstream, ends=self.said_all)
        except CallError as error:
            raise self.fail(error) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.fail(CallError("upstream_error", said(error))) from None

    async def _whole(self, upstream: aiohttp.ClientResponse, body: bytes) -> web.StreamResponse:
        hide = not self.request.wants_ids and not self.recorder.options.text_only
        try:
            reply, text_only = self._accept(body, None)
            # What cannot be told to the client is no reply that it got.
            passed = self.dialect.reply(strip_reply(body) if hide else body)
            await self._record(body, reply, text_only=text_only)
        except CallError as error:
            raise self.fail(error, body) from None
        return web.Response(status=200, body=passed, headers=self._headers(upstream))

    async def _refused(self, upstream: aiohttp.ClientResponse, body: bytes) -> web.StreamResponse:
        overflow = overflows(upstream.status, body)
        outcome = "context_overflow" if overflow else "upstream_status"
        said = body[:2000].decode("utf-8", "replace")
        error = CallError(outcome, f"the engine answered {upstream.status}: {said}", status=upstream.status)
        await self._write(outcome, error=error, why=None if overflow else str(error))
        headers = self._headers(upstream)
        headers["x-tito-error"] = outcome
        passed = body if isinstance(self.dialect, OpenAI) else self.dialect.error(error)
        return web.Response(status=upstream.status, body=passed, headers=headers)

    async def _stream(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        self.streamed = True
        hide = not self.request.wants_ids and not self.recorder.options.text_only
        events = EventStream(self.request.choices, hide, not self.request.wants_usage)
        self.response = web.StreamResponse(status=200, headers=self._headers(upstream))
        try:
            try:
                await self._send(None)
                while chunk := await read(upstream.content.readany()):
                    if out := self.dialect.events(events.feed(chunk)):
                        await self._send(out)
                    if events.over:
                        self.said_all = events.done
                        break
                body = events.reply()
                reply, text_only = self._accept(body, events)
                last = self.dialect.events(events.held)
                await self._record(body, reply, text_only=text_only, chunks=events.chunks)
            except CallError as error:
                await self._break(self.fail(error, events.reply()))
            except (aiohttp.ClientError, TimeoutError) as error:
                await self._break(self.fail(CallError("upstream_error", said(error)), events.reply()))
            else:
                await self._send(last, last=True)
        except _GoneError:
            self.fail(_sent_error(events) or self.recorder.gone(), events.reply())
        except asyncio.CancelledError:
            # A client that the engine told of an error has reason to go.
            self.fail(_sent_error(events) or self.recorder.gone(), events.reply())
            raise
        return self.response

    async def _break(self, error: CallError) -> None:
        """Ends a stream in an error."""
        await self._send(self.dialect.error_event(error), last=True)

    async def _send(self, text: bytes | None, *, last: bool = False) -> None:
        """Sends a part of a stream, or with None its head; `_GoneError` where nobody takes it."""
        response = self.response
        assert response is not None
        try:
            if text is None:
                await response.prepare(self.http)
            elif last:
                # The last events and the end of the body in one packet.
                await response.write_eof(text)
            else:
                await response.write(text)
        except (ConnectionError, aiohttp.ClientError):
            raise _GoneError from None

    def _accept(self, body: bytes, events: EventStream | None) -> tuple[Reply | None, bool]:
        """A reply that may go on, and whether its ids are not to be used; no reply is one that is not recorded.

        `CallError` for one that may not go on.
        """
        options = self.recorder.options
        try:
            return self._judge(body, events), options.text_only
        except CallError as error:
            if error.outcome not in ("missing_ids", "mismatch") or options.on_missing == "fail":
                raise
            return (None, False) if options.on_missing == "pass" else (Reply(body), True)

    async def _record(self, body: bytes, reply: Reply | None, *, text_only: bool, chunks: int | None = None) -> None:
        """Writes a reply that was accepted."""
        if reply is None:
            self._end("passed")
        else:
            await self._write("text_only" if text_only else "recorded", body, reply=reply, chunks=chunks)

    def _judge(self, body: bytes, events: EventStream | None) -> Reply:
        if events is not None:
            if (sent := _sent_error(events)) is not None:
                raise sent
            if events.fault is not None:
                raise CallError("broken_stream", events.fault)
            if not events.done:
                raise CallError("upstream_error", "the stream ended without [DONE]")
            if not events.finished:
                raise CallError("broken_stream", "the stream ended before every choice had a finish reason")
        try:
            reply = Reply(body)
        except DataError as error:
            raise CallError("broken_stream", str(error)) from None
        if reply.failed:
            words = body[:2000].decode("utf-8", "replace")
            raise CallError("upstream_error", f"the engine reports a failure: {words}")
        if not self.recorder.options.text_only:
            check(reply, self.request.choices)
        return reply

    def _remember(self, reply: Reply) -> None:
        placed = self.placed
        choices = reply.choices
        self.recorder.sessions.replied(
            placed,
            Replied(
                call_id=reply.id,
                tags=placed.tags,
                hashes=tuple(choice[4] for choice in choices),
                kind=placed.tags.kind or "solver",
                guessed=placed.guessed_kind,
                offered=self.request.tools,
                called=any(choice[5] for choice in choices),
                text=kept_text(choices[0][6]),
            ),
        )

    async def _write(
        self,
        outcome: str,
        response: bytes | None = None,
        *,
        reply: Reply | None = None,
        error: CallError | None = None,
        why: str | None = None,
        chunks: int | None = None,
    ) -> None:
        """Writes a record and waits for it. When it is on disk the call has ended in `outcome`, whoever waits still."""

        def settled(failed: str | None) -> None:
            if failed is not None:
                self._end("not_written", failed)
                return
            self._end(outcome, why)
            if reply is not None:
                self.recorder.late.leave(partial(self._remember, reply))
            if reply is not None and outcome == "recorded":
                stats = self.recorder.stats
                stats.prompt_ids += reply.choices[0][0] or 0
                stats.output_ids += reply.output_ids

        before = time.monotonic()
        future = self._append(response, error=error, text_only=outcome == "text_only", chunks=chunks)
        self.appended = True
        # Before the shield's own: a call is counted and known before its client can see the end of it.
        when_settled(future, settled)
        try:
            # Shielded: a client that goes away now finds its record in the log all the same.
            await asyncio.shield(future)
        except NotWrittenError as failed:
            raise CallError("not_written", f"the record could not be written: {failed}", status=503) from None
        stats = self.recorder.stats
        stats.write_seconds += time.monotonic() - before
        stats.writes += 1

    def _append(
        self,
        response: bytes | None,
        *,
        error: CallError | None,
        text_only: bool = False,
        chunks: int | None = None,
        came: bytes | None = None,
    ) -> asyncio.Future[None]:
        # By hand: `json.dumps` of these takes 20 µs of a call whose client waits.
        streamed, counted = "true" if self.streamed else "false", "" if chunks is None else f', "chunks": {chunks}'
        record = f'{self._begin_record()[:-1]}, "ended": {time.time()}, "streamed": {streamed}{counted}}}'
        more = {
            "text_only": text_only or None,
            "error": None if error is None else {"type": error.outcome, "message": str(error), "status": error.status},
            # As text: what came of a reply that failed is for people to look at, not for `tito convert` to use.
            "partial": None if came is None else came[:_PARTIAL].decode("utf-8", "replace"),
        }
        # Written here, it would hold up the other streams: their first bytes take 0.16 ms longer at the median.
        return self.recorder.log.append(longer(record, more), self.sent, response, here=not self.streamed)

    def fail(self, error: CallError, came: bytes | None = None) -> CallError:
        """Counts a failure and records it, with what had come of the reply; nobody waits for that record.

        A call that has ended, or whose record is on its way to the disk, ends as it does.
        """
        if self.outcome is not None or self.appended:
            return error
        self._end(error.outcome, str(error))
        # Whether a failure could be recorded is told by the log's next record.
        when_settled(self._append(None, error=error, came=came), lambda _: None)
        return error

    def _end(self, outcome: str, why: str | None = None) -> None:
        self.outcome = outcome
        self.recorder.stats.end(self.dialect.route, outcome, why)

    def _headers(self, upstream: aiohttp.ClientResponse) -> CIMultiDict[str]:
        headers = CIMultiDict((k, v) for k, v in upstream.headers.items() if k.lower() not in _HOP)
        placed = self.placed
        headers["x-tito-session"] = placed.session.name.encode("ascii", "backslashreplace").decode()
        headers["x-tito-call"] = str(self.number)
        return headers


def check(reply: Reply, expected: int) -> None:
    """Whether the ids of a reply can be used; `CallError` says why not."""
    if len(reply.choices) != expected:
        raise CallError("mismatch", f"{len(reply.choices)} choices came, {expected} were asked for")
    for at, (prompt, output, bad, failed, *_) in enumerate(reply.choices):
        which = f"choice {at}: " if expected > 1 else ""
        if bad is not None:
            raise CallError("mismatch", which + bad)
        if failed:
            raise CallError("upstream_error", f"{which}the engine reports a failure in its finish reason")
        if not prompt or output is None:
            what = "output" if prompt else "prompt"
            hint = "the engine must know `return_token_ids` (vLLM 0.10.2 or later); see `tito record --preflight`"
            raise CallError("missing_ids", f"{which}the reply has no {what} ids: {hint}", retry=False)
    if not reply.usage:
        raise CallError("mismatch", "the reply has no usage, so its ids cannot be counted")


def _sent_error(events: EventStream) -> CallError | None:
    """The error that an engine sent in a stream."""
    if (error := events.error) is None:
        return None
    return CallError("upstream_error", f"the engine sent an error: {error[:2000].decode('utf-8', 'replace')}")


def _engine_route(route: str) -> str:
    return "completions" if route == "completions" else "chat"
