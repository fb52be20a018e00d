"""Corner cases of merging, each with the rows it must give written out. Ids are small and of no tokenizer, except where
thinking matters: there they are Qwen3's."""

import json

import dumps
import pytest
import runs
import strategies

HEADER, TAIL = [151644, 77091, 198], [151644, 77091, 198]
PAIR = [151667, 271, 151668, 271]
USER = [151644, 872, 198, 13048, 151645, 198]
END, NEWLINE = 151645, 198


def call(name, turn, prompt, output, **more):
    facts = {"rollout_id": "r", "call_id": name, "turn": turn, "finish": "stop"}
    return json.dumps({**facts, "prompt_ids": prompt, "output_ids": output, **more})


@pytest.fixture
def merge(tmp_path):
    def run(*calls, **options):
        dump = dumps.write(tmp_path / "d.jsonl", *calls)
        return runs.convert(dump, tmp_path / "o.parquet", **{"rows": "merged", "bad": "skip", **options})

    return run


def told(run):
    """Each row as its ids, and by call the ids that it trains."""
    found = []
    for row in run.rows:
        ids = row["input_ids"] + row["output_ids"]
        at = len(row["input_ids"])
        spans = [(at, len(ids), 1.0)] if row["loss_spans"] is None else row["loss_spans"]
        own = [{"start": at, "end": len(ids), "call_id": row["call_id"]}]
        trained = {
            part["call_id"]: [one for a, b, _ in spans if part["start"] <= a and b <= part["end"] for one in ids[a:b]]
            for part in row["calls"] or own
        }
        found.append((ids, trained))
    return found


def test_rollback_and_regrow_hangs_on_the_longest(merge):
    run = merge(
        call("a", 0, [1, 2], [3]),
        call("b", 1, [1, 2, 3, 9], [4]),
        # Rolled back; the model says the same and goes further.
        call("c", 2, [1, 2], [3, 9]),
        call("d", 3, [1, 2, 3, 9, 4, 8], [5]),
    )
    assert told(run) == [
        ([1, 2, 3], {"a": [3]}),
        ([1, 2, 3, 9, 4, 8, 5], {"c": [3, 9], "b": [4], "d": [5]}),
    ]
    assert run.counts["merge"]["superseded"] == 1


def test_the_same_ids_cut_elsewhere_tie_and_the_later_one_is_continued(merge):
    run = merge(call("a", 0, [1, 2], [3, 4]), call("b", 1, [1, 2, 3], [4]), call("c", 2, [1, 2, 3, 4, 5], [6]))
    assert told(run) == [([1, 2, 3, 4], {"a": [3, 4]}), ([1, 2, 3, 4, 5, 6], {"b": [4], "c": [6]})]


TWINS = (call("a", 0, [1, 2], [3]), call("b", 1, [1, 2], [3]))


@pytest.mark.parametrize(
    ("policy", "expected", "skipped"),
    [
        ("keep-all", [([1, 2, 3], {"a": [3]}), ([1, 2, 3], {"b": [3]})], {}),
        ("keep-last", [([1, 2, 3], {"b": [3]})], {"ambiguous": 1}),
        ("mask", [([1, 2, 3], {"a": []}), ([1, 2, 3], {"b": []})], {}),
    ],
)
def test_twins_are_told_and_not_guessed_at(merge, policy, expected, skipped):
    run = merge(*TWINS, ambiguous=policy)
    assert (told(run), run.counts["skipped"]) == (expected, skipped)
    assert run.counts["merge"]["ambiguous"] == 2
    assert run.counts["tokens"]["ambiguous_masked"] == (2 if policy == "mask" else 0)


def test_twins_that_are_dropped_leave_their_ids_where_a_later_prompt_holds_them(merge):
    run = merge(*TWINS, call("c", 2, [1, 2, 3, 4], [5]), ambiguous="drop")
    assert told(run) == [([1, 2, 3, 4, 5], {"c": [5]})]
    assert run.counts["examples"]["ambiguous"][0].endswith(
        "d.jsonl: record 1, turn 0: the prompt was answered more than once, and no later prompt tells which reply was "
        "kept"
    )


def test_of_twins_the_last_one_is_continued(merge):
    run = merge(*TWINS, call("c", 2, [1, 2, 3, 4], [5]))
    assert told(run) == [([1, 2, 3], {"a": [3]}), ([1, 2, 3, 4, 5], {"b": [3], "c": [5]})]
    assert run.counts["merge"]["ambiguous"] == 2


def test_what_dropped_twins_were_continued_by_hangs_on_the_next_longest(merge):
    # A shorter answer to the same prompt is the beginning of the twins'.
    run = merge(
        call("a", 0, [1, 2], [3]),
        call("b", 1, [1, 2], [3, 4]),
        call("c", 2, [1, 2], [3, 4]),
        call("d", 3, [1, 2, 3, 4, 5], [6]),
        ambiguous="drop",
    )
    assert told(run) == [([1, 2, 3, 4, 5, 6], {"a": [3], "d": [6]})]


def test_an_empty_output_is_never_continued(merge):
    run = merge(call("a", 0, [1, 2], []), call("b", 1, [1, 2, 3], [4]), call("c", 2, [1, 2, 3, 4, 5], [6]))
    assert told(run) == [([1, 2, 3, 4, 5, 6], {"b": [4], "c": [6]})]
    assert run.counts["skipped"] == {"empty_output": 1}


def test_a_retry_of_the_first_call_is_told_apart_by_the_second(merge):
    first, again = call("a", 0, [1, 2], [3]), call("b", 1, [1, 2], [4])
    for policy in ("keep-all", "keep-last", "drop", "mask"):
        run = merge(first, again, call("c", 2, [1, 2, 3, 5], [6]), ambiguous=policy)
        # The one that was replaced has its own row.
        assert told(run) == [([1, 2, 4], {"b": [4]}), ([1, 2, 3, 5, 6], {"a": [3], "c": [6]})]
        assert (run.counts["merge"]["superseded"], run.counts["merge"]["ambiguous"]) == (1, 0)


@pytest.mark.parametrize(
    ("policy", "kept"), [("keep-all", {"b", "c"}), ("keep-last", {"c"}), ("drop", set()), ("mask", set())]
)
def test_a_retry_of_the_last_call_nobody_can_settle(merge, policy, kept):
    run = merge(
        call("a", 0, [1, 2], [3]),
        call("b", 1, [1, 2, 3, 4], [5]),
        call("c", 2, [1, 2, 3, 4], [6]),
        ambiguous=policy,
    )
    trained = {name for _, parts in told(run) for name, ids in parts.items() if ids}
    assert trained == {"a"} | kept
    rows = {"keep-all": [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]], "keep-last": [[1, 2, 3, 4, 6]], "drop": [[1, 2, 3]]}
    assert [ids for ids, _ in told(run)] == rows.get(policy, rows["keep-all"])


def test_a_call_that_is_left_out_still_tells_which_reply_was_kept(merge):
    calls = (call("a", 0, [1, 2], [3]), call("b", 1, [1, 2], [4]), call("c", 2, [1, 2, 3, 5], [6], parse_error=True))
    run = merge(*calls, ambiguous="drop")
    assert told(run) == [([1, 2, 3], {"a": [3]}), ([1, 2, 4], {"b": [4]})]
    assert run.counts["skipped"] == {"parse_error": 1}
    assert (run.counts["merge"]["superseded"], run.counts["merge"]["ambiguous"]) == (1, 0)


A = [("a0", [1, 2], [3]), ("a1", [1, 2, 3, 4], [5]), ("a2", [1, 2, 3, 4, 5, 6], [7])]
B = [("b0", [8, 2], [3]), ("b1", [8, 2, 3, 4], [5])]


@pytest.mark.parametrize("order", [(0, 3, 1, 4, 2), (3, 4, 0, 1, 2), (2, 4, 1, 3, 0)])
def test_interleaved_agents_are_told_apart_in_any_order(merge, order):
    lines = [call(*one[:1], n, *one[1:]) for n, one in zip((0, 2, 4, 1, 3), A + B, strict=True)]
    run = merge(*(lines[n] for n in order))
    assert told(run) == [
        ([8, 2, 3, 4, 5], {"b0": [3], "b1": [5]}),
        ([1, 2, 3, 4, 5, 6, 7], {"a0": [3], "a1": [5], "a2": [7]}),
    ]


def test_another_set_of_tools_begins_another_sequence(merge):
    # The tools stand in the system message, so everything behind it is the same and nothing merges.
    run = merge(call("a", 0, [1, 2], [3]), call("b", 1, [9, 2, 3, 4], [5]), call("c", 2, [9, 2, 3, 4, 5, 6], [7]))
    assert told(run) == [([1, 2, 3], {"a": [3]}), ([9, 2, 3, 4, 5, 6, 7], {"b": [5], "c": [7]})]


def test_an_old_branch_that_goes_on_after_its_siblings(merge):
    lines = [call("a", 0, [1, 2], ids, choice=n) for n, ids in enumerate(([3], [4], [5]))]
    run = merge(*lines, call("d", 1, [1, 2, 3, 6], [7]), ambiguous="drop")
    assert [ids for ids, _ in told(run)] == [[1, 2, 4], [1, 2, 5], [1, 2, 3, 6, 7]]
    # Three choices of one reply were asked for, so none of them is ambiguous.
    assert run.counts["merge"]["ambiguous"] == 0
    assert run.counts["tokens"]["trained"] == 4


def test_compaction_begins_another_sequence(merge):
    run = merge(
        call("a", 0, [1, 2], [3]),
        call("b", 1, [1, 2, 3, 4], [5]),
        call("s", None, [1, 2, 3, 4, 5, 9], [6], kind="summariser"),
        call("c", 2, [1, 6, 4], [7]),
    )
    assert told(run) == [
        ([1, 6, 4, 7], {"c": [7]}),
        ([1, 2, 3, 4, 5, 9, 6], {"a": [3], "b": [5], "s": [6]}),
    ]


def test_what_two_sequences_share_is_trained_in_the_first(merge):
    run = merge(
        call("a", 0, [1, 2], [3]),
        call("b", 1, [1, 2, 3, 4], [5]),
        call("c", 2, [1, 2, 3, 6], [7]),
        upweight=["0:4"],
    )
    assert told(run) == [([1, 2, 3, 4, 5], {"a": [3], "b": [5]}), ([1, 2, 3, 6, 7], {"c": [7]})]
    assert [row["loss_spans"] for row in run.rows] == [[(2, 3, 4.0), (4, 5, 1.0)], [(4, 5, 1.0)]]
    assert [row["weight"] for row in run.rows] == [1.0, 1.0]


def test_copies_train_only_the_calls_that_have_so_many(merge):
    run = merge(
        call("a", 0, [1, 2], [3], logprobs=[-1.0]),
        call("b", 1, [1, 2, 3, 4], [5], logprobs=[-2.0]),
        upweight=["0:2"],
        upweight_as="copies",
        columns=["output_logprobs", "labels", "loss_weights"],
    )
    assert told(run) == [([1, 2, 3, 4, 5], {"a": [3], "b": [5]}), ([1, 2, 3, 4, 5], {"a": [3]})]
    nan = [[value if value == value else None for value in row["output_logprobs"]] for row in run.rows]
    assert nan == [[None, None, -1.0, None, -2.0], [None, None, -1.0, None, None]]
    assert [row["labels"] for row in run.rows] == [[-100, -100, 3, -100, 5], [-100, -100, 3, -100, -100]]
    assert [row["loss_weights"] for row in run.rows] == [[0, 0, 1, 0, 1], [0, 0, 1, 0, 0]]


def test_json_has_null_where_a_merged_row_has_no_logprob(tmp_path):
    dump = dumps.write(
        tmp_path / "d.jsonl", call("a", 0, [1, 2], [3], logprobs=[-1.5]), call("b", 1, [1, 2, 3, 4], [5])
    )
    run = runs.convert(dump, tmp_path / "o.jsonl", rows="merged", jsonl=True, columns=["output_logprobs"])
    assert '"output_logprobs":[null,null,-1.5,null,null]' in run.path.read_text()


# Thinking: Qwen3 sends it in the output, and its template drops it from earlier answers.

THOUGHT = [151667, 198, 40, 198, 151668, 271]


def grown(*answers, tail=TAIL):
    """A prompt with earlier answers, each followed by a user's words."""
    ids = list(USER)
    for answer in answers:
        ids += [*tail, *answer, NEWLINE, *USER]
    return [*ids, *tail]


def test_thinking_that_left_the_history_keeps_the_calls_apart(merge):
    answers = [*THOUGHT, 9707, END], [*THOUGHT, 9708, END]
    lines = call("a", 0, grown(), answers[0]), call("b", 1, grown([9707, END]), answers[1])
    run = merge(*lines, rows="auto")
    # Nothing merges, so each is a row of its call, with all it sampled in the loss.
    assert [(row["calls"], row["output_ids"]) for row in run.rows] == [(None, answers[0]), (None, answers[1])]
    assert run.counts["tokens"]["trained"] == 16


def test_thinking_that_stayed_in_the_history_is_cut_in_the_whole_row(merge):
    answers = [*THOUGHT, 9707, END], [*THOUGHT, 9708, END]
    lines = call("a", 0, grown(), answers[0]), call("b", 1, grown(answers[0]), answers[1])
    run = merge(*lines, think="strip")
    assert told(run) == [([*grown([9707, END]), 9708, END], {"a": [9707, END], "b": [9708, END]})]
    run = merge(*lines, think="mask")
    assert told(run) == [([*grown(answers[0]), *answers[1]], {"a": [9707, END], "b": [9708, END]})]
    assert run.counts["tokens"]["think_masked"] == 12


def test_an_answer_that_no_template_would_show_is_not_merged(merge):
    # Words before the thinking: a template keeps what stands behind it.
    answers = [9000, *THOUGHT, 9707, END], [9708, END]
    lines = call("a", 0, grown(), answers[0]), call("b", 1, grown(answers[0]), answers[1])
    run = merge(*lines, think="strip")
    assert told(run) == [
        ([*grown(), 9000, 9707, END], {"a": [9000, 9707, END]}),
        ([*grown(answers[0]), 9708, END], {"b": [9708, END]}),
    ]
    assert run.counts["merge"]["fell_back"] == 2


def test_other_answers_must_look_alike(merge):
    # The harness sent the thinking of an answer that gives no row: no setting shows one answer with and one without.
    answers = [*THOUGHT, 9707, END], [*THOUGHT, 9708, END], [9709, END]
    lines = (
        call("a", 0, grown(), answers[0]),
        call("b", 1, grown(answers[0]), answers[1], parse_error=True),
        call("c", 2, grown(answers[0], answers[1]), answers[2]),
    )
    run = merge(*lines, think="strip")
    assert [row["calls"] for row in run.rows] == [None, None]
    run = merge(*lines, think="strip-all")
    assert told(run) == [([*grown([9707, END], [9708, END]), 9709, END], {"a": [9707, END], "c": [9709, END]})]


QWEN35 = strategies.QWEN35
OPEN_TAIL, CLOSED_TAIL = QWEN35.tail(True), QWEN35.tail(False)
USER_35 = [248045, 846, 198, 1000, 248046, 198]


def grown_35(*answers, tail):
    return [one for answer in answers for one in [*USER_35, *tail, *answer, 198]] + [*USER_35, *tail]


def test_an_opener_in_the_prompt_whose_thinking_is_cut_is_not_merged_unless_the_tail_is_rewritten(merge):
    answers = [5, 248069, 271, 6, 248046], [5, 248069, 271, 7, 248046]
    lines = (
        call("a", 0, grown_35(tail=OPEN_TAIL), answers[0]),
        call("b", 1, grown_35(answers[0], tail=OPEN_TAIL), answers[1]),
    )
    run = merge(*lines, think="strip")
    assert [row["calls"] for row in run.rows] == [None, None]
    assert (run.counts["merge"]["fell_back"], run.counts["think"]["open_think_tail"]) == (2, 2)
    run = merge(*lines, think="strip", tail="no-think")
    assert told(run) == [([*grown_35([6, 248046], tail=CLOSED_TAIL), 7, 248046], {"a": [6, 248046], "b": [7, 248046]})]
    # Kept, it is what was captured.
    assert told(merge(*lines))[0][0] == [*grown_35(answers[0], tail=OPEN_TAIL), *answers[1]]


def test_a_sequence_that_ends_in_an_open_tail_is_told(merge):
    run = merge(call("a", 0, grown_35(tail=OPEN_TAIL), [5, 248069, 271, 6, 248046]), think="strip")
    assert run.counts["think"]["open_think_tail"] == 1


def test_an_empty_pair_that_was_prefilled_stays(merge):
    answers = [6, 248046], [7, 248046]
    lines = (
        call("a", 0, grown_35(tail=CLOSED_TAIL), answers[0]),
        call("b", 1, grown_35(answers[0], tail=CLOSED_TAIL), answers[1]),
    )
    for think in ("keep", "strip", "mask"):
        run = merge(*lines, think=think)
        assert told(run) == [
            ([*grown_35(answers[0], tail=CLOSED_TAIL), *answers[1]], {"a": answers[0], "b": answers[1]})
        ]
        assert run.counts["prompts_changed"] == 0


def test_think_words_behind_the_first_closer_keep_the_calls_apart(merge):
    # Two spans: what is left of both is no answer that a template would keep.
    answers = [*THOUGHT, 9707, *THOUGHT, 9708, END], [9709, END]
    lines = call("a", 0, grown(), answers[0]), call("b", 1, grown(answers[0]), answers[1])
    assert [row["calls"] for row in merge(*lines, think="strip").rows] == [None, None]
    assert told(merge(*lines))[0][0] == [*grown(answers[0]), *answers[1]]


def test_thinking_that_was_cut_off_leaves_before_the_forest(merge):
    cut_off, answer = [151667, 198, 40], [9708, END]
    lines = (
        call("a", 0, grown(), cut_off, finish="length"),
        call("b", 1, grown([*cut_off, END]), answer),
    )
    # Its ids stay where the later prompt holds them, without loss.
    run = merge(*lines, truncated="drop")
    assert told(run) == [([*grown([*cut_off, END]), *answer], {"b": answer})]
    assert run.counts["skipped"] == {"truncated": 1}
    run = merge(*lines, truncated="mask")
    assert told(run) == [([*grown([*cut_off, END]), *answer], {"a": [], "b": answer})]
    assert run.counts["tokens"]["truncated_masked"] == 3
    run = merge(*lines, truncated="keep")
    assert told(run) == [([*grown([*cut_off, END]), *answer], {"a": cut_off, "b": answer})]


def test_a_stop_id_is_trained_where_it_was_sampled_and_nowhere_else(merge):
    # a sampled its stop id; b ended by a stop string, and the template wrote the stop id into the next prompt.
    lines = (
        call("a", 0, grown(), [9707, END]),
        call("b", 1, grown([9707, END]), [9708], stop_string="</done>"),
        call("c", 2, grown([9707, END], [9708, END]), [9709, END]),
    )
    run = merge(*lines)
    assert told(run) == [
        ([*grown([9707, END], [9708, END]), 9709, END], {"a": [9707, END], "b": [9708], "c": [9709, END]})
    ]


def test_a_stop_id_that_opens_the_next_turn_stands_once(merge):
    # GLM stops by sampling the id that begins the tool's turn.
    observation = 50
    run = merge(call("a", 0, [1, 2], [3, observation]), call("b", 1, [1, 2, 3, observation, 4, 5], [6]))
    assert told(run) == [([1, 2, 3, observation, 4, 5, 6], {"a": [3, observation], "b": [6]})]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"logprobs": [-1.0, -2.0]}, "logprob_mismatch"),
        ({"output_ids": [9707, -1]}, "bad_ids"),
        ({"output_ids": [9707, 999999, END]}, "id_out_of_vocab"),
    ],
)
def test_a_bad_call_leaves_before_the_forest(merge, bad, reason):
    lines = (
        call("a", 0, grown(), [9707, END]),
        call("b", 1, grown([9707, END]), bad.get("output_ids", [9708, END][:1]), **{"stop_string": "x", **bad}),
        call("c", 2, grown([9707, END], [9708, END]), [9709, END]),
    )
    run = merge(*lines)
    assert told(run) == [([*grown([9707, END], [9708, END]), 9709, END], {"a": [9707, END], "c": [9709, END]})]
    assert run.counts["skipped"] == {reason: 1}


def test_a_stream_that_lost_ids_leaves_before_the_forest(merge):
    choice = {"index": 0, "finish_reason": "stop", "token_ids": [9707, END]}
    reply = {"id": "a", "prompt_token_ids": grown(), "choices": [choice]}
    wrong = {**reply, "usage": {"prompt_tokens": len(grown()), "completion_tokens": 3}}
    later = {**reply, "id": "b", "prompt_token_ids": grown([9707, END])}
    run = merge(*(dumps.logged(n, response) for n, response in enumerate((wrong, later))))
    assert told(run) == [([*grown([9707, END]), 9707, END], {"b": [9707, END]})]
    assert run.counts["skipped"] == {"usage_mismatch": 1}


def test_a_torn_last_line_loses_its_call_alone(merge):
    run = merge(call("a", 0, [1, 2], [3]), call("b", 1, [1, 2, 3, 4], [5]), b'{"rollout_id": "r", "call_id": "c", "pro')
    assert told(run) == [([1, 2, 3, 4, 5], {"a": [3], "b": [5]})]
    assert run.counts["skipped"] == {"torn_record": 1}


def test_over_long_sequences_are_written_one_a_row(merge):
    lines = call("a", 0, grown(), [9707, END]), call("b", 1, grown([9707, END]), [9708, END])
    most = len(grown([9707, END])) + 2
    assert len(merge(*lines, max_length=most, overlong="drop").rows) == 1
    run = merge(*lines, max_length=most - 1, overlong="trim-prompt")
    # The second one loses its oldest question and the answer to it.
    trimmed = [*grown(), 9708, END]
    assert told(run) == [([*grown(), 9707, END], {"a": [9707, END]}), (trimmed, {"b": [9708, END]})]
    assert run.counts["merge"]["fell_back_overlong"] == 2
    run = merge(*lines, max_length=most - 1, overlong="drop")
    assert [parts for _, parts in told(run)] == [{"a": [9707, END]}]
    assert run.counts["skipped"] == {"overlong": 1}


def test_what_differs_at_its_end_only_is_apart(merge):
    # A word of the answer came back as two ids.
    run = merge(call("a", 0, [1, 2], [3, 4]), call("b", 1, [1, 2, 3, 40, 41, 5], [6]))
    assert told(run) == [([1, 2, 3, 4], {"a": [3, 4]}), ([1, 2, 3, 40, 41, 5, 6], {"b": [6]})]
    assert run.counts["merge"]["merged_ids"] == 11
