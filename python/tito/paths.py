"""Names of files, as the core takes them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tito.errors import UsageError, with_hint

__all__ = ["Paths", "utf8_path", "utf8_paths"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One path, or several."""


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


def utf8_paths(paths: Paths) -> list[str]:
    """The same of one path or several.

    >>> utf8_paths("a.jsonl"), utf8_paths(["a.jsonl", "b.jsonl"])
    (['a.jsonl'], ['a.jsonl', 'b.jsonl'])
    """
    return [utf8_path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
