"""The part of a run that holds weights: load, check, train, choose the best, write, check again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tito.adapter.lora import LoraAdapter
from tito.errors import DataError, with_hint
from tito.files import staged
from tito.train.base import Base, Targets
from tito.train.check_after import check_adapter, check_export_keys, check_heldout, check_probe, check_reload
from tito.train.check_model import (
    Canary,
    check_base_loss,
    check_base_probe,
    check_canary,
    check_isolation,
    check_targets,
    in_pieces,
)
from tito.train.config import TrainConfig
from tito.train.dataset import TitoSFTDataset
from tito.train.export import save_adapter, to_served
from tito.train.findings import Finding
from tito.train.loss import plain_head
from tito.train.plan import Plan
from tito.train.probe import Probe
from tito.train.record import Record
from tito.train.replies import ReplyProbe
from tito.train.rhythm import Rhythm
from tito.train.trainer import TitoSFTTrainer

__all__ = ["Work", "load_model", "settings"]


def load_model(config: TrainConfig, dtype: torch.dtype) -> Any:
    """The base with its weights, the text class where there is one, in the dtype it is to be trained in."""
    given: dict[str, Any] = {"dtype": dtype, "attn_implementation": _attention(config)}
    if config.tune == "qlora":
        from transformers import BitsAndBytesConfig

        given["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if config.bf16 else torch.float32,
        )
    model = AutoModelForCausalLM.from_pretrained(config.base, **given)
    for module in model.modules():
        # On CPUs with AVX512-BF16 bitsandbytes packs a layer at its first evaluation, for good, and the packed product
        # has no gradient: training after an evaluation would stop at that layer without an error.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _attention(config: TrainConfig) -> str:
    if config.attention != "auto":
        return config.attention
    from transformers.utils import is_flash_attn_2_available

    flash = config.device != "cpu" and torch.cuda.is_available() and is_flash_attn_2_available()
    return "flash_attention_2" if flash else "sdpa"


def base_dtype(config: TrainConfig) -> torch.dtype:
    """bfloat16 under an adapter; float32 where AdamW moves the weights themselves, which bfloat16 would round away."""
    if config.dtype != "auto":
        return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    return torch.float32 if config.tune == "full" else torch.bfloat16


def settings(config: TrainConfig, plan: Plan) -> Any:
    """Every value that the trainer has a default for and that matters, told explicitly."""
    from trl import SFTConfig

    sharded = {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "state_dict_type": "FULL_STATE_DICT",
        },
    }
    # transformers renamed it between 5.19 and 5.23, and warns of the older name.
    renamed = "activation_checkpointing" in SFTConfig.__dataclass_fields__
    checkpointing = "activation_checkpointing" if renamed else "gradient_checkpointing"
    return SFTConfig(
        output_dir=str(Path(config.output) / "checkpoints"),
        per_device_train_batch_size=config.batch,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=config.accumulate,
        num_train_epochs=config.epochs if config.max_steps is None else math.ceil(plan.epochs),
        max_steps=plan.optimiser_steps,
        learning_rate=config.lr,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        optim="adamw_torch_fused" if torch.cuda.is_available() and config.device != "cpu" else "adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        bf16=config.bf16,
        fp16=False,
        **{checkpointing: config.gradient_checkpointing},
        **({f"{checkpointing}_kwargs": {"use_reentrant": False}} if config.gradient_checkpointing else {}),
        use_cpu=config.device == "cpu",
        seed=config.seed,
        data_seed=config.seed if config.data_seed is None else config.data_seed,
        # What the rows are, is ours: nothing is prepared, cut, packed or left out by others.
        max_length=None,
        packing=False,
        padding_free=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        completion_only_loss=False,
        remove_unused_columns=False,
        average_tokens_across_devices=True,
        dataloader_num_workers=config.loader_workers,
        dataloader_drop_last=False,
        # When to look and to save is `Rhythm`'s; the strategy only keeps the best from being rotated away.
        eval_strategy="no",
        save_strategy="steps",
        save_steps=1 << 30,
        save_total_limit=config.keep,
        metric_for_best_model=config.metric_key,
        greater_is_better=config.chosen_by != "heldout",
        load_best_model_at_end=False,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to=list(config.report) or "none",
        disable_tqdm=True,
        push_to_hub=False,
        ddp_find_unused_parameters=False,
        **(sharded if config.fsdp else {}),
    )


class Work:
    """See the module; `go` goes through it."""

    def __init__(
        self,
        run: Any,
        base: Base,
        targets: Targets | None,
        data: TitoSFTDataset,
        held_out: TitoSFTDataset | None,
        plan: Plan,
        record: Record,
        probe: Probe | None = None,
    ) -> None:
        self._run, self._base, self._targets, self._record = run, base, targets, record
        self._data, self._held_out, self._plan, self._probe = data, held_out, plan, probe
        self._config: TrainConfig = run.config
        self._why = ""
        """Why the best checkpoint is chosen by something else than was asked."""

    def go(self, checkpoint: Path | None) -> None:
        """Everything."""
        config, run = self._config, self._run
        dtype = base_dtype(config)
        rhythm = Rhythm(config, self._record, run.say, self._plan.floor, self._probe)
        trainer = self._trainer(dtype, rhythm)
        run._need(check_targets(trainer.model, config, self._targets, dtype))
        canary = Canary(trainer.model, self._data)
        before, shown = None, None
        if config.fsdp:
            run._need(*in_pieces(self._data, probed=self._probe is not None))
        else:
            # Before a batch is tried: some models raise at packs, and this says why.
            run._need(check_isolation(trainer, self._data, self._base))
            run._need(check_canary(trainer, canary, bf16=config.bf16 or dtype == torch.bfloat16))
            run._need(check_base_loss(trainer, self._data, self._base, self._plan.floor))
            if self._held_out is not None:
                before = trainer.held_out_loss()
            if self._probe is not None:
                shown = trainer.probe(0)
                run._need(check_base_probe(self._probe, shown))
                self._fall_back(trainer, rhythm)
        self._record.add(checks=run.found.to_list())
        self._fit(trainer, canary, checkpoint)
        self._record.add(steps_done=trainer.state.global_step, stopped=rhythm.stopped)
        if rhythm.stopped is not None:
            run.say(f"stopped     {rhythm.stopped}: {trainer.state.global_step} of {self._plan.optimiser_steps} steps")
        nll = next((entry["nll"] for entry in reversed(trainer.state.log_history) if "nll" in entry), None)
        if self._plan.floor is not None and nll is not None and nll < self._plan.floor:
            run.say(
                f"warning: loss {nll:.4f} is below the teacher's own {self._plan.floor:.4f}: it learns rows by heart"
            )
        best = self._choose(trainer)
        written = self._write(trainer)
        after = trainer.held_out_loss() if self._held_out is not None else None
        shows = trainer.probe(best["step"]) if self._probe is not None else None
        helped = [rhythm.finding(), check_heldout(before, after), check_probe(self._probe, shown, shows)]
        failed = self._check_after(trainer, written, helped)
        self._record.add(
            state="failed" if failed else "done",
            best=best,
            checks=run.found.to_list(),
            heldout={"before": before, "after": after},
            probe={"before": shown, "after": shows},
            adapter_hash=LoraAdapter(written).hash if self._run.first and self._targets and written else None,
        )
        told = f"written     {written}" if written is not None else "written     checkpoints only"
        run.say(f"{told} ({best['by']}, step {best['step']} of {self._plan.optimiser_steps})")
        if failed:
            run.found.refuse(failed)

    def _trainer(self, dtype: torch.dtype, rhythm: Rhythm) -> TitoSFTTrainer:
        config, base = self._config, self._base
        args = settings(config, self._plan)
        model = load_model(config, dtype)
        peft = None
        if self._targets is not None:
            from peft import LoraConfig

            peft = LoraConfig(
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                lora_dropout=config.lora_dropout,
                target_modules=self._targets.spelled,
                use_rslora=config.rslora,
                bias="none",
                task_type="CAUSAL_LM",
            )
        tokenizer = _tokenizer(config.base)
        device = args.device.type
        fused = config.loss == "fused" or (config.loss == "auto" and (device == "cuda" or not plain_head(base.config)))
        trainer = TitoSFTTrainer(
            model=model,
            args=args,
            processing_class=tokenizer,
            peft_config=peft,
            train_rows=self._data,
            held_out=self._held_out,
            pad_id=0,
            fused=fused,
            probe=None if (probe := self._probe) is None else lambda model, step: probe(model, step=step),
            probe_due=rhythm.probe_due,
            nearest_metric=config.nearest_metric,
            callbacks=[rhythm],
        )
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        return trainer

    def _fall_back(self, trainer: TitoSFTTrainer, rhythm: Rhythm) -> None:
        """What the base does already chooses no checkpoint: the score does in place of a number of the probe, and in
        place of the score the last step, because no loss is taken unasked."""
        config, probe = self._config, self._probe
        if not isinstance(probe, ReplyProbe):
            return
        by, said = config.chosen_by, []
        if by in probe.met:
            said, by = [f"the base does {by} already"], "probe"
        if by == "probe" and not set(probe.asserted) - set(probe.met):
            said, by = [f"the base does already all that is asserted ({', '.join(probe.asserted)})"], "last"
        if not said:
            return
        if by == "last" and config.patience is not None:
            said.append("patience has nothing to judge by")
        self._why = "; ".join(said)
        self._config = replace(config, metric=by, patience=None if by == "last" else config.patience)
        rhythm.choose_by(self._config)
        trainer.args.metric_for_best_model = self._config.metric_key
        instead = "the last step is kept" if by == "last" else f"the best checkpoint is the {by}'s"
        self._run.say(f"warning: {self._why}: {instead}; probe_assert and probe_prompts ask for more")

    def _fit(self, trainer: TitoSFTTrainer, canary: Canary, checkpoint: Path | None) -> None:
        """The training itself; the first step's batches are compared at the model's forward once more, now as the
        launcher wrapped it."""
        seen = canary.batches

        def expect(inputs: Any) -> None:
            canary.expect(inputs)
            if canary.batches - seen + 1 >= self._config.accumulate:
                trainer.watch = None

        with canary.listening():
            trainer.watch = expect
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self._record.facts["canary_batches"] = canary.batches - seen

    def _choose(self, trainer: TitoSFTTrainer) -> dict[str, Any]:
        """Loads the best checkpoint, by the named metric; without one the last step stays. `DataError` where the step
        that was best has none: weights of another step would be written under its number."""
        by, state = self._config.chosen_by, trainer.state
        step = state.best_global_step
        if by == "last" or not step:
            why = self._why or ("" if by == "last" else f"no {by} was measured")
            return {"by": f"last step: {why}" if why else "last step", "step": state.global_step}
        name = f"checkpoint-{step}"
        places = [os.path.join(trainer.args.output_dir, name), state.best_model_checkpoint or ""]
        best = next((place for place in places if Path(place).name == name and os.path.isdir(place)), None)
        if step != state.global_step:
            if best is None:
                raise with_hint(
                    DataError(
                        f"{places[0]}: not there, and step {step} was the best by {by} ({state.best_metric:.4g})"
                    ),
                    "the last step is in the last checkpoint; keep: N holds more of them",
                )
            state.best_model_checkpoint = best
            trainer.load_best()
        return {"by": by, "metric": state.best_metric, "step": step, "checkpoint": best}

    def _write(self, trainer: TitoSFTTrainer) -> Path | None:
        config, model = self._config, trainer.accelerator.unwrap_model(trainer.model)
        if self._targets is None:
            folder = Path(config.output) / "model"
            # Every rank gives its pieces, the first one writes.
            with staged(folder, replace_folder=True) if self._run.first else nullcontext(folder) as place:
                trainer.save_model(str(place))
                (place / "training_args.bin").unlink(missing_ok=True)
        else:
            folder = Path(config.output) / "adapter"
            tensors = adapter_tensors(model)
            if self._run.first:
                save_adapter(model, tensors, folder, self._base, config)
        trainer.accelerator.wait_for_everyone()
        return folder

    def _check_after(self, trainer: TitoSFTTrainer, folder: Path | None, helped: Sequence[Finding]) -> Any:
        """All of them, `helped` behind those of the adapter; the first that failed and is not allowed to, or None. What
        was written stays, and says so."""
        run, found = self._run, []
        if self._targets is not None and folder is not None:
            tensors = adapter_tensors(trainer.accelerator.unwrap_model(trainer.model))
            found.append(check_adapter(tensors, self._plan.scaling or 1.0))
            if self._config.fsdp:
                why = "under FSDP the live model lies in pieces; `tito adapter inspect` and a probe of the server tell"
                found.append(Finding("reload", None, why))
            else:
                found.append(check_reload(trainer, folder, self._base))
            told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            keys = [to_served(key, self._base) for key in tensors]
            found.append(check_export_keys(keys, told, self._base, self._config))
        found.extend(helped)
        for finding in found:
            run.say(finding.line())
        run.found.extend(found)
        return next((f for f in found if f.ok is False and f.name not in self._config.allow), None)


def adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The adapter as PEFT names it, gathered where it lies in pieces."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in found.items()}


def _tokenizer(base: str) -> Any:
    """TRL insists on one, although nothing is tokenised."""
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError):
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel

        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<pad>": 0}, "<pad>")), pad_token="<pad>")
