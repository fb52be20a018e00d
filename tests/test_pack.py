"""Packs: the plan is the slow one's, rows are never cut, and what is laid is what the rows hold."""

import json
from itertools import pairwise

import dumps
import made_rows
import numpy as np
import pytest
import reference_export
import tito
from hypothesis import given
from hypothesis import strategies as st
from tito import _core

LENGTHS = st.lists(st.integers(0, 30), max_size=60)


@given(LENGTHS, st.integers(1, 30))
def test_the_plan_is_first_fit_decreasing(lengths, length):
    rows, starts, left_out = tito.plan_packs(lengths, length, drop_overlong=True)
    packs = [rows[a:b].tolist() for a, b in pairwise(starts)]
    assert (packs, left_out.tolist()) == reference_export.plan_packs(lengths, length)


@given(LENGTHS)
def test_packs_hold_every_row_once(lengths):
    rows, starts, left_out = tito.plan_packs(lengths, 30)
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert len(left_out) == 0
    assert all(sum(lengths[r] for r in rows[a:b]) <= 30 for a, b in pairwise(starts))


def test_rows_are_never_cut():
    with pytest.raises(tito.UsageError) as caught:
        tito.plan_packs([3, 9], 8)
    assert str(caught.value) == "row 1 has 9 ids, a pack has 8"
    assert caught.value.hint == "give a longer pack, or leave such rows out (drop); they are never cut"
    for lengths, length, message in (
        ([1], 0, "packs of 0 ids hold nothing"),
        ([1], -3, "packs of 0 ids hold nothing"),
        ([1, -1], 8, "lengths: -1 is no length"),
        ([1.5], 8, "lengths: values of type float64, not whole numbers"),
    ):
        with pytest.raises(tito.UsageError) as caught:
            tito.plan_packs(lengths, length)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("a", "length: 'a' is no whole number of ids"),
        (1.5, "length: 1.5 is no whole number of ids"),
        (True, "length: True is no whole number of ids"),
        (None, "length: None is no whole number of ids"),
        (2**31, "length: a pack of 2147483648 ids"),
        (2**63, "length: a pack of 9223372036854775808 ids"),
        (-(2**70), "packs of 0 ids hold nothing"),
    ],
)
def test_a_length_that_is_none_is_refused(length, message):
    for pack in (tito.plan_packs, tito.pack):
        with pytest.raises(tito.UsageError) as caught:
            pack([], length)
        assert str(caught.value) == message
    assert tito.pack([], np.int64(8)).length == 8


def as_row(row):
    arrays = {name: np.array(row[name], np.int32) for name in ("input_ids", "output_ids")}
    return tito.Row.from_columns({**row, **arrays})


@given(made_rows.rows(), st.integers(16, 40))
def test_packs_hold_what_the_rows_hold(rows, length):
    packs = tito.pack([as_row(row) for row in rows], length)
    planned, _ = reference_export.plan_packs([len(r["input_ids"]) + len(r["output_ids"]) for r in rows], length)
    assert [pack.rows.tolist() for pack in packs] == planned
    for pack in packs:
        assert len(pack.input_ids) <= length
        assert [a.dtype.name for a in (pack.input_ids, pack.labels, pack.position_ids, pack.cu_seqlens)] == [
            "int32"
        ] * 4
        assert pack.loss_weights.dtype == np.float32
        ends = pack.cu_seqlens.tolist()
        for number, start, end in zip(pack.rows, ends[:-1], ends[1:], strict=True):
            ids, weights = reference_export.weights_of(rows[number])
            weights = [weight * rows[number]["weight"] for weight in weights]
            assert pack.input_ids[start:end].tolist() == ids
            assert pack.labels[start:end].tolist() == reference_export.labels(ids, weights)
            assert pack.loss_weights[start:end].tolist() == weights
            assert pack.position_ids[start:end].tolist() == list(range(len(ids)))


def test_packs_are_a_sequence():
    rows = [as_row(made_rows.row([1, 2], [3] * n)) for n in (1, 2, 9, 1)]
    packs = tito.pack(rows, 8, overlong="drop")
    assert (len(packs), packs.left_out.tolist(), packs.lengths.tolist()) == (2, [2], [3, 4, 11, 3])
    assert packs[-1].rows.tolist() == packs[1].rows.tolist() == packs[0:2][1].rows.tolist() == [3]
    assert repr(packs) == "<2 packs of 8 ids, 62.5% full>"
    with pytest.raises(IndexError, match="pack 2 of 2"):
        packs[2]
    assert (len(tito.pack([], 8)), tito.pack([], 8).fill) == (0, 0.0)
    with pytest.raises(tito.UsageError, match="overlong: 'cut' is none of error, drop"):
        tito.pack(rows, 8, overlong="cut")


def test_what_does_not_fit_the_ids_is_refused():
    ids, weights = [1, 2], np.ones(2, np.float32)
    for offsets, rows, starts, message in (
        ([0, 2], [1], [0, 1], "row 1 is not among the ids"),
        ([0, 3], [0], [0, 1], "row 0 is not among the ids"),
        ([0, 2], [0], [0, 2], "a pack of the rows [0, 2]"),
    ):
        with pytest.raises(tito.UsageError) as caught:
            _core.lay_packs(ids, weights, offsets, rows, starts)
        assert str(caught.value) == message


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 12.0]), max_size=40), st.integers(0, 2**64 - 1))
def test_copies_are_drawn_as_the_slow_ones_are(weights, seed):
    fast, slow = _core.Copies(seed), reference_export.Copies(seed)
    half = len(weights) // 2
    drawn = [
        copies for part in (weights[:half], weights[half:]) for copies in fast.draw(np.array(part, np.float32)).tolist()
    ]
    assert drawn == [slow.draw(weight) for weight in weights]


def continued():
    """Four calls of which each continues the one before, and thinks."""
    calls, ids = [], list(dumps.PROMPT)
    for turn in range(4):
        calls.append({"rollout_id": "r", "turn": turn, "prompt_ids": list(ids), "output_ids": [*dumps.THOUGHT]})
        ids += [*dumps.THOUGHT, 198, *dumps.PROMPT]
    return calls


CONTINUED = continued()


@pytest.mark.parametrize("shape", ["turn", "merged", "auto"])
def test_a_position_weighs_the_same_wherever_it_is_asked_for(tmp_path, shape):
    """In the column, in the rows of calls in memory, in packs; what weighs nothing has no label."""
    columns = "loss_mask,loss_weights,labels"
    policies = tito.Policies(rows=shape, upweight="0:12,1:0,2:0.1", think="mask", unterminated="keep", columns=columns)
    dump = dumps.write(tmp_path / "d.jsonl", *(json.dumps(call) for call in CONTINUED))
    tito.convert(dump, tmp_path / "o.parquet", policies=policies)
    rows = list(tito.open_rows(tmp_path / "o.parquet"))
    calls = [tito.Call(**call) for call in CONTINUED]
    in_memory = (tito.expand_turns if shape == "turn" else tito.merge_calls)(calls, policies=policies)
    assert [row.loss_weights.tolist() for row in in_memory] == [row.loss_weights.tolist() for row in rows]
    seen = set()
    for row, other in zip(rows, in_memory, strict=True):
        [packed] = tito.pack([row], 1000)
        assert packed.loss_weights.tolist() == row.loss_weights.tolist()
        assert packed.labels.tolist() == row.labels.tolist() == other.labels.tolist()
        assert row.loss_mask.tolist() == other.loss_mask.tolist() == [int(one > 0) for one in row.loss_weights]
        assert [one != -100 for one in row.labels] == [one > 0 for one in row.loss_weights]
        seen |= set(row.loss_weights.tolist())
    assert seen == {0.0, 12.0, float(np.float32(0.1)), 1.0}
