"""The public face: names, signatures, what importing it costs, and the examples of the native half."""

import ast
import dataclasses
import doctest
import inspect
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tito
from tito import _core
from tito.calls import Flag, RowCall

ROOT = Path(__file__).parents[1]
SIGNATURES = {
    "Call": "(*, prompt_ids, output_ids, logprobs, rollout_id, task_id, pair_id, agent, status, attempt, reward, "
    "source, call_id, choice, kind, turn, annotations, started, finish, stop_string, stop_token_ids, parse_error)",
    "Policies": "(*, think, tail, rows, ambiguous, upweight, upweight_as, seed, normalize, weight_scale, val, val_by, "
    "truncated, unterminated, max_length, overlong, drop_section, leak_scan, leak_ngram, leak_ignore, leaks, kind, "
    "bad, group_by, columns)",
    "Profile": "(version, name, vocab_size, id_limit, think_open, think_close, stray_think, lone_close, after_close, "
    "tool_open, turn_start, assistant_start, turn_end, stop_ids, prompt_start, tail_think, tail_no_think, "
    "history_pair, tokenizer_hash, template_hash)",
    "Row": "(*, input_ids, output_ids, loss_spans, calls, weight, rollout_id, task_id, pair_id, agent, call_id, "
    "kind, status, attempt, turn, reward, source, capture_format, capture_file, capture_record, "
    "capture_hash, flags, loss_mask, loss_weights, labels, output_logprobs)",
    "check": "(inputs, *, policies, profile, tokenizer, from_format, prove_think, expect_rows, workers, progress)",
    "convert": "(inputs, output, *, policies, profile, tokenizer, from_format, prove_think, expect_rows, jsonl, "
    "shard_bytes, shard_tokens, workers, progress)",
    "expand_turns": "(calls, *, policies, profile, tokenizer)",
    "export": "(rows, out, *, format, weights, seed, max_length, overlong, pack, expect_rows)",
    "find_think": "(ids, /, *, prompt, opened, profile)",
    "labels": "(input_ids, output_ids, loss_spans)",
    "loss_mask": "(input_ids, output_ids, loss_spans)",
    "merge_calls": "(calls, *, policies, profile, tokenizer)",
    "open_rows": "(path)",
    "pack": "(rows, length, *, overlong)",
    "plan_packs": "(lengths, length, *, drop_overlong)",
    "recording": "(upstream, out, *, session, patch_openai, **options)",
    "strip_think": "(ids, /, *, offsets, prompt, opened, profile)",
    "verify": "(rows, captures, *, tokenizer, n, workers, progress)",
}
ERRORS = {"TitoError": Exception, "DataError": ValueError, "UsageError": ValueError, "WorldError": OSError}


def names_only(function):
    parameters = [
        p.replace(annotation=p.empty, default=p.empty) for p in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(parameters))


def test_the_public_names_are_these():
    assert sorted(tito.__all__) == sorted([*SIGNATURES, *ERRORS, "__version__"])
    assert tito.__version__ == _core.__version__ != ""


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_pinned(name):
    assert names_only(getattr(tito, name)) == SIGNATURES[name]


@pytest.mark.parametrize(("name", "standard"), ERRORS.items())
def test_errors_are_also_the_standard_ones(name, standard):
    error = getattr(tito, name)
    assert issubclass(error, standard)
    assert issubclass(error, tito.TitoError)
    assert isinstance(error("x").hint, str)


def test_importing_touches_nothing_heavy():
    heavy = ["pyarrow", "torch", "transformers", "tokenizers", "jinja2", "rich", "pandas", "aiohttp", "asyncio"]
    code = f"import sys, tito; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    code = f"import sys, tito.cli; tito.cli._parser(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def stub_docstrings():
    tree = ast.parse((ROOT / "python/tito/_core.pyi").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
            yield pytest.param(text, id=node.name)


@pytest.mark.parametrize("text", list(stub_docstrings()))
def test_examples_of_the_native_half_run(text):
    example = doctest.DocTestParser().get_doctest(text, dict(vars(tito)), "_core.pyi", "_core.pyi", 0)
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("name", ["find_think", "strip_think", "loss_mask", "labels"])
def test_native_functions_have_an_example(name):
    tree = ast.parse((ROOT / "python/tito/_core.pyi").read_text())
    texts = [ast.get_docstring(n) or "" for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    assert ">>>" in "".join(texts)


# What Python declares of the core's


def test_rows_have_the_columns_of_the_schema():
    schema = json.loads(_core.schema_json())
    assert [c["name"] for c in schema["columns"]] == [f.name for f in dataclasses.fields(tito.Row)]
    spans = next(c for c in schema["columns"] if c["name"] == "calls")
    assert [f["name"] for f in spans["fields"]] == [f.name for f in dataclasses.fields(RowCall)]


def test_flags_are_the_core_s():
    source = (ROOT / "rust/tito-core/src/rows/mod.rs").read_text()
    found = re.findall(r"pub const (\w+): i32 = (1(?: << (\d+))?);", source)
    assert {name: 1 << int(shift or 0) for name, _, shift in found} == {f.name: f.value for f in Flag}


# Calls and rows


def test_profiles_pickle_and_keep_their_rule():
    profile = tito.Profile.named("qwen3")
    assert profile.think_rule is profile.think_rule
    again = pickle.loads(pickle.dumps(profile))
    assert again == profile
    ids = [151667, 40, 151668, 271, 9707]
    assert tito.strip_think(ids, profile=again).tolist() == [9707]


PROMPT = [151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198]
OUTPUT = [151667, 40, 151668, 271, 9707, 151645]


def calls(**more):
    second = [*PROMPT, *OUTPUT, 198, *PROMPT]
    return [
        tito.Call(prompt_ids=PROMPT, output_ids=OUTPUT, rollout_id="r", turn=0, **more),
        tito.Call(prompt_ids=np.array(second), output_ids=[7, 151645], rollout_id="r", turn=1, **more),
    ]


def test_expand_turns_gives_a_row_a_call():
    rows = tito.expand_turns(calls(task_id="t"), policies=tito.Policies(think="strip", upweight="0:3"))
    assert [row.turn for row in rows] == [0, 1]
    assert [row.output_ids.tolist() for row in rows] == [[9707, 151645], [7, 151645]]
    assert [row.weight for row in rows] == [3, 1]
    assert [row.task_id for row in rows] == ["t", "t"]
    assert rows[0].flags == Flag.PROMPT_EXACT | Flag.THINK_STRIPPED
    assert rows[0].input_ids.dtype == np.int32


def test_expand_turns_gives_the_columns_that_were_asked_for():
    policies = tito.Policies(think="mask", columns="loss_mask,loss_weights,labels,output_logprobs")
    [row, _] = tito.expand_turns(calls(), policies=policies)
    n = len(PROMPT)
    assert row.loss_spans == ((n + 4, n + 6, 1.0),)
    assert row.loss_mask.tolist() == row.loss_weights.tolist() == [0] * (n + 4) + [1, 1]
    assert row.labels.tolist() == [-100] * (n + 4) + [9707, 151645]
    assert row.output_logprobs is None
    [row, _] = tito.expand_turns(
        [dataclasses.replace(calls()[0], logprobs=np.arange(6.0)), calls()[1]], policies=policies
    )
    assert row.output_logprobs.tolist() == [0, 1, 2, 3, 4, 5]
    [row, _] = tito.expand_turns(calls())
    assert (row.loss_mask, row.loss_weights, row.labels, row.output_logprobs) == (None,) * 4


def test_expand_turns_makes_what_convert_makes(tmp_path):
    lines = [{"prompt_ids": list(map(int, c.prompt_ids)), "output_ids": c.output_ids, **c.facts()} for c in calls()]
    dump = tmp_path / "dump.jsonl"
    dump.write_text("".join(json.dumps(line) + "\n" for line in lines))
    policies = tito.Policies(think="strip", upweight="last:2")
    tito.convert(dump, tmp_path / "rows.parquet", policies=policies)
    from_file = tito.open_rows(tmp_path / "rows.parquet")
    in_memory = tito.expand_turns(calls(), policies=policies)
    where = {"input_ids", "output_ids", "capture_file", "capture_format"}
    for a, b in zip(from_file, in_memory, strict=True):
        assert a.input_ids.tolist() == b.input_ids.tolist()
        assert a.output_ids.tolist() == b.output_ids.tolist()
        for field in dataclasses.fields(tito.Row):
            if field.name not in where:
                assert getattr(a, field.name) == getattr(b, field.name), field.name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (tito.Call(prompt_ids=[[1]], output_ids=[2]), "prompt_ids: 2 dimensions"),
        (tito.Call(prompt_ids=[1.5], output_ids=[2]), "prompt_ids: values of type float64"),
        (tito.Call(prompt_ids=[1], output_ids=[-2]), "output_ids: -2 is no id"),
        (tito.Call(prompt_ids=[1], output_ids=[2**31]), "output_ids: 2147483648 is no id"),
    ],
)
def test_expand_turns_refuses_what_is_no_ids(call, message):
    with pytest.raises(tito.UsageError, match=re.escape(message)):
        tito.expand_turns([call])


def test_facts_of_numpy_are_plain_numbers():
    [row, _] = tito.expand_turns(
        [dataclasses.replace(calls()[0], turn=np.int64(3), reward=np.float32(1), started=float("nan")), calls()[1]],
        policies=tito.Policies(),
    )[::-1]
    assert (row.turn, row.reward) == (3, 1.0)
    facts = tito.Call(prompt_ids=[1], output_ids=[2], reward=True, started=np.inf, stop_token_ids=np.array([5])).facts()
    assert (facts["reward"], facts["started"], facts["stop_token_ids"]) == (None, None, [5])


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ({"turn": 1.5}, "call 1: turn: 1.5 is no whole number"),
        ({"attempt": "2"}, "call 1: attempt: '2' is no whole number"),
        ({"reward": "good"}, "call 1: reward: 'good' is no number"),
        ({"task_id": 1.5}, "call 1: task_id: 1.5 is no text"),
        ({"call_id": b"x"}, "call 1: call_id: b'x' is no text"),
        ({"agent": True}, "call 1: agent: True is no text"),
        ({"task_id": "\ud800"}, "call 1: task_id: '\\ud800' holds half a character"),
        ({"annotations": {"a": "\ud800"}}, "call 1: annotations: '\\ud800' holds half a character"),
        ({"annotations": {"a": {1}}}, "call 1: annotations: {1} is no value of JSON"),
        ({"annotations": "good"}, "call 1: annotations: 'good' is no mapping"),
        ({"turn": -1}, "call 1: turn: -1 is no turn"),
        ({"turn": 2**31}, "call 1: turn: 2147483648 does not fit 32 bits"),
        ({"attempt": 2**40}, "call 1: attempt: 1099511627776 does not fit 32 bits"),
        ({"stop_token_ids": 5}, "call 1: stop_token_ids: 5 is no list"),
        ({"parse_error": "no"}, "call 1: parse_error: 'no' is neither True nor False"),
        ({"stop_string": 1}, "call 1: stop_string: 1 is neither True nor False"),
        ({"logprobs": ["a", "b"]}, "call 1: logprobs: not one list of numbers"),
        ({"logprobs": [[1, 2]]}, "call 1: logprobs: 2 dimensions, not 1"),
        ({"logprobs": 1.0}, "call 1: logprobs: 0 dimensions, not 1"),
        ({"logprobs": [-1, 1e300]}, "call 1: logprobs: 1e+300 at position 1 does not fit a float32"),
        ({"logprobs": np.ma.array([0.5, 1], mask=[1, 0])}, "call 1: logprobs: values are masked"),
    ],
)
def test_a_fact_of_another_type_is_named(fact, message):
    with pytest.raises(tito.UsageError) as caught:
        tito.expand_turns([calls()[0], dataclasses.replace(calls()[1], **fact)])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("fact", "other", "message"),
    [
        ({"rollout_id": "a"}, {"rollout_id": "b"}, 'rollout_id "a" and "b"'),
        ({"task_id": "t1"}, {"task_id": "t2"}, 'task_id "t1" and "t2"'),
        ({"pair_id": "p"}, {"pair_id": ""}, 'pair_id "p" and ""'),
        ({"agent": "solo"}, {"agent": "x"}, 'agent "solo" and "x"'),
        ({"attempt": 0}, {"attempt": 1}, "attempt 0 and 1"),
    ],
)
def test_calls_of_two_rollouts_are_refused(fact, other, message):
    [one, another] = [tito.Call(prompt_ids=[1], output_ids=[n]) for n in (2, 3)]
    silent = tito.Call(prompt_ids=[1], output_ids=[4])
    given = [silent, dataclasses.replace(one, **fact), silent, dataclasses.replace(another, **other)]
    for make in (tito.expand_turns, tito.merge_calls):
        with pytest.raises(tito.UsageError) as caught:
            make(given)
        assert str(caught.value) == f"calls 1 and 3 are not of one rollout: {message}"
        assert caught.value.hint == "give the calls of one rollout at a time; what is not known of a call may be None"
        make(given[:3])


def test_what_is_no_list_of_calls_is_refused():
    for given, message in (
        ([{"prompt_ids": [1]}], "call 0: a dict is no tito.Call"),
        ([calls()[0], None], "call 1: a NoneType is no tito.Call"),
        (calls()[0], "calls: a Call is no list of calls"),
        (7, "calls: a int is no list of calls"),
    ):
        for make in (tito.expand_turns, tito.merge_calls):
            with pytest.raises(tito.UsageError) as caught:
                make(given)
            assert (str(caught.value), caught.value.hint) == (message, "give a list of tito.Call")
    in_turn = tito.merge_calls(call for call in calls())
    assert [row.input_ids.tolist() for row in in_turn] == [row.input_ids.tolist() for row in tito.merge_calls(calls())]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"kind": ","}, "kind: ',' names nothing"),
        ({"kind": ()}, "kind: () names nothing"),
        ({"columns": " , "}, "columns: ' , ' names nothing"),
        ({"upweight": [""]}, "upweight: [''] names nothing"),
        ({"leak_ngram": 0}, "leak_ngram: 0 is not from 1 to 9223372036854775807"),
        ({"seed": -1}, "seed: -1 is not from 0 to 18446744073709551615"),
        ({"seed": 2**64}, "seed: 18446744073709551616 is not from 0 to 18446744073709551615"),
        ({"max_length": 10**20}, "max_length: 100000000000000000000 is not from 0 to 9223372036854775807"),
        ({"max_length": 1.5}, "max_length: 1.5 is no whole number"),
        ({"max_length": "8"}, "max_length: '8' is no whole number"),
    ],
)
def test_a_policy_that_is_none_is_refused(policy, message):
    with pytest.raises(tito.UsageError) as caught:
        tito.Policies(**policy)
    assert str(caught.value) == message


def test_numbers_that_are_none_are_refused(tmp_path):
    for option in ("expect_rows", "shard_bytes", "shard_tokens", "workers"):
        with pytest.raises(tito.UsageError, match=f"^{option}: -1 is not from 0 to 9223372036854775807$"):
            tito.convert("d.jsonl", tmp_path / "o.parquet", **{option: -1})
    for option in ("n", "workers"):
        with pytest.raises(tito.UsageError, match=f"^{option}: 'x' is no whole number$"):
            tito.verify("o.parquet", "d.jsonl", **{option: "x"})


def test_every_fact_of_a_call_is_told():
    names = {field.name for field in dataclasses.fields(tito.Call)} - {"prompt_ids", "output_ids", "logprobs"}
    assert set(tito.Call(prompt_ids=[1], output_ids=[2]).facts()) == names


def test_calls_that_are_all_left_out_give_no_rows():
    assert tito.expand_turns([tito.Call(prompt_ids=[1], output_ids=[2], finish="length")]) == []


def test_what_the_watch_raises_comes_through(tmp_path):
    capture = Path(__file__).parent / "captures" / "qwen3" / "calls.jsonl"

    def watch(progress):
        raise RuntimeError("seen")

    with pytest.raises(RuntimeError, match="seen"):
        tito.convert(capture, tmp_path / "rows.parquet", progress=watch)
