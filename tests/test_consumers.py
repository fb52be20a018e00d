"""Exports opened by the trainers' own code: what each reads is, id for id, what the rows hold.

`make consumers` installs the packages and runs these; none needs a GPU or the network. For trainers that are in no
registry (slime, miles, NeMo-RL) the twin of `test_export.py` is the schema.
"""

import json
import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import made_rows
import numpy as np
import pyarrow.parquet as pq
import pytest
import reference_export
import tito
from tito.export.prime_sft import export_messages

pytestmark = [pytest.mark.consumers, pytest.mark.filterwarnings("ignore")]

CAPTURES = Path(__file__).parent / "captures"
VOCABULARY = 64


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "TRL_EXPERIMENTAL_SILENCE", "AXOLOTL_DO_NOT_TRACK", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def some_rows(merged):
    """Rows of many lengths; merged ones have loss in several places."""
    dice = np.random.default_rng(7)
    made = []
    for _ in range(23):
        ids = dice.integers(3, VOCABULARY, dice.integers(6, 40)).tolist()
        if merged:
            ends = sorted(dice.choice(np.arange(1, len(ids)), 4, replace=False).tolist())
            made.append(made_rows.row(ids, spans=[(*ends[:2], 1.0), (*ends[2:], 1.0)]))
        else:
            cut = int(dice.integers(1, len(ids)))
            made.append(made_rows.row(ids[:cut], ids[cut:]))
    return made


@pytest.fixture(params=["turn", "merged"])
def rows(request):
    return some_rows(request.param == "merged")


def export(folder, rows, name, out, **options):
    source = made_rows.write(folder / "rows.parquet", rows, group=5)
    tito.export(source, folder / out, format=name, **options)
    return str(folder / out)


def expected(rows, **options):
    """(ids, labels) of each row."""
    made, _ = reference_export.examples(rows, "none", **options)
    return [(ids, reference_export.labels(ids, weights)) for _, ids, weights in made]


def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def model():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCABULARY, num_key_value_heads=1, head_dim=8, **small))


def trained_on(folder, out, **settings):
    """What the model's forward is given in one epoch of TRL's trainer, batch by batch."""
    import torch
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    kind = "parquet" if out.endswith(".parquet") else "json"
    data = load_dataset(kind, data_files=out, split="train")
    one_pass = {"num_train_epochs": 1, "per_device_train_batch_size": 3, "train_sampling_strategy": "sequential"}
    quiet = {"report_to": [], "logging_steps": 1000, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    config = SFTConfig(output_dir=str(folder / "trl"), bf16=False, **one_pass, **quiet, **settings)
    trainer = SFTTrainer(model=model(), args=config, train_dataset=data, processing_class=tokenizer())
    seen = []
    compute = trainer.compute_loss

    def compute_loss(model, inputs, *args, **more):
        seen.append({name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)})
        return compute(model, inputs, *args, **more)

    trainer.compute_loss = compute_loss
    trainer.train()
    return seen


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl"])
def test_trl_trains_on_the_rows(tmp_path, rows, out):
    seen = trained_on(tmp_path, export(tmp_path, rows, "trl", out), max_length=64)
    got = []
    for batch in seen:
        for ids, labels, attended in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            assert (labels[attended == 0] == -100).all()
            got.append((ids[attended == 1].tolist(), labels[attended == 1].tolist()))
    assert got == expected(rows)


def test_trl_takes_our_packs(tmp_path, rows):
    out = export(tmp_path, rows, "trl", "o.parquet", pack=64)
    packs = pq.read_table(out).to_pylist()
    assert len(packs) < len(rows)
    settings = {"dataset_kwargs": {"skip_prepare_dataset": True}, "padding_free": True, "max_length": None}
    seen = trained_on(tmp_path, out, **settings)
    names = ("input_ids", "labels", "position_ids")
    flat = {name: [i for batch in seen for i in batch[name][0].tolist()] for name in names}
    assert flat["input_ids"] == [i for pack in packs for i in pack["input_ids"]]
    assert flat["labels"] == [i for pack in packs for i in pack["labels"]]
    lengths = [length for pack in packs for length in pack["seq_lengths"]]
    assert flat["position_ids"] == [at for length in lengths for at in range(length)]
    by_ids = sorted(expected(rows))
    ends = np.cumsum([0, *lengths])
    pieces = [(flat["input_ids"][a:b], flat["labels"][a:b]) for a, b in pairwise(ends)]
    assert sorted(pieces) == by_ids


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl"])
def test_skyrl_reads_the_rows(tmp_path, rows, out):
    from skyrl.train.dataset.pretokenized import load_from_pretokenized

    data = load_from_pretokenized(export(tmp_path, rows, "skyrl", out), max_length=64)
    assert len(data) == len(rows)
    for row, (ids, labels) in zip(data, expected(rows), strict=True):
        mask = [0] * (len(ids) - row["num_actions"]) + row["loss_mask"]
        assert (row["input_ids"], mask) == (ids, [int(label != -100) for label in labels])


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl"])
def test_axolotl_reads_the_rows(tmp_path, rows, out):
    from axolotl.utils.data.shared import load_dataset_with_config
    from axolotl.utils.data.wrappers import get_dataset_wrapper
    from axolotl.utils.dict import DictDefault

    kind = "parquet" if out.endswith(".parquet") else "json"
    path = export(tmp_path, rows, "axolotl", out)
    config = DictDefault({"path": path, "ds_type": kind, "type": None, "split": "train"})
    loaded = load_dataset_with_config(config, use_auth_token=False)
    data, _ = get_dataset_wrapper(config, tokenizer(), DictDefault({}), None, loaded)
    assert sorted(data.column_names) == ["attention_mask", "input_ids", "labels"]
    assert [(row["input_ids"], row["labels"]) for row in data] == expected(rows)
    assert all(set(row["attention_mask"]) == {1} for row in data)


def test_llamafactory_reads_the_rows(tmp_path, rows):
    from llamafactory.data.loader import get_dataset
    from llamafactory.extras.misc import has_tokenized_data

    path = export(tmp_path, rows, "llamafactory", "folder")
    assert has_tokenized_data(path)
    options = SimpleNamespace(tokenized_path=path, streaming=False)
    data = get_dataset(None, None, options, None, "sft", tokenizer(), None)["train_dataset"]
    assert [(row["input_ids"], row["labels"]) for row in data] == expected(rows)
    assert set(os.listdir(tmp_path)) - {"cache"} == {"folder", "folder.manifest.json", "rows.parquet"}


@pytest.mark.parametrize("exported", [True, False])
def test_verl_trains_on_the_rows(tmp_path, rows, exported):
    """Through verl's own loader, collator and loss: what it sums is the loss of the ids with loss, and no other."""
    import torch
    from tensordict import TensorDict
    from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator
    from verl.utils.import_utils import load_extern_object
    from verl.workers.utils.losses import sft_loss

    made = load_extern_object("pkg://tito.train.verl", "TitoVerlDataset")
    path = export(tmp_path, rows, "verl", "o.parquet")
    if not exported:
        path = str(tmp_path / "rows.parquet")
    config = {"max_length": 64, "pad_mode": "no_padding"}
    data = made(parquet_files=[path], tokenizer=None, config=config, processor=None, max_samples=-1)
    wanted = expected(rows)
    assert len(data) == len(wanted)
    for row, (ids, labels) in zip(data, wanted, strict=True):
        assert row["input_ids"].tolist() == ids
        assert row["loss_mask"].tolist() == [int(label != -100) for label in labels]
        assert row["position_ids"].tolist() == list(range(len(ids)))
    batch = SFTTensorCollator(DatasetPadMode.NO_PADDING)([data[at] for at in range(len(data))])
    # The log probability of id i+1 at position i, as verl's model output has it; of a last id that of the next row.
    flat = torch.cat([data[at]["input_ids"] for at in range(len(data))]).double()
    log_probs = torch.nested.nested_tensor_from_jagged(-torch.roll(flat, -1), offsets=batch["input_ids"].offsets())
    count = sum(label != -100 for _, labels in wanted for label in labels)
    of_batch = TensorDict({"loss_mask": batch["loss_mask"]}, batch_size=[len(data)])
    from verl.utils import tensordict_utils

    for name, value in {"pad_mode": DatasetPadMode.NO_PADDING, "dp_size": 1, "batch_num_tokens": count}.items():
        tensordict_utils.assign_non_tensor(of_batch, **{name: value})
    loss, _ = sft_loss(config=None, model_output={"log_probs": log_probs}, data=of_batch, dp_group=None)
    by_hand = sum(label for _, labels in wanted for label in labels if label != -100) / count
    assert loss.item() == pytest.approx(by_hand)


def test_tinker_takes_the_rows(tmp_path, rows):
    from tinker.types._pydantic_types.datum import Datum

    weighted = [{**row, "weight": 0.5} for row in rows]
    path = export(tmp_path, weighted, "tinker", "o.jsonl")
    lines = Path(path).read_text().splitlines()
    for line, (ids, labels) in zip(lines, expected(rows), strict=True):
        datum = Datum.model_validate(json.loads(line))
        [chunk] = datum.model_input.chunks
        assert list(chunk.tokens) == ids[:-1]
        assert datum.loss_fn_inputs["target_tokens"].data == ids[1:]
        weights = datum.loss_fn_inputs["weights"]
        assert (weights.dtype, weights.shape) == ("float32", [len(ids) - 1])
        assert weights.data == [0.5 * (label != -100) for label in labels[1:]]


@pytest.mark.parametrize("row_mode", ["rollout", "exchange"])
def test_benchflow_takes_the_messages(tmp_path, row_mode):
    from benchflow.trajectories.export_prime_sft import validate_prime_sft_jsonl

    for name in ("qwen3", "qwen35", "qwen3-stream", "smollm2-chat.jsonl"):
        out = tmp_path / f"{name}.jsonl"
        exported = export_messages(CAPTURES / name, out, row_mode=row_mode)
        told = validate_prime_sft_jsonl(out, expected_rows=exported.rows)
        assert told["rows_with_tool_calls"] == exported.data["counts"]["rows_with_tool_calls"]
