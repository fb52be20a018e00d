"""Our own server with tiny models and real tokenizers: ids, adapters, swaps, refusals. Needs the extra `serve`."""

import json
import socket
import subprocess
import sys
import urllib.request

import made_tokenizers
import pytest
import tiny_models
import tito
from tito.adapter import BaseModel, LoraAdapter, inspect
from tito.adapter.write import export
from tito.serve.client import ContextOverflowError, RefusedError, Server
from tito.serve.effect import PROMPTS, effect
from tito.serve.launch import serve
from tito.serve.own.engine import Engine, Sampling
from tito.serve.plan import Wanted, make_plan
from tito.serve.swap import load, unload

pytestmark = pytest.mark.train

FAMILIES = ("qwen3", "qwen3.5")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def made(family, tmp_path_factory):
    """A model and two adapters; of Qwen3.5 one trained in the text class too, with its names."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny_models.save_model(folder / "tiny", family)
    adapters = [tiny_models.save_adapter(folder / f"a{seed}", model, seed=seed) for seed in (1, 2)]
    if family == "qwen3.5":
        adapters.append(tiny_models.save_adapter(folder / "text", model, seed=3, text_class=True))
    return model, adapters


@pytest.fixture(scope="module")
def served(made, tmp_path_factory):
    model, adapters = made
    plan = make_plan(Wanted(base=model, adapters=adapters[:1], port=free_port(), dtype="float32", max_rank=8))
    log = tmp_path_factory.mktemp("log") / "log"
    with serve(plan, engine="tito", log=log, prompts=PROMPTS, base_hash=plan.base.hash) as (serving, _):
        yield serving


@pytest.fixture(scope="module")
def server(served):
    return Server(served.url)


def reference(model, adapter, prompt, n):
    """What transformers and peft sample greedily, without a cache and without a server."""
    import torch
    import transformers

    settings = transformers.AutoConfig.from_pretrained(model)
    loaded = getattr(transformers, settings.architectures[0]).from_pretrained(model, dtype=torch.float32).eval()
    if adapter is not None:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, str(adapter)).eval()
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            ids.append(int(loaded(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


def test_what_is_recorded(served, made, family):
    model, adapters = made
    assert (served.engine, served.engine_version) == ("tito", tito.__version__)
    assert (served.base, served.base_hash) == (str(model), BaseModel(model).hash)
    assert served.adapters[0].hash == LoraAdapter(adapters[0]).hash
    assert served.adapters[0].name == f"tiny-lora-{LoraAdapter(adapters[0]).hash[7:19]}"
    assert served.verified == [f"{served.adapters[0].name}: ids differ on 5 of 5 prompts, logprobs by up to 0"]
    assert served.tool_parser == {"qwen3": "hermes", "qwen3.5": "qwen3_coder"}[family]
    profile = tito.Profile.from_tokenizer(model)
    assert (served.tokenizer_hash, served.template_hash) == (profile.tokenizer_hash, profile.template_hash)


def test_the_ids_are_those_of_transformers_and_peft(server, served, made):
    model, adapters = made
    prompt = [872, 198, 6023, 11, 151]
    base = server.complete(served.model, prompt, max_tokens=6, logprobs=1)
    adapted = server.complete(served.adapters[0].name, prompt, max_tokens=6, logprobs=1)
    assert (base.prompt_ids, base.finish) == (tuple(prompt), "length")
    assert base.output_ids == reference(model, None, prompt, 6)
    assert adapted.output_ids == reference(model, adapters[0], prompt, 6)
    assert base.output_ids != adapted.output_ids
    assert len(base.logprobs) == 6
    assert all(p <= 0 for p in base.logprobs)


def test_only_what_is_sampled_from_is_scored(made):
    """The scores of a whole prompt would take gigabytes where vocabulary and prompt are long."""
    model, _ = made
    engine = Engine(BaseModel(model))
    shapes = []
    engine._model.get_output_embeddings().register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[:2])))
    prompt = [872, 198, 6023, 11, 151]
    assert engine.sample(None, prompt, Sampling(max_tokens=3)).ids == reference(model, None, prompt, 3)
    assert shapes == [(1, 1)] * 3


def test_chat_prompts_are_the_templates(server, served, made):
    model, _ = made
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hé 你好"}]
    for options in ({}, {"chat_template_kwargs": {"enable_thinking": False}}):
        answer = server.chat(served.model, messages, max_tokens=2, **options)
        told = options.get("chat_template_kwargs", {})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **told)
        assert list(answer.prompt_ids) == tokenizer(text, add_special_tokens=False).input_ids


def test_sampling_is_seeded(server, served):
    def ask(seed):
        return server.complete(served.model, [1, 2, 3], max_tokens=8, temperature=1.5, seed=seed, top_k=50).output_ids

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)
    narrow = server.complete(served.model, [1, 2, 3], max_tokens=4, temperature=1.5, top_k=1).output_ids
    assert narrow == server.complete(served.model, [1, 2, 3], max_tokens=4).output_ids
    tiny = server.complete(served.model, [1, 2, 3], max_tokens=4, temperature=1.5, top_p=1e-6).output_ids
    assert tiny == narrow


def test_a_stop_id_ends_the_output_and_stands_in_it(server, served):
    free = server.complete(served.model, [1, 2, 3], max_tokens=4).output_ids
    cut = server.complete(served.model, [1, 2, 3], max_tokens=4, stop_token_ids=[free[1]])
    assert (cut.output_ids, cut.finish) == (free[:2], "stop")


def test_a_prompt_that_does_not_fit(server, served):
    assert len(server.complete(served.model, [1] * 510, max_tokens=9).output_ids) == 2
    with pytest.raises(ContextOverflowError) as caught:
        server.complete(served.model, [1] * 512, max_tokens=1)
    assert caught.value.code == "context_overflow"


def test_a_second_adapter_is_swapped_in_and_out(server, served, made):
    _, adapters = made
    second, seen = load(server, LoraAdapter(adapters[1]), PROMPTS)
    assert seen.startswith("ids differ on 5 of 5")
    assert effect(server, second.name, served.adapters[0].name, PROMPTS).ids_differ == 5
    first = server.complete(served.adapters[0].name, [5, 6, 7], max_tokens=4).output_ids
    unload(server, second.name)
    assert server.complete(served.adapters[0].name, [5, 6, 7], max_tokens=4).output_ids == first
    with pytest.raises(RefusedError, match="does not exist"):
        server.complete(second.name, [1], max_tokens=1)


def test_a_rank_above_the_servers_is_refused(server, made, tmp_path):
    model, _ = made
    wide = LoraAdapter(tiny_models.save_adapter(tmp_path / "wide", model, rank=16))
    with pytest.raises(RefusedError, match="LoRA rank 16 is greater than max_lora_rank 8") as caught:
        load(server, wide, PROMPTS)
    assert caught.value.hint == "restart the server with --max-lora-rank 16"


def test_names_of_the_text_class_do_nothing_in_a_wrapper(server, made, family, tmp_path):
    """peft loads them with a warning and applies nothing; here they are refused, and after an export they act."""
    if family == "qwen3":
        assert inspect(LoraAdapter(made[1][0]), BaseModel(made[0])).keys == "text"
        return
    model, (*_, text) = made
    with pytest.raises(RefusedError, match="names of the text class"):
        load(server, LoraAdapter(text), PROMPTS)
    prompt = [872, 198, 6023]
    with pytest.warns(UserWarning, match="missing adapter keys"):
        assert reference(model, text, prompt, 3) == reference(model, None, prompt, 3)
    exported = export(LoraAdapter(text), tmp_path / "served", base=BaseModel(model))
    served, seen = load(server, exported, PROMPTS)
    assert seen.startswith("ids differ on 5 of 5")
    assert server.complete(served.name, prompt, max_tokens=3).output_ids == reference(model, exported.folder, prompt, 3)
    unload(server, served.name)


def test_the_command_line_serves_until_it_is_stopped(made, tmp_path):
    model, adapters = made
    port = free_port()
    words = ["serve", str(model), "--engine", "tito", "--adapter", str(adapters[0]), "--port", str(port)]
    program = "import sys; from tito.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout.readline() == f"http://127.0.0.1:{port}/v1\n"
        record = json.loads((tmp_path / "serving.json").read_text())
        started.terminate()
        _, err = started.communicate(timeout=60)
    assert started.returncode == 143
    assert "ids differ on 5 of 5 prompts" in err
    assert record["pid"] != started.pid
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)


def test_a_probe_of_a_real_student(served, tmp_path, family, capsys):
    source = {"qwen3": "qwen3", "qwen3.5": "qwen35"}[family]
    captures = made_tokenizers.TEMPLATES.parent / "captures" / source / "calls.jsonl"
    served.save(tmp_path)
    words = ["probe", "--serving", str(tmp_path), "--prompts", str(captures), "--n", "2", "--max-tokens", "8", "--json"]
    from tito.cli import main

    code = main(words)
    report = json.loads(capsys.readouterr().out)
    assert report["ids_differ"] == 2
    # The captures' prompts are what this server makes of their requests, id for id.
    assert (report["templates"]["server"], report["template_prompts"]) == (2, 2)
    assert report["templates"]["no tools"] == 0
    assert (code, report["passed"]) == (0, True)
