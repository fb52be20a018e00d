"""Tensor files (safetensors): names, types, shapes and bytes, without torch.

The format is eight bytes of length, a JSON header and the data. It is read here because the numpy side of the library
of that name knows no bfloat16, and because renaming a tensor must copy its bytes, not load them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tito.errors import DataError, WorldError, with_hint

__all__ = ["Part", "Tensor", "read_tensors", "write_tensors"]

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
# A header over this is no header: the library's own limit.
_MOST_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: where its bytes stand."""

    name: str
    dtype: str
    """As the file spells it: F32, BF16, ..."""
    shape: tuple[int, ...]
    file: Path
    start: int
    """Position of the first byte in the file."""
    size: int
    """Bytes."""

    def part(self, name: str | None = None) -> Part:
        """The same bytes, to be written, under another name where one is given."""
        return Part(name or self.name, self.dtype, self.shape, self.data)

    def data(self) -> bytes:
        """The bytes as they stand."""
        with open(self.file, "rb") as file:
            file.seek(self.start)
            return file.read(self.size)

    def array(self) -> npt.NDArray[Any]:
        """The values, as float32 (F64 stays). `DataError` for a type that holds no plain floats."""
        if self.dtype == "BF16":
            wide = np.frombuffer(self.data(), "<u2").astype("<u4") << 16
            return wide.view(np.float32).reshape(self.shape)
        if (kind := _FLOATS.get(self.dtype)) is None:
            raise with_hint(DataError(f"{self.file}: {self.name}: type {self.dtype} holds no floats"), "save as float")
        values = np.frombuffer(self.data(), kind).reshape(self.shape)
        return values if kind is np.float64 else values.astype(np.float32)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in the order of their names; no data is read.

    Raises `WorldError` where there is no such file, `DataError` where it is cut off or no safetensors file.
    """
    header, start, end = _header(path)
    found = {}
    for name in sorted(header):
        if name == "__metadata__":
            continue
        entry = header[name]
        try:
            dtype, shape, (first, last) = entry["dtype"], tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
            size = _BYTES[dtype] * int(np.prod(shape, dtype=np.int64))
        except (KeyError, TypeError, ValueError):
            raise _broken(path, f"the header's entry {name!r} is {json.dumps(entry)[:200]}") from None
        if last - first != size or first < 0 or start + last > end:
            raise _broken(path, f"{name}: {dtype} {list(shape)} does not fit bytes {first} to {last}")
        found[name] = Tensor(name, dtype, shape, path, start + first, size)
    return found


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor to write: what stands in the header, and what gives the bytes when their turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], bytes]


def write_tensors(path: Path, parts: Iterable[Part]) -> None:
    """Writes a file of tensors, one in memory at a time. Not atomic: write where nobody looks yet."""
    ordered = sorted(parts, key=lambda part: part.name)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for part in ordered:
        size = _BYTES[part.dtype] * int(np.prod(part.shape, dtype=np.int64))
        header[part.name] = {"dtype": part.dtype, "shape": list(part.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in ordered:
            file.write(part.data())
        file.flush()
        os.fsync(file.fileno())


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    try:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            size = int.from_bytes(file.read(8), "little")
            if end < 8 or not 0 < size <= min(end - 8, _MOST_HEADER):
                raise _broken(path, f"{end} bytes, of which the header says to take {size}")
            text = file.read(size)
    except FileNotFoundError:
        raise with_hint(WorldError(f"{path}: no such file"), "check the path") from None
    try:
        header = json.loads(text)
    except ValueError as error:
        raise _broken(path, f"the header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise _broken(path, "the header is no object")
    return header, 8 + size, end


def _broken(path: Path, what: str) -> DataError:
    return with_hint(
        DataError(f"{path}: cut off, or no safetensors file: {what}"), "copy or save it again; nothing was changed"
    )
