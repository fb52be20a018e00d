"""Checks of the loaded model, before the first step: what it is asked to train, what it is fed, what it says of it."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tito.errors import DataError, with_hint
from tito.train.base import Base, Targets
from tito.train.collate import TitoCollator
from tito.train.config import TrainConfig
from tito.train.dataset import TitoSFTDataset
from tito.train.findings import Finding
from tito.train.loss import loss_by_hand
from tito.train.probe import Probe
from tito.train.replies import ReplyProbe
from tito.train.table import Table

__all__ = [
    "IN_PIECES",
    "Canary",
    "base_model_of",
    "check_base_loss",
    "check_base_probe",
    "check_canary",
    "check_isolation",
    "check_targets",
    "in_pieces",
]

IN_PIECES = "under FSDP the base lies in pieces until training begins"
"""Why checks of the untrained model are not run."""


def base_model_of(model: Any) -> Any:
    """The causal language model inside PEFT's and the launcher's wrappers."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model without dropout and without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def check_targets(model: Any, config: TrainConfig, targets: Targets | None, dtype: torch.dtype) -> Finding:
    """The base has the dtype that was asked for, and exactly the modules that were named are trained."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {p.dtype for name, p in model.named_parameters() if not p.requires_grad and p.is_floating_point()}
    if targets is None:
        wrong = {p.dtype for p in trained.values()} - {dtype}
        text = f"{len(trained)} tensors of {dtype}"
        still = [name for name, p in model.named_parameters() if not p.requires_grad]
        if wrong or still:
            return Finding("targets", False, f"{text}; not trained: {still[:2]}, other dtypes {wrong}", "see dtype")
        return Finding("targets", True, text)
    modules = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trained if ".lora_" in name}
    stray = [name for name in trained if ".lora_" not in name]
    missing, more = set(targets.modules) - modules, modules - set(targets.modules)
    if stray or missing or more or any("visual" in name for name in modules):
        what = f"trained besides the adapter {stray[:2]}, without one {sorted(missing)[:2]}, unasked {sorted(more)[:2]}"
        return Finding("targets", False, what, "see lora_targets")
    if config.tune == "lora" and frozen != {dtype}:
        return Finding("targets", False, f"the base is {frozen}, {dtype} was asked for", "see dtype")
    scaling = sorted({m.scaling["default"] for m in model.modules() if hasattr(m, "lora_B") and "default" in m.scaling})
    text = f"{len(modules)} modules, adapter {next(iter(trained.values())).dtype}, base {dtype}, scaling {scaling[0]:g}"
    return Finding("targets", True, text, numbers={"modules": len(modules), "scaling": scaling})


class Canary:
    """Compares what reaches the model's forward with the file, read a second time and apart from the loader."""

    def __init__(self, model: Any, data: TitoSFTDataset) -> None:
        self._model, self._data = base_model_of(model), data
        self._again = Table(data.table.path, keep_bytes=0)
        self._rows: list[int] | None = None
        self.batches = self.ids = 0

    def expect(self, inputs: Mapping[str, Any]) -> None:
        """Told by the trainer: the rows of the batch that comes next."""
        self._rows = inputs["rows"].tolist()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, each forward that was told of is compared; `DataError` where it differs."""
        before = self._model.forward

        def forward(_: Any, *args: Any, **given: Any) -> Any:
            if self._rows is not None:  # evaluations are not told
                self._compare(args, given, self._rows)
                self._rows = None
            return before(*args, **given)

        self._model.forward = types.MethodType(forward, self._model)
        try:
            yield
        finally:
            self._model.forward = before

    def _compare(self, args: Any, given: Mapping[str, Any], rows: list[int]) -> None:
        ids = given["input_ids"] if "input_ids" in given else args[0]
        labels, weights, position = given["labels"], given.get("loss_weights"), given.get("position_ids")
        at = 0
        for number, row in enumerate(rows):
            line, start = (0, at) if self._data.packed else (number, 0)
            if row < 0:
                want = np.full(2, -100)
                self._same("labels of a filler", row, labels[line, start : start + 2], want)
                at += 2
                continue
            want_ids, want_weights = self._by_hand(row)
            here = slice(start, start + len(want_ids))
            at = here.stop
            self._same("input_ids", row, ids[line, here], want_ids)
            self._same("labels", row, labels[line, here], np.where(want_weights > 0, want_ids, -100))
            if weights is not None:
                self._same("loss_weights", row, weights[line, here], want_weights * (want_weights > 0))
            if position is not None:
                self._same("position_ids", row, position[line, here], np.arange(len(want_ids)))
            if not self._data.packed and bool((labels[line, here.stop :] != -100).any()):
                raise self._wrong("labels behind the row", row)
            self.ids += len(want_ids)
        self.batches += 1

    def _by_hand(self, row: int) -> tuple[Any, Any]:
        """Ids and weights of a row, position by position in plain Python."""
        said = self._again.plain(row)
        ids = [*said["input_ids"], *(said.get("output_ids") or [])]
        weights = [0.0] * len(ids)
        if (spans := said.get("loss_spans")) is not None:
            for span in spans:
                for position in range(span["start"], span["end"]):
                    weights[position] = span["weight"]
        elif "loss_spans" not in said and (labels := said.get("labels")) is not None:
            weights = [float(label != -100) for label in labels]
        elif "loss_spans" not in said and (mask := said.get("loss_mask")) is not None:
            weights[len(ids) - len(mask) :] = mask
        else:
            weights[len(said["input_ids"]) :] = [1.0] * len(said["output_ids"])
        by = float(said.get("weight") or 1.0) if self._data.weighted else 1.0
        return np.array(ids), np.array([weight * by for weight in weights], np.float32)

    def _same(self, what: str, row: int, got: torch.Tensor, want: Any) -> None:
        have = got.detach().cpu().numpy()
        if have.shape != want.shape or not np.allclose(have, want, rtol=1e-6, atol=0):
            raise self._wrong(what, row)

    def _wrong(self, what: str, row: int) -> DataError:
        where = "a filler" if row < 0 else self._data.table.place(row)
        return with_hint(
            DataError(f"check canary: {where}: {what} at the model's forward are not those of the file"),
            "a library between the rows and the model changed them; `tito doctor` prints the versions",
        )


def check_canary(trainer: Any, canary: Canary, *, bf16: bool) -> Finding:
    """The first batch of the trainer's own loader, compared at the model's forward; then its loss by hand."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.watch = canary.expect
    try:
        with evaluating(trainer.model), canary.listening(), trainer.compute_loss_context_manager():
            sums = trainer._sums["eval"]
            sums.clear()
            trainer.compute_loss(trainer.model, dict(batch))
            nll, tokens = float(sums["nll"][0]), int(sums["tokens"][0])
    finally:
        trainer.watch = None
    real = [row for row in batch["rows"].tolist() if row >= 0]
    by_hand, counted = 0.0, 0
    with evaluating(trainer.model), trainer.compute_loss_context_manager():
        for row in real:
            sample = trainer.train_rows.row(row)
            ids, labels = (
                torch.from_numpy(sample[n].astype(np.int64)).to(trainer.args.device) for n in ("input_ids", "labels")
            )
            found, _ = loss_by_hand(base_model_of(trainer.model), ids, labels, most=1 << 30 if len(ids) < 4096 else 64)
            if len(found) < int((labels[1:] != -100).sum()):
                return Finding("canary", True, f"{canary.ids:,} ids as in the file; row too long for a loss by hand")
            by_hand, counted = by_hand + float(found.sum()), counted + len(found)
    off = abs(nll - by_hand) / max(abs(by_hand), 1e-9)
    text = f"{canary.ids:,} ids and labels of rows {real[:4]} as in the file; loss {nll / max(tokens, 1):.6f}, by hand "
    text += f"{by_hand / max(counted, 1):.6f}"
    sound = tokens == counted and off < (2e-2 if bf16 else 1e-4)
    hint = "a library between the rows and the model changed the loss; try loss: chunked"
    return Finding("canary", sound, text, hint, {"loss": nll / max(tokens, 1), "relative_difference": off})


def check_isolation(trainer: Any, data: TitoSFTDataset, base: Base) -> Finding:
    """Rows in one pack do not see one another: other ids in the first leave the second's scores as they were."""
    if not data.packed:
        return Finding("isolation", None, "nothing is packed")
    model = base_model_of(trainer.model)
    rows = np.argsort(np.where(data.exposure.copies > 0, data.survey.lengths, 1 << 40), kind="stable")[:2].tolist()
    first, second = data.row(rows[0]), data.row(rows[-1])
    other = {**first, "input_ids": (first["input_ids"] + 7) % np.int32(base.vocabulary)}
    collate = TitoCollator(flat=True)
    start = len(first["labels"])

    def scores(*samples: Any) -> torch.Tensor:
        batch = trainer._prepare_inputs(collate(samples))
        batch.pop("labels")
        with evaluating(trainer.model), trainer.compute_loss_context_manager():
            return model(**batch, use_cache=False, logits_to_keep=len(second["labels"])).logits[0].float()

    try:
        packed, disturbed, alone = scores(first, second), scores(other, second), scores(second)
    except (ValueError, NotImplementedError, ImportError) as error:
        hint = "leave pack out, or install the kernels it names"
        return Finding("isolation", False, f"packs cannot be kept apart: {str(error).splitlines()[0]}", hint)
    leak, shift = float((packed - disturbed).abs().max()), float((packed - alone).abs().max())
    scale = float(alone.abs().max())
    numbers = {"leak": leak, "shift": shift, "behind": start}
    text = (
        f"other ids in the first row of a pack move the second's logits by {leak:.2g}; alone they differ by {shift:.2g}"
    )
    sound = leak <= 1e-4 * max(scale, 1) and shift <= 0.05 * max(scale, 1)
    return Finding("isolation", sound, text, "leave pack out: rows of a pack see one another", numbers)


def check_base_loss(trainer: Any, data: TitoSFTDataset, base: Base, floor: float | None) -> Finding:
    """The untrained model's loss on 16 rows is a number, and not worse than guessing."""
    used = np.flatnonzero(data.exposure.copies > 0)
    rows = used[np.linspace(0, len(used) - 1, min(16, len(used))).astype(int)].tolist()
    collate, nll, tokens = TitoCollator(pad_id=0), 0.0, 0
    with evaluating(trainer.model), trainer.compute_loss_context_manager():
        for row in rows:
            batch = trainer._prepare_inputs(collate([data.row(row)]))
            out = base_model_of(trainer.model)(**batch, chunked_loss=True)
            nll, tokens = nll + float(out.nll), tokens + int(out.tokens)
    loss, guess = nll / max(tokens, 1), math.log(base.vocabulary)
    text = f"{loss:.4f} by id on {len(rows)} rows"
    if floor is not None:
        text += f"; the teacher's own {floor:.4f}"
        if loss > floor + 4:
            text += ", far below: is it the model the rows are for, with its template?"
    sound = math.isfinite(loss) and loss <= guess + 1
    hint = f"guessing gives {guess:.2f}: the weights are broken, or the ids are not this model's"
    return Finding("base_loss", sound, text, hint, {"loss": loss, "floor": floor})


def check_base_probe(probe: Probe, shown: Mapping[str, float]) -> Finding:
    """What the untrained model does already. It fails nothing; it says what the score is made of."""
    text = f"score {shown.get('score', math.nan):.4g} before the first step"
    if not isinstance(probe, ReplyProbe):
        return Finding("base_probe", True, text, numbers={"before": shown})
    text += f"; {probe.text()}"
    if gone := [name for name in probe.asserted if name not in probe.counted]:
        text += f"; not counted, because the base does it already: {', '.join(gone)}"
    numbers = {"before": shown, "counted": list(probe.counted), "met": list(probe.met), "shares": probe.shares()}
    return Finding("base_probe", True, text, numbers=numbers)


def in_pieces(data: TitoSFTDataset, *, probed: bool) -> list[Finding]:
    """The checks of the untrained model that FSDP leaves no room for."""
    packed = f"{IN_PIECES}; try pack on one rank first" if data.packed else "nothing is packed"
    found = [
        Finding("isolation", None, packed),
        Finding("canary", None, f"{IN_PIECES}; ids and labels are compared at the first step, no loss is made by hand"),
        Finding("base_loss", None, IN_PIECES),
    ]
    if probed:
        found.append(Finding("base_probe", None, f"{IN_PIECES}; what the base does already counts in the score"))
    return found
