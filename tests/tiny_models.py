"""Tiny random models with real tokenizers and templates, and LoRA adapters for them: for what needs torch.

`python tests/tiny_models.py DIR` makes one to try training and serving on, without a download.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

FAMILIES = {"qwen3": "qwen3", "qwen3.5": "qwen3_5_think"}


# Embeddings between which a LoRA adapter tells ids apart: with the usual ones, over a frozen base, it cannot.
LEARNABLE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
_LEARNABLE_EMBEDDING, _LEARNABLE_WEIGHT = 0.1, 0.05


def config(family: str, *, context: int = 512, width: int = 64, rows: int = 151_936, **shape):
    import transformers

    ends = {"eos_token_id": 151645, "pad_token_id": 151643, "bos_token_id": None}
    small = {"hidden_size": width, "intermediate_size": width, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"head_dim": width // 2, "max_position_embeddings": context, "tie_word_embeddings": True, **shape}
    if family == "qwen3":
        return transformers.Qwen3Config(vocab_size=rows, num_hidden_layers=2, **small, **ends)
    text = {**small, "vocab_size": 248_320, "num_hidden_layers": 4, "full_attention_interval": 4}
    text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16}
    text |= {"linear_value_head_dim": 16, "eos_token_id": 248_046, "pad_token_id": 248_044}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    vision["out_hidden_size"] = small["hidden_size"]
    return transformers.Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True)


def save_model(
    folder: Path,
    family: str = "qwen3",
    *,
    size: float = 0.3,
    dtype="float32",
    tokenizer=True,
    learnable=False,
    **shape,
) -> Path:
    """A model's folder as hubs have it: weights, and tokenizer and template where they are wanted. `learnable` is of a
    shape and size on which an adapter learns a dozen rows in some ten steps."""
    import torch
    import transformers

    torch.manual_seed(0)
    settings = config(family, **(LEARNABLE if learnable else {}), **shape)
    kind = {"qwen3": "Qwen3ForCausalLM", "qwen3.5": "Qwen3_5ForConditionalGeneration"}[family]
    model = getattr(transformers, kind)(settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                continue
            if learnable:
                weight.normal_(0, _LEARNABLE_EMBEDDING if "embed_tokens" in name else _LEARNABLE_WEIGHT)
            elif "embed_tokens" not in name:
                # Of the usual size they give one id for ever, and a leak between packed rows is lost in rounding.
                weight.normal_(0, size)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        import made_tokenizers

        made_tokenizers.save_qwen(folder, family, made_tokenizers.template(FAMILIES[family]))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def save_model_by(python: Path, folder: Path, *, context: int) -> Path:
    """The same of Qwen3, in bfloat16: weights by another Python, which has torch, the tokenizer by this one."""
    import made_tokenizers

    made_tokenizers.save_qwen(folder, "qwen3", made_tokenizers.template("qwen3"))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    more = ["--no-tokenizer", "--wandering", "--dtype", "bfloat16", "--context", str(context)]
    done = subprocess.run([python, __file__, folder, *more], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def save_adapter(
    folder: Path, model: Path, *, seed: int = 1, rank: int = 4, size: float = 0.3, text_class: bool = False, **settings
) -> Path:
    """A LoRA adapter as peft saves it. `size` 0 leaves B at zero, as it is before the first step; `text_class` trains
    the language model alone, without the wrapper around it."""
    import peft
    import torch
    import transformers

    base = transformers.AutoConfig.from_pretrained(model)
    kind = getattr(transformers, base.architectures[0])
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model) if text_class else kind.from_pretrained(model)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    if base.model_type == "qwen3_5":
        targets = r".*layers\.\d+\.(self_attn|linear_attn|mlp)\.(q_proj|v_proj|in_proj_qkv|out_proj|up_proj|down_proj)$"
    given = {"r": rank, "lora_alpha": 2 * rank, "target_modules": targets, "task_type": "CAUSAL_LM", **settings}
    adapted = peft.get_peft_model(loaded, peft.LoraConfig(**given))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name:
                weight.normal_(0, size) if size else weight.zero_()
    adapted.save_pretrained(str(folder))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=tuple(FAMILIES), default="qwen3")
    parser.add_argument("--context", type=int, default=4096, metavar="N")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--no-tokenizer", action="store_true", help="weights alone")
    parser.add_argument("--wandering", action="store_true", help="smaller, and not made for learning")
    given = parser.parse_args()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    save_model(
        given.folder,
        given.family,
        context=given.context,
        dtype=given.dtype,
        tokenizer=not given.no_tokenizer,
        learnable=not given.wandering,
    )
    print(given.folder)


if __name__ == "__main__":
    main()
