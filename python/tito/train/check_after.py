"""Checks of what came out: the adapter moved, loads again as itself, is named as its server names it, and helped: by
loss, and by what the model says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tito.train.base import Base
from tito.train.check_model import IN_PIECES, evaluating
from tito.train.config import TrainConfig
from tito.train.export import to_live
from tito.train.findings import Finding
from tito.train.probe import Probe
from tito.train.replies import ReplyProbe

__all__ = ["check_adapter", "check_export_keys", "check_heldout", "check_probe", "check_reload"]

# What vLLM takes for --max-lora-rank; 16 unless told.
_SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def check_adapter(tensors: Mapping[str, torch.Tensor], scaling: float) -> Finding:
    """Every B has moved from zero and no number is lost; how large the change is, by kind of module."""
    b = {key: value for key, value in tensors.items() if ".lora_B." in key}
    broken = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    zero = [key for key, value in b.items() if not bool(value.any())]
    norms: defaultdict[str, list[float]] = defaultdict(list)
    for key, value in b.items():
        a = tensors[key.replace(".lora_B.", ".lora_A.")]
        # The norm of B A without the product: trace of (B'B)(AA').
        square = (value.float().T @ value.float()) * (a.float() @ a.float().T).T
        norms[key.split(".lora_B.")[0].rsplit(".", 1)[-1]].append(scaling * float(square.sum().clamp(min=0).sqrt()))
    by_kind = {kind: float(np.mean(values)) for kind, values in norms.items()}
    if broken or zero:
        what = f"{len(broken)} tensors with lost numbers" if broken else f"{len(zero)} of {len(b)} B are still zero"
        where = (broken or zero)[0]
        return Finding("adapter", False, f"{what} ({where})", "look at lr, warmup and the number of steps", by_kind)
    told = ", ".join(f"{kind} {norm:.3g}" for kind, norm in by_kind.items())
    return Finding("adapter", True, f"{len(b)} B non-zero; mean |BA| x scaling: {told}", numbers={"norms": by_kind})


def check_reload(trainer: Any, folder: Path, base: Base) -> Finding:
    """The folder, read again by PEFT beside the live adapter, gives the live logits, and not the base's."""
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    model = trainer.accelerator.unwrap_model(trainer.model)
    row = int(np.flatnonzero(trainer.train_rows.exposure.copies > 0)[0])
    sample = trainer.train_rows.row(row)
    device = trainer.args.device
    ids = torch.from_numpy(sample["input_ids"].astype(np.int64)).to(device)[None, :1024]

    def logits() -> torch.Tensor:
        with evaluating(model), trainer.compute_loss_context_manager():
            return model(input_ids=ids, use_cache=False, logits_to_keep=64).logits.float()

    live = logits()
    with model.disable_adapter():
        bare = logits()
    model.add_adapter("again", LoraConfig.from_pretrained(str(folder)))
    try:
        tensors = {to_live(key, base): value for key, value in load_file(folder / "adapter_model.safetensors").items()}
        said = set_peft_model_state_dict(model, tensors, adapter_name="again")
        for p in (p for name, p in model.named_parameters() if ".again." in name):
            p.data = p.data.to(next(q.dtype for n, q in model.named_parameters() if ".default." in n))
        model.set_adapter("again")
        again = logits()
    finally:
        model.set_adapter("default")
        model.delete_adapter("again")
    off, moved = float((live - again).abs().max()), float((live - bare).abs().max())
    unknown = list(said.unexpected_keys)
    text = f"logits of the reloaded adapter differ by {off:.2g} from the live one, by {moved:.2g} from the base"
    sound = off <= 1e-4 * max(1.0, float(live.abs().max())) and moved > 0 and not unknown
    hint = f"unknown keys {unknown[:2]}" if unknown else "the file is not the adapter that was trained"
    return Finding("reload", sound, text, hint, {"difference": off, "from_base": moved})


def check_export_keys(keys: list[str], told: Mapping[str, Any], base: Base, config: TrainConfig) -> Finding:
    """Every key names a module of the class that servers load, and the config holds nothing they refuse."""
    served = base.skeleton
    if base.wrapped:
        from transformers import AutoModelForImageTextToText

        with torch.device("meta"):
            served = AutoModelForImageTextToText.from_config(base.config)
    modules = dict(served.named_modules())
    names = {key.removeprefix("base_model.model.").split(".lora_")[0] for key in keys}
    unknown = sorted(name for name in names if name not in modules)
    hint = "a server would load the adapter and apply nothing of these"
    if unknown:
        return Finding("export_keys", False, f"{type(served).__name__} has no {unknown[0]} ({len(unknown)} keys)", hint)
    refused = [key for key in ("modules_to_save", "use_dora", "lora_bias", "layer_replication") if told.get(key)]
    if told.get("bias", "none") != "none":
        refused.append("bias")
    if refused:
        return Finding("export_keys", False, f"adapter_config.json holds {', '.join(refused)}", "servers refuse them")
    rank = next((rank for rank in _SERVED_RANKS if rank >= config.lora_rank), None)
    if rank is None:
        return Finding("export_keys", False, f"rank {config.lora_rank} is above vLLM's largest, 512", "lower lora_rank")
    text = f"{len(names)} modules as {type(served).__name__} names them; serve with --max-lora-rank {rank}"
    return Finding("export_keys", True, text)


def check_heldout(before: float | None, after: float | None) -> Finding:
    """Held-out loss is lower than the base's."""
    if after is None:
        return Finding("heldout", None, "no held-out rows (val)")
    if before is None:
        return Finding("heldout", None, f"held-out loss {after:.4f}; the base's is not known ({IN_PIECES})")
    text = f"held-out loss {after:.4f}, of the base {before:.4f}"
    hint = "the run learnt nothing that holds on other rows: fewer epochs, a lower lr, or more rows"
    return Finding("heldout", after < before, text, hint, {"before": before, "after": after})


def check_probe(probe: Probe | None, before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> Finding:
    """The trained model answers unlike its base, and no worse. What a probe of the user's own means nobody else can
    tell; its numbers are shown."""
    if after is None:
        hint = "probe_every: N asks the model in training what the recorded one was asked"
        return Finding("probe", None, f"nothing looked at what the model says ({hint})")
    base = "" if before is None else f", of the base {before.get('score', float('nan')):.4g}"
    text = f"score {after.get('score', float('nan')):.4g}{base}"
    if not isinstance(probe, ReplyProbe):
        return Finding("probe", True, text, numbers={"before": before, "after": after})
    differ, n = round(after["ids_differ"] * len(probe.prompts)), len(probe.prompts)
    text += f"; ids differ from the base's on {differ} of {n} prompts; {probe.text()}"
    sound = differ > 0 and (before is None or after["score"] >= before["score"])
    # What somebody asked for by name and no reply does was not learnt, though the base does it as little.
    sound = sound and (after["score"] > 0 or not probe.named)
    hint = "more steps or a higher lr; look at what it says with `tito serve` and `tito probe --raw`"
    return Finding("probe", sound, text, hint, {"before": before, "after": after, "shares": probe.shares()})
