"""Routes besides chat: translated and recorded, passed, or refused; and what a recorder tells of itself."""

import json
import socket
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
import tito
from records import HELLO, TOOL, TOOLS, ask, client, ids_of, lines, recorder
from scripted_engine import MODEL, ScriptedEngine, _Answer, output_ids

BASH = {"type": "function", "name": "bash", "parameters": {"type": "object", "properties": {}}}
LS = {"name": "bash", "arguments": '{"command": "ls"}'}
THINK = "first\nI look"
DOCUMENT = [{"role": "user", "content": [{"type": "document"}]}]


def get(url):
    with urllib.request.urlopen(url) as reply:
        return reply.status, reply.read().decode()


def claude(url):
    return anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="k", max_retries=0)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/chat/completions", "/s/r/begin"])
def test_a_body_that_is_nested_too_deep_is_refused(tmp_path, path):
    with recorder(tmp_path) as (url, _, _):
        url = url.removesuffix("/v1") + path
        for nested in (b"[" * 200_000, b'{"input": ' + b"[" * 200_000):
            with pytest.raises(urllib.error.HTTPError) as told:
                urllib.request.urlopen(urllib.request.Request(url, nested, {"Content-Type": "application/json"}))
            assert (told.value.code, told.value.read() != b"") == (400, True)


@pytest.mark.parametrize("session", ["", "s/run/"])
def test_anthropic_s_clients_take_either_base_url(tmp_path, session):
    with recorder(tmp_path) as (url, _, _):
        root = url.removesuffix("v1")
        for base in (f"{root}{session}v1", f"{root}{session}"):
            with anthropic.Anthropic(base_url=base, api_key="k", max_retries=0) as made:
                made.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hello"}])
    assert [line["route"] for line in lines(tmp_path)] == ["messages", "messages"]
    assert not session or {line["session_id"] for line in lines(tmp_path)} == {"run"}


@pytest.mark.parametrize("stream", [False, True])
def test_messages_are_spoken_as_chat(tmp_path, stream):
    tool = {"name": "bash", "description": "d", "input_schema": {"type": "object"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "list"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "I will."},
                {"type": "tool_use", "id": "t0", "name": "bash", "input": {"command": "ls"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t0", "content": [{"type": "text", "text": "a b"}]},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]
    asked = {
        "model": MODEL,
        "max_tokens": 50,
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "messages": messages,
        "tools": [tool],
        "tool_choice": {"type": "any"},
        "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "extra_headers": {"x-tito-session": "s"},
    }
    with recorder(tmp_path, script_engine(tool=TOOL, think=None, tokens=6)) as (url, engine, _), claude(url) as made:
        if stream:
            with made.messages.stream(**asked) as events:
                reply = events.get_final_message()
        else:
            reply = made.messages.create(**asked)
        sent = engine.requests[-1]
    assert sent["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "list"},
        {
            "role": "assistant",
            "content": "I will.",
            "tool_calls": [
                {"id": "t0", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
            ],
            "reasoning": "hm",
            "reasoning_content": "hm",
        },
        {"role": "tool", "tool_call_id": "t0", "content": "a b"},
        {"role": "user", "content": "and now?"},
    ]
    function = {"name": "bash", "description": "d", "parameters": {"type": "object"}}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert (sent["tool_choice"], sent["stop"], sent["max_tokens"]) == ("required", ["END"], 50)
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}
    [block] = reply.content
    assert (block.type, block.name, block.input) == ("tool_use", "bash", json.loads(TOOL["arguments"]))
    assert (reply.stop_reason, reply.usage.output_tokens) == ("tool_use", 6)
    [line] = lines(tmp_path)
    assert (line["route"], line["session_id"], line["response"]["id"]) == ("messages", "s", reply.id)
    assert ids_of(line)[1] == [output_ids(sent, 0, 6)]
    assert tito.check(tmp_path).rows == 1


def script_engine(**script):
    """An engine that follows one script, for clients that cannot send one along."""
    return ScriptedEngine(script={name: value for name, value in script.items() if value is not None})


def message(made, stream):
    """A reply of the Messages route."""
    asked = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "q"}]}
    if not stream:
        return made.messages.create(**asked)
    with made.messages.stream(**asked) as events:
        return events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_and_text_come_as_blocks_and_as_items(tmp_path, stream):
    with recorder(tmp_path, script_engine(reply="the answer", think=THINK, tokens=5)) as (url, _, _):
        with claude(url) as made:
            reply = message(made, stream)
        assert [(b.type, getattr(b, b.type)) for b in reply.content] == [("thinking", THINK), ("text", "the answer")]
        assert reply.stop_reason == "end_turn"
        with client(url) as made:
            response = responded(made, stream, input="q")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].text == THINK
    assert response.output_text == "the answer"
    assert (response.status, response.usage.output_tokens) == ("completed", 5)
    assert [line["route"] for line in lines(tmp_path)] == ["messages", "responses"]
    assert [len(ids_of(line)[1][0]) for line in lines(tmp_path)] == [5, 5]


def responded(made, stream, **asked):
    if not stream:
        return made.responses.create(model=MODEL, **asked)
    with made.responses.stream(model=MODEL, **asked) as events:
        return events.get_final_response()


@pytest.mark.parametrize("stream", [False, True])
def test_responses_are_spoken_as_chat(tmp_path, stream):
    said = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "list"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I will."}]},
        {"type": "function_call", "call_id": "t0", "name": "bash", "arguments": "{}"},
        {"type": "function_call", "call_id": "t1", "name": "bash", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "t0", "output": "a b"},
        {"type": "function_call_output", "call_id": "t1", "output": "c"},
    ]
    with recorder(tmp_path, script_engine(tool=TOOL, tokens=6)) as (url, engine, _), client(url) as made:
        response = responded(
            made,
            stream,
            instructions="act",
            input=said,
            tools=[BASH],
            tool_choice="required",
            max_output_tokens=9,
            store=False,
        )
        sent = engine.requests[-1]
    function = {"name": "bash", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in ("t0", "t1")]
    assert sent["messages"] == [
        {"role": "system", "content": "act"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "list"},
        {"role": "assistant", "content": "I will.", "reasoning": "hm", "reasoning_content": "hm", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "t0", "content": "a b"},
        {"role": "tool", "tool_call_id": "t1", "content": "c"},
    ]
    assert sent["tools"][0]["function"]["name"] == "bash"
    assert (sent["tool_choice"], sent["max_tokens"]) == ("required", 9)
    [item] = response.output
    assert (item.type, item.name, item.arguments) == ("function_call", "bash", TOOL["arguments"])
    [line] = lines(tmp_path)
    assert line["response"]["id"] == response.id
    assert ids_of(line)[1] == [output_ids(sent, 0, 6)]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/responses", {"input": "x", "previous_response_id": "r"}, "'previous_response_id'"),
        ("/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "the tool 'web_search'"),
        ("/responses", {"input": [{"type": "item_reference"}]}, "an item of type 'item_reference'"),
        ("/responses", {"input": "x", "background": True}, "a request in the background"),
        ("/messages", {"messages": [], "container": "c"}, "'container'"),
        (
            "/messages",
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            "a block of type 'document'",
        ),
        (
            "/messages",
            {"messages": [], "tools": [{"type": "bash_20250124", "name": "bash"}]},
            "the tool 'bash_20250124'",
        ),
    ],
)
def test_what_chat_cannot_say_is_refused(tmp_path, path, body, said):
    with recorder(tmp_path) as (url, engine, _):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(body).encode()))
        message = json.loads(told.value.read())["error"]["message"]
        assert engine.requests == []
    assert told.value.code == 400
    assert said in message
    assert "cannot be translated to chat completions, the only route on which engines return ids" in message


@pytest.mark.parametrize("stream", [False, True])
def test_failures_reach_translated_clients(tmp_path, stream):
    with recorder(tmp_path, script_engine(fault="wrong_usage")) as (url, _, _):
        with client(url) as made, pytest.raises(openai.APIError, match="the outputs hold 4 ids"):
            list(made.responses.create(model=MODEL, input="x", stream=stream))
        asked = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "q"}], "stream": stream}
        with claude(url) as made, pytest.raises(anthropic.APIError, match="the outputs hold 4 ids"):
            list(made.messages.create(**asked))
    assert [line["error"]["type"] for line in lines(tmp_path)] == ["mismatch", "mismatch"]


@pytest.mark.parametrize(
    "path", ["/v1/generate", "/generate", "/inference/v1/generate", "/v1/audio/speech", "/v1/batches"]
)
def test_what_would_sample_unrecorded_is_refused(tmp_path, path):
    with recorder(tmp_path) as (url, engine, _):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(urllib.request.Request(url.removesuffix("/v1") + path, b"{}"))
        assert told.value.code == 501
        message = f"tito record: POST {path} is not recorded, and what is not recorded is not passed on"
        assert json.loads(told.value.read())["error"]["message"] == message
        assert engine.requests == []


def test_what_samples_nothing_passes(tmp_path):
    with recorder(tmp_path) as (url, _, upstream):
        assert get(f"{url}/models?x=1") == get(f"{upstream}/models")
        root = url.removesuffix("/v1")
        assert get(f"{root}/s/name/v1/models")[0] == 200
        with urllib.request.urlopen(urllib.request.Request(f"{root}/tokenize", b"{}")) as reply:
            assert json.loads(reply.read())["tokens"] == [1]


def test_health_and_metrics(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        ask(url, tools=TOOLS)
        ask(url, stream=True)
        with pytest.raises(openai.APIError):
            ask(url, scripted={"fault": "no_ids"})
        root = url.removesuffix("/v1")
        status, health = get(f"{root}/healthz")
        _, metrics = get(f"{root}/metrics")
    told = json.loads(health)
    assert (status, told["status"], told["calls"], told["failures"], told["open"]) == (200, "ok", 3, 1, 0)
    for line in (
        'tito_record_calls_total{route="chat",outcome="recorded"} 2.0',
        'tito_record_calls_total{route="chat",outcome="missing_ids"} 1.0',
        "tito_record_open_calls 0",
        "tito_record_output_ids_total 8",
        "tito_record_log_broken 0",
    ):
        assert line in metrics.splitlines()


def test_a_recorder_serves_this_machine_alone(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        assert url.startswith("http://127.0.0.1:")


def test_requests_beyond_the_limit_are_refused(tmp_path):
    with recorder(tmp_path, request_bytes=1000) as (url, engine, _):
        ask(url)
        with pytest.raises(openai.APIStatusError) as told:
            ask(url, [{"role": "user", "content": "x" * 2000}])
        assert told.value.status_code == 413
        assert len(engine.requests) == 1


def test_calls_beyond_the_most_that_may_be_open_wait(tmp_path):
    with recorder(tmp_path, ScriptedEngine(delay=0.02), open_calls=2) as (url, engine, _):
        most = []
        threads = [threading.Thread(target=lambda: (ask(url), most.append(1))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(engine.requests) == len(most) == 8
    assert len(lines(tmp_path)) == 8


@pytest.mark.parametrize(
    ("path", "asked", "said"),
    [
        ("/responses", {"input": 5}, "input: a list of objects"),
        ("/responses", {"input": ["a"]}, "input: a list of objects"),
        ("/responses", {"input": "a", "text": 5}, "the request is not of the shape of this route"),
        ("/messages", {"messages": ["a"]}, "messages: a list of objects"),
        ("/messages", {"messages": "a"}, "messages: a list of objects"),
        ("/messages", {"messages": [{"role": "user", "content": ["a"]}]}, "messages: content: a list of objects"),
        ("/messages", {"messages": [], "tool_choice": 3}, "the request is not of the shape of this route"),
    ],
)
def test_a_request_of_another_shape_is_refused(tmp_path, path, asked, said):
    with recorder(tmp_path) as (url, engine, _):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(urllib.request.Request(url + path, json.dumps({"model": MODEL, **asked}).encode()))
        answer = json.loads(told.value.read())
        assert (told.value.code, answer["error"]["code"]) == (400, "refused")
        assert (answer.get("type") == "error") is (path == "/messages")
        assert said in answer["error"]["message"]
        assert engine.requests == []


def test_a_query_goes_on_as_it_came(tmp_path):
    query = "?a=%23x&b=%2526&c=%0d%0aX-Evil:%201&d=+"
    with recorder(tmp_path) as (url, engine, _):
        urllib.request.urlopen(f"{url}/models{query}", timeout=10).read()
        asked = json.dumps({"model": MODEL, "messages": HELLO}).encode()
        sent = urllib.request.Request(f"{url}/chat/completions{query}", asked, {"Content-Type": "application/json"})
        urllib.request.urlopen(sent, timeout=10).read()
    assert engine.targets[-2:] == [f"/v1/models{query}", f"/v1/chat/completions{query}"]


def test_a_bad_tag_is_refused_on_every_route(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        for path, body in (("models", None), ("embeddings", b"{}")):
            request = urllib.request.Request(f"{url}/{path}", body, {"x-tito-kind": "bogus"})
            with pytest.raises(urllib.error.HTTPError) as told:
                urllib.request.urlopen(request, timeout=10)
            assert told.value.code == 400
            assert "x-tito-kind" in json.loads(told.value.read())["error"]["message"]


def test_who_asks_whether_to_go_on_is_told(tmp_path):
    with recorder(tmp_path) as (url, _, _):
        place = urlsplit(url)
        body = json.dumps({"model": MODEL, "messages": HELLO}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((place.hostname, place.port), timeout=10) as made:
            made.sendall(f"{head}Expect: 100-continue\r\nConnection: close\r\n\r\n".encode())
            assert made.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            made.sendall(body)
            came = b"".join(iter(lambda: made.recv(65536), b""))
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(came.partition(b"\r\n\r\n")[2])["choices"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/responses", "/messages"])
def test_a_reply_that_cannot_be_told_is_no_record(tmp_path, monkeypatch, path, stream):
    said = {"role": "assistant", "content": None, "tool_calls": ["odd"]}
    monkeypatch.setattr(_Answer, "_message", lambda *_: said)
    monkeypatch.setattr(_Answer, "_deltas", lambda _, ids: [({"delta": said}, ids)])
    asked = {"model": MODEL, "stream": stream} | ({"input": "a"} if path == "/responses" else {})
    with recorder(tmp_path) as (url, _, _):
        made = urllib.request.Request(url + path, json.dumps(asked).encode())
        if stream:
            with urllib.request.urlopen(made) as reply:
                told = reply.read().decode()
        else:
            with pytest.raises(urllib.error.HTTPError) as failed:
                urllib.request.urlopen(made)
            told = failed.value.read().decode()
            assert failed.value.code == 502
    assert "the reply cannot be told in the words of" in told
    [line] = lines(tmp_path)
    assert line["error"]["type"] == "broken_stream"
    assert "response" not in line


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("finish", "reason"), [("stop", "tool_use"), ("length", "max_tokens")])
def test_a_tool_that_is_called_is_why_a_message_stops(tmp_path, stream, finish, reason):
    engine = script_engine(tool=TOOL, tokens=6, finish=finish)
    with recorder(tmp_path, engine) as (url, _, _), claude(url) as made:
        reply = message(made, stream)
    assert reply.stop_reason == reason
