"""A recorder for Python programs: served from a thread of its own while a `with` block runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from tito.capture.record.options import Options, Upstream
from tito.errors import WorldError, with_hint

if TYPE_CHECKING:
    import asyncio

    from tito.capture.record.app import Recorder

__all__ = ["loop_factory", "make_recorder", "patched_openai", "recording", "session_url"]


@contextmanager
def recording(
    upstream: str,
    out: str | os.PathLike[str],
    *,
    session: str | None = None,
    patch_openai: bool = False,
    **options: Any,
) -> Iterator[str]:
    """Records every call that is sent to the URL it gives, as `tito record` does.

    `upstream` is the engine's base URL, `out` the log's folder. `session` names the rollout that all calls belong to;
    without it calls are told apart by their headers or by their prompts. `patch_openai` sends OpenAI clients of this
    process that are made for `upstream` to the recorder, for code whose URL cannot be moved. Further options are those
    of `tito record`: `durability`, `on_missing`, `text_only`, `tokenizer`, `engine`, `segment_bytes`, `headers`, ...

    Leaving the block waits for open calls (five seconds), then closes the log; `tito.convert(out, ...)` reads it.

    Raises `UsageError` for a URL that is none, `WorldError` where the folder or the port cannot be had or aiohttp is
    not installed.

    An example::

        with tito.recording("http://127.0.0.1:8000/v1", "log") as url:
            client = openai.OpenAI(base_url=url, api_key="-")
    """
    import asyncio

    if isinstance(options.get("tokenizer"), str):
        options["tokenizer"] = Path(options["tokenizer"])
    told = Options(upstream=Upstream.parse(upstream), out=Path(out), **options)
    recorder = make_recorder(told)
    url: list[str] = []
    failed: list[BaseException] = []
    ready, loops = threading.Event(), []

    async def serve() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        url.append(await recorder.start())
        ready.set()
        await stop.wait()
        await recorder.stop()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="tito-record", daemon=True)
    thread.start()
    ready.wait()
    if failed:
        raise failed[0]
    try:
        base = url[0] if session is None else session_url(url[0], session)
        with patched_openai(told.upstream, base) if patch_openai else nullcontext():
            yield base
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failed:
        raise failed[0]


def make_recorder(options: Options) -> Recorder:
    """A recorder; `WorldError` without aiohttp."""
    try:
        from tito.capture.record.app import Recorder
    except ModuleNotFoundError as error:
        hint = "install it: pip install 'tito-distill[record]'"
        raise with_hint(WorldError(f"recording needs the package {error.name}"), hint) from None
    return Recorder(options)


def session_url(url: str, session: str) -> str:
    """The base URL of one session.

    >>> session_url("http://127.0.0.1:8123/v1", "pair 0/agent1")
    'http://127.0.0.1:8123/s/pair%200%2Fagent1/v1'
    """
    return f"{url.removesuffix('/v1')}/s/{quote(session, safe='')}/v1"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS = {"http": 80, "https": 443}


class _Patch:
    """The one property that OpenAI's clients get in place of their own while there is a block that wants it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.moves: tuple[tuple[Upstream, str], ...] = ()
        """Which engine's clients go where; the last one counts."""
        self.kept: Any = None
        self.own: dict[type, Any] = {}
        """What a class had of its own before: somebody else may have put it there."""

    def moved(self, client: Any) -> Any:
        given = self.kept.fget(client)
        for upstream, url in reversed(self.moves):
            if _address(str(given)) in (_address(upstream.api), _address(upstream.root)):
                return type(given)(url.rstrip("/") + "/")
        return given

    def enter(self, upstream: Upstream, url: str) -> tuple[Upstream, str]:
        import openai

        move = (upstream, url)
        with self.lock:
            if not self.moves:
                self.kept = openai.OpenAI.base_url
                for cls in (openai.OpenAI, openai.AsyncOpenAI):
                    self.own[cls] = cls.__dict__.get("base_url")
                    cls.base_url = property(self.moved, self.kept.fset)  # type: ignore[assignment]
            self.moves = (*self.moves, move)
        return move

    def leave(self, move: tuple[Upstream, str]) -> None:
        with self.lock:
            self.moves = tuple(other for other in self.moves if other is not move)
            if not self.moves:
                for cls, own in self.own.items():
                    if own is None:
                        del cls.base_url  # type: ignore[attr-defined]
                    else:
                        cls.base_url = own  # type: ignore[attr-defined]
                self.own = {}


_PATCH = _Patch()


@contextmanager
def patched_openai(upstream: Upstream, url: str) -> Iterator[None]:
    """Sends OpenAI clients whose base URL is the engine's to the recorder, those that exist and those to come. Blocks
    may stand in each other and beside each other."""
    move = _PATCH.enter(upstream, url)
    try:
        yield
    finally:
        _PATCH.leave(move)


def _address(url: str) -> tuple[str, str, int | None, str]:
    """What two names of one address have in common.

    >>> _address("http://LOCALHOST/v1/") == _address("http://127.0.0.1:80/v1")
    True
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    return (
        parts.scheme,
        "localhost" if host in _LOOPBACK else host,
        parts.port or _PORTS.get(parts.scheme),
        (parts.path.rstrip("/")),
    )
