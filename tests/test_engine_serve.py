"""`tito serve` over a real vLLM on a CPU: base and adapters served, the adapter acts, a swap is seen, a wrong rank is
refused. TITO_VLLM names the program; the model is made by the Python beside it."""

import json
import os
import socket
import subprocess
from pathlib import Path

import adapters
import pytest
from test_parsers import FORMS
from tiny_models import save_model_by
from tito.adapter import BaseModel, LoraAdapter
from tito.cli import main
from tito.errors import UsageError
from tito.serve.client import ContextOverflowError, RefusedError, Server
from tito.serve.effect import PROMPTS, effect
from tito.serve.launch import serve
from tito.serve.parsers import PARSERS
from tito.serve.plan import Wanted, make_plan
from tito.serve.swap import load, unload

pytestmark = pytest.mark.engine

FLAGS = ["--enforce-eager", "--max-num-seqs", "4", "--max-num-batched-tokens", "256", "--max-loras", "2"]


@pytest.fixture(scope="module")
def vllm():
    return Path(os.environ["TITO_VLLM"])


@pytest.fixture(scope="module")
def model(vllm, tmp_path_factory):
    return save_model_by(vllm.with_name("python"), tmp_path_factory.mktemp("m") / "tiny", context=512)


@pytest.fixture(scope="module")
def students(model, tmp_path_factory):
    shapes = {n: s for n, s in BaseModel(model).linears.items() if "_proj" in n}
    folder = tmp_path_factory.mktemp("a")
    return [
        LoraAdapter(adapters.write_adapter(folder / f"a{rank}", rank=rank, seed=rank, linears=shapes))
        for rank in (4, 8, 16)
    ]


@pytest.fixture(scope="module")
def served(vllm, model, students, tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = dict(os.environ)
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    os.environ["PATH"] = f"{vllm.parent}{os.pathsep}{os.environ['PATH']}"
    plan = make_plan(Wanted(base=model, adapters=[students[0].folder], context=256, port=port))
    log = tmp_path_factory.mktemp("log") / "log"
    try:
        with serve(plan, extra=FLAGS, log=log, prompts=PROMPTS, base_hash=plan.base.hash) as (serving, _):
            yield serving
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_base_and_adapter_are_served_and_differ(served, students):
    server = Server(served.url)
    name = served.adapters[0].name
    assert (served.engine, served.engine_version.split("+")[0]) == ("vllm", "0.32.0")
    assert (served.tool_parser, served.reasoning_parser, served.context_length) == ("hermes", "qwen3", 256)
    assert name == f"tiny-lora-{students[0].hash[7:19]}"
    cards = {card.id: card for card in server.models()}
    assert (cards[name].root, cards[name].parent) == (str(students[0].folder), "tiny")
    assert effect(server, "tiny", name, PROMPTS).ids_differ == len(PROMPTS)
    assert effect(server, "tiny", "tiny", PROMPTS).any is False
    served.check(server)


def test_ids_go_in_without_a_template(served):
    answer = Server(served.url).complete("tiny", [872, 198, 6023], max_tokens=4)
    assert (answer.prompt_ids, len(answer.output_ids)) == ((872, 198, 6023), 4)


def test_a_swap_is_seen(served, students):
    server = Server(served.url)
    second, seen = load(server, students[1], PROMPTS)
    assert seen.startswith("ids differ on 5 of 5 prompts")
    with pytest.raises(UsageError, match="is served already"):
        load(server, students[0], PROMPTS, name=second.name)
    unload(server, second.name)
    # The name is free now, and means something else: vLLM 0.32 swaps, and it shows.
    other, _ = load(server, students[0], PROMPTS, name=second.name)
    assert not effect(server, other.name, served.adapters[0].name, PROMPTS).any
    unload(server, other.name)


def test_a_rank_without_room_is_refused(served, students):
    with pytest.raises(RefusedError, match="rank 16 is greater than max_lora_rank 8") as caught:
        load(Server(served.url), students[2], PROMPTS)
    assert caught.value.hint == "restart the server with --max-lora-rank 16"


def test_an_overflow_looks_like_ours(served):
    server = Server(served.url)
    with pytest.raises(ContextOverflowError) as caught:
        server.complete("tiny", [1] * 300, max_tokens=1)
    from tito.serve.own.wire import overflow

    assert caught.value.said == str(overflow(256, 300))
    assert caught.value.status == 400
    with pytest.raises(ContextOverflowError, match="max_tokens must be at least 1, got 0"):
        server.complete("tiny", [1] * 256, max_tokens=1)
    assert len(server.complete("tiny", [1] * 250, max_tokens=20).output_ids) == 6


def test_a_probe_passes_through_it(served, tmp_path, capsys):
    captures = Path(__file__).parent / "captures" / "qwen3" / "calls.jsonl"
    served.save(tmp_path)
    words = ["probe", "--serving", str(tmp_path), "--prompts", str(captures), "--n", "2", "--max-tokens", "8", "--json"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ids_differ"], report["templates"]["server"], report["templates"]["no tools"]) == (2, 2, 0)


def test_our_parsers_are_vllms(vllm, model):
    """The same texts through vLLM's own parsers of those names."""
    program = """
import json, sys
from types import SimpleNamespace
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers import ToolParserManager
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
parameters = {"type": "object", "properties": {"command": {"type": "string"}}}
tools = [{"type": "function", "function": {"name": "bash", "parameters": parameters}}]
request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "x"}], tools=tools)
told = {}
for name in ("hermes", "qwen3_coder"):
    for form, text in json.loads(sys.argv[2]).items():
        parser = ToolParserManager.get_tool_parser(name)(tokenizer, request.tools)
        found = parser.extract_tool_calls(text, request)
        told[f"{name} {form}"] = [[c.function.name, json.loads(c.function.arguments)] for c in found.tool_calls]
print("TOLD" + json.dumps(told))
"""
    texts = {**FORMS, "cut": '<tool_call>\n{"name": "bash", "arguments": {"command": "a"}}', "broken": "<tool_call>\n{"}
    made = subprocess.run(
        [str(vllm.with_name("python")), "-c", program, str(model), json.dumps(texts)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr[-2000:]
    told = json.loads(made.stdout.partition("TOLD")[2])
    for name in ("hermes", "qwen3_coder"):
        for form, text in texts.items():
            ours = [[call.name, dict(call.arguments)] for call in PARSERS[name](text).calls]
            assert told[f"{name} {form}"] == ours, (name, form)
