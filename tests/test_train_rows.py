"""Rows as training examples: their ids, labels and weights against a slow twin; bad files word for word."""

import json
import math
import multiprocessing
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tito
from hypothesis import given
from hypothesis import strategies as st
from tito.train import EpochOrder, TitoSFTDataset
from tito.train.order import epoch_order, fillers
from tito.train.survey import survey
from tito.train.table import Table

CAPTURES = Path(__file__).parent / "captures"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Rows of real captures: per turn, and merged."""
    folder = tmp_path_factory.mktemp("rows")
    capture = CAPTURES / "qwen35" / "calls.jsonl"
    for name, policies in {
        "turn": tito.Policies(upweight="0:3,last:2"),
        "merged": tito.Policies(rows="merged", upweight="0:3,last:2"),
        "think": tito.Policies(think="mask", tail="captured"),
        "copies": tito.Policies(upweight="0:3,last:2", upweight_as="copies"),
        "plain": tito.Policies(columns="output_logprobs"),
    }.items():
        tito.convert(capture, folder / f"{name}.parquet", policies=policies)
        tito.convert(capture, folder / f"{name}.jsonl", policies=policies)
    return folder


def foreign(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def twin(row):
    """Ids, labels and weights of a row, position by position."""
    ids = [*map(int, row.input_ids), *map(int, row.output_ids)]
    weights = [0.0] * len(ids)
    spans = [(len(row.input_ids), len(ids), 1.0)] if row.loss_spans is None else row.loss_spans
    for start, end, weight in spans:
        for at in range(start, end):
            weights[at] = weight
    return ids, [i if w > 0 else -100 for i, w in zip(ids, weights, strict=True)], weights


@pytest.mark.parametrize("kind", ["turn", "merged", "think", "copies"])
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_every_row_is_the_file_s(real, kind, suffix):
    data = TitoSFTDataset(real / f"{kind}{suffix}", weights="loss")
    rows = tito.open_rows(real / f"{kind}{suffix}")
    assert len(data) == len(rows)
    for sample, row in zip(data, rows, strict=True):
        ids, labels, weights = twin(row)
        assert sample["input_ids"].tolist() == ids
        assert sample["labels"].tolist() == labels
        assert np.allclose(sample["loss_weights"], np.array(weights) * row.weight)
        assert (sample["input_ids"].dtype, sample["labels"].dtype) == (np.int32, np.int32)


@pytest.mark.parametrize("kind", ["turn", "merged"])
def test_random_access_is_the_same_as_reading_in_order(real, kind):
    data, rows = TitoSFTDataset(real / f"{kind}.parquet", weights="ignore"), tito.open_rows(real / f"{kind}.parquet")
    for at in np.random.default_rng(0).permutation(len(rows)).tolist():
        assert data[at]["labels"].tolist() == twin(rows[at])[1]
    assert data[-1]["rows"].tolist() == [len(rows) - 1]
    with pytest.raises(IndexError):
        data[len(data)]


def test_rows_are_repeated_by_weight_and_the_totals_agree(real):
    weighted, copied = TitoSFTDataset(real / "turn.parquet"), TitoSFTDataset(real / "copies.parquet")
    assert weighted.exposure.mode == "repeat"
    assert len(weighted) == len(copied)
    counted = [Counter(tuple(s["input_ids"].tolist()) for s in data) for data in (weighted, copied)]
    assert counted[0] == counted[1]


def test_weights_below_one_and_inside_rows_turn_to_the_loss(tmp_path, real):
    path = foreign(tmp_path / "a.parquet", input_ids=[[1], [2]], output_ids=[[3], [4]], weight=[0.5, 1.5])
    data = TitoSFTDataset(path)
    assert (data.exposure.mode, data.weighted) == ("loss", True)
    assert data.exposure.why == "1 rows weigh less than 1: the loss is weighted, no index is repeated"
    assert data.exposure.divisor == 1.0
    merged = TitoSFTDataset(real / "merged.parquet")
    assert merged.exposure.mode == "loss"
    assert "weigh their tokens differently" in merged.exposure.why
    seen = merged.survey
    total = sum(sum(twin(row)[2]) for row in tito.open_rows(real / "merged.parquet"))
    assert math.isclose(merged.exposure.divisor, total / seen.loss_tokens.sum(), rel_tol=1e-6)
    # One row a step: the constant is the mean of the rows.
    one = TitoSFTDataset(real / "merged.parquet", rows_per_step=1)
    assert math.isclose(one.exposure.divisor, seen.weight.mean(), rel_tol=1e-6)
    # One pack a step is several rows.
    packed = TitoSFTDataset(real / "merged.parquet", rows_per_step=1, pack=int(seen.lengths.sum()))
    assert len(packed) == 1
    assert packed.exposure.divisor == merged.exposure.divisor != one.exposure.divisor


def test_copies_are_refused_where_they_cannot_say_the_weights(tmp_path, real):
    """As the hint says, each level of weight can be repeated by itself."""
    with pytest.raises(
        tito.UsageError, match=r"\d+ rows weigh their tokens differently, which copies cannot say"
    ) as error:
        TitoSFTDataset(real / "merged.parquet", weights="repeat")
    assert (
        error.value.hint == "convert with --upweight-as copies, or take weights: auto where the trainer knows weights"
    )
    policies = tito.Policies(rows="merged", upweight="0:3,last:2", upweight_as="copies")
    tito.convert(CAPTURES / "qwen35" / "calls.jsonl", tmp_path / "a.parquet", policies=policies)
    copied, merged = (
        TitoSFTDataset(path, weights=how)
        for path, how in ((tmp_path / "a.parquet", "repeat"), (real / "merged.parquet", "loss"))
    )
    total = sum(float(sample["loss_weights"].sum()) for sample in merged)
    assert copied.loss_tokens().sum() == total


def test_a_row_of_weight_zero_is_never_trained(tmp_path):
    path = foreign(tmp_path / "a.parquet", input_ids=[[1], [2]], output_ids=[[3], [4]], weight=[0.0, 2.0])
    data = TitoSFTDataset(path)
    assert [s["input_ids"].tolist() for s in data] == [[2, 4], [2, 4]]
    assert len(TitoSFTDataset(path, weights="ignore")) == 2


def test_other_people_s_files(tmp_path):
    pair = {"input_ids": pa.array([[5, 6], [7]], pa.large_list(pa.int64())), "output_ids": [[8], [9, 10]]}
    data = TitoSFTDataset(foreign(tmp_path / "pair.parquet", **pair))
    assert [s["labels"].tolist() for s in data] == [[-100, -100, 8], [-100, 9, 10]]
    mask = TitoSFTDataset(foreign(tmp_path / "mask.parquet", **pair, loss_mask=[[1], [0, 1]]))
    assert [s["labels"].tolist() for s in mask] == [[-100, -100, 8], [-100, -100, 10]]
    whole = TitoSFTDataset(foreign(tmp_path / "whole.parquet", **pair, loss_mask=[[0, 1, 1], [0, 0, 1]]))
    assert [s["labels"].tolist() for s in whole] == [[-100, 6, 8], [-100, -100, 10]]
    only = TitoSFTDataset(foreign(tmp_path / "only.parquet", input_ids=[[5, 6, 8]], loss_mask=[[0, 0, 1]]))
    assert only[0]["labels"].tolist() == [-100, -100, 8]
    labels = {"input_ids": [[5, 6, 8]], "labels": [[-100, 6, -100]]}
    assert TitoSFTDataset(foreign(tmp_path / "labels.parquet", **labels))[0]["labels"].tolist() == [-100, 6, -100]
    # Where labels stand beside outputs they decide, and a mask that says the same changes nothing.
    both = {**pair, "labels": [[-100, -100, 8], [-100, -100, 10]]}
    for more in ({}, {"loss_mask": [[1], [0, 1]]}, {"loss_mask": [[0, 0, 1], [0, 0, 1]]}):
        data = TitoSFTDataset(foreign(tmp_path / "both.parquet", **both, **more))
        assert [s["input_ids"].tolist() for s in data] == [[5, 6, 8], [7, 9, 10]]
        assert [s["labels"].tolist() for s in data] == both["labels"]
        assert data.survey.loss_tokens.tolist() == [1, 1]
    lines = tmp_path / "pair.jsonl"
    lines.write_text('{"input_ids": [5, 6], "output_ids": [8]}\n{"input_ids": [7], "output_ids": [9, 10]}\n')
    assert [s["labels"].tolist() for s in TitoSFTDataset(lines)] == [[-100, -100, 8], [-100, 9, 10]]


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        ({"input_ids": [[1, 2]]}, "nothing says where loss falls: no output_ids and no labels", "a file to train on"),
        (
            {"input_ids": [[1, 2, 3]], "labels": [[-100, 2, 3]], "loss_weights": [[0.0, 1.0, 5.0]]},
            "a.parquet: loss_weights says what each id weighs, and without loss_spans it is not read",
            "say the weights in loss_mask (a number of 0 or more an id), and leave loss_weights out",
        ),
        ({"input_ids": [[1]], "output_ids": [[2]], "loss_weights": [[0.0, 5.0]]}, "a.parquet: loss_weights", "say"),
        ({"prompt": [[1]]}, "no column input_ids (columns prompt)", "a file to train on"),
        ({"input_ids": [[1]], "output_ids": [[]]}, "none of the 1 rows has a loss token", "nothing would be trained"),
        ({"input_ids": [[], [1]], "output_ids": [[2], [2]]}, "a.parquet: row 0: loss on position 0", "convert again"),
        ({"input_ids": [[1, 2]], "labels": [[-100]]}, "row 0: labels are not as long as input_ids", "convert again"),
        ({"input_ids": [[1, 2]], "labels": [[-100, 3]]}, "row 0: a label that is not its own id", "convert again"),
        ({"input_ids": [[1, 2]], "labels": [[1, 2]]}, "row 0: loss on position 0, which no model predicts", "convert"),
        (
            {"input_ids": [[1], [1]], "output_ids": [[2], [3]], "weight": [1.0, float("nan")]},
            "row 1: a weight that is no number of 0 or more",
            "convert again",
        ),
        ({"input_ids": [[1]], "output_ids": [[2]], "weight": [-1.0]}, "row 0: a weight that is no number", "convert"),
        ({"input_ids": [[1]], "output_ids": [[2]], "loss_mask": [[1, 1, 1]]}, "row 0: loss_mask is as long as", "con"),
        ({"input_ids": [[1]], "output_ids": [[2]], "labels": [[2]]}, "row 0: labels are not as long as input_ids", "c"),
        (
            {"input_ids": [[1, 2], [3, 4]], "labels": [[-100, 2], [-100, 4]], "loss_mask": [[0, 1], [0, 0]]},
            "row 1: labels and loss_mask disagree on where loss falls, or with what weight",
            "one of the columns is right",
        ),
        (
            {"input_ids": [[1, 2]], "labels": [[-100, 2]], "loss_mask": [[0, 0.5]]},
            "row 0: labels and loss_mask disagree on where loss falls, or with what weight",
            "one of the columns is right",
        ),
        (
            {"input_ids": [[1]], "output_ids": [[2]], "labels": [[-100, 2]], "loss_mask": [[1, 1, 1]]},
            "row 0: loss_mask is as long as neither the row nor its output",
            "convert again",
        ),
        ({"input_ids": [[1.5]], "output_ids": [[2]]}, "input_ids: values of type float64", "an id is a whole number"),
        ({"input_ids": [[1, None]], "output_ids": [[2]]}, "input_ids: a null among the ids", "an id is a whole number"),
        ({"input_ids": [[2**31]], "output_ids": [[2]]}, "input_ids: 2147483648 is no id", "ids are 32-bit"),
        ({"input_ids": ["ab"], "output_ids": [[2]]}, "column input_ids is string, not a list", "a file to train on"),
        (
            {"input_ids": pa.array([], pa.list_(pa.int32())), "output_ids": pa.array([], pa.list_(pa.int32()))},
            "no rows",
            "",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, columns, message, hint):
    with pytest.raises(tito.DataError) as error:
        TitoSFTDataset(foreign(tmp_path / "a.parquet", **columns))
    assert message in str(error.value)
    assert hint in error.value.hint


def test_every_record_of_json_lines_says_the_loss_by_the_same_keys(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"input_ids": [5], "output_ids": [8]}\n{"input_ids": [7], "output_ids": [9], "weight": 3}\n')
    with pytest.raises(tito.DataError, match=r"a\.jsonl: record 2: weight, which record 1 has not") as error:
        TitoSFTDataset(lines)
    assert error.value.hint == "give every record the same keys; null where it says nothing"
    lines.write_text('{"input_ids": [5], "output_ids": [8], "loss_weights": [0, 3]}\n')
    with pytest.raises(tito.DataError, match=r"a\.jsonl: loss_weights says what each id weighs"):
        TitoSFTDataset(lines)


INSIDE = {
    "output_ids": [8],
    "loss_spans": [{"start": 1, "end": 2, "weight": 2.0}],
    "labels": [-100, 8],
    "loss_mask": [0.0, 1.0],
    "loss_weights": [0.0, 3.0],
    "weight": 3.0,
}


@pytest.mark.parametrize("key", INSIDE)
def test_a_row_that_says_its_loss_inside_metadata_is_refused(tmp_path, key):
    hint = f"put {key} at the top level of the row, as `tito convert` writes it"
    row = {"input_ids": [5], "output_ids": [8]}
    said = {**row, "metadata": {"task": "a", key: INSIDE[key]}}
    silent = {**row, "metadata": {"task": "a", key: None}}
    for rows, at in (([said, said], 0), ([row, silent, said], 2)):
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        with pytest.raises(tito.DataError) as error:
            TitoSFTDataset(tmp_path / "a.jsonl")
        assert str(error.value).endswith(
            f"a.jsonl: record {at + 1}: {key} stands inside metadata, where training does not read it"
        )
        assert error.value.hint == hint
        pq.write_table(pa.Table.from_pylist([{"metadata": None, **r} for r in rows]), tmp_path / "a.parquet", 2)
        with pytest.raises(tito.DataError) as error:
            TitoSFTDataset(tmp_path / "a.parquet")
        assert str(error.value).endswith(
            f"a.parquet: row {at}: {key} stands inside metadata, where training does not read it"
        )
        assert error.value.hint == hint


def test_a_row_of_ours_with_more_inside_metadata_is_refused(tmp_path, real):
    first, second, *_ = (real / "turn.jsonl").read_text().splitlines()
    more = json.dumps({**json.loads(second), "metadata": {"weight": 3}})
    (tmp_path / "a.jsonl").write_text(f"{first}\n{more}\n")
    with pytest.raises(tito.DataError, match=r"a\.jsonl: record 2: weight stands inside metadata"):
        TitoSFTDataset(tmp_path / "a.jsonl")


def test_other_metadata_is_welcome(tmp_path):
    pair = {"input_ids": [5], "output_ids": [8]}
    values = [{"task": "a", "turn": 3, "weight": None}, "weight", ["weight"], None]
    for value in values:
        (tmp_path / "a.jsonl").write_text(json.dumps({**pair, "metadata": value}) + "\n")
        pq.write_table(pa.Table.from_pylist([{**pair, "metadata": value}]), tmp_path / "a.parquet")
        for name in ("a.jsonl", "a.parquet"):
            assert TitoSFTDataset(tmp_path / name)[0]["labels"].tolist() == [-100, 8]
    kind = pa.map_(pa.string(), pa.float32())
    for pairs, said in (([("task", 1.0)], None), ([("weight", 3.0)], "row 0: weight stands inside metadata")):
        path = foreign(tmp_path / "map.parquet", **{k: [v] for k, v in pair.items()}, metadata=pa.array([pairs], kind))
        if said is None:
            assert len(TitoSFTDataset(path)) == 1
            continue
        with pytest.raises(tito.DataError, match=said):
            TitoSFTDataset(path)


SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("weight", pa.float32())]))


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(1, 9, 1.0)], "a loss span that is not inside the row"),
        ([(2, 2, 1.0)], "a loss span that is not inside the row"),
        ([(1, 3, 1.0), (2, 4, 1.0)], "loss spans that overlap or are out of order"),
        ([(1, 3, -1.0)], "a span weight that is no number of 0 or more"),
        ([(0, 3, 1.0)], "loss on position 0"),
    ],
)
def test_bad_spans_are_named(tmp_path, spans, message):
    value = [None, [{"start": s, "end": e, "weight": w} for s, e, w in spans]]
    path = foreign(
        tmp_path / "a.parquet", input_ids=[[1], [1, 2]], output_ids=[[2], [3, 4]], loss_spans=pa.array(value, SPANS)
    )
    with pytest.raises(tito.DataError, match=rf"row 1: {message}"):
        TitoSFTDataset(path)


def test_spans_beside_labels_or_a_mask_must_say_the_same(tmp_path):
    spans = pa.array([None, [{"start": 2, "end": 3, "weight": 2.0}]], SPANS)
    pair = {"input_ids": [[1], [1, 2]], "output_ids": [[2], [3, 4]], "loss_spans": spans}
    for more in ({"loss_mask": [[0, 1], [0, 0, 2, 0]]}, {"labels": [[-100, 2], [-100, -100, 3, -100]]}):
        data = TitoSFTDataset(foreign(tmp_path / "a.parquet", **pair, **more), weights="loss")
        assert [s["loss_weights"].tolist() for s in data] == [[0, 1], [0, 0, 2, 0]]
    for more, said in (
        ({"loss_mask": [[0, 1], [0, 0, 3, 0]]}, "row 1: loss_spans and loss_mask disagree"),
        ({"labels": [[-100, 2], [-100, -100, 3, 4]]}, "row 1: loss_spans and labels disagree"),
    ):
        with pytest.raises(tito.DataError, match=said):
            TitoSFTDataset(foreign(tmp_path / "a.parquet", **pair, **more))


def test_over_long_rows_fail_or_are_left_out(tmp_path):
    path = foreign(tmp_path / "a.parquet", input_ids=[[1] * 9, [1]], output_ids=[[2], [2]])
    with pytest.raises(tito.DataError, match="row 0: 10 ids, more than max_length 5; 1 of 2 rows are longer"):
        TitoSFTDataset(path, max_length=5)
    data = TitoSFTDataset(path, max_length=5, overlong="drop")
    assert (len(data), data.dropped) == (1, 1)
    with pytest.raises(tito.DataError, match="no row is left"):
        TitoSFTDataset(path, max_length=1, overlong="drop")


def test_the_survey_counts_what_the_rows_hold(real):
    for kind in ("turn", "merged", "think"):
        seen, rows = survey(Table(real / f"{kind}.parquet")), list(tito.open_rows(real / f"{kind}.parquet"))
        twins = [twin(row) for row in rows]
        assert seen.lengths.tolist() == [len(ids) for ids, _, _ in twins]
        assert seen.loss_tokens.tolist() == [sum(label != -100 for label in labels) for _, labels, _ in twins]
        total = [sum(weights) * row.weight for (_, _, weights), row in zip(twins, rows, strict=True)]
        assert np.allclose(seen.weight * seen.loss_tokens, total)
        turn, weight, _ = seen.turns
        assert math.isclose(weight.sum(), sum(total), rel_tol=1e-6)
        assert set(turn.tolist()) == {0, 1, 2}
        assert seen.last_id.tolist() == [ids[-1] for ids, _, _ in twins]
        highest = max(max(ids) for ids, _, _ in twins)
        assert seen.highest_id == highest
        assert highest in twins[seen.highest_at][0]


def test_the_teacher_s_floor_is_the_mean_of_its_logprobs(real):
    rows = [row for row in tito.open_rows(real / "plain.parquet") if row.output_logprobs is not None]
    values = np.concatenate([row.output_logprobs for row in rows])
    seen = survey(Table(real / "plain.parquet"))
    assert seen.floor is not None
    assert math.isclose(seen.floor[0] / seen.floor_weight, -values.mean(), rel_tol=1e-5)
    assert seen.floor[1] == len(values)


# Packs and order


def test_a_pack_is_its_rows_one_behind_the_other(real):
    data = TitoSFTDataset(real / "copies.parquet", pack=1500)
    apart = TitoSFTDataset(real / "copies.parquet")
    assert sum(len(data.rows(i)) for i in range(len(data))) == len(apart)
    for sample in data:
        parts = [data.row(row) for row in sample["rows"].tolist()]
        assert sample["input_ids"].tolist() == [i for part in parts for i in part["input_ids"].tolist()]
        assert sample["seq_lengths"].tolist() == [len(part["labels"]) for part in parts]
        assert len(sample["labels"]) <= 1500
    with pytest.raises(tito.UsageError, match="packs of 10 ids hold no row of"):
        TitoSFTDataset(real / "copies.parquet", pack=10)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_each_example_is_on_one_rank_once_an_epoch(examples, batch, world, epoch):
    ranks = [EpochOrder(examples, batch=batch, world=world, rank=rank, seed=3) for rank in range(world)]
    for order in ranks:
        order.set_epoch(epoch)
    dealt = [list(order) for order in ranks]
    assert len({len(numbers) for numbers in dealt}) == 1
    assert [len(order) for order in ranks] == [len(numbers) for numbers in dealt]
    assert sorted(n for numbers in dealt for n in numbers if n < examples) == list(range(examples))
    assert sum(n >= examples for numbers in dealt for n in numbers) == fillers(examples, batch * world)
    # The same batches as one rank has, dealt round.
    alone = EpochOrder(examples, multiple=batch * world, seed=3)
    alone.set_epoch(epoch)
    whole = np.array(list(alone)).reshape(-1, world, batch)
    assert [whole[:, rank].ravel().tolist() for rank in range(world)] == dealt


def test_epochs_differ_seeds_differ_and_both_repeat():
    orders = [epoch_order(50, seed=s, epoch=e).tolist() for s, e in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_an_order_goes_on_where_it_was_left():
    whole, first, again = (EpochOrder(20, seed=1) for _ in range(3))
    steps = iter(first)
    head = [next(steps) for _ in range(7)]
    again.load_state_dict(first.state_dict())
    assert [*head, *again] == list(whole)
    assert list(again) == list(whole)


def test_an_order_by_blocks_decodes_few_at_a_time():
    blocks = np.repeat(np.arange(10), 30)
    order = epoch_order(300, seed=0, epoch=0, blocks=blocks, window=2)
    assert sorted(order.tolist()) == list(range(300))
    for start in range(0, 300, 60):
        assert len(set(blocks[order[start : start + 60]].tolist())) == 2


# Processes


def summed(data, queue=None):
    total = int(sum(int(data[i]["input_ids"].sum()) for i in range(len(data))))
    if queue is not None:
        queue.put(total)
    return total


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_reads(real, method):
    data = TitoSFTDataset(real / "merged.parquet")
    here = summed(data)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=summed, args=(data, queue))
    worker.start()
    assert queue.get(timeout=120) == here
    worker.join(timeout=30)
    assert worker.exitcode == 0


def test_a_dataset_pickles_as_its_path_and_little_else(real):
    data = TitoSFTDataset(real / "turn.parquet")
    again = pickle.loads(pickle.dumps(data))
    assert summed(again) == summed(data)
    assert len(pickle.dumps(data)) < 20_000


@pytest.fixture
def short_stretches(monkeypatch):
    """Stretches of 30 ids are shuffled as one."""
    monkeypatch.setattr("tito.train.dataset._STRETCH", 30)


@pytest.mark.parametrize("groups", [10, 3, 400])
def test_the_order_is_the_data_s_whatever_memory_holds(tmp_path, short_stretches, groups):
    """By row groups where they are longer than a stretch, by some of them where they are shorter."""
    table = pa.table({"input_ids": [[1, 2]] * 400, "output_ids": [[n] for n in range(400)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=groups)
    little, much = (TitoSFTDataset(tmp_path / "a.parquet", keep_bytes=size) for size in (1, 1 << 30))
    list(much)
    assert little.order_hash(3) == much.order_hash(3) != much.order_hash(4)
    orders = [epoch_order(len(d), seed=3, epoch=1, blocks=d.blocks).tolist() for d in (little, much)]
    assert orders[0] == orders[1]
    if groups == 400:
        assert little.blocks is None
    else:
        stretch = np.arange(400) // groups * groups * 3 // 30
        assert little.blocks.tolist() == stretch.tolist()
        assert len(set(stretch.tolist())) > 8
        # Eight of them are through before another one begins.
        first = list(dict.fromkeys(stretch[orders[0]].tolist()))[:8]
        assert set(stretch[orders[0][: np.isin(stretch, first).sum()]].tolist()) == set(first)


def test_a_short_file_is_shuffled_as_a_whole(real):
    assert TitoSFTDataset(real / "turn.parquet", keep_bytes=1).blocks is None


def test_little_memory_keeps_one_group_and_says_in_which_each_example_stands(tmp_path, short_stretches):
    table = pa.table({"input_ids": [[1, 2]] * 90, "output_ids": [[n] for n in range(90)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    data = TitoSFTDataset(tmp_path / "a.parquet", keep_bytes=1)
    assert [s["input_ids"].tolist() for s in data] == [[1, 2, n] for n in range(90)]
    assert data.blocks.tolist() == [n // 10 for n in range(90)]
    assert data.table.place(25) == "a.parquet: row 25"


@pytest.mark.parametrize(
    ("files", "ranks", "share"),
    [
        ({}, None, 1 << 38),
        ({}, "4", 1 << 36),
        ({"memory.max": "max"}, None, 1 << 38),
        ({"memory.max": "4294967296"}, None, 1 << 30),
        ({"memory.max": "4294967296"}, "2", 1 << 29),
        ({"slice/memory.max": "2147483648", "slice/job/memory.max": "max"}, None, 1 << 29),
        ({"memory/memory.limit_in_bytes": "1073741824"}, "1", 1 << 28),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None, 1 << 38),
    ],
)
def test_what_stays_decoded_is_a_rank_s_share_of_machine_or_container(tmp_path, monkeypatch, files, ranks, share):
    from tito.train import machine

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text("0::/slice/job\n1:memory:/elsewhere\n")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN", tmp_path / "own")
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (1 << 40) // 4096}
    monkeypatch.setattr(machine.os, "sysconf", sizes.__getitem__)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert machine.fair_share() == share


@pytest.mark.parametrize(
    ("files", "ranks", "left"),
    [
        ({}, None, 1 << 36),
        ({}, "4", 1 << 34),
        # Three of four gibibytes are in use, one of them pages of files that nobody asked for lately.
        (
            {
                "memory.max": "4294967296",
                "memory.current": "3221225472",
                "memory.stat": "anon 2147483648\ninactive_file 1073741824",
            },
            None,
            1 << 31,
        ),
        ({"memory.max": "4294967296", "memory.current": "3221225472"}, None, 1 << 30),
        ({"memory.max": "4294967296", "memory.current": "3221225472"}, "2", 1 << 29),
        ({"memory.max": "max", "memory.current": "3221225472"}, None, 1 << 36),
        ({"memory.max": "4294967296", "memory.current": "4294967297"}, None, 0),
        # The group above holds others too, and has less left.
        (
            {
                "slice/memory.max": "4294967296",
                "slice/memory.current": "4026531840",
                "slice/job/memory.max": "2147483648",
                "slice/job/memory.current": "1073741824",
            },
            None,
            1 << 28,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "4294967296",
                "memory/memory.usage_in_bytes": "3221225472",
                "memory/memory.stat": "inactive_file 5\ntotal_inactive_file 1073741824",
            },
            None,
            1 << 31,
        ),
    ],
)
def test_what_is_left_of_machine_or_container_is_shared_by_its_ranks(tmp_path, monkeypatch, files, ranks, left):
    from tito.train import machine, memory

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text("0::/slice/job\n1:memory:/elsewhere\n")
    (tmp_path / "meminfo").write_text(
        f"MemTotal: {1 << 28} kB\nMemAvailable:   {1 << 26} kB\nHugePages_Total:       0\n"
    )
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN", tmp_path / "own")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert memory.available("cpu") == left


def test_json_lines_are_read_by_stretches_and_say_what_parquet_says(tmp_path, monkeypatch):
    from tito.train import lines

    monkeypatch.setattr(lines, "_STRETCH", 300)
    monkeypatch.setattr(lines, "_AT_ONCE", 100)
    rows = [
        {"input_ids": [1, 2, n], "output_ids": [n] * (n % 5 + 1), "weight": None if n % 7 else 1.0} for n in range(60)
    ]
    text = "\n\n".join(map(json.dumps, rows))
    (tmp_path / "a.jsonl").write_text(f"\n{text}")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    some, all_, other = (
        TitoSFTDataset(tmp_path / name, keep_bytes=size)
        for name, size in (("a.jsonl", 1), ("a.jsonl", 1 << 30), ("a.parquet", 1))
    )
    assert len(list(some.table.groups())) > 10
    for data in (some, all_):
        assert [s["labels"].tolist() for s in data] == [s["labels"].tolist() for s in other]
    assert some.table.plain(37)["input_ids"] == [1, 2, 37]
    assert some.table.place(37) == "a.jsonl: row 37"
    bad = {
        "{": r"record 61: ",
        '{"input_ids": [1], "output_ids": [2], "labels": [1, 2]}': r"record 61: labels, which record 1 has not",
        '{"input_ids": [1], "output_ids": ["a"]}': r"record 61: output_ids holds what is no id",
        "7": "record 61: not a JSON object",
        '{"input_ids": [1], "output_ids": [2], "weight": -1}': "a.jsonl: row 60: a weight that is no number",
    }
    for line, said in bad.items():
        (tmp_path / "a.jsonl").write_text(f"{text}\n{line}\n")
        with pytest.raises(tito.DataError, match=said):
            TitoSFTDataset(tmp_path / "a.jsonl", keep_bytes=1)


def test_json_lines_never_stand_in_memory_as_python_numbers(tmp_path):
    import tracemalloc

    rows, ids = 40, 20_000
    line = json.dumps({"input_ids": list(range(1000, 1000 + ids)), "output_ids": [5, 6]})
    (tmp_path / "a.jsonl").write_text(f"{line}\n" * rows)
    tracemalloc.start()
    TitoSFTDataset(tmp_path / "a.jsonl", keep_bytes=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # As Python's they are 36 bytes an id.
    assert peak < rows * ids * 36 / 2


def test_shards_are_read_as_one(tmp_path, real):
    for number in range(3):
        (tmp_path / f"part-{number}.parquet").write_bytes((real / "turn.parquet").read_bytes())
    data = TitoSFTDataset(tmp_path / "part-*.parquet", weights="ignore")
    assert len(data) == 3 * len(TitoSFTDataset(real / "turn.parquet", weights="ignore"))
    assert data.table.place(len(data) - 1) == f"part-2.parquet: row {len(data) // 3 - 1}"


def test_importing_it_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, tito.train; from tito.train import TitoSFTDataset, TrainConfig, EpochOrder;"
    code += "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_file_that_is_cut_off(tmp_path, real):
    (tmp_path / "a.parquet").write_bytes((real / "turn.parquet").read_bytes()[:-9])
    with pytest.raises(tito.DataError, match=r"cut off|Parquet magic"):
        TitoSFTDataset(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"input_ids": [1], "output_ids": [2]}\n{"input_ids"')
    with pytest.raises(tito.DataError, match="record 2"):
        TitoSFTDataset(tmp_path / "b.jsonl")
    with pytest.raises(tito.WorldError, match="no such file"):
        TitoSFTDataset(tmp_path / "c.parquet")


def test_every_key_of_a_recipe_has_a_meaning_or_says_it_by_its_name():
    from dataclasses import fields

    from tito.train.config import TrainConfig, meanings

    bare = {field.name for field in fields(TrainConfig)} - meanings().keys()
    assert bare == {"lora_dropout", "schedule", "weight_decay", "device", "seed"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("metric=heldout", "metric was probe, now heldout"),
        ("probe=other:probe", "probe was replies, now other:probe"),
        ("probe_prompts=b.parquet", "probe_prompts was None, now b.parquet"),
        ("probe_n=9", "probe_n was 8, now 9"),
        ("probe_tokens=9", "probe_tokens was 128, now 9"),
        ("probe_assert=[call-tag]", "probe_assert was [], now ['call-tag']"),
        ("loss=fused", "loss was auto, now fused"),
        ("fsdp=true", "fsdp was False, now True"),
    ],
)
def test_a_resumed_run_is_judged_and_scored_as_before(tmp_path, override, said):
    from tito.train import TrainConfig
    from tito.train.checkpoint import refuse_other_run

    def config(*more):
        given = {"base": "m", "data": "a.parquet", "val": "v.parquet", "output": tmp_path, "probe": "replies"}
        first = [*(f"{key}={value}" for key, value in given.items()), "metric=probe"]
        return TrainConfig.load("qwen3-4b-lora", [*first, "probe_assert=[]", *more])

    facts = {"world": 1, "data": {}, "val": {}, "base_hash": "sha256:0", "order": "sha256:1"}
    record = {**facts, "config": config().to_dict()}
    (tmp_path / "tito_train.json").write_text(json.dumps(record, default=str))
    checkpoint = tmp_path / "checkpoints" / "checkpoint-1"
    refuse_other_run(config(), checkpoint, facts)
    with pytest.raises(tito.UsageError, match=re.escape(f"resume: {said}")):
        refuse_other_run(config(override), checkpoint, facts)
