"""`tito convert`: captures to rows."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, get_args

from tito.cli.export import add_export_options, refuse_without_format
from tito.cli.export import run as run_export
from tito.cli.options import add_input_options, add_policy_options, count, input_options, policies
from tito.cli.watch import bar, tell
from tito.errors import UsageError, WorldError, with_hint

if TYPE_CHECKING:
    from tito.report import Report

ABOUT = "make training rows of captures, id for id as they were sampled"
EXAMPLE = """\
example:
  tito convert captures/ -o rows.parquet --think strip --upweight 0-2:12
  tito convert rows.parquet --format trl --weights copies -o trl.parquet

With --part-mb or --ray input is converted in parts of about --part-mb (default 1000; twice that where a file would be
shared), each to a file of its own (rows-00000.parquet, ...): the same bytes on Ray as here, for any number of workers
and whatever died on the way. Input is read once more, to find what belongs together: a rollout is in one part, wherever
its calls stand. In their order parts hold the rows of one run, normalised and divided alike, but for copies of
fractions, which each part draws anew, and rollouts that share a name or a call, which stand together. Bad data, rules
that fire nowhere and --expect-rows are judged over all parts before any gets its name; until then files lie in a hidden
folder beside OUT. Inputs and OUT may be URLs of fsspec (s3://..., gs://...); all machines must see what is a path.
--workers is threads a part (on Ray 1).

The report on stderr says what the data looks like to a trainer; --json prints the same to stdout for machines.
"""

# What a trainer would do with the file as it is; said at the end of every run that writes one.
_AS_IT_IS = {
    "turn": "per-turn rows: input_ids is the prompt alone, so a trainer given this file as it is (TRL for one) would "
    "train on the prompt",
    "merged": "merged rows: loss falls where loss_spans say, so a trainer given this file as it is (TRL for one) would "
    "train on every id",
    "auto": "merged and per-turn rows, so a trainer given this file as it is (TRL for one) would train on every id of "
    "the ones and on the prompts of the others",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    from tito.calls import Column

    add_input_options(parser)
    add_policy_options(parser)
    writing = parser.add_argument_group("writing")
    writing.add_argument("-o", "--output", metavar="OUT", help="the file to write; - is stdout (with --jsonl)")
    writing.add_argument("--jsonl", action="store_true", help="JSON lines (also when OUT ends in .jsonl), not parquet")
    writing.add_argument("--columns", default="", metavar="NAME[,NAME]", help=f"also: {', '.join(get_args(Column))}")
    writing.add_argument("--shard-mb", type=float, metavar="MB", help="numbered files of about so many million bytes")
    writing.add_argument("--shard-tokens", type=count, metavar="N", help="numbered files of about so many ids")
    writing.add_argument(
        "--part-mb", type=float, metavar="MB", help="convert in parts of so many million bytes of input"
    )
    writing.add_argument("--ray", action="store_true", help="make the parts on Ray (RAY_ADDRESS, or started here)")
    writing.add_argument("--ray-address", metavar="HOST:PORT", help="the same, on this cluster")
    writing.add_argument("--dry-run", action="store_true", help="read, check and count; write nothing")
    writing.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    writing.add_argument("--quiet", action="store_true", help="no report and no progress; warnings stay")
    add_export_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from tito.convert import check, convert

    if not args.dry_run and args.output is None:
        raise with_hint(UsageError("no output is named"), "add -o rows.parquet, or --dry-run to write nothing")
    if args.json and args.output == "-":
        raise with_hint(
            UsageError("rows and report cannot both go to stdout"), "write the rows to a file, or leave --json out"
        )
    if args.shard_mb is not None and not 0 < args.shard_mb < 1e9:
        raise with_hint(
            UsageError(f"--shard-mb {args.shard_mb:g}: not a size"), "give the megabytes of a file, like 512"
        )
    if args.shard_tokens == 0:
        raise with_hint(UsageError("--shard-tokens 0: not a size"), "give the ids of a file, like 100000000")
    in_parts = args.ray or args.ray_address is not None or args.part_mb is not None
    sized = args.shard_mb is not None or args.shard_tokens is not None
    if in_parts and (sized or args.dry_run or args.output == "-" or args.format != "tito"):
        raise with_hint(
            UsageError(
                "parts are files of their own: not with --dry-run, --format, --shard-mb, --shard-tokens or -o -"
            ),
            "name a file with -o, and go on from the parts",
        )
    if args.part_mb is not None and not 0 < args.part_mb < 1e9:
        raise with_hint(UsageError(f"--part-mb {args.part_mb:g}: not a size"), "give the megabytes of input, like 512")
    if args.format != "tito":
        return run_export(args)
    refuse_without_format(args)
    chosen = policies(args)
    common = {**input_options(args), "policies": chosen, "expect_rows": args.expect_rows}
    with bar(args.quiet) as progress:
        if in_parts:
            args.stopped = "; nothing was written"
            report = _in_parts(args, common, progress)
        elif args.dry_run:
            report = check(args.inputs, **common, progress=progress)
        else:
            args.stopped = "; nothing was written"
            try:
                report = convert(
                    args.inputs,
                    args.output,
                    **common,
                    jsonl=True if args.jsonl else None,
                    shard_bytes=None if args.shard_mb is None else int(args.shard_mb * 1e6),
                    shard_tokens=args.shard_tokens,
                    progress=progress,
                )
            except WorldError as error:
                if args.output == "-" and "Broken pipe" in str(error):
                    raise BrokenPipeError from None
                raise
    tell(report, quiet=args.quiet, as_json=args.json)
    if not args.dry_run and not args.quiet:
        file = "ROWS" if args.output == "-" else args.output
        if in_parts or sized or chosen.group_by == "identity":
            stem, extension = os.path.splitext(file)
            file = f"{stem}-*{extension}"
        as_it_is = _AS_IT_IS[chosen.rows]
        # TRL takes no weights: without --weights the export would be refused.
        weights = report.data["weights"]
        normalized = weights is not None and not weights["least"] == weights["most"] == 1
        weighs = normalized or (chosen.upweight and chosen.upweight_as == "weight")
        copies = " --weights copies" if weighs else ""
        then = f"tito convert {file} --format trl{copies} -o trl.parquet"
        print(f"note: these are {as_it_is}. For TRL: {then}", file=sys.stderr)
    return os.EX_OK


def _in_parts(args: argparse.Namespace, common: dict[str, Any], progress: Callable[[Any], None] | None) -> Report:
    from tito.distributed import convert_parts
    from tito.distributed.parts import Executor

    executor: Executor | None = None
    if args.ray or args.ray_address is not None:
        from tito.distributed.ray import OnRay

        common["workers"] = common["workers"] or 1
        executor = OnRay(args.ray_address, threads=common["workers"])
    # Ray tells of dead workers on stdout.
    with redirect_stdout(sys.stderr):
        return convert_parts(
            args.inputs,
            args.output,
            **common,
            jsonl=True if args.jsonl else None,
            part_bytes=int((args.part_mb or 1000) * 1e6),
            executor=executor,
            progress=progress,
        )
