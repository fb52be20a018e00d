"""The recorder: an HTTP server between harnesses and an engine.

Routes that generate are recorded, translated to one that can be, or refused: nothing that samples passes unrecorded.
Everything else goes on as it is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, NoReturn

import aiohttp
from aiohttp import web

from tito._core import __version__
from tito.capture.record.call import Dialect, Exchange, OpenAI, sent_headers
from tito.capture.record.connection import Connector, read, watch
from tito.capture.record.engine import KEPT_SECONDS, Engine, find_engine
from tito.capture.record.errors import CallError, client_gone, said
from tito.capture.record.late import Late
from tito.capture.record.log import Log, NotWrittenError, line, when_settled
from tito.capture.record.options import Options
from tito.capture.record.session import Mark, Rollout, RolloutKey, Session, Sessions
from tito.capture.record.stats import Stats
from tito.capture.record.tags import Tags, check_tags, read_tags, split_path
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
        self.late = Late()
        self.engine = Engine("other")
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._disagrees: str | None = None
        self.log: Log
        self.client: aiohttp.ClientSession
        self._runner: web.ServerRunner | None = None
        self._slots = asyncio.Semaphore(options.open_calls)
        self._number = 0
        self._stopping = False
        self._kept: set[asyncio.Future[Any]] = set()
        self.reads: set[aiohttp.ClientResponse] = set()
        """Bodies of the engine that are being read."""

    async def start(self) -> str:
        """Looks at the engine, opens the log and serves; gives the base URL for clients, which ends in `/v1`.

        `WorldError` where the folder or the port cannot be had.
        """
        options = self.options
        self.client = aiohttp.ClientSession(
            connector=Connector(limit=0, keepalive_timeout=KEPT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=options.idle_seconds),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=True,
        )
        try:
            self.engine = await find_engine(self.client, options)
            fsync = options.durability == "fsync"
            self.log = Log(options.out, options.segment_bytes, fsync=fsync, opening=self._identity())
            try:
                server = web.Server(self._serve, handler_cancellation=True, access_log=None)
                # Deltas are small: the stream is not held up to fill packets.
                runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=_OPEN_SECONDS / 2)
                await runner.setup()
                self._runner = runner
                site = web.TCPSite(runner, options.host, options.port, backlog=2048)
                await site.start()
                self.keep(asyncio.ensure_future(watch(self.reads)))
            except BaseException:
                self.log.close()
                raise
        except BaseException:
            if self._runner is not None:
                await self._runner.cleanup()
            await self.client.close()
            raise
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}/v1"

    async def stop(self) -> None:
        """Lets open calls end (five seconds), and closes the log."""
        self._stopping = True
        if self._runner is not None:
            await self._runner.cleanup()
        # A connection that is waited for would outlive the client it belongs to.
        for task in list(self._kept):
            task.cancel()
        await asyncio.gather(*self._kept, return_exceptions=True)
        await self.client.close()
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

    @property
    def kept(self) -> int:
        """How much work there is that nobody waits for."""
        return len(self._kept)

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Holds on to work that nobody waits for; the loop alone would not."""
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

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
            return await self._rollout(http, prefix, path)
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
        return _failed(CallError("refused", message, status=501, retry=False), OpenAI("chat"))

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
                body = await self._read(http)
                try:
                    tags, key = read_tags(http.headers, prefix, by_key=self.options.by_key)
                    if isinstance(dialect, Translated):
                        body, api = dialect.request(body), "/chat/completions"
                except (UsageError, RecursionError) as error:
                    raise CallError("refused", str(error), status=400, retry=False) from None
                if not self.engine.reached:
                    await self._look_again()
                exchange = Exchange(self, http, dialect, body, tags, key)
                return await exchange.run(api)
        except CallError as error:
            end(error)
            return _failed(error, dialect)
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
                    found = await find_engine(self.client, self.options)
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
                raise CallError("refused", self._disagrees, status=503, retry=False)

    async def _read(self, http: web.BaseRequest) -> bytes:
        """The body of a call, unless it is known before that the call cannot be."""
        if why := self.log.refuses():
            raise CallError("not_written", f"the log cannot be written: {why}", status=503)
        if (http.content_length or 0) > self.options.request_bytes:
            _too_long(self.options.request_bytes)
        return await _body(http, self.options.request_bytes)

    async def _rollout(self, http: web.BaseRequest, name: str, path: str) -> web.StreamResponse:
        """`begin` and `end` of a rollout: on disk before they are answered."""
        try:
            body = await _body(http, 16 << 20)
            told = json.loads(body) if body.strip() else {}
            if not isinstance(told, dict):
                raise UsageError("the body is a JSON object, or nothing")
            if path == "/begin":
                answer = await self._begin(name, check_tags(_begun(told), name))
            else:
                answer = await self._end(name, told)
        except (UsageError, ValueError, RecursionError) as error:
            return _failed(CallError("refused", str(error), status=400, retry=False), OpenAI("rollout"))
        except NotWrittenError as error:
            return _failed(CallError("not_written", str(error), status=503), OpenAI("rollout"))
        except CallError as error:
            return _failed(error, OpenAI("rollout"))
        return web.json_response(answer)

    async def _begin(self, name: str, defaults: Tags) -> dict[str, Any]:
        self.late.catch_up()
        session = self.sessions.begin(name, defaults)
        begun = session.defaults
        if session.unanswered is not None:
            _, written = session.unanswered
            session.unanswered = None
        else:

            def settled(failed: str | None) -> None:
                if failed is not None:
                    self.late.catch_up()
                    # Unless it has ended meanwhile, and perhaps begun anew.
                    if session.defaults is begun:
                        session.withdraw()

            written = self.log.append(line("begin", begun.record()))
            when_settled(written, settled)
        try:
            # Shielded: a session whose client goes away now has begun all the same. Told again, it is answered.
            await asyncio.shield(written)
        except asyncio.CancelledError:
            if session.defaults is begun:
                session.unanswered = defaults, written
            raise
        return {"session": name, "attempt": begun.attempt}

    async def _end(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        check_tags(Tags(), name)
        head = _ended(told)
        self.late.catch_up()
        session = self.sessions.end(name)
        ended = session.ended
        # Told again word for word, as by a client that missed the answer, it is not written again.
        if session.told is None or session.told[0] != told:
            writes = {key: self.log.append(line("end", {**one.tags.record(), **head})) for key, one in ended.items()}
            self.keep(written := asyncio.ensure_future(self._ends(session, ended, writes)))
            session.told = told, written
        # Shielded: an end whose client goes away now is written or taken back all the same.
        if (failed := await asyncio.shield(session.told[1])) is not None:
            raise NotWrittenError(failed)
        consumed = head.get("consumed")
        unknown = None
        if session.call_ids is not None:
            unknown = [call for call in consumed or () if call not in session.call_ids]
        return {"session": name, "calls": sum(rollout.calls for rollout in ended.values()), "unknown": unknown}

    async def _ends(
        self, session: Session, ended: dict[RolloutKey, Rollout], writes: dict[RolloutKey, asyncio.Future[None]]
    ) -> str | None:
        """Waits for ends to be written; those that are not are taken back, and why is told."""
        settled = await asyncio.gather(*writes.values(), return_exceptions=True)
        failed = {key: error for key, error in zip(writes, settled, strict=True) if error is not None}
        if failed:
            self.late.catch_up()
            if session.ended is ended:
                session.reopen(failed)
            return "; ".join({str(error) or "the log was closed" for error in failed.values()})
        return None

    async def _pass(self, http: web.BaseRequest, path: str) -> web.StreamResponse:
        """Passes on what asks for no sample."""
        options = self.options
        base = (
            options.upstream.api + path.removeprefix("/v1") if path.startswith("/v1") else options.upstream.root + path
        )
        url = base + (f"?{http.query_string}" if http.query_string else "")
        _, key = read_tags(http.headers, None, by_key=False)
        try:
            body = await _body(http, options.request_bytes)
            headers = sent_headers(http.headers, key, options.headers)
            async with self.client.request(
                http.method, url, data=body or None, headers=headers, allow_redirects=False
            ) as upstream:
                self.reads.add(upstream)
                try:
                    content = await read(upstream.read())
                finally:
                    self.reads.discard(upstream)
                kept = {"Content-Type": upstream.headers.get("Content-Type", "application/octet-stream")}
                return web.Response(status=upstream.status, body=content, headers=kept)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failed = CallError("upstream_error", str(error) or type(error).__name__)
            return _failed(failed, OpenAI("pass"))
        except UsageError as error:
            return _failed(CallError("refused", str(error), status=400, retry=False), OpenAI("pass"))
        except CallError as error:
            return _failed(error, OpenAI("pass"))

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


async def _body(http: web.BaseRequest, limit: int) -> bytes:
    """The request's body, read up to a limit."""
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
    raise CallError("refused", f"the request has more than {limit:,} bytes", status=413, retry=False)


def _begun(told: dict[str, Any]) -> Tags:
    names = {"task_id": "task", "pair_id": "pair", "agent": "agent", "attempt": "attempt"}
    for name, value in told.items():
        wanted = int if name == "attempt" else str
        if name not in names:
            raise UsageError(f"begin: {name!r} is none of {', '.join(names)}")
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise UsageError(f"begin: {name} must be {'a whole number' if wanted is int else 'a text'}")
    return Tags(**{names[name]: value for name, value in told.items()})


def _ended(told: dict[str, Any]) -> dict[str, Any]:
    for name, value in told.items():
        # Python reads NaN, Infinity and 1e400 as numbers; JSON has none of them.
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        good = {
            "status": isinstance(value, str),
            "reward": number,
            "consumed": isinstance(value, list) and all(isinstance(call, str) for call in value),
        }
        if name not in good:
            raise UsageError(f"end: {name!r} is none of {', '.join(good)}")
        if value is not None and not good[name]:
            wanted = {"status": "a text", "reward": "a number", "consumed": "a list of ids of replies"}[name]
            raise UsageError(f"end: {name} must be {wanted}")
    return {**told, "ended": time.time()}


def _failed(error: CallError, dialect: Dialect) -> web.Response:
    headers = {"x-tito-error": error.outcome}
    if not error.retry:
        headers["x-should-retry"] = "false"
    body = dialect.error(error)
    return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)
