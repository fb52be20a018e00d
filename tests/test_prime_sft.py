"""prime-sft: messages of captures, every exchange that is not fit for a row counted by its reason."""

import json
from pathlib import Path

import pytest
from tito import DataError, UsageError
from tito.export.prime_sft import export_messages

CAPTURES = Path(__file__).parent / "captures"
BASH = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
CALL = {"id": "t1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}


def line(turn=0, messages=ASK, reply=None, finish="stop", tools=None, session="r", **more):
    message = {"role": "assistant", "content": "Hello"} if reply is None else reply
    request = {"model": "m", "messages": messages, "tools": tools}
    response = {"choices": [{"index": 0, "finish_reason": finish, "message": message}]}
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
    lines = [line(1, session="b"), line(0), line(2, reply=""), line(1), line(0, session="b")]
    rows, exported = export(tmp_path, *lines)
    assert [(row["rollout_id"], row["exchange_index"]) for row in rows] == [("b", 1), ("r", 1)]
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
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    one = {name: value for name, value in line(tools=[BASH]).items() if name != "response"}
    [row], _ = export(tmp_path, {**one, "stream": stream})
    assert row["messages"][-1] == {"role": "assistant", "content": "Hello", "tool_calls": [CALL]}


def test_captures_of_every_kind(tmp_path):
    for name, rows, left_out in (
        ("qwen3", 48, {"missing_tool_defs": 24}),
        ("smollm2-chat.jsonl", 16, {"truncated": 14}),
    ):
        exported = export_messages(CAPTURES / name, tmp_path / "o.jsonl", row_mode="exchange")
        assert (exported.rows, exported.left_out) == (rows, left_out)


def test_what_cannot_be(tmp_path):
    calls = write(tmp_path / "calls.jsonl", {"prompt_ids": [1], "output_ids": [2]})
    for out, options, error, message in (
        ("o.parquet", {}, UsageError, "prime-sft does not read o.parquet"),
        ("o.jsonl", {"row_mode": "turn"}, UsageError, "row_mode: 'turn' is none of rollout, exchange"),
        ("calls.jsonl", {}, UsageError, f"{calls} is an input and would be written over"),
        ("o.jsonl", {}, DataError, f"{calls}: no exchange gives a row (no_messages 1)"),
    ):
        with pytest.raises(error) as caught:
            export_messages(calls, tmp_path / out, **options)
        assert str(caught.value) == message
    write(calls, line())
    with pytest.raises(DataError, match="1 rows, 2 were expected"):
        export_messages(calls, tmp_path / "o.jsonl", expect_rows=2)
    calls.write_text(json.dumps(line()) + "\n{torn")
    with pytest.raises(DataError, match=r"calls\.jsonl: record 2: "):
        export_messages(calls, tmp_path / "o.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["calls.jsonl"]
