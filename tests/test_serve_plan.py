"""What is checked before a server starts, the commands that come of it, and servers that do not come up."""

import json
import os
import shlex
import socket
import sys
import textwrap

import adapters
import made_tokenizers
import pytest
import tito
from mock_server import Mock, running
from tito.adapter import LoraAdapter
from tito.cli import main
from tito.serve import recipes
from tito.serve.effect import PROMPTS
from tito.serve.launch import serve
from tito.serve.plan import Wanted, make_plan
from tito.serve.record import Serving

CAPTURES = os.path.join(os.path.dirname(__file__), "captures")


@pytest.fixture
def base(tmp_path):
    return adapters.write_base(tmp_path / "base", vocab_size=151_936, max_position_embeddings=4096)


@pytest.fixture
def real_base(base):
    """A base with Qwen3's tokenizer and template."""
    config = json.loads((base / "config.json").read_text())
    made_tokenizers.save_qwen(base, "qwen3", made_tokenizers.template("qwen3"))
    (base / "config.json").write_text(json.dumps(config))
    return base


@pytest.fixture
def rows(tmp_path):
    tito.convert(f"{CAPTURES}/qwen3/calls.jsonl", tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def dry(capsys, *words, code=0):
    assert main(["serve", *map(str, words), "--dry-run"]) == code
    return capsys.readouterr()


def test_the_command_of_vllm(base, tmp_path, capsys):
    one = adapters.write_adapter(tmp_path / "one", rank=24)
    two = adapters.write_adapter(tmp_path / "two", seed=2)
    out = dry(capsys, base, "--adapter", one, "--adapter", two, "--port", 8123, "--flags=--enforce-eager --seed 1").out
    names = [f"base-lora-{LoraAdapter(a).hash[7:19]}" for a in (one, two)]
    assert shlex.split(out) == [
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
        *("vllm", "serve", str(base), "--served-model-name", "base", "--host", "127.0.0.1", "--port", "8123"),
        *("--dtype", "bfloat16", "--max-model-len", "4096", "--enable-lora", "--max-lora-rank", "32"),
        *("--max-loras", "2", "--lora-modules", f"{names[0]}={one}", f"{names[1]}={two}"),
        *("--enforce-eager", "--seed", "1"),
    ]


def test_the_commands_of_the_others(base, tmp_path, capsys):
    (base / "chat_template.jinja").write_text(made_tokenizers.template("qwen3"))
    one = adapters.write_adapter(tmp_path / "one")
    name = f"base-lora-{LoraAdapter(one).hash[7:19]}"
    shared = (base, "--adapter", one, "--max-model-len", 1024)
    sglang = shlex.split(dry(capsys, *shared, "--engine", "sglang").out)
    assert sglang == [
        *("python", "-m", "sglang.launch_server", "--model-path", str(base), "--served-model-name", "base"),
        *("--host", "127.0.0.1", "--port", "8000", "--dtype", "bfloat16", "--context-length", "1024"),
        *("--enable-lora", "--max-lora-rank", "8", "--max-loras-per-batch", "2", "--lora-paths", f"{name}={one}"),
        *("--tool-call-parser", "qwen25", "--reasoning-parser", "qwen3"),
    ]
    lines = dry(capsys, *shared, "--engine", "llama.cpp").out.splitlines()
    assert [shlex.split(line) for line in lines] == [
        ["python", "convert_hf_to_gguf.py", str(base), "--outtype", "bf16", "--outfile", "base.gguf"],
        ["python", "convert_lora_to_gguf.py", "--base", str(base), "--outfile", f"{name}.gguf", str(one)],
        [
            *("llama-server", "--model", "base.gguf", "--host", "127.0.0.1", "--port", "8000", "--jinja"),
            *("--alias", name, "--ctx-size", "1024", "--lora", f"{name}.gguf"),
        ],
    ]
    ours = json.loads(dry(capsys, *shared, "--engine", "tito", "--json").out)
    assert ours["command"][:3] == [sys.executable, "-m", "tito.serve.own"]
    assert (ours["url"], ours["model"], ours["adapters"]) == ("http://127.0.0.1:8000", "base", [name])
    two = adapters.write_adapter(tmp_path / "two", seed=2)
    err = dry(capsys, *shared, "--adapter", two, "--engine", "llama.cpp", code=2).err
    assert err == "error: llama.cpp: 2 adapters under names of their own\nhint: serve one, or use vllm\n"


@pytest.mark.parametrize(
    ("words", "code", "said", "hint"),
    [
        (
            ["--adapter", "wide", "--max-lora-rank", "16"],
            2,
            "wide: rank 64 is above --max-lora-rank 16",
            "say --max-lora-rank 64, or leave it out",
        ),
        (
            ["--max-lora-rank", "20"],
            2,
            "--max-lora-rank 20 is none of 1, 8, 16, 32, 64, 128, 256, 320, 512",
            "32 has room for rank 20",
        ),
        (
            ["--max-model-len", "5000"],
            2,
            "--max-model-len 5,000 is above the 4,096 positions of base",
            "say --max-model-len 4096, or leave it out",
        ),
        (["--max-model-len", "0"], 2, "--max-model-len 0: at least 1", "give a number of ids"),
        (["--adapter", "idle"], 1, "idle: every B is zero: the adapter does nothing", "`tito adapter inspect idle"),
        (["--adapter", "wide", "--adapter", "wide"], 2, "one adapter is named twice", "name each once"),
        (["--adapter", "none"], 3, "none: no such folder", "name the folder that holds adapter_config.json"),
        (["--url", "http://127.0.0.1:1"], 2, "--url names a running server", "tito serve check BASE --url URL"),
        (["other"], 2, "other: one base is served", "flags of the engine's own go into --flags=TEXT"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    base, tmp_path, monkeypatch, capsys, words, code, said, hint
):
    monkeypatch.chdir(tmp_path)
    adapters.write_adapter(tmp_path / "wide", rank=64)
    adapters.write_adapter(tmp_path / "idle", size=0)
    err = dry(capsys, "base", *words, code=code).err
    assert err.replace(f"{tmp_path}/", "").startswith(f"error: {said}\nhint: {hint}")


def test_bases_that_are_not_served(tmp_path, capsys):
    small = adapters.write_base(tmp_path / "small", quantization_config={"quant_method": "awq"})
    said = f"error: {small}: quantised (awq); adapters are trained on full precision\n"
    assert dry(capsys, small, code=2).err == said + "hint: serve the full-precision base, or say --allow-quantised\n"
    assert "vllm serve" in dry(capsys, small, "--allow-quantised").out
    (small / "model.safetensors").unlink()
    assert "no safetensors weights" in dry(capsys, small, "--allow-quantised", code=1).err
    assert dry(capsys, tmp_path / "none", code=3).err.endswith("hint: name a model's folder; nothing is downloaded\n")


def test_rows_choose_the_parsers(real_base, rows, tmp_path, capsys):
    plan = make_plan(Wanted(base=real_base, rows=rows))
    assert (plan.tool_parser, plan.reasoning_parser) == ("hermes", "qwen3")
    assert plan.tokenizer_hash == tito.open_rows(rows).metadata["tito.tokenizer_hash"]
    stripped = tmp_path / "stripped.parquet"
    tito.convert(f"{CAPTURES}/qwen3/calls.jsonl", stripped, policies=tito.Policies(think="strip"))
    assert make_plan(Wanted(base=real_base, rows=stripped)).reasoning_parser is None
    err = dry(capsys, real_base, "--rows", stripped, "--reasoning-parser", "qwen3").err
    assert "no sampled output closes thinking, and parser qwen3 may take whole replies for thinking" in err
    err = dry(capsys, real_base, "--rows", rows, "--tool-parser", "qwen3_coder", code=1).err
    assert f"{rows}: parser qwen3_coder reads 0 of 36 sampled outputs, hermes" in err
    assert err.endswith("hint: say --tool-parser hermes\n")


def test_rows_of_another_model_are_refused(real_base, rows, tmp_path, capsys):
    err = dry(capsys, real_base, "--rows", rows, "--max-model-len", 100, code=1).err
    assert "ids does not fit a context of 100" in err
    other = tmp_path / "other.parquet"
    tito.convert(f"{CAPTURES}/qwen35/calls.jsonl", other)
    err = dry(capsys, real_base, "--rows", other, code=1).err
    assert f"error: {other}: made with tokenizer sha256:6e675fecefb6, " in err
    assert err.endswith("hint: serve the base that the rows were recorded from\n")


def test_templates_choose_the_parsers_without_rows(tmp_path):
    found = {}
    for family, template in (("qwen3", "qwen3"), ("qwen3.5", "qwen3_5_think"), ("qwen2.5", "qwen2_5")):
        base = adapters.write_base(tmp_path / family)
        (base / "chat_template.jinja").write_text(made_tokenizers.template(template))
        plan = make_plan(Wanted(base=base))
        found[family] = (plan.tool_parser, plan.reasoning_parser)
    assert found == {"qwen3": ("hermes", "qwen3"), "qwen3.5": ("qwen3_coder", "qwen3"), "qwen2.5": ("hermes", None)}


def test_a_running_server_is_checked_against_the_plan(base, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = adapters.write_adapter(tmp_path / "a")
    name = LoraAdapter(folder).served_name("base")
    with running(Mock(adapters={name: folder})) as url:
        words = ["serve", "check", str(base), "--adapter", str(folder), "--url", url]
        assert main(words) == 0
        record = Serving.load(tmp_path)
        assert (record.adapters[0].name, record.url, record.base_hash[:7]) == (name, url, "sha256:")
        assert main([*words, "--max-model-len", "100"]) == 1
        assert f"{url}: a context of 4,096 is served, not 100" in capsys.readouterr().err
        other = adapters.write_adapter(tmp_path / "b", seed=2)
        assert main(["serve", "check", str(base), "--adapter", str(other), "--url", url]) == 1
        assert "is not served (base, base-lora-" in capsys.readouterr().err
    for bug in ("deaf",):
        with running(Mock(adapters={name: folder}, bugs={bug})) as url:
            assert (
                main(["serve", "check", str(base), "--adapter", str(folder), "--url", url, "--record", "no.json"]) == 1
            )
        assert f"error: {name}: ids differ on 0 of 5 prompts" in capsys.readouterr().err
    assert not (tmp_path / "no.json").exists()
    with running(Mock(adapters={name: tmp_path / "elsewhere"})) as url:
        assert main(["serve", "check", str(base), "--adapter", str(folder), "--url", url]) == 1
    assert f"{name} is served from {tmp_path / 'elsewhere'}, not from {folder}" in capsys.readouterr().err


def test_a_record_is_whole_or_not_there(tmp_path):
    for text in ("{", "[]", '{"version": 2}', '{"version": 1, "adapters": []}'):
        (tmp_path / "serving.json").write_text(text)
        with pytest.raises(tito.DataError, match="no record of a server"):
            Serving.load(tmp_path)
    with pytest.raises(tito.WorldError, match="no such file"):
        Serving.load(tmp_path / "none")


SERVER = """
    import sys, time
    sys.path.insert(0, {tests!r})
    import mock_server
    from http.server import ThreadingHTTPServer
    if {mode!r} == "dies":
        print("CUDA error: no kernel image"); sys.exit(7)
    if {mode!r} == "hangs":
        time.sleep(600)
    class Fixed(ThreadingHTTPServer):
        allow_reuse_address = True
        def __init__(self, address, handler):
            super().__init__(("127.0.0.1", {port}), handler)
    mock_server.ThreadingHTTPServer = Fixed
    with mock_server.running(mock_server.Mock({base!r}, adapters={adapters!r}, bugs={bugs!r})):
        print("up", flush=True)
        if {mode!r} == "dies when asked":
            time.sleep(2); sys.exit(9)
        time.sleep(600)
"""


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def launch(base, tmp_path, port, monkeypatch):
    """Starts a scripted engine in place of a real one."""

    def go(mode, *, bugs=(), seconds=20.0):
        folder = tmp_path / "a"
        if not folder.exists():
            adapters.write_adapter(folder)
        plan = make_plan(Wanted(base=base, adapters=[folder], port=port))
        given = {"tests": os.path.dirname(__file__), "mode": mode, "port": port, "base": "base", "bugs": set(bugs)}
        text = textwrap.dedent(SERVER).format(**given, adapters={a.name: a.folder for a in plan.adapters})
        (tmp_path / "engine.py").write_text(text)
        command = recipes.Command((sys.executable, str(tmp_path / "engine.py")), {})
        for engine in ("scripted", "vllm"):
            monkeypatch.setitem(recipes.RECIPES, engine, lambda _: command)
        return serve(plan, engine="scripted", log=tmp_path / "log", prompts=PROMPTS, ready_seconds=seconds)

    return go


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_server_that_comes_up_is_recorded_and_stopped(launch, port):
    with launch("works") as (serving, process):
        assert serving.url == f"http://127.0.0.1:{port}"
        assert serving.verified == [f"{serving.adapters[0].name}: ids differ on 5 of 5 prompts, logprobs by up to 0"]
        assert (serving.pid, serving.command[0]) == (process.pid, sys.executable)
    assert gone(process.pid)


SAYS = "import os; print(os.environ['OPENAI_BASE_URL'], os.environ['OPENAI_API_KEY']); raise SystemExit(5)"


def test_a_command_runs_while_it_serves(launch, base, tmp_path, port, monkeypatch, capfd):
    """Its code is the verb's, stdout is its own, and the server ends behind it."""
    launch("works")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = ["serve", base, "--adapter", tmp_path / "a", "--port", port]
    words += ["--record", tmp_path / "serving.json", "--log", tmp_path / "log"]
    assert main([*map(str, words), "--", sys.executable, "-c", SAYS]) == 5
    out, err = capfd.readouterr()
    assert out == f"http://127.0.0.1:{port}/v1 none\n"
    assert "ids differ on 5 of 5 prompts" in err
    assert gone(Serving.load(tmp_path / "serving.json").pid)
    assert main([*map(str, words), "--", "/nowhere/program", "--flag"]) == 3
    assert "error: /nowhere/program: No such file or directory\n" in capfd.readouterr().err
    assert gone(Serving.load(tmp_path / "serving.json").pid)


def test_a_command_needs_a_server_of_its_own(base, capsys):
    assert main(["serve", str(base), "--dry-run", "--", "true"]) == 2
    assert main(["serve", "check", str(base), "--url", "http://127.0.0.1:9", "--", "true"]) == 2
    err = capsys.readouterr().err
    assert "error: --dry-run serves nothing, and no command runs" in err
    assert "error: check asks a server that runs already\nhint: run the command by itself" in err


def test_a_server_that_dies_while_it_loads(launch):
    with (
        pytest.raises(tito.WorldError, match=r"ended with 7 while it loaded:\n  CUDA error: no kernel image"),
        launch("dies"),
    ):
        pass


def test_a_server_that_dies_when_it_is_asked(launch):
    with (
        pytest.raises(tito.WorldError, match="ended with 9 when it was asked"),
        launch("dies when asked", bugs={"faulty"}),
    ):
        pass


def test_a_server_that_never_comes_up(launch):
    with pytest.raises(tito.WorldError, match="not up after 1 s"), launch("hangs", seconds=0.6):
        pass


def test_an_adapter_that_the_server_does_not_apply(launch):
    with (
        pytest.raises(tito.DataError, match=r"ids differ on 0 of 5 prompts.*: the server applies nothing"),
        launch("works", bugs={"deaf"}),
    ):
        pass


def test_a_port_that_is_taken(launch, port):
    with socket.socket() as there:
        there.bind(("127.0.0.1", port))
        there.listen()
        with pytest.raises(tito.UsageError, match=f"127.0.0.1:{port}: Address already in use"), launch("works"):
            pass


def test_an_engine_that_is_not_installed(base, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert main(["serve", str(base)]) == 3
    err = capsys.readouterr().err
    assert err.startswith("error: vllm: vllm is not installed here\nhint: install it, or print the command")
