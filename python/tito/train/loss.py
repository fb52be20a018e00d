"""The loss: weighted negative log-likelihood of the labels, summed, without ever holding all logits.

`chunked` runs the decoder, takes the positions that carry loss, and scores them some hundred at a time, each chunk
checkpointed: at a vocabulary of 248,320 and 2,048 ids a third of the memory and a third of the time of plain logits on
a CPU. It goes through the model's own forward, so that DDP, FSDP and PEFT see one call.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

__all__ = ["LossSum", "add_chunked_loss", "loss_by_hand", "plain_head"]

CHUNK = 256


@dataclass
class LossSum(ModelOutput):  # type: ignore[misc]
    """What the model gives in place of logits."""

    loss: torch.Tensor | None = None
    """Sum of weight x nll over positions with loss, float32, one number."""
    nll: torch.Tensor | None = None
    """The same without weights, detached."""
    tokens: torch.Tensor | None = None
    """How many positions carry loss."""
    correct: torch.Tensor | None = None
    """At how many of them the label was the likeliest id."""


def plain_head(config: Any) -> bool:
    """Whether logits are the head's output as it is; families that cap or scale them are scored by TRL's head."""
    text = config.get_text_config()
    odd = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    return all(getattr(text, name, None) in (None, 1.0) for name in odd) and not getattr(
        text, "output_router_logits", False
    )


def add_chunked_loss(model: Any, *, chunk: int = CHUNK) -> None:
    """Teaches a causal language model `model(..., labels=, loss_weights=, chunked_loss=True)`, which gives a `LossSum`.
    Without `chunked_loss` the forward is the one it was."""
    before = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, chunked_loss: bool = False, **given: Any) -> Any:
        if not chunked_loss:
            return before(*args, **given)
        labels, weights = given.pop("labels"), given.pop("loss_weights", None)
        given["use_cache"] = False  # without it transformers does not look for packed rows
        hidden = self.base_model(*args, **given).last_hidden_state[:, :-1]
        return _score(self.get_output_embeddings(), hidden, labels[:, 1:], weights, chunk)

    model.forward = types.MethodType(forward, model)


def _score(head: Any, hidden: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, chunk: int) -> LossSum:
    where = labels != -100
    hidden, labels = hidden[where], labels[where]
    by = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights[:, 1:][where]
    # Joined to the model even where no position carries loss: every rank must have gradients to reduce.
    total = hidden.sum().float() * 0
    nll = correct = torch.zeros((), device=hidden.device)
    for part in range(0, len(labels), chunk):
        here = slice(part, part + chunk)
        scored = checkpoint(_nll, head, hidden[here], labels[here], use_reentrant=False)
        total = total + (scored[0] * by[here]).sum()
        nll, correct = nll + scored[0].detach().sum(), correct + scored[1].sum()
    return LossSum(loss=total, nll=nll, tokens=where.sum(), correct=correct)


def _nll(head: Any, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = head.weight, head.bias
    if hasattr(weight, "full_tensor"):  # sharded by FSDP2
        weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
    logits = torch.nn.functional.linear(hidden, weight.to(hidden.dtype), bias).float()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none"), logits.argmax(-1) == labels


@torch.no_grad()  # type: ignore[untyped-decorator]
def loss_by_hand(model: Any, ids: torch.Tensor, labels: torch.Tensor, *, most: int = 64) -> tuple[torch.Tensor, Any]:
    """The nll of the first `most` positions with loss of one row, from logits that the model's own forward gives, and
    those positions: what checks compare with. `model` is unwrapped and in evaluation mode; `ids` and `labels` int64
    [length]."""
    where = torch.nonzero(labels[1:] != -100).flatten()[:most]
    end = int(where[-1]) + 2 if len(where) else len(ids)
    logits = model(input_ids=ids[None, :end], use_cache=False, logits_to_keep=where).logits[0].float()
    log_probs = torch.log_softmax(logits, -1)
    return -log_probs.gather(1, labels[where + 1][:, None])[:, 0], where + 1
