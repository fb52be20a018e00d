"""`tito probe`: what a served student does, before anything is spent on it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tito.cli.options import count
from tito.errors import UsageError, with_hint

if TYPE_CHECKING:
    from tito.probe.prompts import Prompt
    from tito.probe.run import ProbeReport
    from tito.serve.client import Server
    from tito.serve.record import Serving

# Of a reply, on a terminal's line.
_SHOWN = 100
ABOUT = "ask a served student and its base the same, and say whether it learnt what it should"
EXAMPLE = """\
example:
  tito probe --serving serving.json --prompts rows.parquet --assert call-tag --assert sends-message --report probe.json
  tito probe --url http://127.0.0.1:8000 --model my-lora --base-model my-base --prompts calls.jsonl --n 8
  tito probe --url http://127.0.0.1:8000 --model my-lora --raw --ids 151644,872,198

Prompts go as ids to the completions route, without a template; where a capture holds the request, it also goes through
the chat route, and the server's prompt is compared with the captured one. Exit 1 when adapter and base give the same
ids, when an assertion that was asked for fails, when the served parser misses calls that another reads, and when the
server makes another prompt than was trained on. Assertions: call-tag, no-think, sends-message, ends, not-swallowed,
no-parrot; all are shown, and those that are asked for must hold. One of your own is a function of one reply:
MODULE:FUNCTION or FILE.py:FUNCTION.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    server = parser.add_argument_group("what is asked")
    server.add_argument("--serving", metavar="FILE", help="the server's record (default: serving.json, where it is)")
    server.add_argument("--url", metavar="URL", help="the server, where there is no record")
    server.add_argument("--key", metavar="ENV", help="variable that holds the server's API key")
    server.add_argument("--model", metavar="NAME", help="the student (default: the record's one adapter)")
    server.add_argument("--base-model", metavar="NAME", help="the base to compare with (default: the record's)")
    server.add_argument("--tokenizer", metavar="DIR", help="folder with tokenizer and template (default: the record's)")
    parser.add_argument("--prompts", metavar="FILE", help="rows or captures whose first turns are asked")
    parser.add_argument("--live", metavar="FILE", help="rows or captures that it was not trained on, beside them")
    parser.add_argument("--n", type=count, default=8, metavar="N", help="prompts (default 8)")
    parser.add_argument("--all-turns", action="store_true", help="prompts of any turn, not of first turns alone")
    parser.add_argument("--max-tokens", type=count, default=128, metavar="N", help="ids of a reply (default 128)")
    parser.add_argument(
        "--assert",
        dest="asserts",
        action="append",
        default=[],
        metavar="NAME",
        help="must hold (below); may be repeated",
    )
    parser.add_argument("--least", type=float, default=1.0, metavar="SHARE", help="of replies, for that (default 1)")
    parser.add_argument("--no-chat", action="store_true", help="ids alone: no chat route")
    parser.add_argument("--report", metavar="FILE", help="write the report here as JSON")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    raw = parser.add_argument_group("raw completions")
    raw.add_argument("--raw", action="store_true", help="ids in, ids out, as JSON lines on stdout; nothing is judged")
    raw.add_argument("--ids", metavar="N,N,...", help="a prompt of these ids")
    raw.add_argument("--text", metavar="TEXT", help="a prompt of this text, tokenised by the server")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from tito.serve.client import Server

    file, serving = _serving(args)
    if args.key is not None and not os.environ.get(args.key):
        raise with_hint(UsageError(f"--key: the variable {args.key} is not set"), "export it")
    server = Server(args.url or (serving.url if serving else ""), key=os.environ.get(args.key or ""))
    model = args.model or (serving.adapter(None).name if serving and serving.adapters else None)
    if model is None:
        raise with_hint(UsageError("which model is asked is not known"), "give --model NAME")
    if args.raw:
        return _raw(args, server, model)
    report = _probe(args, server, model, serving, file)
    if args.report:
        report.save(Path(args.report))
    sys.stdout.write(report.to_json() if args.json else _text(report))
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in report.problems:
        print(f"error: {problem}", file=sys.stderr)
    if report.problems:
        print("hint: look at replies with --raw; `tito doctor RUN` looks for the step that broke", file=sys.stderr)
    return 0 if report.passed else 1


def _serving(args: argparse.Namespace) -> tuple[Path | None, Serving | None]:
    from tito.serve.record import NAME, Serving

    file = Path(args.serving or NAME)
    file = file / NAME if file.is_dir() else file
    if args.serving is None and (args.url or not file.is_file()):
        if not args.url:
            raise with_hint(UsageError("no server is named"), "give --serving FILE or --url URL")
        return None, None
    return file, Serving.load(file)


def _probe(
    args: argparse.Namespace, server: Server, model: str, serving: Serving | None, file: Path | None
) -> ProbeReport:
    from tito.probe.assertions import ASSERTIONS, find_assertion
    from tito.probe.run import Asked, probe
    from tito.probe.templates import Templates

    if not args.prompts:
        raise with_hint(UsageError("no prompts"), "give --prompts rows.parquet (or captures): what it was trained on")
    if args.n < 1 or args.max_tokens < 1:
        raise with_hint(UsageError("--n and --max-tokens are at least 1"), "leave them out")
    base = args.base_model or (serving.model if serving else None)
    if base is None:
        base = next((card.parent for card in server.models() if card.id == model), None)
    if serving is not None:
        serving.check(server)
    judged = {name: find_assertion(name) for name in args.asserts}
    tokenizer = args.tokenizer or (serving.base if serving else None)
    known = tokenizer and (Path(tokenizer) / "tokenizer.json").is_file()
    return probe(
        server,
        Asked(
            model=model,
            base=None if base == model else base,
            prompts=_prompts(args.prompts, args),
            live=_prompts(args.live, args) if args.live else (),
            assertions={**ASSERTIONS, **judged},
            judged=frozenset(judged),
            max_tokens=args.max_tokens,
            least=args.least,
            templates=Templates(Path(str(tokenizer))) if known else None,
            tool_parser=serving.tool_parser if serving else None,
            chat=not args.no_chat,
        ),
        serving,
        file,
    )


def _prompts(name: str, args: argparse.Namespace) -> list[Prompt]:
    from tito.probe.prompts import read_prompts

    return read_prompts(Path(name), args.n, first_turns=not args.all_turns)


def _raw(args: argparse.Namespace, server: Server, model: str) -> int:
    given: list[list[int] | str] = []
    if args.ids:
        try:
            given.append([int(i) for i in args.ids.split(",")])
        except ValueError:
            raise with_hint(UsageError(f"--ids {args.ids}: no ids"), "like --ids 1,2,3") from None
    if args.text:
        given.append(args.text)
    if args.prompts:
        given += [list(prompt.ids) for prompt in _prompts(args.prompts, args)]
    if not given:
        raise with_hint(UsageError("nothing to ask"), "give --ids, --text or --prompts")
    for prompt in given:
        answer = server.complete(model, prompt, max_tokens=args.max_tokens)
        said = {"prompt_ids": answer.prompt_ids, "output_ids": answer.output_ids, "text": answer.text}
        print(json.dumps({**said, "finish": answer.finish}, ensure_ascii=False))
    return 0


def _text(report: ProbeReport) -> str:
    lines = [f"{report.model} at {report.url}, {report.prompts} prompts"]
    if report.ids_differ is not None:
        lines.append(f"effect         ids differ from {report.base} on {report.ids_differ} of {report.prompts} prompts")
    for name, shares in report.assertions.items():
        lines.append(f"{name:<15}" + ", ".join(f"{how} {share}" for how, share in shares.items()))
    for form, row in report.parse.items():
        read = ", ".join(f"{name} {found}" for name, found in row.items() if name != "replies")
        lines.append(f"form {form:<10}{row['replies']} replies; read by {read}")
    for way, same in report.templates.items():
        lines.append(f"prompt {way:<12}the trained ids for {same} of {report.template_prompts}")
    lines += [f"not run        {name}: {why}" for name, why in report.not_run.items()]
    lines += [f"said           {name}: {text[:_SHOWN]!r}" for name, text in report.said.items()]
    lines.append(f"verdict        {report.verdict}")
    return "\n".join(lines) + "\n"
