"""Everything that decides a training run, in one flat class: a recipe's keys are its fields, spelled alike.

Every value is handed to the trainer explicitly, because defaults of trainers move between releases. Unknown keys are
refused with the nearest known one; so is a value of another type or outside its range.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from tito.errors import UsageError, WorldError, with_hint
from tito.probe.assertions import ASSERTIONS, OF_SERVERS

__all__ = ["CHECKS", "TRAIN_EXTRA", "TrainConfig", "meanings", "recipes"]

TRAIN_EXTRA = "pip install 'tito-distill[train]'"

CHECKS = (
    "lengths",
    "loss_tokens",
    "fingerprint",
    "weights",
    "divisibility",
    "canary",
    "isolation",
    "targets",
    "base_loss",
    "adapter",
    "reload",
    "export_keys",
    "metric",
    "heldout",
    "probe",
    "quantised",
    "memory",
)
"""The checks, by the names that `allow` takes."""


_METRICS = ("auto", "probe", "heldout", "last")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run. Raises `UsageError` for a value that cannot be.

    >>> config = TrainConfig(base="models/Qwen3-4B", data="rows.parquet", output="out")
    >>> config.lora_alpha / config.lora_rank, config.rows_per_step(world=2)
    (0.5, 16)
    """

    base: str
    """The model to train: a folder, or a name that transformers resolves. Full precision."""
    data: str
    """Rows to train on: a file, a folder or a glob."""
    output: str
    """A folder; `adapter/` (or `model/`), `checkpoints/` and `tito_train.json` come to stand in it."""
    val: str | None = None
    """Held-out rows: never repeated, never weighted."""
    base_name: str | None = None
    """What the adapter names as its base, where `base` is a local folder: the public id."""

    tune: Literal["lora", "qlora", "full"] = "lora"
    """`lora`: adapter over the base as it is; `qlora`: over a base of 4 bits; `full`: every weight."""
    lora_rank: int = 32
    """Columns of A and B."""
    lora_alpha: float = 16
    """Scaling is alpha / rank: 16 / 32 = 0.5."""
    lora_dropout: float = 0.0
    lora_targets: str | tuple[str, ...] = "all-seven"
    """`all-seven` (q, k, v, o, gate, up, down), `hybrid` (also the linear-attention layers of Qwen3.5), names, or a
    regular expression over whole module names."""
    rslora: bool = False
    """Scaling by the root of the rank."""

    lr: float = 2e-5
    """Learning rate, at its highest."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.03
    """Steps of warmup; below 1 a share of all steps."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient."""
    epochs: float = 2
    """How often every row is seen, as often as it weighs."""
    max_steps: int | None = None
    """Optimiser steps, in place of `epochs`."""
    batch: int = 1
    """Rows (or packs) a device sees at once."""
    accumulate: int = 8
    """Such batches in an optimiser step."""
    weights: Literal["auto", "repeat", "loss", "ignore"] = "auto"
    """How the rows' weights are honoured; `auto` repeats rows, and weights the loss where copies cannot say it."""
    max_length: int | None = None
    """Longest row; the model's own limit unless told."""
    overlong: Literal["error", "drop"] = "error"
    """What becomes of rows that are longer; dropped ones are counted."""
    pack: int | None = None
    """Rows behind one another in sequences of that many ids; only where attention keeps them apart."""

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the base's weights: bfloat16 under an adapter, float32 for a full fine-tune, unless told."""
    bf16: bool = True
    """Compute in bfloat16 (autocast)."""
    gradient_checkpointing: bool = True
    """Less memory, more time."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """`auto`: flash attention where it is installed and there is a GPU, else SDPA."""
    loss: Literal["auto", "fused", "chunked"] = "auto"
    """`chunked` scores only positions with loss, some hundred at a time; `fused` is TRL's. `auto`: fused on CUDA."""
    device: Literal["auto", "cpu"] = "auto"
    world: int | None = None
    """Ranks that must be there: some launchers start one process where two were asked for."""
    fsdp: bool = False
    """Shard base, gradients and optimiser over the ranks (FSDP2): for bases that no single GPU holds."""

    seed: int = 0
    data_seed: int | None = None
    """Of the order of rows; `seed` unless told."""
    eval_every: int | Literal["epoch"] = "epoch"
    """Steps between evaluations on `val`."""
    save_every: int | Literal["epoch"] = "epoch"
    """Steps between checkpoints; a checkpoint is also written with each evaluation that counts for `metric`."""
    keep: int = 3
    """Checkpoints that stay; the best is among them."""
    metric: str = "auto"
    """What the best checkpoint is chosen by: `probe` (its score), a number of the probe by its name (`call-tag`),
    `heldout` (loss on `val`) or `last`. `auto`: the probe where there is one, else the last; never a loss alone. What
    the base does already chooses nothing: in place of such a number the probe's score does, in its place the last. Of
    checkpoints that are equal the one with the lower held-out loss is the best, else the later."""
    patience: int | None = None
    """Evaluations without a better `metric` after which the run stops."""
    probe: str | None = None
    """`replies`: greedy replies to recorded prompts, judged by assertions; so it is where `probe_every` is given. Or
    `package.module:name` of one of your own."""
    probe_every: int | None = None
    """Steps between probes; with each evaluation unless told."""
    probe_prompts: str | None = None
    """Rows or captures whose prompts `replies` asks; `val`, else `data`, unless told."""
    probe_n: int = 8
    """Prompts."""
    probe_tokens: int = 128
    """Most ids of a reply."""
    probe_assert: tuple[str, ...] = ()
    """What must hold of replies, by the names of `tito probe --assert`; unless told, what holds of all recorded and not
    of all the base's."""
    resume: str | None = None
    """A checkpoint folder, of this output or of another, or `last`."""
    report: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where the numbers go besides the record."""
    log_every: int = 1
    """Steps between lines of the log."""
    loader_workers: int = 0
    """Processes that read rows; reading is never the bottleneck of a single one."""
    allow: tuple[str, ...] = ()
    """Checks that may fail; each is told and recorded."""

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), hint))
        # A shell does not open `~` behind key=.
        for name in ("base", "data", "val", "output", "resume", "probe_prompts"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, os.path.expanduser(value))
        self._refuse_impossible()

    def _refuse_impossible(self) -> None:
        if self.probe is None and self.probe_every is not None:
            object.__setattr__(self, "probe", "replies")
        above = ("lora_rank", "lr", "epochs", "batch", "accumulate", "keep", "log_every", "lora_alpha", "clip")
        for name in (*above, "probe_n", "probe_tokens"):
            if getattr(self, name) <= 0:
                raise with_hint(UsageError(f"{name}: {getattr(self, name)} is not above 0"), "give a number above 0")
        for name in ("max_steps", "max_length", "pack", "patience", "probe_every", "eval_every", "save_every", "world"):
            if isinstance(value := getattr(self, name), int) and value <= 0:
                raise with_hint(UsageError(f"{name}: {value} is not above 0"), "give a number above 0, or leave it out")
        for name in ("warmup", "weight_decay", "lora_dropout", "loader_workers", "seed"):
            if getattr(self, name) < 0:
                raise with_hint(UsageError(f"{name}: {getattr(self, name)} is below 0"), "give a number of 0 or more")
        if self.lora_dropout >= 1:
            raise with_hint(UsageError(f"lora_dropout: {self.lora_dropout} drops everything"), "give a share below 1")
        self._refuse_metric()
        if self.metric == "heldout" and self.val is None:
            raise with_hint(UsageError("metric: heldout, but no held-out rows"), "add val: FILE (tito convert --val)")
        if self.patience is not None and self.chosen_by == "last":
            raise with_hint(
                UsageError("patience, but nothing to judge by"), "add probe_every: N; or val and metric: heldout"
            )
        for name in ("probe_prompts", "probe_assert"):
            if getattr(self, name) and self.probe != "replies":
                raise with_hint(UsageError(f"{name}, but no replies are asked for"), "add probe_every: N")
        for name in self.probe_assert:
            if name in OF_SERVERS:
                raise with_hint(
                    UsageError(f"{name}: judges a server's parsers, and holds for every reply here"), "leave it out"
                )
        for name in self.allow:
            if name not in CHECKS:
                raise with_hint(UsageError(f"allow: no check is called {name!r}"), _nearest(name, CHECKS))
        if self.fsdp and self.device == "cpu":
            raise with_hint(
                UsageError("fsdp on the CPU: accelerate ignores it there without a word"), "leave fsdp out: torchrun"
            )
        if self.fsdp and self.tune == "qlora":
            raise with_hint(UsageError("fsdp over a base of 4 bits"), "take tune: lora, or one GPU")

    def _refuse_metric(self) -> None:
        """Numbers of a probe of the user's own are known when it has run once, before the first step."""
        if self.metric in _METRICS and not (self.metric == "probe" and self.probe is None):
            return
        numbers = _reply_numbers(self.probe_assert)
        if self.probe is None and self.metric in ("probe", *numbers):
            raise with_hint(UsageError(f"metric: {self.metric}, but no probe is named"), "add probe_every: N")
        if self.probe in (None, "replies") and self.metric not in numbers:
            raise with_hint(UsageError(f"metric: no metric is called {self.metric!r}"), self.nearest_metric(numbers))

    def nearest_metric(self, numbers: Sequence[str]) -> str:
        """The metric that was perhaps meant, where a probe gives these numbers."""
        return _nearest(self.metric, [*_METRICS, *(name for name in numbers if name != "score")])

    @property
    def chosen_by(self) -> str:
        """What the best checkpoint is chosen by."""
        return self.metric if self.metric != "auto" else "probe" if self.probe else "last"

    @property
    def metric_key(self) -> str | None:
        """The name of that number among those of an evaluation; None for the last checkpoint."""
        by = self.chosen_by
        return {"last": None, "heldout": "eval_loss", "probe": "eval_probe_score"}.get(by, f"eval_probe_{by}")

    def rows_per_step(self, world: int) -> int:
        """Rows (or packs) of an optimiser step on all ranks."""
        return self.batch * self.accumulate * world

    def to_dict(self) -> dict[str, Any]:
        """The fields, tuples as lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str = "recipe") -> Self:
        """A config of plain values. `UsageError` names a key that is unknown, and one that is missing."""
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise with_hint(UsageError(f"{where}: unknown key {key!r}"), _nearest(str(key), names))
        for field in fields(cls):
            if field.default is MISSING and values.get(field.name) is None:
                raise with_hint(UsageError(f"{where}: {field.name} is missing"), f"add {field.name}=...")
        return cls(**values)

    @classmethod
    def load(cls, recipe: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """A recipe (a YAML file, or the name of one that comes with tito), with `key=value` over it."""
        name = os.fspath(recipe)
        values = _read(name)
        for override in overrides:
            key, found, text = override.partition("=")
            if not found:
                raise with_hint(UsageError(f"{override!r} is no key=value"), "write it like lr=1e-4")
            values[key.strip()] = _yaml(text, f"{key.strip()}={text}")
        return cls.from_mapping(values, where=Path(name).name)


def recipes() -> dict[str, str]:
    """The recipes that come with tito: name and first comment line."""
    found = sorted((files("tito.train") / "recipes").iterdir(), key=lambda path: path.name)
    yaml = [path for path in found if path.name.endswith(".yaml")]
    return {path.name.removesuffix(".yaml"): path.read_text().splitlines()[0].removeprefix("# ") for path in yaml}


def meanings() -> dict[str, str]:
    """What each key means: the text that stands below it in `TrainConfig`."""
    [told] = ast.parse(inspect.getsource(TrainConfig)).body
    assert isinstance(told, ast.ClassDef)
    found = {}
    for field, below in pairwise(told.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(TrainConfig)


def _reply_numbers(asserted: Sequence[str]) -> tuple[str, ...]:
    """The numbers of the probe `replies`, besides its score."""
    return ("ids_differ", *dict.fromkeys((*(name for name in ASSERTIONS if name not in OF_SERVERS), *asserted)))


def _nearest(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}"


def _read(name: str) -> dict[str, Any]:
    if not os.path.exists(name):
        if name not in (known := recipes()):
            raise with_hint(WorldError(f"{name}: no such recipe"), f"name a YAML file, or one of {', '.join(known)}")
        text = (files("tito.train") / "recipes" / f"{name}.yaml").read_text()
    else:
        text = Path(name).read_text(encoding="utf-8")
    values = _yaml(text, name)
    if not isinstance(values, dict):
        raise with_hint(UsageError(f"{name}: not a mapping of keys to values"), "write lines like `lr: 2e-5`")
    return values


def _yaml(text: str, where: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise with_hint(WorldError("reading a recipe needs pyyaml"), TRAIN_EXTRA) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise with_hint(UsageError(f"{where}: no YAML: {error}"), "write lines like `lr: 2e-5`") from None


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as its field has it. YAML reads `1e-4` as text, and lists where tuples are meant."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for option in options:
        fits, typed = _fit(value, option)
        if fits:
            return typed
    words = [word for option in options for word in (get_args(option) if get_origin(option) is Literal else ())]
    near = _nearest(str(value), words) if words else f"give {' or '.join(map(_said, options))}"
    raise with_hint(UsageError(f"{name}: {value!r} is not {' or '.join(map(_said, options))}"), near)


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    if hint is NoneType:
        return value is None, None
    if get_origin(hint) is Literal:
        return value in get_args(hint) and not isinstance(value, bool), value
    if get_origin(hint) is tuple:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list | tuple):
            return False, None
        each = [_fit(item, get_args(hint)[0]) for item in values]
        return all(fits for fits, _ in each), tuple(item for _, item in each)
    if hint is bool:
        return isinstance(value, bool), value
    if isinstance(value, bool):
        return False, None
    if hint is float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return False, None
        return number == number and abs(number) != float("inf"), number
    if hint is int:
        return isinstance(value, int), value
    return isinstance(value, hint), value


def _said(hint: Any) -> str:
    if hint is NoneType:
        return "nothing"
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list ({_said(get_args(hint)[0])})"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(hint, str(hint))
