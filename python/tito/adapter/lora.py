"""A LoRA adapter on disk: PEFT's `adapter_config.json` beside `adapter_model.safetensors`, and its content hash.

The hash stands for what the adapter does: tensors, and the settings that scale or place them. The base's path, the
library's version and the order of keys do not count.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tito.adapter.tensors import Tensor, read_tensors
from tito.errors import DataError, UsageError, WorldError, with_hint

__all__ = ["CONFIG", "WEIGHTS", "LoraAdapter", "Module", "task_type"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(r"^(?P<module>.+?)\.lora_(?P<part>A|B|embedding_A|embedding_B)(?:\.(?P<name>\w+))?(?:\.weight)?$")
# Settings that change what the tensors do.
_MEANS = (
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
    *("bias", "lora_bias", "layer_replication", "modules_to_save", "target_parameters", "alora_invocation_tokens"),
)


@dataclass(frozen=True, slots=True)
class Module:
    """The two tensors of one adapted module."""

    name: str
    """As the base spells it: `model.layers.0.self_attn.q_proj`."""
    a: Tensor
    """`[rank, inputs]`."""
    b: Tensor
    """`[outputs, rank]`."""

    @property
    def rank(self) -> int:
        """The rank, as the tensors have it."""
        return self.a.shape[0]


class LoraAdapter:
    """A LoRA adapter's folder. Opening reads its settings and the names and shapes of its tensors.

    Raises `WorldError` where a file is missing, `DataError` for one that is broken or is no LoRA.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.config = _read_config(self.folder)
        self.tensors = _read_weights(self.folder)

    @property
    def rank(self) -> int:
        """`r`."""
        return int(self.config["r"])

    @property
    def alpha(self) -> float:
        """`lora_alpha`."""
        return float(self.config["lora_alpha"])

    @property
    def most_rank(self) -> int:
        """The highest rank of any module, patterns included: what a server must have room for."""
        return max([self.rank, *(int(r) for r in (self.config.get("rank_pattern") or {}).values())])

    @property
    def scaling(self) -> float:
        """What `B @ A` is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.config.get("use_rslora") else self.rank)

    @property
    def base_name(self) -> str:
        """The base it says it was trained on."""
        return str(self.config.get("base_model_name_or_path") or "")

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """The adapted modules by name. `DataError` for a tensor without its partner, or shapes that do not multiply."""
        halves: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            if found := _PART.match(name.removeprefix(_PREFIX)):
                halves.setdefault(found["module"], {})[found["part"].removeprefix("embedding_")] = tensor
        made = []
        for name in sorted(halves):
            pair = halves[name]
            if len(pair) != 2:
                [there] = pair
                raise with_hint(
                    DataError(f"{self.folder}: {name}: lora_{there} without lora_{'B' if there == 'A' else 'A'}"),
                    "the file is not whole: export the adapter again",
                )
            a, b = pair["A"], pair["B"]
            if len(a.shape) == 2 and (len(b.shape) != 2 or a.shape[0] != b.shape[1]):
                raise with_hint(
                    DataError(f"{self.folder}: {name}: A {list(a.shape)} and B {list(b.shape)} do not multiply"),
                    "the file is not whole: export the adapter again",
                )
            made.append(Module(name, a, b))
        return tuple(made)

    @property
    def others(self) -> tuple[str, ...]:
        """Tensors that are no part of a pair: whole matrices of `modules_to_save` and the like."""
        return tuple(name for name in self.tensors if not _PART.match(name.removeprefix(_PREFIX)))

    @cached_property
    def hash(self) -> str:
        """The content hash, `sha256:` and 64 hex digits; see the module. Reads all bytes, once."""
        means = {name: self.config.get(name) for name in _MEANS if self.config.get(name)}
        digest = hashlib.sha256(json.dumps(means, sort_keys=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
            digest.update(tensor.data())
        return f"sha256:{digest.hexdigest()}"

    def served_name(self, base: str) -> str:
        """A name that no other content has: the base's and twelve digits of the content hash."""
        return f"{base}-lora-{self.hash.removeprefix('sha256:')[:12]}"


def task_type(value: object) -> str | None:
    """A task type as plain text: `CAUSAL_LM`, also where an enum or its printed form was stored.

    >>> task_type("TaskType.CAUSAL_LM"), task_type({"value": "CAUSAL_LM"}), task_type(None)
    ('CAUSAL_LM', 'CAUSAL_LM', None)
    """
    if isinstance(value, Mapping):
        value = value.get("value")
    value = getattr(value, "value", value)
    return None if value is None else str(value).rpartition(".")[2]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise with_hint(WorldError(f"{folder}: no such folder"), f"name the folder that holds {CONFIG}")
    if not path.is_file():
        shards = any(folder.rglob("model_world_size_*_rank_0.pt"))
        hint = f"shards: `tito adapter merge {folder} -o DIR` makes one of them" if shards else "name a LoRA's folder"
        raise with_hint(WorldError(f"{path}: no such file"), hint)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise with_hint(DataError(f"{path}: {error}"), "export the adapter again") from None
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        seen = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise with_hint(DataError(f"{path}: {seen} is no LoRA"), "only LoRA adapters are read")
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise with_hint(
                DataError(f"{path}: {key} is {value!r}; with it the adapter does nothing"),
                f"set {key} as it was trained",
            )
    config["task_type"] = task_type(config.get("task_type"))
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise with_hint(
            UsageError(f"{folder}: adapter_model.bin is a pickle, and not read"),
            "load it with peft and save it with safe_serialization=True",
        )
    if not (tensors := read_tensors(path)):
        raise with_hint(DataError(f"{path}: no tensors"), "an FSDP save may have written no adapter: merge its shards")
    return tensors
