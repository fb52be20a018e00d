"""Whether a LoRA adapter is sound, by its file: what it adapts, how much of it does anything, what a server refuses."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tito.adapter.base import BaseModel
from tito.adapter.keys import core_name, keys_of, wanted_keys
from tito.adapter.lora import LoraAdapter, Module

__all__ = ["VLLM_RANKS", "AdapterReport", "inspect", "refusals", "room_for"]

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be."""
_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga", "true", "false")
_REFUSED = ("use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_qalora", "use_bdlora")


@dataclass(frozen=True, slots=True)
class Target:
    """All modules of one kind: `q_proj` over the layers."""

    modules: int
    ranks: tuple[int, ...]
    nonzero_b: float
    """Share of values of B that are not zero."""
    zero_modules: int
    """Modules whose B is all zero: they do nothing."""
    norm: float
    """Mean of `scaling * |B A|` over modules, Frobenius."""


@dataclass(slots=True)
class AdapterReport:
    """What `tito adapter inspect` says."""

    folder: str
    hash: str
    rank: int
    alpha: float
    scaling: float
    task_type: str | None
    base_name: str
    keys: str
    tensors: int
    dtypes: tuple[str, ...]
    parameters: int
    targets: dict[str, Target]
    problems: list[str] = field(default_factory=list)
    """Why it must not be served."""
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)


def inspect(adapter: LoraAdapter, base: BaseModel | None = None) -> AdapterReport:
    """Reads all tensors and says what they are; with `base`, whether they fit it. Raises as `LoraAdapter` does."""
    modules = adapter.modules
    styles = sorted({keys for m in modules if (keys := keys_of(m.name))})
    report = AdapterReport(
        folder=str(adapter.folder),
        hash=adapter.hash,
        rank=adapter.rank,
        alpha=adapter.alpha,
        scaling=adapter.scaling,
        task_type=adapter.config["task_type"],
        base_name=adapter.base_name,
        keys=" and ".join(styles) or "neither",
        tensors=len(adapter.tensors),
        dtypes=tuple(sorted({t.dtype for t in adapter.tensors.values()})),
        parameters=sum(int(np.prod(t.shape)) for t in adapter.tensors.values()),
        targets={},
    )
    report.problems += _values(adapter, report)
    report.problems += refusals(adapter)
    if base is not None:
        report.problems += list(misfits(adapter, base))
    if not modules:
        report.problems.append("no pair of lora_A and lora_B in the file")
    if len(styles) > 1:
        report.problems.append("names of the text class and of the wrapper class are mixed")
    if adapter.config["task_type"] is None:
        report.warnings.append("task_type is not set: some loaders take it for a bare encoder")
    if idle := sum(t.zero_modules for t in report.targets.values()):
        report.warnings.append(f"{idle:,} of {len(modules):,} modules have a B of zeros: they were not trained")
    return report


def _values(adapter: LoraAdapter, report: AdapterReport) -> Iterator[str]:
    """Fills `report.targets`; yields what is wrong with the numbers."""
    kinds: dict[str, list[tuple[Module, int, int, float]]] = defaultdict(list)
    bad, any_nonzero = [], False
    for module in adapter.modules:
        a, b = module.a.array(), module.b.array()
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            bad.append(module.name)
            continue
        nonzero = int(np.count_nonzero(b))
        any_nonzero |= nonzero > 0
        flat = a.ndim == 2 and b.ndim == 2
        # |B A| from two rank x rank matrices: the product itself is as large as the base's weight.
        square = float(np.sum((b.T @ b) * (a @ a.T))) if flat else float("nan")
        kinds[module.name.rpartition(".")[2]].append((module, nonzero, b.size, max(square, 0.0) ** 0.5))
    for kind, found in sorted(kinds.items()):
        report.targets[kind] = Target(
            modules=len(found),
            ranks=tuple(sorted({module.rank for module, *_ in found})),
            nonzero_b=sum(n for _, n, _, _ in found) / max(1, sum(size for _, _, size, _ in found)),
            zero_modules=sum(n == 0 for _, n, _, _ in found),
            norm=adapter.scaling * sum(norm for *_, norm in found) / len(found),
        )
    if bad:
        yield f"{len(bad):,} modules hold NaN or infinity, the first is {bad[0]}"
    elif adapter.modules and not any_nonzero:
        yield "every B is zero: the adapter does nothing"
    for module in adapter.modules:
        if (told := _pattern_rank(adapter, module.name)) != module.rank:
            yield f"{module.name}: rank {module.rank} in the file, {told} in the settings"
            break


def _pattern_rank(adapter: LoraAdapter, module: str) -> int:
    for pattern, rank in (adapter.config.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return int(rank)
    return adapter.rank


def refusals(adapter: LoraAdapter) -> list[str]:
    """Why vLLM (0.32) would refuse the adapter, or serve something else than was trained."""
    config = adapter.config
    said = [f"vLLM serves no {key} ({config[key]!r})" for key in _REFUSED if config.get(key)]
    if (bias := config.get("bias") or "none") != "none":
        said.append(f"vLLM serves no bias ({bias!r})")
    if config.get("modules_to_save"):
        said.append(f"vLLM serves no modules_to_save ({', '.join(config['modules_to_save'])})")
    elif adapter.others:
        said.append(f"whole matrices in the file ({adapter.others[0]}): vLLM serves pairs of A and B alone")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _INITS:
        said.append(f"init_lora_weights={init!r} changed the base's weights: convert it to a plain LoRA with peft")
    if adapter.most_rank > VLLM_RANKS[-1]:
        said.append(f"rank {adapter.most_rank} is above {VLLM_RANKS[-1]}, the most that vLLM serves")
    return said


def room_for(rank: int) -> int:
    """The smallest `--max-lora-rank` with room for a rank.

    >>> room_for(8), room_for(24), room_for(900)
    (8, 32, 512)
    """
    return next((allowed for allowed in VLLM_RANKS if allowed >= rank), VLLM_RANKS[-1])


def misfits(adapter: LoraAdapter, base: BaseModel) -> Iterator[str]:
    """Why the adapter is none of this base: modules it has not, shapes, names that its server would not apply."""
    linears = {core_name(name): shape for name, shape in base.linears.items()}
    if linears:
        swapped = bool(adapter.config.get("fan_in_fan_out"))
        for module in adapter.modules:
            shape = linears.get(core_name(module.name))
            if shape is None:
                if ".experts" in module.name:
                    continue
                yield f"{module.name}: {base.folder} has no such module: the adapter is of another base"
                break
            if (module.a.shape[-1], module.b.shape[0]) != (shape[::-1] if swapped else shape):
                yield (
                    f"{module.name}: the adapter maps {module.a.shape[-1]:,} to {module.b.shape[0]:,}, the base "
                    f"{shape[0]:,} to {shape[1]:,}: the adapter is of another base"
                )
                break
    wanted = wanted_keys(base)
    wrong = [m.name for m in adapter.modules if keys_of(m.name) not in (None, wanted)]
    if wrong:
        yield (
            f"names of the {keys_of(wrong[0])} class ({wrong[0]}), but {base.architecture} wants those of the {wanted} "
            f"class: a server would load it and apply nothing; `tito adapter export` renames them"
        )
