"""Files here and elsewhere: paths as they are, URLs (`s3://...`, `memory://...`) through fsspec."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tito import _core
from tito.errors import UsageError, WorldError, with_hint

__all__ = ["File", "Folder", "bring", "list_files"]


@dataclass(frozen=True, slots=True)
class File:
    """A file to read: its name, its bytes, and whether it was found in a folder that was named."""

    name: str
    bytes: int
    found: bool


def _is_url(name: str) -> bool:
    return "://" in name


def _filesystem(name: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise with_hint(WorldError(f"{name}: fsspec is not installed"), "pip install 'tito-distill[ray]'") from None
    try:
        system, path = url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise with_hint(WorldError(f"{name}: {error}"), "install the package of that file system") from None
    return system, path


def list_files(inputs: Sequence[str]) -> tuple[list[File], list[str], int]:
    """The files that inputs stand for, in a fixed order, each once; what stands in folders and is no file; how many
    were named more than once."""
    found: dict[str, File] = {}
    left_out: list[str] = []
    named = 0
    for name in inputs:
        if name == "-":
            raise with_hint(UsageError("standard input cannot be cut into parts"), "name files or folders")
        if _is_url(name):
            files = _list_url(name)
        else:
            listed, no_files = _core.list_inputs([name])
            files = [File(*one) for one in listed]
            left_out += no_files
        named += len(files)
        for file in files:
            found.setdefault(file.name if _is_url(file.name) else os.path.realpath(file.name), file)
    return list(found.values()), left_out, named - len(found)


def _list_url(name: str) -> list[File]:
    system, path = _filesystem(name)
    if system.isfile(path):
        return [File(name, system.size(path), False)]
    if re.search(r"[*?\[]", path) and (paths := [p for p in system.glob(path) if system.isfile(p)]):
        return [File(system.unstrip_protocol(p), system.size(p), False) for p in _core.in_name_order(paths)]
    inside = system.find(path, detail=True)
    shown = [(p, inside[p]) for p in _core.in_name_order(list(inside)) if "/." not in p.removeprefix(path)]
    if not shown:
        raise with_hint(WorldError(f"{name}: no such file"), "check the path; a pattern must match at least one file")
    return [File(system.unstrip_protocol(p), info["size"], True) for p, info in shown]


def bring(names: Sequence[str], folder: Path) -> list[str]:
    """Paths where the files can be read: their own, or those of copies in `folder`."""
    paths = []
    for name in names:
        if not _is_url(name):
            paths.append(name)
            continue
        system, path = _filesystem(name)
        above, _, last = path.rpartition("/")
        # What lay in one folder lies in one folder: a verdict beside trajectories is read with them.
        beside = folder / hashlib.sha256(above.encode()).hexdigest()[:16]
        beside.mkdir(exist_ok=True)
        system.get_file(path, str(beside / last))
        with suppress(FileNotFoundError):
            if not (beside / "eval.json").exists():
                system.get_file(f"{above}/eval.json", str(beside / "eval.json"))
        paths.append(str(beside / last))
    return paths


class Folder:
    """The folder of an output, here or elsewhere."""

    def __init__(self, output: str) -> None:
        self.output = output
        self._system: Any = None
        path = output
        if _is_url(output):
            self._system, path = _filesystem(output)
        self._folder, _, self.name = path.rpartition("/")
        if not self.name or (self._system is None and Path(path).is_dir()):
            raise with_hint(UsageError(f"{output} is a folder"), "name the file to write, like rows.parquet")

    def path(self, *parts: str) -> str:
        """A path inside it."""
        return "/".join([self._folder, *parts] if self._folder else parts)

    def shown(self, name: str) -> str:
        """A file in it as the user would name it."""
        return f"{self.output.rpartition('/')[0]}/{name}" if "/" in self.output else name

    def refuse_old_parts(self) -> None:
        """Raises `UsageError` when parts of an earlier run are there: some might stay among the new ones."""
        stem, dot, extension = self.name.rpartition(".")
        stem, extension = (stem, dot + extension) if dot else (self.name, "")
        pattern = re.compile(rf"{re.escape(stem)}(\..*)?-\d{{5,}}{re.escape(extension)}")
        folder = self._folder or "."
        if self._system is None:
            if not os.path.isdir(folder):
                hint = f"there is no folder {folder}; make it first: mkdir -p {folder}"
                raise with_hint(WorldError(f"{self.output}: cannot write: no such folder"), hint)
            there = os.listdir(folder)
        else:
            there = [p.rsplit("/", 1)[-1] for p in self._system.ls(folder, detail=False)] if self._exists() else []
        if old := sorted(name for name in there if pattern.fullmatch(name)):
            message = f"{self.shown(old[0])} is there already"
            hint = f"remove {stem}-*{extension} or write elsewhere: old parts would be read with the new ones"
            raise with_hint(UsageError(message), hint)

    def _exists(self) -> bool:
        return bool(self._system.isdir(self._folder))

    def make(self, name: str) -> None:
        """Makes a folder in it."""
        if self._system is None:
            os.makedirs(self.path(name), exist_ok=True)
        else:
            self._system.makedirs(self.path(name), exist_ok=True)

    def direct(self, *parts: str) -> str | None:
        """Where the core can write a file of it; None elsewhere than here."""
        return self.path(*parts) if self._system is None else None

    def put(self, source: Path, *parts: str) -> None:
        """Copies a file into it."""
        self._system.put_file(str(source), self.path(*parts))

    def put_all(self, source: Path, name: str) -> None:
        """Copies all files of a folder into a new one in it."""
        self.make(name)
        for file in sorted(source.iterdir()):
            if self._system is not None:
                self.put(file, name, file.name)
            else:
                # Whoever reads it must find it whole, though this is done a second time.
                part = self.path(name, f".{file.name}.{uuid.uuid4().hex[:12]}")
                shutil.copyfile(file, part)
                os.replace(part, self.path(name, file.name))

    def move(self, source: Sequence[str], name: str) -> None:
        """Gives a file in it its name."""
        if self._system is None:
            os.replace(self.path(*source), self.path(name))
        else:
            self._system.mv(self.path(*source), self.path(name))

    def write(self, name: str, text: str, staged: Sequence[str]) -> None:
        """Writes a small file in it."""
        if self._system is None:
            Path(self.path(*staged)).write_text(text, encoding="utf-8")
        else:
            self._system.pipe_file(self.path(*staged), text.encode())
        self.move(staged, name)

    def remove(self, *parts: str) -> None:
        """Removes a file or a folder in it, if it is there."""
        path = self.path(*parts)
        if self._system is not None:
            with suppress(FileNotFoundError):
                self._system.rm(path, recursive=True)
        elif os.path.isdir(path):
            shutil.rmtree(path)
        else:
            with suppress(FileNotFoundError):
                os.remove(path)
