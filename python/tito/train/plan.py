"""What a run will do, counted before it does it: steps, tokens, parameters, memory, and what each turn is worth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tito.train.base import Base, Targets
from tito.train.config import TrainConfig
from tito.train.dataset import TitoSFTDataset
from tito.train.memory import Memory, estimate
from tito.train.order import fillers

__all__ = ["Plan", "make_plan"]

# Fewer optimiser steps, or fewer supervised tokens over all epochs, hardly move a model: 42 steps changed nothing that
# could be measured, and four epochs of 1,800 rows gave what two did not.
_FEW_STEPS, _FEW_TOKENS = 100, 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of a run; `text` for people."""

    rows: int
    examples: int
    fillers: int
    silent: int
    dropped: int
    epochs: float
    optimiser_steps: int
    steps_an_epoch: float
    micro_steps: int
    rows_per_step: int
    world: int
    tokens: int
    loss_tokens: int
    weighting: str
    why: str
    divisor: float
    exposure: dict[str, dict[str, float]]
    """By turn: different rows, weight x tokens an epoch, share of it."""
    longest: int
    limit: int | None
    parameters: int
    trained: int
    scaling: float | None
    bare_layers: int
    layers: int
    memory: Memory
    rows_kept: int
    """Bytes of decoded rows that a rank's process keeps."""
    floor: float | None
    """Mean of the teacher's -logprob over ids with loss: its entropy, as far as the sample shows it."""
    ends: float | None
    """Share of rows whose last id ends a turn; None where no end ids are known."""
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, memory in bytes."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}

    def text(self) -> str:
        """Lines for people."""
        share = f"{self.loss_tokens / max(self.tokens, 1):.1%}"
        lines = [
            f"rows        {self.rows:,} ({self.silent:,} without loss and {self.dropped:,} over-long left out)",
            f"epoch       {self.examples:,} examples ({self.why}), {self.fillers} fillers without loss",
            f"steps       {self.optimiser_steps:,} optimiser steps = {self.epochs:g} epochs of "
            f"{self.steps_an_epoch:g}; {self.micro_steps:,} micro-steps a rank, {self.world} of them, "
            f"{self.rows_per_step} rows a step",
            f"tokens      {self.tokens:,} an epoch, {self.loss_tokens:,} of them with loss ({share}); longest row "
            f"{self.longest:,}" + (f" of {self.limit:,}" if self.limit else ""),
            f"weights     {self.weighting}" + (f", divisor {self.divisor:.6g}" if self.weighting == "loss" else ""),
            f"trained     {self.trained:,} parameters of {self.parameters:,}"
            + (f"; LoRA scaling {self.scaling:g}" if self.scaling is not None else ""),
            f"memory      {self.memory.text()}; of the machine's, rows stay decoded up to "
            f"{self.rows_kept / 2**30:.2f} GiB a rank",
        ]
        if self.floor is not None:
            lines.append(f"floor       {self.floor:.4f} nats: the teacher's own -logprob by trained id")
        lines.append("exposure    turn      rows   weight x tokens   share")
        lines += [
            f"            {turn:<8} {int(of['rows']):>5,} {of['weight']:>17,.0f} {of['share']:>7.1%}"
            for turn, of in self.exposure.items()
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)]) + "\n"


def make_plan(
    config: TrainConfig, base: Base, targets: Targets | None, data: TitoSFTDataset, *, world: int, stops: frozenset[int]
) -> Plan:
    """The plan of a run on `world` ranks; `stops` are the ids that end a turn, where they are known."""
    seen, examples = data.survey, len(data)
    extra = fillers(examples, config.batch * world)
    micro = (examples + extra) // (config.batch * world)
    an_epoch = micro / config.accumulate
    whole = math.ceil(an_epoch)
    steps = config.max_steps if config.max_steps is not None else math.ceil(config.epochs * whole)
    epochs = steps / whole
    used = data.exposure.copies > 0
    loss_tokens = int(data.loss_tokens().sum())
    ends = None
    if stops:
        ends = float(np.isin(seen.last_id[used], list(stops)).mean())
    scaling = None
    if targets is not None:
        scaling = config.lora_alpha / (math.sqrt(config.lora_rank) if config.rslora else config.lora_rank)
    exposure = _exposure(data)
    counted: dict[str, Any] = {
        "rows": len(seen.lengths),
        "examples": examples,
        "fillers": extra,
        "silent": data.silent,
        "dropped": data.dropped,
        "epochs": round(epochs, 4),
        "optimiser_steps": steps,
        "steps_an_epoch": an_epoch,
        "micro_steps": math.ceil(epochs * micro),
        "rows_per_step": config.rows_per_step(world),
        "world": world,
        "tokens": int(data.lengths().sum()),
        "loss_tokens": loss_tokens,
        "weighting": data.exposure.mode,
        "why": data.exposure.why,
        "divisor": data.exposure.divisor,
        "exposure": exposure,
        "longest": int(seen.lengths[used].max()),
        "limit": config.max_length or base.context,
        "parameters": base.parameters,
        "trained": base.parameters if targets is None else targets.parameters,
        "scaling": scaling,
        "bare_layers": 0 if targets is None else targets.bare,
        "layers": 0 if targets is None else targets.layers,
        "floor": seen.floor[0] / seen.floor_weight if seen.floor else None,
        "ends": ends,
        "memory": estimate(base, targets, config, length=int(data.lengths().max()), world=world),
        "rows_kept": data.table.keep_bytes,
    }
    return Plan(**counted, warnings=tuple(_warnings(config, counted)))


def _exposure(data: TitoSFTDataset) -> dict[str, dict[str, float]]:
    turn, weight, row = data.survey.turns
    copies = data.exposure.copies
    if data.exposure.mode == "repeat":
        # What copies make of the row's weight, which fractions round.
        whole = np.maximum(data.survey.weight, 1e-12)
        weight = weight * (copies / whole)[row]
    else:
        weight = weight * (copies[row] > 0)
    total = max(float(weight.sum()), 1e-12)
    found: dict[str, dict[str, float]] = {}
    for number in np.unique(turn).tolist():
        here = (turn == number) & (weight > 0)
        if here.any():
            name = "unknown" if number < 0 else str(number)
            sums = float(weight[here].sum())
            found[name] = {"rows": len(np.unique(row[here])), "weight": sums, "share": sums / total}
    return found


def _warnings(config: TrainConfig, plan: dict[str, Any]) -> list[str]:
    found = []
    steps, tokens = plan["optimiser_steps"], plan["loss_tokens"] * plan["epochs"]
    if steps < _FEW_STEPS:
        found.append(f"{steps} optimiser steps: fewer than {_FEW_STEPS} hardly move a model; see epochs and accumulate")
    if tokens < _FEW_TOKENS:
        found.append(f"{tokens:,.0f} loss tokens over all epochs: fewer than {_FEW_TOKENS:,}")
    if config.max_steps is not None and config.accumulate > 1:
        found.append(
            f"max_steps {config.max_steps} counts optimiser steps: {plan['epochs']:g} epochs. Were micro-steps "
            f"meant, it is {config.max_steps / config.accumulate:g}"
        )
    if plan["ends"] is not None and plan["ends"] < 1:
        found.append(
            f"{1 - plan['ends']:.1%} of the rows do not end in an id that ends a turn: nothing teaches to stop"
        )
    if plan["bare_layers"]:
        found.append(
            f"{plan['bare_layers']} of {plan['layers']} layers have no LoRA on attention; "
            "lora_targets: hybrid reaches them"
        )
    if max((of["share"] for of in plan["exposure"].values()), default=0) > 0.75 and len(plan["exposure"]) > 1:
        top = max(plan["exposure"], key=lambda turn: plan["exposure"][turn]["share"])
        found.append(f"turn {top} holds {plan['exposure'][top]['share']:.0%} of the loss weight")
    return found
