"""Whose a call is, of what kind, and what became of its reply."""

import contextlib
import http.client
import itertools
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import tito
from records import TOOL, TOOLS, ask, lines, post, recorder, root
from scripted_engine import MODEL

SYSTEM = {"role": "system", "content": "You are an agent."}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_a_session_is_named_by_header_path_or_key(tmp_path):
    with recorder(tmp_path) as (url, engine, _):
        ask(url, headers={"x-tito-session": "by header"})
        ask(f"{root(url)}/s/by%2Fpath/v1")
        ask(f"{root(url)}/s/path/v1", headers={"x-tito-session": "header wins"})
        with openai.OpenAI(base_url=url, api_key="tito:by key:real-key") as made:
            made.chat.completions.create(model=MODEL, messages=[user("x")])
        assert engine.headers[-1]["authorization"] == "Bearer real-key"
        with openai.OpenAI(base_url=url, api_key="tito:bare") as made:
            made.chat.completions.create(model=MODEL, messages=[user("x")])
        assert "authorization" not in engine.headers[-1]
    found = [(line["session_id"], "session_guessed" in line) for line in lines(tmp_path)]
    assert found == [(name, False) for name in ("by header", "by/path", "header wins", "by key", "bare")]


def test_keys_can_group_calls_and_stay_secret(tmp_path):
    with recorder(tmp_path, by_key=True) as (url, _, _):
        for key in ("one", "two", "one"):
            with openai.OpenAI(base_url=url, api_key=key) as made:
                made.chat.completions.create(model=MODEL, messages=[user("x")])
    names = [line["session_id"] for line in lines(tmp_path)]
    assert names[0] == names[2] != names[1]
    assert all(name.startswith("key-") and "one" not in name for name in names)


def test_tags_come_from_headers(tmp_path):
    tags = {"task": "t", "pair": "p", "agent": "a", "attempt": "3", "kind": "helper", "session": "s"}
    with recorder(tmp_path) as (url, _, _):
        ask(url, headers={f"x-tito-{name}": value for name, value in tags.items()})
        with pytest.raises(openai.BadRequestError, match="x-tito-attempt: 'x' is no whole number"):
            ask(url, headers={"x-tito-attempt": "x"})
        with pytest.raises(openai.BadRequestError, match="x-tito-kind: 'Solver' is none of solver, summariser, helper"):
            ask(url, headers={"x-tito-kind": "Solver"})
    [line] = lines(tmp_path)
    assert [line[key] for key in ("session_id", "task_id", "pair_id", "agent", "attempt", "kind")] == [
        *("s", "t", "p", "a", 3, "helper")
    ]
    assert "kind_guessed" not in line


def test_prompts_tell_rollouts_apart(tmp_path):
    """Two rollouts of one task, interleaved: the same first prompt, then what each was answered."""
    first = [SYSTEM, user("do it")]
    with recorder(tmp_path) as (url, _, _):
        one, two = (ask(url, first, scripted={"reply": reply}) for reply in ("left", "right"))
        more = {reply: [*first, assistant(f" {reply}\n"), user("go on")] for reply in ("right", "left")}
        for reply in ("right", "left", "right"):
            ask(url, more[reply])
        other = ask(url, [SYSTEM, user("something else")])
    calls = lines(tmp_path)
    names = {line["response"]["id"]: line["session_id"] for line in calls}
    assert names[one.id] != names[two.id]
    assert [line["session_id"] for line in calls[2:5]] == [names[two.id], names[one.id], names[two.id]]
    assert names[other.id] not in (names[one.id], names[two.id])
    assert all(line["session_guessed"] for line in calls)


def test_kinds_are_guessed_and_marked_as_guessed(tmp_path):
    summary = "The agents agreed to split the files; the cache is done and the tests are still red."
    first = [SYSTEM, user("do it")]
    asked_for_summary = [*first, assistant("step one"), user("Summarise what happened.")]
    compacted = [SYSTEM, user("do it"), user(f"So far: {summary}")]
    headers = {"x-tito-session": "s"}
    with recorder(tmp_path) as (url, _, _):
        for messages, reply in [
            (first, "step one"),
            (asked_for_summary, summary),
            (compacted, "step two"),
            ([user("Name this conversation")], "a name"),
            ([*compacted, assistant("step two"), user("and now?")], "done"),
        ]:
            ask(url, messages, headers=headers, scripted={"reply": reply, "tokens": 5})
    calls = lines(tmp_path)
    assert [line["kind"] for line in calls] == ["solver", "solver", "solver", "helper", "solver"]
    assert all(line["kind_guessed"] for line in calls)
    [mark] = lines(tmp_path, "mark")
    assert (mark["mark"], mark["kind"], mark["call_id"]) == ("kind", "summariser", calls[1]["response"]["id"])
    report = tito.convert(tmp_path, tmp_path / "rows.parquet")
    assert report.skipped == {"kind": 1}
    rows = [(row.turn, row.kind) for row in tito.open_rows(tmp_path / "rows.parquet")]
    assert sorted(rows, key=str) == [(0, "solver"), (1, "solver"), (2, "solver"), (None, "summariser")]


def test_a_reply_that_the_next_prompt_leaves_out(tmp_path):
    first = [SYSTEM, user("do it")]
    told = [*first, user("That was no tool call.")]
    then = [*told, {"role": "assistant", "content": None, "tool_calls": [{"id": "t-chatcmpl-0-2", "function": TOOL}]}]
    then.append({"role": "tool", "tool_call_id": "t-chatcmpl-0-2", "content": "a"})
    with recorder(tmp_path) as (url, _, _):
        session = f"{root(url)}/s/s/v1"
        ask(session, first, tools=TOOLS, scripted={"reply": "prose"})
        ask(session, told, tools=TOOLS, scripted={"tool": TOOL, "tokens": 6})
        ask(session, then, tools=TOOLS, scripted={"tool": TOOL, "tokens": 7})
        # Sampled three times, the second kept; then told to think again, without tools.
        third = [*then, user("choose")]
        for reply in ("x1", "x2", "x3"):
            ask(session, third, scripted={"reply": reply})
        ask(session, [*third, assistant("x2"), user("more")])
        ask(session, [*third, assistant("x2"), user("more"), user("no, more")])
    calls = lines(tmp_path)
    marks = [(mark["call_id"], mark["mark"]) for mark in lines(tmp_path, "mark")]
    ids = [line["response"]["id"] for line in calls]
    dropped = [(ids[n], "dropped") for n in (3, 5, 6)]
    assert marks == [(ids[0], "parse_error"), (ids[2], "dropped"), *dropped]
    report = tito.convert(tmp_path, tmp_path / "rows.parquet")
    assert report.skipped == {"dropped": 4, "parse_error": 1}
    rows = {row.call_id: row.turn for row in tito.open_rows(tmp_path / "rows.parquet")}
    # A reply that was dropped carries the number of the next kept one, so the kept ones count without a gap.
    assert rows == {ids[1]: 0, ids[4]: 1, ids[7]: 2}


def test_a_reply_that_comes_back_later_was_kept(tmp_path):
    first = [SYSTEM, user("do it")]
    with recorder(tmp_path) as (url, _, _):
        session = f"{root(url)}/s/s/v1"
        ask(session, first, scripted={"reply": "yes"})
        ask(session, [*first, user("(a question aside)")], scripted={"reply": "aside"})
        ask(session, [*first, assistant("yes"), user("go on")])
    assert [mark["mark"] for mark in lines(tmp_path, "mark")] == ["dropped", "kept"]
    assert tito.check(tmp_path).skipped == {}


def test_rollouts_are_opened_and_closed(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        at = f"{root(url)}/s"
        assert post(f"{at}/good/begin", {"task_id": "t1", "agent": "a"}) == {"session": "good", "attempt": 1}
        used = ask(f"{at}/good/v1", [user("1")])
        ask(f"{at}/good/v1", [user("2")])
        answer = post(f"{at}/good/end", {"status": "LimitsExceeded", "reward": 0.5, "consumed": [used.id, "nobody"]})
        assert answer == {"session": "good", "calls": 2, "unknown": ["nobody"]}
        post(f"{at}/left/begin")
        ask(f"{at}/left/v1", [user("3")])
        post(f"{at}/given up/end".replace(" ", "%20"), {"status": "abandoned"})
        ask(f"{at}/given%20up/v1", [user("4")])
        post(f"{at}/given%20up/end", {"status": "abandoned"})
        plain = ask(f"{at}/plain/v1", [user("5")])
        # Two agents share a session: its end is the end of both.
        post(f"{at}/pair/begin", {"task_id": "t2"})
        both = [ask(f"{at}/pair/v1", [user("6")], headers={"x-tito-agent": agent}) for agent in ("a", "b")]
        post(f"{at}/pair/end", {"status": "ok", "reward": 1})
    report = tito.convert(tmp_path, tmp_path / "rows.parquet")
    assert report.skipped == {"abandoned": 2, "unconsumed": 1}
    rows = {row.call_id: row for row in tito.open_rows(tmp_path / "rows.parquet")}
    assert set(rows) == {used.id, plain.id, both[0].id, both[1].id}
    row = rows[used.id]
    assert (row.rollout_id, row.task_id, row.agent, row.status, row.reward) == ("good", "t1", "a", "limits", 0.5)
    assert (rows[plain.id].status, rows[plain.id].reward) == (None, None)
    assert {(rows[reply.id].status, rows[reply.id].reward, rows[reply.id].task_id) for reply in both} == {
        ("ok", 1.0, "t2")
    }


def test_an_attempt_is_opened_once(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        at = f"{root(url)}/s/r"
        post(f"{at}/begin", {"attempt": 0})
        first = ask(f"{at}/v1", [user("1")])
        for body in ({"attempt": 1}, None):
            with pytest.raises(urllib.error.HTTPError) as told:
                post(f"{at}/begin", body)
            assert "session 'r' has begun already: end it first" in told.value.read().decode()
        post(f"{at}/end", {"reward": 0.0})
        with pytest.raises(urllib.error.HTTPError) as told:
            post(f"{at}/begin", {"attempt": 0})
        assert "attempt 0 of session 'r' has ended already" in told.value.read().decode()
        post(f"{at}/begin", {"attempt": 1})
        second = ask(f"{at}/v1", [user("1")])
        post(f"{at}/end", {"reward": 1.0})
    tito.convert(tmp_path, tmp_path / "rows.parquet")
    rows = {row.call_id: (row.attempt, row.turn, row.reward) for row in tito.open_rows(tmp_path / "rows.parquet")}
    assert rows == {first.id: (0, 0, 0.0), second.id: (1, 0, 1.0)}


@pytest.mark.parametrize("how", ["begin", "header", "late"])
def test_an_attempt_says_nothing_of_the_one_before(tmp_path, how):
    """The same first prompt: what the second attempt goes on with leaves the first one's reply as it was."""
    first = [SYSTEM, user("do it")]
    with recorder(tmp_path) as (url, engine, _):
        at = f"{root(url)}/s/r"
        headers = [{"x-tito-attempt": str(n)} if how == "header" else None for n in range(2)]
        if how != "header":
            post(f"{at}/begin", {"attempt": 0})
        if how == "late":
            # The first attempt is ended while its reply is on its way.
            engine.delay = 0.3
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(ask, f"{at}/v1", first, scripted={"reply": "one"})
                while not engine.requests:
                    time.sleep(0.01)
                post(f"{at}/end", {"reward": 1.0})
                waiting.result()
            engine.delay = 0.0
        else:
            ask(f"{at}/v1", first, headers=headers[0], scripted={"reply": "one"})
            post(f"{at}/end", {"reward": 1.0})
        if how != "header":
            post(f"{at}/begin", {"attempt": 1})
        ask(f"{at}/v1", first, headers=headers[1], scripted={"reply": "two"})
        ask(f"{at}/v1", [*first, assistant("two"), user("go on")], headers=headers[1])
        ask(f"{at}/v1", [*first, user("go on otherwise")], headers=headers[1])
        post(f"{at}/end", {"reward": 0.0})
    assert lines(tmp_path, "mark") == []
    assert [(line["attempt"], line["kind"]) for line in lines(tmp_path)] == [(n, "solver") for n in (0, 1, 1, 1)]
    assert tito.check(tmp_path).skipped == {}


def test_what_comes_behind_the_end_tells_nothing_of_it(tmp_path):
    first = [SYSTEM, user("do it")]
    with recorder(tmp_path) as (url, _, _):
        session = f"{root(url)}/s/s"
        ask(f"{session}/v1", first, scripted={"reply": "one"})
        post(f"{session}/end")
        ask(f"{session}/v1", [*first, user("no")])
    assert lines(tmp_path, "mark") == []


def test_agents_of_one_session_say_nothing_of_each_other(tmp_path):
    first = [SYSTEM, user("do it")]
    summary = "The agents agreed to split the files; the cache is done and the tests are still red."
    tags = {agent: {"x-tito-session": "s", "x-tito-agent": agent} for agent in "abc"}
    with recorder(tmp_path) as (url, _, _):
        ask(url, first, headers=tags["a"], scripted={"reply": summary})
        ask(url, first, headers=tags["b"], scripted={"reply": "two"})
        ask(url, [*first, assistant("two"), user(f"a told you: {summary}")], headers=tags["b"])
        # An agent may have a system prompt of its own.
        ask(url, [{"role": "system", "content": "You review."}, user("do it")], headers=tags["c"])
        dropped = ask(url, [*first, assistant("two"), user("more")], headers=tags["b"])
        ask(url, [*first, assistant("two"), user("more"), user("no, more")], headers=tags["b"])
    [mark] = lines(tmp_path, "mark")
    assert (mark["mark"], mark["call_id"], mark["agent"]) == ("dropped", dropped.id, "b")
    assert {line["kind"] for line in lines(tmp_path)} == {"solver"}


@pytest.mark.parametrize(
    ("what", "body", "said"),
    [
        ("begin", {"task": "t"}, "begin: 'task' is none of task_id, pair_id, agent, attempt"),
        ("begin", {"attempt": "1"}, "begin: attempt must be a whole number"),
        ("begin", {"agent": 1}, "begin: agent must be a text"),
        ("begin", {"attempt": -1}, "begin: attempt must be from 0 to 999,999,999"),
        ("begin", {"task_id": "\ud800"}, "begin: task_id: 1 to 256 characters, none of them a control character"),
        ("end", {"reward": True}, "end: reward must be a number"),
        ("end", {"reward": float("nan")}, "end: reward must be a number"),
        ("end", {"reward": float("-inf")}, "end: reward must be a number"),
        ("end", {"reward": 10**400}, "end: reward must be a number"),
        ("end", {"consumed": ["a", 1]}, "end: consumed must be a list of ids of replies"),
        ("end", {"score": 1}, "end: 'score' is none of status, reward, consumed"),
        ("end", [1], "the body is a JSON object, or nothing"),
    ],
)
def test_what_is_told_of_a_rollout_must_be_understood(tmp_path, what, body, said):
    with recorder(tmp_path) as (url, _, _), pytest.raises(urllib.error.HTTPError) as told:
        post(f"{root(url)}/s/r/{what}", body)
    assert (told.value.code, json.loads(told.value.read())["error"]["message"]) == (400, f"tito record: {said}")


@pytest.mark.parametrize("what", ["begin", "end"])
def test_the_session_of_a_begin_and_of_an_end_is_a_name(tmp_path, what):
    with recorder(tmp_path) as (url, _, _), pytest.raises(urllib.error.HTTPError) as told:
        post(f"{root(url)}/s/a%00b/{what}")
    said = "the session in the path: 1 to 256 characters, none of them a control character"
    assert (told.value.code, said in told.value.read().decode()) == (400, True)


def test_names_that_are_not_ascii_stay_apart(tmp_path):
    body = json.dumps({"model": MODEL, "messages": [user("x")]}).encode()
    with (
        recorder(tmp_path) as (url, _, _),
        contextlib.closing(http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)) as made,
    ):

        def call(path, **headers):
            sent = {f"x-tito-{name}": value for name, value in headers.items()}
            made.request("POST", path, body, {"Content-Type": "application/json", **sent})
            reply = made.getresponse()
            assert (reply.status, bool(reply.read())) == (200, True)

        for name in (b"caf\xe9", b"caf\xe8", "café".encode(), "猫".encode()):
            call("/v1/chat/completions", session=name)
        for name in ("a%fe", "a%ff", "%E7%8C%AB"):
            call(f"/s/{name}/v1/chat/completions")
    names = [line["session_id"] for line in lines(tmp_path)]
    assert names == ["café", "cafè", "café", "猫", "aþ", "aÿ", "猫"]


CALL = {
    "tito_log": 1,
    "type": "call",
    "session_id": "r",
    "started": 1.0,
    "response": {
        "id": "c1",
        "object": "chat.completion",
        "prompt_token_ids": [1, 2],
        "choices": [{"index": 0, "finish_reason": "stop", "token_ids": [3, 4]}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 2},
    },
}


def test_told_lines_stand_anywhere_and_need_no_order(tmp_path):
    told = [
        {"tito_log": 1, "type": "identity", "engine": "vllm"},
        {"tito_log": 1, "type": "begin", "session_id": "r", "task_id": "t"},
        {**CALL, "task_id": "t"},
        {"tito_log": 1, "type": "end", "session_id": "r", "task_id": "t", "status": "ok", "reward": 1.5},
    ]
    for number, order in enumerate(itertools.permutations(told)):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in order))
        report = tito.convert(path, tmp_path / f"{number}.parquet")
        assert (report.calls_seen, report.rows) == (1, 1)
        [row] = tito.open_rows(tmp_path / f"{number}.parquet")
        assert (row.rollout_id, row.task_id, row.status, row.reward) == ("r", "t", "ok", 1.5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({**CALL, "tito_log": 2}, "version 2 of the call log; version 1 is read"),
        ({**CALL, "type": "song"}, 'no type of line that a call log has: "song"'),
    ],
)
def test_lines_of_another_kind_are_bad_data(tmp_path, line, said):
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps(CALL) + "\n")
    with pytest.raises(tito.DataError) as told:
        tito.convert(path, tmp_path / "rows.parquet")
    assert said in str(told.value)
