"""Against a real vLLM on CPU, with the real Qwen3 tokenizer and template, and real harnesses: `make engine`.

The weights are random, so what is sampled is noise; where a reply must be something (a call of a tool), the request
forces it with a grammar, and the ids are sampled all the same. TITO_VLLM and TITO_MINI name the programs, which have
environments of their own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import anthropic
import openai
import pytest
import tito
from records import TOOLS, client, ids_of, lines
from scripted_engine import ScriptedEngine
from tiny_models import save_model_by
from tokenizers import Tokenizer

pytestmark = pytest.mark.engine

CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
FORCED = {
    "structured_outputs": {"regex": CALL.replace("{", r"\{").replace("}", r"\}")},
    "chat_template_kwargs": {"enable_thinking": False},
}
HELLO = [{"role": "user", "content": "Which files are here?"}]
MINI = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def program(name):
    path = os.environ.get(name, "")
    assert Path(path).is_file(), f"{name} must name a program; `make engine` installs it and sets it"
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder with random weights beside the real tokenizer and template."""
    python = Path(program("TITO_VLLM")).with_name("python")
    return save_model_by(python, tmp_path_factory.mktemp("model") / "tiny-qwen3", context=4096)


@pytest.fixture(scope="session")
def engine(model, tmp_path_factory):
    """The base URL of a vLLM with parsers on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [program("TITO_VLLM"), "serve", model, "--enforce-eager", "--dtype", "bfloat16", "--port", port]
    command += ["--max-model-len", "4096", "--reasoning-parser", "qwen3", "--served-model-name", "tiny"]
    command += ["--tool-call-parser", "hermes", "--enable-auto-tool-choice"]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=out, env=env, start_new_session=True)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/models", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def ask(url, *, stream=False, ids=False, **asked):
    """A chat call; (reply, its raw chunks): what a client sees."""
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "temperature": 0, **asked}
    extra = {name: asked.pop(name) for name in ("structured_outputs", "chat_template_kwargs") if name in asked}
    if ids:
        extra["return_token_ids"] = True
    with client(url) as made:
        reply = made.chat.completions.create(**asked, stream=stream, extra_body=extra)
        return [chunk.model_dump() for chunk in reply] if stream else reply.model_dump()


def seen_ids(reply):
    """(prompt ids, output ids) in what the engine itself sent."""
    if isinstance(reply, dict):
        return reply["prompt_token_ids"], reply["choices"][0]["token_ids"]
    prompt = next(chunk["prompt_token_ids"] for chunk in reply if chunk.get("prompt_token_ids"))
    return prompt, [i for chunk in reply for choice in chunk["choices"] for i in choice.get("token_ids") or ()]


SHAPES = {
    "plain": {"chat_template_kwargs": {"enable_thinking": False}},
    "thinking": {"chat_template_kwargs": {"enable_thinking": True}},
    "tools": {"tools": TOOLS, **FORCED},
    "logprobs": {"logprobs": True, "max_tokens": 8},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_streamed_or_not_the_ids_are_the_engines_own(engine, tmp_path, shape):
    with tito.recording(engine, tmp_path) as url:
        own = [ask(url, stream=stream, ids=True, **SHAPES[shape]) for stream in (False, True)]
        bare = [ask(url, stream=stream, **SHAPES[shape]) for stream in (False, True)]
    recorded = [ids_of(line) for line in lines(tmp_path)]
    direct = seen_ids(ask(engine, ids=True, **SHAPES[shape]))
    for reply, (prompt, [output]) in zip(own, recorded, strict=False):
        assert seen_ids(reply) == (prompt, output)
    # At temperature 0 the same prompt gives the same ids, streamed or not, recorded or not.
    assert recorded == [(direct[0], [direct[1]])] * 4
    assert "token_ids" not in json.dumps(bare[1])
    assert bare[0]["choices"][0]["token_ids"] is None
    report = tito.convert(tmp_path, tmp_path / "rows.parquet", policies=tito.Policies(truncated="keep"))
    assert (report.rows, report.skipped) == (4, {})
    assert [row.output_ids.tolist() for row in tito.open_rows(tmp_path / "rows.parquet")] == [direct[1]] * 4


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_of_a_call_is_in_the_ids(engine, model, tmp_path, stream):
    with tito.recording(engine, tmp_path) as url:
        ask(url, stream=stream, tools=TOOLS, max_tokens=100, **FORCED)
    [line] = lines(tmp_path)
    [choice] = line["response"]["choices"]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = choice["token_ids"]
    assert CALL in tokenizer.decode(ids, skip_special_tokens=False)
    assert ids[-1] == tokenizer.token_to_id("<|im_end|>")
    [call] = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("bash", {"command": "ls"})
    assert choice["finish_reason"] == "tool_calls"
    # What was sampled is not what an encoder would make of the text: it cannot be made up afterwards.
    assert ids != tokenizer.encode(CALL + "<|im_end|>").ids
    [row] = rows(tmp_path, think="strip")
    assert row.output_ids.tolist() == ids


def rows(folder, **policies):
    tito.convert(folder, folder / "rows.parquet", policies=tito.Policies(**policies))
    return list(tito.open_rows(folder / "rows.parquet"))


def test_the_log_knows_whose_ids_they_are(engine, model, tmp_path):
    with tito.recording(engine, tmp_path) as url:
        ask(url)
    [line] = lines(tmp_path, "identity")
    known = tito.Profile.named("qwen3")
    assert (line["engine"], line["engine_version"]) == ("vllm", "0.32.0")
    assert (line["tokenizer_hash"], line["template_hash"]) == (known.tokenizer_hash, known.template_hash)
    assert line["models"][0]["max_model_len"] == 4096


@pytest.mark.parametrize("stream", [False, True])
def test_choices_and_text_completions(engine, tmp_path, stream):
    with tito.recording(engine, tmp_path) as url, client(url) as made:
        asked = {"model": "tiny", "max_tokens": 10, "n": 2, "stream": stream}
        for call in (
            lambda: made.chat.completions.create(messages=HELLO, **asked),
            lambda: made.completions.create(prompt="Once upon a time", **asked),
            lambda: made.completions.create(prompt=["one", "two and more"], **asked),
        ):
            list(call())
    counts = [[len(ids) for ids in ids_of(line)[1]] for line in lines(tmp_path)]
    assert counts == [[10] * 2, [10] * 2, [10] * 4]
    # A prompt without a template is of no known identity.
    policies = tito.Policies(truncated="keep", group_by="identity")
    assert tito.check(tmp_path, policies=policies).rows == 8


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_told_apart(engine, tmp_path, stream):
    with tito.recording(engine, tmp_path) as url, pytest.raises(openai.BadRequestError) as told:
        ask(url, stream=stream, messages=[{"role": "user", "content": "many words " * 5000}])
    assert told.value.response.headers["x-tito-error"] == "context_overflow"
    [line] = lines(tmp_path)
    assert line["error"]["type"] == "context_overflow"


def test_other_routes_are_recorded_too(engine, tmp_path):
    with tito.recording(engine, tmp_path) as url:
        with client(url) as made:
            events = list(made.responses.create(model="tiny", input="hi", max_output_tokens=10, stream=True))
            assert events[-1].type == "response.incomplete"
        with anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="-") as made:
            reply = made.messages.create(model="tiny", max_tokens=10, messages=HELLO)
    assert reply.stop_reason == "max_tokens"
    recorded = [(line["route"], len(ids_of(line)[1][0])) for line in lines(tmp_path)]
    assert recorded == [("responses", 10), ("messages", 10)]


def test_the_preflight_finds_nothing_lost(engine):
    command = [sys.executable, "-m", "tito", "record", "--upstream", engine, "--preflight", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {one["what"]: one for one in json.loads(result.stdout)}
    assert result.returncode == 0, found
    assert found["engine"]["state"] == found["whole reply"]["state"] == found["stream"]["state"] == "ok"
    # Random weights call no tool; that ids come with tools offered is what matters.
    assert found["tools"]["found"] == "offered, and the model called none; ids come all the same"


def mini(folder, url, model, *more):
    """mini-swe-agent, as it is installed, pointed at the recorder by its environment alone."""
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    env |= {"HOME": str(folder), "MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors"}
    env |= {"MSWEA_SILENT_STARTUP": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    env |= {"HOSTED_VLLM_API_BASE": url, "HOSTED_VLLM_API_KEY": "none", "MSWEA_GLOBAL_CALL_LIMIT": "10"}
    command = [program("TITO_MINI"), "--model", f"hosted_vllm/{model}", "--task", "say done", "--yolo"]
    command += ["--exit-immediately", "--output", folder / "trajectory.json", "--config", "mini.yaml", *more]
    command = [*map(str, command)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, cwd=folder, check=False)


def test_mini_swe_agent_runs_unmodified(tmp_path):
    def bash(command):
        return {"tool": {"name": "bash", "arguments": json.dumps({"command": command})}, "tokens": 6}

    engine = ScriptedEngine(scripts=[{"reply": "I will."}, bash("echo hello"), bash(MINI)])
    with engine.serving() as upstream, tito.recording(upstream, tmp_path / "log") as url:
        result = mini(tmp_path, url, "scripted")
    assert result.returncode == 0, result.stdout + result.stderr
    saved = json.loads((tmp_path / "trajectory.json").read_text())
    assert saved["info"]["exit_status"] == "Submitted"
    calls = lines(tmp_path / "log")
    assert len(calls) == 3
    assert len({line["session_id"] for line in calls}) == 1
    [mark] = lines(tmp_path / "log", "mark")
    # The reply without a call is not in what the harness saved; on the wire it is, and is marked.
    assert (mark["mark"], mark["call_id"]) == ("parse_error", calls[0]["response"]["id"])
    report = tito.convert(tmp_path / "log", tmp_path / "rows.parquet")
    assert (report.rows, report.skipped) == (2, {"parse_error": 1})
    assert [row.turn for row in tito.open_rows(tmp_path / "rows.parquet")] == [0, 1]


def test_mini_swe_agent_on_a_real_engine(engine, model, tmp_path):
    call = f'<tool_call>\n{{"name": "bash", "arguments": {{"command": "{MINI}"}}}}\n</tool_call>'
    extra = {
        "structured_outputs": {"regex": call.replace("{", r"\{").replace("}", r"\}")},
        "chat_template_kwargs": {"enable_thinking": False},
    }
    body = f"model.model_kwargs.extra_body={json.dumps(extra)}"
    with tito.recording(engine, tmp_path / "log") as url:
        result = mini(tmp_path, url, "tiny", "--config", body)
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads((tmp_path / "trajectory.json").read_text())["info"]["exit_status"] == "Submitted"
    [line] = lines(tmp_path / "log")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert call in tokenizer.decode(ids_of(line)[1][0], skip_special_tokens=False)
    assert len(rows(tmp_path / "log")) == 1
