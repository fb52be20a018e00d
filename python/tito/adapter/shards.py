"""Sharded checkpoints of verl (`model_world_size_W_rank_R.pt`, FSDP) merged to a LoRA adapter as PEFT has it.

Each file is a state dict whose tensors are DTensors, sharded along one dimension or replicated, or plain copies. They
are read with torch's restricted loader: a file that wants to run code is refused. Types stay as they are (verl's own
merger casts to bfloat16), and an alpha that nobody wrote down is asked for: verl writes 0, and nothing is applied.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tito.adapter.lora import CONFIG, LoraAdapter, task_type
from tito.adapter.tensors import Part
from tito.adapter.write import write_adapter
from tito.errors import DataError, UsageError, WorldError, with_hint

__all__ = ["merge_shards"]

_FILE = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt$")
_PREFIX = "base_model.model."


def merge_shards(
    checkpoint: Path, output: Path, *, alpha: float | None = None, base_name: str | None = None
) -> LoraAdapter:
    """Merges the shards in `checkpoint` (a step's folder or its `actor`) and writes the adapter to `output`.

    Raises `UsageError` where no alpha is known, `DataError` for shards that are missing, contradict each other, hold
    no LoRA or are sharded in a way that is not known, `WorldError` where torch is not installed.
    """
    folder, world = _find(checkpoint)
    shards = [_load(folder / f"model_world_size_{world}_rank_{rank}.pt") for rank in range(world)]
    names = [{name for name in shard if "lora_" in name} for shard in shards]
    if not names[0]:
        raise with_hint(DataError(f"{folder}: no LoRA tensors in the shards"), "a full fine-tune has no adapter")
    if any(other != names[0] for other in names):
        odd = next(rank for rank, other in enumerate(names) if other != names[0])
        raise with_hint(DataError(f"{folder}: rank {odd} holds other tensors than rank 0"), "the save was cut off")
    merged = {_peft_name(name): _join(folder, name, [s[name] for s in shards]) for name in sorted(names[0])}
    config = _config(folder, checkpoint, merged, alpha, base_name)
    parts = [Part(name, "F32", array.shape, array.tobytes) for name, array in merged.items()]
    return write_adapter(output, config, parts, origin=str(folder), keys="as trained")


def _find(checkpoint: Path) -> tuple[Path, int]:
    if not checkpoint.is_dir():
        raise with_hint(WorldError(f"{checkpoint}: no such folder"), "name a checkpoint's folder")
    found = [path for path in sorted(checkpoint.rglob("*.pt")) if _FILE.search(path.name)]
    folders = {path.parent for path in found}
    if len(folders) != 1:
        what = "no model_world_size_*_rank_*.pt" if not folders else f"{len(folders)} checkpoints"
        raise with_hint(UsageError(f"{checkpoint}: {what}"), "name the folder of one checkpoint, like global_step_N")
    [folder] = folders
    worlds = {int(_FILE.search(path.name)[1]) for path in found}  # type: ignore[index]
    if len(worlds) != 1:
        raise with_hint(DataError(f"{folder}: shards of several world sizes {sorted(worlds)}"), "take the others away")
    [world] = worlds
    there = {int(_FILE.search(path.name)[2]) for path in found}  # type: ignore[index]
    if missing := sorted(set(range(world)) - there):
        raise with_hint(DataError(f"{folder}: rank {missing[0]} of {world} is missing"), "copy all ranks' files")
    return folder, world


def _load(path: Path) -> dict[str, Any]:
    try:
        import torch
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
        from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
    except ImportError as error:
        raise with_hint(WorldError("reading shards needs torch"), "in the checkout: pip install '.[serve]'") from error
    known = [DTensor, DeviceMesh, Shard, Replicate, Partial, DTensorSpec, TensorMeta]
    try:
        with torch.serialization.safe_globals([*known, *_mesh_parts()]):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises pickle's, zip's and its own
        raise with_hint(
            DataError(f"{path}: not read: {str(error).splitlines()[0]}"),
            "cut off, or of a layout that is not known: merge it with `python -m verl.model_merger`",
        ) from error
    if not isinstance(state, dict):
        raise with_hint(DataError(f"{path}: no state dict"), "merge it with `python -m verl.model_merger`")
    return state


def _mesh_parts() -> list[Any]:
    """What a pickled device mesh is made of besides, which differs by version of torch."""
    import torch.distributed.device_mesh as mesh

    return [found for name in ("_MeshLayout", "_FlatLayout") if (found := getattr(mesh, name, None))]


def _join(folder: Path, name: str, parts: list[Any]) -> npt.NDArray[np.float32]:
    import torch

    placements = {getattr(part, "placements", None) for part in parts}
    if len(placements) != 1:
        raise with_hint(DataError(f"{folder}: {name}: ranks disagree on how it is sharded"), "the save was cut off")
    [placement] = placements
    if placement is None or all(p.is_replicate() for p in placement):
        local = [part if placement is None else part.to_local() for part in parts]
        if any(not torch.equal(one, local[0]) for one in local[1:]):
            raise with_hint(DataError(f"{folder}: {name}: copies of several ranks differ"), "the save was cut off")
        whole = local[0]
    # A mesh of (ddp, fsdp) replicates over its first dimension.
    elif placement[-1].is_shard() and all(p.is_replicate() for p in placement[:-1]):
        mesh = parts[0].device_mesh.mesh
        last = mesh.reshape(-1, mesh.shape[-1])[0].tolist()
        whole = torch.cat([parts[rank].to_local() for rank in last], dim=placement[-1].dim)
    else:
        raise with_hint(
            DataError(f"{folder}: {name}: sharded as {placement}, which is not known"),
            "merge it with `python -m verl.model_merger`",
        )
    if placement is not None and tuple(whole.shape) != tuple(parts[0].shape):
        raise with_hint(
            DataError(f"{folder}: {name}: shards give {list(whole.shape)}, wanted {list(parts[0].shape)}"),
            "the save was cut off",
        )
    array: npt.NDArray[np.float32] = whole.to(torch.float32).numpy()
    return array


def _peft_name(name: str) -> str:
    plain = name.removeprefix("_fsdp_wrapped_module.").replace("._fsdp_wrapped_module", "")
    plain = re.sub(r"\.lora_([AB])\.\w+\.weight$", r".lora_\1.weight", plain)
    return plain if plain.startswith(_PREFIX) else _PREFIX + plain


def _config(
    folder: Path,
    checkpoint: Path,
    merged: dict[str, npt.NDArray[np.float32]],
    alpha: float | None,
    base_name: str | None,
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in ("lora_train_meta.json", f"lora_adapter/{CONFIG}"):
        for place in dict.fromkeys((folder, checkpoint)):
            if (path := place / name).is_file():
                try:
                    told = {**json.loads(path.read_text(encoding="utf-8")), **told}
                except ValueError as error:
                    raise with_hint(DataError(f"{path}: {error}"), "repair the file or take it away") from None
    rank = next(array.shape[0] for name, array in merged.items() if ".lora_A." in name)
    if told.get("r") not in (None, rank):
        raise with_hint(
            DataError(f"{folder}: rank {rank} in the shards, {told['r']} in what is written beside them"),
            "name one run's checkpoint",
        )
    if not (known := alpha or told.get("lora_alpha")):
        raise with_hint(
            UsageError(f"{folder}: lora_alpha stands nowhere, and without it the adapter's strength is a guess"),
            "give --alpha as it was trained",
        )
    modules = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in merged})
    return {
        "peft_type": "LORA",
        "task_type": task_type(told.get("task_type")) or "CAUSAL_LM",
        "r": rank,
        "lora_alpha": known,
        "target_modules": modules,
        "bias": "none",
        "base_model_name_or_path": base_name or told.get("base_model_name_or_path"),
    }
