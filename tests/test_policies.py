"""Policies: the core's names and defaults, and what each does to the rows of a real capture."""

import dataclasses
import json
from pathlib import Path

import pytest
import tito
from tito import _core

CAPTURES = Path(__file__).parent / "captures"
QWEN3, QWEN35 = CAPTURES / "qwen3" / "calls.jsonl", CAPTURES / "qwen35" / "calls.jsonl"


def test_policies_are_the_core_s():
    defaults = json.loads(_core.defaults_json())
    policies = json.loads(tito.Policies().to_json())
    assert policies == {name: defaults[name] for name in policies}
    elsewhere = {"inputs", "output", "from", "profile", "tokenizer", "prove_think", "workers", "expect_rows", "jsonl"}
    elsewhere |= {"shard_bytes", "shard_tokens", "called", "part"}
    assert set(defaults) - set(policies) == elsewhere


def test_unknown_policies_are_impossible():
    with pytest.raises(TypeError):
        tito.Policies(thnik="strip")
    with pytest.raises(tito.UsageError, match="think: 'stirp' is none of keep, strip, strip-all, mask") as caught:
        tito.Policies(think="stirp")
    assert caught.value.hint == "did you mean strip?"
    with pytest.raises(tito.UsageError, match="columns: 'lables'"):
        tito.Policies(columns="labels,lables")


def test_policies_are_frozen_and_take_text_with_commas():
    policies = tito.Policies(upweight="0-2:12, last:2", kind="solver", columns=["labels"])
    assert (policies.upweight, policies.kind, policies.columns) == (("0-2:12", "last:2"), ("solver",), ("labels",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policies.think = "strip"
    assert policies == tito.Policies(upweight=("0-2:12", "last:2"), kind="solver", columns="labels")


def rows_of(folder, dump=QWEN3, **policies):
    """The rows and the report of a conversion."""
    report = tito.convert(dump, folder / "rows.parquet", policies=tito.Policies(**policies))
    return tito.open_rows(folder / "rows.parquet"), report


def captured(dump=QWEN3):
    calls = _core.call_ids(str(dump), limit=10_000)
    return [(call["prompt_ids"].tolist(), call["output_ids"].tolist()) for call in calls]


def test_by_default_rows_are_what_was_captured(tmp_path):
    rows, report = rows_of(tmp_path)
    # Rollouts lie interleaved in the dump and stand together in the rows.
    by_record = sorted(rows, key=lambda row: row.capture_record)
    assert [(row.input_ids.tolist(), row.output_ids.tolist()) for row in by_record] == captured()
    assert report.data["policies"] == tito.Policies().to_dict()
    assert {row.loss_spans for row in rows} == {None}


@pytest.mark.parametrize("dump", [QWEN3, QWEN35])
def test_strip_cuts_from_outputs_and_from_nothing_else(tmp_path, dump):
    profile = tito.Profile.named(dump.parent.name.replace("35", "3.5"))
    kept, _ = rows_of(tmp_path, dump, think="keep")
    kept = {row.capture_record: row for row in kept}
    stripped, report = rows_of(tmp_path, dump, think="strip")
    assert len(stripped) > 0
    for row in stripped:
        before = kept[row.capture_record]
        assert row.input_ids.tolist() == before.input_ids.tolist()
        expected = tito.strip_think(before.output_ids, prompt=before.input_ids, profile=profile)
        assert row.output_ids.tolist() == expected.tolist()
        assert len(expected) < len(before.output_ids)
    tokens = report.data["counts"]["tokens"]
    assert tokens["sampled"] == tokens["trained"] + tokens["think_cut"] + tokens["skipped"]


def test_mask_takes_the_loss_from_what_strip_cuts(tmp_path):
    stripped, _ = rows_of(tmp_path, think="strip")
    outputs = [row.output_ids.tolist() for row in stripped]
    masked, _ = rows_of(tmp_path, think="mask", columns="labels,loss_mask,loss_weights")
    assert [[i for i in row.labels.tolist() if i != -100] for row in masked] == outputs
    for row in masked:
        assert tito.labels(row.input_ids, row.output_ids, row.loss_spans).tolist() == row.labels.tolist()
        assert tito.loss_mask(row.input_ids, row.output_ids, row.loss_spans).tolist() == row.loss_mask.tolist()
        assert row.loss_weights.tolist() == row.loss_mask.tolist()


def test_no_think_tail_ends_every_prompt(tmp_path):
    rows, _ = rows_of(tmp_path, QWEN35, think="strip", tail="no-think")
    tail = list(tito.Profile.named("qwen3.5").tail_no_think)
    assert all(row.input_ids[-len(tail) :].tolist() == tail for row in rows)
    assert not any(row.flags & row.flags.PROMPT_EXACT for row in rows)


def test_weights_and_copies_state_the_same_total(tmp_path):
    weighted, report = rows_of(tmp_path, upweight="0:3,agent=agent1:2")
    assert {(r.turn, r.agent, r.weight) for r in weighted} == {
        (0, "agent1", 6.0),
        (0, "agent2", 3.0),
        (1, "agent1", 2.0),
    }
    copied, _ = rows_of(tmp_path, upweight="0:3,agent=agent1:2", upweight_as="copies")
    assert {row.weight for row in copied} == {1.0}
    assert len(copied) == sum(row.weight for row in weighted) == report.data["counts"]["weight"]


def test_over_long_rows_fail_or_are_left_out(tmp_path):
    with pytest.raises(tito.DataError, match="over the limit"):
        rows_of(tmp_path, max_length=260)
    assert not (tmp_path / "rows.parquet").exists()
    rows, report = rows_of(tmp_path, max_length=260, overlong="drop")
    assert max(len(r.input_ids) + len(r.output_ids) for r in rows) <= 260
    assert report.skipped == {"overlong": 36 - len(rows)}


def test_two_tokenizers_are_refused_or_get_a_file_each(tmp_path):
    with pytest.raises(tito.DataError, match="two tokenizers"):
        rows_of(tmp_path, CAPTURES)
    report = tito.convert([QWEN3, QWEN35], tmp_path / "rows.parquet", policies=tito.Policies(group_by="identity"))
    names = [Path(file).name for file in report.outputs]
    assert sorted(names) == ["rows.qwen3.5.parquet", "rows.qwen3.parquet"]
    assert {tito.open_rows(file).metadata["tito.profile"] for file in report.outputs} == {"qwen3", "qwen3.5"}


def test_bad_data_fails_or_is_counted(tmp_path):
    dump = tmp_path / "dump.jsonl"
    good = '{"prompt_ids": [1], "output_ids": [2]}'
    dump.write_text(f'{good}\n{{"prompt_ids": [1], "output_ids": [-2]}}\n')
    with pytest.raises(tito.DataError, match="record 2"):
        rows_of(tmp_path, dump)
    assert not (tmp_path / "rows.parquet").exists()
    _, report = rows_of(tmp_path, dump, bad="skip")
    assert (report.rows, report.bad, report.skipped) == (1, 1, {"bad_ids": 1})
    assert "record 2" in report.examples["bad_ids"][0]


def test_a_policy_that_must_know_the_tokenizer_refuses_an_unknown_one(tmp_path):
    with pytest.raises(tito.DataError, match="must know the tokenizer") as caught:
        rows_of(tmp_path, CAPTURES / "smollm2-chat.jsonl", think="strip")
    assert "--profile" in caught.value.hint
    rows, report = rows_of(tmp_path, CAPTURES / "smollm2-chat.jsonl")
    assert len(rows) == report.rows > 0
    assert "tito.profile" not in rows.metadata
