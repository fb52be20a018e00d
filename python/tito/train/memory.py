"""What a run will take of the device, estimated before anything is loaded, so that too much is said early.

An estimate: weights, gradients and optimiser state are exact; activations are those of a decoder with SDPA or flash
attention, within a third of what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tito.train.base import Base, Targets
from tito.train.config import TrainConfig
from tito.train.machine import memory_limit

__all__ = ["Memory", "available", "estimate"]

# Positions scored at once by the chunked loss, and copies of their logits that forward and backward hold.
_CHUNK, _LOGIT_COPIES = 256, 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device."""

    weights: int
    training: int
    """Gradients, optimiser state and adapter."""
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.training + self.activations + self.logits

    def text(self) -> str:
        """In GiB, part by part."""
        parts = {"weights": self.weights, "gradients and optimiser": self.training}
        parts |= {"activations": self.activations, "logits": self.logits}
        told = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
        return f"{self.total / 2**30:.2f} GiB a device, estimated ({told})"


def estimate(base: Base, targets: Targets | None, config: TrainConfig, *, length: int, world: int = 1) -> Memory:
    """For batches of `config.batch` sequences of `length` ids."""
    text = base.config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or getattr(text, "moe_intermediate_size", 4 * hidden)
    shards = world if config.fsdp else 1
    each = {"qlora": 0.56, "full": 4.0, "lora": 2.0}[config.tune]
    if config.dtype != "auto" and config.tune != "qlora":
        each = 2.0 if config.dtype == "bfloat16" else 4.0
    # AdamW: two moments beside weight and gradient; of an adapter the weights too, in float32.
    training = int(base.parameters * 3 * each) if targets is None else targets.parameters * 16
    width = 2 if config.bf16 else 4
    tokens = config.batch * max(length, config.pack or 0)
    layer = tokens * (12 * hidden + 4 * inner) * width
    kept = tokens * hidden * layers * width if config.gradient_checkpointing else layer * layers
    return Memory(
        weights=int(base.parameters * each) // shards,
        training=training // shards,
        activations=kept + layer,
        logits=min(_CHUNK, tokens) * base.vocabulary * 4 * _LOGIT_COPIES,
    )


def available(device: str) -> int:
    """Bytes that a device has for a run: of a GPU all of it, of the machine what is free, in a container its share."""
    if device == "cuda":
        import torch

        properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
        return int(properties.total_memory)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        free = int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return memory_limit()
    return min(free, memory_limit())
