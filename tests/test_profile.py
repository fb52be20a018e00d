"""Profiles derived from real templates: what each template does, read off by rendering it.

Expectations are texts; a test decodes the ids of the profile. Real tokenizers stand behind Qwen and DeepSeek, stand-ins
with the family's special tokens behind the rest (see `made_tokenizers`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import subprocess
import sys
import types
from datetime import datetime
from pathlib import Path
from typing import Any

import made_tokenizers as made
import pytest
from tito.errors import WorldError
from tito.profile import Profile, ProfileError
from tito.profile.probe import derive
from tito.profile.source import Source, newline_ids, read_source, template_hash, tokenizer_hash
from tito.profile.template import ChatTemplate
from tokenizers import AddedToken, Tokenizer

ROOT = Path(__file__).parents[1]
BUILT_IN = ROOT / "rust/tito-core/src/ids/profiles"

CHATML, QWEN_OFF = "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"
LLAMA = "<|start_header_id|>assistant<|end_header_id|>\n\n"
ASSISTANT, USER = "<｜Assistant｜>", "<｜User｜>"

# Special tokens of families whose tokenizer is in no package: first begin-of-text, second end-of-text.
STAND_INS = {
    "llama": "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|>",
    "mistral": "<s> </s>",
    "glm": "[gMASK] <|endoftext|> <sop> <|system|> <|user|> <|assistant|> <|observation|> <think> </think> <tool_call> "
    "</tool_call> <tool_response> </tool_response> <arg_key> </arg_key> <arg_value> </arg_value>",
    "harmony": "<|startoftext|> <|return|> <|constrain|> <|channel|> <|start|> <|end|> <|message|> <|call|>",
    "gemma": "<bos> <eos> <start_of_turn> <end_of_turn>",
    "gemma4": "<bos> <eos> <|turn> <turn|> <|channel> <channel|> <|tool_call> <tool_call|> <|tool_response> "
    '<tool_response|> <|think|> <|"|>',
    "nemotron": "<s> <|im_end|> <|im_start|> <think> </think> <tool_call> </tool_call>",
    "phi": "<s> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|>",
    "cohere": "<BOS_TOKEN> <|END_OF_TURN_TOKEN|> <|START_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> "
    "<|SYSTEM_TOKEN|> <|START_RESPONSE|> <|END_RESPONSE|>",
    "lfm2": "<|startoftext|> <|im_end|> <|im_start|> <|tool_call_start|> <|tool_call_end|> <think> </think>",
    "muse": "<|begin_of_text|> <|end_of_text|> <|start|> <|message|> <|eom|> <|eot|>",
    "smolvlm": "<|im_start|> <end_of_utterance>",
    "kimi": "[BOS] <|im_end|> <|im_user|> <|im_assistant|> <|im_system|> <|im_middle|> <think> </think>",
    "minimax": "]~!b[ [e~[ ]~b]",
    "magistral": "<s> </s> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CALLS] [ARGS] [TOOL_RESULTS] "
    "[/TOOL_RESULTS] [THINK] [/THINK]",
    "plain": "<s> </s> <|im_start|> <|im_end|>",
}


def tokenizer(family: str) -> Tokenizer:
    if family == "deepseek":
        return made.deepseek()
    return made.stand_in(tuple(STAND_INS[family].split())) if family in STAND_INS else made.qwen(family)


def special(family: str) -> dict[str, str]:
    if family == "deepseek":
        return {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
    if family in STAND_INS:
        bos, eos = STAND_INS[family].split()[:2]
        return {"bos_token": bos, "eos_token": eos}
    return {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


# Templates that no package holds, as changes of such that one does.
CHANGED = {
    "qwen3_thinking_2507": (
        "qwen3",
        "'<|im_start|>assistant\\n' }}\n    {%- if en",
        "'<|im_start|>assistant\\n<think>\\n' }}\n    {%- if un",
    ),
    "deepseekv31": (
        "deepseekv3",
        "{{'<｜Assistant｜><think>\\n'}}",
        "{{'<｜Assistant｜>'}}{% if thinking %}{{'<think>'}}{% else %}{{'</think>'}}{% endif %}",
    ),
    "glm47": (
        "glm4moe",
        "{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}",
        "{{- '</think>' if (enable_thinking is defined and not enable_thinking) else '<think>' -}}",
    ),
}

# Templates in the manner of families that neither TRL nor a package holds.
WRITTEN = {
    "kimi": (
        "{% if messages[0].role != 'system' %}<|im_system|>system<|im_middle|>You are Kimi<|im_end|>{% endif %}"
        "{% for m in messages %}<|im_{{ m.role if m.role in ['user', 'assistant'] else 'system' }}|>{{ m.role }}"
        "<|im_middle|>{% if m.role == 'assistant' %}<think>{{ m.reasoning_content if loop.last }}</think>{% endif %}"
        "{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|><think>"
        "{% if thinking is defined and not thinking %}</think>{% endif %}{% endif %}"
    ),
    "minimax": (
        "]~!b[]~b]system\n{{ messages[0].content if messages[0].role == 'system' else 'You help.' }}[e~[\n"
        "{% for m in messages if m.role != 'system' %}]~b]{{ 'ai' if m.role == 'assistant' else m.role }}\n"
        "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
        "{{ m.content }}{% for t in m.tool_calls or [] %}\n<minimax:tool_call>\n<invoke name={{ t.function.name }}>\n"
        "{{ t.function.arguments | tojson }}</invoke>\n</minimax:tool_call>{% endfor %}[e~[\n{% endfor %}"
        "{% if add_generation_prompt %}{{ ']~b]ai\n<think>\n' }}{% endif %}"
    ),
    "magistral": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
        "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]"
        "{% else %}{% if m.reasoning_content %}[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}"
        "{{ m.content }}{% for t in m.tool_calls or [] %}[TOOL_CALLS]{{ t.function.name }}[ARGS]"
        "{{ t.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
    ),
}


def chat_template(name: str) -> str:
    if name in WRITTEN:
        return WRITTEN[name]
    if name not in CHANGED:
        return made.template(name)
    base, old, new = CHANGED[name]
    text = made.template(base)
    assert old in text
    return text.replace(old, new)


@functools.cache
def profile(name: str, family: str) -> Profile:
    return Profile(**derive(Source(name, tokenizer(family), chat_template(name), special(family), (), None)))


@dataclasses.dataclass(frozen=True)
class Case:
    """What a template does, as text."""

    name: str
    family: str
    assistant: tuple[str, ...]
    """Assistant starts; the tail with thinking on is the longest one, then `on`."""
    start: tuple[str, ...]
    end: tuple[str, ...]
    stop: tuple[str, ...]
    prompt: str
    """The prompt's start; of a long one, three dots and its end."""
    on: str = ""
    off: str | None = None
    open: str | None = None
    close: str | None = None
    lone: bool = True
    tool: str | None = None


def chatml(name: str, family: str, prompt: str = "<|im_start|>", **more: Any) -> Case:
    end = ("<|im_end|>",)
    return Case(name, family, (CHATML,), ("<|im_start|>",), end, end, prompt, **more)


def llama(name: str, prompt: str) -> Case:
    end = ("<|eot_id|>",)
    return Case(name, "llama", (LLAMA,), ("<|start_header_id|>",), end, (*end, "<|end_of_text|>"), prompt)


def gemma4(name: str, *, resumes: bool = True) -> Case:
    more = "<|tool_response>"
    return Case(
        name,
        "gemma4",
        ("<|turn>model\n", *(["<tool_response|>"] if resumes else [])),
        ("<|turn>", *([more] if resumes else [])),
        ("<turn|>",),
        ("<turn|>", *([more] if resumes else []), "<eos>"),
        "<bos><|turn>",
        open="<|channel>thought",
        close="<channel|>",
        tool="<|tool_call>",
    )


def deepseek(name: str, on: str, off: str | None = None) -> Case:
    end = ("<｜end▁of▁sentence｜>",)
    return Case(
        name,
        "deepseek",
        (ASSISTANT, "<｜tool▁outputs▁end｜>"),
        (USER, ASSISTANT, "<｜tool▁outputs▁begin｜>"),
        end,
        end,
        "<｜begin▁of▁sentence｜>",
        on=on,
        off=off,
        open="<think>",
        close="</think>",
        tool="<｜tool▁calls▁begin｜>",
    )


def glm(name: str, on: str, off: str) -> Case:
    starts = ("<|user|>", "<|assistant|>", "<|system|>", "<|observation|>")
    stops = ("<|user|>", "<|observation|>", "<|endoftext|>")
    return Case(
        name,
        "glm",
        ("<|assistant|>",),
        starts,
        (),
        stops,
        "[gMASK]<sop>",
        on=on,
        off=off,
        open="<think>",
        close="</think>",
        tool="<tool_call>",
    )


THINK = {"open": "<think>", "close": "</think>"}
QWEN = {**THINK, "tool": "<tool_call>"}
INST = (" [/INST]",), (" [/INST]", "<<SYS>>\n", " [INST]", "[INST]")
KIMI = "<|im_assistant|>assistant<|im_middle|>"
TURN, SAID = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"

CASES = [
    chatml("qwen2_5", "qwen2.5", prompt="<|im_start|>system", tool="<tool_call>"),
    chatml("qwen2_5_vl", "qwen2.5", prompt="<|im_start|>system"),
    chatml("qwen3", "qwen3", off=QWEN_OFF, **QWEN),
    chatml("qwen3_instruct_2507", "qwen3", tool="<tool_call>"),
    chatml("qwen3_thinking_2507", "qwen3", on="<think>\n", **QWEN),
    chatml("qwen3_vl", "qwen3", tool="<tool_call>"),
    chatml("qwen3_5_think", "qwen3.5", on="<think>\n", off=QWEN_OFF, **QWEN),
    chatml("qwen3_5_nothink", "qwen3.5", on="<think>\n", off=QWEN_OFF, **QWEN),
    chatml("qwen3_6", "qwen3.5", on="<think>\n", off=QWEN_OFF, **QWEN),
    chatml("qwen3_8", "qwen3.5", on="<think>\n", off=QWEN_OFF, **QWEN),
    deepseek("deepseekv3", "<think>\n"),
    deepseek("deepseek_r1_distill", "<think>\n"),
    deepseek("deepseekv31", "<think>", ASSISTANT + "</think>"),
    glm("glm4moe", "", "<|assistant|>\n<think></think>"),
    glm("glm47", "<think>", "<|assistant|></think>"),
    Case(
        "gptoss",
        "harmony",
        ("<|start|>assistant",),
        ("<|start|>",),
        ("<|end|>", "<|call|>"),
        ("<|return|>", "<|call|>"),
        "...Current date: ",
        open="<|channel|>analysis<|message|>",
        close="<|end|><|start|>assistant",
        lone=False,
        tool="<|channel|>commentary",
    ),
    Case(
        "muse_glimmer",
        "muse",
        ("<|start|>assistant",),
        ("<|start|>",),
        ("<|eot|>",),
        ("<|eot|>", "<|end_of_text|>"),
        "<|begin_of_text|><|start|>system<|message|>",
        open=" to=self<|message|>",
        close="<|eom|><|start|>assistant",
        lone=False,
        tool="<|message|><atem:function_calls>\n",
    ),
    *(gemma4(name) for name in ("gemma4", "gemma4_v3", "gemma4_v4", "gemma4_v5", "diffusion_gemma")),
    gemma4("gemma4_v2", resumes=False),
    Case(
        "gemma",
        "gemma",
        ("<start_of_turn>model\n",),
        ("<start_of_turn>",),
        ("<end_of_turn>",),
        ("<end_of_turn>", "<eos>"),
        "<bos><start_of_turn>user\n",
    ),
    Case(
        "gemma3",
        "gemma",
        ("<start_of_turn>model\n",),
        ("<start_of_turn>",),
        ("<end_of_turn>",),
        ("<end_of_turn>", "<eos>"),
        "<bos><start_of_turn>user",
    ),
    *(
        chatml(
            name, "nemotron", "<|im_start|>system", on="<think>\n", off="<|im_start|>assistant\n<think></think>", **QWEN
        )
        for name in ("nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra", "nemotron_3_5_lightning")
    ),
    llama("llama3", "<|begin_of_text|><|start_header_id|>"),
    llama("llama3_1", "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"),
    llama("llama3_2", "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"),
    *(
        Case(
            name,
            "phi",
            ("<|assistant|>\n",),
            ("<|user|>", "<|assistant|>", "<|system|>"),
            ("<|end|>",),
            ("<|end|>", "<|endoftext|>"),
            "",
        )
        for name in ("phi3", "phi3_5")
    ),
    Case("cohere", "cohere", (TURN + "<|CHATBOT_TOKEN|>",), (TURN,), (SAID,), (SAID,), "<BOS_TOKEN>" + TURN),
    Case(
        "cohere2",
        "cohere",
        (TURN + "<|CHATBOT_TOKEN|><|START_RESPONSE|>",),
        (TURN,),
        (SAID,),
        (SAID,),
        "...When generating code output without specifying the programming language, please generate Python code",
    ),
    chatml("lfm2", "lfm2", prompt="<|startoftext|><|im_start|>"),
    chatml("lfm2_training", "lfm2", prompt="<|startoftext|><|im_start|>"),
    chatml("lfm2_v2", "lfm2", prompt="<|startoftext|><|im_start|>", tool="<|tool_call_start|>"),
    *(
        chatml(name, "lfm2", prompt="<|startoftext|><|im_start|>", tool="<|tool_call_start|>", **THINK)
        for name in ("lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl")
    ),
    Case(
        "smolvlm",
        "smolvlm",
        ("Assistant:",),
        ("Assistant:", "User:", "System:"),
        ("<end_of_utterance>",),
        ("<end_of_utterance>",),
        "<|im_start|>",
    ),
    Case(
        "kimi",
        "kimi",
        (KIMI,),
        ("<|im_user|>", "<|im_assistant|>", "<|im_system|>"),
        ("<|im_end|>",),
        ("<|im_end|>",),
        "<|im_system|>system<|im_middle|>",
        on="<think>",
        off=KIMI + "<think></think>",
        **THINK,
    ),
    Case(
        "minimax",
        "minimax",
        ("]~b]ai\n",),
        ("]~b]",),
        ("[e~[",),
        ("[e~[",),
        "]~!b[]~b]system",
        on="<think>\n",
        tool="<minimax:tool_call>",
        **THINK,
    ),
    Case(
        "magistral",
        "magistral",
        ("[/INST]", "[/TOOL_RESULTS]"),
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[TOOL_RESULTS]"),
        ("</s>",),
        ("</s>",),
        "<s>",
        open="[THINK]",
        close="[/THINK]",
        tool="[TOOL_CALLS]",
    ),
    Case("llava_next", "mistral", *INST, ("</s>",), ("</s>",), ""),
]


PAIRS = {"qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8", "glm4moe", "kimi"}
"""Templates that write the no-thinking tail's pair into earlier answers; the nemotron ones do so too."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_earlier_answers_without_reasoning(case: Case) -> None:
    assert profile(case.name, case.family).history_pair == (case.name in PAIRS or case.name.startswith("nemotron"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_template_does(case: Case) -> None:
    got, decode = profile(case.name, case.family), tokenizer(case.family).decode

    def text(ids: tuple[int, ...]) -> str:
        return decode(list(ids), skip_special_tokens=False)

    def texts(marker: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
        return tuple(text(ids) for ids in marker)

    assert texts(got.assistant_start) == case.assistant
    assert sorted(texts(got.turn_start)) == sorted(case.start)
    assert texts(got.turn_end) == case.end
    assert tuple(text((i,)) for i in got.stop_ids) == case.stop
    start = text(got.prompt_start)
    assert start == case.prompt or (case.prompt.startswith("...") and start.endswith(case.prompt[3:]))
    assert text(got.tail_think) == case.assistant[0] + case.on
    assert (got.tail_no_think and text(got.tail_no_think)) == case.off
    # A marker with white space around it in its own tokens has several spellings; the one looked for is there.
    for marker, wanted in ((got.think_open, case.open), (got.think_close, case.close), (got.tool_open, case.tool)):
        assert wanted in texts(marker) if wanted else marker == ()
    assert got.lone_close is case.lone


def test_every_template_here_is_in_the_table() -> None:
    assert {path.stem for path in made.TEMPLATES.glob("*.jinja")} <= {case.name for case in CASES}


def test_markers_that_are_one_token_are_one_id() -> None:
    for case in CASES:
        got = profile(case.name, case.family)
        if case.open == "<think>" and case.name != "minimax":
            assert [len(ids) for ids in (*got.think_open, *got.think_close)] == [1, 1], case.name


# The published ids of each family.
IDS = {
    "qwen2.5": {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<tool_call>": 151657},
    "qwen3": {
        "<|im_end|>": 151645, "<tool_call>": 151657, "</tool_call>": 151658, "<tool_response>": 151665,
        "<think>": 151667, "</think>": 151668, "\n": 198, "\n\n": 271, "assistant": 77091, "user": 872, "system": 8948,
        "tool": 14172,
    },
    "qwen3.5": {
        "<|endoftext|>": 248044, "<|im_start|>": 248045, "<|im_end|>": 248046, "<tool_call>": 248058,
        "<tool_response>": 248066, "<think>": 248068, "</think>": 248069, "\n": 198, "\n\n": 271, "assistant": 74455,
        "user": 846, "system": 8678, "tool": 13766,
    },
    "deepseek": {
        "<｜begin▁of▁sentence｜>": 0, "<｜end▁of▁sentence｜>": 1, "<｜User｜>": 128803, "<｜Assistant｜>": 128804,
        "<think>": 128821, "</think>": 128822, "\n": 201,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", IDS)
def test_the_made_tokenizers_have_the_published_ids(family: str) -> None:
    encode = tokenizer(family).encode
    assert {text: encode(text, add_special_tokens=False).ids for text in IDS[family]} == {
        text: [i] for text, i in IDS[family].items()
    }


def test_the_made_tokenizers_are_whole() -> None:
    assert [made.qwen(name).get_vocab_size() for name in ("qwen2.5", "qwen3", "qwen3.5")] == [151665, 151669, 248077]
    merges = [len(json.loads(made.qwen(name).to_str())["model"]["merges"]) for name in ("qwen3", "qwen3.5")]
    assert merges == [151387, 247587]  # as many as the published files hold


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model directories by built-in name."""
    at = tmp_path_factory.mktemp("models")
    return {name: made.save_qwen(at / name, name, made.template(t)) for name, t in made.BUILT_IN.items()}


@pytest.mark.parametrize("name", made.BUILT_IN)
def test_built_in_profiles_are_the_derived_ones(name: str, models: dict[str, Path]) -> None:
    derived = Profile.from_tokenizer(models[name])
    assert derived == Profile.load(BUILT_IN / f"{name}.json")
    assert (BUILT_IN / f"{name}.json").read_text() == derived.to_json()


def test_built_in_profiles_match_the_real_tokenizers() -> None:
    for name, think, tool, end, text_end in (
        ("qwen3", (151667, 151668), 151657, 151645, 151643),
        ("qwen3.5", (248068, 248069), 248058, 248046, 248044),
    ):
        got = Profile.load(BUILT_IN / f"{name}.json")
        assert (got.think_open, got.think_close, got.tool_open) == (((think[0],),), ((think[1],),), ((tool,),))
        assert got.stop_ids == (end, text_end)
        assert got.after_close[:2] == (198, 271)
        decoded = [made.qwen(name).decode([i]) for i in got.after_close]
        assert all(text and set(text) == {"\n"} for text in decoded)
        assert (got.vocab_size, got.id_limit) == ((151669, 151936) if name == "qwen3" else (248077, 248320))


@pytest.mark.parametrize(("folder", "name"), [("qwen3", "qwen3"), ("qwen35", "qwen3.5")])
def test_real_captures_fit_the_built_in_profiles(folder: str, name: str) -> None:
    calls = ROOT / "tests/captures" / folder / "calls.jsonl"
    got, tok = Profile.load(BUILT_IN / f"{name}.json"), made.qwen(name)
    seen = closed = 0
    for line in calls.read_text(encoding="utf-8").splitlines():
        response = json.loads(line)["response"]
        prompt = response["prompt_token_ids"]
        assert tuple(prompt[: len(got.prompt_start)]) == got.prompt_start
        assert tuple(prompt[-len(got.tail_think) :]) == got.tail_think
        # Prompts are tokenised text, so tokenising their text gives them back; sampled ids need not be.
        assert tok.encode(tok.decode(prompt, skip_special_tokens=False), add_special_tokens=False).ids == prompt
        for choice in response["choices"]:
            output = choice["token_ids"]
            assert max(output) < got.vocab_size
            assert output[-1] in got.stop_ids or choice["finish_reason"] == "length"
            closed += got.think_close[0][0] in output
        seen += 1
    assert seen > 30
    assert closed > 10  # the others think to the end or not at all


# Rendering


MESSAGES = {
    "plain": [{"role": "user", "content": "Hi <b>&\n"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Größe?"}],
    "talk": [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two", "reasoning_content": "r", "reasoning": "r", "thinking": "r"},
        {"role": "user", "content": "Three"},
    ],
    "tools": [
        {"role": "user", "content": "List"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "abcdef123",
                    "type": "function",
                    "function": {"name": "ls", "arguments": {"path": "ü", "n": True}},
                }
            ],
        },
        {"role": "tool", "content": "a.py", "tool_call_id": "abcdef123", "name": "ls"},
    ],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "ls",
        "description": "Lists <files> & folders",
        "parameters": {"type": "object", "properties": {"path": {"type": "string", "description": "Päth"}}},
    },
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_renders_as_transformers_does(case: Case) -> None:
    from transformers import PreTrainedTokenizerFast

    text, tokens = chat_template(case.name), special(case.family)
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(made.stand_in(("<s>",)).to_str()), **tokens)
    ours = ChatTemplate(text, tokens)
    same = 0
    for messages in MESSAGES.values():
        for generate in (False, True):
            for options in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
                for tools in (None, [TOOL]):
                    try:
                        want = theirs.apply_chat_template(
                            messages,
                            chat_template=text,
                            tokenize=False,
                            tools=tools,
                            add_generation_prompt=generate,
                            **options,
                        )
                    except Exception as error:
                        with pytest.raises(type(error), match=re.escape(str(error))):
                            ours.render(messages, generate=generate, tools=tools, **options)
                        continue
                    assert ours.render(messages, generate=generate, tools=tools, **options) == want
                    same += 1
    assert same >= 12


def test_a_template_gets_the_day_it_is_given() -> None:
    ours = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", {})
    assert ours.render([], now=datetime(2024, 2, 29)) == "2024-02-29"


def test_generation_blocks_and_loop_controls() -> None:
    inner = "{% if loop.index > 2 %}{% break %}{% endif %}{% generation %}{{ m.role }}{% endgeneration %}"
    text = "{% for m in messages %}" + inner + "{% endfor %}"
    assert ChatTemplate(text, {}).render([{"role": role} for role in "abc"]) == "ab"


def test_templates_run_in_a_sandbox() -> None:
    with pytest.raises(Exception, match="unsafe"):
        ChatTemplate("{{ ''.__class__.__mro__ }}", {}).render([])
    with pytest.raises(Exception, match="unsafe"):
        ChatTemplate("{% set x = messages.append(1) %}", {}).render([])


# Reading


def test_every_kind_of_source_gives_the_same_profile(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    text, tok = made.template("glm4moe"), tokenizer("glm")
    tokens = {"eos_token": "<|endoftext|>"}
    directory = made.save_model(tmp_path / "glm", tok, text, special=tokens)
    want = Profile.from_tokenizer(directory)
    assert want.name == "glm"
    assert Profile.from_tokenizer(str(directory)) == want
    assert Profile.from_tokenizer(directory / "tokenizer.json", chat_template=text) == want
    assert Profile.from_tokenizer(directory / "tokenizer.json", chat_template=directory / "chat_template.jinja") == want
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, chat_template=text, **tokens)
    assert Profile.from_tokenizer(fast, name="glm") == want
    loaded = PreTrainedTokenizerFast.from_pretrained(directory)
    assert Profile.from_tokenizer(loaded) == want
    assert Profile.from_tokenizer(directory, name="other") == dataclasses.replace(want, name="other")


def test_where_a_template_may_stand(tmp_path: Path) -> None:
    tok, text = tokenizer("plain"), made.template("qwen3")
    config = {"eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}}
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}]
    directory = made.save_model(tmp_path / "m", tok, None, special={**config, "chat_template": named})  # type: ignore[dict-item]
    assert read_source(directory).chat_template == text
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": text + " "}))
    assert read_source(directory).chat_template == text + " "
    (directory / "chat_template.jinja").write_text(text + "  ")
    assert read_source(directory).chat_template == text + "  "
    assert read_source(directory, chat_template="given").chat_template == "given"
    assert read_source(directory).special == {"eos_token": "<|im_end|>"}


def test_the_files_beside_a_tokenizer_count(tmp_path: Path) -> None:
    tok = tokenizer("plain")
    directory = made.save_model(tmp_path / "m", tok, made.template("qwen3"), eos=[3, 0], rows=99_999)
    got = Profile.from_tokenizer(directory)
    assert got.stop_ids == (tok.token_to_id("<|im_end|>"), 3, 0)
    assert (got.vocab_size, got.id_limit) == (8_004, 99_999)
    (directory / "generation_config.json").write_text('{"eos_token_id": 7}')
    (directory / "config.json").write_text('{"text_config": {"vocab_size": 20480}}')
    assert read_source(directory).stop_ids == (7,)
    assert read_source(directory).model_ids == 20480


def test_a_smaller_embedding_than_the_tokenizer_does_not_lower_the_limit(tmp_path: Path) -> None:
    got = Profile.from_tokenizer(
        made.save_model(
            tmp_path / "m", tokenizer("plain"), made.template("qwen3"), special={"eos_token": "</s>"}, rows=100
        )
    )
    assert got.id_limit == got.vocab_size == 8_004


# Identity


def test_one_merge_changes_the_tokenizer_hash_and_padding_does_not(tmp_path: Path) -> None:
    tok = tokenizer("plain")
    parts = json.loads(tok.to_str())
    merges = parts["model"]["merges"]
    old = tokenizer_hash(tok)

    def changed(**model: Any) -> str:
        return tokenizer_hash(Tokenizer.from_str(json.dumps({**parts, "model": {**parts["model"], **model}})))

    assert changed() == old
    assert changed(merges=[f"{a} {b}" for a, b in merges]) == old
    assert changed(merges=[merges[1], merges[0], *merges[2:]]) != old
    longer = Tokenizer.from_str(tok.to_str())
    longer.add_tokens([AddedToken("<new>", special=False)])
    assert tokenizer_hash(longer) != old
    rows = [
        Profile.from_tokenizer(made.save_model(tmp_path / f"m{n}", tok, made.template("qwen3"), rows=n))
        for n in (10_100, 30_000)
    ]
    assert rows[0].tokenizer_hash == rows[1].tokenizer_hash == old
    assert rows[0].id_limit != rows[1].id_limit


def test_the_template_hash_sees_text_not_line_endings() -> None:
    assert template_hash("a\r\nb") == template_hash("a\nb") == template_hash("a\rb")
    assert template_hash("a\nb ") != template_hash("a\nb")
    # The hash that the published Qwen3 template is known by.
    known = "sha256:a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8"
    assert template_hash(made.template("qwen3")) == known


def test_only_newlines_follow_a_closer() -> None:
    tok = tokenizer("plain")
    texts = {tok.decode([i]) for i in newline_ids(tok, 8_004)}
    assert {"\n", "\n\n"} <= texts
    assert all(set(text) == {"\n"} for text in texts)


# Markers of ordinary ids


@pytest.mark.parametrize("name", ["qwen3", "qwen3_6", "nemotron_3_nano", "lfm2_2_5"])
def test_think_tags_that_are_no_tokens_are_found_in_every_context(name: str) -> None:
    tok = tokenizer("plain")
    got = profile(name, "plain")
    assert [len(ids) for ids in got.think_close] == sorted((len(ids) for ids in got.think_close), reverse=True)
    for thought in ("I see", "I see.", "I see.\n", "I see\n", "f(x)", ""):
        for behind in ("", "\n", "\n\n", "\n\nAnswer", " Answer"):
            ids = tuple(tok.encode(f"<think>\n{thought}</think>{behind}", add_special_tokens=False).ids)
            assert any(ids[: len(opener)] == opener for opener in got.think_open)
            held = [c for c in got.think_close if any(ids[n : n + len(c)] == c for n in range(len(ids)))]
            assert held, (thought, behind)
            assert all("Answer" not in tok.decode(list(c)) for c in held)


# Refusals: what is not understood is said, not guessed


PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}TAIL{% endif %}"
)
SWITCH = "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}OFF{% else %}ON{% endif %}"


def chat(tail: str) -> str:
    return PLAIN.replace("TAIL", tail)


REFUSALS = {
    "raises": (
        "{{ raise_exception('no thanks') }}",
        "tiny: the chat template fails on a plain conversation: no thanks",
    ),
    "mute": ("hello", "tiny: the chat template does not show what user and assistant say"),
    "no generation prompt": (
        chat(""),
        r"tiny: no assistant header: the generation prompt has '<|im_end|>\n' behind the user's text, a conversation "
        r"has '<|im_end|>\n<|im_start|>assistant\n' before the answer",
    ),
    "another header": (
        chat("<s>bot\n"),
        r"tiny: no assistant header: the generation prompt has '<|im_end|>\n<s>bot\n' behind the user's text, a "
        r"conversation has '<|im_end|>\n<|im_start|>assistant\n' before the answer",
    ),
    "strange tail": (
        chat("<|im_start|>assistant\n<muse>\n"),
        r"tiny: the generation prompt ends in '<|im_start|>assistant\n<muse>\n': what stands behind "
        r"'<|im_start|>assistant\n' is no think marker that a render shows",
    ),
    "swapped": (
        chat(SWITCH.replace("OFF", "<think>\n").replace("ON", "<think>\n\n</think>\n\n")),
        r"tiny: thinking on and off contradict each other: the generation prompt ends in "
        r"'<|im_start|>assistant\n<think>\n\n</think>\n\n' with thinking on, in '<|im_start|>assistant\n<think>\n' "
        r"with thinking off",
    ),
    "three tails": (
        chat(
            "<|im_start|>assistant\n{% if enable_thinking is not defined %}<think>{% elif enable_thinking %}<think>\n"
            "{% else %}</think>{% endif %}"
        ),
        r"tiny: the generation prompt is '<|im_start|>assistant\n<think>' by default, "
        r"'<|im_start|>assistant\n<think>\n' with thinking on and '<|im_start|>assistant\n</think>' off",
    ),
    "bare reasoning": (
        chat("<|im_start|>assistant\n").replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}"),
        r"tiny: reasoning is rendered without markers around it: "
        r"'Quokka<|im_end|>\n<|im_start|>assistant\nNarwhalIbex<|im_end|>\n'",
    ),
    "joined": (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        "tiny: one id covers the end of '<' and the start of the header behind it",
    ),
    "does not compile": (
        "{% if %}",
        "the chat template does not compile: Expected an expression, got 'end of statement block'",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refusals(what: str) -> None:
    text, message = REFUSALS[what]
    tok = tokenizer("plain")
    with pytest.raises(ProfileError) as caught:
        derive(Source("tiny", tok, text, {"eos_token": "</s>"}, (), None))
    assert str(caught.value) == message
    assert caught.value.hint in (
        "write the profile by hand (start from a built-in one) or give the template the model was served with",
        "repair it, or give another",
    )


def test_an_output_that_nothing_ends_is_refused() -> None:
    tok = made.stand_in(())
    with pytest.raises(ProfileError) as caught:
        derive(Source("tiny", tok, chat("<|im_start|>assistant\n"), {}, (), None))
    assert str(caught.value) == (
        "tiny: no id is known that ends an answer: the turn end is no added token, no eos_token is set"
    )


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    tok = tokenizer("plain")
    bare = made.save_model(tmp_path / "bare", tok, None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{}")
    give = "give the template with chat_template= (its text, or a Path to it)"
    refused: list[tuple[object, str, str]] = [
        (
            tmp_path / "none",
            f"{tmp_path}/none: no such directory or file",
            "name a directory with a tokenizer.json; nothing is downloaded",
        ),
        (
            tmp_path / "empty",
            f"{tmp_path}/empty: no tokenizer.json",
            "save a fast tokenizer there: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        ),
        (bare, f"{bare}: no chat template in chat_template.jinja, chat_template.json or tokenizer_config.json", give),
        (bare / "tokenizer.json", f"{bare}/tokenizer.json: a tokenizer file holds no chat template", give),
        (object(), "object is not a fast tokenizer", "pass a directory, a tokenizer.json or a fast tokenizer"),
    ]
    for source, message, hint in refused:
        with pytest.raises(ProfileError) as caught:
            Profile.from_tokenizer(source)
        assert (str(caught.value), caught.value.hint) == (message, hint)
    with pytest.raises(ProfileError, match=r"broken\.json: not a tokenizer: "):
        Profile.from_tokenizer(tmp_path / "broken.json", chat_template="x")
    (bare / "generation_config.json").write_text("{")
    with pytest.raises(ProfileError, match=r"generation_config\.json: Expecting property name"):
        Profile.from_tokenizer(bare, chat_template="x")


# The file


def test_json_round_trip(tmp_path: Path) -> None:
    for case in CASES[:20]:
        got = profile(case.name, case.family)
        assert Profile.from_json(got.to_json()) == got
        got.save(tmp_path / "p.json")
        assert Profile.load(tmp_path / "p.json") == got
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_a_built_in_profile_comes_from_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    core = types.SimpleNamespace(built_in_profile=lambda name: (BUILT_IN / f"{name}.json").read_text())
    monkeypatch.setitem(sys.modules, "tito._core", core)
    assert Profile.named("qwen3.5") == Profile.load(BUILT_IN / "qwen3.5.json")


def test_the_fields_are_those_of_the_core() -> None:
    rust = (ROOT / "rust/tito-core/src/ids/profile.rs").read_text()
    struct = rust[rust.index("pub struct Profile {") : rust.index("const BUILT_IN")]
    assert re.findall(r"pub (\w+):", struct) == [field.name for field in dataclasses.fields(Profile)]


REMAKE = "make one with `tito profile TOKENIZER_DIR -o FILE`"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "profile 'qwen3': version 2 is not 1"),
        ({"think_open": []}, "profile 'qwen3': think_open and think_close must both be there or both be empty"),
        ({"turn_end": [[]]}, "profile 'qwen3': a marker is empty"),
        ({"id_limit": 5}, "profile 'qwen3': id_limit 5 is below vocab_size 151669"),
        ({"stop_ids": [151936]}, "profile 'qwen3': id 151936 is outside 0..151936"),
        ({"tail_no_think": [-1]}, "profile 'qwen3': id -1 is outside 0..151936"),
        ({"stop_ids": [True]}, "not a profile: stop_ids must be a list of ids"),
        ({"turn_end": [1]}, "not a profile: turn_end must be a list of lists of ids"),
        ({"tail_no_think": "x"}, "not a profile: tail_no_think must be a list of ids or null"),
        ({"lone_close": 1}, "not a profile: lone_close must be a boolean"),
        ({"name": None}, "not a profile: name must be a text"),
        ({"vocab_size": 1.5}, "not a profile: vocab_size must be a number"),
        ({"colour": "red"}, "not a profile: unknown field 'colour'"),
    ],
)
def test_profiles_that_are_none(change: dict[str, object], message: str, tmp_path: Path) -> None:
    value = json.loads((BUILT_IN / "qwen3.json").read_text())
    with pytest.raises(ProfileError) as caught:
        Profile.from_json(json.dumps({**value, **change}))
    assert (str(caught.value), caught.value.hint) == (message, REMAKE)
    (tmp_path / "p.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(ProfileError) as caught:
        Profile.load(tmp_path / "p.json")
    assert str(caught.value) == f"{tmp_path}/p.json: {message}"


def test_texts_that_are_no_profile() -> None:
    for text, message in (
        ("{", "not a profile: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "not a profile: a JSON object was wanted, not list"),
        ("{}", "not a profile: missing field 'version'"),
    ):
        with pytest.raises(ProfileError) as caught:
            Profile.from_json(text)
        assert str(caught.value) == message


def test_importing_the_module_loads_no_tokenizer_library() -> None:
    code = "import sys, tito.profile; print({'tokenizers', 'jinja2', 'transformers', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = made.save_model(tmp_path / "m", tokenizer("plain"), made.template("qwen3"))
    for package, message in (
        ("tokenizers", "reading a tokenizer needs tokenizers"),
        ("jinja2", "rendering a chat template needs jinja2"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(WorldError) as caught:
                Profile.from_tokenizer(directory)
        assert (str(caught.value), caught.value.hint) == (message, "in the checkout: pip install '.[profile]'")
