"""The recorder: an HTTP server between harnesses and an engine.

Routes that generate are recorded, translated to one that can be, or refused: nothing that samples passes unrecorded.
Everything else goes on as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import aiohttp
from aiohttp import web

from tito._core import __version__
from tito.capture.record.call import Exchange, sent_headers
from tito.capture.record.client import Dialect, OpenAI, failure, read_body
from tito.capture.record.connection import Connections, address, read
from tito.capture.record.engine import Engine, find_engine
from tito.capture.record.errors import CallError, client_gone, refused, said
from tito.capture.record.late import Late
from tito.capture.record.log import Log, line, when_settled
from tito.capture.record.options import Options
from tito.capture.record.replies import Mark
from tito.capture.record.rollout import Rollouts
from tito.capture.record.session import Rollout, Sessions
from tito.capture.record.stats import Stats
from tito.capture.record.tags import read_tags, split_path
from tito.capture.record.translate import Messages, Responses, Translated
from tito.errors import UsageError

__all__ = ["Recorder"]

_API = {"/chat/completions": "chat", "/completions": "completions", "/responses": "responses", "/messages": "messages"}
# An engine that cannot be reached is looked for so often, when there is a call for it.
_LOOK_SECONDS = 1.0
# What asks an engine to sample nothing.
_SILENT = ("/tokenize", "/detokenize", "/embeddings", "/rerank", "/score", "/pooling", "/classify", "/count_tokens")
_SILENT_ADMIN = ("/load_lora_adapter", "/unload_lora_adapter", "/render")
# The server waits half of it for calls to end, and half of it again when it has told them to.
_OPEN_SECONDS = 5.0


class Recorder:
    """One engine, one log, one address. `start` and `stop` run on the event loop that serves.

    An example::

        recorder = Recorder(Options(upstream=Upstream.parse("http://127.0.0.1:8000"), out=Path("log")))
        url = await recorder.start()
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.stats = Stats()
        self.sessions = Sessions(self._opened)
        self.rollouts = Rollouts(self)
        self.late = Late()
        self.engine = Engine("other")
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._disagrees: str | None = None
        self.log: Log
        self.connections: Connections
        self._runner: web.ServerRunner | None = None
        self._slots = asyncio.Semaphore(options.open_calls)
        self._number = 0
        self._stopping = False

    async def start(self) -> str:
        """Looks at the engine, opens the log and serves; gives the base URL for clients, which ends in `/v1`.

        `WorldError` where the folder or the port cannot be had.
        """
        options = self.options
        self.connections = Connections(options.idle_seconds)
        try:
            self.engine = await find_engine(self.connections.http, options)
            fsync = options.durability == "fsync"
            self.log = Log(options.out, options.segment_bytes, fsync=fsync, opening=self._identity())
            try:
                server = web.Server(self._serve, handler_cancellation=True, access_log=None)
                runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=_OPEN_SECONDS / 2)
                await runner.setup()
                self._runner = runner
                site = web.TCPSite(runner, options.host, options.port, backlog=2048)
                await site.start()
            except BaseException:
                self.log.close()
                raise
        except BaseException:
            if self._runner is not None:
                await self._runner.cleanup()
            await self.connections.close()
            raise
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}/v1"

    async def stop(self) -> None:
        """Lets open calls end (five seconds), and closes the log."""
        self._stopping = True
        if self._runner is not None:
            await self._runner.cleanup()
        await self.rollouts.close()
        await self.connections.close()
        self.late.catch_up()
        self.log.close()
        # Calls whose clients left are counted when their records are settled: in the loop's next round.
        await asyncio.sleep(0)

    def next_number(self) -> int:
        """The number of a call, from 1."""
        self._number += 1
        return self._number

    def gone(self) -> CallError:
        """Why a call that nobody waits for any more has ended."""
        return CallError("stopped", "the recorder was stopped") if self._stopping else client_gone()

    def mark(self, marks: Iterable[Mark]) -> None:
        """Writes down what a prompt tells of earlier replies; nobody waits for it."""
        for mark in marks:
            reply = mark.reply
            if reply.call_id is None:
                self._marked(mark, None)
                continue
            head = {**reply.tags.record(), "call_id": reply.call_id, "mark": mark.mark, "kind": mark.kind}
            when_settled(self.log.append(line("mark", head)), partial(self._marked, mark))

    def _marked(self, mark: Mark, failed: str | None) -> None:
        if failed is None:
            self.stats.marks[mark.kind or mark.mark] += 1
        else:
            mark.withdraw()

    def _opened(self, rollout: Rollout) -> None:
        def settled(failed: str | None) -> None:
            rollout.told = failed is None

        when_settled(self.log.append(line("begin", rollout.tags.record())), settled)

    def _identity(self) -> dict[str, Any]:
        return {
            "recorder": f"tito {__version__}",
            "upstream": self.options.upstream.shown,
            "started": time.time(),
            **self.engine.identity(),
        }

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        prefix, path = split_path(http.rel_url.raw_path)
        # Clients of Anthropic put /v1 behind their base URL, OpenAI's want it in there: both may be given the same one.
        if path.startswith("/v1/v1/"):
            path = path.removeprefix("/v1")
        if path in ("/healthz", "/metrics") and http.method == "GET":
            return self._health() if path == "/healthz" else self._metrics()
        if prefix is not None and path in ("/begin", "/end") and http.method == "POST":
            return await self.rollouts.serve(http, prefix, path)
        api = path.removeprefix("/v1")
        if http.method == "POST" and (route := _API.get(api)):
            self.stats.open += 1
            try:
                return await self._call(http, route, api, prefix)
            finally:
                self.stats.open -= 1
        if http.method in ("GET", "HEAD", "OPTIONS") or path.endswith(_SILENT + _SILENT_ADMIN):
            return await self._pass(http, path)
        message = f"{http.method} {path} is not recorded, and what is not recorded is not passed on"
        return failure(refused(message, 501), OpenAI("chat"))

    async def _call(self, http: web.BaseRequest, route: str, api: str, prefix: str | None) -> web.StreamResponse:
        """A call, which ends in one outcome whatever happens to it."""
        dialect: Dialect = OpenAI(route)
        if route in ("responses", "messages"):
            dialect = Responses() if route == "responses" else Messages()
        exchange: Exchange | None = None

        def end(error: CallError) -> None:
            if exchange is None:
                self.stats.end(route, error.outcome, str(error))
            else:
                exchange.fail(error)

        try:
            # Behind the most calls that may be open, requests wait unread: their senders are held up.
            async with self._slots:
                # Known before: there can be no call.
                if why := self.log.refuses():
                    raise CallError("not_written", f"the log cannot be written: {why}", status=503)
                body = await read_body(http, self.options.request_bytes)
                try:
                    tags, key = read_tags(http.headers, prefix, by_key=self.options.by_key)
                    if isinstance(dialect, Translated):
                        body, api = dialect.request(body), "/chat/completions"
                except (UsageError, RecursionError) as error:
                    raise refused(str(error)) from None
                if not self.engine.reached:
                    await self._look_again()
                exchange = Exchange(self, http, dialect, body, tags, key)
                return await exchange.run(api)
        except CallError as error:
            end(error)
            return failure(error, dialect)
        except asyncio.CancelledError:
            end(self.gone())
            raise
        except Exception as error:
            # A fault of the recorder: the server prints where, and answers 500 or breaks the stream off.
            end(CallError("internal_error", said(error), status=500))
            raise

    async def _look_again(self) -> None:
        """Looks at an engine that was not there at the start; its calls must ask for ids in its way from the first."""
        async with self._looking:
            if not self.engine.reached and time.monotonic() - self._looked >= _LOOK_SECONDS:
                try:
                    found = await find_engine(self.connections.http, self.options)
                    self._disagrees = None
                except UsageError as error:
                    self._disagrees = str(error)
                else:
                    if found.reached:
                        self.engine = found
                        identity = self._identity()
                        # One that is lost stands at the head of the next segment all the same.
                        when_settled(self.log.append(line("identity", identity)), lambda _: None)
                        self.log.set_opening(identity)
                self._looked = time.monotonic()
            if self._disagrees is not None:
                raise refused(self._disagrees, 503)

    async def _pass(self, http: web.BaseRequest, path: str) -> web.StreamResponse:
        """Passes on what asks for no sample."""
        options = self.options
        base = (
            options.upstream.api + path.removeprefix("/v1") if path.startswith("/v1") else options.upstream.root + path
        )
        try:
            _, key = read_tags(http.headers, None, by_key=False)
            body = await read_body(http, options.request_bytes)
            headers = sent_headers(http.headers, key, options.headers)
            url, data = address(base, http), body or None
            asked = self.connections.http.request(http.method, url, data=data, headers=headers, allow_redirects=False)
            async with asked as upstream:
                with self.connections.reading(upstream):
                    content = await read(upstream.read())
                kept = {"Content-Type": upstream.headers.get("Content-Type", "application/octet-stream")}
                return web.Response(status=upstream.status, body=content, headers=kept)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failed = CallError("upstream_error", str(error) or type(error).__name__)
            return failure(failed, OpenAI("pass"))
        except UsageError as error:
            return failure(refused(str(error)), OpenAI("pass"))
        except CallError as error:
            return failure(error, OpenAI("pass"))

    def _health(self) -> web.Response:
        broken = self.log.broken
        told = {
            "status": "ok" if broken is None else "the log cannot be written",
            "upstream": self.options.upstream.shown,
            "engine": self.engine.name,
            "calls": self.stats.calls,
            "open": self.stats.open,
            "failures": self.stats.failures,
            "log": broken,
        }
        return web.json_response(told, status=200 if broken is None else 503)

    def _metrics(self) -> web.Response:
        segments, written = self.log.written
        text = self.stats.prometheus(
            sessions=len(self.sessions), segments=segments, written=written, broken=self.log.broken is not None
        )
        return web.Response(text=text, content_type="text/plain", charset="utf-8")
