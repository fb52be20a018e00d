"""`tito check`: whether captures are sound."""

from __future__ import annotations

import argparse
import sys

from tito.cli.options import add_input_options, add_policy_options, input_options, policies
from tito.cli.watch import bar, tell

ABOUT = "say whether captures are sound, and what rows they would give"
EXAMPLE = """\
example:
  tito check captures/ --think strip

Reads everything, writes nothing. Exit 1 when any call is bad; the first three of each kind are named.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_input_options(parser, checks=True)
    add_policy_options(parser)
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="no report and no progress; findings and warnings stay")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from tito.convert import check
    from tito.report import Report

    # All that is bad is wanted here, not the first alone; `--bad skip` then forgives it.
    chosen = policies(args, bad="skip")
    with bar(args.quiet) as progress:
        # What later prompts show of answers costs a check little, and drift is what nobody sees.
        given = {**input_options(args), "prove_think": True}
        report = check(args.inputs, **given, policies=chosen, expect_rows=args.expect_rows, progress=progress)
    report = Report({**report.data, "policies": {**report.data["policies"], "bad": policies(args).bad}})
    tell(report, quiet=args.quiet, as_json=args.json)
    for reason, examples in report.examples.items():
        for example in examples:
            print(f"{reason}: {example}", file=sys.stderr)
    if not report.bad or policies(args).bad == "skip":
        return 0
    print(f"error: {report.bad:,} of {report.calls_seen:,} calls are bad", file=sys.stderr)
    print("hint: mend the captures, or leave bad calls out with --bad skip", file=sys.stderr)
    return 1
