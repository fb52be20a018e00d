"""Files and folders written whole or not at all, and what a file's bytes are."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tito.errors import TitoError, WorldError, with_hint

__all__ = ["file_hash", "staged", "write_whole"]

_OLDER = "older"


@contextmanager
def staged(path: Path, *, replace_folder: bool = False) -> Iterator[Path]:
    """A hidden place beside `path` to write a file or a folder to; what stands there at the end gets the name.

    After an error nothing is left. A file that stands at `path` already is replaced, a folder only where
    `replace_folder` says so: on Linux the two change places at once, elsewhere the older one is put aside until the new
    one has the name, and put back where it does not get it. What was written lies on disk before it gets the name.
    Raises `WorldError` for what cannot be written.
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
        _settle(place)
        if replace_folder and path.is_dir():
            _change_places(place, path, hidden)
        else:
            place.replace(path)
        _sync(path.parent)
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
        # An older folder that could not be put back stays where it is.
        if not (hidden / _OLDER).exists() or path.exists():
            shutil.rmtree(hidden, ignore_errors=True)


def _settle(place: Path) -> None:
    """A file, or all that is in a folder, from the deepest up, goes to the disk."""
    if place.is_dir():
        for folder, _, names in os.walk(place, topdown=False):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
    elif place.is_file():
        _sync(place)


def _sync(path: Path) -> None:
    try:
        number = os.open(path, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):
        if path.is_dir():
            # Folders cannot be opened everywhere.
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        # Some file systems know no fsync of a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(number)


def _change_places(new: Path, path: Path, hidden: Path) -> None:
    """`path` is at no moment nothing where the system exchanges names; the older folder ends in `hidden`."""
    if _exchange(new, path):
        return
    older = hidden / _OLDER
    path.rename(older)
    try:
        new.rename(path)
    except BaseException:
        older.rename(path)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Two names change places at once; False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    here, exchange = -100, 2
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return int(rename(here, os.fsencode(one), here, os.fsencode(other), exchange)) == 0


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
