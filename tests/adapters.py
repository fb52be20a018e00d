"""Adapters and bases on disk, written by hand: the slow, plain twin of what reads them. No torch."""

import json
import struct
from pathlib import Path

import numpy as np

LAYERS = 2
HIDDEN, INNER = 32, 64
SHAPES = {
    "self_attn.q_proj": (HIDDEN, 32),
    "self_attn.v_proj": (HIDDEN, 16),
    "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}
"""`(inputs, outputs)` of the linear modules of a layer."""


def to_bytes(values, dtype="F32"):
    values = np.asarray(values, np.float32)
    if dtype == "BF16":
        # Torch's rounding, value by value.
        return b"".join(struct.pack("<H", _bf16(float(v))) for v in values.reshape(-1))
    return values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]).tobytes()


def _bf16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    low, high = bits & 0xFFFF, bits >> 16
    return high + (low > 0x8000 or (low == 0x8000 and high % 2 == 1))


def write_safetensors(path, tensors):
    """`tensors`: name to (dtype, shape, bytes), in the order given."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def read_safetensors(path):
    """The same back: name to (dtype, shape, bytes)."""
    data = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = data[8 + size :]
    return {n: (e["dtype"], tuple(e["shape"]), body[slice(*e["data_offsets"])]) for n, e in header.items()}


def modules(keys="text", layers=LAYERS, shapes=SHAPES):
    prefix = {"text": "model.", "wrapper": "model.language_model."}[keys]
    return {f"{prefix}layers.{i}.{name}": shape for i in range(layers) for name, shape in shapes.items()}


def write_adapter(folder, *, keys="text", rank=4, alpha=8, seed=1, size=0.3, dtype="F32", linears=None, **settings):
    """A LoRA adapter as peft saves it; `size` 0 leaves B at zero. `linears`: module to (inputs, outputs)."""
    chance = np.random.default_rng(seed)
    tensors = {}
    for name, (inputs, outputs) in (linears or modules(keys)).items():
        a, b = chance.normal(0, 0.3, (rank, inputs)), size * chance.normal(0, 1, (outputs, rank))
        tensors[f"base_model.model.{name}.lora_A.weight"] = (dtype, a.shape, to_bytes(a, dtype))
        tensors[f"base_model.model.{name}.lora_B.weight"] = (dtype, b.shape, to_bytes(b, dtype))
    folder = Path(folder)
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "task_type": "CAUSAL_LM"}
    config |= {"target_modules": [n.rpartition(".")[2] for n in SHAPES], "base_model_name_or_path": "base", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def write_base(folder, *, keys="text", dtype="F32", seed=0, shards=1, **settings):
    """A model's folder: config and weights of the linear modules, an embedding, a norm."""
    chance = np.random.default_rng(seed)
    folder = Path(folder)
    folder.mkdir(parents=True)
    tensors = {"lm_head.weight": (dtype, (50, HIDDEN), to_bytes(chance.normal(0, 1, (50, HIDDEN)), dtype))}
    tensors["model.norm.weight"] = (dtype, (HIDDEN,), to_bytes(np.ones(HIDDEN), dtype))
    for name, (inputs, outputs) in modules(keys).items():
        tensors[f"{name}.weight"] = (dtype, (outputs, inputs), to_bytes(chance.normal(0, 1, (outputs, inputs)), dtype))
    names = list(tensors)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
    else:
        parts = {f"model-{i + 1:05}-of-{shards:05}.safetensors": names[i::shards] for i in range(shards)}
        for file, held in parts.items():
            write_safetensors(folder / file, {name: tensors[name] for name in held})
        index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    text = {"vocab_size": 50, "max_position_embeddings": 64, **settings}
    config = {"architectures": ["Qwen3ForCausalLM"], **text}
    if keys == "wrapper":
        config = {"architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": text, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
