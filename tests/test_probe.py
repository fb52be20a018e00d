"""Probes against a scripted server: effect, assertions, parsers, templates, first turns, raw ids."""

import json
import os
import shutil
from contextlib import contextmanager

import made_tokenizers
import pyarrow as pa
import pytest
import tito
from mock_server import Mock, running
from tito.cli import main
from tito.probe.assertions import ASSERTIONS, Reply, find_assertion
from tito.probe.prompts import read_prompts
from tito.probe.templates import Templates
from tito.serve.record import ServedAdapter, Serving

CAPTURES = os.path.join(os.path.dirname(__file__), "captures")
SEND = (
    '<tool_call>\n{"name": "bash", "arguments": '
    '{"command": "send_message agent2 <<\'MSG\'\\nPlan.\\nMSG"}}\n</tool_call>'
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made_tokenizers.save_qwen(tmp_path_factory.mktemp("m") / "base", "qwen3", made_tokenizers.template("qwen3"))


@pytest.fixture(scope="module")
def templates(model):
    return Templates(model)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Rows and the capture that they were made of."""
    folder = tmp_path_factory.mktemp("rows")
    shutil.copy(f"{CAPTURES}/qwen3/calls.jsonl", folder)
    tito.convert(folder / "calls.jsonl", folder / "rows.parquet")
    return folder


@pytest.fixture
def speak(model, templates, calls, tmp_path, monkeypatch):
    """`speak(text, base=..., **mock)`: a server whose adapter says `text`, and `probe(*words)` with its record."""
    monkeypatch.chdir(tmp_path)
    encode = lambda text: templates.source.tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    decode = lambda ids: templates.source.tokenizer.decode(list(ids), skip_special_tokens=False)  # noqa: E731

    @contextmanager
    def go(student, *, base="Hello.", render=None, parse=None, tool_parser="hermes", bugs=()):
        words = {"/adapter": student, "base": base}
        mock = Mock(
            adapters={"student": "/adapter"},
            answer=lambda weights, prompt: [*encode(words[weights]), 151645],
            render=render or templates.ids,
            parse=parse or (lambda ids: {"content": decode(ids).replace("<|im_end|>", ""), "tool_calls": []}),
            bugs=bugs,
        )
        with running(mock) as url:
            Serving(
                url=url,
                engine="vllm",
                engine_version="0.32.0",
                model="base",
                base=str(model),
                base_hash=None,
                architecture="Qwen3ForCausalLM",
                dtype="bfloat16",
                context_length=4096,
                tool_parser=tool_parser,
                reasoning_parser="qwen3",
                tokenizer_hash=None,
                template_hash=None,
                adapters=[ServedAdapter("student", "/adapter", "sha256:aa", 4, 8.0)],
            ).save(tmp_path)
            yield lambda *more, n=2: main(["probe", "--prompts", str(calls / "rows.parquet"), "--n", str(n), *more])

    return go


def test_a_student_that_learnt_it(speak, tmp_path, capsys):
    with speak(SEND) as probe:
        asserts = ("--assert", "call-tag", "--assert", "sends-message", "--assert", "no-think")
        assert probe(*asserts, "--report", "probe.json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "effect         ids differ from base on 2 of 2 prompts\n" in out
    assert "sends-message  trained 2/2 [34%, 100%], chat 2/2 [34%, 100%]\n" in out
    assert "form hermes    4 replies; read by hermes 4, qwen3_coder 0, fence 0, json 0\n" in out
    assert "prompt server      the trained ids for 2 of 2\n" in out
    assert "prompt no tools    the trained ids for 0 of 2\n" in out
    assert "verdict        trained 100%, chat 100%\n" in out
    report = json.loads((tmp_path / "probe.json").read_text())
    assert (report["passed"], report["ids_differ"], report["adapter_hash"]) == (True, 2, "sha256:aa")


def test_an_adapter_without_effect_fails(speak, capsys):
    with speak(SEND, base=SEND) as probe:
        assert probe() == 1
    err = capsys.readouterr().err
    assert "error: adapter has no effect: student and base give the same ids on all 2 prompts (logprobs" in err


@pytest.mark.parametrize(
    ("bug", "who"), [("silent", ["student"]), ("aborts", ["student", "base"])], ids=["silent", "aborts"]
)
def test_a_student_that_says_nothing_differs_from_every_other_and_fails(speak, capsys, bug, who):
    with speak(SEND, bugs=(bug,)) as probe:
        assert probe() == 1
    err = capsys.readouterr().err
    assert [f"error: {name}: 2 of 2 replies are empty or were aborted\n" in err for name in who] == [True] * len(who)


def test_a_server_that_gives_what_is_no_id(speak, capsys):
    with speak(SEND, bugs=("no_id",)) as probe:
        assert probe() == 1
    assert "token_ids holds -7, which is no id\n" in capsys.readouterr().err


def test_a_student_of_another_form_passes_two_of_three(speak, capsys):
    """Not identical and a call, but no message; and the served parser reads none of it."""
    with speak("```bash\nls -la\n```") as probe:
        assert probe("--assert", "call-tag", "--assert", "sends-message") == 1
    out, err = capsys.readouterr()
    assert "call-tag       trained 2/2" in out
    assert "error: sends-message (trained): 0/2 [0%, 66%]: the first call is bash, and sends nothing\n" in err
    said = "error: the served parser hermes reads 0 of 4 replies, fence 4: read fence from the content\n"
    assert said in err
    assert "adapter has no effect" not in err


def test_a_parser_that_swallows_the_reply(speak, capsys):
    parse = lambda ids: {"content": None, "reasoning": "all of it", "tool_calls": []}  # noqa: E731
    with speak(SEND, parse=parse) as probe:
        assert probe("--assert", "not-swallowed") == 1
    assert "error: not-swallowed (chat): 0/2 [0%, 66%]: reasoning_parser_swallowed_output\n" in capsys.readouterr().err


def test_a_server_that_makes_another_prompt(speak, templates, capsys):
    with speak(SEND, render=lambda request: templates.ids(request, enable_thinking=False)) as probe:
        assert probe() == 1
    err = capsys.readouterr().err
    assert "error: the server's prompt is not the trained one, " in err
    assert "served '<think>\\n\\n</think>\\n\\n'" in err
    assert "; the same ids come with: as captured, thinking\n" in err


def test_tools_are_a_difference_at_the_system_message(speak, templates, capsys):
    with speak(SEND, render=lambda request: templates.ids(request, tools=None)) as probe:
        assert probe() == 1
    err = capsys.readouterr().err
    assert "after '<|im_start|>system\\nYou are agent" in err or "# Tools" in err


def test_live_prompts_stand_beside_trained_ones(speak, calls, tmp_path, capsys):
    live = tmp_path / "live.jsonl"
    live.write_text('{"prompt_ids": [7, 8, 9], "output_ids": [1], "rollout_id": "x", "turn": 0}\n')
    with speak(SEND) as probe:
        assert probe("--live", str(live), "--no-chat") == 0
    out = capsys.readouterr().out
    assert "call-tag       trained 2/2 [34%, 100%], live 1/1 [21%, 100%]\n" in out


def test_the_verdict_by_shares(templates, calls):
    from tito.probe.run import Asked, probe
    from tito.serve.client import Server

    encode = lambda text: templates.source.tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    trained = read_prompts(calls / "rows.parquet", 2)
    live = [type(trained[0])((7, 8, 9), (), "live", None, 0, None)]
    told = {}
    for words in ((SEND, "I wait."), ("I wait.", "I wait."), (SEND, SEND)):
        mock = Mock(answer=lambda _, prompt, words=words: [*encode(words[prompt == [7, 8, 9]]), 151645])
        with running(mock) as url:
            asked = Asked(
                model="base",
                base=None,
                prompts=trained,
                live=live,
                assertions=ASSERTIONS,
                judged=frozenset({"sends-message"}),
                templates=templates,
                chat=False,
            )
            told[words] = probe(Server(url), asked).verdict
    assert list(told.values()) == [
        "learned, not generalising: it holds on trained prompts and fails on live ones",
        "not learned: it fails on the very prompts it was trained on",
        "trained 100%, live 100%",
    ]


def test_assertions_of_ones_own(speak, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def polite(reply):\n    return 'please' in reply.text or f'{len(reply.output_ids)} ids and no please'\n"
    )
    with speak("Now, please.") as probe:
        assert probe("--assert", "mine.py:polite") == 0
    with speak("Now.") as probe:
        assert probe("--assert", "mine.py:polite") == 1
    assert "error: mine.py:polite (trained): 0/2 [0%, 66%]: 3 ids and no please\n" in capsys.readouterr().err
    with speak("Now.") as probe:
        for name, said in (
            ("polite", "error: no assertion polite\nhint: built in: call-tag, "),
            ("mine.py:rude", "error: mine.py:rude: module 'tito_probe_mine' has no attribute 'rude'\n"),
            ("none.py:x", "error: none.py:x: "),
            ("os:sep", "error: os:sep: not a function\n"),
        ):
            assert probe("--assert", name) == 2
            assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("name", "text", "holds"),
    [
        ("call-tag", SEND, True),
        ("call-tag", "<think>\nhm\n</think>\n\n" + SEND + "<|im_end|>", True),
        ("call-tag", "<tool_call>\n{", "a call's marker, and no call"),
        ("call-tag", "Hello", "no call"),
        ("call-tag", f"<think>\n{SEND}", True),
        ("no-think", SEND, True),
        ("no-think", "hm</think>x", "a think marker"),
        ("sends-message", '```bash\nsend_message --wait agent2 "x"\n```', True),
        ("sends-message", "```bash\ncd a && send_message agent2 'x'\n```", True),
        ("sends-message", "```bash\necho resend_messages\n```", "the first call is bash, and sends nothing"),
        ("sends-message", '{"name": "send_message", "args": {"recipient": "a"}}', True),
        ("sends-message", "Hello", "no call"),
        ("ends", "x", True),
        ("no-parrot", "one two three", True),
    ],
)
def test_what_the_built_in_assertions_say(name, text, holds):
    assert find_assertion(name)(Reply(text, [1], [2])) == holds


def test_a_copied_stretch_is_named():
    prompt = "You must answer like this: [Makes bash tool call with the command that you want to run now] and no more"
    copied = Reply("[Makes bash tool call with the command that you want to run now]", [1], [2], prompt)
    assert ASSERTIONS["no-parrot"](copied).startswith("copied from the prompt: [Makes bash")
    assert ASSERTIONS["ends"](Reply("x", [1, 2], [3], finish="length")) == "cut off after 2 ids"


def packed(path, packing):
    """Packs a log as the recorder does, in two frames, and leaves no plain one."""
    lines = path.read_bytes().splitlines(keepends=True)
    kind = {".zst": "zstd", ".gz": "gzip"}[packing]
    with open(f"{path}{packing}", "wb") as file:
        for part in (lines[:3], lines[3:]):
            frame = pa.BufferOutputStream()
            with pa.CompressedOutputStream(frame, kind) as out:
                out.write(b"".join(part))
            file.write(frame.getvalue())
    path.unlink()


@pytest.mark.parametrize("packing", [".zst", ".gz"])
def test_a_packed_log_has_its_requests(calls, tmp_path, packing):
    log = tmp_path / "log"
    log.mkdir()
    shutil.copy(calls / "calls.jsonl", log)
    plain = read_prompts(log / "calls.jsonl", 4)
    tito.convert(log, tmp_path / "grew.parquet")
    packed(log / "calls.jsonl", packing)
    tito.convert(log, tmp_path / "rows.parquet")
    for path in (log, log / f"calls.jsonl{packing}", tmp_path / "rows.parquet", tmp_path / "grew.parquet"):
        found = read_prompts(path, 4)
        assert [p.request for p in found] == [p.request for p in plain]
        assert all(p.request["tools"] for p in found)


def test_a_packed_log_that_is_cut_off_is_bad_data(calls, tmp_path):
    shutil.copy(calls / "calls.jsonl", tmp_path)
    tito.convert(tmp_path / "calls.jsonl", tmp_path / "rows.parquet")
    packed(tmp_path / "calls.jsonl", ".zst")
    log = tmp_path / "calls.jsonl.zst"
    log.write_bytes(log.read_bytes()[:40])
    with pytest.raises(tito.DataError, match=r"calls.jsonl.zst"):
        read_prompts(tmp_path / "rows.parquet", 2)


def test_what_no_request_could_be_checked_for_is_said(speak, calls, tmp_path, capsys):
    shutil.copy(calls / "calls.jsonl", tmp_path)
    tito.convert(tmp_path / "calls.jsonl", tmp_path / "rows.parquet")
    (tmp_path / "calls.jsonl").unlink()
    with speak(SEND) as probe:
        assert probe("--prompts", str(tmp_path / "rows.parquet"), "--report", "probe.json") == 0
    out = capsys.readouterr().out
    why = "2 of 2 prompts have no chat request: their capture is not there, or holds none"
    assert f"not run        chat: {why}\nnot run        templates: {why}\n" in out
    assert "chat 2/2" not in out
    assert json.loads((tmp_path / "probe.json").read_text())["not_run"] == {"chat": why, "templates": why}
    with speak(SEND) as probe:
        assert probe("--no-chat") == 0
    assert "not run        chat: --no-chat\n" in capsys.readouterr().out


def test_prompts_are_first_turns_with_their_requests(calls):
    rows = read_prompts(calls / "rows.parquet", 4)
    captured = read_prompts(calls / "calls.jsonl", 100)
    assert {p.turn for p in rows} == {0}
    assert len(rows) == 4
    assert {p.ids for p in rows} <= {p.ids for p in captured}
    assert all(p.request["messages"] and p.request["tools"] for p in [*rows, *captured])
    every = read_prompts(calls / "calls.jsonl", 100, first_turns=False)
    assert (len(captured), len(every)) == (24, 36)
    merged = calls / "merged.parquet"
    tito.convert(calls / "calls.jsonl", merged, policies=tito.Policies(rows="merged"))
    inside = read_prompts(merged, 100, first_turns=False)
    assert {(p.ids, p.output_ids) for p in inside} == {(p.ids, p.output_ids) for p in every}
    assert all(p.request["messages"] for p in inside)


def test_every_captured_prompt_is_what_the_template_makes(templates, calls):
    """Real captures of a real engine, rendered again here: the same ids."""
    for prompt in read_prompts(calls / "calls.jsonl", 100):
        found = templates.compare(prompt, None, "x")
        assert found.ways["as captured"] is None
        assert found.ways["no tools"] is not None
        assert found.ways["no thinking"].served.startswith("<think>\n\n</think>")


def test_raw_ids_in_and_out(capsys):
    with running(Mock(answer=lambda *_: [4, 5, 6])) as url:
        words = ["probe", "--url", url, "--model", "base", "--raw"]
        assert main([*words, "--ids", "1,2,3", "--max-tokens", "2"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "prompt_ids": [1, 2, 3],
            "output_ids": [4, 5],
            "text": "",
            "finish": "stop",
        }
        assert main([*words, "--ids", "1,x"]) == 2
        assert main(words) == 2
        assert main(["probe", "--url", url, "--model", "nobody", "--raw", "--ids", "1"]) == 1
    assert "The model `nobody` does not exist." in capsys.readouterr().err


def test_the_help_names_every_assertion():
    from tito.cli.probe import EXAMPLE

    assert all(name in EXAMPLE for name in ASSERTIONS)
    with pytest.raises(tito.UsageError, match="no assertion call-tg") as error:
        find_assertion("call-tg")
    assert error.value.hint.startswith("did you mean call-tag? built in: call-tag, no-think")


def test_what_is_missing_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, code, said in (
        ([], 2, "error: no server is named\nhint: give --serving FILE or --url URL\n"),
        (["--serving", "none.json"], 3, "error: none.json: no such file\nhint: `tito serve` writes it\n"),
        (["--url", "http://127.0.0.1:9"], 2, "error: which model is asked is not known\nhint: give --model NAME\n"),
        (["--url", "http://127.0.0.1:9", "--model", "x"], 2, "error: no prompts\nhint: give --prompts rows.parquet"),
    ):
        assert main(["probe", *words]) == code
        assert capsys.readouterr().err.startswith(said)


def test_a_record_that_is_no_longer_true(speak, tmp_path, capsys):
    with speak(SEND) as probe:
        record = json.loads((tmp_path / "serving.json").read_text())
        record["adapters"][0]["folder"] = "/other"
        (tmp_path / "serving.json").write_text(json.dumps(record))
        assert probe() == 1
    assert "student is served from /adapter, not from /other" in capsys.readouterr().err
