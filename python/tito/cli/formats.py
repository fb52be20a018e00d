"""`tito formats`: what can be read, and a line of each."""

from __future__ import annotations

import argparse
import json

from tito import _core

ABOUT = "list the capture formats that are read, with a line of each"
EXAMPLE = """\
example:
  tito formats

A format is told by the keys of a file's first record, never by the file's name; --from NAME overrides.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    formats = json.loads(_core.formats_json())
    if args.json:
        print(json.dumps(formats, indent=2))
        return 0
    print("\n\n".join(f"{format['name']}: {format['about']}\n{format['example']}" for format in formats))
    return 0
