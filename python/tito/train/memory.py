"""What a run will take of the device, estimated before anything is loaded, so that too much is said early.

An estimate: weights, gradients and optimiser state are exact; activations are those of a decoder with SDPA or flash
attention, within a third of what was seen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from tito.train.base import Base, Targets
from tito.train.config import TrainConfig
from tito.train.machine import memory_left

__all__ = ["Memory", "available", "estimate"]

# Positions scored at once by the chunked loss, and copies of their logits that forward and backward hold.
_CHUNK, _LOGIT_COPIES = 256, 3
# Bytes of a weight in 4 bits, the scales of its block with it.
_FOUR_BITS = 0.56


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
    each = 4 if (config.tune == "full" if config.dtype == "auto" else config.dtype == "float32") else 2
    weights = base.parameters * each
    if config.tune == "qlora":
        whole = _unquantised(base)
        weights = whole * each + int((base.parameters - whole) * _FOUR_BITS)
    # AdamW: two moments beside weight and gradient; of an adapter the weights too, in float32.
    training = base.parameters * 3 * each if targets is None else targets.parameters * 16
    width = 2 if config.bf16 else 4
    tokens = config.batch * max(length, config.pack or 0)
    layer = tokens * (12 * hidden + 4 * inner) * width
    kept = tokens * hidden * layers * width if config.gradient_checkpointing else layer * layers
    return Memory(
        weights=weights // shards,
        training=training // shards,
        activations=kept + layer,
        logits=min(_CHUNK, tokens) * base.vocabulary * 4 * _LOGIT_COPIES,
    )


def _unquantised(base: Base) -> int:
    """Parameters that bitsandbytes leaves as they are: all that are no weight of a linear module, embeddings and fused
    experts among them, and those of the head, which are the embedding's own where the two are tied."""
    import torch

    head = base.skeleton.get_output_embeddings()
    linear = [m for m in base.skeleton.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return base.parameters - sum(int(module.weight.numel()) for module in linear)


def available(device: str) -> int:
    """Bytes that are left for this process: of its GPU, or its share of what machine and container have left."""
    if device != "cuda":
        return memory_left()
    import torch

    # By the launcher's number, as accelerate will: the current GPU is still the first on every rank.
    rank = os.environ.get("LOCAL_RANK", "")
    gpu = int(rank) % torch.cuda.device_count() if rank.isdigit() else torch.cuda.current_device()
    # What an earlier run in this process freed, torch keeps, and gives to the next.
    kept = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    return int(torch.cuda.mem_get_info(gpu)[0]) + int(kept)
