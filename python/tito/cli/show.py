"""`tito show`: rows and captures for people."""

from __future__ import annotations

import argparse
import os
import sys

from tito.cli.options import count, count_from_1
from tito.errors import DataError, UsageError, with_hint

ABOUT = "print rows or captured calls: who, whence, where loss falls, and the text or the ids"
EXAMPLE = """\
example:
  tito show rows.parquet --n 2 --tokenizer models/my-model
  tito show rows.parquet --row 7
  tito show captures/calls.jsonl --record 3

Rows count from 0, as in Python and in what `tito verify` prints; records of a capture count from 1, as lines of a file
and places in errors do. Each has an option of its own. Without --tokenizer ids are shown. What is trained (of captures:
what was sampled) stands between the marks \u27e6 and \u27e7. Text is decoded for reading only; nothing is made of it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("file", metavar="FILE", help="rows (.parquet, .jsonl, folder or glob of shards) or a capture")
    parser.add_argument("--n", type=count, default=3, metavar="N", help="how many (default 3)")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--row", type=count, metavar="N", help="this row of a rows file, from 0")
    one.add_argument("--record", type=count_from_1, metavar="N", help="this record of a capture, from 1")
    parser.add_argument("--from", dest="from_format", metavar="FORMAT", help="the capture's format (tito formats)")
    parser.add_argument("--tokenizer", metavar="DIR", help="decode with this tokenizer (folder or tokenizer.json)")
    parser.add_argument("--ids", action="store_true", help="ids even where there is a tokenizer")
    parser.add_argument("--full", action="store_true", help="whole stretches, not shortened in the middle")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from tito import _core
    from tito.paths import utf8_path
    from tito.rows import looks_like_rows, open_rows
    from tito.show import Painter, load_decoder, show_call, show_file, show_row

    decode = load_decoder(args.tokenizer) if args.tokenizer and not args.ids else None
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    painter = Painter(decode, colour=colour, width=None if args.full else 800 if decode else 24)
    if args.from_format is None and looks_like_rows(args.file):
        rows = open_rows(args.file)
        if args.record is not None:
            raise with_hint(UsageError(f"{args.file} holds rows, not records"), "name one with --row N, from 0")
        sys.stdout.write(show_file(rows))
        if args.row is not None and args.row >= len(rows):
            raise with_hint(UsageError(f"no row {args.row}: there are {len(rows)}"), "rows are counted from 0")
        numbers = range(min(args.n, len(rows))) if args.row is None else [args.row]
        for number in numbers:
            sys.stdout.write("\n" + show_row(number, rows[number], painter))
        return 0
    if args.row is not None:
        raise with_hint(UsageError(f"{args.file} holds captures, not rows"), "name one with --record N, from 1")
    calls = _core.call_ids(utf8_path(args.file), record=args.record, limit=args.n, from_format=args.from_format)
    if not calls:
        if args.record is None:
            raise with_hint(DataError(f"{args.file}: no captures"), "`tito formats` shows what is read")
        raise with_hint(UsageError(f"{args.file}: no record {args.record}"), "records of a capture are counted from 1")
    sys.stdout.write(f"{args.file}: captured calls; what was sampled stands between \u27e6 and \u27e7\n")
    for call in calls:
        sys.stdout.write("\n" + show_call(call, painter))
    return 0
