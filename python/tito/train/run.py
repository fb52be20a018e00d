"""A run from beginning to end: read, plan, check, load, check, train, choose, write, check.

What can be refused is refused before it costs: config, base and memory before the rows are read, rows before weights
are loaded, weights before the first step. What is written gets its name when it is whole.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tito.adapter.base import hash_weights
from tito.errors import TitoError, UsageError, WorldError, with_hint
from tito.train.base import Base, Targets, find_targets, read_base
from tito.train.check_rows import (
    check_divisibility,
    check_fingerprint,
    check_lengths,
    check_loss,
    check_memory,
    check_weights,
)
from tito.train.checkpoint import find_checkpoint, refuse_leftovers, refuse_other_run
from tito.train.config import TRAIN_EXTRA, TrainConfig
from tito.train.dataset import TitoSFTDataset
from tito.train.findings import Findings
from tito.train.memory import estimate
from tito.train.plan import Plan, make_plan
from tito.train.probe import Probe, load_probe
from tito.train.record import Record, data_hashes

__all__ = ["Run", "train"]


def train(config: TrainConfig, *, dry_run: bool = False, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Trains as `config` says and gives the run's record, which also stands in `output/tito_train.json`.

    `dry_run` stops behind plan and checks of the rows; nothing is written. `say` takes lines for people (stderr unless
    told). Raises `UsageError` for a config that cannot be, `DataError` for rows, base or adapter that fail a check,
    `WorldError` for what is not there and for memory that runs out.

    An example::

        record = train(TrainConfig.load("qwen3-4b-lora", ["data=rows.parquet", "output=out"]))
        record["best"], record["metrics"][-1]
    """
    return Run(config, say or _to_stderr).go(dry_run)


def _to_stderr(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


class Run:
    """The parts of a run; `go` goes through them."""

    def __init__(self, config: TrainConfig, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.first = int(os.environ.get("RANK", "0")) == 0
        self.output = Path(config.output)
        self.found = Findings(config.allow)

    def go(self, dry_run: bool) -> dict[str, Any]:
        """Everything."""
        config = self.config
        _refuse_quiet(config)
        if not dry_run:
            refuse_leftovers(config)
        checkpoint = None if dry_run else find_checkpoint(config)
        base = read_base(config)
        targets = None if config.tune == "full" else find_targets(base.skeleton, config)
        device = _device(config)
        # The weights alone, before any row is read.
        self._need(
            check_memory(estimate(base, targets, config, length=config.max_length or 1, world=self.world), device)
        )
        data = TitoSFTDataset(
            config.data,
            weights=config.weights,
            pack=config.pack,
            max_length=config.max_length,
            overlong=config.overlong,
            seed=config.seed,
            rows_per_step=config.rows_per_step(self.world),
        )
        held_out = None if config.val is None else TitoSFTDataset(config.val, weights="ignore")
        _refuse_sides(data, held_out)
        self._need(check_lengths(data, base))
        if held_out is not None:
            self._need(check_lengths(held_out, base), check_fingerprint(held_out, base))
        stops = _stops(data, base)
        probe = _probe(config, base, stops)
        plan = make_plan(config, base, targets, data, world=self.world, stops=stops)
        self.say(plan.text().rstrip("\n"))
        self.say(_best(config, probe))
        self._need(
            check_loss(data),
            check_fingerprint(data, base),
            check_weights(data, config, self.world),
            check_divisibility(data, config, self.world),
            check_memory(plan.memory, device),
        )
        if data.table.metadata.get("tito.tokenizer_hash") is None:
            self.say(
                "warning: nobody can tell whose ids these are, and rows of another tokenizer would train too: "
                f"convert with --profile {config.base}"
            )
        if dry_run:
            return {"plan": plan.to_dict(), "checks": self.found.to_list()}
        return self._train(base, targets, data, held_out, plan, probe, checkpoint, device)

    def _need(self, *found: Any) -> None:
        for finding in found:
            self.say(finding.line())
        self.found.need(*found)

    def _train(
        self,
        base: Base,
        targets: Targets | None,
        data: TitoSFTDataset,
        held_out: TitoSFTDataset | None,
        plan: Plan,
        probe: Probe | None,
        checkpoint: Path | None,
        device: str,
    ) -> dict[str, Any]:
        config = self.config
        facts = {
            "config": config.to_dict(),
            "world": self.world,
            "device": device,
            "data": data_hashes(data.table.files),
            "rows": {key: value for key, value in data.table.metadata.items() if key != "tito.profile_json"},
            "val": {} if held_out is None else data_hashes(held_out.table.files),
            "order": data.order_hash(config.seed if config.data_seed is None else config.data_seed),
            "base_hash": hash_weights(Path(config.base)) if os.path.isdir(config.base) else None,
            "tokenizer_hash": base.tokenizer_hash,
            "template_hash": base.template_hash,
            "plan": plan.to_dict(),
            "steps_planned": plan.optimiser_steps,
            "resumed_from": None if checkpoint is None else str(checkpoint),
        }
        before = None if checkpoint is None else refuse_other_run(config, checkpoint, facts)
        self.output.mkdir(parents=True, exist_ok=True)
        record = Record(self.output, facts, writes=self.first)
        if before is not None and checkpoint is not None:
            # What the run measured up to where it goes on; what came behind is measured again.
            done = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
            record.facts["metrics"] = [told for told in before.get("metrics", ()) if told["step"] <= done]
        try:
            from tito.train.work import Work

            Work(self, base, targets, data, held_out, plan, record, probe).go(checkpoint)
        except BaseException as error:
            # Whatever it is: a record that says `running` for good would be believed. The command line makes SIGTERM
            # and SIGHUP what Ctrl-C is.
            self._end(record, error)
            if isinstance(error, TitoError) or not _out_of_memory(error):
                raise
            raise with_hint(
                WorldError(f"out of memory on {device} at step {record.facts['steps_done']}: {plan.memory.text()}"),
                "checkpoints are whole; take gradient_checkpointing, tune: qlora, a shorter max_length or fsdp",
            ) from error
        return record.facts

    def _end(self, record: Record, error: BaseException) -> None:
        """Writes how a run ended that did not come to its end."""
        if isinstance(error, KeyboardInterrupt):
            state, why = "stopped", "interrupted"
        elif isinstance(error, TitoError):
            state, why = "failed", str(error)
        elif _out_of_memory(error):
            state, why = "failed", "out of memory"
        else:
            state, why = "failed", ": ".join(filter(None, (type(error).__name__, str(error))))
        try:
            record.add(state=state, stopped=why, checks=self.found.to_list())
        except TitoError as unwritten:
            # What ended the run is told, not that it could not be written.
            self.say(f"warning: {unwritten}")


def _refuse_sides(data: TitoSFTDataset, held_out: TitoSFTDataset | None) -> None:
    """What is measured on what was trained measures nothing."""
    if data.table.metadata.get("tito.side") == "val":
        raise with_hint(UsageError(f"{data.table.files[0]}: data is a validation side"), "name the training side")
    trained = {os.path.realpath(file) for file in data.table.files}
    for file in held_out.table.files if held_out is not None else ():
        if os.path.realpath(file) in trained:
            raise with_hint(UsageError(f"{file}: is data and val"), "`tito convert --val SHARE` makes both sides")


def _refuse_quiet(config: TrainConfig) -> None:
    """Packages that are missing are told by name before anything is read."""
    from importlib.util import find_spec

    needed = ["torch", "transformers", "trl", "peft", "accelerate", "datasets", *config.report]
    needed += ["bitsandbytes"] if config.tune == "qlora" else []
    if missing := [name for name in needed if find_spec(name) is None]:
        raise with_hint(
            WorldError(f"training needs {', '.join(missing)}"), f"{TRAIN_EXTRA}, or pip install {missing[0]}"
        )


def _device(config: TrainConfig) -> str:
    import torch

    if config.device == "cpu" or not torch.cuda.is_available():
        if config.fsdp:
            raise with_hint(UsageError("fsdp without a GPU: accelerate ignores it there"), "leave fsdp out")
        return "cpu"
    return "cuda"


def _probe(config: TrainConfig, base: Base, stops: frozenset[int]) -> Probe | None:
    if config.probe is None:
        return None
    if config.probe != "replies":
        return load_probe(config.probe)
    from tito.train.replies import ReplyProbe

    return ReplyProbe(config, base, stops)


def _best(config: TrainConfig, probe: Probe | None) -> str:
    """How the best checkpoint is found, for people."""
    how = f"best        by {config.chosen_by}"
    if probe is not None:
        often = "with each evaluation" if config.probe_every is None else f"every {config.probe_every} steps"
        how += f"; {f'replies to {probe}' if config.probe == 'replies' else config.probe}, {often}"
    elif config.chosen_by == "last":
        how += " step: nothing looks at what the model says (probe_every: N)"
    else:
        how += " loss alone, which says little about behaviour (probe_every: N)"
    return how if config.patience is None else f"{how}; stops after {config.patience} without a better one"


def _stops(data: TitoSFTDataset, base: Base) -> frozenset[int]:
    profile = json.loads(data.table.metadata.get("tito.profile_json", "{}"))
    return frozenset(profile.get("stop_ids", ())) or frozenset(base.stop_ids)


def _out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)
