"""Files and folders written whole or not at all, and what a file's bytes are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tito.errors import TitoError, WorldError, with_hint

__all__ = ["file_hash", "staged", "write_whole"]


@contextmanager
def staged(path: Path, *, replace_folder: bool = False) -> Iterator[Path]:
    """A hidden place beside `path` to write a file or a folder to; what stands there at the end gets the name.

    After an error nothing is left. A file that stands at `path` already is replaced, a folder only where
    `replace_folder` says so. Raises `WorldError` for what cannot be written.
    """
    try:
        hidden = Path(tempfile.mkdtemp(prefix=".tito-", dir=path.parent))
    except FileNotFoundError:
        raise with_hint(WorldError(f"{path.parent}: no such folder"), "make it first") from None
    except OSError as error:
        raise with_hint(WorldError(f"{path}: cannot write: {error.strerror}"), "check the output's folder") from None
    try:
        place = hidden / path.name
        yield place
        if place.is_file():
            with place.open("rb") as file:
                os.fsync(file.fileno())
        if replace_folder and path.is_dir():
            path.rename(hidden / "older")
        place.replace(path)
    except TitoError:
        raise
    except OSError as error:
        if error.filename and not str(error.filename).startswith(str(hidden)):
            # About a file that is read.
            raise
        said = os.strerror(error.errno) if error.errno else str(error)
        hint = "free some space or write elsewhere; nothing was left under the final name"
        raise with_hint(WorldError(f"{path}: cannot write: {said}"), hint) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text. Raises `WorldError` where it cannot be."""
    with staged(path) as place:
        place.write_text(text, encoding="utf-8")


def file_hash(path: str | os.PathLike[str]) -> str:
    """The hash of a file's bytes: `sha256:` and 64 hex digits."""
    # Here, because importing the package loads no hashes.
    from hashlib import file_digest

    with open(path, "rb") as file:
        return f"sha256:{file_digest(file, 'sha256').hexdigest()}"
