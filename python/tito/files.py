"""Files written whole or not at all, and what their bytes are."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["file_hash", "write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Writes a text: a temporary file beside `path` gets its name at the end, and nothing is left after an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: str | os.PathLike[str]) -> str:
    """The hash of a file's bytes: `sha256:` and 64 hex digits."""
    # Here, because importing the package loads no hashes.
    from hashlib import file_digest

    with open(path, "rb") as file:
        return f"sha256:{file_digest(file, 'sha256').hexdigest()}"
