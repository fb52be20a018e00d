"""Checkpoints to go on from: found, whole, and of the same run. Another order of rows would train some twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tito.errors import DataError, UsageError, WorldError, with_hint
from tito.train.config import TrainConfig

__all__ = ["find_checkpoint", "refuse_leftovers", "refuse_other_run"]

_SAME = (
    "base",
    "tune",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "rslora",
    "lr",
    "schedule",
    "warmup",
    "weight_decay",
    "clip",
    "epochs",
    "max_steps",
    "batch",
    "accumulate",
    "weights",
    "max_length",
    "overlong",
    "pack",
    "dtype",
    "bf16",
    "loss",
    "fsdp",
    "metric",
    "probe",
    "probe_prompts",
    "probe_n",
    "probe_tokens",
    "probe_assert",
    "seed",
    "data_seed",
)


def refuse_leftovers(config: TrainConfig) -> None:
    """`UsageError` where the output holds another run than the one that is resumed."""
    own = Path(config.output) / "checkpoints"
    found = _checkpoints(own)
    goes_on = config.resume == "last" or (
        config.resume is not None and Path(config.resume).resolve().parent == own.resolve()
    )
    if not goes_on and found:
        raise with_hint(
            UsageError(f"{config.output}: holds checkpoints of another run ({found[-1].name})"),
            "go on with resume=last, or name another output",
        )


def find_checkpoint(config: TrainConfig) -> Path | None:
    """The checkpoint that `resume` names, None without one. `WorldError` where there is none, `DataError` for one that
    is not whole."""
    if config.resume is None:
        return None
    if config.resume == "last":
        found = _checkpoints(Path(config.output) / "checkpoints")
        if not found:
            raise with_hint(WorldError(f"{config.output}: no checkpoint to go on from"), "leave resume out")
        checkpoint = found[-1]
    else:
        checkpoint = Path(config.resume)
        if not checkpoint.is_dir():
            raise with_hint(WorldError(f"{checkpoint}: no such folder"), "name a checkpoint, or resume=last")
        found = _checkpoints(checkpoint.parent)
    if wrong := _dead(checkpoint):
        before = [other for other in found if _number(other) < _number(checkpoint) and not _dead(other)]
        hint = f"resume={before[-1]} is whole" if before else "no other checkpoint is whole; start again"
        raise with_hint(DataError(f"{checkpoint}: {wrong}"), hint)
    return checkpoint


def refuse_other_run(config: TrainConfig, checkpoint: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the run that the checkpoint is of: it stands beside the folder of checkpoints, wherever the output
    is now. `UsageError` where it says other settings, rows or ranks."""
    path = checkpoint.resolve().parent.parent / "tito_train.json"
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise with_hint(
            DataError(f"{path}: {error}"),
            "without its record nobody can tell that it is the same run; leave checkpoints in their run's folder",
        ) from None
    now = json.loads(json.dumps({**facts, "config": config.to_dict()}, default=str))
    differ = [(name, before["config"].get(name), now["config"][name]) for name in _SAME]
    differ += [(name, before.get(name), now[name]) for name in ("world", "data", "val", "base_hash", "order")]
    for name, then, this in differ:
        if then != this:
            raise with_hint(
                UsageError(f"resume: {name} was {_shown(then)}, now {_shown(this)}"),
                "a run goes on with what it began with, else rows are trained twice or not at all",
            )
    return before


def _shown(value: Any) -> str:
    return ", ".join(f"{k} {str(v)[:19]}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _number(checkpoint: Path) -> int:
    tail = checkpoint.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("checkpoint-*") if _number(path) >= 0), key=_number)


def _dead(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None for a whole one."""
    from safetensors import SafetensorError, safe_open

    state = checkpoint / "trainer_state.json"
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"no {state.name}: it was not written to its end"
    except ValueError as error:
        return f"{state.name}: {error}"
    if not [*checkpoint.glob("optimizer.*"), *checkpoint.glob("optimizer_*")]:
        return "no optimizer.pt: it was not written to its end"
    if not (checkpoint / "scheduler.pt").is_file():
        return "no scheduler.pt: it was not written to its end"
    weights = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("pytorch_model_fsdp*")]
    if not weights:
        return "no weights: it was not written to its end"
    for path in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (no mapping)
                    tensors.get_slice(key)
        except (SafetensorError, OSError) as error:
            return f"{path.name}: {error}"
    return None
