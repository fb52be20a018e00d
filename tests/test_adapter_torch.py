"""Adapters against peft and torch themselves: merging into a base, and shards of several ranks. Needs `serve`."""

import json

import numpy as np
import pytest
import tiny_models
from tito.adapter import BaseModel, LoraAdapter, inspect
from tito.adapter.fuse import fuse
from tito.adapter.shards import merge_shards
from tito.errors import DataError, UsageError

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = tiny_models.save_model(folder / "tiny")
    return model, tiny_models.save_adapter(folder / "a", model)


def test_a_merged_base_is_pefts(made, tmp_path):
    import torch
    import transformers
    from peft import PeftModel

    model, adapter = made
    fuse(LoraAdapter(adapter), BaseModel(model), tmp_path / "merged")
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    wanted = dict(theirs.named_parameters())
    assert sum(not torch.equal(weight, wanted[name]) for name, weight in ours.named_parameters()) <= 14
    for name, weight in ours.named_parameters():
        assert torch.allclose(weight, wanted[name], rtol=1e-5, atol=1e-6), name


def write_shards(folder, adapter, world, *, replicate=False, meta=True, drop=None, dims=1):
    """A checkpoint as verl's FSDP workers save it: DTensors on a mesh, one file a rank."""
    import torch
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    folder.mkdir(parents=True)
    whole = {m.name: (m.a.array(), m.b.array()) for m in LoraAdapter(adapter).modules}
    for rank in range(world):
        torch.distributed.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
        try:
            ranks = torch.arange(world) if dims == 1 else torch.arange(world).reshape(2, world // 2)
            names = ("fsdp",) if dims == 1 else ("ddp", "fsdp")
            mesh = DeviceMesh("cpu", ranks, mesh_dim_names=names)
            state = {"base_model.model.model.norm.weight": torch.ones(3)}
            parts = world if dims == 1 else world // 2
            for name, pair in whole.items():
                for part, values in zip("AB", pair, strict=True):
                    tensor = torch.from_numpy(np.ascontiguousarray(values))
                    chunks = tensor.chunk(parts, 0)
                    at = rank % parts
                    # A dimension may hold fewer rows than there are ranks.
                    local = chunks[at] if at < len(chunks) else tensor[:0]
                    placed = [Replicate()] * (dims - 1) + ([Replicate()] if replicate else [Shard(0)])
                    value = DTensor.from_local(
                        (tensor if replicate else local).clone(),
                        mesh,
                        placed,
                        run_check=False,
                        shape=tensor.shape,
                        stride=tensor.stride(),
                    )
                    state[f"base_model.model.{name}.lora_{part}.default.weight"] = value
            if drop == rank:
                state.popitem()
            torch.save(state, folder / f"model_world_size_{world}_rank_{rank}.pt")
        finally:
            torch.distributed.destroy_process_group()
    if meta:
        (folder / "lora_train_meta.json").write_text('{"r": 4, "lora_alpha": 8, "task_type": "TaskType.CAUSAL_LM"}')
    return folder


@pytest.mark.parametrize(("world", "options"), [(1, {}), (2, {}), (3, {}), (2, {"replicate": True}), (4, {"dims": 2})])
def test_shards_give_the_adapter_back(made, tmp_path, world, options):
    _, adapter = made
    write_shards(tmp_path / "global_step_5" / "actor", adapter, world, **options)
    merged = merge_shards(tmp_path / "global_step_5", tmp_path / "out", base_name="Qwen/Qwen3-4B")
    wanted = {m.name: m for m in LoraAdapter(adapter).modules}
    assert [m.name for m in merged.modules] == sorted(wanted)
    for module in merged.modules:
        assert np.array_equal(module.a.array(), wanted[module.name].a.array())
        assert np.array_equal(module.b.array(), wanted[module.name].b.array())
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")
    assert config["base_model_name_or_path"] == "Qwen/Qwen3-4B"
    assert inspect(merged, BaseModel(made[0])).problems == []
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(made[0]), str(tmp_path / "out"))


def test_shards_that_are_not_whole(made, tmp_path):
    _, adapter = made
    folder = write_shards(tmp_path / "c", adapter, 2, meta=False)
    with pytest.raises(UsageError, match="lora_alpha stands nowhere"):
        merge_shards(folder, tmp_path / "out")
    assert merge_shards(folder, tmp_path / "told", alpha=32).alpha == 32
    (folder / "lora_train_meta.json").write_text('{"r": 8, "lora_alpha": 8}')
    with pytest.raises(DataError, match="rank 4 in the shards, 8 in what is written beside them"):
        merge_shards(folder, tmp_path / "out")
    (folder / "model_world_size_2_rank_0.pt").unlink()
    with pytest.raises(DataError, match="rank 0 of 2 is missing"):
        merge_shards(folder, tmp_path / "out")
    cut = write_shards(tmp_path / "d", adapter, 2, drop=1)
    with pytest.raises(DataError, match="rank 1 holds other tensors than rank 0"):
        merge_shards(cut, tmp_path / "out")
    (cut / "model_world_size_2_rank_1.pt").write_bytes(b"PK torn")
    with pytest.raises(DataError, match=r"rank_1\.pt: not read: "):
        merge_shards(cut, tmp_path / "out")
    with pytest.raises(UsageError, match=r"no model_world_size_\*_rank_\*\.pt"):
        merge_shards(made[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_that_wants_to_run_code_is_refused(made, tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "e").mkdir()
    torch.save({"lora_x": Evil()}, tmp_path / "e" / "model_world_size_1_rank_0.pt")
    with pytest.raises(DataError, match="not read"):
        merge_shards(tmp_path / "e", tmp_path / "out")
    assert not (tmp_path / "written").exists()


def test_a_full_checkpoint_has_no_adapter(tmp_path):
    import torch

    (tmp_path / "f").mkdir()
    torch.save({"model.embed_tokens.weight": torch.ones(2)}, tmp_path / "f" / "model_world_size_1_rank_0.pt")
    with pytest.raises(DataError, match="no LoRA tensors in the shards"):
        merge_shards(tmp_path / "f", tmp_path / "out")
