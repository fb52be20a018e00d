"""Which rollout a line belongs to when not every line says all."""

import itertools
import json

import dumps
import pytest
import runs
import tito


def converted(tmp_path, *lines, **options):
    dump = dumps.write(tmp_path / "dump.jsonl", *lines)
    return runs.convert(dump, tmp_path / "rows.jsonl", jsonl=True, **options)


def named(run):
    return [(row["rollout_id"], row["task_id"], row["agent"], row["attempt"], row["call_id"]) for row in run.rows]


def told(kind, **more):
    return json.dumps({"tito_log": 1, "type": kind, "session_id": "r", **more})


def test_a_line_that_says_less_is_of_the_one_rollout_it_can_mean(tmp_path):
    lines = [dumps.line(0, task_id="t"), dumps.line(1), dumps.line(2, agent="a"), dumps.line(3, attempt=2)]
    for order in itertools.permutations(lines):
        run = converted(tmp_path, *order)
        assert run.counts["rollouts"] == 1
        assert sorted(named(run)) == [("r", "t", "a", 2, f"c{n}") for n in range(4)]


def test_one_prompt_chain_over_lines_that_say_more_and_less(tmp_path):
    """What one call shares with the call before is read back through lines of either sort."""
    prompts = [[*dumps.PROMPT[:3], *range(1000, 1001 + n), 151645, 198, 151644, 77091, 198] for n in range(5)]
    lines = [
        dumps.line(n, prompt_ids=prompt, **({"task_id": "t"} if n % 2 else {})) for n, prompt in enumerate(prompts)
    ]
    run = converted(tmp_path, *lines)
    assert [row["input_ids"] for row in run.rows] == prompts
    assert {row["task_id"] for row in run.rows} == {"t"}


def test_two_rollouts_of_a_name_stay_two(tmp_path):
    lines = [dumps.line(0, agent="a"), dumps.line(1, agent="b"), dumps.line(2, agent="a"), dumps.line(3, agent="b")]
    run = converted(tmp_path, *lines)
    expected = [("r", "a", "c0"), ("r", "a", "c2"), ("r#2", "b", "c1"), ("r#2", "b", "c3")]
    assert [(name, agent, call) for name, _, agent, _, call in named(run)] == expected
    assert (run.counts["unplaced"], run.counts["without_calls"]) == (0, 0)


def test_a_line_that_can_mean_several_rollouts_stands_alone_and_is_counted(tmp_path):
    lines = [dumps.line(0, agent="a"), dumps.line(1, agent="b"), dumps.line(2), dumps.line(3, agent="a", task_id="t")]
    run = converted(tmp_path, *lines)
    expected = [("r", "a", "t", "c0"), ("r", "a", "t", "c3"), ("r#2", "b", None, "c1"), ("r#3", None, None, "c2")]
    assert [(name, agent, task, call) for name, task, agent, _, call in named(run)] == expected
    assert run.counts["unplaced"] == 1
    report = tito.convert(tmp_path / "dump.jsonl", tmp_path / "again.parquet")
    assert [warning for warning in report.warnings() if warning.startswith("unplaced")] == [
        "unplaced: 1 call does not say which of several rollouts of its name it is of, and stands as a rollout of its "
        "own; write task, agent and attempt on every line"
    ]


def test_sides_are_not_drawn_where_a_call_may_stand_on_either(tmp_path):
    lines = [dumps.line(n, agent="a" if n % 2 else "b", task_id=f"t{n % 2}") for n in range(4)]
    with pytest.raises(tito.TitoError) as refused:
        converted(tmp_path, *lines, dumps.line(4), val=0.5)
    assert '--val: 1 calls do not say which of the rollouts named "r" they are of' in str(refused.value)
    assert refused.value.hint == "write task, agent and attempt on every line of a rollout, or leave --val out"
    assert converted(tmp_path, *lines, val=0.5).val


def test_sides_hold_whole_rollouts_whatever_a_line_leaves_out(tmp_path):
    lines = [
        dumps.line(10 * r + n, rollout_id=f"r{r}", **({"task_id": f"t{r}"} if n else {}))
        for r in range(8)
        for n in range(3)
    ]
    run = converted(tmp_path, *lines, val=0.5)
    sides = [{row["rollout_id"] for row in rows} for rows in (run.rows, run.val)]
    assert not sides[0] & sides[1]
    assert (len(run.rows), len(run.val)) == (12, 12)
    assert run.report["val"]["rollouts_without_key"] == 0


CALLS = [dumps.logged(n, task_id="t", agent="a") for n in range(2)]


@pytest.mark.parametrize("said", [{}, {"task_id": "t"}, {"task_id": "t", "agent": "a"}])
def test_an_end_is_of_the_rollout_it_can_mean(tmp_path, said):
    for order in itertools.permutations([*CALLS, told("end", status="ok", reward=0.5, **said)]):
        run = converted(tmp_path, *order)
        assert [(row["status"], row["reward"]) for row in run.rows] == [("ok", 0.5)] * 2
    run = runs.count(dumps.write(tmp_path / "d.jsonl", *CALLS, told("end", status="abandoned", **said)), expect_rows=0)
    assert run["skipped"] == {"abandoned": 2}


@pytest.mark.parametrize("begin", [{}, {"task_id": "t"}])
@pytest.mark.parametrize("end", [{}, {"agent": "a"}])
def test_a_begin_and_an_end_that_say_unlike_much_are_of_one_rollout(tmp_path, begin, end):
    run = converted(tmp_path, told("begin", **begin), *CALLS, told("end", status="ok", **end))
    assert (len(run.rows), run.counts["skipped"]) == (2, {})


def test_an_end_of_a_name_is_of_all_its_rollouts(tmp_path):
    calls = [dumps.logged(n, agent="ab"[n % 2]) for n in range(4)]
    run = converted(tmp_path, *calls, told("end", status="ok", reward=1.0))
    assert [row["reward"] for row in run.rows] == [1.0] * 4
    assert (run.counts["rollouts"], run.counts["unplaced"], run.counts["without_calls"]) == (2, 0, 0)


def test_what_is_told_of_a_rollout_without_calls_is_counted(tmp_path):
    run = converted(tmp_path, *CALLS, json.dumps({"tito_log": 1, "type": "end", "session_id": "gone", "reward": 1.0}))
    assert (run.counts["without_calls"], run.counts["rollouts"]) == (1, 1)
    report = tito.convert(tmp_path / "dump.jsonl", tmp_path / "again.parquet")
    assert [warning for warning in report.warnings() if warning.startswith("without_calls")] == [
        "without_calls: 1 rollout is told of (opened, closed or marked) and has no call in the dump"
    ]


def test_a_rollout_that_was_begun_twice_is_told(tmp_path):
    """As by a recorder that was started anew, which knows nothing of the attempts before."""
    began = [told("begin", attempt=1), told("end", attempt=1, reward=1.0)]
    run = converted(tmp_path, *began, *CALLS, *began, told("begin", attempt=2), told("mark", attempt=1, call_id="x"))
    assert run.counts["begun_again"] == 1
    report = tito.convert(tmp_path / "dump.jsonl", tmp_path / "again.parquet")
    assert [warning for warning in report.warnings() if warning.startswith("begun_again")] == [
        "begun_again: 1 rollout was begun more than once, and the calls, the last status and the last reward of all "
        "its beginnings are one rollout's: a recorder that is started anew counts attempts from 1. Give each run a log "
        "of its own, or name the attempts"
    ]


def test_numbers_that_people_give_are_of_a_rollout(tmp_path):
    """The ids of replies are unique; what native lines call `call_id` may begin anew in each rollout."""
    lines = [dumps.line(0, rollout_id=name, call_id=call) for name in "rst" for call in ("call-a", "1")]
    run = converted(tmp_path, *lines)
    assert (len(run.rows), run.counts["skipped"]) == (6, {})
    run = converted(tmp_path, *lines, lines[0])
    assert run.counts["skipped"] == {"duplicate": 1}
    replies = [dumps.logged(0, session_id=name) for name in "rs"]
    assert converted(tmp_path, *replies).counts["skipped"] == {"duplicate": 1}


@pytest.mark.parametrize("key", ["turn", "started"])
def test_the_latest_call_has_the_last_word_whatever_the_order(tmp_path, key):
    lines = [
        dumps.line(0, **{key: 1}, reward=1, status="ok"),
        dumps.line(1, **{key: 3}, reward=0, status="limits"),
        dumps.line(2, **{key: 2}, reward=0.5),
    ]
    for order in itertools.permutations(lines):
        run = converted(tmp_path, *order)
        assert {(row["reward"], row["status"]) for row in run.rows} == {(0.0, "limits")}
        assert run.counts["disputed"] == 1
    report = tito.convert(tmp_path / "dump.jsonl", tmp_path / "again.parquet")
    assert [warning for warning in report.warnings() if warning.startswith("disputed")] == [
        "disputed: the calls of 1 rollout say unlike rewards or statuses; a rollout has one of each, and the latest "
        "call's word counts"
    ]


@pytest.mark.parametrize("form", ["native", "logged"])
def test_numbers_may_be_written_as_strings(tmp_path, form):
    make = getattr(dumps, "line" if form == "native" else form)
    run = converted(tmp_path, make(1, turn="2", attempt="3", reward=" 0.5"), make(0, turn="0", attempt=3, reward=0.5))
    assert [(row["turn"], row["attempt"], row["reward"]) for row in run.rows] == [(0, 3, 0.5), (2, 3, 0.5)]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        *(({"turn": bad}, "`turn` is no whole number from 0") for bad in ("two", "1.5", 1.5, -1, 2**31, True)),
        *(({"attempt": bad}, "`attempt` is no whole number") for bad in ("first", 0.5, 1e30)),
        *(({"reward": bad}, "`reward` is no number") for bad in ("high", "")),
    ],
)
@pytest.mark.parametrize("form", ["line", "logged"])
def test_a_field_that_is_there_and_is_none_is_bad_data(tmp_path, form, field, said):
    make = getattr(dumps, form)
    lines = [make(0, **field), make(1)]
    with pytest.raises(tito.DataError) as refused:
        converted(tmp_path, *lines)
    text = str(refused.value)
    assert f"record 1, position {lines[0].index(json.dumps(next(iter(field)))) + len(next(iter(field))) + 4}" in text
    assert text.endswith(f": {said} (bad calls: bad_field 1)")
    run = converted(tmp_path, *lines, bad="skip")
    assert (len(run.rows), run.counts["skipped"]) == (1, {"bad_field": 1})


def warned(tmp_path, name, **options):
    report = tito.convert(tmp_path / "dump.jsonl", tmp_path / "again.parquet", **options)
    return [warning for warning in report.warnings() if warning.startswith(f"{name}:")]


def test_turns_that_contradict_the_prompts_are_warned_of(tmp_path):
    first = dumps.line(0, turn=None, started=None)
    record = json.loads(first)
    longer = [*record["prompt_ids"], *record["output_ids"], 198, *dumps.PROMPT]
    second = dumps.line(1, turn=None, prompt_ids=longer)
    dump = tmp_path / "dump.jsonl"
    for lines, expected in (((first, second), 0), ((second, first), 1)):
        run = converted(tmp_path, *lines, rows="merged")
        assert run.counts["backwards"] == expected
        [row] = run.rows
        assert row["input_ids"] == [*longer, *json.loads(second)["output_ids"]]
    assert warned(tmp_path, "turns_against_prompts") == [
        f"turns_against_prompts: 1 call has a turn before the one that it continues ({dump}: record 1 is turn 0 and "
        f'continues {dump}: record 2, turn 1), so rules about turns mean others. Give each call its "turn" or when it '
        '"started"'
    ]


def test_calls_without_a_rollout_are_warned_of(tmp_path):
    converted(tmp_path, dumps.line(0, rollout_id=None), dumps.line(1))
    assert warned(tmp_path, "unnamed") == [
        'unnamed: 1 call names no rollout: each stands alone, without merging and --val. Put "rollout_id" at the top '
        "of each record"
    ]


def test_nothing_is_said_to_be_told_that_was_not(tmp_path):
    line = {"prompt_ids": [1, 2], "output_ids": [3], "rollout_id": "r"}
    lines = [json.dumps({**line, **more}) for more in ({}, {"finish": "stop", "output_ids": [4]})]
    run = converted(tmp_path, *lines)
    assert run.counts["truncation_judged"] == {"by_last_id": 0, "by_finish": 1, "by_nothing": 1}
    assert warned(tmp_path, "judged_by_nothing") == [
        "judged_by_nothing: nothing tells whether 1 outputs were cut off (no profile fits, and no finish word is "
        "there); they were kept. Name the tokenizer with --profile"
    ]
    with pytest.raises(tito.TitoError, match=r'first .*: record 1, turn 0: the finish word is "length"'):
        converted(tmp_path, json.dumps({**line, "finish": "length"}))


def test_replies_without_ids_get_the_hint_they_need(tmp_path):
    reply = {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop"}]}
    with pytest.raises(tito.TitoError, match="no row is left of 1 calls") as refused:
        converted(tmp_path, json.dumps(reply))
    assert refused.value.hint == (
        'the engine was not asked for ids: send it "return_token_ids": true, or run it behind `tito record`; ids '
        "cannot be made up afterwards"
    )


def test_policies_are_policies(tmp_path):
    with pytest.raises(tito.UsageError, match=r"policies: a dict is no tito\.Policies"):
        tito.convert("calls.jsonl", tmp_path / "rows.parquet", policies={"think": "strip"})


@pytest.mark.parametrize("form", ["line", "logged"])
def test_keys_that_look_like_others_are_told(tmp_path, form):
    make = getattr(dumps, form)
    converted(tmp_path, make(0, tsk_id="t", rewrd=1, model="m"), make(1, tsk_id="t", state="x"))
    assert warned(tmp_path, "unread_keys") == [
        "unread_keys: some records have keys that nobody reads: 'rewrd' (1; 'reward' is read), 'tsk_id' (2; 'task_id' "
        "is read)"
    ]
    converted(tmp_path, make(0, task_id="t", model="m", ended=1.0))
    assert warned(tmp_path, "unread_keys") == []


@pytest.mark.parametrize("own", [False, True])
def test_what_is_told_of_a_name_is_told_of_each_that_it_can_mean(tmp_path, own):
    """Also of one whose first line said less of it, and where lines that say as little have calls."""
    calls = [dumps.logged(0, agent="b"), dumps.logged(1, agent="a"), dumps.logged(2, agent="b", task_id="t")]
    calls += [dumps.logged(3)] if own else []
    run = converted(tmp_path, *calls, told("end", status="ok", reward=1.0))
    assert [row["reward"] for row in run.rows] == [1.0] * len(calls)
    assert (run.counts["unplaced"], run.counts["without_calls"]) == (int(own), 0)
