"""A base model on disk: what adapters, servers and rows must agree with. Reads configs and headers, never weights,
but for its hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tito.adapter.tensors import Tensor, read_tensors
from tito.errors import DataError, WorldError, with_hint

__all__ = ["BaseModel"]

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


class BaseModel:
    """A model's folder. Raises `WorldError` where it is none, `DataError` for a broken config."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / "config.json"
        if not path.is_file():
            raise with_hint(WorldError(f"{path}: no such file"), "name a model's folder; nothing is downloaded")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise with_hint(DataError(f"{path}: {error}"), "copy the model again") from None
        if not isinstance(config, dict):
            raise with_hint(DataError(f"{path}: a JSON object was wanted"), "copy the model again")
        self.config: dict[str, Any] = config

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The settings of the language model, which a wrapper keeps apart."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def architecture(self) -> str:
        """The class that servers load: the first of `architectures`."""
        return str((self.config.get("architectures") or ["unknown"])[0])

    @property
    def context(self) -> int | None:
        """The longest sequence that the model knows positions for."""
        found = self.text_config.get("max_position_embeddings")
        return found if isinstance(found, int) else None

    @property
    def vocab_size(self) -> int | None:
        """Rows of the embedding."""
        found = self.text_config.get("vocab_size")
        return found if isinstance(found, int) else None

    @property
    def quantised(self) -> str | None:
        """How the weights are quantised; None for full precision."""
        found = self.config.get("quantization_config") or self.text_config.get("quantization_config")
        if not found:
            return None
        return str(found.get("quant_method") or "unknown") if isinstance(found, dict) else str(found)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, over all shards; empty where there are none."""
        found: dict[str, Tensor] = {}
        for path in self._files():
            found |= read_tensors(path)
        return found

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """`(inputs, outputs)` of each weight matrix, by module."""
        weights = {name.removesuffix(".weight"): t for name, t in self.tensors.items() if name.endswith(".weight")}
        return {name: (t.shape[1], t.shape[0]) for name, t in weights.items() if len(t.shape) == 2}

    @cached_property
    def hash(self) -> str:
        """Hash of the config and the weight files: names, sizes and contents in the order of their names. Reads them
        all: seconds for a small model, about ten for 20 GB."""
        return hash_weights(self.folder)

    def _files(self) -> list[Path]:
        index = self.folder / _INDEX
        if index.is_file():
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return [self.folder / name for name in sorted(names)]
        single = self.folder / _SINGLE
        return [single] if single.is_file() else []


def hash_weights(folder: Path) -> str:
    """Hash of config and weight files of a model's folder: names, sizes and contents in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.name == "config.json" or p.suffix in (".safetensors", ".bin")):
        whole.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{whole.hexdigest()}"
