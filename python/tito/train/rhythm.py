"""When a run looks at itself: evaluations, probes, checkpoints, the line it prints, and when it stops early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from tito.train.config import TrainConfig
from tito.train.findings import Finding
from tito.train.probe import Probe
from tito.train.record import Record
from tito.train.replies import ReplyProbe

__all__ = ["Rhythm", "is_better"]


def is_better(value: float, than: float | None, *, lower: bool) -> bool:
    """Whether a measured number is better than the best so far. What is no number never is.

    >>> is_better(0.5, None, lower=False), is_better(0.5, 0.5, lower=False), is_better(float("nan"), None, lower=False)
    (True, False, False)
    """
    if math.isnan(value):
        return False
    return than is None or (value < than if lower else value > than)


class Rhythm(TrainerCallback):  # type: ignore[misc]
    """Sets what the trainer does after each step, and keeps the record."""

    def __init__(
        self,
        config: TrainConfig,
        record: Record,
        say: Callable[[str], None],
        floor: float | None,
        asked: Probe | None = None,
    ) -> None:
        self._config, self._record, self._say, self._floor = config, record, say, floor
        self._asked = asked
        self._looked = self._saved = self._last = -1
        self._heldout: float | None = None
        self._probe: float | None = None
        self._best: float | None = None
        self._worse = self._measured = 0
        self._no_number: list[int] = []
        self.stopped: str | None = None

    def probe_due(self, step: int) -> bool:
        """Whether the probe runs at this step: every so many and at the last; without `probe_every`, whenever there is
        an evaluation."""
        every = self._config.probe_every
        return every is None or step % every == 0 or step == self._last

    def choose_by(self, config: TrainConfig) -> None:
        """Another metric and patience, before the first step."""
        self._config = config

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A run that is resumed goes on being patient where it was. What it was is not `best_global_step`, which moves
        on to each checkpoint that is as good."""
        self._last = state.max_steps
        for entry in state.log_history:
            self._look(entry, entry.get("step", 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the optimiser's step."""
        step = state.global_step
        looks = self._config.val is not None and _due(self._config.eval_every, step)
        if self._config.probe is not None:
            looks |= self._config.probe_every is not None and self.probe_due(step)
        self._decide(control, step, looks, _due(self._config.save_every, step))
        control.should_log = control.should_log or step % self._config.log_every == 0

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After an epoch's last step, or the run's."""
        looks = self._config.val is not None and self._config.eval_every == "epoch"
        looks |= self._config.probe is not None and self._config.probe_every is None
        self._decide(control, state.global_step, looks, self._config.save_every == "epoch")

    def _decide(self, control: Any, step: int, looks: bool, saves: bool) -> None:
        control.should_evaluate = looks and step != self._looked
        if control.should_evaluate:
            self._looked = step
        # What an evaluation finds best must be there afterwards, and say so: a checkpoint that the step's end wrote
        # before the epoch's evaluation knows nothing of it, and is written again.
        counts = control.should_evaluate and self._config.chosen_by != "last"
        control.should_save = counts or (saves and step != self._saved)
        if control.should_save:
            self._saved = step

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Patience runs out after so many evaluations without a better one."""
        metrics = metrics or {}
        if state.is_world_process_zero:
            shares = self._asked.last if isinstance(self._asked, ReplyProbe) else {}
            told = []
            for key, value in metrics.items():
                name = key.removeprefix("eval_").removeprefix("probe_")
                told.append(f"{'held-out' if name == 'loss' else name} {shares.get(name, f'{value:.4g}')}")
            self._say(f"look {state.global_step}/{state.max_steps}  {', '.join(told)}")
        if (
            self._look(metrics, state.global_step)
            and self._config.patience is not None
            and self._worse >= self._config.patience
        ):
            self.stopped = f"no better {self._config.chosen_by} in {self._worse} evaluations"
            control.should_training_stop = True

    def _look(self, metrics: Mapping[str, float], step: int) -> bool:
        """Takes in the numbers of an evaluation; whether they say how good the model is. NaN does not, and wears no
        patience out."""
        self._heldout = metrics.get("eval_loss", self._heldout)
        self._probe = metrics.get("eval_probe_score", self._probe)
        value = metrics.get(self._config.metric_key or "")
        if value is None:
            return False
        if math.isnan(value):
            self._no_number.append(step)
            return False
        self._measured += 1
        better = is_better(value, self._best, lower=self._config.metric_key == "eval_loss")
        self._best, self._worse = (value, 0) if better else (self._best, self._worse + 1)
        return True

    def finding(self) -> Finding:
        """Whether what chooses the checkpoint was a number whenever it was measured; False where it never was."""
        by, bad = self._config.chosen_by, self._no_number
        if self._config.metric_key is None:
            return Finding("metric", None, "the last step is kept, and nothing chooses")
        looks = f"{self._measured + len(bad)} evaluations"
        if not bad:
            return Finding("metric", True, f"{by} was a number in all of {looks}")
        steps = ", ".join(map(str, bad[:8])) + (", ..." if bad[8:] else "")
        text = f"{by} was NaN in {len(bad)} of {looks} (steps {steps}), and those chose nothing"
        hint = "the last step would be written, which nothing has judged; mend the probe"
        return Finding("metric", self._measured > 0, text, hint, {"no_number": bad})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """The loss, never without what it is to be compared with."""
        logs = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
        self._record.facts["metrics"].append({"step": state.global_step, **logs})
        self._record.facts["steps_done"] = state.global_step
        if "loss" not in logs or not state.is_world_process_zero:
            return
        beside = ["teacher " + ("not known" if self._floor is None else f"{self._floor:.4f}")]
        if self._config.val is not None:
            beside.append("held-out " + ("-" if self._heldout is None else f"{self._heldout:.4f}"))
        if self._config.probe is not None:
            beside.append("probe " + ("-" if self._probe is None else f"{self._probe:.4g}"))
        self._say(
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f} ({', '.join(beside)})  "
            f"lr {logs.get('learning_rate', 0):.2e}  norm {logs.get('grad_norm', 0):.3g}"
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The record says how far the run came, should it be killed now."""
        self._record.add(steps_done=state.global_step)


def _due(every: int | str, step: int) -> bool:
    return isinstance(every, int) and step % every == 0
