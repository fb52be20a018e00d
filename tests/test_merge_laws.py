"""Merged rows: equality with the slow twin, and the laws, on rollouts that branch."""

import json
import os
import re
import tempfile
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import branching
import pytest
import reference_convert
import reference_merge
import runs
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import NEWLINE
from test_convert_laws import COLUMNS, written
from tito import _core

DUMPS = strategies.dumps(source=branching.branching, plain=True)
MERGING = st.fixed_dictionaries(
    {
        "rows": st.sampled_from(("merged", "merged", "auto", "turn")),
        "ambiguous": st.sampled_from(("keep-all", "keep-last", "drop", "mask")),
    }
)
# Few of the sequences are cut and merged, so what does that is drawn more often.
CUTTING = st.fixed_dictionaries(
    {
        "think": st.sampled_from(("keep", "strip", "strip", "strip-all", "mask")),
        "tail": st.sampled_from(("captured", "captured", "no-think")),
        "truncated": st.sampled_from(("drop", "keep", "mask")),
        "max_length": st.one_of(st.none(), st.none(), st.integers(20, 120)),
    }
)
POLICIES = st.builds(
    lambda rest, cutting, merging: {**rest, **cutting, **merging}, strategies.POLICIES, CUTTING, MERGING
)
# Nothing is cut, so every row is what some call captured.
KEEP = st.builds(lambda merging, rest: {**rest, **merging}, MERGING, st.fixed_dictionaries({}, optional={
    "truncated": st.sampled_from(("drop", "mask", "keep")),
    "kind": st.sampled_from((["solver"], ["helper", "solver", "summariser"])),
}))  # fmt: skip


def both(dump, names, drawn, suffix="parquet"):
    """What the core and what the twin make of a dump; None where the run fails as a whole."""
    options = policies(drawn, dump.family)
    twin = reference_merge.convert(dump.files, {**runs.DEFAULTS, **options}, runs.BUILT_IN)
    try:
        run = runs.convert(names, f"o.{suffix}", bad="skip", jsonl=suffix == "jsonl", **options)
    except _core.DataError as error:
        # The twin does not judge whole runs.
        if "weighs more than 0" in str(error):
            spans = [(row["weight"], row["loss_spans"] or [(0, 0, 1.0)]) for row in twin["rows"]]
            assert not any(weight * span for weight, told in spans for _, _, span in told)
            return None, twin
        said = ("fired nowhere", "matches no row") if twin["rows"] else ("no row is left", "no captures in")
        assert any(words in str(error) for words in (*said, "fired nowhere", "matches no row")), error  # noqa: PT017
        return None, twin
    return run, twin


def policies(drawn, family):
    return {**strategies.policies(drawn), "profile": {"qwen3": runs.QWEN3, "qwen3.5": runs.QWEN35}[family.name]}


def placed(calls):
    return calls and [{k: v for k, v in call.items() if k != "hash"} for call in calls]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@given(dump=DUMPS, drawn=POLICIES)
def test_the_twin_makes_the_same_rows(suffix, dump, drawn):
    with written(dump) as names:
        run, twin = both(dump, names, {**drawn, "columns": ["output_logprobs"]}, suffix)
    if run is None:
        return
    assert run.counts["merge"] == twin["merge"]
    assert run.counts["skipped"] == twin["skipped"]
    for row, expected in zip(run.rows, twin["rows"], strict=True):
        assert placed(row["calls"]) == expected["calls"]
        for column in COLUMNS:
            assert row[column] == expected[column], column
        logprobs = row["output_logprobs"]
        if logprobs is not None and row["calls"] is not None:
            logprobs = [None if value is None or value != value else value for value in logprobs]
        assert logprobs == expected["output_logprobs"]
    assert {key: run.counts["tokens"][key] for key in twin["tokens"]} == twin["tokens"]
    assert (run.counts["calls_seen"], run.counts["calls_used"]) == (twin["calls_seen"], twin["calls_used"])


def calls_of(dump):
    """The captured calls by (file, record)."""
    found = {}
    for call in reference_convert.read(dump.files)[0]:
        found.setdefault((call["file"], call["record"]), []).append(call)
    return found


@given(DUMPS, KEEP)
def test_every_merged_row_is_a_captured_sequence_and_gives_its_calls_back(dump, drawn):
    with written(dump) as names:
        run, _ = both(dump, names, {**drawn, "think": "keep"})
    captured = [call for calls in calls_of(dump).values() for call in calls if call["prompt"] and call["output"]]
    whole = [call["prompt"] + call["output"] for call in captured]
    given_back = []
    for row in run.rows if run else []:
        ids = row["input_ids"] + row["output_ids"]
        assert ids in whole
        assert row["flags"] & reference_convert.PROMPT_EXACT
        parts = row["calls"] or [{"start": len(row["input_ids"]), "end": len(ids)}]
        # Parts do not overlap, and loss falls in no other place.
        assert all(one["end"] <= other["start"] for one, other in pairwise(parts))
        spans = [(p["start"], p["end"]) for p in parts] if row["loss_spans"] is None else row["loss_spans"]
        assert all(any(p["start"] <= s[0] and s[1] <= p["end"] for p in parts) for s in spans)
        given_back += [(tuple(ids[: p["start"]]), tuple(ids[p["start"] : p["end"]])) for p in parts]
    # Each call once, and only what was captured.
    if run and drawn.get("upweight_as") != "copies":
        assert len(given_back) == run.counts["calls_used"]
        rest = [(tuple(call["prompt"]), tuple(call["output"])) for call in captured]
        for call in given_back:
            rest.remove(call)


@given(DUMPS, POLICIES)
def test_calls_and_tokens_are_conserved(dump, drawn):
    with written(dump) as names:
        run, _ = both(dump, names, drawn)
    if run is None:
        return
    counts, tokens = run.counts, run.counts["tokens"]
    assert counts["calls_seen"] == counts["calls_used"] + sum(counts["skipped"].values())
    parts = ("trained", "think_cut", "think_masked", "truncated_masked", "ambiguous_masked", "skipped")
    assert tokens["sampled"] == sum(tokens[part] for part in parts)
    trained = 0
    for row in run.rows:
        if not row["flags"] & reference_convert.COPIED:
            spans = row["loss_spans"]
            trained += len(row["output_ids"]) if spans is None else sum(end - start for start, end, _ in spans)
    # The first copy of a row trains all its calls.
    assert trained == tokens["trained"]


@given(strategies.dumps(source=branching.branching, plain=True, clean=True), POLICIES)
def test_copies_and_weights_state_the_same_total_for_each_call(dump, drawn):
    drawn = {"upweight": ["0-2:3"], **drawn}
    with written(dump) as names:
        weights, _ = both(dump, names, {**drawn, "upweight_as": "weight"})
        copies, _ = both(dump, names, {**drawn, "upweight_as": "copies"})
    if weights is None or copies is None:
        return
    assert loss_of(weights.rows) == loss_of(copies.rows)
    assert all(row["weight"] == 1 for row in copies.rows)


def loss_of(rows):
    """Weight times trained ids, by call."""
    found = {}
    for row in rows:
        at = len(row["input_ids"])
        spans = [(at, at + len(row["output_ids"]), 1.0)] if row["loss_spans"] is None else row["loss_spans"]
        own = {"start": at, "end": at + len(row["output_ids"]), "hash": row["capture_hash"]}
        for part in row["calls"] or [own]:
            inside = [s for s in spans if part["start"] <= s[0] and s[1] <= part["end"]]
            key = part["hash"] if isinstance(part["hash"], str) else part["hash"].hex()
            loss = row["weight"] * sum((end - start) * weight for start, end, weight in inside)
            found[key] = found.get(key, 0) + loss
    return {key: loss for key, loss in found.items() if loss}


@contextmanager
def one_folder():
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


PLACE = ("capture_file", "capture_record", "file", "record")


def bare(rows):
    """Rows without their place."""
    made = []
    for row in rows:
        row = {key: value for key, value in row.items() if key not in PLACE}
        calls = row["calls"] and [{k: v for k, v in call.items() if k not in PLACE} for call in row["calls"]]
        made.append(json.dumps({**row, "calls": calls}, sort_keys=True, default=bytes.hex))
    return made


LINES = strategies.dumps(forms=("calls", "native", "response"), plain=True, source=branching.branching)


@given(LINES, POLICIES, st.randoms())
def test_any_order_of_the_calls_gives_the_same_rows(dump, drawn, dice):
    drawn = {key: value for key, value in drawn.items() if key != "upweight_as"}
    if not dump.timed:
        return
    lines = [ln for _, data in dump.files for ln in data.removeprefix(b"\xef\xbb\xbf").splitlines() if ln.strip()]
    results = []
    with one_folder() as folder:
        for n in range(2):
            (folder / f"{n}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
            try:
                run = runs.convert(f"{n}.jsonl", f"o{n}.jsonl", bad="skip", jsonl=True, **policies(drawn, dump.family))
                # Rollouts that share a name are numbered as they come.
                rows = [re.sub(r'("rollout_id": "run\d+)#\d+"', r'\1"', row) for row in bare(run.rows)]
                results.append((sorted(rows), run.counts["merge"]))
            except _core.DataError as error:
                results.append(str(error).replace(f"{n}.jsonl", "").partition("; first ")[0])
            dice.shuffle(lines)
    assert results[0] == results[1]


@given(DUMPS, POLICIES, st.integers(2, 7))
def test_any_number_of_workers_writes_the_same_bytes(dump, drawn, workers):
    results = []
    with written(dump) as names:
        for n in (1, workers):
            try:
                run = runs.convert(names, "o.jsonl", bad="skip", jsonl=True, workers=n, **policies(drawn, dump.family))
                results.append((run.path.read_bytes(), run.counts))
            except _core.DataError as error:
                results.append(str(error))
    assert results[0] == results[1]


@given(branching.branching(), POLICIES)
def test_whole_records_and_interleaved_lines_give_the_same_rows(drawn_rollouts, drawn):
    """One record a rollout goes straight through, a line a call comes back from the spill."""
    family, rollouts = drawn_rollouts
    for number, rollout in enumerate(rollouts):
        # A record is a rollout of its own; lines that share all that is said are of one.
        rollout.name = f"run{number}"
    drawn = {key: value for key, value in drawn.items() if key != "upweight_as"}
    results = []
    with one_folder() as folder:
        for form in ("lines", "trajectories"):
            write_both_ways(family, rollouts, folder, form)
            try:
                options = policies(drawn, family)
                run = runs.convert(f"{form}.jsonl", "o.jsonl", bad="skip", jsonl=True, **options)
                rows = [{**json.loads(row), "capture_format": None} for row in bare(run.rows)]
                results.append((rows, run.counts["merge"], run.counts["tokens"]))
            except _core.DataError as error:
                results.append(str(error).replace(form, "").partition("; first ")[0])
    assert results[0] == results[1]


def write_both_ways(family, rollouts, folder, form):
    """The calls that a saved trajectory can hold (solvers, one choice each), in one of two forms."""
    lines, whole = [], []
    # A file of one line would be a document, whose rollout other files may go on with.
    prompt = [family.start, family.user, NEWLINE, family.end, NEWLINE, *family.tail(True)]
    other = strategies.Rollout("other", "task", "agent1", [strategies.Call(prompt, [1000, family.end], "stop")])
    for number, rollout in enumerate([*rollouts, other]):
        messages = []
        for n, call in enumerate(call for call in rollout.calls if call.choice == 0):
            name = f"{rollout.name}-{n}"
            capture = {"prompt_token_ids": call.prompt, "output_token_ids": call.output}
            reason = {"finish_reason": call.finish, "stop_reason": call.stop_reason}
            extra = {"timestamp": float(n), "token_capture": capture, "response": {"id": name, "choices": [reason]}}
            messages.append({"role": "assistant", "content": "", "extra": extra})
            line = {"rollout_id": rollout.name, "task_id": "x/1", "agent": rollout.agent, "turn": n, "call_id": name}
            line |= {"prompt_ids": call.prompt, "output_ids": call.output, "started": float(n), "finish": call.finish}
            line |= {"pair_id": None}
            line["stop_token_ids"] = [call.stop_reason] if isinstance(call.stop_reason, int) else []
            line |= {"stop_string": call.stop_reason} if isinstance(call.stop_reason, str) else {}
            lines.append((n, number, line))
        head = {"session_id": rollout.name, "repo": "x", "task_id": 1, "feature_id": 1, "agent_id": rollout.agent}
        whole.append({**head, "messages": messages})
    # As lines, rollouts appear in the same order, then take turns.
    taking_turns = [line for _, _, line in sorted(lines, key=lambda one: one[:2])]
    lines = taking_turns if form == "lines" else whole
    (folder / f"{form}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
