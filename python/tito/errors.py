"""The errors of tito. Each has a `hint` that says what to do, and stands for one exit code of the command line."""

from typing import TypeVar

from tito._core import DataError, TitoError, UsageError, WorldError

__all__ = ["DataError", "TitoError", "UsageError", "WorldError", "with_hint"]

_Error = TypeVar("_Error", bound=TitoError)


def with_hint(error: _Error, hint: str) -> _Error:
    """The error, with what to do about it.

    >>> with_hint(UsageError("no output is named"), "add -o rows.parquet").hint
    'add -o rows.parquet'
    """
    error.hint = hint
    return error
