"""`tito verify`: whether rows are what was sampled."""

from __future__ import annotations

import argparse
import json
import sys

from tito.cli.options import count
from tito.cli.watch import bar

ABOUT = "say whether rows are what was sampled: make them again from their captures and compare every value"
EXAMPLE = """\
example:
  tito convert captures/ -o rows.parquet --think strip
  tito verify rows.parquet --captures captures/

Policies and profile are those stored in the rows file. Rows may be some of a run's, shuffled, in any number of files.
Captures may have moved: a name is compared from its end, as many parts as the path has inside the folder named here,
the file's own name where the file is named; .gz and .zst do not count. What depends on a whole run (copies of
fractions, relative weights) needs all its captures in their order. Rows that do not verify go to stdout, a line each:
the file, the row (from 0, as `tito show FILE --row ROW` takes it), the column and the position. Exit 1 if any.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("rows", nargs="+", metavar="ROWS", help="files, folders or globs of rows")
    parser.add_argument(
        "--captures", nargs="+", required=True, metavar="DUMP", help="files, folders or globs of what they were made of"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="the one of the run, where its rules read text")
    parser.add_argument("--n", type=count, default=10, metavar="N", help="most rows that are listed (default 10)")
    parser.add_argument("--workers", type=count, default=0, metavar="N", help="threads (default: all cores)")
    parser.add_argument("--json", action="store_true", help="the account as JSON on stdout, in place of the lines")
    parser.add_argument("--quiet", action="store_true", help="no account and no progress; failures stay")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from tito.verify import verify

    with bar(args.quiet) as progress:
        found = verify(
            args.rows, args.captures, tokenizer=args.tokenizer, n=args.n, workers=args.workers, progress=progress
        )
    if args.json:
        print(json.dumps(found.data, indent=2, ensure_ascii=False))
    else:
        for failure in found.failures:
            print(failure)
    sys.stdout.flush()
    if not args.quiet and not args.json:
        sys.stderr.write(found.text())
    if found.ok:
        return 0
    if found.rows == 0:
        message = f"there are no rows, and these captures give {found.missing:,}"
        hint = "convert the captures again, or name those that the rows were made of"
    else:
        message = f"{found.rows - found.verified:,} of {found.rows:,} rows do not verify"
        hint = "convert the captures again, or name all captures the rows were made of, in the order of their run"
    print(f"error: {message}", file=sys.stderr)
    print(f"hint: {hint}", file=sys.stderr)
    return 1
