"""A LoRA adapter merged into its base's weights, for servers that take none: added in float32, rounded once."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from tito.adapter.base import BaseModel
from tito.adapter.inspect import refusals
from tito.adapter.keys import core_name
from tito.adapter.lora import LoraAdapter, Module
from tito.adapter.tensors import Part, Tensor, write_tensors
from tito.adapter.write import ORIGIN, new_folder
from tito.errors import DataError, UsageError, WorldError, with_hint

__all__ = ["fuse"]


def fuse(adapter: LoraAdapter, base: BaseModel, output: Path) -> None:
    """Writes a model's folder to `output`: `W + scaling * B A`, every tensor in the base's own type.

    Raises `UsageError` for a quantised base or an adapter that is no plain LoRA, `DataError` for one of another base.
    """
    if base.quantised:
        raise with_hint(
            UsageError(f"{base.folder}: quantised ({base.quantised})"), "merge into the full-precision base"
        )
    if adapter.config.get("rank_pattern") or adapter.config.get("alpha_pattern") or refusals(adapter):
        said = (refusals(adapter) or ["ranks or alphas differ by module"])[0]
        raise with_hint(UsageError(f"{adapter.folder}: {said}"), "merge it with peft's merge_and_unload")
    if not base.tensors:
        raise with_hint(WorldError(f"{base.folder}: no safetensors weights"), "save the base as safetensors")
    weights = {core_name(name.removesuffix(".weight")): name for name in base.tensors if name.endswith(".weight")}
    deltas: dict[str, Module] = {}
    for module in adapter.modules:
        name = weights.get(core_name(module.name))
        if name is None or base.tensors[name].shape != (module.b.shape[0], module.a.shape[1]):
            raise with_hint(
                DataError(f"{adapter.folder}: {module.name} does not fit {base.folder}"),
                "name the base it was trained on",
            )
        deltas[name] = module
    with new_folder(output) as folder:
        for path in base.folder.iterdir():
            if path.is_file() and path.suffix not in (".safetensors", ".bin", ".pt", ".gguf"):
                shutil.copy(path, folder)
        for file in sorted({tensor.file for tensor in base.tensors.values()}):
            there = [tensor for tensor in base.tensors.values() if tensor.file == file]
            write_tensors(folder / file.name, [_part(tensor, deltas, adapter.scaling) for tensor in there])
        note = {"from": {"hash": adapter.hash, "folder": str(adapter.folder)}, "base": base.hash, "keys": "merged"}
        (folder / ORIGIN).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _part(tensor: Tensor, deltas: dict[str, Module], scaling: float) -> Part:
    module = deltas.get(tensor.name)
    if module is None:
        return tensor.part()
    return Part(tensor.name, tensor.dtype, tensor.shape, partial(_merged, tensor, module, scaling))


def _merged(tensor: Tensor, module: Module, scaling: float) -> bytes:
    weight = tensor.array().astype(np.float32) + np.float32(scaling) * (module.b.array() @ module.a.array())
    if tensor.dtype == "BF16":
        bits = weight.astype(np.float32).view(np.uint32)
        # To nearest, ties to even, as torch rounds.
        rounded: bytes = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
        return rounded
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    plain: bytes = weight.astype(kinds[tensor.dtype]).tobytes()
    return plain
