"""Each check, made to fire: what it says, that nothing is written under the adapter's name, how `allow` goes on."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tito
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_model
from tito.cli import main
from tito.train import TitoSFTDataset, TrainConfig, train
from tito.train.base import find_targets, read_base
from tito.train.check_after import check_adapter, check_export_keys, check_heldout
from tito.train.check_rows import check_fingerprint, check_memory
from tito.train.machine import memory_limit
from tito.train.memory import available, estimate
from trained import record
from transformers import AutoModelForCausalLM, Qwen3Config


def go(models, data, output, *more, base="qwen3", dry_run=False):
    path = models.get(base, base)
    given = [f"base={path}", f"data={data}", f"output={output}", "lora_rank=4", "accumulate=2", "max_steps=2", *more]
    said = []
    return train(TrainConfig.load("tiny-cpu", given), dry_run=dry_run, say=said.append), said


def file(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def refused(error, name):
    assert str(error.value).startswith(f"check {name}: ")
    assert f"allow=[{name}] goes on in spite of it" in error.value.hint


# Before


def test_lengths_ids_beyond_the_model(models, tmp_path):
    data = file(tmp_path / "a.parquet", input_ids=[[1], [1, 151936]], output_ids=[[2], [3]])
    with pytest.raises(tito.DataError, match=r"a.parquet: row 1: id 151936, and .* has 151,936 ids") as error:
        go(models, data, tmp_path / "out")
    refused(error, "lengths")
    assert not (tmp_path / "out").exists()
    data = file(tmp_path / "b.parquet", input_ids=[[-1, 5]], output_ids=[[2]])
    with pytest.raises(tito.DataError, match="row 0: id -1"):
        go(models, data, tmp_path / "out")


def test_lengths_rows_longer_than_the_model_sees(models, tmp_path):
    data = file(tmp_path / "a.parquet", input_ids=[[1] * 4096], output_ids=[[2]])
    with pytest.raises(tito.DataError, match=r"row 0: 4,097 ids, and .* sees 4,096") as error:
        go(models, data, tmp_path / "out")
    refused(error, "lengths")


def test_loss_tokens(models, tmp_path):
    data = file(tmp_path / "a.parquet", input_ids=[[1]] * 3, output_ids=[[2], [], []])
    with pytest.raises(tito.DataError, match=r"2 rows without loss are left out \(a.parquet: row 1, ") as error:
        go(models, data, tmp_path / "out")
    refused(error, "loss_tokens")


def test_fingerprint_another_tokenizer_refuses(models, rows, tmp_path):
    with pytest.raises(
        tito.DataError, match=r"the rows are of tokenizer 9cb7c0736509 .qwen3., .* has 6e675fecefb6"
    ) as error:
        go(models, rows["qwen3"], tmp_path / "out", base="qwen35")
    refused(error, "fingerprint")
    assert not (tmp_path / "out").exists()


def test_rows_of_an_unknown_tokenizer_are_warned_of(models, rows, tmp_path):
    data = file(tmp_path / "a.parquet", input_ids=[[1, 2]] * 4, output_ids=[[3, 4]] * 4)
    _, said = go(models, data, tmp_path / "out", "allow=[loss_tokens,base_loss]", dry_run=True)
    words = "nobody can tell whose ids these are, and rows of another tokenizer would train too"
    assert f"warning: {words}: convert with --profile {models['qwen3']}" in said
    _, said = go(models, rows["qwen3"], tmp_path / "out", dry_run=True)
    assert not any(words in line for line in said)


def test_one_side_twice_and_the_wrong_side(models, rows, tmp_path):
    calls = Path(__file__).parents[1] / "captures" / "qwen3" / "calls.jsonl"
    tito.convert(calls, tmp_path / "r.parquet", policies=tito.Policies(think="mask", unterminated="keep", val=1))
    both = tmp_path / "r.parquet", tmp_path / "r.val.parquet"
    with pytest.raises(tito.UsageError, match="is data and val"):
        go(models, both[0], tmp_path / "out", f"val={both[0]}", dry_run=True)
    with pytest.raises(tito.UsageError, match="data is a validation side"):
        go(models, both[1], tmp_path / "out", f"val={both[0]}", dry_run=True)
    go(models, both[0], tmp_path / "out", f"val={both[1]}", dry_run=True)


def test_fingerprint_one_merge_less_is_another_tokenizer(models, rows, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(models["qwen3"], changed)
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(tito.DataError, match="check fingerprint"):
        go(models, rows["qwen3"], tmp_path / "out", base=changed, dry_run=True)


def test_fingerprint_a_padded_embedding_is_the_same_tokenizer(rows, tmp_path):
    base = read_base(TrainConfig(base=str(_padded(tmp_path)), data="x", output="y"))
    finding = check_fingerprint(TitoSFTDataset(rows["qwen3"]), base)
    assert base.vocabulary == 152064
    assert finding.ok is True


def _padded(folder):
    return save_model(folder / "padded", width=32, rows=152064)


def test_fingerprint_another_template_is_shown_and_goes_on(models, rows, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(models["qwen3"], changed)
    template = changed / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("<think>\\n\\n</think>\\n\\n", "<think>\\n</think>\\n"))
    assert template.read_text() != text
    _, said = go(models, rows["qwen3"], tmp_path / "out", base=changed, dry_run=True)
    [line] = [line for line in said if "fingerprint" in line]
    assert "ok: tokenizer 9cb7c0736509 on both sides; templates differ: tail_no_think [" in line


def test_weights_asked_to_be_ignored(models, rows, tmp_path):
    with pytest.raises(tito.DataError, match="the weights are not honoured: weights are ignored, as asked") as error:
        go(models, rows["qwen3"], tmp_path / "out", "weights=ignore")
    refused(error, "weights")
    found, _ = go(models, rows["qwen3"], tmp_path / "out", "weights=ignore", "allow=weights", dry_run=True)
    told = next(c for c in found["checks"] if c["name"] == "weights")
    assert (told["ok"], told["allowed"]) == (False, True)


def test_weights_that_copies_cannot_say(models, tmp_path):
    spans = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("weight", pa.float32())]))
    value = [[{"start": 1, "end": 2, "weight": 1.0}, {"start": 2, "end": 3, "weight": 3.0}]]
    data = file(tmp_path / "a.parquet", input_ids=[[1]], output_ids=[[2, 3]], loss_spans=pa.array(value, spans))
    with pytest.raises(
        tito.UsageError, match="1 rows weigh their tokens differently, which copies cannot say"
    ) as error:
        go(models, data, tmp_path / "out", "weights=repeat")
    assert (
        error.value.hint == "convert with --upweight-as copies, or take weights: auto where the trainer knows weights"
    )


@pytest.mark.parametrize("column", ["input_ids", "labels", "loss_weights"])
def test_canary_a_collator_that_changes_something(models, rows, tmp_path, column, monkeypatch):
    from tito.train import collate

    whole = collate.TitoCollator.__call__

    def changed(self, samples):
        batch = whole(self, samples)
        at = int((batch["labels"][0] != -100).nonzero()[3])
        if column in batch:
            batch[column][0, at] = 5 if column == "input_ids" else -100 if column == "labels" else 0.25
        return batch

    monkeypatch.setattr(collate.TitoCollator, "__call__", changed)
    with pytest.raises(
        tito.DataError, match=rf"check canary: .*: {column} at the model's forward are not those"
    ) as error:
        go(models, rows["qwen3"], tmp_path / "out", "weights=loss", "allow=base_loss")
    assert "changed them" in error.value.hint
    assert record(tmp_path / "out")["state"] == "failed"
    assert not (tmp_path / "out" / "adapter").exists()


def test_canary_reads_labels_beside_an_output(models, tmp_path):
    """They say where loss falls, as the survey and the loader have it."""
    labels = [[-100, -100, 8, -100, 10]] * 4
    data = file(tmp_path / "a.parquet", input_ids=[[5, 6]] * 4, output_ids=[[8, 9, 10]] * 4, labels=labels)
    found, _ = go(models, data, tmp_path / "out", "max_steps=1", "warmup=0")
    assert next(c["ok"] for c in found["checks"] if c["name"] == "canary") is True
    assert found["plan"]["loss_tokens"] == 8


def test_canary_a_loss_that_is_another(models, rows, tmp_path, monkeypatch):
    from tito.train import loss

    exact = loss._nll
    monkeypatch.setattr(loss, "_nll", lambda *given: (exact(*given)[0] * 1.01, exact(*given)[1]))
    with pytest.raises(tito.DataError, match=r"as in the file; loss .*, by hand") as error:
        go(models, rows["qwen3"], tmp_path / "out")
    refused(error, "canary")


def test_targets_something_else_is_trained(models, rows, tmp_path, monkeypatch):
    from tito.train import work

    built = work.Work._trainer

    def more(self, *given):
        trainer = built(self, *given)
        trainer.model.get_input_embeddings().weight.requires_grad_(True)
        return trainer

    monkeypatch.setattr(work.Work, "_trainer", more)
    with pytest.raises(tito.DataError, match=r"trained besides the adapter .*embed_tokens") as error:
        go(models, rows["qwen3"], tmp_path / "out")
    refused(error, "targets")


def test_targets_of_no_module(models, rows, tmp_path):
    with pytest.raises(tito.UsageError, match=r"lora_targets: \('query',\) names no linear module") as error:
        go(models, rows["qwen3"], tmp_path / "out", "lora_targets=[query]")
    assert "q_proj" in error.value.hint
    with pytest.raises(tito.UsageError, match="lm_head is among them"):
        go(models, rows["qwen3"], tmp_path / "out", "lora_targets=[lm_head]")
    with pytest.raises(tito.UsageError, match=r"lora_targets: '\['"):
        go(models, rows["qwen3"], tmp_path / "out", 'lora_targets="["')


def test_targets_the_seven_names_leave_linear_attention_bare(models, rows, tmp_path):
    found, said = go(models, rows["qwen35"], tmp_path / "out", "lora_targets=all-seven", base="qwen35", dry_run=True)
    assert (found["plan"]["bare_layers"], found["plan"]["layers"]) == (3, 4)
    assert "3 of 4 layers have no LoRA on attention; lora_targets: hybrid reaches them" in "\n".join(said)
    found, _ = go(models, rows["qwen35"], tmp_path / "out", base="qwen35", dry_run=True)
    assert found["plan"]["bare_layers"] == 0


def test_base_loss_of_broken_weights(models, rows, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(models["qwen3"], broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 400
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(tito.DataError, match=r"check base_loss: .* by id on 16 rows") as error:
        go(models, rows["qwen3"], tmp_path / "out", base=broken)
    refused(error, "base_loss")
    assert "guessing gives 11.93" in error.value.hint


def test_memory_too_little_is_said_before_rows_are_read(models, tmp_path, monkeypatch):
    from tito.train import check_rows

    monkeypatch.setattr(check_rows, "available", lambda device: 1 << 20)
    with pytest.raises(tito.DataError, match=r"GiB estimated, 0.0 GiB there") as error:
        go(models, tmp_path / "no such file.parquet", tmp_path / "out")
    refused(error, "memory")


def test_memory_of_the_reported_recipes(monkeypatch):
    """Orders of size that hold: a 4B base in bfloat16 fits one GPU, a 9B full fine-tune none."""
    from types import SimpleNamespace

    def base(parameters, hidden, layers, inner, vocabulary):
        text = SimpleNamespace(hidden_size=hidden, num_hidden_layers=layers, intermediate_size=inner)
        config = SimpleNamespace(get_text_config=lambda: text)
        return SimpleNamespace(parameters=parameters, vocabulary=vocabulary, config=config)

    lora = TrainConfig.load("qwen3-4b-lora", ["data=x", "output=y"])
    small = estimate(
        base(4_022_000_000, 2560, 36, 9728, 151936), SimpleNamespace(parameters=66_060_288), lora, length=8192
    )
    assert 9e9 < small.total < 20e9
    assert small.training == 66_060_288 * 16
    # In 4 bits are the linear modules alone: not the embedding, nor the head, which is tied to it or a second one.
    shape = {"hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 9728, "vocab_size": 151936}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    inside, table = 3_633_315_840, 151936 * 2560
    for tied, tables in ((True, 1), (False, 2)):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(Qwen3Config(**shape, **heads, tie_word_embeddings=tied))
        four = base(sum(p.numel() for p in model.parameters()), 2560, 36, 9728, 151936)
        four.skeleton = model
        norms = four.parameters - inside - tables * table
        assert 0 < norms < 1e6
        for dtype, each in (("auto", 2), ("bfloat16", 2), ("float32", 4)):
            given = ["data=x", "output=y", "tune=qlora", f"dtype={dtype}"]
            qlora = TrainConfig.load("qwen3-4b-lora", given)
            found = estimate(four, SimpleNamespace(parameters=66_060_288), qlora, length=8192)
            assert found.weights == each * (tables * table + norms) + int(0.56 * inside)
            assert found.training == small.training
    full = TrainConfig.load("qwen3.5-9b-full", ["data=x", "output=y"])
    large = estimate(base(9_000_000_000, 4096, 32, 12288, 248320), None, full, length=8192)
    assert large.weights + large.training == 16 * 9_000_000_000
    assert 0 < available("cpu") <= memory_limit()
    # A container that may have a gibibyte, on a machine that has more free.
    monkeypatch.setattr("tito.train.memory.memory_left", lambda: 1 << 30)
    finding = check_memory(large, "cpu")
    assert (finding.ok, finding.numbers["available"]) == (False, 1 << 30)
    assert finding.text.endswith("GiB estimated, 1.0 GiB there")


@pytest.mark.parametrize(("rank", "gpu"), [(None, 0), ("2", 2), ("5", 1)])
def test_memory_of_a_gpu_is_what_is_free_of_the_rank_s_own(monkeypatch, rank, gpu):
    free, total, kept, used = 3 << 30, 80 << 30, 2 << 30, 1 << 30
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda at: (free + at, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda at: kept)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda at: used)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert available("cuda") == free + gpu + kept - used


def test_out_of_memory_in_the_middle(models, rows, tmp_path, monkeypatch, capsys):
    from tito.train.trainer import TitoSFTTrainer

    exact = TitoSFTTrainer.training_step

    def step(self, *given, **more):
        if self.state.global_step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return exact(self, *given, **more)

    monkeypatch.setattr(TitoSFTTrainer, "training_step", step)
    given = [f"base={models['qwen3']}", f"data={rows['qwen3']}", f"output={tmp_path / 'out'}", "max_steps=2"]
    assert main(["train", "tiny-cpu", *given, "save_every=1", "--quiet"]) == 3
    err = capsys.readouterr().err
    assert "error: out of memory on cpu at step 1: " in err
    assert "hint: checkpoints are whole; take gradient_checkpointing" in err
    assert record(tmp_path / "out")["stopped"] == "out of memory"
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_loss_that_is_no_number_never_reaches_the_weights(models, rows, tmp_path, monkeypatch):
    from tito.train import loss
    from tito.train.trainer import TitoSFTTrainer

    seen = {"step": 0}
    step, score = TitoSFTTrainer.training_step, loss._score

    def spoilt(*given):
        found = score(*given)
        if seen["step"] == 1:
            found.loss = found.loss * float("nan")
        return found

    def at(self, *given, **more):
        if (first := seen["step"] == 0 and self.state.global_step == 1) or "held" not in seen:
            seen["held"] = [p for p in self.model.parameters() if p.requires_grad]
        if first:
            seen["before"] = [p.detach().clone() for p in seen["held"]]
        seen["step"] = self.state.global_step
        return step(self, *given, **more)

    monkeypatch.setattr(loss, "_score", spoilt)
    monkeypatch.setattr(TitoSFTTrainer, "training_step", at)
    with pytest.raises(tito.DataError, match=r"step 2: the loss is no number \(qwen3.parquet: row \d+") as error:
        go(models, rows["qwen3"], tmp_path / "out", "save_every=1", "warmup=0", "max_steps=3")
    assert "the optimiser has not seen it" in error.value.hint
    assert any(bool(p.any()) for p in seen["before"])
    assert all(torch.equal(a, b) for a, b in zip(seen["before"], seen["held"], strict=True))
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-1").is_dir()
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_quantised_base_is_refused(models, rows, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(models["qwen3"], changed)
    told = json.loads((changed / "config.json").read_text())
    told["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (changed / "config.json").write_text(json.dumps(told))
    with pytest.raises(tito.DataError, match=r"the base is quantised \(gptq\)") as error:
        go(models, rows["qwen3"], tmp_path / "out", base=changed)
    assert "full-precision" in error.value.hint


def test_a_base_that_is_not_there(models, rows, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(tito.WorldError, match=r"no config.json"):
        go(models, rows["qwen3"], tmp_path / "out", base=tmp_path / "empty")


NOT_ASKED = "no such folder, and HF_HUB_OFFLINE keeps the hub from being asked"


@pytest.mark.parametrize(
    ("base", "message", "hint"),
    [
        ("models/Qwen/4B", "no such folder", "models/Qwen is no folder either"),
        ("./Qwen3-4B", "no such folder", "check the path"),
        ("./tiny-qwen", "no such folder", "did you mean tiny-qwen3?"),
        ("~/none/Qwen3-4B", "no such folder", "none is no folder either"),
        ("Qwen/Qwen3-4B", NOT_ASKED, "a model of the hub is called OWNER/NAME"),
        ("tiny-qwen", NOT_ASKED, "did you mean tiny-qwen3?"),
        ("rows.parquet", "a file", "name the folder of the model, as `save_pretrained` writes it"),
    ],
)
def test_a_name_that_is_no_model_is_refused_before_anything_is_asked(
    base, message, hint, tmp_path, monkeypatch, capsys
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-qwen3").mkdir()
    (tmp_path / "rows.parquet").write_bytes(b"")
    assert main(["train", "tiny-cpu", f"base={base}", "data=rows.parquet", "output=out", "--dry-run"]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"error: {os.path.expanduser(base)}: {message}\nhint: ")
    assert said.endswith(f"{hint}\n")


def test_the_hub_is_asked_once(tmp_path, monkeypatch, capsys):
    """Nobody listens there, and its client would try for half a minute."""
    import huggingface_hub

    asked = []

    def refuse(url, **given):
        asked.append(url)
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "tiny-cpu", "base=Owner/Model", "data=rows.parquet", "output=out"]) == 3
    assert (
        "error: Owner/Model: no such folder, and the hub cannot be asked (nobody listens)\n" in capsys.readouterr().err
    )
    [url] = asked
    assert url.endswith("/Owner/Model/resolve/main/config.json")


def test_packages_that_are_missing_are_named(models, rows, tmp_path, monkeypatch):
    import importlib.util

    exact = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else exact(name))
    with pytest.raises(tito.WorldError, match="training needs wandb"):
        go(models, rows["qwen3"], tmp_path / "out", "report=[wandb]")


# After


def test_adapter_that_did_not_move(models, rows, tmp_path, capsys):
    given = [
        f"base={models['qwen3']}",
        f"data={rows['qwen3']}",
        f"output={tmp_path / 'out'}",
        "max_steps=1",
        "lr=1e-30",
    ]
    assert main(["train", "tiny-cpu", *given, "warmup=5", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "error: check adapter: 14 of 14 B are still zero (base_model.model.model.layers.0." in err
    # What was trained is not lost: it stands there, and the record says what is wrong with it.
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    assert record(tmp_path / "out")["state"] == "failed"


def test_adapter_norms_are_those_of_the_product():
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 30, generator=random), torch.randn(20, 4, generator=random)
    keys = (
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight",
    )
    finding = check_adapter(dict(zip(keys, (a, b), strict=True)), 2.0)
    assert finding.ok is True
    assert np.isclose(finding.numbers["norms"]["up_proj"], 2 * float((b @ a).norm()), rtol=1e-5)
    assert check_adapter(dict(zip(keys, (a, b * float("nan")), strict=True)), 2.0).ok is False


def test_reload_of_a_file_that_is_another(models, rows, tmp_path, monkeypatch):
    from tito.train import work

    exact = work.save_adapter

    def other(model, tensors, *given):
        exact(model, {key: value * 1.5 for key, value in tensors.items()}, *given)

    monkeypatch.setattr(work, "save_adapter", other)
    with pytest.raises(tito.DataError, match="check reload: logits of the reloaded adapter differ by") as error:
        go(models, rows["qwen3"], tmp_path / "out", "lr=1e-1", "warmup=0")
    refused(error, "reload")


def test_export_keys_of_the_text_class_are_refused_for_a_wrapper(models):
    config = TrainConfig(base=str(models["qwen35"]), data="x", output="y", lora_targets="hybrid")
    base = read_base(config)
    names = find_targets(base.skeleton, config).modules
    live = [f"base_model.model.{name}.lora_A.weight" for name in names]
    finding = check_export_keys(live, {}, base, config)
    assert finding.ok is False
    assert "Qwen3_5ForConditionalGeneration has no model.layers.0" in finding.text
    served = [key.replace(".model.layers.", ".model.language_model.layers.") for key in live]
    finding = check_export_keys(served, {}, base, config)
    assert finding.ok is True
    assert "serve with --max-lora-rank 32" in finding.text
    assert check_export_keys(served, {"modules_to_save": ["lm_head"]}, base, config).ok is False
    assert check_export_keys(served, {"bias": "all"}, base, config).ok is False


def test_heldout_that_got_worse(models, rows, tmp_path):
    assert check_heldout(2.0, 2.1).ok is False
    assert check_heldout(2.0, 1.9).ok is True
    assert check_heldout(None, None).ok is None
    # Judged by what the base likes best, trained on something else.
    prompt = list(range(1, 9))
    base = AutoModelForCausalLM.from_pretrained(models["qwen3"])
    likeliest = base.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :].tolist()
    train_on, judge_on = (
        file(tmp_path / f"{name}.parquet", input_ids=[prompt] * 4, output_ids=[output] * 4)
        for name, output in (("train", [1000] * 8), ("val", likeliest))
    )
    with pytest.raises(tito.DataError, match=r"check heldout: held-out loss .*, of the base") as error:
        go(models, train_on, tmp_path / "out", f"val={judge_on}", "lr=1e-2", "warmup=0", "metric=last")
    refused(error, "heldout")


# The command line


@pytest.mark.parametrize(
    ("given", "code", "message", "hint"),
    [
        ([], 2, "no recipe is named", "--list"),
        (["nothing"], 3, "nothing: no such recipe", "qwen3-4b-lora"),
        (["tiny-cpu", "lrr=1"], 2, "tiny-cpu: unknown key 'lrr'", "did you mean lr?"),
        (["tiny-cpu", "lr"], 2, "'lr' is no key=value", "lr=1e-4"),
        (["tiny-cpu", "lr=fast"], 2, "lr: 'fast' is not a number", "a number"),
        (["tiny-cpu", "tune=lorra"], 2, "tune: 'lorra' is not lora or qlora or full", "did you mean lora?"),
        (["tiny-cpu", "batch=true"], 2, "batch: True is not a whole number", "whole number"),
        (["tiny-cpu", "seed=-1"], 2, "seed: -1 is below 0", "0 or more"),
        (["tiny-cpu", "patience=2"], 2, "patience, but nothing to judge by", "val"),
        (["tiny-cpu", "--probe-every", "0"], 2, "probe_every: 0 is not above 0", "above 0"),
        (["tiny-cpu", "fsdp=true"], 2, "fsdp on the CPU", "torchrun"),
        (["tiny-cpu", "allow=[canry]"], 2, "allow: no check is called 'canry'", "did you mean canary?"),
    ],
)
def test_wrong_use_word_for_word(given, code, message, hint, capsys):
    settings = ["base=x", "data=y", "output=z"] if given else []
    assert main(["train", *given, *settings]) == code
    err = capsys.readouterr().err
    assert f"error: {message}" in err
    assert hint in err.split("hint: ")[1]


def test_every_recipe_that_comes_with_tito_is_one(capsys):
    from tito.train.config import recipes

    assert main(["train", "--list"]) == 0
    out = capsys.readouterr().out
    for name in recipes():
        assert name in out
        config = TrainConfig.load(name, ["base=b", "data=d", "output=o"])
        assert config.accumulate >= 1
    reported = TrainConfig.load("qwen3.5-9b-lora", ["data=d", "output=o"])
    assert (reported.lora_rank, reported.lora_alpha, reported.lora_dropout, reported.lr) == (32, 64, 0.05, 1e-4)
    assert (reported.batch, reported.accumulate, reported.max_length) == (1, 8, 8192)
    small = TrainConfig.load("qwen3-4b-lora", ["data=d", "output=o"])
    assert (small.lora_rank, small.lora_alpha, small.lr, small.epochs, small.batch, small.accumulate) == (
        32,
        16,
        2e-5,
        4,
        1,
        8,
    )
    full = TrainConfig.load("qwen3.5-9b-full", ["data=d", "output=o"])
    assert (full.tune, full.lr, full.epochs, full.rows_per_step(1)) == ("full", 1e-5, 2, 16)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"input_ids": [1, 2.9], "output_ids": [3]}, "record 1: input_ids holds what is no id"),
        ({"input_ids": [1, 2], "output_ids": [3.0]}, "record 1: output_ids holds what is no id"),
        (
            {"input_ids": [1], "output_ids": [3], "loss_spans": [], "loss_weights": [0, 2]},
            "loss_spans and loss_weights both say what an id weighs",
        ),
    ],
)
def test_lines_that_say_what_is_no_id_or_two_weights(tmp_path, row, words):
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(tito.DataError, match=words):
        TitoSFTDataset(tmp_path / "a.jsonl")
