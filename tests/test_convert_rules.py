"""Policies one by one, with the errors of runs in which they do nothing, and options that are wrong."""

import json

import dumps
import pytest
import runs
from tito import DataError, UsageError, _core

STRIPPED = 4


def made(folder, *lines, **options):
    dump = dumps.write(folder / "d.jsonl", *lines)
    return runs.convert(dump, folder / "o.parquet", **options)


def refused(folder, *lines, error=DataError, **options):
    with pytest.raises(error) as caught:
        made(folder, *lines, **options)
    assert runs.left_behind(folder) == ["d.jsonl"]
    return str(caught.value).replace(str(folder), "DIR"), caught.value.hint


THINKING = dumps.line(0, output=dumps.THOUGHT)


def test_kept_thinking_is_not_flagged_as_stripped(tmp_path):
    [row] = made(tmp_path, THINKING).rows
    assert (row["output_ids"], row["flags"] & STRIPPED) == (dumps.THOUGHT, 0)
    for think in ("strip", "strip-all", "mask"):
        assert made(tmp_path, THINKING, think=think).rows[0]["flags"] & STRIPPED


def test_thinking_is_cut_or_masked(tmp_path):
    assert made(tmp_path, THINKING, think="strip").rows[0]["output_ids"] == [9707, 151645]
    [row] = made(tmp_path, THINKING, think="mask").rows
    at = len(row["input_ids"])
    assert (row["output_ids"], row["loss_spans"]) == (dumps.THOUGHT, [(at + 5, at + 7, 1.0)])


@pytest.mark.parametrize("think", ["strip", "strip-all", "mask"])
def test_a_rule_that_fires_nowhere_although_markers_are_there(tmp_path, think):
    in_tool_call = [151657, 5, 151668, 151645]
    message, hint = refused(tmp_path, dumps.line(0, output=in_tool_call), dumps.line(1), think=think)
    assert message == (
        "--think fired nowhere although think markers are there: 1 of 2 outputs hold one or start inside one "
        "(unterminated 0, odd 1)"
    )
    assert hint == "look at a few with `tito show`; if the profile is the wrong one name the right one with --profile"


@pytest.mark.parametrize("think", ["strip", "strip-all", "mask"])
def test_a_dump_with_thinking_off_is_no_error(tmp_path, think):
    off = dumps.line(0, prompt_ids=[*dumps.PROMPT, 151667, 271, 151668, 271])
    assert made(tmp_path, off, dumps.line(1), think=think).counts["think"]["absent"] == 2


def test_unterminated_thinking_is_dropped_or_kept(tmp_path):
    lines = [dumps.line(0, output=[151667, 5, 151645]), dumps.line(1, output=dumps.THOUGHT)]
    run = made(tmp_path, *lines, think="strip")
    assert (run.counts["skipped"], len(run.rows)) == ({"unterminated_think": 1}, 1)
    assert len(made(tmp_path, *lines, think="strip", unterminated="keep").rows) == 2
    assert len(made(tmp_path, *lines).rows) == 2


def test_truncated_is_told_before_unterminated(tmp_path):
    lines = [dumps.line(0, output=[151667, 5]), dumps.line(1, output=dumps.THOUGHT)]
    assert made(tmp_path, *lines, think="strip").counts["skipped"] == {"truncated": 1}


@pytest.mark.parametrize("truncated", ["drop", "mask", "keep"])
def test_truncated_outputs(tmp_path, truncated):
    run = made(tmp_path, dumps.line(0), dumps.line(1, output=[1, 2]), truncated=truncated)
    if truncated == "drop":
        assert (run.counts["skipped"], len(run.rows)) == ({"truncated": 1}, 1)
        return
    assert [row["flags"] & 1 for row in run.rows] == [0, 1]
    assert run.rows[1]["loss_spans"] == ([] if truncated == "mask" else None)
    assert run.counts["tokens"]["truncated_masked"] == (2 if truncated == "mask" else 0)


@pytest.mark.parametrize(
    ("more", "clean"),
    [
        ({"finish": "stop"}, False),
        ({"finish": "tool_calls"}, False),
        ({"stop_string": "</a>"}, True),
        ({"stop_token_ids": [2]}, True),
        ({"stop_token_ids": [1]}, False),
    ],
)
def test_the_last_id_tells_truncation_not_the_finish_word(tmp_path, more, clean):
    run = made(tmp_path, dumps.line(0), dumps.line(1, output=[1, 2], **more))
    assert len(run.rows) == 1 + clean


@pytest.mark.parametrize("keys", [("stop_reason", "matched_stop"), ("matched_stop", "stop_reason")])
def test_a_null_beside_a_stop_id_does_not_hide_it(tmp_path, keys):
    choice = {"index": 0, "finish_reason": "stop", "token_ids": [5, 8], keys[0]: 8, keys[1]: None}
    assert len(made(tmp_path, dumps.logged(0, dumps.reply(0, choices=[choice], usage=None))).rows) == 1


@pytest.mark.parametrize("reason", ["NaN happened", "repetition_detected"])
def test_a_stop_that_is_none_drops_the_call(tmp_path, reason):
    choice = {"index": 0, "finish_reason": "stop", "token_ids": [5, 151645], "matched_stop": reason}
    run = made(tmp_path, dumps.logged(0, dumps.reply(0, choices=[choice], usage=None)), dumps.logged(1))
    assert run.counts["skipped"] == {"infra_error": 1}


@pytest.mark.parametrize("think", ["strip", "strip-all"])
def test_nothing_left_is_no_row(tmp_path, think):
    only = dumps.line(0, output=[151667, 5, 151668, 271], stop_string="x")
    assert made(tmp_path, only, dumps.line(1), think=think).counts["skipped"] == {"empty_after_strip": 1}


def test_the_tail_is_rewritten(tmp_path):
    line = json.dumps({"prompt_ids": dumps.PROMPT_35, "output_ids": [40, 248069, 271, 9, 248046]})
    [row] = made(tmp_path, line, think="strip", tail="no-think").rows
    assert row["input_ids"] == [*dumps.PROMPT_35[:-2], 248068, 271, 248069, 271]
    assert (row["output_ids"], row["flags"]) == ([9, 248046], STRIPPED)
    run = made(tmp_path, line, think="strip")
    assert (run.rows[0]["flags"], run.counts["think"]["open_think_tail"]) == (STRIPPED | 2 | 64, 1)


def test_a_profile_that_cannot_switch_thinking_off(tmp_path):
    profile = {**runs.QWEN3, "tail_no_think": None}
    message, hint = refused(tmp_path, THINKING, error=UsageError, think="strip", tail="no-think", profile=profile)
    assert message == 'profile "qwen3" has no no-thinking tail'
    assert hint == "leave --tail captured: its template cannot switch thinking off"


@pytest.mark.parametrize("length", [12, 13])
def test_rows_over_the_limit(tmp_path, length):
    lines = [dumps.line(0), dumps.line(1, output=[5, 6, 7, 151645]), dumps.line(2, output=[1] * 9 + [151645])]
    options = {"max_length": length}
    message, hint = refused(tmp_path, *lines, **options)
    first = "record 1, turn 0: the row has 13 ids" if length == 12 else "record 2, turn 1: the row has 14 ids"
    over = 3 if length == 12 else 2
    assert message == f"DIR/d.jsonl: {first}, the limit is {length} (rows over the limit: {over})"
    assert hint == "raise --max-length, or choose --overlong drop or trim-prompt"
    if over == 2:
        run = made(tmp_path, *lines, overlong="drop", **options)
        assert (run.counts["skipped"], len(run.rows)) == ({"overlong": 2}, 1)


def test_prompts_are_trimmed_at_turns(tmp_path):
    system, user = [151644, 8948, 198, 5, 151645, 198], [151644, 872, 198, 6, 151645, 198]
    old, tail = [151644, 77091, 198, 7, 151645, 198], [151644, 77091, 198]
    line = dumps.line(0, prompt_ids=[*system, *user, *old, *user, *tail])
    [row] = made(tmp_path, line, max_length=24, overlong="trim-prompt").rows
    assert row["input_ids"] == [*system, *user, *tail], "an answer without its question does not begin what is left"
    assert row["flags"] & 2 == 0
    assert row["flags"] & 4096
    run = made(tmp_path, line, dumps.line(1, output=[5, 151645]), max_length=13, overlong="trim-prompt")
    assert (run.counts["skipped"], len(run.rows)) == ({"overlong": 1}, 1), "an answer to a system turn alone is none"
    run = made(tmp_path, line, dumps.line(1, output=[1] * 40 + [151645]), max_length=30, overlong="trim-prompt")
    assert run.counts["skipped"] == {"overlong": 1}


def test_a_selector_that_matches_nothing(tmp_path):
    for rule in ("7:3", "agent=nobody:2", "3-9:2"):
        message, hint = refused(tmp_path, dumps.line(0), dumps.line(1), upweight=[rule, "0:2"])
        assert (message, hint) == (
            f'--upweight "{rule}" matches no row',
            "see the report's turns and names with `tito check DUMP`",
        )


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("12", "no colon"),
        ("0-2:x", '"x" is no weight (a finite number, 0 or more)'),
        ("0:-1", '"-1" is no weight (a finite number, 0 or more)'),
        ("0:nan", '"nan" is no weight (a finite number, 0 or more)'),
        ("0:inf", '"inf" is no weight (a finite number, 0 or more)'),
        ("2-0:3", "turns 2-0 run backwards"),
        ("tol=x:2", 'unknown key "tol"'),
        ("tool=:2", "no name of a tool"),
        ("match=x:2", '"x" is no /REGEX/'),
        ("match=/(/:2", "/(/: unclosed group"),
        ("reward=x:2", '"x" is no reward'),
        ("reward=1..0.5:2", "rewards 1..0.5 run backwards"),
        ("reward=inf:2", '"inf" is no reward'),
        ("0-2&x:2", '"x" is no turn'),
        ("note:x:2", '"note:x" is no turn'),
        ("x:2", '"x" is no turn'),
        ("-1:2", '"" is no turn'),
    ],
)
def test_rules_that_are_wrong(tmp_path, rule, what):
    message, hint = refused(tmp_path, dumps.line(0), error=UsageError, upweight=[rule])
    assert message == f'--upweight "{rule}": {what}'
    keys = "agent, kind, task, pair, rollout, status, attempt, reward, tool, match, note:NAME"
    assert hint == f"a rule is SELECTOR:WEIGHT, like 0-2:12, last:3 or agent=agent1&0-2:2 (keys: {keys})"


def test_weights_that_multiply_out_of_bounds(tmp_path):
    message, hint = refused(tmp_path, dumps.line(0), error=UsageError, upweight=["0:1e38", "first:1e38"])
    assert message.startswith("--upweight: rows could weigh ")
    assert message.endswith(", the limit is 1e6")
    assert hint == "use smaller weights: only their ratios matter to a trainer"


def test_weights_multiply_and_copies_repeat(tmp_path):
    rules = ["0-1:3", "first:2", "last:0", "agent=a:1"]
    lines = [dumps.line(n, agent="a") for n in range(4)]
    assert [row["weight"] for row in made(tmp_path, *lines, upweight=rules).rows] == [6, 3, 1, 0]
    run = made(tmp_path, *lines, upweight=rules, upweight_as="copies")
    assert [row["turn"] for row in run.rows] == [0] * 6 + [1] * 3 + [2]
    assert [bool(row["flags"] & 512) for row in run.rows] == [False, *[True] * 5, False, True, True, False]
    assert (run.counts["skipped"], run.counts["copies"]) == ({"not_drawn": 1}, 7)


def test_kinds_that_nobody_asked_for(tmp_path):
    kinds = ["solver", "summariser", "helper", None]
    lines = [dumps.line(n, kind=kind) for n, kind in enumerate(kinds)]
    run = made(tmp_path, *lines)
    assert ([row["kind"] for row in run.rows], run.counts["skipped"]) == (
        ["solver", "summariser", "solver"],
        {"kind": 1},
    )
    assert [row["kind"] for row in made(tmp_path, *lines, kind=["helper"]).rows] == ["helper"]


@pytest.mark.parametrize("n", [1, 3])
def test_another_number_of_rows_than_expected(tmp_path, n):
    lines = [dumps.line(0), dumps.line(1)]
    message, hint = refused(tmp_path, *lines, expect_rows=n)
    assert message == f"2 rows, {n} were expected"
    assert hint == "`tito check` with the same options says what is left out and why; nothing was written"
    assert len(made(tmp_path, *lines, expect_rows=2).rows) == 2


def test_no_row_is_left(tmp_path):
    message, hint = refused(tmp_path, dumps.line(0, kind="helper"), dumps.line(1, output=[5]))
    assert message == (
        "no row is left of 2 calls (skipped: kind 1, truncated 1); first DIR/d.jsonl: record 1, turn 0: "
        'kind "helper" was not asked for'
    )
    assert hint == "choose other policies, or --expect-rows 0 if that is right"


def test_no_row_where_none_is_expected_is_an_empty_file(tmp_path):
    run = made(tmp_path, dumps.line(0, kind="helper"), expect_rows=0)
    assert run.rows == []


def test_a_reply_that_was_dropped_has_the_number_of_the_next(tmp_path):
    lines = [dumps.line(n, turn=None, started=float(n), parse_error=n == 1) for n in range(4)]
    run = made(tmp_path, *lines)
    assert [(row["call_id"], row["turn"]) for row in run.rows] == [("c0", 0), ("c2", 1), ("c3", 2)]
    assert run.counts["examples"]["parse_error"] == [
        f"{tmp_path}/d.jsonl: record 2, turn 1: the harness could not parse the reply"
    ]


def test_a_call_that_failed_is_no_turn(tmp_path):
    lines = [dumps.line(n, turn=None, started=float(n), error="boom" if n == 0 else None) for n in range(3)]
    assert [row["turn"] for row in made(tmp_path, *lines).rows] == [0, 1]


def test_turns_are_numbered_by_time(tmp_path):
    order = [2, 0, 1]
    lines = [dumps.line(n, turn=None, started=f"2026-11-21T12:00:0{n}Z") for n in order]
    lines.append(dumps.line(9, turn=None, started="2026-11-21T12:00:00.5", kind="summariser"))
    rows = made(tmp_path, *lines).rows
    assert [(row["call_id"], row["turn"]) for row in rows] == [("c0", 0), ("c1", 1), ("c2", 2), ("c9", None)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"thnk": "keep"},
            "options: unknown field `thnk`, expected one of `inputs`, `called`, `part`, `output`, `from`",
        ),
        ({"think": "cut"}, "options: unknown variant `cut`, expected one of `keep`, `strip`, `strip-all`, `mask`"),
        ({"tail": None}, "options: "),
        ({"rows": "tree"}, "options: unknown variant `tree`, expected one of `turn`, `merged`, `auto`"),
        ({"workers": -1}, "options: invalid value: integer `-1`, expected usize"),
        ({"max_length": "9"}, 'options: invalid type: string "9", expected usize'),
        ({"columns": ["mask"]}, "options: unknown variant `mask`, expected one of `loss_mask`"),
        ({"profile": {"name": "x"}}, "options: "),
    ],
)
def test_options_that_are_wrong(tmp_path, options, message):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    with pytest.raises(UsageError) as caught:
        _core.convert(json.dumps({"inputs": [str(dump)], **options}), _core.Progress())
    assert str(caught.value).startswith(message)
    assert caught.value.hint == "see `tito convert --help` for names and values"


@pytest.mark.parametrize("text", ["", "nonsense", "null", "7"])
def test_options_that_are_no_object(text):
    with pytest.raises(UsageError, match=r"^options: "):
        _core.convert(text, _core.Progress())


def test_what_is_left_behind_a_question_begins_with_an_answer(tmp_path):
    """The first turn is the only one of its role and an answer follows: it is the task, and stays before answers."""
    task, tail = [151644, 872, 198, 5, 151645, 198], [151644, 77091, 198]
    answer, tool = [*tail, 7, 151645, 198], [151644, 14172, 198, 8, 151645, 198]
    line = dumps.line(0, prompt_ids=[*task, *answer, *tool, *answer, *tool, *tail])
    for length, left in ((24, [*answer, *tool, *tail]), (23, tail), (12, tail)):
        [row] = made(tmp_path, line, max_length=length, overlong="trim-prompt").rows
        assert row["input_ids"] == [*task, *left]


@pytest.mark.parametrize("think", ["keep", "mask"])
def test_a_tail_without_thinking_before_thinking_is_refused(tmp_path, think):
    message, hint = refused(tmp_path, THINKING, error=UsageError, think=think, tail="no-think")
    assert message == "--tail no-think says that thinking is off, and --think keep and mask leave it in the output"
    assert hint == "cut it with --think strip or strip-all, or leave --tail captured"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"overlong": "drop"}, "--overlong is about rows over a limit", "name it with --max-length"),
        ({"val_by": "repo"}, "--val-by is about a validation side", "ask for one with --val"),
        ({"leaks": "drop"}, "--leaks is about what a scan finds", "name what to look for with --leak-scan"),
    ],
)
def test_options_that_say_nothing_without_another_are_refused(tmp_path, options, message, hint):
    assert refused(tmp_path, dumps.line(), error=UsageError, **options) == (f"{message}, and there is none", hint)


@pytest.mark.parametrize("think", ["strip", "strip-all", "mask"])
def test_thinking_that_a_limit_cut_short_is_not_trained(tmp_path, think):
    line = dumps.line(0, output=[151667, 5, 6, 7])
    whole = dumps.line(1, output=dumps.THOUGHT)
    run = made(tmp_path, line, whole, think=think, truncated="keep")
    assert (run.counts["skipped"], len(run.rows)) == ({"unterminated_think": 1}, 1)
    rows = made(tmp_path, line, whole, think=think, truncated="keep", unterminated="keep").rows
    assert rows[0]["output_ids"] == [151667, 5, 6, 7]
    rows = made(tmp_path, line, whole, think=think, truncated="mask").rows
    assert (rows[0]["output_ids"], rows[0]["loss_spans"]) == ([151667, 5, 6, 7], [])


@pytest.mark.parametrize("key", ["loss_mask", "loss_spans", "loss_weights", "labels", "weight"])
def test_a_loss_beside_captured_ids_is_not_passed_over(tmp_path, key):
    message, _ = refused(tmp_path, dumps.line(0, **{key: [0, 1]}), dumps.line(1))
    why = f"`{key}` would be passed over: captures hold no loss, policies like --upweight make it"
    assert message == f"DIR/d.jsonl: record 1: {why} (bad calls: unknown_record 1)"
    assert len(made(tmp_path, dumps.line(0, **{key: None}), dumps.line(1)).rows) == 2
