"""The command line: one file a verb. Data to stdout, everything else to stderr, errors end in a hint.

Exit codes: 0 done, 1 the data is bad or a check failed, 2 wrong use, 3 the world (disk, a missing file or package),
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType

from tito._core import __version__
from tito.cli import check, convert, formats, profile, show
from tito.cli.parser import Parser
from tito.errors import DataError, TitoError, UsageError

__all__ = ["main"]

_VERBS: dict[str, ModuleType] = {
    "convert": convert,
    "check": check,
    "show": show,
    "profile": profile,
    "formats": formats,
}

_EXAMPLE = """\
example:
  tito convert captures/ -o rows.parquet --think strip --upweight 0-2:12
  tito show rows.parquet

exit codes: 0 done, 1 bad data or a failed check, 2 wrong use, 3 the world (disk, files, packages), 130 Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `tito ARGV`; gives the exit code. Wrong arguments exit at once, with 2."""
    args = _parser().parse(argv)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except TitoError as error:
        _complain(str(error), error.hint)
        return 1 if isinstance(error, DataError) else 2 if isinstance(error, UsageError) else 3
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), "check path and permissions")
        return 3
    except KeyboardInterrupt:
        print(f"stopped{args.stopped}", file=sys.stderr)
        return 130


def _parser() -> Parser:
    parser = Parser(
        prog="tito",
        description="Token-exact agent distillation: captures in, training rows out, nothing re-tokenised.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--version", action="version", version=f"tito {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, module in _VERBS.items():
        verb = verbs.add_parser(name, help=module.ABOUT, description=f"{module.ABOUT}.", epilog=module.EXAMPLE)
        verb.set_defaults(run=module.run, stopped="", parser=verb)
        module.add_arguments(verb)
    return parser


def _complain(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    print(f"hint: {hint or 'see `tito --help`'}", file=sys.stderr)
