"""`tito serve`: starts, checks and changes a server of a base and its LoRA adapters."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tito.cli.options import count
from tito.errors import UsageError, WorldError, with_hint

if TYPE_CHECKING:
    import subprocess

    from tito.serve.client import Server
    from tito.serve.effect import Prompts
    from tito.serve.plan import Plan
    from tito.serve.record import Serving

ABOUT = "serve a base and its LoRA adapters under names that carry their content"
EXAMPLE = """\
example:
  tito serve models/Qwen3-4B --adapter out/adapter --rows rows.parquet
  tito serve models/Qwen3-4B --adapter out/adapter -- tito probe --prompts rows.parquet --assert call-tag
  tito serve load out/adapter2 --url http://127.0.0.1:8000
  tito serve unload Qwen3-4B-lora-3f2a9c1b04de --url http://127.0.0.1:8000
  tito serve check models/Qwen3-4B --adapter out/adapter --url http://127.0.0.1:8000

Serves until it is stopped, and prints the URL to stdout when every adapter was seen to change what is sampled. What is
served stands in serving.json. With -- COMMAND it serves while the command runs (OPENAI_BASE_URL is set for it), stops
behind it, and exits with its code. --engine tito is a small server of ours, for a CPU and for tests. --dry-run checks
everything and prints the engine's command. The engine's own flags: --flags="--enforce-eager --seed 1".
"""
_ACTIONS = ("load", "unload", "check")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.set_defaults(command=())
    parser.add_argument(
        "words",
        nargs="+",
        metavar="WHAT",
        help="BASE, a model's folder; of --url: load DIR, unload NAME, check BASE",
    )
    parser.add_argument("--adapter", action="append", default=[], metavar="DIR", help="a LoRA adapter; may be repeated")
    parser.add_argument(
        "--engine", choices=("vllm", "sglang", "llama.cpp", "tito"), default="vllm", help="default: vllm"
    )
    parser.add_argument("--flags", default="", metavar="TEXT", help='more flags for the engine: --flags="--seed 1"')
    parser.add_argument("--name", help="name of the base in requests (default: its folder's); of the adapter with load")
    parser.add_argument("--rows", metavar="FILE", help="rows it was trained on: length, tokenizer, parsers")
    parser.add_argument("--prompts", metavar="FILE", help="rows or captures whose prompts show that adapters act")
    parser.add_argument("--record", metavar="FILE", default="serving.json", help="what is served (serving.json)")
    parser.add_argument("--log", metavar="FILE", default="serving.log", help="the server's own words (serving.log)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the command, start nothing")
    parser.add_argument("--url", metavar="URL", help="the running server (load, unload, check)")
    parser.add_argument("--key", metavar="ENV", help="variable that holds the server's API key")
    parser.add_argument("--in-place", action="store_true", help="load: put new content under a name that is served")
    parser.add_argument("--json", action="store_true", help="the record as JSON on stdout")
    limits = parser.add_argument_group("limits and parsers (found from model, adapters and rows unless told)")
    limits.add_argument("--max-model-len", type=count, metavar="N", help="context in ids")
    limits.add_argument("--max-lora-rank", type=count, metavar="N", help="room for adapters of this rank")
    limits.add_argument("--tool-parser", metavar="NAME", help="parser of tool calls, or none")
    limits.add_argument("--reasoning-parser", metavar="NAME", help="parser of thinking, or none")
    limits.add_argument("--chat-template", metavar="FILE", help="in place of the model's own")
    limits.add_argument("--dtype", help="type of the weights (default bfloat16; float32 with tito)")
    limits.add_argument("--allow-quantised", action="store_true", help="serve a quantised base")
    limits.add_argument("--host", default="127.0.0.1", help="address (default: this machine alone)")
    limits.add_argument("--port", type=count, default=8000, metavar="N", help="default 8000")
    limits.add_argument("--ready-timeout", type=float, default=900.0, metavar="S", help="seconds to load (default 900)")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    word, *rest = args.words
    if word in _ACTIONS:
        if args.command:
            raise with_hint(UsageError(f"{word} asks a server that runs already"), "run the command by itself")
        if len(rest) != 1 or not args.url:
            raise with_hint(UsageError(f"{word} wants one thing and a server"), f"tito serve {word} X --url URL")
        return {"load": _load, "unload": _unload, "check": _check}[word](args, rest[0])
    if args.url:
        raise with_hint(
            UsageError("--url names a running server"), "tito serve check BASE --url URL; or --host, --port"
        )
    if args.command and args.dry_run:
        raise with_hint(UsageError("--dry-run serves nothing, and no command runs"), "leave one of them out")
    if rest:
        raise with_hint(UsageError(f"{rest[0]}: one base is served"), "flags of the engine's own go into --flags=TEXT")
    return _start(args, Path(word), shlex.split(args.flags))


def _start(args: argparse.Namespace, base: Path, extra: list[str]) -> int:
    from tito.serve.launch import serve
    from tito.serve.recipes import command_for

    plan = _plan(args, base)
    command = command_for(plan, args.engine, extra)
    if args.dry_run:
        if args.json:
            said: dict[str, object] = {
                "command": command.words,
                "environment": dict(command.environment),
                "before": command.before,
            }
            print(
                json.dumps({**said, "url": plan.url, "model": plan.model, "adapters": [a.name for a in plan.adapters]})
            )
        else:
            print(command.shown())
        return 0
    log = Path(args.log)
    prompts = _prompts(args) if plan.adapters else None
    with serve(
        plan,
        engine=args.engine,
        extra=extra,
        log=log,
        prompts=prompts,
        base_hash=plan.base.hash,
        ready_seconds=args.ready_timeout,
        watch=_watch(),
    ) as (serving, process):
        serving.save(args.record)
        _tell(serving, args)
        return _run_command(args.command, serving.url) if args.command else _stay(process, log)


def _run_command(words: Sequence[str], url: str) -> int:
    """Runs a command beside the server; gives its code."""
    import subprocess

    told = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_BASE": f"{url}/v1"}
    key = {"OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY") or "none"}
    try:
        command = subprocess.Popen(list(words), env={**os.environ, **told, **key})
    except OSError as error:
        raise with_hint(WorldError(f"{words[0]}: {error.strerror}"), "name a program that can be run") from None
    try:
        code = command.wait()
    except BaseException:
        command.terminate()
        command.wait()
        raise
    return code if code >= 0 else 128 - code


def _stay(process: subprocess.Popen[bytes], log: Path) -> int:
    """Waits until the server ends by itself, which is a failure, or until this program is stopped."""
    sys.stdout.flush()
    code = process.wait()
    raise with_hint(WorldError(f"the server ended with {code}"), f"see {log}")


def _check(args: argparse.Namespace, base: str) -> int:
    from tito.serve.launch import serving_of

    plan = _plan(args, Path(base))
    serving = serving_of(plan, _server(args), _prompts(args) if plan.adapters else None, base_hash=plan.base.hash)
    serving.save(args.record)
    _tell(serving, args)
    return 0


def _load(args: argparse.Namespace, folder: str) -> int:
    from tito.adapter import BaseModel, LoraAdapter
    from tito.serve.swap import load

    record = _record(args)
    here = record is not None and (Path(record.base) / "config.json").is_file()
    served, seen = load(
        _server(args),
        LoraAdapter(folder),
        _prompts(args),
        base_folder=BaseModel(record.base) if record is not None and here else None,
        name=args.name,
        in_place=args.in_place,
        recorded=[] if record is None else record.adapters,
    )
    if record is not None:
        record.adapters = [*(a for a in record.adapters if a.name != served.name), served]
        record.verified = [
            *(v for v in record.verified if not v.startswith(f"{served.name}:")),
            f"{served.name}: {seen}",
        ]
        record.save(args.record)
    print(f"{served.name}: {seen}", file=sys.stderr)
    print(served.name)
    return 0


def _unload(args: argparse.Namespace, name: str) -> int:
    from tito.serve.swap import unload

    unload(_server(args), name)
    if (record := _record(args)) is not None:
        record.adapters = [a for a in record.adapters if a.name != name]
        record.verified = [v for v in record.verified if not v.startswith(f"{name}:")]
        record.save(args.record)
    return 0


def _record(args: argparse.Namespace) -> Serving | None:
    """The record, where there is one and it is this server's."""
    from tito.serve.record import Serving

    if not Path(args.record).is_file():
        return None
    found = Serving.load(args.record)
    return found if found.url == _server(args).url else None


def _plan(args: argparse.Namespace, base: Path) -> Plan:
    from tito.serve.plan import Wanted, make_plan

    plan = make_plan(
        Wanted(
            base=base,
            adapters=[Path(a) for a in args.adapter],
            name=args.name,
            rows=None if args.rows is None else Path(args.rows),
            chat_template=None if args.chat_template is None else Path(args.chat_template),
            context=args.max_model_len,
            max_rank=args.max_lora_rank,
            tool_parser=args.tool_parser,
            reasoning_parser=args.reasoning_parser,
            dtype=args.dtype or ("float32" if args.engine == "tito" else None),
            allow_quantised=args.allow_quantised,
            host=args.host,
            port=args.port,
        )
    )
    for warning in plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return plan


def _server(args: argparse.Namespace) -> Server:
    from tito.serve.client import Server

    key = None
    if args.key is not None and not (key := os.environ.get(args.key)):
        raise with_hint(UsageError(f"--key: the variable {args.key} is not set"), "export it")
    return Server(args.url, key=key)


def _prompts(args: argparse.Namespace) -> Prompts:
    from tito.probe.prompts import read_prompts
    from tito.serve.effect import PROMPTS

    file = args.prompts or args.rows
    return PROMPTS if file is None else [prompt.ids for prompt in read_prompts(Path(file), 4)]


def _tell(serving: Serving, args: argparse.Namespace) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    for line in serving.verified or ["no adapters"]:
        print(line, file=sys.stderr)
    print(f"{args.record}: {serving.engine} {serving.engine_version}, {serving.architecture}", file=sys.stderr)
    if not args.command:
        print(serving.to_json() if args.json else serving.url + "/v1")


def _watch() -> Callable[[str], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(text: str) -> None:
        print(f"\r{text}", end="", file=sys.stderr, flush=True)

    return show
