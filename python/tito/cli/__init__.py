"""The command line: one file a verb. Data to stdout, everything else to stderr, errors end in a hint.

Exit codes: 0 done, 1 the data is bad or a check failed, 2 wrong use, 3 the world (disk, a missing file or package),
128 and the signal's number where one stopped it: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tito.cli.parser import Parser

__all__ = ["main"]

_VERBS = (
    "record",
    "convert",
    "check",
    "verify",
    "show",
    "profile",
    "formats",
    "train",
    "serve",
    "probe",
    "adapter",
    "doctor",
)
# What ends a program politely, besides Ctrl-C; Windows has no SIGHUP.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

_EXAMPLE = """\
example:
  tito convert captures/ -o rows.parquet --think strip --upweight 0-2:12
  tito show rows.parquet

exit codes: 0 done, 1 bad data or a failed check, 2 wrong use, 3 the world (disk, files, packages), 130 Ctrl-C,
143 SIGTERM, 129 SIGHUP
"""


class _Stopped(KeyboardInterrupt):
    """A signal that stops the run as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `tito ARGV`; gives the exit code. Wrong arguments exit at once, with 2."""
    _open_streams()
    said = ""
    try:
        with _stop_on_signals():
            args = _parser().parse(argv)
            try:
                return _run(args)
            except KeyboardInterrupt:
                said = args.stopped
                raise
    except KeyboardInterrupt as stop:
        print(f"stopped{said}", file=sys.stderr)
        return 128 + (stop.number if isinstance(stop, _Stopped) else signal.SIGINT)
    finally:
        _mute_stdout()


def _run(args: Any) -> int:
    from tito.errors import DataError, TitoError, UsageError

    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except TitoError as error:
        _complain(str(error), error.hint)
        return 1 if isinstance(error, DataError) else 2 if isinstance(error, UsageError) else 3
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        return 0
    except OSError as error:
        _complain(*_refused(error))
        return 3


def _refused(error: OSError) -> tuple[str, str]:
    """Message and hint for what the system refused."""
    full = error.errno == errno.ENOSPC
    hint = "free some space or write elsewhere" if full else "check path and permissions"
    if error.filename:
        return f"{error.filename}: {error.strerror}", hint
    # What could not be written is still to be, and fails once more; an unbuffered stream forgets it.
    to_stdout = full and getattr(sys.stdout, "write_through", False)
    try:
        sys.stdout.flush()
    except OSError:
        to_stdout = True
    return (f"standard output: cannot write: {error.strerror}" if to_stdout else str(error)), hint


def _open_streams() -> None:
    """Opens what the caller closed, so that no file that is opened later takes its number. What is written to a closed
    stdout fails as a write, not as an attribute of None; what is said to a closed stderr is lost."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _mute_stdout() -> None:
    """Python flushes stdout once more at exit: lets that go well where it cannot."""
    try:
        sys.stdout.flush()
    except OSError:
        # A stdout that is no file has no number.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP stop as Ctrl-C does; one that is ignored (`nohup`) stays so."""

    def stop(number: int, _: object) -> NoReturn:
        raise _Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, handler)


def _parser() -> Parser:
    # Here, so that Ctrl-C while they load is met too.
    from tito._core import __version__
    from tito.cli.parser import Parser

    parser = Parser(
        prog="tito",
        description="Token-exact agent distillation: captures in, training rows out, nothing re-tokenised.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--version", action="version", version=f"tito {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name in _VERBS:
        module = import_module(f"tito.cli.{name}")
        verb = verbs.add_parser(name, help=module.ABOUT, description=f"{module.ABOUT}.", epilog=module.EXAMPLE)
        verb.set_defaults(run=module.run, stopped="", parser=verb)
        module.add_arguments(verb)
    return parser


def _complain(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    print(f"hint: {hint or 'see `tito --help`'}", file=sys.stderr)
