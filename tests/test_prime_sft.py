"""prime-sft: messages of the calls that convert makes rows of, and every other one counted by its reason."""

import gzip
import json
from pathlib import Path

import pytest
import tito
import zstandard
from tito import DataError, Policies, UsageError
from tito.exchanges import read_exchanges
from tito.export.prime_sft import export_messages

CAPTURES = Path(__file__).parent / "captures"
BASH = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
CALL = {"id": "t1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}


def line(turn=0, messages=ASK, reply=None, finish="stop", tools=None, session="r", **more):
    message = {"role": "assistant", "content": "Hello"} if reply is None else reply
    request = {"model": "m", "messages": messages, "tools": tools}
    choice = {"index": 0, "finish_reason": finish, "message": message, "token_ids": [40, 7]}
    response = {"prompt_token_ids": [9, 10, 11, turn], "choices": [choice]}
    return {"session_id": session, "turn": turn, "request": request, "response": response, **more}


def write(path, *lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def export(folder, *lines, **options):
    exported = export_messages(write(folder / "calls.jsonl", *lines), folder / "o.jsonl", **options)
    return [json.loads(one) for one in (folder / "o.jsonl").read_text().splitlines()], exported


def test_a_row_is_what_was_asked_and_answered(tmp_path):
    thinking = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [CALL]}
    [row], exported = export(tmp_path, line(reply=thinking, tools=[BASH], task_id="t", agent="a", reward=1))
    assert row == {
        "messages": [*ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
        "tool_defs": [
            {
                "type": "function",
                "function": {"name": "bash", "description": "", "parameters": {"type": "object", "properties": {}}},
            }
        ],
        "task_name": "t",
        "agent": "a",
        "reward": 1.0,
        "model": "m",
        "rollout_id": "r",
        "source": "tito",
        "source_path": str(tmp_path / "calls.jsonl"),
        "exchange_index": 0,
    }
    assert exported.data["loses"][:2] == ["token ids (all text is tokenised again)", "thinking"]
    assert "lossy" in exported.data["settings"][1]
    assert json.loads((tmp_path / "o.jsonl.manifest.json").read_text()) == exported.data


def test_a_rollout_gives_its_last_exchange_or_each(tmp_path):
    lines = [line(1, session="b"), line(0), line(2), line(1, reply="text"), line(0, session="b")]
    rows, exported = export(tmp_path, *lines)
    assert [(row["rollout_id"], row["exchange_index"]) for row in rows] == [("b", 1), ("r", 2)]
    assert exported.data["counts"] == {
        "rollouts_seen": 2,
        "rows_read": 5,
        "rows_exported": 2,
        "rows_written": 2,
        "rows_with_tool_calls": 0,
        "left_out": {"not_the_last": 3},
    }
    rows, exported = export(tmp_path, *lines, row_mode="exchange")
    assert (len(rows), exported.left_out) == (4, {"no_reply": 1})


@pytest.mark.parametrize(
    ("reason", "bad"),
    [
        ("no_reply", {"reply": "text"}),
        ("truncated", {"finish": "length"}),
        ("missing_tool_defs", {"reply": {"tool_calls": [CALL]}}),
        ("unknown_tool", {"reply": {"tool_calls": [{**CALL, "function": {"name": "sh"}}]}, "tools": [BASH]}),
        (
            "bad_arguments",
            {"reply": {"tool_calls": [{**CALL, "function": {"name": "bash", "arguments": "[1]"}}]}, "tools": [BASH]},
        ),
        ("unknown_tool_call", {"messages": [*ASK, {"role": "tool", "tool_call_id": "x", "content": ""}]}),
        ("system_not_first", {"messages": ASK[::-1]}),
        ("unknown_role", {"messages": [{"role": "robot", "content": ""}]}),
        ("content_not_text", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("invalid", {"messages": ["Hi"]}),
        ("invalid", {"messages": [{"role": "user", "content": "half of a pair: \ud83d"}]}),
        ("invalid", {"tools": [{**BASH, "function": {"name": "bash", "parameters": {"default": float("nan")}}}]}),
        ("invalid", {"reply": {"tool_calls": {"id": "t1"}}, "tools": [BASH]}),
        ("unknown_tool", {"reply": {"tool_calls": [{**CALL, "function": {"name": ["bash"]}}]}, "tools": [BASH]}),
        ("unknown_tool_call", {"messages": [*ASK, {"role": "tool", "tool_call_id": ["x"], "content": ""}]}),
        ("unknown_role", {"messages": [{"role": ["user"], "content": ""}]}),
        ("no_messages", {"messages": "Hi"}),
        ("invalid", {"tools": [{"function": {}}]}),
    ],
)
def test_what_would_have_to_be_repaired_is_left_out(tmp_path, reason, bad):
    rows, exported = export(tmp_path, line(0), line(1, **bad), row_mode="exchange")
    assert (len(rows), exported.left_out) == (1, {reason: 1})


def test_parallel_tool_calls_are_answered_in_any_order(tmp_path):
    calls = [{**CALL, "id": name} for name in ("a", "b")]
    answers = [{"role": "tool", "tool_call_id": name, "content": name} for name in ("b", "a")]
    messages = [*ASK, {"role": "assistant", "content": "", "tool_calls": calls}, *answers]
    [row], _ = export(tmp_path, line(messages=messages, tools=[BASH]))
    assert row["messages"][3:5] == answers


def test_streams_tell_the_same_as_replies(tmp_path):
    deltas = [
        {"role": "assistant", "content": "He"},
        {"content": "llo"},
        {"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": "bash", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"command": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"ls"}'}}]},
    ]
    events = [{"choices": [{"index": 0, "delta": delta, "token_ids": [40]}]} for delta in deltas]
    events[0]["prompt_token_ids"] = [9, 10, 11]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    one = {name: value for name, value in line(tools=[BASH]).items() if name != "response"}
    [row], _ = export(tmp_path, {**one, "stream": stream})
    assert row["messages"][-1] == {"role": "assistant", "content": "Hello", "tool_calls": [CALL]}


@pytest.mark.parametrize("captures", ["qwen3", "qwen35", "qwen3-stream", "smollm2-chat.jsonl", "smollm2-n2.jsonl"])
def test_the_calls_are_those_of_convert(tmp_path, captures):
    """What convert leaves out is left out here for the same reason, and what it uses is here or has one of its own."""
    report = tito.convert(CAPTURES / captures, tmp_path / "rows.jsonl")
    exported = export_messages(CAPTURES / captures, tmp_path / "o.jsonl", row_mode="exchange")
    counts = exported.data["counts"]
    assert counts["rows_read"] == report.calls_seen == exported.rows + sum(exported.left_out.values())
    assert {name: n for name, n in exported.left_out.items() if name in report.skipped} == report.skipped
    assert counts["rollouts_seen"] == report.data["counts"]["rollouts"]
    used = [(row["capture_file"], row["rollout_id"], row["turn"]) for row in rows_of(tmp_path / "rows.jsonl")]
    written = [(r["source_path"], r["rollout_id"], r["exchange_index"]) for r in rows_of(tmp_path / "o.jsonl")]
    assert set(written) <= set(used)
    if not any(reason not in report.skipped for reason in exported.left_out):
        assert sorted(written) == sorted(used)


def rows_of(path):
    return [json.loads(one) for one in path.read_text().splitlines()]


def test_logs_and_trajectories_tell_the_same(tmp_path):
    """A saved trajectory gives the messages that the call log of the same run holds."""
    log, saved = CAPTURES / "qwen3" / "calls.jsonl", CAPTURES / "qwen3" / "coop"
    read = {
        name: {(one.task_id.rpartition("/")[2], one.agent, one.turn): one for one in read_exchanges(path)}
        for name, path in (("log", log), ("saved", saved))
    }
    assert read["log"].keys() == read["saved"].keys()
    assert len(read["log"]) == 36
    for who, one in read["log"].items():
        other = read["saved"][who]
        said, again = json.loads(one.messages), json.loads(other.messages)
        assert [message["role"] for message in said] == [message["role"] for message in again]
        assert [message["content"] for message in said] == [message["content"] for message in again]
        assert (json.loads(one.reply)["content"] or "") == json.loads(other.reply)["content"]
        assert b"token_ids" not in other.messages + other.reply


def test_what_convert_refuses_is_not_exported(tmp_path):
    """A helper's title, a reply that could not be parsed, a rollout that broke: none of them is an answer."""
    said = {name: {"role": "assistant", "content": name} for name in ("GOOD", "TITLE", "BROKEN", "BAD")}
    rows, exported = export(
        tmp_path,
        line(0, reply=said["GOOD"]),
        line(1, reply=said["TITLE"], kind="helper"),
        line(0, reply=said["BROKEN"], session="b", status="infra_error"),
        line(2, reply=said["BAD"], parse_error=True),
    )
    assert [row["messages"][-1]["content"] for row in rows] == ["GOOD"]
    assert exported.left_out == {"infra_error": 1, "kind": 1, "parse_error": 1}
    rows, exported = export(tmp_path, line(0), line(1, kind="helper"), policies=Policies(kind="helper"))
    assert (len(rows), exported.left_out) == (1, {"kind": 1})


def test_marks_and_copies_of_calls_are_seen(tmp_path):
    """What whoever ran the rollout says of a reply counts wherever in the log it is said."""
    made = {"tito_log": 1, "type": "call", "response": {**line()["response"], "id": "c0"}}
    dropped = {**line(1)["response"], "id": "c1"}
    rows, exported = export(
        tmp_path,
        {**line(0), **made},
        {**line(1), "tito_log": 1, "type": "call", "response": dropped},
        {**line(0), **made},
        {"tito_log": 1, "type": "mark", "session_id": "r", "call_id": "c1", "mark": "dropped"},
    )
    assert (len(rows), exported.left_out) == (1, {"duplicate": 1, "dropped": 1})


@pytest.mark.parametrize("pack", [zstandard.compress, gzip.compress])
def test_packed_logs_are_read(tmp_path, pack):
    first = write(tmp_path / "calls-000001.jsonl", line(0, session="a"))
    packed = tmp_path / f"calls-000001.jsonl.{'zst' if pack is zstandard.compress else 'gz'}"
    packed.write_bytes(pack(first.read_bytes()))
    first.unlink()
    write(tmp_path / "calls-000002.jsonl", line(0, session="b"))
    (tmp_path / "out").mkdir()
    for named, rollouts in ((tmp_path, ["a", "b"]), (packed, ["a"])):
        export_messages(named, tmp_path / "out" / "o.jsonl")
        assert [row["rollout_id"] for row in rows_of(tmp_path / "out" / "o.jsonl")] == rollouts
        (tmp_path / "out" / "o.jsonl").unlink()


def test_agents_that_share_a_session_are_two_rollouts(tmp_path):
    lines = [line(turn, agent=agent, task_id="t", reward=n) for turn in (0, 1) for n, agent in enumerate("ab")]
    rows, exported = export(tmp_path, *lines)
    facts = [(row["rollout_id"], row["agent"], row["exchange_index"], row["reward"]) for row in rows]
    assert facts == [("r", "a", 1, 0.0), ("r#2", "b", 1, 1.0)]
    assert (exported.data["counts"]["rollouts_seen"], exported.left_out) == (2, {"not_the_last": 2})


def test_calls_without_a_session_are_rollouts_of_their_own(tmp_path):
    rows, _ = export(tmp_path, *({**line(n), "session_id": None} for n in (0, 1)))
    assert [row["rollout_id"] for row in rows] == [f"{tmp_path / 'calls.jsonl'}:{n}" for n in (1, 2)]


def test_damage_is_told_with_its_place_or_counted(tmp_path):
    one = {name: value for name, value in line().items() if name != "response"}
    for damaged, message, reason in (
        ({**one, "stream": 'data: {"choices": [{"index": 0, "delta"'},
         "position 176: not JSON: expected ':' after a key", "bad_json"),
        ('{"request": {"messages": [}', "position 26: not JSON: a bracket closes what it did not open", "bad_json"),
        ([1], "not a JSON object", "unknown_record"),
    ):  # fmt: skip
        calls = tmp_path / "calls.jsonl"
        calls.write_text(f"{json.dumps(line())}\n{damaged if isinstance(damaged, str) else json.dumps(damaged)}\n")
        with pytest.raises(DataError) as caught:
            export_messages(calls, tmp_path / "o.jsonl")
        place = f"{calls}: record 2" + (", " if message.startswith("position") else ": ")
        assert str(caught.value) == f"{place}{message} (bad calls: {reason} 1)"
        assert caught.value.hint == "mend the capture, or leave bad calls out, counted, with --bad skip"
        assert [path.name for path in tmp_path.iterdir()] == ["calls.jsonl"]
        exported = export_messages(calls, tmp_path / "o.jsonl", policies=Policies(bad="skip"))
        assert (exported.rows, exported.left_out) == (1, {reason: 1})
        for written in ("o.jsonl", "o.jsonl.manifest.json"):
            (tmp_path / written).unlink()
    rows, exported = export(tmp_path, line(), {**line(1), "response": "oops"})
    assert (len(rows), exported.left_out) == (1, {"no_capture": 1})


def test_text_without_ids_is_left_out(tmp_path):
    """Which calls a harness kept is told by ids, so what has none is no row anywhere."""
    bare = line(1)
    del bare["response"]["prompt_token_ids"], bare["response"]["choices"][0]["token_ids"]
    rows, exported = export(tmp_path, line(0), bare)
    assert (len(rows), exported.left_out) == (1, {"no_capture": 1})


def test_rows_are_the_same_for_any_number_of_workers(tmp_path):
    written = []
    for workers in (1, 3):
        export_messages(CAPTURES / "qwen3", tmp_path / "o.jsonl", row_mode="exchange", workers=workers)
        written.append((tmp_path / "o.jsonl").read_bytes())
    assert written[0] == written[1]


def test_what_cannot_be(tmp_path):
    calls = write(tmp_path / "calls.jsonl", {"prompt_ids": [1], "output_ids": [2]})
    for out, options, error, message in (
        ("o.parquet", {}, UsageError, "prime-sft does not read o.parquet"),
        ("o.jsonl", {"row_mode": "turn"}, UsageError, "row_mode: 'turn' is none of rollout, exchange"),
        ("calls.jsonl", {}, UsageError, f"{calls} is an input and would be written over"),
        ("o.jsonl", {"policies": Policies(think="strip")}, UsageError, "think belongs to rows, not to prime-sft"),
        ("o.jsonl", {"policies": Policies(ambiguous="mask")}, UsageError,
         "ambiguous=mask takes loss away, and prime-sft cannot be told where loss falls"),
        ("o.jsonl", {}, DataError, f"{calls}: no exchange gives a row (no_messages 1)"),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            export_messages(calls, tmp_path / out, **options)
        assert (str(caught.value), bool(caught.value.hint)) == (message, True)
    write(calls, line())
    with pytest.raises(DataError, match="1 rows, 2 were expected"):
        export_messages(calls, tmp_path / "o.jsonl", expect_rows=2)
    with pytest.raises(UsageError) as caught:
        export_messages("-", tmp_path / "o.jsonl")
    assert str(caught.value) == (
        "an export of messages reads its input twice, and standard input can be read only once"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["calls.jsonl"]


def test_a_capture_that_changes_while_it_is_read(tmp_path):
    calls = write(tmp_path / "calls.jsonl", line(0), line(1))
    exchanges = read_exchanges(calls)
    write(calls, line(0), line(1, messages=[*ASK, *ASK]))
    with pytest.raises(DataError) as caught:
        list(exchanges)
    assert str(caught.value) == f"{calls}: the file changed between two readings"
