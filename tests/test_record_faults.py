"""A call that cannot be captured exactly fails its client, and what was written stays sound."""

import asyncio
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import openai
import pytest
import tito
from records import HELLO, ask, client, ids_of, lines, post, recorder
from scripted_engine import FAULTS, MODEL, ScriptedEngine, _Answer
from tito.capture.record.app import Recorder
from tito.capture.record.call import Exchange
from tito.capture.record.engine import Engine
from tito.capture.record.late import Late
from tito.capture.record.log import Log, NotWrittenError
from tito.capture.record.options import Options, Upstream
from tito.capture.record.session import Sessions

NO_IDS = (
    "the reply has no prompt ids: the engine must know `return_token_ids` (vLLM 0.10.2 or later); see "
    "`tito record --preflight`"
)
COUNTS = "usage.completion_tokens is 4, the outputs hold {} ids"
OUTCOMES = {
    "drop_chunk": ("mismatch", COUNTS.format(3)),
    "double_chunk": ("mismatch", COUNTS.format(5)),
    "close_early": ("upstream_error", "ClientPayloadError: Response payload is not completed"),
    "bad_framing": ("upstream_error", "ClientPayloadError: the body is no HTTP: the connection was closed"),
    "reset": ("upstream_error", "ServerDisconnectedError: Server disconnected"),
    "wrong_usage": ("mismatch", "usage.completion_tokens is 5, the outputs hold 4 ids"),
    "no_usage": ("mismatch", "the reply has no usage, so its ids cannot be counted"),
    "no_ids": ("missing_ids", NO_IDS),
    "no_prompt_ids": ("missing_ids", NO_IDS),
    "odd_id": ("mismatch", "token_ids["),
    "status_500": ("upstream_status", "the engine answered 500"),
    "overflow": ("context_overflow", "This model's maximum context length is"),
}
STREAM = OUTCOMES | {
    "no_done": ("upstream_error", "the stream ended without [DONE]"),
    "error_event": ("upstream_error", "the engine sent an error"),
    "not_json": ("broken_stream", "an event of the stream is not JSON: expected"),
}
WHOLE = OUTCOMES | {
    "no_done": ("broken_stream", "the reply is not JSON: a string does not end"),
    "error_event": ("upstream_error", "the engine reports a failure"),
    "not_json": ("broken_stream", "the reply is not JSON: a string does not end"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_reaches_the_client_and_gives_no_row(tmp_path, fault, stream):
    outcome, said = (STREAM if stream else WHOLE)[fault]
    with recorder(tmp_path) as (url, _, _):
        with pytest.raises(openai.APIError) as told:
            ask(url, stream=stream, scripted={"fault": fault})
        ask(url)
    error = told.value
    passed_on = fault in ("status_500", "overflow") or (fault == "error_event" and stream)
    if not passed_on:
        assert error.code == outcome
        assert said in str(error)
    if isinstance(error, openai.APIStatusError):
        assert error.response.headers["x-tito-error"] == outcome
        assert error.response.status_code == {"status_500": 500, "overflow": 400}.get(fault, 502)
    failed, good = lines(tmp_path)
    assert failed["error"]["type"] == outcome
    assert said in failed["error"]["message"]
    assert "response" not in failed
    assert ids_of(good)[1] != [[]]
    report = tito.convert(tmp_path, tmp_path / "rows.parquet")
    reason = {"context_overflow": "context_overflow", "missing_ids": "no_capture"}.get(outcome, "infra_error")
    assert (report.rows, report.skipped) == (1, {reason: 1})


def test_a_finish_reason_is_never_seen_of_a_call_that_failed(tmp_path):
    script = {"scripted": {"fault": "wrong_usage"}}
    seen = []
    with recorder(tmp_path) as (url, _, _), client(url) as made:
        stream = made.chat.completions.create(model=MODEL, messages=HELLO, stream=True, extra_body=script)
        with pytest.raises(openai.APIError, match="the outputs hold 4 ids"):
            seen.extend(chunk.choices[0] for chunk in stream)
    assert seen
    assert all(choice.finish_reason is None for choice in seen)


@pytest.mark.parametrize("fault", ["slow_bytes", None])
def test_slow_bytes_break_nothing(tmp_path, fault):
    with recorder(tmp_path) as (url, _, _):
        ask(url, stream=True, scripted={"fault": fault or ""})
    [line] = lines(tmp_path)
    assert "error" not in line


@pytest.mark.parametrize("stream", [False, True])
def test_missing_ids_may_pass_or_be_marked(tmp_path, stream):
    with recorder(tmp_path / "pass", on_missing="pass") as (url, _, _):
        reply = ask(url, stream=stream, scripted={"fault": "no_ids"})
        assert reply[-1].choices[0].finish_reason == "stop" if stream else reply.choices[0].message.content
        ask(url)
    assert len(lines(tmp_path / "pass")) == 1
    with recorder(tmp_path / "mark", on_missing="mark") as (url, _, _):
        ask(url, stream=stream, scripted={"fault": "no_ids"})
        ask(url)
        with pytest.raises(openai.APIError):
            ask(url, stream=stream, scripted={"fault": "close_early"})
    marked, _, failed = lines(tmp_path / "mark")
    assert marked["text_only"] is True
    assert marked["response"]["choices"][0]["message"]["content"] == " w1155 w1168 w1181"
    assert failed["error"]["type"] == "upstream_error"
    report = tito.convert(tmp_path / "mark", tmp_path / "rows.parquet")
    assert (report.rows, report.skipped) == (1, {"infra_error": 1, "text_only": 1})


@pytest.mark.parametrize("stream", [False, True])
def test_teachers_without_ids_are_recorded_as_text(tmp_path, stream):
    engine = ScriptedEngine(ids=False)
    with recorder(tmp_path, engine, text_only=True) as (url, _, _):
        ask(url, stream=stream)
        assert "return_token_ids" not in engine.requests[-1]
    [line] = lines(tmp_path)
    assert (line["text_only"], line["response"]["usage"]["completion_tokens"]) == (True, 4)
    with pytest.raises(tito.DataError, match=r"no row is left of 1 calls \(skipped: text_only 1\)"):
        tito.convert(tmp_path, tmp_path / "rows.parquet")


def test_an_engine_that_vanishes_is_told_of(tmp_path):
    with recorder(tmp_path) as (url, engine, _):
        ask(url)
        engine.server.get_loop().call_soon_threadsafe(engine.close)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as told:
                ask(url)
            assert told.value.code == "upstream_error"
    assert [line.get("error", {}).get("type") for line in lines(tmp_path)] == [None, "upstream_error", "upstream_error"]


def test_an_engine_that_falls_silent_is_given_up(tmp_path):
    with recorder(tmp_path, idle_seconds=0.3) as (url, _, _), pytest.raises(openai.APIError, match="Timeout"):
        ask(url, stream=True, scripted={"fault": "stall"})
    [line] = lines(tmp_path)
    assert line["error"]["type"] == "upstream_error"
    assert "token_ids" in line["partial"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_recorded_as_gone(tmp_path, stream):
    with recorder(tmp_path, ScriptedEngine(delay=0.2, tokens=10)) as (url, _, _):
        with client(url, timeout=0.5) as made:
            if stream:
                reply = made.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
                next(iter(reply))
                reply.close()
            else:
                with pytest.raises(openai.APITimeoutError):
                    made.chat.completions.create(model=MODEL, messages=HELLO)
        wait_for(lambda: b"client_closed" in b"".join(p.read_bytes() for p in tmp_path.glob("calls-*.jsonl")))
    [line] = lines(tmp_path)
    assert line["error"]["type"] == "client_closed"
    assert ("token_ids" in line.get("partial", "")) is stream
    with pytest.raises(tito.DataError, match=r"no row is left of 1 calls \(skipped: infra_error 1\)"):
        tito.check(tmp_path)


def test_a_call_that_the_recorder_s_end_breaks_off_is_not_the_client_s(tmp_path):
    with ThreadPoolExecutor() as pool, recorder(tmp_path) as (url, _, _):
        stalled = pool.submit(lambda: ask(url, stream=True, scripted={"fault": "stall"}))
        wait_for(lambda: health(url)["open"] == 1)
    assert stalled.exception(timeout=30) is not None
    [line] = lines(tmp_path)
    assert (line["error"]["type"], line["error"]["message"]) == ("stopped", "the recorder was stopped")
    assert "token_ids" in line["partial"]


def wait_for(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def health(url):
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/healthz") as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def outcomes(url):
    """Calls that ended, by how."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as reply:
        text = reply.read().decode()
    found = re.findall(r'calls_total\{route="\w+",outcome="(\w+)"\} (\d+)', text)
    return {outcome: int(count) for outcome, count in found}


@pytest.fixture
def slow_disk(monkeypatch):
    """Records are settled when it is told to go on, and failed if it is told what the system says."""
    disk = SimpleNamespace(ready=threading.Event(), says=None)
    settle = Log._settle

    def held(log):
        if not disk.ready.is_set():
            return
        core = log._core
        if disk.says is not None:
            upto, _ = core.settled()
            log._core = SimpleNamespace(fd=core.fd, settled=lambda: (upto, [(1, upto, disk.says)]))
        try:
            settle(log)
        finally:
            log._core = core

    monkeypatch.setattr(Log, "_settle", held)
    yield disk
    disk.ready.set()


def leave(url, **more):
    """Asks, and goes away while the record is on its way to the disk."""
    with client(url, timeout=0.5) as made, pytest.raises(openai.APITimeoutError):
        made.chat.completions.create(model=MODEL, messages=HELLO, **more)
    wait_for(lambda: health(url)["open"] == 0)
    assert outcomes(url) == {}


@pytest.mark.parametrize(
    ("fault", "outcome", "options"),
    [
        (None, "recorded", {}),
        (None, "text_only", {"text_only": True}),
        ("status_500", "upstream_status", {}),
        ("overflow", "context_overflow", {}),
    ],
)
@pytest.mark.parametrize("says", [None, "No space left on device"])
def test_a_client_that_leaves_while_its_record_is_written(tmp_path, slow_disk, fault, outcome, options, says):
    with recorder(tmp_path, ScriptedEngine(ids=not options), durability="fsync", **options) as (url, _, _):
        leave(url, **({"extra_body": {"scripted": {"fault": fault}}} if fault else {}))
        slow_disk.says = says
        slow_disk.ready.set()
        wait_for(lambda: outcomes(url))
        assert outcomes(url) == {"not_written" if says else outcome: 1}
        assert health(url)["log"] == says


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_nobody_waited_for_was_dropped(tmp_path, slow_disk, stream):
    session = {"x-tito-session": "s"}
    with recorder(tmp_path, durability="fsync") as (url, _, _):
        if stream:
            with client(url) as made:
                reply = made.chat.completions.create(model=MODEL, messages=HELLO, stream=True, extra_headers=session)
                next(iter(reply))
                time.sleep(0.3)
                reply.close()
            wait_for(lambda: health(url)["open"] == 0)
        else:
            leave(url, extra_headers=session)
        slow_disk.ready.set()
        wait_for(lambda: outcomes(url))
        ask(url, headers=session, scripted={"reply": "again"})
        then = [*HELLO, {"role": "assistant", "content": "again"}, {"role": "user", "content": "go on"}]
        ask(url, then, headers=session)
        assert outcomes(url) == {"recorded": 3}
        with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as metrics:
            assert "tito_record_output_ids_total 12\n" in metrics.read().decode()
    unseen = lines(tmp_path)[0]["response"]["id"]
    assert [(mark["call_id"], mark["mark"]) for mark in lines(tmp_path, "mark")] == [(unseen, "dropped")]


@pytest.fixture
def lost(monkeypatch):
    """Kinds of records of which the next one is not written."""
    kinds, append = [], Log.append

    def failing(log, line, *more, **how):
        if (kind := json.loads(line)["type"]) not in kinds:
            return append(log, line, *more, **how)
        kinds.remove(kind)
        future = log._loop.create_future()
        future.set_exception(NotWrittenError("No space left on device"))
        return future

    monkeypatch.setattr(Log, "append", failing)
    return kinds


def test_a_mark_that_could_not_be_written_is_told_again(tmp_path, lost):
    session = {"x-tito-session": "s"}
    with recorder(tmp_path) as (url, _, _):
        unseen = ask(url, headers=session)
        lost.append("mark")
        for text in ("go on", "go on!"):
            ask(url, [*HELLO, {"role": "user", "content": text}], headers=session)
        with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as metrics:
            assert 'tito_record_marks_total{mark="dropped"} 1.0\n' in metrics.read().decode()
    assert not lost
    assert [(mark["call_id"], mark["mark"]) for mark in lines(tmp_path, "mark")] == [(unseen.id, "dropped")]


def test_a_summary_whose_mark_could_not_be_written_is_told_again(tmp_path, lost):
    session, summary = {"x-tito-session": "s"}, "What was done so far: the bug is in the parser, at line 7."
    with recorder(tmp_path) as (url, _, _):
        last = ask(url, headers=session, scripted={"reply": summary})
        then = [{"role": "user", "content": f"{summary} Go on."}]
        lost += ["mark", "call"]
        with pytest.raises(openai.InternalServerError, match="No space left on device"):
            ask(url, then, headers=session)
        ask(url, then, headers=session)
    assert [(mark["call_id"], mark["kind"]) for mark in lines(tmp_path, "mark")] == [(last.id, "summariser")]


def test_a_begin_that_could_not_be_written_is_told_again(tmp_path, lost):
    with recorder(tmp_path) as (url, _, _):
        at = f"{url.removesuffix('/v1')}/s/r"
        lost.append("begin")
        with pytest.raises(urllib.error.HTTPError) as told:
            post(f"{at}/begin", {"agent": "a"})
        assert (told.value.code, b"No space left" in told.value.read()) == (503, True)
        assert post(f"{at}/begin", {"agent": "a"}) == {"session": "r", "attempt": 1}
        # The first call of another agent begins its rollout.
        lost.append("begin")
        for _ in range(2):
            ask(f"{at}/v1", headers={"x-tito-agent": "b"})
        assert post(f"{at}/end")["calls"] == 2
    assert [line["agent"] for line in lines(tmp_path, "begin")] == ["a", "b"]


def refused(url, body=None):
    with pytest.raises(urllib.error.HTTPError) as told:
        post(url, body)
    assert (told.value.code, "has begun already: end it first" in told.value.read().decode()) == (409, True)


def test_a_begin_whose_answer_nobody_got_is_answered_again(tmp_path, slow_disk):
    with recorder(tmp_path, durability="fsync") as (url, _, _):
        at = f"{url.removesuffix('/v1')}/s/r"
        place = urllib.parse.urlsplit(at)
        with socket.create_connection((place.hostname, place.port)) as made:
            made.sendall(f"POST {place.path}/begin HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
            time.sleep(0.3)
            # Whose client still waits is nobody else's to begin, in the same words or in others.
            refused(f"{at}/begin")
        time.sleep(0.2)
        slow_disk.ready.set()
        refused(f"{at}/begin", {"agent": "another"})
        assert post(f"{at}/begin") == {"session": "r", "attempt": 1}
        refused(f"{at}/begin")
        ask(f"{at}/v1")
        assert post(f"{at}/end")["calls"] == 1
    assert len(lines(tmp_path, "begin")) == 1


def test_a_begin_tells_its_own_attempt_though_its_session_ended_before_the_answer(tmp_path, slow_disk):
    with recorder(tmp_path, durability="fsync") as (url, _, _), ThreadPoolExecutor() as pool:
        at = f"{url.removesuffix('/v1')}/s/r"
        begun = pool.submit(post, f"{at}/begin")
        time.sleep(0.3)
        ended = pool.submit(post, f"{at}/end")
        time.sleep(0.3)
        slow_disk.ready.set()
        assert (begun.result(), ended.result()["calls"]) == ({"session": "r", "attempt": 1}, 0)
    assert [(line["type"], line["attempt"]) for kind in ("begin", "end") for line in lines(tmp_path, kind)] == [
        ("begin", 1),
        ("end", 1),
    ]


@pytest.mark.parametrize("says", [None, "No space left on device"])
def test_an_end_whose_client_leaves_is_written_once_or_taken_back(tmp_path, slow_disk, says):
    told = {"reward": 1}
    with recorder(tmp_path, durability="fsync") as (url, _, _), ThreadPoolExecutor() as pool:
        at = f"{url.removesuffix('/v1')}/s/r"
        slow_disk.ready.set()
        post(f"{at}/begin")
        ask(f"{at}/v1")
        slow_disk.ready.clear()
        place, body = urllib.parse.urlsplit(at), json.dumps(told)
        with socket.create_connection((place.hostname, place.port)) as made:
            head = f"POST {place.path}/end HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            made.sendall((head + body).encode())
            time.sleep(0.3)
        again = None if says else pool.submit(post, f"{at}/end", told)
        time.sleep(0.3)
        slow_disk.says = says
        slow_disk.ready.set()
        wait_for(lambda: health(url)["log"] == says)
        slow_disk.says = None
        if again is None:
            # Its rollout goes on, when the log is tried again.
            time.sleep(1.1)
            ask(f"{at}/v1")
            again = pool.submit(post, f"{at}/end", told)
        assert again.result()["calls"] == (2 if says else 1)
    assert {line["attempt"] for line in lines(tmp_path)} == {1}
    assert says or len(lines(tmp_path, "end")) == 1


def test_of_several_ends_only_those_that_failed_are_told_again(tmp_path, lost):
    with recorder(tmp_path) as (url, _, _):
        at = f"{url.removesuffix('/v1')}/s/r"
        for agent in "ab":
            ask(f"{at}/v1", headers={"x-tito-agent": agent})
        lost.append("end")
        with pytest.raises(urllib.error.HTTPError) as told:
            post(f"{at}/end", {"reward": 1})
        assert (told.value.code, b"No space left" in told.value.read()) == (503, True)
        assert post(f"{at}/end", {"reward": 1})["calls"] == 1
    assert [line["agent"] for line in lines(tmp_path, "end")] == ["b", "a"]


def test_a_begin_that_fails_late_takes_no_later_one_back(tmp_path, monkeypatch):
    held, append = [], Log.append

    def slow(log, line, *more, **how):
        if held or json.loads(line)["type"] != "begin":
            return append(log, line, *more, **how)
        held.append(log._loop.create_future())
        return held[0]

    monkeypatch.setattr(Log, "append", slow)
    with recorder(tmp_path) as (url, _, _), ThreadPoolExecutor() as pool:
        at = f"{url.removesuffix('/v1')}/s/r"
        first = pool.submit(post, f"{at}/begin", {"task_id": "first"})
        wait_for(lambda: held)
        post(f"{at}/end")
        assert post(f"{at}/begin", {"task_id": "second"}) == {"session": "r", "attempt": 2}
        held[0].get_loop().call_soon_threadsafe(held[0].set_exception, NotWrittenError("No space left on device"))
        with pytest.raises(urllib.error.HTTPError, match="503") as told:
            first.result()
        told.value.close()
        ask(f"{at}/v1")
        post(f"{at}/end")
    told = [(line["task_id"], line["attempt"]) for line in lines(tmp_path)]
    assert told == [("second", 2)]


@pytest.mark.parametrize(("failed", "broken"), [([(1, 3, "full")], None), ([(1, 3, "x"), (5, 5, "full")], "full")])
def test_the_last_record_says_whether_the_log_can_be_written(tmp_path, failed, broken):
    async def run():
        log = Log(tmp_path, 1 << 30, fsync=True, opening={})
        core, log._core = log._core, SimpleNamespace(settled=lambda: (5, failed))
        futures = [log._loop.create_future() for _ in range(5)]
        log._waiting = dict(enumerate(futures, 1))
        log._look()
        log._core = core
        log.close()
        bad = {number for first, last, _ in failed for number in range(first, last + 1)}
        assert [future.exception() is not None for future in futures] == [n in bad for n in range(1, 6)]
        return log.broken

    assert asyncio.run(run()) == broken


def test_what_is_on_its_way_when_the_recorder_stops_is_counted(tmp_path, slow_disk):
    async def run():
        engine = ScriptedEngine()
        made = Recorder(Options(upstream=Upstream.parse(await engine.start()), out=tmp_path, durability="fsync"))
        url = await made.start()
        await asyncio.to_thread(leave, url)
        # The disk is done when the log is closed, and no sooner, however long that takes.
        core = made.log._core
        closed = SimpleNamespace(fd=core.fd, settled=core.settled, close=lambda: (core.close(), slow_disk.ready.set()))
        made.log._core = closed
        await made.stop()
        engine.close()
        return dict(made.stats.by_outcome())

    assert asyncio.run(run()) == {"recorded": 1}


@pytest.mark.parametrize(
    ("sent", "then"),
    [
        (b"Content-Length: 100\r\n\r\n{", b""),
        (b"Content-Length: 100\r\n\r\n", b""),
        (b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n", b"text"),
    ],
)
def test_an_upload_that_breaks_off_is_counted(tmp_path, sent, then):
    with recorder(tmp_path) as (url, engine, _):
        place = urllib.parse.urlsplit(url)
        with socket.create_connection((place.hostname, place.port), timeout=10) as made:
            made.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + sent)
            wait_for(lambda: health(url)["open"] == 1)
            if then:
                made.sendall(then)
                assert made.recv(65536).startswith(b"HTTP/1.1 400")
        wait_for(lambda: outcomes(url))
        assert (outcomes(url), health(url)["open"]) == ({"client_closed": 1}, 0)
        assert engine.requests == []


def test_a_client_that_leaves_before_its_turn_is_counted(tmp_path):
    with recorder(tmp_path, ScriptedEngine(delay=0.3), open_calls=1) as (url, engine, _):
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, url)
            wait_for(lambda: engine.requests)
            with client(url, timeout=0.3) as made, pytest.raises(openai.APITimeoutError):
                made.chat.completions.create(model=MODEL, messages=HELLO)
            first.result()
        wait_for(lambda: health(url)["open"] == 0)
        assert outcomes(url) == {"client_closed": 1, "recorded": 1}
        assert len(engine.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_the_recorder_is_an_outcome_too(tmp_path, monkeypatch, stream):
    with recorder(tmp_path) as (url, _, _):
        with monkeypatch.context() as patched:
            patched.setattr(Exchange, "_judge", lambda *_: 1 / 0)
            with pytest.raises(openai.APIError):
                ask(url, stream=stream)
        with monkeypatch.context() as patched:
            patched.setattr("tito.capture.record.app.read_tags", lambda *_, **__: 1 / 0)
            with pytest.raises(openai.InternalServerError):
                ask(url, stream=stream)
        ask(url, stream=stream)
        assert outcomes(url) == {"internal_error": 2, "recorded": 1}
    failed, _ = lines(tmp_path)
    told = {"type": "internal_error", "message": "ZeroDivisionError: division by zero", "status": 500}
    assert failed["error"] == told
    assert tito.check(tmp_path).skipped == {"infra_error": 1}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/chat/completions", b"{", "position 1: the request is not JSON"),
        ("/chat/completions", b"[]", "the request is not JSON: a request is a JSON object"),
        ("/chat/completions", b'{"n":1,"n":2}', "a key stands twice in one object"),
        ("/responses", b"{}{}", "the request is not JSON: Extra data"),
        ("/messages", b"3", "a request is a JSON object"),
    ],
)
def test_what_is_no_request_is_refused(tmp_path, path, body, said):
    with recorder(tmp_path) as (url, engine, _):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(urllib.request.Request(url + path, body))
        error = json.loads(told.value.read())["error"]
        assert (told.value.code, error["code"]) == (400, "refused")
        assert said in error["message"]
        assert engine.requests == []
    assert lines(tmp_path) == []


@pytest.mark.parametrize("options", [{"text_only": True}, {"on_missing": "mark"}, {"on_missing": "pass"}, {}])
@pytest.mark.parametrize(
    "body",
    [b'{"object":"error","message":"boom","code":500}', b'{"choices":[],"usage":{}}', b'{"error":{"message":"boom"}}'],
)
def test_a_200_that_is_an_error_is_no_text(tmp_path, monkeypatch, options, body):
    monkeypatch.setattr(_Answer, "whole", lambda _: body)
    with recorder(tmp_path, **options) as (url, _, _):
        with pytest.raises(openai.InternalServerError, match="the engine reports a failure") as told:
            ask(url)
        assert (told.value.code, outcomes(url)) == ("upstream_error", {"upstream_error": 1})
    [line] = lines(tmp_path)
    assert "response" not in line
    assert "text_only" not in line


@pytest.mark.parametrize("options", [{"text_only": True}, {}])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"created": 1', b'"created": {"x": nul}'),
        (b'"model": "', b'"model": "a\nb'),
        (b'"model": "', b'"model": "caf\xe9'),
    ],
)
def test_a_reply_that_is_no_json_is_not_logged(tmp_path, monkeypatch, old, new, options):
    whole = _Answer.whole
    monkeypatch.setattr(_Answer, "whole", lambda answer: whole(answer).replace(old, new, 1))
    with recorder(tmp_path, **options) as (url, _, _):
        with pytest.raises(openai.InternalServerError) as told:
            ask(url)
        assert told.value.code == "broken_stream"
    [line] = lines(tmp_path)
    assert "response" not in line


def test_a_request_that_is_no_text_is_refused(tmp_path):
    body = b'{"model":"m","messages":[{"role":"user","content":"caf\xe9"}]}'
    with recorder(tmp_path) as (url, engine, _):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(urllib.request.Request(url + "/chat/completions", body))
        assert "the request is not JSON: invalid UTF-8" in told.value.read().decode()
        assert (told.value.code, engine.requests) == (400, [])
    assert lines(tmp_path) == []


def test_a_status_that_ends_no_call_is_no_reply(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        with pytest.raises(openai.InternalServerError, match="the engine answered 101, which is no reply"):
            ask(url, scripted={"said": "", "status": 101})
        ask(url)
    assert [line.get("error", {}).get("type") for line in lines(tmp_path)] == ["upstream_error", None]


def test_an_engine_that_comes_up_later_is_looked_at_then(tmp_path, monkeypatch):
    monkeypatch.setattr("tito.capture.record.app._LOOK_SECONDS", 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    engine = ScriptedEngine(owner="sglang", ids=False)
    with tito.recording(
        f"http://127.0.0.1:{port}", tmp_path, durability="flush", on_missing="pass", segment_bytes=900
    ) as url:
        with pytest.raises(openai.InternalServerError):
            ask(url)
        with engine.serving(port):
            for _ in range(2):
                ask(url, stream=True)
        assert health(url)["engine"] == "sglang"
        for _ in range(3):
            with pytest.raises(openai.InternalServerError):
                ask(url)
    assert all(sent["return_input_ids_in_sglext"] is True for sent in engine.requests)
    first, *later = lines(tmp_path, "identity")
    assert "models" not in first
    assert first["engine"] == "other"
    assert len(later) > 1
    assert all((line["engine"], bool(line["models"])) == ("sglang", True) for line in later)


def test_an_engine_is_looked_for_once_a_second(tmp_path, monkeypatch):
    looks = []

    async def look(*_):
        looks.append(1)
        await asyncio.sleep(0.05)
        return Engine("other")

    # The first call looks however soon it comes, those beside it wait, and then there is no look for a while.
    monkeypatch.setattr("tito.capture.record.app.find_engine", look)
    with recorder(tmp_path) as (url, _, _), ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr("tito.capture.record.app._LOOK_SECONDS", 3600)
        assert len(looks) == 1
        list(pool.map(lambda _: ask(url), range(4)))
        assert len(looks) == 2


def test_a_call_that_could_not_be_placed_fails_and_the_next_one_does_not(tmp_path, monkeypatch):
    place = Sessions.place

    def failing(sessions, tags, *more):
        if tags.session == "bad":
            raise ZeroDivisionError
        return place(sessions, tags, *more)

    monkeypatch.setattr(Sessions, "place", failing)
    with recorder(tmp_path) as (url, _, _):
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError):
                list(ask(url, headers={"x-tito-session": "bad"}, stream=stream))
            ask(url, headers={"x-tito-session": "good"})
        assert outcomes(url) == {"internal_error": 2, "recorded": 2}
    assert [call["session_id"] for call in lines(tmp_path, "call")] == ["good", "good"]


def test_what_is_left_for_later_is_done_in_order_and_whatever_fails():
    done, told = [], []

    async def run():
        late = Late()
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(type(what["exception"])))
        late.leave(lambda: done.append(1))
        late.leave(lambda: 1 / 0)
        late.leave(lambda: done.append(2))
        assert (late.next(), done) == (True, [1])
        late.catch_up()
        assert (late.next(), done, told) == (False, [1, 2], [ZeroDivisionError])
        late.leave(lambda: done.append(3))
        assert done == [1, 2]
        await asyncio.sleep(0.1)

    asyncio.run(run())
    assert done == [1, 2, 3]
