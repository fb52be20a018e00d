"""Names of files, as the core takes them."""

from __future__ import annotations

import os

from tito.errors import UsageError, with_hint

__all__ = ["utf8_path"]


def utf8_path(path: str | os.PathLike[str]) -> str:
    """The path as text. Raises `UsageError` for one that is not UTF-8.

    >>> utf8_path("calls.jsonl")
    'calls.jsonl'
    """
    name = os.fsdecode(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        seen = name.encode("utf-8", "backslashreplace").decode()
        raise with_hint(UsageError(f"{seen}: the name is not UTF-8"), "rename the file, or link to it") from None
    return name
