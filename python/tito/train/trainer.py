"""TRL's SFTTrainer, told exactly what to train on: our collator, our order, our loss, weights with the right divisor.

The data set it holds is a list of numbers; the collator looks the examples up. A step's divisor is the number of its
loss tokens on all ranks, times the constant W where the loss is weighted. A loss that is no number stops the run before
the optimiser sees it.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from tito.errors import DataError, UsageError, with_hint
from tito.train.collate import Examples, TitoCollator
from tito.train.dataset import TitoSFTDataset
from tito.train.loss import add_chunked_loss
from tito.train.order import EpochOrder, fillers
from tito.train.rhythm import is_better

__all__ = ["TitoSFTTrainer", "numbers"]

# TRL reports model family and trainer to its makers at start-up; a training run is nobody else's business.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def numbers(dataset: TitoSFTDataset, multiple: int) -> Any:
    """The numbers of a data set's examples, fillers behind them, as the `datasets.Dataset` that TRL insists on."""
    import datasets

    count = len(dataset) + fillers(len(dataset), multiple)
    return datasets.Dataset.from_dict({"example": list(range(count))})


class TitoSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains on a `TitoSFTDataset`. Takes what SFTTrainer takes, with `train_rows` and `held_out` in place of its
    data sets and collator; `args.max_length` must be None.

    `watch` is called with each batch before the model sees it (a check's hook); `after_eval` with the metrics of an
    evaluation, and may add to them.
    """

    # compute_loss divides by the whole step's tokens, over all its micro-batches.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        train_rows: TitoSFTDataset,
        held_out: TitoSFTDataset | None = None,
        pad_id: int = 0,
        fused: bool = False,
        probe: Callable[[Any, int], Mapping[str, float]] | None = None,
        probe_due: Callable[[int], bool] = lambda step: True,
        nearest_metric: Callable[[tuple[str, ...]], str] = ", ".join,
        **given: Any,
    ) -> None:
        args = given["args"]
        world = int(os.environ.get("WORLD_SIZE", "1"))
        self.train_rows, self.held_out, self.fused = train_rows, held_out, fused
        self.watch: Callable[[Mapping[str, Any]], None] | None = None
        self._probe, self._probe_due, self._nearest_metric = probe, probe_due, nearest_metric
        self._unsound: list[torch.Tensor] = []
        self._rows_of_step: list[torch.Tensor] = []
        self._sums: dict[str, defaultdict[str, list[torch.Tensor]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }
        multiple = args.per_device_train_batch_size * world
        flat = train_rows.packed
        collator = TitoCollator(pad_id=pad_id, flat=flat, weighted=train_rows.weighted)
        super().__init__(
            train_dataset=numbers(train_rows, multiple), data_collator=Examples(train_rows, collator), **given
        )
        unwrapped = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        add_chunked_loss(unwrapped)
        self.add_callback(_Guard(self))

    # Data

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["example"]

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        args = self.args
        self.order = EpochOrder(
            len(self.train_rows),
            multiple=args.per_device_train_batch_size * args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            blocks=self.train_rows.blocks,
        )
        return self.order

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        self._rows_of_step = [batch["rows"] for batch in batch_samples]
        count = torch.stack([(batch["labels"][..., 1:] != -100).sum() for batch in batch_samples]).sum().to(device)
        if self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        # A step of fillers alone divides by one.
        return count.clamp(min=1) * self.train_rows.exposure.divisor

    # Loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.watch is not None:
            self.watch(inputs)
        mode = "train" if model.training else "eval"
        given = {name: value for name, value in inputs.items() if name not in ("rows", "loss_weights")}
        weights = inputs.get("loss_weights")
        if self.fused:
            out = model(**given, use_cache=False, fused_lm_head=True)
            nll = -out.log_probs
            loss = (nll if weights is None else nll * weights[:, 1:]).sum()
            sums = {"nll": nll.detach().sum(), "tokens": out.label_mask.sum(), "correct": out.is_top1.sum()}
        else:
            out = model(**given, loss_weights=weights, chunked_loss=True)
            loss, sums = out.loss, {"nll": out.nll, "tokens": out.tokens, "correct": out.correct}
        for name, value in sums.items():
            self._sums[mode][name].append(value.detach().float())
        if num_items_in_batch is None:
            loss = loss / sums["tokens"].clamp(min=1)
        else:
            # DDP and FSDP average gradients over ranks; the divisor is that of all of them.
            loss = loss / num_items_in_batch * self.accelerator.num_processes
        if mode == "train":
            self._unsound.append(~torch.isfinite(loss.detach()))
        return (loss, out) if return_outputs else loss

    def refuse_no_number(self) -> None:
        """`DataError` where a loss of the step was NaN or infinite: on every rank, before the optimiser moves."""
        bad = torch.stack(self._unsound).any() if self._unsound else torch.zeros((), dtype=torch.bool)
        self._unsound = []
        if self.args.world_size > 1:
            bad = self.accelerator.gather(bad.float().to(self.args.device)).sum() > 0
        if not bool(bad):
            return
        rows = sorted({row for batch in self._rows_of_step for row in batch.tolist() if row >= 0})
        at = ", ".join(self.train_rows.table.place(row) for row in rows[:4])
        raise with_hint(
            DataError(f"step {self.state.global_step + 1}: the loss is no number ({at}{', ...' if rows[4:] else ''})"),
            "the optimiser has not seen it and the last checkpoint is sound; lower lr, or try bf16: false",
        )

    # Evaluation

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Held-out loss by token, over every row once, and the probe's numbers where it is due."""
        metrics: dict[str, float] = {}
        step = self.state.global_step
        if self.held_out is not None:
            metrics[f"{metric_key_prefix}_loss"] = self.held_out_loss()
        if self._probe is not None and self._probe_due(step):
            metrics |= {f"{metric_key_prefix}_probe_{name}": value for name, value in self.probe(step).items()}
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def probe(self, step: int) -> dict[str, float]:
        """The probe's numbers of the model as it is; on every rank those of the first, so that all decide alike."""
        assert self._probe is not None
        training = self.model.training
        self.model.eval()
        with self.compute_loss_context_manager():
            found = {name: float(value) for name, value in self._probe(self.model, step).items()}
        self.model.train(training)
        if self.args.world_size > 1:
            from accelerate.utils import broadcast_object_list

            [found] = broadcast_object_list([found])
        key = self.args.metric_for_best_model or ""
        if key.startswith("eval_probe_") and (name := key.removeprefix("eval_probe_")) not in found:
            raise with_hint(UsageError(f"metric: the probe gives no {name!r}"), self._nearest_metric(tuple(found)))
        return found

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def held_out_loss(self) -> float:
        """Mean nll of the held-out rows' loss tokens, all ranks together."""
        rows = self.held_out
        assert rows is not None
        world, rank = self.args.world_size, self.args.process_index
        look_up = Examples(rows, TitoCollator(pad_id=self.data_collator.collator.pad_id))
        total = torch.zeros(2, dtype=torch.float64)
        training = self.model.training
        self.model.eval()
        size = self.args.per_device_eval_batch_size
        order = EpochOrder(len(rows), shuffle=False, batch=size, rank=rank, world=world)
        mine = list(order)
        for start in range(0, len(mine), size):
            batch = self._prepare_inputs(look_up([{"example": n} for n in mine[start : start + size]]))
            batch.pop("rows")
            with self.compute_loss_context_manager():
                out = self.model_wrapped(**batch, chunked_loss=True)
            total += torch.stack((out.nll, out.tokens)).double().cpu()
        self.model.train(training)
        if world > 1:
            total = self.accelerator.gather(total.float().to(self.args.device)[None]).double().sum(0).cpu()
        return float(total[0] / total[1].clamp(min=1))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # Probes come less often than evaluations.
        key = f"{self.args.metric_for_best_model}"
        if key not in metrics:
            return False
        state = self.state
        # The best of none is an infinity to some releases of transformers.
        best_metric = state.best_metric if state.best_global_step else None
        if is_better(metrics[key], best_metric, lower=not self.args.greater_is_better):
            state.best_metric, state.best_global_step = metrics[key], state.global_step
            return True
        if metrics[key] != best_metric:
            return False
        best = [entry for entry in self.state.log_history if entry["step"] == self.state.best_global_step]
        before = next((entry["eval_loss"] for entry in best if "eval_loss" in entry), math.inf)
        if metrics.get("eval_loss", -math.inf) > before:
            return False
        self.state.best_global_step = self.state.global_step
        return True

    def load_best(self) -> None:
        """The weights of the best checkpoint."""
        self._load_best_model()

    # Log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer logs; with training, also nll by token without weights, and share of likeliest ids."""
        if "loss" in logs:
            sums = {name: torch.stack(values).sum() for name, values in self._sums["train"].items() if values}
            if sums:
                whole = torch.stack([sums["nll"], sums["tokens"], sums["correct"]])
                if self.args.world_size > 1:
                    whole = self.accelerator.gather(whole.to(self.args.device)[None]).sum(0)
                nll, tokens, correct = whole.tolist()
                logs |= {"nll": nll / max(tokens, 1), "accuracy": correct / max(tokens, 1), "loss_tokens": tokens}
            self._sums["train"].clear()
        self._metrics["train"].clear()
        self._metrics["eval"].clear()
        super().log(logs, start_time)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the run record says what was trained on what."""


class _Guard(TrainerCallback):  # type: ignore[misc]
    """What must hold at each epoch's begin and before each optimiser step."""

    def __init__(self, trainer: TitoSFTTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The epoch of the order: accelerate does not reach it through the wrappers of a resumed run on several ranks,
        which would then go through the first epoch's order again."""
        self._trainer.order.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """After all micro-batches of the step, before their gradients are used."""
        self._trainer.refuse_no_number()
