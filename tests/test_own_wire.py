"""The routes of our own server over a scripted engine: what goes in, what comes out, and every refusal."""

import asyncio
import json
from types import SimpleNamespace

import made_tokenizers
import pytest
from aiohttp.test_utils import TestClient, TestServer
from tito.errors import DataError
from tito.profile.source import read_source
from tito.profile.template import ChatTemplate
from tito.serve.own.app import Face, make_app
from tito.serve.own.engine import Sample

TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}]
HELLO = [{"role": "user", "content": "hello"}]


class Scripted:
    """An engine whose outputs are written down."""

    def __init__(self, ids=(), finish="stop", context=200):
        self.ids, self.finish, self.context, self.vocab_size = list(ids), finish, context, 151_936
        self.adapters, self.seen = {}, []

    def sample(self, model, prompt, sampling):
        self.seen.append((model, list(prompt), sampling))
        ids = tuple(self.ids[: sampling.max_tokens])
        return Sample(ids, tuple(-0.5 for _ in ids), self.finish)

    def load(self, name, folder):
        if "wide" in str(folder):
            raise DataError("LoRA rank 64 is greater than max_lora_rank 16.")
        self.adapters[name] = SimpleNamespace(folder=folder)

    def unload(self, name):
        del self.adapters[name]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = made_tokenizers.save_qwen(tmp_path_factory.mktemp("m"), "qwen3", made_tokenizers.template("qwen3"))
    return read_source(folder)


@pytest.fixture
def ask(source):
    """`ask(engine, path, body)`: the status and the reply."""

    def go(engine, path, body=None, *, tool_parser="hermes", reasoning_parser="qwen3"):
        face = Face(
            engine=engine,
            model="base",
            root="/base",
            source=source,
            template=ChatTemplate(source.chat_template, source.special),
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
            stops=frozenset(source.stop_ids),
        )

        async def once():
            async with TestClient(TestServer(make_app(face))) as client:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                async with client.request(
                    "GET" if body is None else "POST", path, data=None if body is None else data
                ) as reply:
                    text = await reply.text()
                    return reply.status, json.loads(text) if text.startswith("{") else text

        return asyncio.run(once())

    return go


def encode(source, text):
    return source.tokenizer.encode(text, add_special_tokens=False).ids


def test_ids_in_and_ids_out(ask):
    engine = Scripted([5, 6, 151645])
    status, said = ask(
        engine, "/v1/completions", {"model": "base", "prompt": [1, 2, 3], "return_token_ids": True, "echo": True}
    )
    assert status == 200
    [choice] = said["choices"]
    assert (choice["prompt_token_ids"], choice["token_ids"], choice["finish_reason"]) == (
        [1, 2, 3],
        [5, 6, 151645],
        "stop",
    )
    assert said["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert (engine.seen[0][0], engine.seen[0][1], engine.seen[0][2].max_tokens) == (None, [1, 2, 3], 16)
    _, said = ask(
        engine, "/v1/completions", {"model": "base", "prompt": [[1], [2, 3]], "n": 2, "return_token_ids": True}
    )
    assert [c["prompt_token_ids"] for c in said["choices"]] == [[1], [1], [2, 3], [2, 3]]
    assert [c["index"] for c in said["choices"]] == [0, 1, 2, 3]
    assert said["usage"]["completion_tokens"] == 12
    _, said = ask(engine, "/v1/completions", {"model": "base", "prompt": [1]})
    assert (said["choices"][0]["token_ids"], said["choices"][0]["prompt_token_ids"]) == (None, None)


def test_what_the_parsers_make_of_a_reply(ask, source):
    text = (
        '<think>\nhm\n</think>\n\nI look.\n<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
    )
    ids = [*encode(source, text), 151645]
    body = {"model": "base", "messages": HELLO, "tools": TOOLS, "return_token_ids": True, "logprobs": True}
    status, said = ask(Scripted(ids), "/v1/chat/completions", body)
    assert status == 200
    [choice] = said["choices"]
    message = choice["message"]
    assert choice["token_ids"] == ids
    assert (message["reasoning"], message["content"]) == ("\nhm\n", "\n\nI look.\n")
    assert [c["function"] for c in message["tool_calls"]] == [{"name": "bash", "arguments": '{"command": "ls"}'}]
    assert choice["finish_reason"] == "tool_calls"
    assert len(choice["logprobs"]["content"]) == len(ids)
    rendered = ChatTemplate(source.chat_template, source.special).render(HELLO, generate=True, tools=TOOLS)
    assert said["prompt_token_ids"] == encode(source, rendered)
    # Another parser than the form wants: plain content, no call, no error.
    [choice] = ask(Scripted(ids), "/v1/chat/completions", body, tool_parser="qwen3_coder")[1]["choices"]
    assert choice["message"]["tool_calls"] == []
    assert "<tool_call>" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_thinking_that_is_never_closed_is_the_whole_reply(ask, source):
    ids = encode(source, "<think>\nhm, and on")
    [choice] = ask(Scripted(ids, "length"), "/v1/chat/completions", {"model": "base", "messages": HELLO})[1]["choices"]
    assert (choice["message"]["content"], choice["message"]["reasoning"]) == (None, "\nhm, and on")
    assert choice["finish_reason"] == "length"


def test_a_prompt_that_does_not_fit(ask):
    status, said = ask(
        Scripted(context=10), "/v1/completions", {"model": "base", "prompt": list(range(10)), "max_tokens": 1}
    )
    assert status == 400
    assert said["error"] == {
        "message": "This model's maximum context length is 10 tokens. However, your prompt contains 10 input tokens, "
        "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
        "(parameter=input_tokens, value=10)",
        "type": "BadRequestError",
        "param": "input_tokens",
        "code": 400,
        "reason": "context_overflow",
    }
    engine = Scripted([5] * 9, "length", context=10)
    _, said = ask(
        engine, "/v1/completions", {"model": "base", "prompt": [1] * 8, "max_tokens": 9, "return_token_ids": True}
    )
    assert said["choices"][0]["token_ids"] == [5, 5]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": [1], "model": "other"}, 404, "The model `other` does not exist."),
        ({"prompt": []}, 400, "a prompt is a text or a list of ids, and not empty"),
        ({"prompt": [[]]}, 400, "a prompt is a text or a list of ids, and not empty"),
        ({"prompt": [1, 151_936]}, 400, "Token id 151936 is out of vocabulary"),
        ({"prompt": [-1]}, 400, "Token id -1 is out of vocabulary"),
        ({"prompt": [1], "max_tokens": 0}, 400, "max_tokens: 0 is no number of at least 1"),
        ({"prompt": [1], "max_tokens": True}, 400, "max_tokens: True is no number of at least 1"),
        ({"prompt": [1], "temperature": -1}, 400, "temperature: -1 is no number of at least 0"),
        ({"prompt": [1], "temperature": "hot"}, 400, "temperature: 'hot' is no number of at least 0"),
        ({"prompt": [1], "stream": True}, 400, "stream is not supported by this server"),
        ({"prompt": [1], "stop": "x"}, 400, "stop strings are not supported by this server: use stop_token_ids"),
        ({"prompt": [1], "stop_token_ids": ["a"]}, 400, "stop_token_ids must be a list of ids"),
        ({"prompt": [1], "presence_penalty": 1}, 400, "presence_penalty is not supported by this server"),
        ({"prompt": [1], "guided_json": "{}"}, 400, "guided_json is not supported by this server"),
        (b"{", 400, "the request is no JSON"),
        (b"[]", 400, "a JSON object was wanted"),
    ],
)
def test_refusals(ask, body, status, said):
    body = {"model": "base", **body} if isinstance(body, dict) else body
    seen, reply = ask(Scripted([5]), "/v1/completions", body)
    assert (seen, reply["error"]["message"], reply["error"]["code"]) == (status, said, status)


def test_messages_that_make_no_prompt(ask):
    for messages in (None, [], "hello", ["hello"]):
        status, said = ask(Scripted([5]), "/v1/chat/completions", {"model": "base", "messages": messages})
        assert (status, said["error"]["message"]) == (400, "messages must be a list of messages")
    bad = [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "x", "arguments": "{"}}]}]
    status, said = ask(Scripted([5]), "/v1/chat/completions", {"model": "base", "messages": bad})
    assert status == 400
    assert said["error"]["message"].startswith("the chat template refuses these messages: ")


def test_neutral_options_pass(ask):
    body = {"model": "base", "prompt": [1], "presence_penalty": 0, "top_k": -1, "top_p": 1.0, "stop": [], "min_p": 0.0}
    assert ask(Scripted([5]), "/v1/completions", body)[0] == 200


def test_adapters_by_name(ask):
    engine = Scripted([5])
    load = {"lora_name": "student", "lora_path": "/a"}
    assert ask(engine, "/v1/load_lora_adapter", load) == (200, "Success: LoRA adapter 'student' added successfully.")
    status, said = ask(engine, "/v1/load_lora_adapter", load)
    assert (status, said["error"]["message"]) == (400, "The lora adapter 'student' has already been loaded.")
    assert ask(engine, "/v1/load_lora_adapter", {**load, "load_inplace": True})[0] == 200
    status, said = ask(engine, "/v1/load_lora_adapter", {"lora_name": "w", "lora_path": "/wide"})
    assert (status, said["error"]["message"]) == (500, "LoRA rank 64 is greater than max_lora_rank 16.")
    assert ask(engine, "/v1/load_lora_adapter", {"lora_name": "base", "lora_path": "/a"})[0] == 400
    assert ask(engine, "/v1/load_lora_adapter", {"lora_name": "x"})[0] == 400
    cards = ask(engine, "/v1/models")[1]["data"]
    assert [(c["id"], c["root"], c["parent"]) for c in cards] == [("base", "/base", None), ("student", "/a", "base")]
    assert ask(engine, "/v1/completions", {"model": "student", "prompt": [1]})[0] == 200
    assert engine.seen[-1][0] == "student"
    assert ask(engine, "/v1/unload_lora_adapter", {"lora_name": "student"})[0] == 200
    status, said = ask(engine, "/v1/unload_lora_adapter", {"lora_name": "student"})
    assert (status, said["error"]["message"]) == (404, "The lora adapter 'student' cannot be found.")


def test_text_and_ids_go_both_ways(ask, source):
    ids = ask(Scripted(), "/tokenize", {"prompt": "<|im_start|>user\nhé"})[1]["tokens"]
    assert ids == encode(source, "<|im_start|>user\nhé")
    assert ask(Scripted(), "/detokenize", {"tokens": ids})[1]["prompt"] == "<|im_start|>user\nhé"
    assert ask(Scripted(), "/version")[1]["engine"] == "tito"
    assert ask(Scripted(), "/health") == (200, "")
    assert ask(Scripted(), "/nowhere")[0] == 404
