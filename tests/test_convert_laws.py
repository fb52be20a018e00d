"""The laws of the conversion, on dumps of every format: exactness, conservation, weights, equality with the twin."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import reference_convert
import runs
import strategies
import tito
from hypothesis import given
from hypothesis import strategies as st
from tito import _core

COLUMNS = ("input_ids", "output_ids", "loss_spans", "weight", "turn", "call_id", "flags", "rollout_id", "task_id")
COLUMNS += ("pair_id", "agent", "kind", "status", "attempt", "reward", "source", "capture_file", "capture_record")
COLUMNS += ("capture_format",)


@contextmanager
def written(dump):
    """The dump's file names, with their folder as the current one."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        names = dump.write(Path(folder))
        os.chdir(folder)
        try:
            yield names
        finally:
            os.chdir(before)


def both(dump, names, drawn, suffix="parquet"):
    """What the core and what the twin make of a dump; None where no row is left, which is an error of its own."""
    options = strategies.policies(drawn)
    twin = reference_convert.convert(dump.files, {**runs.DEFAULTS, **options}, runs.BUILT_IN)
    if not twin["rows"]:
        with pytest.raises(_core.DataError):
            runs.convert(names, f"o.{suffix}", bad="skip", jsonl=suffix == "jsonl", **options)
        assert not Path(f"o.{suffix}").exists()
        return None, twin
    try:
        run = runs.convert(names, f"o.{suffix}", bad="skip", jsonl=suffix == "jsonl", **options)
    except _core.DataError as error:
        # The twin does not judge whole runs.
        judged = ("fired nowhere", "matches no row", "no id that would be trained weighs more than 0")
        assert any(said in str(error) for said in judged), error  # noqa: PT017
        return None, twin
    return run, twin


@given(strategies.dumps(), strategies.POLICIES, st.sampled_from(("parquet", "jsonl")))
def test_the_twin_makes_the_same_rows(dump, drawn, suffix):
    with written(dump) as names:
        run, twin = both(dump, names, drawn, suffix)
    if run is None:
        return
    assert run.counts["skipped"] == twin["skipped"]
    for row, expected in zip(run.rows, twin["rows"], strict=True):
        for column in COLUMNS:
            assert row[column] == expected[column], column
    assert {key: run.counts["tokens"][key] for key in twin["tokens"]} == twin["tokens"]
    assert (run.counts["calls_seen"], run.counts["calls_used"]) == (twin["calls_seen"], twin["calls_used"])


@given(strategies.dumps(), strategies.POLICIES)
def test_every_trained_id_was_sampled_at_its_place(dump, drawn):
    with written(dump) as names:
        run, _ = both(dump, names, drawn)
        if run is None:
            return
        captured = {}
        for name, data in dump.files:
            for number, record in reference_convert.records(data):
                if isinstance(record, dict):
                    origin = {"document": True, "folder": "", "file": name, "record": number}
                    form = reference_convert.sniffed(dump.files, name)
                    calls = reference_convert.read_record(record, form, origin, {})
                    captured.setdefault((name, number), []).extend(calls)
    for row in run.rows:
        calls = captured[row["capture_file"], row["capture_record"]]
        prompt, output = row["input_ids"], row["output_ids"]
        ids = prompt + output
        spans = [(len(prompt), len(ids), 1.0)] if row["loss_spans"] is None else row["loss_spans"]
        trained = [one for start, end, _ in spans for one in ids[start:end]]
        assert all(start >= len(prompt) for start, _, _ in spans)
        # What is trained is the captured output with whole stretches taken out, in its order.
        assert any(call["output"] and is_subsequence(trained, call["output"]) for call in calls)
        if row["flags"] & reference_convert.PROMPT_EXACT:
            assert any(call["prompt"] == prompt for call in calls)


def is_subsequence(short, long):
    rest = iter(long)
    return all(one in rest for one in short)


@given(strategies.dumps(), strategies.POLICIES)
def test_calls_and_tokens_are_conserved(dump, drawn):
    with written(dump) as names:
        run, _ = both(dump, names, drawn)
    if run is None:
        return
    counts, tokens = run.counts, run.counts["tokens"]
    assert counts["calls_seen"] == counts["calls_used"] + sum(counts["skipped"].values())
    parts = ("trained", "think_cut", "think_masked", "truncated_masked", "skipped")
    assert tokens["sampled"] == sum(tokens[part] for part in parts)
    assert counts["rows"] == len(run.rows) == counts["calls_used"] + counts["copies"]
    assert counts["rows"] == sum(turn["rows"] for turn in counts["turns"])
    assert all(len(examples) <= 3 for examples in counts["examples"].values())
    assert set(counts["examples"]) == set(counts["skipped"])
    # Each kind of loss adds up over the rows too, copies counted once.
    trained = 0
    for row in run.rows:
        if not row["flags"] & reference_convert.COPIED:
            spans = row["loss_spans"]
            trained += len(row["output_ids"]) if spans is None else sum(end - start for start, end, _ in spans)
    assert trained == tokens["trained"]


@given(strategies.dumps(clean=True), strategies.POLICIES)
def test_copies_and_weights_state_the_same_total(dump, drawn):
    drawn = {"upweight": ["0-2:3"], **drawn}
    with written(dump) as names:
        weights, _ = both(dump, names, {**drawn, "upweight_as": "weight"})
        copies, _ = both(dump, names, {**drawn, "upweight_as": "copies"})
    if weights is None or copies is None:
        return
    assert sum(row["weight"] for row in weights.rows) == len(copies.rows) == copies.counts["weight"]
    assert all(row["weight"] == 1 for row in copies.rows)
    by_call = {}
    for row in copies.rows:
        key = (row["capture_file"], row["capture_record"], row["capture_hash"])
        by_call[key] = by_call.get(key, 0) + 1
    for row in weights.rows:
        key = (row["capture_file"], row["capture_record"], row["capture_hash"])
        if row["weight"]:
            assert by_call[key] >= row["weight"]


@given(strategies.dumps(), strategies.POLICIES, st.integers(0, 2**63))
def test_fractions_are_copied_to_within_one_row(dump, drawn, seed):
    drawn = {**drawn, "upweight": ["0-1:1.3", "kind=solver:0.6"]}
    with written(dump) as names:
        weights, _ = both(dump, names, {**drawn, "upweight_as": "weight"})
        if weights is None or not weights.rows:
            return
        options = strategies.policies({**drawn, "upweight_as": "copies", "seed": seed})
        total = sum(row["weight"] for row in weights.rows)
        counts = runs.count(names, bad="skip", **options) if total >= 1 else None
    assert counts is None or abs(counts["rows"] - total) < 1.001
    assert counts is None or counts["calls_seen"] == counts["calls_used"] + sum(counts["skipped"].values())


@given(strategies.rollouts(), st.sampled_from((True, False, "pair", None)))
def test_strip_is_idempotent(drawn, opened):
    family, rollouts = drawn
    profile = tito.Profile.named(family.name)
    for rollout in rollouts:
        for call in rollout.calls:
            once = tito.strip_think(call.output, opened=opened, profile=profile)
            assert tito.strip_think(once, opened=False, profile=profile).tolist() == once.tolist()


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@given(dump=strategies.dumps(), drawn=strategies.POLICIES)
def test_columns_on_request_say_what_the_spans_say(suffix, dump, drawn):
    drawn = {**drawn, "columns": ["loss_mask", "loss_weights", "labels", "output_logprobs"]}
    with written(dump) as names:
        run, _ = both(dump, names, drawn, suffix)
    for row in run.rows if run else []:
        ids, at = row["input_ids"] + row["output_ids"], len(row["input_ids"])
        spans = [(at, len(ids), 1.0)] if row["loss_spans"] is None else row["loss_spans"]
        weights = [
            next((np.float32(row["weight"]) * np.float32(w) for start, end, w in spans if start <= n < end), 0.0)
            for n in range(len(ids))
        ]
        mask = [weight > 0 for weight in weights]
        assert row["loss_weights"] == weights
        assert row["loss_mask"] == mask
        assert row["labels"] == [one if on else -100 for one, on in zip(ids, mask, strict=True)]
        assert row["output_logprobs"] is None or len(row["output_logprobs"]) == len(row["output_ids"])
