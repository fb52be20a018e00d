"""Where rollouts end, and how much of them is remembered."""

import asyncio
import contextlib
import json
import random
import urllib.error

import pytest
import tito
from records import ask, lines, post, recorder, root
from tito._core import Request
from tito.capture.record import replies, session
from tito.capture.record.app import Recorder
from tito.capture.record.errors import CallError
from tito.capture.record.log import NotWrittenError
from tito.capture.record.options import Options, Upstream
from tito.capture.record.tags import Tags

SYSTEM = {"role": "system", "content": "You are an agent."}


def user(text):
    return {"role": "user", "content": text}


def test_an_end_is_of_the_rollouts_since_the_last_one(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        at = f"{root(url)}/s/r"
        rewards = {}
        for attempt, calls in enumerate((1, 2, 3)):
            for n in range(calls):
                reply = ask(f"{at}/v1", [user(str(n))], headers={"x-tito-attempt": str(attempt)})
                rewards[reply.id] = attempt / 2
            for _ in range(2):
                # The second time nothing has happened since: a client that missed the answer.
                answer = post(f"{at}/end", {"status": "ok", "reward": attempt / 2})
                assert answer == {"session": "r", "calls": calls, "unknown": None}
        # What is learnt later is told of those that ended last.
        assert post(f"{at}/end", {"reward": 7})["calls"] == 3
        rewards |= {call: 7.0 for call, reward in rewards.items() if reward == 1.0}
    ends = [(line["attempt"], line["reward"]) for line in lines(tmp_path, "end")]
    assert ends == [(0, 0.0), (1, 0.5), (2, 1.0), (2, 7)]
    tito.convert(tmp_path, tmp_path / "rows.parquet")
    assert {row.call_id: row.reward for row in tito.open_rows(tmp_path / "rows.parquet")} == rewards


def test_what_was_consumed_and_never_replied_is_told_where_that_is_known(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        at = f"{root(url)}/s/r"
        post(f"{at}/begin")
        assert post(f"{at}/end", {"consumed": ["odd"]})["unknown"] == ["odd"]
        post(f"{at}/begin")
        begun = ask(f"{at}/v1").id
        assert post(f"{at}/end", {"consumed": [begun, "odd"]})["unknown"] == ["odd"]
        assert post(f"{at}/end", {"consumed": [begun]})["unknown"] == []
        behind = ask(f"{at}/v1").id
        assert post(f"{at}/end", {"consumed": [behind, "odd"]})["unknown"] is None


def test_no_attempt_is_begun_a_second_time(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        at = f"{root(url)}/s/r"
        for attempt in (0, 1):
            post(f"{at}/begin", {"attempt": attempt})
            ask(f"{at}/v1", [user("1")])
            assert post(f"{at}/end")["calls"] == 1
        with pytest.raises(urllib.error.HTTPError) as told:
            post(f"{at}/begin", {"attempt": 0})
        said = "attempt 0 of session 'r' has ended already: name another attempt, or none"
        assert (told.value.code, said in told.value.read().decode()) == (409, True)


def test_rollouts_that_follow_each_other_are_told_apart(tmp_path):
    """Nobody names an attempt: each end has its own reward, and its own list of what was used."""
    with recorder(tmp_path) as (url, _, _):
        at = f"{root(url)}/s/r"
        expected = {}
        for reward in (0.0, 1.0, 0.5):
            used, _ = (ask(f"{at}/v1", [user(f"task {reward}"), user(str(n))]) for n in range(2))
            post(f"{at}/end", {"reward": reward, "consumed": [used.id]})
            expected[used.id] = (len(expected) + 1, reward)
        # What comes behind the last end was never ended.
        late = ask(f"{at}/v1", [user("late")])
        expected[late.id] = (4, None)
    assert [line["attempt"] for line in lines(tmp_path)] == [1, 1, 2, 2, 3, 3, 4]
    report = tito.convert(tmp_path, tmp_path / "rows.parquet")
    assert report.skipped == {"unconsumed": 3}
    rows = tito.open_rows(tmp_path / "rows.parquet")
    assert {row.call_id: (row.attempt, row.reward) for row in rows} == expected


def test_calls_before_a_begin_are_not_drawn_into_it(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        at = f"{root(url)}/s/r"
        before = ask(f"{at}/v1", [user("before")], headers={"x-tito-agent": "a"})
        with pytest.raises(urllib.error.HTTPError) as told:
            post(f"{at}/begin", {"attempt": 1})
        said = "attempt 1 of session 'r' has calls already: name another attempt, or none"
        assert (told.value.code, said in told.value.read().decode()) == (409, True)
        assert post(f"{at}/begin") == {"session": "r", "attempt": 2}
        begun = ask(f"{at}/v1", [user("begun")])
        named = ask(f"{at}/v1", [user("named")], headers={"x-tito-attempt": "7"})
        assert post(f"{at}/end", {"reward": 1.0})["calls"] == 2
        # Another agent's attempt of the same number is another rollout.
        assert post(f"{at}/begin", {"agent": "b", "attempt": 1})["attempt"] == 1
        other = ask(f"{at}/v1", [user("other")])
        post(f"{at}/end", {"reward": 0.0})
        assert post(f"{at}/begin")["attempt"] == 8
        left = ask(f"{at}/v1", [user("left")])
    report = tito.convert(tmp_path, tmp_path / "rows.parquet")
    assert report.skipped == {"abandoned": 1}
    rows = {row.call_id: row for row in tito.open_rows(tmp_path / "rows.parquet")}
    assert {call: (row.agent, row.attempt, row.reward) for call, row in rows.items()} == {
        before.id: ("a", 1, None),
        begun.id: (None, 2, 1.0),
        named.id: (None, 7, 1.0),
        other.id: ("b", 1, 0.0),
    }
    assert left.id not in rows


def test_a_begin_that_could_not_be_written_takes_no_attempt(tmp_path):
    sessions = session.Sessions(lambda *_: None)
    for _ in range(2):
        begun = sessions.begin("r", Tags(task="t"))
        assert begun.defaults == Tags(session="r", task="t", attempt=1)
        begun.withdraw()
        assert begun.defaults == Tags(attempt=1)
    placed = sessions.place(Tags(session="r"), Request(b'{"messages":[]}'), b"{}")
    assert placed.tags.attempt == 1


def test_an_end_that_could_not_be_written_can_be_told_again(tmp_path):
    async def run():
        sessions = recorder.sessions
        recorder.log = log
        request = Request(json.dumps({"messages": [user("1")]}).encode())
        sessions.place(Tags(session="r", attempt=1), request, b"")
        log.full = True
        with pytest.raises(NotWrittenError):
            await recorder.rollouts.end("r", {"reward": 1})
        sessions.place(Tags(session="r", attempt=1), request, b"")
        log.full = False
        assert (await recorder.rollouts.end("r", {"reward": 1}))["calls"] == 2
        assert (await recorder.rollouts.end("r", {"reward": 1}))["calls"] == 2

    class Written:
        full, ends = False, []

        def append(self, line):
            future = asyncio.get_running_loop().create_future()
            if self.full:
                future.set_exception(NotWrittenError("full"))
            else:
                self.ends.append(json.loads(line)["attempt"])
                future.set_result(None)
            return future

    log = Written()
    recorder = Recorder(Options(upstream=Upstream.parse("http://127.0.0.1:1"), out=tmp_path))
    asyncio.run(run())
    assert log.ends == [1]


def test_interleaved_rollouts_do_not_make_each_other_forgotten(tmp_path):
    first = [SYSTEM, user("do it")]
    tags = {agent: {"x-tito-session": "s", "x-tito-agent": agent} for agent in "ab"}
    with recorder(tmp_path) as (url, _, _):
        dropped = ask(url, first, headers=tags["a"], scripted={"reply": "one"})
        for n in range(70):
            ask(url, [SYSTEM, user(str(n))], headers=tags["b"])
        ask(url, [*first, user("no")], headers=tags["a"])
    assert [(mark["mark"], mark["call_id"]) for mark in lines(tmp_path, "mark")] == [("dropped", dropped.id)]


def test_what_is_remembered_has_bounds(monkeypatch):
    """Counted as it is kept, whatever is begun, ended and forgotten in between."""
    for room, name, bound in (
        (session, "_SESSIONS", 9),
        (session, "_PROMPTS_OF_ALL", 60),
        (replies, "_PROMPTS", 4),
        (replies, "_PROMPTS_OF_SESSION", 15),
    ):
        monkeypatch.setattr(room, name, bound)
    draw = random.Random(5)
    sessions = session.Sessions(lambda *_: None)
    on_their_way = []
    most = 0
    for n in range(3000):
        name = f"s{draw.randrange(12)}"
        what = draw.random()
        if what < 0.03:
            sessions.end(name)
        elif what < 0.06:
            with contextlib.suppress(CallError):
                sessions.begin(name, Tags(attempt=n))
        elif what < 0.6 or not on_their_way:
            body = json.dumps({"messages": [user(str(draw.randrange(100)))]}).encode()
            tags = Tags(session=name, agent=str(draw.randrange(6)))
            on_their_way.append(sessions.place(tags, Request(body), body))
        else:
            placed = on_their_way.pop(draw.randrange(len(on_their_way)))
            sessions.replied(placed, replies.Replied(str(n), placed.tags, (n,), "solver", True, False, False, "x" * 50))
        indexes = [kept.index for kept in sessions._all.values()]
        for index in indexes:
            assert index.size == sum(1 + len(known.replies) for known in index.rollouts.values()) <= 15 + 4
            found = [found for known in index.rollouts.values() for found in known.replies.values()]
            assert sum(bool(reply.text) for given in found for reply in given) <= len(index.rollouts)
        assert sessions._prompts == sum(index.size for index in indexes) <= 60
        assert len(sessions) <= 9
        most = max(most, sessions._prompts)
    assert most > 54


def test_a_system_prompt_that_tells_the_time_changes_no_kind(tmp_path):
    said = []
    with recorder(tmp_path) as (url, _, _):
        at = f"{root(url)}/s/r/v1"
        for n in range(4):
            clock = {"role": "system", "content": f"You are an agent. It is {n} o'clock."}
            reply = ask(at, [clock, user("do it"), *said], scripted={"reply": f"step {n}"})
            said += [{"role": "assistant", "content": reply.choices[0].message.content}, user(f"seen {n}")]
        # One that holds nothing of the rollout is somebody else's.
        ask(at, [{"role": "system", "content": "You name things."}, user("do it")])
    assert [line["kind"] for line in lines(tmp_path)] == ["solver"] * 4 + ["helper"]
    assert tito.convert(tmp_path, tmp_path / "rows.parquet").rows == 4
