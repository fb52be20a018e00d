"""The reference twin, its golden file, and the laws that the twin itself must keep."""

import importlib.util
import json
import random
from pathlib import Path

import pytest
import reference

GOLDEN = Path(__file__).parent / "golden"
DATA = json.loads((GOLDEN / "think.json").read_text(encoding="utf-8"))
OPENED = ("yes", "pair", "no", "unknown")


def by_name(cases):
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", by_name(DATA["cases"]))
def test_twin_finds_what_the_file_says(case):
    profile = DATA["profiles"][case["profile"]]
    found = reference.find_think(case["output"], case["opened"], profile)
    assert found.pop("spans") == case["spans"]
    assert {flag for flag, on in found.items() if on} == set(case["flags"])
    assert reference.strip_think(case["output"], case["opened"], profile) == case["expected"]


@pytest.mark.parametrize("case", by_name(DATA["prompts"]))
def test_twin_reads_prompts_as_the_file_says(case):
    profile, prompt = DATA["profiles"][case["profile"]], case["prompt"]
    stripped, counts = reference.strip_all(prompt, profile)
    assert reference.opened_by(prompt, profile) == case["opened"]
    assert reference.tail_of(prompt, profile) == case["tail"]
    assert reference.turn_starts(prompt, profile) == case["turn_starts"]
    assert reference.assistant_turns(prompt, profile) == case["assistant_turns"]
    assert stripped == (prompt if case["strip_all"] is None else case["strip_all"])
    assert counts == case["counts"]
    assert reference.no_think_tail(prompt, profile) == case["no_think_tail"]
    for max_len, dropped in case["trims"]:
        assert reference.trim_prompt(prompt, max_len, profile) == dropped


def test_the_file_is_what_the_generator_writes():
    spec = importlib.util.spec_from_file_location("generate_think", GOLDEN / "generate_think.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert (GOLDEN / "think.json").read_text(encoding="utf-8") == generator.text()


@pytest.mark.parametrize("name", ["qwen3", "harmony", "split", "joins", "joins-ordinary-closer"])
def test_twin_strips_once_and_for_all(name):
    profile = DATA["profiles"][name]
    markers = [profile[key] for key in ("think_open", "think_close", "tool_open")]
    alphabet = sorted({one for marker in markers for way in marker for one in way} | {0, *profile["after_close"]})
    dice = random.Random(name)
    for _ in range(300):
        output = dice.choices(alphabet, k=dice.randint(0, 20))
        stripped = reference.strip_think(output, dice.choice(OPENED), profile)
        assert reference.strip_think(stripped, "no", profile) == stripped, output
