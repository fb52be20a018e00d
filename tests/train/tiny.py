"""Tiny models of real families, and the loss computed the long way round."""

import json
from pathlib import Path

import made_tokenizers
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3_5 import Qwen3_5Config, Qwen3_5ForConditionalGeneration

DENSE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 1,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "num_position_embeddings": 16,
}


def save_qwen3(folder: Path, **more) -> Path:
    """A dense model with the real tokenizer and template of Qwen3."""
    made_tokenizers.save_qwen(folder, "qwen3", made_tokenizers.template("qwen3"))
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=2, vocab_size=151936, **{**DENSE, **more}))
    _larger(model)
    model.save_pretrained(folder)
    return folder


def save_qwen35(folder: Path) -> Path:
    """A hybrid model in its wrapper, three layers of linear attention and one of full attention."""
    made_tokenizers.save_qwen(folder, "qwen3.5", made_tokenizers.template("qwen3_5_think"))
    torch.manual_seed(0)
    text = {"num_hidden_layers": 4, "vocab_size": 248320, **DENSE, **LINEAR}
    config = Qwen3_5Config(text_config=text, vision_config=VISION, tie_word_embeddings=True)
    model = Qwen3_5ForConditionalGeneration(config)
    _larger(model)
    model.save_pretrained(folder)
    return folder


def _larger(model):
    """Weights of a size at which attention shows: fresh ones are so small that a leak would be lost in rounding."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2 and "embed" not in name:
                p.mul_(8)


def record(folder):
    return json.loads((Path(folder) / "tito_train.json").read_text())


def by_hand(model, samples):
    """Sum of weight x nll over all samples, one row at a time, from plain logits; and the loss tokens."""
    total, tokens = 0.0, 0
    for sample in samples:
        ids = torch.tensor(sample["input_ids"].tolist())
        labels = torch.tensor(sample["labels"].tolist())
        weights = torch.tensor(sample.get("loss_weights", [1.0] * len(ids)))
        log_probs = torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0].float(), -1)
        for at in range(1, len(ids)):
            if labels[at] != -100:
                total = total - weights[at] * log_probs[at - 1, ids[at]]
                tokens += 1
    return total, tokens
