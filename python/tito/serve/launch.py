"""Starting a server, waiting until it serves what was asked for, and stopping it with all its children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tito.errors import DataError, TitoError, UsageError, WorldError, with_hint
from tito.serve.client import RefusedError, Server
from tito.serve.effect import Effect, Prompts, effect
from tito.serve.plan import Plan
from tito.serve.recipes import command_for, executable
from tito.serve.record import Serving

__all__ = ["serve", "serving_of"]

_POLL_SECONDS = 0.25
# What a server is given to end by itself.
_GRACE_SECONDS = 20.0
# What an engine that answered with an error needs to be gone.
_DYING_SECONDS = 3.0
_LOG_TAIL = 12


@contextmanager
def serve(
    plan: Plan,
    *,
    engine: str = "vllm",
    extra: Sequence[str] = (),
    log: Path,
    prompts: Prompts | None = None,
    base_hash: str | None = None,
    ready_seconds: float = 900.0,
    watch: Callable[[str], None] | None = None,
) -> Iterator[tuple[Serving, subprocess.Popen[bytes]]]:
    """Runs a server while the block runs. When the block is entered, the server lists the base and every adapter from
    the folders that were meant, and each adapter answers unlike the base.

    Raises `UsageError` for a port that is taken, `WorldError` for a server that dies or is not up in `ready_seconds`
    (with the end of its log), `DataError` for an adapter without effect.
    """
    command = command_for(plan, engine, extra)
    words = executable(command.words, engine)
    if command.before:
        raise with_hint(
            UsageError(f"{engine}: files must be converted first"), "print the commands with --dry-run and run them"
        )
    _free(plan.host, plan.port)
    environment = {**os.environ, **command.environment}
    with open(log, "ab") as sink:
        started = subprocess.Popen(
            words, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    try:
        server = Server(plan.url)
        _wait(server, plan, started, log, ready_seconds, watch)
        try:
            serving = serving_of(plan, server, prompts, base_hash=base_hash)
        except (RefusedError, WorldError):
            # The first request may be what an engine dies of: then its log says why, and not the reply.
            with suppress(subprocess.TimeoutExpired):
                code = started.wait(_DYING_SECONDS)
                raise with_hint(
                    WorldError(f"the server ended with {code} when it was asked:\n{_tail(log)}"), f"see {log}"
                ) from None
            raise
        serving.command, serving.environment, serving.pid = words, dict(command.environment), started.pid
        yield serving, started
    finally:
        _stop(started)


def serving_of(plan: Plan, server: Server, prompts: Prompts | None, *, base_hash: str | None = None) -> Serving:
    """The record of a running server, after a look at whether it serves the plan. `prompts` None looks at names and
    paths alone."""
    name, version = server.engine()
    serving = Serving(
        url=server.url,
        engine=name,
        engine_version=version,
        model=plan.model,
        base=str(plan.base.folder.resolve()),
        base_hash=base_hash,
        architecture=plan.base.architecture,
        dtype=plan.dtype,
        context_length=plan.context,
        tool_parser=plan.tool_parser,
        reasoning_parser=plan.reasoning_parser,
        tokenizer_hash=plan.tokenizer_hash,
        template_hash=plan.template_hash,
        adapters=list(plan.adapters),
    )
    serving.check(server)
    [base] = [card for card in server.models() if card.id == plan.model]
    if plan.context is not None and base.context is not None and base.context != plan.context:
        raise with_hint(
            DataError(f"{server.url}: a context of {base.context:,} is served, not {plan.context:,}"),
            "say --max-model-len as the server was started",
        )
    if prompts is not None:
        for adapter in plan.adapters:
            seen = effect(server, plan.model, adapter.name, prompts)
            if not seen.any:
                raise with_hint(
                    DataError(f"{adapter.name}: {seen}: the server applies nothing"),
                    f"`tito adapter inspect {adapter.folder} --base {plan.base.folder}`, or other --prompts",
                )
            serving.verified.append(f"{adapter.name}: {seen}")
        _same_among(server, plan, prompts)
    return serving


def _same_among(server: Server, plan: Plan, prompts: Prompts) -> None:
    """Two adapters of different content that answer alike, id for id and logprob for logprob, are one to the server."""
    for at, one in enumerate(plan.adapters):
        for other in plan.adapters[:at]:
            seen: Effect = effect(server, other.name, one.name, prompts)
            if not seen.any:
                raise with_hint(
                    DataError(f"{one.name} answers as {other.name} does: the server mixes them up"), "restart it"
                )


def _free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise with_hint(
                UsageError(f"{host}:{port}: {error.strerror}"), "another server is there: choose another --port"
            ) from None


def _wait(
    server: Server,
    plan: Plan,
    started: subprocess.Popen[bytes],
    log: Path,
    seconds: float,
    watch: Callable[[str], None] | None,
) -> None:
    begun = time.monotonic()
    names = {plan.model, *(a.name for a in plan.adapters)}
    while True:
        if (code := started.poll()) is not None:
            raise with_hint(WorldError(f"the server ended with {code} while it loaded:\n{_tail(log)}"), f"see {log}")
        # A server that is loading refuses the connection, or lists nothing yet.
        with suppress(TitoError):
            if names <= {card.id for card in server.models()}:
                return
        waited = time.monotonic() - begun
        if waited > seconds:
            raise with_hint(
                WorldError(f"{server.url}: not up after {seconds:.0f} s:\n{_tail(log)}"),
                f"see {log}, or --ready-timeout",
            )
        if watch is not None:
            watch(f"loading, {waited:.0f} s")
        time.sleep(_POLL_SECONDS)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line[:300]}" for line in lines[-_LOG_TAIL:])


def _stop(started: subprocess.Popen[bytes]) -> None:
    """Ends the server and everything that it started: they are one process group."""
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(started.pid, number)
        with suppress(subprocess.TimeoutExpired):
            started.wait(seconds)
            # The parent may end before its children.
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            return
