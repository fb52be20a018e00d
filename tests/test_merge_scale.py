"""Merging of rollouts that are large: several stretches of the spill, many calls, long prompts; and bad ones."""

import json
import re
from pathlib import Path

import dumps
import numpy as np
import pytest
import runs
import tito
from test_merge_laws import bare
from tito import _core

ROOT = Path(__file__).parents[1]
END, NEWLINE = 151645, 198


def stretch_ids():
    source = (ROOT / "rust/tito-core/src/convert/mod.rs").read_text()
    number, shift = re.search(r"const STRETCH_IDS: usize = (\d+) << (\d+);", source).groups()
    return int(number) << int(shift)


def large_rollout():
    """Calls of a rollout that come to more than three stretches: a run that appends, side runs that end, and a history
    that was rewritten half way, so that both merged rows and rows of one call fill stretches."""
    digits = [*dumps.PROMPT[:3], *(n % 10 for n in range(60_000))]
    history, calls = digits, []
    for turn in range(60):
        if turn == 30:
            history = [*history[:3], 7, *history[4:]]
        prompt = [*history, turn, *dumps.PROMPT]
        calls.append((prompt, [turn, 1, END]))
        if turn % 3 == 0:
            # Answered twice; the second is kept.
            calls.append((prompt, [turn, 2, END]))
        if turn % 4 == 1:
            calls.append(([*history[:50_000], turn, *dumps.PROMPT], [turn, 3, END]))
            continue
        history = [*prompt, *calls[-1][1], NEWLINE]
    assert sum(len(prompt) for prompt, _ in calls) > 2.2 * stretch_ids()
    return calls


@pytest.fixture(scope="module")
def both_forms(tmp_path_factory):
    """The same rollouts as lines of calls that lie interleaved, and as one record each."""
    folder = tmp_path_factory.mktemp("large")
    rollouts = {"large": large_rollout(), "small": [(dumps.PROMPT, dumps.OUTPUT)] * 2}
    lines, records = [], []
    for name, calls in rollouts.items():
        messages = []
        for n, (prompt, output) in enumerate(calls):
            logprobs = [-n / 8 - at for at in range(len(output))]
            call = {
                "rollout_id": name,
                "task_id": "x/1",
                "agent": "a",
                "turn": n,
                "call_id": f"{name}{n}",
                "started": n,
            }
            lines.append((n, {**call, "prompt_ids": prompt, "output_ids": output, "logprobs": logprobs}))
            capture = {"prompt_token_ids": prompt, "output_token_ids": output, "output_logprobs": logprobs}
            reply = {"id": f"{name}{n}", "choices": [{}]}
            extra = {"timestamp": n, "token_capture": capture, "response": reply}
            messages.append({"role": "assistant", "content": "", "extra": extra})
        records.append({"session_id": name, "repo": "x", "task_id": 1, "feature_id": 1, "agent_id": "a"})
        records[-1]["messages"] = messages
    lines = [line for _, line in sorted(lines, key=lambda one: one[0])]
    for name, made in (("lines", lines), ("records", records)):
        text = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in made)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


POLICIES = [
    {"rows": "turn"},
    {"rows": "merged", "think": "strip", "columns": ["output_logprobs"]},
    {"rows": "auto", "ambiguous": "drop", "upweight": ["0-9:3"], "upweight_as": "copies"},
    {"rows": "merged", "max_length": 60_100, "overlong": "drop"},
]


@pytest.mark.parametrize("policies", POLICIES, ids=lambda policies: policies["rows"])
def test_a_rollout_of_several_stretches_gives_the_rows_of_one_record(both_forms, tmp_path, policies):
    made = []
    for form in ("lines", "records"):
        options = {"group_by": "identity", "jsonl": True, **policies}
        report = runs.convert_report(both_forms / f"{form}.jsonl", tmp_path / f"{form}.jsonl", **options)
        rows = [row for file in report["outputs"] for row in bare(runs.read_rows(file["file"]))]
        counts = {key: report["counts"][key] for key in ("merge", "tokens", "skipped", "rows", "lengths")}
        made.append(([{**json.loads(row), "capture_format": None} for row in rows], counts))
    assert made[0] == made[1]
    assert made[0][1]["merge"]["calls"] > made[0][1]["merge"]["merged_rows"] > 10


@pytest.mark.parametrize("policies", POLICIES, ids=lambda policies: policies["rows"])
def test_any_number_of_workers_writes_the_same_bytes(both_forms, tmp_path, policies):
    written = []
    for workers in (1, 2, 7):
        options = {"group_by": "identity", **policies, "workers": workers}
        report = runs.convert_report(both_forms / "lines.jsonl", tmp_path / f"{workers}.parquet", **options)
        written.append(([Path(file["file"]).read_bytes() for file in report["outputs"]], report["counts"]))
    assert written[0] == written[1] == written[2]


def growing(calls, each):
    """Calls whose prompts are views of one array, `each` ids further every time; the last id of each is sampled."""
    ids = np.arange(calls * each, dtype=np.int32) % 1000
    ends = [(n + 1) * each for n in range(calls)]
    return ids, [tito.Call(prompt_ids=ids[: e - 1], output_ids=ids[e - 1 : e], turn=n) for n, e in enumerate(ends)]


def test_ten_thousand_calls_are_one_row():
    ids, calls = growing(10_000, 2)
    [row] = tito.merge_calls(calls)
    assert np.array_equal(row.input_ids, ids)
    assert [call.turn for call in row.calls] == list(range(10_000))
    assert row.loss_spans[-2:] == ((19_997, 19_998, 1.0), (19_999, 20_000, 1.0))


def test_every_call_of_a_long_run_may_have_a_sibling_that_was_not_kept():
    _, calls = growing(2_000, 2)
    dead = [tito.Call(prompt_ids=call.prompt_ids, output_ids=[5000], turn=call.turn) for call in calls]
    rows = tito.merge_calls([*calls, *dead], policies=tito.Policies(ambiguous="drop"))
    # Only of the last two nobody can tell; they are gone.
    assert len(rows) == 2_000
    assert sum(len(row.calls) for row in rows) == 2_000 + 1_998
    assert len(rows[-1].input_ids) == 3_998
    # The sibling of each call is the first row that holds the call before.
    assert max(len(row.calls) for row in rows) == 2


def test_prompts_of_a_million_ids():
    ids, calls = growing(3, 1_000_000)
    [row] = tito.merge_calls([calls[2], calls[0], calls[1]])
    assert np.array_equal(row.input_ids, ids)
    assert row.loss_spans == tuple((n * 1_000_000 - 1, n * 1_000_000, 1.0) for n in (1, 2, 3))


def test_one_call_id_with_two_contents_is_refused_word_for_word(tmp_path):
    calls = [tito.Call(prompt_ids=[1, 2], output_ids=[n], call_id="c", turn=n) for n in (3, 4)]
    message = "the same call id came before with other ids (bad calls: contradicting_ids 1)"
    for make in (tito.merge_calls, tito.expand_turns):
        with pytest.raises(tito.DataError) as caught:
            make(calls)
        assert str(caught.value) == f"memory: record 2, turn 4: {message}"
        assert caught.value.hint == "mend the capture, or leave bad calls out, counted, with --bad skip"
    [row] = tito.merge_calls(calls, policies=tito.Policies(bad="skip"))
    assert row.input_ids.tolist() == [1, 2, 3]
    # The same content twice is one call.
    [row] = tito.merge_calls([calls[0], calls[0]])
    assert len(row.calls) == 1
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(0, output=[9, END]))
    with pytest.raises(_core.DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet", rows="merged")
    assert str(caught.value) == f"{dump}: record 2, turn 0: {message}"


def test_two_tokenizers_in_one_rollout_are_refused_word_for_word():
    calls = [tito.Call(prompt_ids=prompt, output_ids=[5]) for prompt in (dumps.PROMPT, dumps.PROMPT_35)]
    with pytest.raises(tito.DataError) as caught:
        tito.merge_calls(calls, policies=tito.Policies(truncated="keep"))
    assert str(caught.value) == (
        "memory: record 2: two tokenizers or templates in one dump: qwen3.5 here, qwen3 at memory: record 1"
    )
    assert caught.value.hint == "convert them apart, or give each its own file with --group-by identity"


def test_calls_of_two_tokenizers_never_continue_one_another():
    # The ids go on, the tokenizer does not: a prompt of qwen3 stands at the beginning of one of qwen3.5.
    first = tito.Call(prompt_ids=dumps.PROMPT, output_ids=[9707, END], turn=0)
    later = tito.Call(prompt_ids=[*dumps.PROMPT, 9707, END, *dumps.PROMPT_35], output_ids=[6, 248046], turn=1)
    rows = tito.merge_calls([first, later], policies=tito.Policies(group_by="identity"))
    assert sorted(len(row.calls) for row in rows) == [1, 1]
    assert sorted(len(row.input_ids) for row in rows) == [11, 24]


def test_merge_calls_makes_what_convert_makes(tmp_path):
    prompts = [dumps.PROMPT, [*dumps.PROMPT, *dumps.THOUGHT, 198, *dumps.PROMPT], dumps.prompt(7)]
    facts = [{"turn": n, "call_id": f"c{n}", "rollout_id": "r", "task_id": "t"} for n in range(3)]
    lines = [
        json.dumps({**f, "prompt_ids": p, "output_ids": dumps.THOUGHT}) for f, p in zip(facts, prompts, strict=True)
    ]
    calls = [tito.Call(**f, prompt_ids=p, output_ids=dumps.THOUGHT) for f, p in zip(facts, prompts, strict=True)]
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    columns = ("loss_mask", "loss_weights", "labels")
    for rows in ("turn", "merged", "auto"):
        for think in ("keep", "strip", "mask"):
            policies = tito.Policies(rows=rows, think=think, upweight="0:3", columns=columns)
            tito.convert(dump, tmp_path / "o.parquet", policies=policies)
            make = tito.expand_turns if rows == "turn" else tito.merge_calls
            for one, other in zip(make(calls, policies=policies), tito.open_rows(tmp_path / "o.parquet"), strict=True):
                assert (one.calls is None) == (rows == "turn" or (rows == "auto" and one.turn == 2))
                assert [(c.start, c.end, c.turn, c.call_id, c.hash) for c in one.calls or ()] == [
                    (c.start, c.end, c.turn, c.call_id, c.hash) for c in other.calls or ()
                ]
                for name in ("loss_spans", "weight", "flags", "turn", "call_id", "task_id", "capture_hash"):
                    assert getattr(one, name) == getattr(other, name), name
                for name in ("input_ids", "output_ids", *columns):
                    assert getattr(one, name).tolist() == getattr(other, name).tolist(), name
                    assert getattr(one, name).dtype == getattr(other, name).dtype
    # Without a word about rows, merged ones are meant.
    assert len(tito.merge_calls(calls)) == 2


def test_a_merged_row_carries_a_logprob_for_each_of_its_ids():
    calls = [
        tito.Call(prompt_ids=[1, 2], output_ids=[3], logprobs=[-1.5], turn=0),
        tito.Call(prompt_ids=[1, 2, 3, 4], output_ids=[5], turn=1),
    ]
    [row] = tito.merge_calls(calls, policies=tito.Policies(columns=["output_logprobs"]))
    assert row.output_logprobs.dtype == np.float32
    assert row.output_logprobs.tolist()[2] == -1.5
    assert np.isnan(row.output_logprobs).tolist() == [True, True, False, True, True]
