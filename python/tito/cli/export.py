"""`tito convert --format NAME`: rows, or captures by way of rows, in the columns of one trainer."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from tito.calls import Policies
from tito.cli.options import count, input_options, policies
from tito.cli.watch import bar, tell
from tito.errors import UsageError, with_hint

__all__ = ["add_export_options", "refuse_without_format", "run"]

# Policies that an export knows too; all others look at captures.
_ALSO_OF_EXPORT = {"upweight_as", "seed", "max_length", "overlong", "weights", "pack"}


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    from tito.export import FORMATS

    group = parser.add_argument_group("for a trainer")
    group.add_argument(
        "--format",
        choices=("tito", *FORMATS, "prime-sft"),
        default="tito",
        metavar="NAME",
        help=f"columns of: tito (default), {', '.join(FORMATS)}, prime-sft; DUMP may be rows then",
    )
    group.add_argument(
        "--weights",
        choices=("error", "copies", "drop"),
        default=None,
        metavar="error|copies|drop",
        help="weights that the trainer cannot be told: refused, drawn as copies, or forgotten",
    )
    group.add_argument("--pack", type=count, metavar="N", help="whole rows laid into packs of N ids (trl)")
    group.add_argument(
        "--row-mode",
        choices=("rollout", "exchange"),
        default=None,
        metavar="rollout|exchange",
        help="a row of prime-sft: the last exchange of a rollout, or each",
    )


def refuse_without_format(args: argparse.Namespace) -> None:
    """Options that only a trainer's format has are not overheard."""
    for name in ("weights", "pack", "row_mode"):
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise with_hint(UsageError(f"{option} belongs to an export"), "add --format trl (or another trainer)")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    if args.dry_run:
        raise with_hint(UsageError("--dry-run exports nothing"), "leave --format out to check captures")
    for name in ("columns", "shard_mb", "shard_tokens", "jsonl"):
        if getattr(args, name):
            raise with_hint(
                UsageError(f"--{name.replace('_', '-')} belongs to rows, not to --format {args.format}"),
                "leave it out; the name of the output says whether it is parquet or JSON lines",
            )
    if args.output == "-":
        raise with_hint(UsageError(f"--format {args.format} cannot go to standard output"), "name a file")
    if args.row_mode is not None and args.format != "prime-sft":
        raise with_hint(UsageError(f"--row-mode belongs to prime-sft, not to {args.format}"), "leave it out")
    args.stopped = "; nothing was written"
    if args.format == "prime-sft":
        return _run_messages(args)
    return _run_rows(args) if _rows(args.inputs) else _run_captures(args)


def _rows(inputs: list[str]) -> bool:
    from tito.rows import looks_like_rows

    rows = [name for name in inputs if name != "-" and looks_like_rows(name)]
    if rows and len(inputs) > 1:
        raise with_hint(
            UsageError(f"{rows[0]} holds rows, and {len(inputs)} inputs are named"),
            "rows are exported alone: one file, or a folder or a glob of shards in quotes",
        )
    return bool(rows)


def _run_rows(args: argparse.Namespace) -> int:
    from tito.export.run import export

    holds = f"works on captures, and {args.inputs[0]} holds rows"
    _refuse(_given(args) - _ALSO_OF_EXPORT, holds, "give it when the rows are made: tito convert DUMP -o rows.parquet")
    options = _options(args)
    if getattr(args, "overlong", "error") == "trim-prompt":
        raise with_hint(UsageError(f"--overlong trim-prompt {holds}"), "convert with it, or use --overlong drop")
    exported = export(args.inputs[0], args.output, expect_rows=args.expect_rows, format=args.format, **options)
    _tell(exported, args)
    return os.EX_OK


def _given(args: argparse.Namespace) -> set[str]:
    """Options that look at captures or ids and were not left at their default."""
    defaults = {**Policies().to_dict(), "upweight": [], "kind": Policies().kind, "columns": "", "max_length": None}
    others = ("from_format", "profile", "tokenizer", "prove_think", "weights", "pack")
    names = [name for name in (*defaults, *others) if name in vars(args)]
    return {name for name in names if getattr(args, name) != defaults.get(name)}


def _refuse(names: set[str], why: str, hint: str) -> None:
    for name in sorted(names):
        option = f"--{name.removesuffix('_format').replace('_', '-')}"
        raise with_hint(UsageError(f"{option} {why}"), hint)


def _run_captures(args: argparse.Namespace) -> int:
    from tito.export.from_captures import export_captures

    # Rows over the limit were met in converting.
    options = {**_options(args), "max_length": None, "overlong": "error"}
    with bar(args.quiet) as progress:
        report, exported = export_captures(
            args.inputs,
            args.output,
            format=args.format,
            options=options,
            policies=policies(args),
            expect_rows=args.expect_rows,
            progress=progress,
            **input_options(args),
        )
    tell(report, quiet=args.quiet, as_json=args.json)
    if not args.json:
        _tell(exported, args)
    return os.EX_OK


def _run_messages(args: argparse.Namespace) -> int:
    from tito.export.prime_sft import CHOOSING, export_messages
    from tito.rows import looks_like_rows

    for name in args.inputs:
        if name != "-" and looks_like_rows(name):
            raise with_hint(
                UsageError(f"{name} holds rows, and prime-sft is made of messages"), "name the captures behind the rows"
            )
    _refuse(
        _given(args) - CHOOSING - {"from_format", "profile"},
        "belongs to rows, not to --format prime-sft",
        "leave it out: text has no ids",
    )
    with bar(args.quiet) as progress:
        exported = export_messages(
            args.inputs,
            args.output,
            row_mode=args.row_mode or "rollout",
            policies=policies(args),
            profile=args.profile,
            from_format=args.from_format,
            expect_rows=args.expect_rows,
            workers=args.workers,
            progress=progress,
        )
    _tell(exported, args)
    return os.EX_OK


def _options(args: argparse.Namespace) -> dict[str, Any]:
    as_copies = getattr(args, "upweight_as", None) == "copies"
    return {
        "weights": args.weights or ("copies" if as_copies else "error"),
        "seed": args.seed,
        "max_length": args.max_length,
        "overlong": "drop" if getattr(args, "overlong", "error") == "drop" else "error",
        "pack": args.pack,
    }


def _tell(exported: Any, args: argparse.Namespace) -> None:
    warnings = exported.warnings()
    if args.json:
        print(json.dumps({**exported.data, "warnings": warnings}, indent=2, ensure_ascii=False))
        return
    if not args.quiet:
        sys.stderr.write(exported.text())
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
