"""`tito record` as people call it."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_tokenizers
import pytest
from records import TOOL, lines
from scripted_engine import MODEL, ScriptedEngine
from tito.serve.record import ServedAdapter, Serving

HARNESS = """
import os, openai
with openai.OpenAI(max_retries=0) as client:
    reply = client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "hi"}])
url = os.environ["OPENAI_BASE_URL"]
print(reply.id, os.environ["ANTHROPIC_BASE_URL"] + "/v1" == url == os.environ["OPENAI_API_BASE"])
raise SystemExit(7)
"""

QUIET = HARNESS.replace("print(", "_ = (")


def record(*arguments, **more):
    command = [sys.executable, "-m", "tito", "record", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


def test_a_harness_runs_with_the_right_environment(tmp_path):
    with ScriptedEngine().serving() as upstream:
        result = record("--upstream", upstream, "--out", tmp_path, "--env", "--", sys.executable, "-c", HARNESS)
    assert (result.returncode, result.stdout) == (7, "chatcmpl-0-1 True\n"), result.stderr
    assert f"recording {upstream} (vllm: scripted) at http://127.0.0.1:" in result.stderr
    assert "calls     1 (recorded 1)\nids       4 sampled, 7 of prompts\n" in result.stderr
    assert len(lines(tmp_path)) == 1


def test_counts_as_json(tmp_path):
    with ScriptedEngine(faults=1.0, script={"fault": "no_ids"}).serving() as upstream:
        result = record(
            *("--upstream", upstream, "--out", tmp_path, "--json", "--quiet", "--on-missing", "pass"),
            *("--env", "--", sys.executable, "-c", QUIET),
        )
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert (told["calls"], told["outcomes"], told["marks"]) == (1, {"passed": 1}, {})


def test_it_serves_until_it_is_stopped(tmp_path):
    with ScriptedEngine().serving() as upstream:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            command = [sys.executable, "-m", "tito", "record", "--upstream", upstream, "--out", str(tmp_path)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(number)
            _, told = process.communicate(timeout=30)
            assert process.returncode == 0
            assert told.splitlines()[1:] == [
                "calls     0",
                "ids       0 sampled, 0 of prompts",
                f"log       {tmp_path}",
            ]


SLEEPER = """
import signal, sys, time
def heard(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM or "deaf" not in sys.argv:
        raise SystemExit(9)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, heard)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


def sleeper(upstream, out, harness):
    """The command of a recorder around a harness that only hears signals."""
    recorder = [sys.executable, "-m", "tito", "record", "--upstream", upstream, "--out", str(out), "--env", "--"]
    return [*recorder, sys.executable, "-c", SLEEPER, harness]


@pytest.mark.parametrize(("harness", "heard"), [("open", ["SIGINT"]), ("deaf", ["SIGINT", "SIGTERM"])])
def test_a_supervisor_s_interrupt_reaches_the_harness(tmp_path, harness, heard):
    """Nobody pressed a key, so nobody else tells the harness. One that does not end is ended by the second."""
    with ScriptedEngine().serving() as upstream:
        process = subprocess.Popen(
            sleeper(upstream, tmp_path, harness),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout.readline() == "ready\n"
        for name in heard:
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == f"{name}\n"
        _, told = process.communicate(timeout=30)
        assert process.returncode == 9
        assert told.splitlines()[-1] == f"log       {tmp_path}"


def test_ctrl_c_at_a_terminal_reaches_the_harness_once_and_a_second_interrupt_always(tmp_path):
    import os
    import pty

    with ScriptedEngine().serving() as upstream:
        number, terminal = pty.fork()
        if number == 0:
            os.execv(sys.executable, sleeper(upstream, tmp_path, "deaf"))
        said = b""

        def until(what, count=1):
            nonlocal said
            while said.count(what) < count:
                said += os.read(terminal, 1024)

        until(b"ready")
        os.write(terminal, b"\x03")
        until(b"SIGINT")
        time.sleep(0.3)
        assert said.count(b"SIGINT") == 1
        # To the recorder alone: whether a terminal sent it, it cannot see.
        os.kill(number, signal.SIGINT)
        until(b"SIGINT", 2)
        os.kill(number, signal.SIGTERM)
        until(b"SIGTERM")
        _, status = os.waitpid(number, 0)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(status) == 9


NOBODY = ("--upstream", "http://127.0.0.1:9")
TWO = ("--upstream", "http://h", "--out", "x")


@pytest.mark.parametrize(
    ("arguments", "code", "said", "hint"),
    [
        (["--out", "x"], 2, "the following arguments are required: --upstream", "`tito record --help`"),
        (
            ["--upstream", "localhost:80", "--out", "x"],
            2,
            "--upstream 'localhost:80' is no base URL",
            "give http://HOST",
        ),
        (["--upstream", "http://h"], 2, "no folder for the log", "add --out DIR"),
        ([*TWO, "--env"], 2, "--env without a COMMAND", "tito record ... --env --"),
        (
            [*TWO, "--", "ls"],
            2,
            "a COMMAND without --env",
            "tito record ... --env --",
        ),
        ([*TWO, "--on-missing", "drop"], 2, "invalid choice: 'drop'", ""),
        (
            [*TWO, "--upstream-key", "NO_SUCH"],
            2,
            "the variable NO_SUCH is not set",
            "",
        ),
        ([*NOBODY, "--preflight"], 3, "no engine lists its models here", "start the engine"),
        ([*NOBODY, "--out", "x", "--tokenizer", "none"], 2, "--tokenizer none: no such", ""),
        (
            [*NOBODY, "--out", "x", "--env", "--", "no-such-program"],
            3,
            "no-such-program:",
            "",
        ),
    ],
)
def test_wrong_use_is_told(tmp_path, arguments, code, said, hint):
    result = record(*arguments, cwd=tmp_path)
    assert result.returncode == code
    error, told = [line for line in result.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert said in error
    assert told.startswith(f"hint: {hint}")


def test_a_port_that_is_taken_is_told(tmp_path):
    with ScriptedEngine().serving() as upstream:
        port = upstream.removesuffix("/v1").rpartition(":")[2]
        result = record("--upstream", upstream, "--out", tmp_path / "log", "--port", port)
    assert result.returncode == 3
    assert result.stderr.splitlines()[-1] == "hint: choose another --port or --out"
    assert "address already in use" in result.stderr


def preflight(engine, *more):
    with engine.serving() as upstream:
        result = record("--upstream", upstream, "--preflight", "--json", *more)
    return result.returncode, {found["what"]: found for found in json.loads(result.stdout)}


def test_a_preflight_says_what_an_engine_returns():
    code, found = preflight(ScriptedEngine(tokens=6, script={"tool": TOOL}))
    assert code == 0
    assert {what: one["state"] for what, one in found.items()} == {
        "engine": "warn",
        "whole reply": "ok",
        "stream": "ok",
        "tools": "ok",
        "thinking": "ok",
    }
    assert "vllm 0.32.0: scripted; its tokenizer is not known here" in found["engine"]["found"]
    assert "6 output ids, as many as usage says" in found["stream"]["found"]
    assert found["tools"]["found"] == "a call of 'bash' was parsed"


def test_a_preflight_says_what_an_engine_loses():
    code, found = preflight(ScriptedEngine(ids=False))
    assert code == 1
    assert found["stream"]["state"] == found["whole reply"]["state"] == "fail"
    assert found["stream"]["advice"].startswith("use vLLM 0.10.2 or later")
    code, found = preflight(ScriptedEngine(script={"fault": "drop_chunk"}))
    assert code == 1
    assert "usage.completion_tokens is 4, the outputs hold 3 ids" in found["stream"]["found"]
    code, found = preflight(ScriptedEngine(script={"fault": "bad_framing"}))
    assert (code, found["whole reply"]["state"], found["stream"]["state"]) == (1, "fail", "fail")
    assert found["stream"]["found"] == "the body is no HTTP: the connection was closed"
    code, found = preflight(ScriptedEngine(script={"reply": '<think>hm</think><tool_call>{"name":'}))
    assert (code, found["tools"]["state"], found["thinking"]["state"]) == (0, "warn", "warn")
    assert "--tool-call-parser hermes" in found["tools"]["advice"]
    assert "--reasoning-parser" in found["thinking"]["advice"]
    code, found = preflight(ScriptedEngine(script={"reply": "", "think": "all of it"}))
    assert found["thinking"]["found"] == "the reply ended, and all of it counts as thinking"


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        "null",
        '{"choices": []}',
        '{"choices": [{"message": null}]}',
        '{"error": {"message": "boom"}}',
        "[" * 100_000,
    ],
)
def test_a_preflight_goes_on_behind_a_reply_that_is_none(said):
    code, found = preflight(ScriptedEngine(script={"said": said}))
    states = {what: one["state"] for what, one in found.items()}
    assert (code, states) == (
        1,
        {"engine": "warn", "whole reply": "fail", "stream": "ok", "tools": "fail", "thinking": "fail"},
    )


def test_a_call_without_a_function_is_none():
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": None}]}
    _, found = preflight(ScriptedEngine(script={"said": json.dumps({"choices": [{"message": message}]})}))
    assert found["tools"]["found"] == "offered, and the model called none; ids come all the same"


def test_a_preflight_does_not_wait_for_what_drips():
    from tito.capture.record import preflight
    from tito.capture.record.options import Options, Upstream

    engine = ScriptedEngine(tokens=100, delay=0.3)
    begun = time.monotonic()
    with engine.serving() as upstream:
        options = Options(upstream=Upstream.parse(upstream), out=Path("log"), idle_seconds=1)
        found = {one.what: one for one in asyncio.run(preflight.preflight(options))}
    assert found["stream"].state == "fail"
    assert time.monotonic() - begun < 20


def test_models_that_are_listed_oddly():
    """Of another user's folder no more can be told than of a path that is too long."""
    odd = {"id": "m\ud800", "root": "x" * 5000, "owned_by": ["vllm"], "max_model_len": "long"}
    code, found = preflight(ScriptedEngine(listed=[7, {"object": "model"}, odd]))
    assert (code, found["engine"]["found"].split(";")[0]) == (0, "vllm 0.32.0: m\\ud800")


def test_an_engine_that_hangs_up_while_its_tokenizer_is_read(tmp_path, monkeypatch):
    """Reading a tokenizer holds up the loop, which does not see that the engine closed the idle connection."""
    from tito.capture.record import connection, preflight
    from tito.capture.record.options import Options, Upstream

    find = preflight.find_engine

    async def slow(client, options):
        found = await find(client, options)
        time.sleep(0.5)
        return found

    monkeypatch.setattr(preflight, "find_engine", slow)
    monkeypatch.setattr(connection, "_KEPT_SECONDS", 0.1)
    with ScriptedEngine(idle=0.2).serving() as upstream:
        options = Options(upstream=Upstream.parse(upstream), out=tmp_path)
        found = {one.what: one for one in asyncio.run(preflight.preflight(options))}
    assert found["whole reply"].state == "ok", found["whole reply"].found


def test_the_preflight_is_readable():
    with ScriptedEngine().serving() as upstream:
        result = record("--upstream", upstream, "--preflight", "--model", MODEL)
    assert result.returncode == 0
    assert result.stdout.splitlines()[2].startswith("ok   whole reply  ")


def test_the_view_says_what_goes_on(tmp_path):
    from rich.console import Console
    from tito.capture.record.app import Recorder
    from tito.capture.record.options import Options, Upstream
    from tito.capture.record.view import farewell, table

    recorder = Recorder(Options(upstream=Upstream.parse("http://h"), out=tmp_path))
    recorder.stats.end("chat", "recorded")
    recorder.stats.end("chat", "mismatch", "3 ids, 4 counted")
    recorder.stats.output_ids = 1234
    with Console(width=100) as console, console.capture() as shown:
        console.print(table(recorder, 55.0))
    assert "1,234 sampled (55 a second)" in shown.get()
    assert "mismatch: 3 ids, 4 counted" in shown.get()
    assert "calls     2 (recorded 1, mismatch 1)" in farewell(recorder)


def served(folder, **more):
    """A record of a server, as `tito serve` writes it."""
    known = dict.fromkeys(("base_hash", "dtype", "context_length", "tool_parser", "reasoning_parser"))
    known |= {"url": "http://127.0.0.1:1", "engine": "vllm", "engine_version": "0.32.0", "model": MODEL}
    known |= {"base": "/models/base", "architecture": "Qwen3ForCausalLM", "tokenizer_hash": "sha256:a"}
    Serving(**{**known, "template_hash": None, **more}).save(folder / "serving.json")
    return folder / "serving.json"


def test_the_log_opens_with_what_is_served(tmp_path):
    adapter = ServedAdapter(MODEL, "/adapters/one", "sha256:1", 8, 16.0)
    file = served(tmp_path, adapters=[adapter], tool_parser="hermes")
    with ScriptedEngine().serving() as upstream:
        words = ("--upstream", upstream, "--out", tmp_path / "log", "--serving", file, "--quiet", "--env", "--")
        result = record(*words, sys.executable, "-c", QUIET)
    assert result.returncode == 7, result.stderr
    [opening] = lines(tmp_path / "log", "identity")
    assert (opening["tokenizer_hash"], opening["served"]["tool_parser"]) == ("sha256:a", "hermes")
    assert opening["served"]["adapters"] == [{"name": MODEL, "hash": "sha256:1", "rank": 8, "alpha": 16.0}]
    assert "/adapters/one" not in json.dumps(opening)


@pytest.mark.parametrize(
    ("more", "words", "said"),
    [
        ({"model": "other"}, (), "error: --serving names other, and the engine serves scripted\n"),
        ({}, ("--tokenizer", "TOKENIZER"), "error: --serving says tokenizer sha256:a, and the engine's folder has "),
    ],
)
def test_a_record_of_another_server_is_refused(tmp_path, more, words, said):
    folder = made_tokenizers.save_qwen(tmp_path / "qwen3", "qwen3", made_tokenizers.template("qwen3")) if words else ""
    words = [str(folder) if word == "TOKENIZER" else word for word in words]
    with ScriptedEngine().serving() as upstream:
        result = record(
            "--upstream", upstream, "--out", tmp_path / "log", "--serving", served(tmp_path, **more), *words
        )
    assert result.returncode == 2
    assert result.stderr.startswith(said), result.stderr
    hint = "name the record of the server that --upstream leads to: `tito serve` writes it when it starts"
    assert result.stderr.endswith(f"hint: {hint}\n")
    missing = record("--upstream", "http://127.0.0.1:1", "--out", tmp_path / "log", "--serving", tmp_path / "gone.json")
    assert (missing.returncode, missing.stderr.splitlines()[0]) == (3, f"error: {tmp_path}/gone.json: no such file")
