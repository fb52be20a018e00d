"""What passes through a recorder, and what it writes: the engine's own reply, less the ids; its ids, all of them."""

import asyncio
import contextlib
import json
import time
import urllib.request

import openai
import pytest
import tito
import zstandard
from made_tokenizers import save_qwen, template
from records import HELLO, TOOL, TOOLS, ask, client, ids_of, lines, recorder
from scripted_engine import MODEL, ScriptedEngine, output_ids, prompt_ids
from tito.capture.record import connection


def post(url, path, body, headers=None):
    """(status, headers, body) as bytes on the wire."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), sent)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


SHAPES = {
    "plain": {"messages": HELLO},
    "tools": {"messages": HELLO, "tools": TOOLS, "scripted": {"tool": TOOL, "tokens": 6}},
    "think": {"messages": HELLO, "scripted": {"think": 'so "be" it\n', "tokens": 7}},
    "two": {"messages": HELLO, "n": 2},
    "long": {"messages": [{"role": "user", "content": "x" * 50_000}], "scripted": {"tokens": 300}},
    "text": {"prompt": "once upon"},
    "text two": {"prompt": "once upon", "n": 2},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_reply_is_the_engines_and_the_log_has_its_ids(tmp_path, shape, stream):
    asked = {"model": MODEL, **SHAPES[shape]}
    path = "/completions" if "prompt" in asked else "/chat/completions"
    if stream:
        asked["stream"] = True
    with recorder(tmp_path / "log") as (url, engine, upstream):
        _, _, direct = post(upstream, path, asked)
        status, headers, through = post(url, path, asked)
        sent = engine.requests[-1]
    assert status == 200
    # The engine numbers its replies: the second one is number 2.
    assert through == direct.replace(b"-0-1", b"-0-2")
    assert headers["x-tito-call"] == "1"
    assert sent["return_token_ids"] is True
    [line] = lines(tmp_path / "log")
    n = asked.get("n", 1)
    tokens = asked.get("scripted", {}).get("tokens", 4)
    assert ids_of(line) == (prompt_ids(asked), [output_ids(asked, choice, tokens) for choice in range(n)])
    assert {
        key: value for key, value in line["request"].items() if key not in ("return_token_ids", "stream_options")
    } == asked
    assert line["streamed"] is stream
    report = tito.convert(tmp_path / "log", tmp_path / "rows.parquet")
    assert (report.rows, report.skipped) == (n, {})
    rows = list(tito.open_rows(tmp_path / "rows.parquet"))
    assert [row.output_ids.tolist() for row in rows] == ids_of(line)[1]
    assert rows[0].input_ids.tolist() == prompt_ids(asked)
    assert {row.rollout_id for row in rows} == {line["session_id"]}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_and_a_whole_reply_give_one_message(tmp_path, stream):
    asked = {"tools": TOOLS, "scripted": {"tool": TOOL, "think": "hm", "tokens": 6}}
    with recorder(tmp_path) as (url, _, _):
        ask(url, stream=stream, **asked)
    [line] = lines(tmp_path)
    [choice] = line["response"]["choices"]
    [call] = choice["message"]["tool_calls"]
    assert (call["type"], call["function"], call["id"]) == ("function", TOOL, f"t-{line['response']['id']}")
    assert choice["finish_reason"] == "tool_calls"
    assert line["request"]["tools"] == TOOLS


def test_what_the_client_asks_for_it_gets(tmp_path):
    with recorder(tmp_path) as (url, _, upstream):
        more = {"return_token_ids": True}
        whole = {"model": MODEL, "messages": HELLO, **more}
        stream = {**whole, "stream": True, "stream_options": {"include_usage": True}}
        for number, asked in ((2, whole), (4, stream)):
            _, _, direct = post(upstream, "/chat/completions", asked)
            _, _, through = post(url, "/chat/completions", asked)
            assert b"token_ids" in through
            assert through == direct.replace(f"-0-{number - 1}".encode(), f"-0-{number}".encode())


def test_a_stream_that_is_over_leaves_its_connection_to_the_next_call(tmp_path):
    """An engine ends a body behind its last event, perhaps in a packet of its own."""
    with recorder(tmp_path) as (url, engine, _):
        ask(url)
        before = set(engine.open)
        for late in (0.01, 0.01, 0):
            assert ask(url, stream=True, scripted={"late_end": late})
            time.sleep(0.2)
        assert set(engine.open) == before


def test_an_engine_that_never_ends_a_stream_keeps_no_client_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_END_SECONDS", 60)
    with recorder(tmp_path) as (url, _, _), client(url) as one:
        begun = time.monotonic()
        for _ in range(2):
            more = {"extra_body": {"scripted": {"late_end": 60}}}
            assert list(one.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **more))
        assert time.monotonic() - begun < 30
    assert len(lines(tmp_path)) == 2


def test_closed_connections_leave_nothing_behind():
    """An end that is not awaited yet, and one that is given back when all are closed."""

    async def leave(upstream):
        connections = connection.Connections(60)
        asked = {"model": MODEL, "messages": HELLO, "stream": True, "scripted": {"late_end": 60}}
        replies = [await connections.http.post(f"{upstream}/v1/chat/completions", json=asked) for _ in range(2)]
        connections.give_back(replies[0], ends=True)
        await connections.close()
        connections.give_back(replies[1], ends=True)
        return [reply.closed for reply in replies], asyncio.all_tasks() - {asyncio.current_task()}

    with ScriptedEngine().serving() as upstream:
        assert asyncio.run(leave(upstream)) == ([True, True], set())


def test_connections_whose_end_is_awaited_are_few(tmp_path):
    with recorder(tmp_path) as (url, engine, _):
        before = len(engine.open)
        with client(url) as one:
            for _ in range(connection._ENDS + 40):
                more = {"extra_body": {"scripted": {"late_end": 60}}}
                assert list(one.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **more))
                assert len(engine.open) <= before + connection._ENDS + 2
    assert len(lines(tmp_path)) == connection._ENDS + 40


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("late_end", [0, 0.05])
def test_what_comes_behind_a_reply_is_no_reply_to_the_next_call(tmp_path, stream, late_end):
    """An engine, or what stands before it, that answers twice."""
    with recorder(tmp_path) as (url, _, _):
        script = {"late_end": late_end, "again": 0.05, "reply": "first"}
        assert ask(url, stream=True, scripted=script)
        assert ask(url, scripted=script)
        time.sleep(0.3)
        for _ in range(2):
            ask(url, stream=stream, scripted={"reply": "second"})
    ids = [line["response"]["id"] for line in lines(tmp_path)]
    said = [line["response"]["choices"][0]["message"]["content"] for line in lines(tmp_path)]
    assert (len(set(ids)), said) == (4, ["first", "first", "second", "second"])


def test_usage_comes_only_when_it_was_asked_for(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        without = ask(url, stream=True)
        with_usage = ask(url, stream=True, stream_options={"include_usage": True})
    assert all(chunk.choices and chunk.usage is None for chunk in without)
    assert with_usage[-1].usage.completion_tokens == 4
    assert not with_usage[-1].choices


ODD = (
    b'{"model":"scripted", "messages":[{"role":"user","content":"\\u00e9\\n\xc3\xa9"}],\n "seed": 12345678901234567890,'
    b'"chat_template_kwargs":{"enable_thinking":false}, "temperature":1e-1}'
)


def test_the_request_keeps_every_byte_but_the_switches(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        request = urllib.request.Request(url + "/chat/completions", ODD, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            assert reply.status == 200
    [path] = tmp_path.glob("calls-*.zst")
    with zstandard.open(path) as file:
        text = file.read()
    assert ODD.replace(b"\n", b" ")[:-1] + b', "return_token_ids": true}' in text
    [line] = lines(tmp_path)
    assert line["request"]["chat_template_kwargs"] == {"enable_thinking": False}


def test_events_go_on_as_they_come(tmp_path):
    with recorder(tmp_path, ScriptedEngine(delay=0.15, tokens=5)) as (url, _, _):
        begun = time.monotonic()
        with client(url) as made:
            reply = made.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
            times = [time.monotonic() - begun for _ in reply]
    # 5 deltas behind the first event, 0.15 s apart: had they been held up, all would have come at the end.
    assert times[0] < times[-1] / 2


def test_keys_pass_and_are_never_stored(tmp_path):
    with recorder(tmp_path) as (url, engine, _):
        ask(url, headers={"x-api-key": "other-secret", "x-tito-agent": "a"})
        assert engine.headers[-1]["authorization"] == "Bearer secret-key"
        assert engine.headers[-1]["x-api-key"] == "other-secret"
        assert not any(name.startswith("x-tito") for name in engine.headers[-1])
    assert "secret" not in json.dumps(lines(tmp_path, None))


def test_the_first_line_says_which_engine(tmp_path):
    with recorder(tmp_path):
        pass
    assert lines(tmp_path, None) == [], "a log without calls leaves no segment"
    with recorder(tmp_path) as (url, _, upstream):
        ask(url)
    [line] = lines(tmp_path, "identity")
    models = [{"id": MODEL, "root": f"/models/{MODEL}", "max_model_len": 1_000_000, "owned_by": "vllm"}]
    assert (line["engine"], line["engine_version"], line["models"]) == ("vllm", "0.32.0", models)
    assert line["upstream"] == upstream
    assert "tokenizer_hash" not in line


def test_a_tokenizer_that_is_named_is_hashed(tmp_path):
    folder = save_qwen(tmp_path / "tokenizer", "qwen3", template("qwen3"))
    with recorder(tmp_path / "log", tokenizer=folder) as (url, _, _):
        ask(url)
    [line] = lines(tmp_path / "log", "identity")
    known = tito.Profile.named("qwen3")
    assert (line["tokenizer_hash"], line["template_hash"]) == (known.tokenizer_hash, known.template_hash)


def test_sglang_is_asked_in_its_own_way(tmp_path):
    engine = ScriptedEngine(owner="sglang", ids=False)
    with recorder(tmp_path, engine, on_missing="pass") as (url, _, _):
        ask(url)
        assert engine.requests[-1]["return_token_ids"] is True
        ask(url, stream=True)
        sent = engine.requests[-1]
    assert sent["return_input_ids_in_sglext"] is sent["return_output_ids_in_sglext"] is True
    assert "return_token_ids" not in sent


def test_openai_clients_whose_url_cannot_be_moved(tmp_path):
    with recorder(tmp_path / "one") as (_, _, upstream), client(upstream) as early:
        with tito.recording(upstream, tmp_path / "two", patch_openai=True, session="s"):
            early.chat.completions.create(model=MODEL, messages=HELLO)
            with client(upstream + "/") as late:
                late.chat.completions.create(model=MODEL, messages=HELLO)
        assert str(early.base_url) == upstream + "/"
        early.chat.completions.create(model=MODEL, messages=HELLO)
    assert len(lines(tmp_path / "two")) == 2
    assert {line["session_id"] for line in lines(tmp_path / "two")} == {"s"}
    assert lines(tmp_path / "one") == []


def test_patched_blocks_stand_in_and_beside_each_other(tmp_path):
    def call(base):
        with client(base) as made:
            made.chat.completions.create(model=MODEL, messages=HELLO)

    one, two = ScriptedEngine(), ScriptedEngine()
    plain = openai.OpenAI.base_url
    with one.serving() as first, two.serving() as second, contextlib.ExitStack() as outer:
        recorded = {"patch_openai": True, "durability": "flush"}
        outer.enter_context(tito.recording(first, tmp_path / "one", **recorded))
        call(first)
        inner = contextlib.ExitStack()
        inner.enter_context(tito.recording(second, tmp_path / "two", **recorded))
        call(first)
        call(second)
        # The outer block may be left first.
        outer.pop_all().close()
        call(second)
        call(first)
        inner.close()
        call(second)
    assert openai.OpenAI.base_url is plain
    assert (len(one.requests), len(two.requests)) == (3, 3)
    assert (len(lines(tmp_path / "one")), len(lines(tmp_path / "two"))) == (2, 2)


def test_a_patched_client_may_name_this_machine_otherwise(tmp_path):
    with recorder(tmp_path, patch_openai=True) as (_, _, upstream):
        for name in ("localhost", "LOCALHOST", "[::1]"):
            with client(upstream.replace("127.0.0.1", name)) as made:
                made.chat.completions.create(model=MODEL, messages=HELLO)
    assert len(lines(tmp_path)) == 3
