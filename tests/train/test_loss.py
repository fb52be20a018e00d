"""Loss and gradient against the long way round: batches, weights, packs, accumulation; what masks mean."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tito
import torch
from tito.train import TitoCollator, TitoSFTDataset, TrainConfig
from tito.train.base import find_targets, read_base
from tito.train.findings import Findings
from tito.train.loss import add_chunked_loss
from tito.train.plan import make_plan
from tito.train.record import Record
from tito.train.run import Run
from tito.train.work import Work
from trained import by_hand
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Rows with every kind of weight: by row, by token, none; lengths that differ."""
    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    spans = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("weight", pa.float32())]))
    prompts = [random.integers(0, 900, n).tolist() for n in (3, 8, 5, 2, 7, 4, 6, 3)]
    outputs = [random.integers(0, 900, n).tolist() for n in (4, 2, 9, 5, 3, 6, 2, 8)]
    uneven = [None, None, [{"start": 6, "end": 8, "weight": 2.0}, {"start": 9, "end": 12, "weight": 0.5}], *[None] * 5]
    tables = {
        "copies": {"weight": [3.0, 1.0, 2.0, 1.0, 4.0, 1.0, 1.0, 2.0]},
        "tokens": {"weight": [1.0, 2.0, 3.0, 1.0, 0.5, 1.0, 4.0, 1.0], "loss_spans": pa.array(uneven, spans)},
        "plain": {},
    }
    for name, more in tables.items():
        pq.write_table(pa.table({"input_ids": prompts, "output_ids": outputs, **more}), folder / f"{name}.parquet")
    return {name: folder / f"{name}.parquet" for name in tables}


def trainer(models, data, output, *more, base="qwen3"):
    """The trainer of a run, before it trains."""
    config = TrainConfig.load(
        "tiny-cpu", [f"base={models[base]}", f"data={data}", f"output={output}", "lora_rank=4", *more]
    )
    read = read_base(config)
    targets = None if config.tune == "full" else find_targets(read.skeleton, config)
    rows = TitoSFTDataset(data, weights=config.weights, pack=config.pack, rows_per_step=config.rows_per_step(1))
    plan = make_plan(config, read, targets, rows, world=1, stops=frozenset())
    run = Run(config, lambda _: None)
    run.found = Findings(config.allow)
    from tito.train.rhythm import Rhythm

    record = Record(output, {}, writes=False)
    work = Work(run, read, targets, rows, None, plan, record)
    return work._trainer(torch.float32, Rhythm(config, record, lambda _: None, None))


def unmerged(trainer, samples, divisor):
    """Gradients of every trained tensor from the loss by hand, over plain logits."""
    model = trainer.model
    model.eval()
    model.zero_grad()
    total, tokens = by_hand(model, samples)
    loss = total / (tokens * divisor)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return float(loss.detach()), found


def first_step(trainer, batches):
    """Loss and gradients of an optimiser step's micro-batches, through the trainer's own methods."""
    trainer.model.zero_grad()
    count = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    total = 0.0
    for batch in batches:
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch), num_items_in_batch=count)
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def worst(a, b):
    """The largest relative difference of two gradients, tensor by tensor."""
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp(min=1e-12)) for n in a if float(b[n].norm()) > 0)


CASES = [
    ("copies", []),
    ("copies", ["batch=2", "accumulate=2"]),
    ("tokens", []),
    ("tokens", ["batch=2", "accumulate=4"]),
    ("tokens", ["accumulate=1"]),
    ("copies", ["weights=loss"]),
    ("plain", ["loss=fused"]),
    ("tokens", ["loss=fused", "batch=2"]),
    ("plain", ["pack=24", "accumulate=2"]),
    ("tokens", ["pack=24"]),
]


@pytest.mark.parametrize(("name", "more"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "default")
def test_a_step_is_the_step_by_hand(models, made, tmp_path, name, more):
    held = trainer(models, made[name], tmp_path, *more)
    loader = iter(held.get_train_dataloader())
    batches = [next(loader) for _ in range(held.args.gradient_accumulation_steps)]
    rows = [row for batch in batches for row in batch["rows"].tolist() if row >= 0]
    samples = [held.train_rows.row(row) for row in rows]
    # B is zero at the start, so A has no gradient: move it.
    with torch.no_grad():
        for key, p in held.model.named_parameters():
            if "lora_B" in key:
                p.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    want, gradients = unmerged(held, samples, held.train_rows.exposure.divisor)
    got, found = first_step(held, batches)
    assert got == pytest.approx(want, rel=2e-5)
    assert worst(found, gradients) < 2e-5
    assert all(float(g.norm()) > 0 for g in gradients.values())


def test_copies_and_weights_have_the_same_gradient_over_the_whole_set(models, made, tmp_path):
    """Every copy in one step, and every row weighted in one step."""
    copied = trainer(models, made["copies"], tmp_path / "a", "accumulate=15")
    weighted = trainer(models, made["copies"], tmp_path / "b", "weights=loss", "accumulate=8")
    assert len(copied.train_rows) == 15
    assert len(weighted.train_rows) == 8
    with torch.no_grad():
        for (key, p), q in zip(copied.model.named_parameters(), weighted.model.parameters(), strict=True):
            if "lora_B" in key:
                p.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
                q.copy_(p)
            elif "lora_A" in key:
                q.copy_(p)
    (a, grads_a), (b, grads_b) = (first_step(t, list(t.get_train_dataloader())) for t in (copied, weighted))
    assert a == pytest.approx(b, rel=1e-6)
    assert worst(grads_a, grads_b) < 1e-5


def test_labels_decide_and_nothing_else(models):
    """Another label at a masked position changes no bit; at a trained one it does. Another prompt id does too."""
    model = AutoModelForCausalLM.from_pretrained(models["qwen3"], dtype=torch.float32).eval()
    add_chunked_loss(model)
    ids = np.arange(40, 60, dtype=np.int32)
    labels = np.where(np.arange(20) >= 12, ids, -100).astype(np.int32)

    def loss(ids=ids, labels=labels):
        batch = TitoCollator()([{"input_ids": ids, "labels": labels}])
        with torch.no_grad():
            return float(model(**batch, chunked_loss=True).loss)

    one = loss()
    # A label that is ignored, set and masked again: the same bits.
    assert loss(labels=labels.copy()) == one
    longer = TitoCollator(pad_id=7)(
        [{"input_ids": ids, "labels": labels}, {"input_ids": np.arange(30), "labels": np.full(30, -100)}]
    )
    with torch.no_grad():
        padded = model(**longer, chunked_loss=True)
    assert float(padded.loss) == pytest.approx(one, rel=1e-6)
    assert int(padded.tokens) == 8
    wrong = labels.copy()
    wrong[15] = 3
    assert loss(labels=wrong) != one
    masked = labels.copy()
    masked[5] = ids[5]
    assert loss(labels=masked) != one
    other = ids.copy()
    other[3] = 3
    assert loss(ids=other) != one


def test_a_batch_without_loss_trains_nothing_and_breaks_nothing(models):
    model = AutoModelForCausalLM.from_pretrained(models["qwen3"], dtype=torch.float32)
    add_chunked_loss(model)
    batch = TitoCollator()([{"input_ids": np.arange(5), "labels": np.full(5, -100)}])
    out = model(**batch, chunked_loss=True)
    out.loss.backward()
    assert float(out.loss.detach()) == 0
    assert all(p.grad is not None and not bool(p.grad.any()) for n, p in model.named_parameters() if "layers" in n)


def test_rows_of_a_padded_batch_do_not_see_one_another_in_a_hybrid_model(models):
    model = AutoModelForCausalLM.from_pretrained(models["qwen35"], dtype=torch.float32).eval()
    add_chunked_loss(model)
    samples = [{"input_ids": np.arange(9, 9 + n), "labels": np.arange(9, 9 + n)} for n in (4, 11)]
    for sample in samples:
        sample["labels"] = np.concatenate(([-100], sample["labels"][1:]))
    with torch.no_grad():
        together = float(model(**TitoCollator()(samples), chunked_loss=True).loss)
        alone = sum(float(model(**TitoCollator()([s]), chunked_loss=True).loss) for s in samples)
    assert together == pytest.approx(alone, rel=1e-5)


def test_plain_pytorch_and_trl_take_the_same_dataset(models, made, tmp_path):
    data = TitoSFTDataset(made["copies"])
    loader = torch.utils.data.DataLoader(data, batch_size=3, collate_fn=TitoCollator(), num_workers=2)
    seen = [row for batch in loader for row in batch["rows"].tolist()]
    assert seen == [int(data.rows(n)[0]) for n in range(len(data))]
    table = data.to_datasets()
    assert [r["input_ids"].tolist() for r in table] == [s["input_ids"].tolist() for s in data]
    assert [r["labels"].tolist() for r in table] == [s["labels"].tolist() for s in data]
    with pytest.raises(tito.UsageError, match="trainers of this kind know no weights") as error:
        TitoSFTDataset(made["tokens"]).to_datasets()
    assert error.value.hint == "convert with --upweight-as copies, or train with `tito train`"


# TRL itself uses the name that transformers 5.23 warns of.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_the_trl_trainer_trains_on_exactly_these_labels(models, made, tmp_path):
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    data = TitoSFTDataset(made["plain"])
    model = AutoModelForCausalLM.from_pretrained(models["qwen3"], dtype=torch.float32)
    args = SFTConfig(
        str(tmp_path), max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, use_cpu=True, bf16=False,
        report_to="none", per_device_train_batch_size=1, gradient_checkpointing=False,
    )  # fmt: skip
    held = SFTTrainer(
        model, args, train_dataset=data.to_datasets(), processing_class=AutoTokenizer.from_pretrained(models["qwen3"])
    )
    seen = {tuple(b["input_ids"][0].tolist()): b["labels"][0].tolist() for b in held.get_train_dataloader()}
    assert seen == {tuple(s["input_ids"].tolist()): s["labels"].tolist() for s in data}


def test_verl_s_dataset_class(made):
    from tito.train import TitoVerlDataset

    data = TitoVerlDataset(
        parquet_files=[str(made["copies"])], tokenizer=None, config={"max_length": 64}, max_samples=-1
    )
    assert len(data) == 15
    first = data[0]
    row = next(iter(TitoSFTDataset(made["copies"])))
    assert first["input_ids"].tolist() == row["input_ids"].tolist()
    assert first["loss_mask"].tolist() == (row["labels"] != -100).astype(int).tolist()
    assert first["position_ids"].tolist() == list(range(len(row["labels"])))
    assert all(v.dtype == torch.int64 for v in first.values())
    assert int(first["loss_mask"][0]) == 0
    both = TitoVerlDataset([str(made["copies"]), str(made["plain"])])
    assert len(both) == 15 + 8
    assert both[15]["input_ids"].tolist() == TitoSFTDataset(made["plain"])[0]["input_ids"].tolist()
    assert len(TitoVerlDataset(str(made["copies"]), max_samples=5)) == 5
    with pytest.raises(tito.DataError, match="more than max_length 13; 1 of 8 rows are longer"):
        TitoVerlDataset(str(made["copies"]), config={"max_length": 13})
    with pytest.raises(tito.UsageError, match=r"data\.pad_mode=right: verl's loss reads another mask there"):
        TitoVerlDataset(str(made["copies"]), config={"pad_mode": "right"})
    with pytest.raises(tito.UsageError, match="weigh their tokens differently"):
        TitoVerlDataset(str(made["tokens"]))


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (3, 2)])
def test_the_stream_holds_each_example_once(made, world, workers):
    from tito.train import TitoIterableDataset

    data = TitoSFTDataset(made["copies"])
    rows = []
    for rank in range(world):
        stream = TitoIterableDataset(data, rank=rank, world=world, seed=1)
        loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)
        found = [int(sample["rows"][0]) for sample in loader]
        assert len(found) == len(stream)
        rows += found
    assert sorted(row for row in rows if row >= 0) == sorted(int(data.rows(n)[0]) for n in range(len(data)))
    assert rows.count(-1) == -len(data) % world


def test_a_stream_goes_on_where_it_was_left(made):
    from tito.train import TitoIterableDataset

    data = TitoSFTDataset(made["copies"])
    whole = [s["rows"].tolist() for s in TitoIterableDataset(data, rank=0, world=2)]
    stream = TitoIterableDataset(data, rank=0, world=2)
    steps = iter(stream)
    head = [next(steps)["rows"].tolist() for _ in range(3)]
    again = TitoIterableDataset(data, rank=0, world=2)
    again.load_state_dict(stream.state_dict())
    assert head + [s["rows"].tolist() for s in again] == whole
