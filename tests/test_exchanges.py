"""The text of the calls behind rows: of the same calls, told by the same report, whatever the captures look like."""

import json
from collections import Counter

import pytest
import tito
from hypothesis import given
from hypothesis import strategies as st
from runs import read_rows
from tito.exchanges import read_exchanges


def line(number, prompt=None, **more):
    """A line of a call log that says in its text which one it is."""
    request = {"messages": [{"role": "user", "content": f"ask {number}"}], "model": "m"}
    message = {"role": "assistant", "content": f"say {number}"}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "token_ids": [40, number, 7]}
    response = {"prompt_token_ids": prompt or [9, 10, number], "choices": [choice]}
    return {"request": request, "response": response, **more}


def write(path, *lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def said(exchange):
    messages, reply = json.loads(exchange.messages), json.loads(exchange.reply)
    return [message["content"] for message in messages], reply["content"]


def attempt(work):
    """What it gives, or what it says."""
    try:
        return work(), None
    except tito.DataError as error:
        return None, str(error)


CALLS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.sampled_from([None, [9, 10]])},
        optional={
            "session_id": st.sampled_from(["a", "b", None]),
            "agent": st.sampled_from(["x", "y"]),
            "turn": st.integers(0, 3),
            "kind": st.sampled_from(["solver", "summariser", "helper"]),
            "parse_error": st.booleans(),
            "status": st.sampled_from(["ok", "infra_error"]),
            "call_id": st.sampled_from(["1", "2", None]),
            "started": st.integers(0, 3),
        },
    ),
    min_size=1,
    max_size=12,
)


@given(CALLS, st.sampled_from(["keep-all", "keep-last", "drop"]))
def test_the_calls_are_those_of_the_rows(tmp_path_factory, calls, ambiguous):
    folder = tmp_path_factory.mktemp("exchanges")
    log = write(folder / "calls.jsonl", *(line(number, **call) for number, call in enumerate(calls)))
    policies = tito.Policies(ambiguous=ambiguous, bad="skip")
    report, refused = attempt(lambda: tito.convert(log, folder / "rows.jsonl", policies=policies))
    if refused:
        assert attempt(lambda: read_exchanges(log, policies=policies)) == (None, refused)
        return
    exchanges = read_exchanges(log, policies=policies)
    assert exchanges.report.data["counts"] == report.data["counts"]
    found = list(exchanges)
    names = ("rollout_id", "task_id", "agent", "status", "reward", "call_id", "turn")
    rows = read_rows(folder / "rows.jsonl")
    told = Counter((row["capture_record"], *(row[name] for name in names)) for row in rows)
    assert Counter((one.record, *(getattr(one, name) for name in names)) for one in found) == told
    for one in found:
        assert said(one) == ([f"ask {one.record - 1}"], f"say {one.record - 1}")
    by_rollout = {}
    for one in found:
        by_rollout.setdefault(one.rollout, []).append(one)
    for rollout in by_rollout.values():
        [last] = [one for one in rollout if one.last]
        assert last.turn == max((one.turn for one in rollout if one.turn is not None), default=None)
    assert [one.record for one in found] == sorted(one.record for one in found)


def test_each_choice_has_its_own_reply(tmp_path):
    """Also where their ids are the same: a tool call's id is drawn for each."""
    one = line(0, session_id="a")
    [choice] = one["response"]["choices"]
    texts = ["zero", "one", "two"]
    one["response"]["choices"] = [
        {**choice, "index": index, "message": {"content": text}} for index, text in enumerate(texts)
    ]
    assert [said(each)[1] for each in read_exchanges(write(tmp_path / "calls.jsonl", one))] == texts


def test_the_completions_route_has_no_messages(tmp_path):
    one = line(0)
    one["request"] = {"prompt": "ask", "model": "m"}
    [choice] = one["response"]["choices"]
    choice["text"] = "say"
    [exchange] = read_exchanges(write(tmp_path / "calls.jsonl", one))
    assert (exchange.messages, exchange.reply, exchange.turn) == (None, None, None)


def test_messages_without_the_ids_that_are_saved_in_them(tmp_path):
    """A trajectory with segments: the calls of each, in what was said before them there; no id is in any text."""

    def saved(prompt, text):
        capture = {"prompt_token_ids": prompt, "output_token_ids": [40, len(prompt), 7]}
        return {"role": "assistant", "content": text, "extra": {"token_capture": capture, "cost": 1}}

    first = [{"role": "user", "content": "ask"}, saved([9, 10], "one"), {"role": "user", "content": "go on"}]
    second = [{"role": "user", "content": "in short"}, saved([9, 10, 11], "two")]
    trajectory = {
        "messages": second,
        "segments": [{"kind": "solver", "messages": first}, {"kind": "solver", "messages": second}],
        "tools": [{"name": "bash"}],
        "agent_id": "a",
        "feature_id": 1,
    }
    (tmp_path / "traj.json").write_text(json.dumps(trajectory, indent=1))
    found = list(read_exchanges(tmp_path / "traj.json"))
    assert [said(one) for one in found] == [(["ask"], "one"), (["in short"], "two")]
    assert [json.loads(one.tools) for one in found] == [[{"name": "bash"}]] * 2
    assert not any(b"token" in one.messages + one.reply for one in found)


def test_a_long_trajectory_is_handed_out_in_parts(tmp_path):
    """Each call repeats what was said before it: the texts of one record are many times the record."""
    messages = []
    for turn in range(6):
        capture = {"prompt_token_ids": [9, 10, turn], "output_token_ids": [40, turn, 7]}
        messages.append({"role": "user", "content": f"{turn}" * (1 << 20)})
        messages.append({"role": "assistant", "content": f"say {turn}", "extra": {"token_capture": capture}})
    trajectory = {"messages": messages, "agent_id": "a", "feature_id": 1}
    found = list(read_exchanges(write(tmp_path / "traj.jsonl", trajectory)))
    assert sum(len(one.messages) for one in found) > 20 << 20
    assert [(one.turn, one.last, said(one)[1]) for one in found] == [
        (turn, turn == 5, f"say {turn}") for turn in range(6)
    ]
    assert [len(json.loads(one.messages)) for one in found] == [1, 3, 5, 7, 9, 11]


def test_what_watches_is_heard_in_both_readings(tmp_path):
    log = write(tmp_path / "calls.jsonl", line(0))
    seen = []
    assert len(list(read_exchanges(log, progress=lambda now: seen.append(now.bytes / now.total)))) == 1
    assert seen[-1] == 1

    def watch_until(calls):
        def watch(_):
            heard.append(None)
            if len(heard) == calls:
                raise RuntimeError("stop")

        heard = []
        return watch

    for calls in (1, len(seen)):
        with pytest.raises(RuntimeError, match="stop"):
            list(read_exchanges(log, progress=watch_until(calls)))
