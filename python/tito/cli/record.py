"""`tito record`: a proxy between a harness and an engine that writes down every call, ids and all."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tito.errors import UsageError, WorldError, with_hint

if TYPE_CHECKING:
    import asyncio

    from tito.capture.record.app import Recorder
    from tito.capture.record.options import Options

ABOUT = "record every call between a harness and an engine, ids and all"
EXAMPLE = """\
example:
  tito record --upstream http://127.0.0.1:8000 --out log/ --env -- python my_harness.py
  tito convert log/ -o rows.parquet

Without --env it serves until it is stopped, and prints the base URL for harnesses to stdout. A rollout is named by the
header x-tito-session, by the base URL http://HOST:PORT/s/SESSION/v1, by the API key tito:SESSION, or told by its
prompts; x-tito-task, -pair, -agent, -attempt and -kind tag a call. `tito record --upstream URL --preflight` says what
an engine returns and loses. A call that cannot be captured exactly fails its client's request (--on-missing).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--upstream", required=True, metavar="URL", help="the engine's base URL, with or without /v1")
    parser.add_argument("--out", metavar="DIR", help="folder of the log")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port to serve at (default: a free one)")
    parser.add_argument(
        "--env", action="store_true", help="run COMMAND with its base URLs set to the recorder, and end with it"
    )
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="the harness")
    parser.add_argument("--preflight", action="store_true", help="try the engine out, and record nothing")
    parser.add_argument("--model", metavar="NAME", help="model of the preflight (default: the engine's first)")
    log = parser.add_argument_group("log (the default stands first)")
    log.add_argument(
        "--durability",
        choices=("fsync", "flush"),
        default="fsync",
        help="a reply ends when the disk, or the system, has its record",
    )
    log.add_argument("--segment-mb", type=int, default=256, metavar="N", help="size of a segment (default: 256)")
    ids = parser.add_argument_group("ids (the default stands first)")
    ids.add_argument(
        "--on-missing",
        choices=("fail", "pass", "mark"),
        default="fail",
        help="a reply without exact ids fails the request, passes and is counted, or passes and is recorded as text",
    )
    ids.add_argument("--text-only", action="store_true", help="ask for no ids, record text (for teachers without ids)")
    ids.add_argument(
        "--engine", choices=("auto", "vllm", "sglang", "other"), default="auto", help="how ids are asked for"
    )
    ids.add_argument("--tokenizer", metavar="DIR", help="the engine's tokenizer, for its hashes")
    ids.add_argument("--serving", metavar="FILE", help="what `tito serve` wrote of the server: the log opens with it")
    who = parser.add_argument_group("calls")
    who.add_argument("--by-key", action="store_true", help="group calls without a session by (a hash of) their API key")
    who.add_argument("--upstream-key", metavar="ENV", help="send the engine the key in this variable, not the client's")
    who.add_argument("--timeout", type=float, default=600, metavar="S", help="silence of the engine that ends a call")
    parser.add_argument("--json", action="store_true", help="counts (or the preflight) as JSON on stdout at the end")
    parser.add_argument("--quiet", action="store_true", help="no table and no summary")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    import asyncio

    from tito.capture.record.face import loop_factory, make_recorder
    from tito.capture.record.process import raise_file_limit, settle_memory

    if args.command and not args.env:
        raise with_hint(UsageError("a COMMAND without --env"), "tito record ... --env -- COMMAND")
    if args.env and not args.command:
        raise with_hint(UsageError("--env without a COMMAND"), "tito record ... --env -- COMMAND")
    options = _options(args)
    if args.preflight:
        make_recorder(options)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_preflight(args, options))
    if args.out is None:
        raise with_hint(UsageError("no folder for the log"), "add --out DIR")
    recorder = make_recorder(options)
    settle_memory()
    raise_file_limit()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(_serve(args, recorder))
        except OSError as error:
            if isinstance(error, WorldError):
                raise
            where = error.filename or f"{args.host}:{args.port}"
            raise with_hint(
                WorldError(f"{where}: {error.strerror or error}"), "choose another --port or --out"
            ) from None


def _options(args: argparse.Namespace) -> Options:
    from tito.capture.record.options import Options, Upstream

    if args.segment_mb < 1:
        raise UsageError(f"--segment-mb {args.segment_mb}: at least 1")
    headers = {}
    if args.upstream_key is not None:
        if not (key := os.environ.get(args.upstream_key)):
            raise with_hint(UsageError(f"--upstream-key: the variable {args.upstream_key} is not set"), "export it")
        headers["Authorization"] = f"Bearer {key}"
    return Options(
        upstream=Upstream.parse(args.upstream),
        out=Path(args.out or "."),
        host=args.host,
        port=args.port,
        engine=args.engine,
        durability=args.durability,
        on_missing=args.on_missing,
        text_only=args.text_only,
        by_key=args.by_key,
        tokenizer=None if args.tokenizer is None else Path(args.tokenizer),
        served=_served(args.serving),
        segment_bytes=args.segment_mb << 20,
        idle_seconds=args.timeout,
        headers=headers,
    )


def _served(file: str | None) -> dict[str, Any] | None:
    if file is None:
        return None
    from tito.serve.record import Serving

    return Serving.load(file).identity()


async def _preflight(args: argparse.Namespace, options: Options) -> int:
    from tito.capture.record.preflight import preflight

    findings = await preflight(options, args.model)
    if args.json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{finding.state:<5}{finding.what:<12} {finding.found}")
            if finding.advice:
                print(f"{'':<17} {finding.advice}")
    return int(any(finding.state == "fail" for finding in findings))


async def _serve(args: argparse.Namespace, recorder: Recorder) -> int:
    import asyncio

    from tito.capture.record.view import farewell, watch

    url = await recorder.start()
    stop = asyncio.Event()
    running = _stop_on_signals(stop, forward=args.env)
    if not args.quiet:
        _greet(recorder, url)
    if not args.env and not args.json:
        print(url, flush=True)
    watcher = None
    if not args.quiet and not args.env and sys.stderr.isatty():
        watcher = asyncio.ensure_future(watch(recorder))
    try:
        code = await _harness(args.command, url, running) if args.env else await _until(stop)
    finally:
        if watcher is not None:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        await recorder.stop()
    if args.json:
        told = {"url": url, "calls": recorder.stats.calls, "outcomes": dict(recorder.stats.by_outcome())}
        print(json.dumps({**told, "marks": dict(recorder.stats.marks), "log": str(recorder.options.out)}))
    if not args.quiet:
        sys.stderr.write(farewell(recorder))
    return code


def _greet(recorder: Recorder, url: str) -> None:
    engine, options = recorder.engine, recorder.options
    known = ", ".join(str(model["id"]) for model in engine.models) or "not reached yet"
    print(f"recording {options.upstream.shown} ({engine.name}: {known}) at {url}", file=sys.stderr)
    if recorder.log.torn:
        print(f"warning: {recorder.log.torn:,} bytes of a torn record were cut off the log's end", file=sys.stderr)
    if recorder.log.earlier:
        again = "a session of the same name counts its attempts from 1 again, and is one rollout with the earlier one"
        print(f"note: {options.out} holds earlier calls: {again}", file=sys.stderr)
    if options.host not in ("127.0.0.1", "::1", "localhost"):
        print(f"warning: everyone who reaches {options.host} can use the engine through this recorder", file=sys.stderr)


def _stop_on_signals(stop: asyncio.Event, *, forward: bool) -> list[asyncio.subprocess.Process]:
    """SIGINT, SIGTERM and SIGHUP end the recorder in order; a harness gets the signal, and its end is awaited."""
    import asyncio

    running: list[asyncio.subprocess.Process] = []
    loop = asyncio.get_running_loop()
    interrupts = 0

    def caught(number: signal.Signals) -> None:
        nonlocal interrupts
        if not forward:
            stop.set()
            return
        if number == signal.SIGINT:
            interrupts += 1
            from_terminal = _in_foreground()
            if from_terminal and interrupts == 1:
                # A terminal sends Ctrl-C to the harness itself.
                return
            if interrupts > 1 and not from_terminal:
                # Who asks twice is not heard by a harness that ignores the first.
                number = signal.SIGTERM
        for process in running:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, caught, number)
    return running


def _in_foreground() -> bool:
    """Whether Ctrl-C at the terminal reaches this process, and so the harness beside it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


async def _until(stop: asyncio.Event) -> int:
    await stop.wait()
    return 0


async def _harness(command: list[str], url: str, running: list[asyncio.subprocess.Process]) -> int:
    import asyncio

    root = url.removesuffix("/v1")
    set_by_us = {
        **dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_BASE", "HOSTED_VLLM_API_BASE", "LITELLM_API_BASE"), url),
        "ANTHROPIC_BASE_URL": root,
        "TITO_RECORD_URL": url,
    }
    # Clients refuse to start without a key; an engine without one does not look at it.
    keys = {name: os.environ.get(name) or "none" for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")}
    keys["HOSTED_VLLM_API_KEY"] = os.environ.get("HOSTED_VLLM_API_KEY") or keys["OPENAI_API_KEY"]
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **set_by_us, **keys})
    except OSError as error:
        raise with_hint(WorldError(f"{command[0]}: {error.strerror}"), "name a program that can be run") from None
    running.append(process)
    code = await process.wait()
    return code if code >= 0 else 128 - code
