"""The trained adapter as a folder that PEFT and servers load: `adapter_config.json` and `adapter_model.safetensors`.

Servers know a model with a vision tower by its wrapper class. Keys of the text class would load there without a word
and do nothing, so the adapter of such a model is written with the wrapper's names, which the text class takes too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tito.adapter.keys import rename
from tito.files import staged
from tito.train.base import Base
from tito.train.config import TrainConfig

__all__ = ["save_adapter", "to_live", "to_served"]

_PEFT = "base_model.model."


def to_served(key: str, base: Base) -> str:
    """A key of the live model as servers know it."""
    return _PEFT + rename(key.removeprefix(_PEFT), "wrapper") if base.wrapped else key


def to_live(key: str, base: Base) -> str:
    """The other way."""
    return _PEFT + rename(key.removeprefix(_PEFT), "text") if base.wrapped else key


def save_adapter(
    model: Any, tensors: Mapping[str, torch.Tensor], folder: Path, base: Base, config: TrainConfig
) -> None:
    """Writes the folder whole, in place of an older one."""
    from safetensors.torch import save_file

    with staged(folder, replace_folder=True) as place:
        place.mkdir()
        peft = model.peft_config["default"]
        told = peft.to_dict()
        told |= {"base_model_name_or_path": config.base_name or config.base, "inference_mode": True}
        # An enum to some readers, a text to others; a plain text is read by both.
        told["task_type"] = "CAUSAL_LM"
        told = {key: sorted(value) if isinstance(value, set) else value for key, value in told.items()}
        text = json.dumps(told, indent=2, sort_keys=True, default=str)
        (place / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
        served = {to_served(key, base): value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(served, place / "adapter_model.safetensors", metadata={"format": "pt"})
