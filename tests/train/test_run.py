"""Whole runs on tiny models: what is written, what the record says, and that the adapter is what was trained."""

import json

import numpy as np
import pytest
import tito
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import save_model
from tito.cli import main
from tito.train import TrainConfig, train
from trained import record
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

QUICK = ["accumulate=2", "max_steps=3", "lora_rank=4"]


def run(models, rows, output, *more, base="qwen3", data="qwen3"):
    given = [f"base={models[base]}", f"data={rows[data]}", f"output={output}", *QUICK, *more]
    said = []
    return train(TrainConfig.load("tiny-cpu", given), say=said.append), said


@pytest.fixture(scope="module")
def dense(models, rows, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "dense"
    found, said = run(
        models, rows, output, f"val={rows['qwen3-val']}", "eval_every=1", "metric=heldout", "base_name=Qwen/Qwen3-4B"
    )
    return output, found, said


@pytest.fixture(scope="module")
def hybrid(models, rows, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "hybrid"
    found, said = run(models, rows, output, base="qwen35", data="merged")
    return output, found, said


def test_the_adapter_folder_holds_what_servers_load_and_nothing_else(dense):
    output, found, _ = dense
    assert sorted(p.name for p in (output / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    told = json.loads((output / "adapter" / "adapter_config.json").read_text())
    assert (told["r"], told["lora_alpha"], told["task_type"], told["bias"]) == (4, 16, "CAUSAL_LM", "none")
    assert told["base_model_name_or_path"] == "Qwen/Qwen3-4B"
    assert told["modules_to_save"] is None
    assert found["state"] == "done"


def test_the_record_says_everything(dense, models, rows):
    output, found, _ = dense
    assert record(output) == json.loads(json.dumps(found, default=str))
    assert found["reader"] == "tito"
    assert (found["steps_planned"], found["steps_done"], found["stopped"]) == (3, 3, None)
    assert list(found["data"]) == [str(rows["qwen3"])]
    assert found["base_hash"].startswith("sha256:")
    assert {"torch", "transformers", "trl", "peft", "tito-distill"} <= set(found["versions"])
    assert [c["name"] for c in found["checks"] if c["ok"] is False] == []
    steps = [m for m in found["metrics"] if "loss" in m]
    assert [m["step"] for m in steps] == [1, 2, 3]
    assert found["canary_batches"] == 2
    assert found["best"]["by"] == "heldout"


def test_the_loss_never_stands_alone(dense):
    _, found, said = dense
    floor = found["plan"]["floor"]
    lines = [line for line in said if line.startswith("step ")]
    assert len(lines) == 3
    assert all(f"(teacher {floor:.4f}, held-out " in line for line in lines)


def test_the_adapter_on_a_fresh_base_gives_what_was_trained(dense, models, rows):
    """Loaded by PEFT from disk on a base loaded anew: not the base's logits, and the held-out loss of the record."""
    output, found, _ = dense
    data = tito.train.TitoSFTDataset(rows["qwen3-val"], weights="ignore")
    base = AutoModelForCausalLM.from_pretrained(models["qwen3"], dtype=torch.float32).eval()
    for name in ("before", "after"):
        model = base if name == "before" else PeftModel.from_pretrained(base, output / "adapter").eval()
        total = tokens = 0.0
        with torch.no_grad():
            for n in range(len(data)):
                ids = torch.from_numpy(data[n]["input_ids"].astype(np.int64))[None]
                labels = torch.from_numpy(data[n]["labels"].astype(np.int64))[None]
                total += float(model(input_ids=ids, labels=labels).loss) * int((labels != -100).sum())
                tokens += int((labels != -100).sum())
        assert np.isclose(total / tokens, found["heldout"][name], rtol=1e-5)


def test_a_hybrid_adapter_is_written_with_the_names_of_the_wrapper(hybrid, models):
    output, _, _ = hybrid
    tensors = load_file(output / "adapter" / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.model.language_model.layers.") for key in tensors)
    kinds = {key.split(".lora_")[0].rsplit(".", 1)[-1] for key in tensors}
    assert {"in_proj_qkv", "in_proj_z", "out_proj", "q_proj", "down_proj"} <= kinds
    # In the wrapper that servers load, by PEFT, on weights loaded anew: it changes what the model says.
    wrapper = AutoModelForImageTextToText.from_pretrained(models["qwen35"], dtype=torch.float32).eval()
    ids = torch.tensor([[248045, 846, 198, 9707, 248046]])
    with torch.no_grad():
        before = wrapper(input_ids=ids).logits.clone()
        after = PeftModel.from_pretrained(wrapper, output / "adapter").eval()(input_ids=ids).logits
    assert float((before - after).abs().max()) > 1e-4


def test_merged_rows_whose_weights_differ_train_by_a_weighted_loss(hybrid):
    _, found, said = hybrid
    assert found["plan"]["weighting"] in ("loss", "repeat")
    assert found["plan"]["weighting"] in "\n".join(said)
    # The first step's batches are compared at the model's forward.
    assert found["canary_batches"] == 2


def test_a_full_fine_tune_writes_a_model(models, rows, tmp_path):
    found, _ = run(models, rows, tmp_path / "out", "tune=full", "lr=1e-4")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(models["qwen3"], dtype=torch.float32)
    moved = [n for (n, p), q in zip(trained.named_parameters(), base.parameters(), strict=True) if (p != q).any()]
    assert len(moved) == len(list(base.parameters()))
    assert found["state"] == "done"
    assert found["plan"]["trained"] == found["plan"]["parameters"] == sum(p.numel() for p in base.parameters())


def test_bfloat16_with_checkpointing_trains_the_same_rows(models, rows, tmp_path):
    found, _ = run(
        models, rows, tmp_path / "out", "bf16=true", "dtype=auto", "gradient_checkpointing=true", "max_steps=2"
    )
    assert found["state"] == "done"
    targets = next(c for c in found["checks"] if c["name"] == "targets")
    assert "adapter torch.float32, base torch.bfloat16" in targets["text"]


def test_packs_of_a_dense_model_are_isolated(models, rows, tmp_path):
    found, _ = run(models, rows, tmp_path / "out", "pack=700", "max_steps=2")
    isolation = next(c for c in found["checks"] if c["name"] == "isolation")
    assert isolation["ok"] is True
    assert isolation["leak"] == 0


def test_packs_of_a_hybrid_model_are_refused(models, rows, tmp_path):
    # Some releases of transformers raise here, some let rows see one another without a word.
    with pytest.raises(
        tito.DataError, match=r"check isolation: (packs cannot be kept apart|other ids in the)"
    ) as error:
        run(models, rows, tmp_path / "out", "pack=700", base="qwen35", data="qwen35")
    assert "leave pack out" in error.value.hint
    assert record(tmp_path / "out")["state"] == "failed"
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_dry_run_plans_and_writes_nothing(models, rows, tmp_path, capsys):
    given = [f"base={models['qwen3']}", f"data={rows['qwen3']}", f"output={tmp_path / 'out'}"]
    assert main(["train", "tiny-cpu", *given, "--dry-run", "--json"]) == 0
    out = capsys.readouterr()
    plan = json.loads(out.out)["plan"]
    assert not (tmp_path / "out").exists()
    data = tito.train.TitoSFTDataset(rows["qwen3"])
    assert plan["examples"] == len(data) == 84
    assert (plan["optimiser_steps"], plan["steps_an_epoch"], plan["micro_steps"]) == (21, 21, 84)
    assert plan["loss_tokens"] == sum(int((s["labels"] != -100).sum()) for s in data)
    assert plan["tokens"] == sum(len(s["labels"]) for s in data)
    shares = {turn: of["share"] for turn, of in plan["exposure"].items()}
    assert np.isclose(sum(shares.values()), 1)
    by_turn = {}
    rows_of = tito.open_rows(rows["qwen3"])
    for s in data:
        turn = rows_of[int(s["rows"][0])].turn
        by_turn[turn] = by_turn.get(turn, 0) + int((s["labels"] != -100).sum())
    assert {int(turn): round(of["weight"]) for turn, of in plan["exposure"].items()} == by_turn
    for word in ("steps", "memory", "exposure", "warning: 21 optimiser steps: fewer than 100"):
        assert word in out.err


def test_qlora_trains_over_four_bits(models, rows, tmp_path):
    # Blocks of 64 weights want rows of at least as many.
    base = {"wide": save_model(tmp_path / "wide", context=4096, size=0.16)}
    given = ["tune=qlora", "max_steps=2", "lr=1e-2", "warmup=0"]
    found, _ = run(base, rows, tmp_path / "out", *given, base="wide")
    assert found["state"] == "done"
    tensors = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert all(bool(value.any()) for key, value in tensors.items() if "lora_B" in key)
