"""LoRA adapters by their files: what is read, what is refused, and what is written."""

import json
import os

import adapters
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tito.adapter import BaseModel, LoraAdapter, inspect
from tito.adapter.fuse import fuse
from tito.adapter.tensors import read_tensors
from tito.adapter.write import export
from tito.cli import main
from tito.errors import DataError, TitoError, UsageError


def values(tensor):
    return tensor.array()


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.sampled_from(["F32", "F16", "BF16"]))
def test_values_are_those_of_the_file(tmp_path_factory, given_values, dtype):
    folder = tmp_path_factory.mktemp("t")
    with np.errstate(over="ignore"):
        data = adapters.to_bytes(given_values, dtype)
    adapters.write_safetensors(folder / "t", {"x": (dtype, (len(given_values),), data)})
    seen = read_tensors(folder / "t")["x"]
    if dtype == "BF16":
        halves = np.frombuffer(data, "<u2")
        wanted = [np.frombuffer((int(h) << 16).to_bytes(4, "little"), "<f4")[0] for h in halves]
    else:
        wanted = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
    assert np.array_equal(seen.array(), np.asarray(wanted, np.float32), equal_nan=True)
    assert seen.data() == data


def test_what_an_adapter_is(tmp_path):
    folder = adapters.write_adapter(tmp_path / "a", rank=4, alpha=16, keys="wrapper")
    report = inspect(LoraAdapter(folder), BaseModel(adapters.write_base(tmp_path / "b", keys="wrapper")))
    assert (report.rank, report.alpha, report.scaling, report.keys, report.tensors) == (4, 16, 4.0, "wrapper", 16)
    assert report.problems == []
    assert report.warnings == []
    target = report.targets["q_proj"]
    assert (target.modules, target.ranks, target.nonzero_b, target.zero_modules) == (2, (4,), 1.0, 0)
    pairs = [
        (values(m.a).astype(np.float64), values(m.b).astype(np.float64))
        for m in LoraAdapter(folder).modules
        if m.name.endswith("q_proj")
    ]
    assert target.norm == pytest.approx(np.mean([np.linalg.norm(4.0 * b @ a) for a, b in pairs]), rel=1e-5)


def spoil(folder, part, change):
    """Rewrites the tensors whose names hold `part`."""
    path = folder / "adapter_model.safetensors"
    tensors = adapters.read_safetensors(path)
    for name in [n for n in tensors if part in n]:
        changed = change(*tensors[name])
        if changed is None:
            del tensors[name]
        else:
            tensors[name] = changed
    adapters.write_safetensors(path, tensors)
    return folder


def nan(dtype, shape, data):
    return dtype, shape, np.full(shape, np.nan, "<f4").tobytes()


def zeros(dtype, shape, data):
    return dtype, shape, bytes(len(data))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: adapters.write_adapter(t, size=0), "every B is zero: the adapter does nothing"),
        (
            lambda t: spoil(adapters.write_adapter(t), "layers.0.mlp.up_proj.lora_B", nan),
            "1 modules hold NaN or infinity, the first is model.layers.0.mlp.up_proj",
        ),
        (
            lambda t: adapters.write_adapter(t, linears={"model.layers.0.mlp.up_proj": (32, 65)}),
            "model.layers.0.mlp.up_proj: the adapter maps 32 to 65, the base 32 to 64: the adapter is of another base",
        ),
        (
            lambda t: adapters.write_adapter(t, linears={"model.layers.9.mlp.up_proj": (32, 64)}),
            "model.layers.9.mlp.up_proj: BASE has no such module: the adapter is of another base",
        ),
        (lambda t: adapters.write_adapter(t, use_dora=True), "vLLM serves no use_dora (True)"),
        (lambda t: adapters.write_adapter(t, bias="all"), "vLLM serves no bias ('all')"),
        (lambda t: adapters.write_adapter(t, modules_to_save=["lm_head"]), "vLLM serves no modules_to_save (lm_head)"),
        (
            lambda t: adapters.write_adapter(t, init_lora_weights="pissa"),
            "init_lora_weights='pissa' changed the base's weights: convert it to a plain LoRA with peft",
        ),
        (lambda t: adapters.write_adapter(t, rank=600), "rank 600 is above 512, the most that vLLM serves"),
        (
            lambda t: adapters.write_adapter(t, keys="wrapper"),
            "names of the wrapper class (model.language_model.layers.0.mlp.down_proj), but Qwen3ForCausalLM wants "
            "those of the text class: a server would load it and apply nothing; `tito adapter export` renames them",
        ),
        (
            lambda t: adapters.write_adapter(t, rank_pattern={"up_proj": 8}),
            "model.layers.0.mlp.up_proj: rank 4 in the file, 8 in the settings",
        ),
    ],
)
def test_what_must_not_be_served(tmp_path, capsys, make, said):
    base = adapters.write_base(tmp_path / "base")
    folder = make(tmp_path / "a")
    assert main(["adapter", "inspect", str(folder), "--base", str(base)]) == 1
    err = capsys.readouterr().err
    assert f"error: {said.replace('BASE', str(base))}\n" in err
    assert err.endswith(f"hint: {folder} must not be served as it is\n")


def test_modules_that_were_not_trained_are_warned_of(tmp_path, capsys):
    folder = spoil(adapters.write_adapter(tmp_path / "a"), "layers.1.mlp.up_proj.lora_B", zeros)
    assert main(["adapter", "inspect", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["targets"]["up_proj"] | {"norm": 0} == {
        "modules": 2,
        "ranks": [4],
        "nonzero_b": 0.5,
        "zero_modules": 1,
        "norm": 0,
    }
    assert "warning: 1 of 8 modules have a B of zeros: they were not trained\n" in err


@pytest.mark.parametrize(
    ("break_it", "code", "said"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), 3, "adapter_config.json: no such file"),
        (lambda f: (f / "adapter_config.json").write_text("{"), 1, "Expecting property name"),
        (lambda f: (f / "adapter_config.json").write_text('{"peft_type": "IA3"}'), 1, "IA3 is no LoRA"),
        (
            lambda f: (f / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 0}'),
            1,
            "lora_alpha is 0; with it the adapter does nothing",
        ),
        (lambda f: (f / "adapter_model.safetensors").unlink(), 3, "adapter_model.safetensors: no such file"),
        (
            lambda f: (f / "adapter_model.safetensors").write_bytes(
                (f / "adapter_model.safetensors").read_bytes()[:-8]
            ),
            1,
            "cut off, or no safetensors file",
        ),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 100), 1, "cut off, or no safetensors file"),
        (lambda f: adapters.write_safetensors(f / "adapter_model.safetensors", {}), 1, "no tensors"),
        (lambda f: spoil(f, "layers.0.mlp.up_proj.lora_B", lambda *_: None), 1, "lora_A without lora_B"),
        (
            lambda f: spoil(f, "layers.0.mlp.up_proj.lora_B", lambda d, s, b: (d, (s[0] * s[1], 1), b)),
            1,
            "A [4, 32] and B [256, 1] do not multiply",
        ),
    ],
)
def test_broken_files_are_refused(tmp_path, capsys, break_it, code, said):
    folder = adapters.write_adapter(tmp_path / "a")
    break_it(folder)
    assert main(["adapter", "inspect", str(folder)]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "\nhint: " in err


@pytest.mark.parametrize("told", ["CAUSAL_LM", "TaskType.CAUSAL_LM", {"value": "CAUSAL_LM"}])
def test_a_task_type_may_be_an_enum(tmp_path, told):
    folder = adapters.write_adapter(tmp_path / "a", task_type=told)
    assert LoraAdapter(folder).config["task_type"] == "CAUSAL_LM"
    made = export(LoraAdapter(folder), tmp_path / "o", keys="text")
    assert json.loads((made.folder / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


def test_the_hash_is_of_the_content(tmp_path):
    one = LoraAdapter(adapters.write_adapter(tmp_path / "a")).hash
    assert LoraAdapter(adapters.write_adapter(tmp_path / "b", base_model_name_or_path="elsewhere")).hash == one
    others = {
        LoraAdapter(adapters.write_adapter(tmp_path / "c", seed=2)).hash,
        LoraAdapter(adapters.write_adapter(tmp_path / "d", alpha=9)).hash,
        LoraAdapter(adapters.write_adapter(tmp_path / "e", use_rslora=True)).hash,
        LoraAdapter(adapters.write_adapter(tmp_path / "f", keys="wrapper")).hash,
        LoraAdapter(adapters.write_adapter(tmp_path / "g", dtype="BF16")).hash,
    }
    assert len(others) == 5
    assert one not in others
    # The order of tensors in the file does not count.
    path = tmp_path / "b" / "adapter_model.safetensors"
    adapters.write_safetensors(path, dict(reversed(adapters.read_safetensors(path).items())))
    assert LoraAdapter(tmp_path / "b").hash == one


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_export_renames_and_copies_every_byte(tmp_path, capsys, dtype):
    base = adapters.write_base(tmp_path / "base", keys="wrapper")
    folder = adapters.write_adapter(tmp_path / "a", dtype=dtype)
    (folder / "tito_train.json").write_text('{"state": "done"}')
    out = tmp_path / "out"
    words = ["adapter", "export", str(folder), "--base", str(base), "--base-name", "Qwen/Q", "-o", str(out)]
    assert main(words) == 0
    before = adapters.read_safetensors(folder / "adapter_model.safetensors")
    after = adapters.read_safetensors(out / "adapter_model.safetensors")
    renamed = {n.replace("model.model.layers", "model.model.language_model.layers"): t for n, t in before.items()}
    assert after == renamed
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "Qwen/Q"
    assert (out / "tito_train.json").read_text() == '{"state": "done"}'
    note = json.loads((out / "tito_adapter.json").read_text())
    assert note["from"]["hash"] == LoraAdapter(folder).hash
    assert note["hash"] == LoraAdapter(out).hash
    # And back.
    back = export(LoraAdapter(out), tmp_path / "back", keys="text")
    assert back.hash == LoraAdapter(folder).hash
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {out}: there already\nhint: ")


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    folder = adapters.write_adapter(tmp_path / "a")
    adapter = LoraAdapter(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        export(adapter, tmp_path / "out", keys="wrapper")
    assert sorted(os.listdir(tmp_path)) == ["a"]
    with pytest.raises(UsageError, match="is not known"):
        export(adapter, tmp_path / "out")


@pytest.mark.parametrize(("dtype", "shards"), [("F32", 1), ("BF16", 1), ("F16", 1), ("F32", 3)])
@pytest.mark.parametrize("keys", ["text", "wrapper"])
def test_merging_into_the_base(tmp_path, dtype, shards, keys):
    base = adapters.write_base(tmp_path / "base", dtype=dtype, shards=shards, keys=keys)
    adapter = LoraAdapter(adapters.write_adapter(tmp_path / "a", alpha=6, use_rslora=True))
    fuse(adapter, BaseModel(base), tmp_path / "out")
    before, after = BaseModel(base).tensors, BaseModel(tmp_path / "out").tensors
    assert before.keys() == after.keys()
    layers = {m.name.removeprefix("model."): m for m in adapter.modules}
    touched = 0
    for name, tensor in before.items():
        core = name.removesuffix(".weight").removeprefix("model.").removeprefix("language_model.")
        if core not in layers:
            assert after[name].data() == tensor.data()
            continue
        touched += 1
        delta = 3.0 * layers[core].b.array().astype(np.float64) @ layers[core].a.array().astype(np.float64)
        wanted = tensor.array().astype(np.float64) + delta
        steps = {"F32": 2e-6, "F16": 1e-3, "BF16": 8e-3}[dtype]
        assert np.allclose(after[name].array(), wanted, rtol=steps, atol=steps)
        assert after[name].data() == adapters.to_bytes(
            tensor.array() + np.float32(3.0) * (layers[core].b.array() @ layers[core].a.array()), dtype
        )
    assert touched == 8
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*(p.name for p in base.iterdir()), "tito_adapter.json"]
    )


def test_merging_into_the_wrong_base(tmp_path):
    adapter = LoraAdapter(adapters.write_adapter(tmp_path / "a"))
    small = adapters.write_base(tmp_path / "q", quantization_config={"quant_method": "awq"})
    with pytest.raises(UsageError, match=r"quantised \(awq\)"):
        fuse(adapter, BaseModel(small), tmp_path / "out")
    other = LoraAdapter(adapters.write_adapter(tmp_path / "o", linears={"model.layers.0.mlp.up_proj": (32, 65)}))
    with pytest.raises(DataError, match="does not fit"):
        fuse(other, BaseModel(adapters.write_base(tmp_path / "b")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def hints(path):
    """Reads, and wants a hint where that fails."""
    failed = None
    try:
        read_tensors(path)
    except TitoError as error:
        failed = error
    assert failed is None or failed.hint


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fall_over(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "t"
    path.write_bytes(data)
    hints(path)


@given(st.dictionaries(st.text(max_size=8), st.recursive(st.integers() | st.text(max_size=4) | st.none(), st.lists)))
def test_no_header_makes_the_reader_fall_over(tmp_path_factory, header):
    path = tmp_path_factory.mktemp("t") / "t"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    hints(path)
