"""`--drop-section`: a prompted capture comes out as its default-prompt twin, id for id; samples are never touched."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import made_tokenizers as made
import pytest
import reference_section as twin
import runs
import test_profile as families
import tito
from hypothesis import given
from hypothesis import strategies as st
from tito import Policies
from tito.profile import Profile
from tito.profile.template import ChatTemplate

SECTION = (
    "# How to work together\n\nBefore anything else send your partner a plan with send_message: which files you will "
    "change, in which order, and who does what.\nWait for the answer, then act on it."
)
DEFAULT = "You are a careful software engineer. You work in pairs.\n\nUse bash to look around."
TOOL = {"type": "function", "function": {"name": "bash", "description": "Runs it.", "parameters": {}}}


class Engine:
    """Renders and tokenises as a server does; answers what it is told to."""

    def __init__(self, folder, family, chat_template):
        self.tokenizer = made.qwen(family)
        self.folder = made.save_qwen(folder, family, made.template(chat_template))
        self.template = ChatTemplate(made.template(chat_template), {"eos_token": "<|im_end|>"})
        self.profile = json.loads(Profile.from_tokenizer(self.folder, name=family).to_json())

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, messages, **more):
        return self.ids(self.template.render(messages, generate=True, **more))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return Engine(tmp_path_factory.mktemp("qwen3"), "qwen3", "qwen3")


@pytest.fixture(scope="module")
def qwen35(tmp_path_factory):
    return Engine(tmp_path_factory.mktemp("qwen3.5"), "qwen3.5", "qwen3_5_think")


def dump(path, *rollouts):
    """Rollouts of (prompt, output) pairs as native lines."""
    lines = [
        {"rollout_id": f"r{n}", "turn": turn, "prompt_ids": prompt, "output_ids": output}
        for n, calls in enumerate(rollouts)
        for turn, (prompt, output) in enumerate(calls)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def cut(folder, engine, *rollouts, section=SECTION, output="o.jsonl", **options):
    return runs.convert(
        dump(folder / "d.jsonl", *rollouts),
        folder / output,
        jsonl=output.endswith("l"),
        drop_section=section,
        tokenizer=str(engine.folder),
        profile=engine.profile,
        **options,
    )


def conversation(engine, system, user="Fix the bug.", tools=None, quote=""):
    """Three calls of one rollout; the outputs are the same whatever the system prompt says."""
    answers = [f"<think>\nI should look{quote}.\n</think>\n\nLooking.{quote}", "Found it.", "Done."]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    calls = []
    for n, answer in enumerate(answers):
        prompt = engine.prompt(messages, tools=tools)
        calls.append((prompt, engine.ids(answer + "<|im_end|>")))
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": f"Output {n}: ok"}]
    return calls


# What a harness does with a section, and what it does without one.
HARNESSES = {
    "appended": lambda default, section: f"{default}\n\n{section}" if section else default,
    "appended by a line": lambda default, section: f"{default}\n{section}" if section else default,
    "appended with a last newline": lambda default, section: f"{default}\n\n{section}\n" if section else f"{default}\n",
    "prepended": lambda default, section: f"{section}\n\n{default}" if section else default,
    "in between": lambda default, section: default.replace("\n\n", f"\n\n{section}\n\n") if section else default,
    "between lines": lambda d, section: f"{d}\n- one\n{section}\n- two" if section else f"{d}\n- one\n- two",
    "before indented code": lambda d, section: f"{d}\n\n{section}\n\n    code()" if section else f"{d}\n\n    code()",
    "in the middle of a line": lambda d, section: f"{d} ({section}) Go." if section else f"{d} () Go.",
    "twice": lambda d, section: f"{section}\n\n{d}\n\n{section}" if section else d,
    "twice in a row": lambda d, section: f"{d}\n\n{section}\n\n{section}\n\nGo." if section else f"{d}\n\nGo.",
}


@pytest.mark.parametrize("harness", HARNESSES)
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["plain", "tools"])
def test_a_prompted_rollout_comes_out_as_its_default_twin(tmp_path, qwen3, harness, tools):
    write = HARNESSES[harness]
    prompted = conversation(qwen3, write(DEFAULT, SECTION), tools=tools)
    default = conversation(qwen3, write(DEFAULT, ""), tools=tools)
    run = cut(tmp_path, qwen3, prompted)
    assert [(row["input_ids"], row["output_ids"]) for row in run.rows] == default
    counts = run.counts["section"]
    assert (counts["calls_with"], counts["calls_without"], counts["unproven"], counts["whole"]) == (3, 0, 0, 0)
    assert counts["pure"] + counts["reencoded"] == 3
    assert counts["sections"] == 3 * (2 if "twice" in harness else 1)
    assert [row["flags"] & tito.calls.Flag.PROMPT_EXACT for row in run.rows] == [0, 0, 0]


def test_both_ways_of_cutting_happen(tmp_path, qwen3):
    ways = {
        # "pairs.\n\n" is one id behind the period, whatever comes behind it.
        "pure": "You work in pairs.\n\nX\n\nGo.",
        # Without the section "(" and ")" are one id.
        "reencoded": "Call it by (X) and so on.",
    }
    for kind, system in ways.items():
        calls = conversation(qwen3, system.replace("X", "zebra crossing"))
        run = cut(tmp_path, qwen3, calls, section="zebra crossing")
        assert {k: n for k, n in run.counts["section"].items() if n} == {"calls_with": 3, "sections": 3, kind: 3}
        default = conversation(qwen3, system.replace("X\n\n", "").replace("X", ""))
        assert [row["input_ids"] for row in run.rows] == [prompt for prompt, _ in default]


def test_a_pure_cut_leaves_every_other_id(tmp_path, qwen3):
    calls = conversation(qwen3, f"{SECTION}\n\n{DEFAULT}")
    run = cut(tmp_path, qwen3, calls)
    for row, (prompt, _) in zip(run.rows, calls, strict=True):
        new = row["input_ids"]
        gone = len(prompt) - len(new)
        assert any(prompt[:at] + prompt[at + gone :] == new for at in range(len(new) + 1))


def test_a_message_that_is_nothing_else_leaves_whole(tmp_path, qwen3):
    prompted = conversation(qwen3, SECTION + "\n")
    run = cut(tmp_path, qwen3, prompted)
    text = "<|im_start|>system\n" + SECTION + "\n<|im_end|>\n"
    expected = [prompt[len(qwen3.ids(text)) :] for prompt, _ in prompted]
    assert [row["input_ids"] for row in run.rows] == expected
    assert run.counts["section"]["whole"] == 3


def test_a_section_leaves_user_messages_too(tmp_path, qwen3):
    prompted = conversation(qwen3, DEFAULT, user=f"Fix the bug.\n\n{SECTION}")
    run = cut(tmp_path, qwen3, prompted)
    assert [(row["input_ids"], row["output_ids"]) for row in run.rows] == conversation(qwen3, DEFAULT)


def test_samples_that_quote_the_section_stay(tmp_path, qwen3):
    prompted = conversation(qwen3, f"{DEFAULT}\n\n{SECTION}", quote=f": {SECTION}")
    default = conversation(qwen3, DEFAULT, quote=f": {SECTION}")
    run = cut(tmp_path, qwen3, prompted)
    assert [(row["input_ids"], row["output_ids"]) for row in run.rows] == default


# Merged rows


def growing(engine, system):
    """Calls that continue one another id for id: prompts are made of ids, as token-in, token-out harnesses do."""
    prompt = engine.prompt([{"role": "system", "content": system}, {"role": "user", "content": "Go."}])
    calls = []
    for n in range(4):
        output = engine.ids(f"Step {n}: {SECTION if n == 1 else 'fine'}.<|im_end|>")
        calls.append((prompt, output))
        more = (
            f"\n<|im_start|>user\nNext: {SECTION} and go on.<|im_end|>\n"
            if n == 2
            else "\n<|im_start|>user\nNext.<|im_end|>\n"
        )
        prompt = prompt + output + engine.ids(more + "<|im_start|>assistant\n")
    return calls


@pytest.mark.parametrize("rows", ["merged", "auto"])
def test_merged_rows_lose_the_section_and_keep_every_sample(tmp_path, qwen3, rows):
    calls = growing(qwen3, f"{DEFAULT}\n\n{SECTION}")
    run = cut(tmp_path, qwen3, calls, rows=rows)
    [row] = run.rows
    for call, (_, output) in zip(row["calls"], calls, strict=True):
        assert row["input_ids"][call["start"] : call["end"]] == output
    assert [(s, e) for s, e, _ in row["loss_spans"]] == [(c["start"], c["end"]) for c in row["calls"]]
    assert row["flags"] & tito.calls.Flag.PROMPT_EXACT == 0
    whole, kinds = twin.cut_prompt(calls[-1][0], SECTION, qwen3.tokenizer, qwen3.profile)
    assert len(kinds) == 2
    assert row["input_ids"] == whole + calls[-1][1]
    # The rows of single calls are the beginnings of the merged one.
    alone = cut(tmp_path, qwen3, calls, output="p.jsonl").rows
    for one, call in zip(alone, row["calls"], strict=True):
        assert row["input_ids"][: call["end"]] == one["input_ids"] + one["output_ids"]


def test_a_sampled_turn_is_no_message(tmp_path, qwen3):
    """An output that runs on into a made-up user turn was sampled, whatever it looks like."""
    calls = growing(qwen3, f"{DEFAULT}\n\n{SECTION}")
    prompt, _ = calls[0]
    ran_on = qwen3.ids(f"Hm.<|im_end|>\n<|im_start|>user\n{SECTION}\n\nIs that so?<|im_end|>")
    more = qwen3.ids("\n<|im_start|>user\nNext.<|im_end|>\n<|im_start|>assistant\n")
    rollout = [(prompt, ran_on), (prompt + ran_on + more, qwen3.ids("Yes.<|im_end|>"))]
    [row] = cut(tmp_path, qwen3, rollout, rows="merged").rows
    first = row["calls"][0]
    assert row["input_ids"][first["start"] : first["end"]] == ran_on
    assert row["input_ids"][: first["start"]] == twin.cut_prompt(prompt, SECTION, qwen3.tokenizer, qwen3.profile)[0]


def test_spilled_rollouts_come_out_the_same(tmp_path, qwen3):
    rollouts = [conversation(qwen3, HARNESSES[h](DEFAULT, SECTION)) for h in ("appended", "prepended", "in between")]
    plain = cut(tmp_path, qwen3, *rollouts).rows
    lines = (tmp_path / "d.jsonl").read_text().splitlines()
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines[0::3] + lines[1::3] + lines[2::3]) + "\n")
    options = {"drop_section": SECTION, "tokenizer": str(qwen3.folder), "profile": qwen3.profile}
    mixed = runs.convert(tmp_path / "mixed.jsonl", tmp_path / "m.jsonl", jsonl=True, workers=2, **options).rows
    ids = [(row["rollout_id"], row["input_ids"], row["output_ids"]) for row in plain]
    assert [(row["rollout_id"], row["input_ids"], row["output_ids"]) for row in mixed] == ids


# The twin


@given(st.lists(st.sampled_from(["X", " ", "\n", "\n\n", "a", "b c", ".", "    "]), max_size=9).map("".join))
def test_the_twin_s_rule_leaves_all_other_text(text):
    made_text, count = twin.without(text, "X")
    assert re.sub(r"\s+", "", made_text) == re.sub(r"\s+", "", text).replace("X", "")
    assert count == text.count("X")
    assert "X" not in made_text


def test_any_message_is_cut_as_the_twin_cuts_it(tmp_path, qwen3, qwen35):
    parts = [
        "a",
        "The end.",
        "\n",
        "\n\n",
        " ",
        "    ",
        "- item",
        "é日本",
        "<think>",
        "don't",
        "12",
        "\t",
        "()",
        "(",
        ")",
        ".",
        "--",
        "word",
    ]
    rng = random.Random(5)
    for engine, section in ((qwen3, "zebra crossing"), (qwen35, "Plan first.\n\nThen act"), (qwen3, "(x)")):
        calls = []
        for n in range(150):
            bodies = []
            for _ in range(rng.randint(1, 3)):
                body = "".join(rng.choices([*parts, section, section, f"({section})"], k=rng.randint(1, 8)))
                while twin.inside_word(body, section):
                    body = "".join(rng.choices([*parts, section, section, f"({section})"], k=rng.randint(1, 8)))
                bodies.append(body)
            text = "".join(f"<|im_start|>{rng.choice(['system', 'user', 'tool'])}\n{b}<|im_end|>\n" for b in bodies)
            prompt = engine.ids(f"{text}<|im_start|>user\n{n}<|im_end|>\n<|im_start|>assistant\n")
            calls.append((prompt + ([248068, 198] if engine is qwen35 else []), engine.ids("ok<|im_end|>")))
        run = cut(tmp_path, engine, *([call] for call in calls), section=section)
        kinds = []
        for row, (prompt, output) in zip(run.rows, calls, strict=True):
            expected, how = twin.cut_prompt(prompt, section, engine.tokenizer, engine.profile)
            assert row["input_ids"] == expected, engine.tokenizer.decode(prompt, skip_special_tokens=False)
            assert row["output_ids"] == output
            kinds += how
        counts = run.counts["section"]
        assert counts["pure"] + counts["reencoded"] + counts["whole"] == len(kinds)
        assert counts["whole"] == kinds.count("whole")
        # Of several cuts in a message the twin says pure only where they make one gap.
        assert counts["pure"] >= kinds.count("pure") > 20
        assert counts["reencoded"] > 20
        assert counts["unproven"] == 0


# Other families

FAMILIES = [
    (case.name, case.family)
    for case in families.CASES
    # Three take no system message that is plain text; the last writes text of its own before it, and nobody can tell
    # whose joint is whose where a section stands first in it.
    if case.name not in ("llava_next", "smolvlm", "gemma", "cohere2")
]


@pytest.mark.parametrize(("name", "family"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_every_template_comes_out_as_its_default_twin(tmp_path, name, family):
    tokenizer = families.tokenizer(family)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = ChatTemplate(families.chat_template(name), families.special(family))
    profile = json.loads(families.profile(name, family).to_json())
    now = families.datetime(2026, 1, 2)

    def prompt(system):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "Go on."}]
        text = template.render(messages, generate=True, now=now)
        return tokenizer.encode(text, add_special_tokens=False).ids

    section = "Tell your partner first what you plan, then do it."
    try:
        default = [prompt("You are kind."), prompt("You are kind.\n\nBe short.")]
    except Exception as refused:
        pytest.fail(f"the template takes no system message: {refused}")
    prompted = [
        prompt(f"You are kind.\n\n{section}"),
        prompt(f"You are kind.\n\n{section}\n\nBe short."),
        prompt(f"{section}\n\nYou are kind."),
    ]
    stop = profile["stop_ids"][:1]
    path = dump(tmp_path / "d.jsonl", *([(ids, [5, *stop])] for ids in prompted))
    options = {"drop_section": section, "tokenizer": str(tmp_path), "profile": profile}
    run = runs.convert(path, tmp_path / "o.jsonl", jsonl=True, **options)
    assert [row["input_ids"] for row in run.rows] == [default[0], default[1], default[0]]
    assert run.counts["section"]["calls_with"] == 3
    assert run.counts["section"]["unproven"] == 0


# What is counted, and what is refused


def test_prompts_without_the_section_are_counted(tmp_path, qwen3):
    rollouts = conversation(qwen3, f"{DEFAULT}\n\n{SECTION}"), conversation(qwen3, DEFAULT)
    run = cut(tmp_path, qwen3, *rollouts)
    assert [row["input_ids"] for row in run.rows[:3]] == [row["input_ids"] for row in run.rows[3:]]
    assert [row["flags"] & 2 for row in run.rows] == [0, 0, 0, 2, 2, 2]
    counts = run.counts["section"]
    assert (counts["calls_with"], counts["calls_without"]) == (3, 3)
    report = tito.report.Report(run.report)
    assert "section   stood in 3 of 6 prompts, 3 times; cut: 3 messages" in report.text()
    names = [warning.split(":")[0] for warning in report.warnings()]
    assert [name for name in names if "section" in name or "scan" in name] == ["section_missing", "not_scanned"]


def test_a_section_that_is_nowhere_is_an_error(tmp_path, qwen3):
    with pytest.raises(tito.DataError) as caught:
        cut(tmp_path, qwen3, conversation(qwen3, DEFAULT))
    assert str(caught.value) == "--drop-section: the text occurs in no prompt of 3 calls"
    assert caught.value.hint == (
        "it must stand in the prompts word for word, line ends included; print one with `tito show --tokenizer DIR`"
    )
    assert not (tmp_path / "o.jsonl").exists()


def test_without_a_tokenizer_or_a_text_it_is_refused(tmp_path, qwen3):
    path = dump(tmp_path / "d.jsonl", conversation(qwen3, DEFAULT))
    with pytest.raises(tito.UsageError, match="--drop-section needs a tokenizer") as caught:
        tito.convert(path, tmp_path / "o.parquet", policies=Policies(drop_section="x"))
    assert caught.value.hint == "name the folder of the model with --tokenizer DIR"
    with pytest.raises(tito.UsageError, match="--drop-section: the text is empty"):
        tito.convert(path, tmp_path / "o.parquet", policies=Policies(drop_section=" \n"), tokenizer=qwen3.folder)


@pytest.mark.parametrize(
    ("section", "system", "inside"),
    [
        ("B", "Be kind.", True),
        ("kind", "Be unkind.", True),
        ("Be kind", "Be kind2me.", True),
        ("zebra", "Say zebrazebra_.", True),
        ("Be kind", "Be kind.", False),
        ("zebra", "Say zebrazebra.", False),
        ("说", "请说话。", False),
    ],
)
def test_a_section_ends_where_words_end(tmp_path, qwen3, section, system, inside):
    calls = conversation(qwen3, system)
    assert twin.inside_word(system, section) == inside
    if not inside:
        assert cut(tmp_path, qwen3, calls, section=section).counts["section"]["calls_with"] == 3
        return
    with pytest.raises(tito.DataError) as caught:
        cut(tmp_path, qwen3, calls, section=section)
    assert str(caught.value) == (
        f"{tmp_path}/d.jsonl: record 1, turn 0: the prompt holds the section with an end inside a word: cutting it "
        "would leave half of the word (bad calls: section_uncut 3)"
    )
    assert caught.value.hint == "mend the capture, or leave bad calls out, counted, with --bad skip"


def split_oddly(engine, text):
    """Ids of the text that no tokenizer makes: letter by letter."""
    return [i for letter in text for i in engine.ids(letter)]


def test_ids_that_the_tokenizer_does_not_make_are_cut_between_ids_or_not_at_all(tmp_path, qwen3):
    head, tail = qwen3.ids("<|im_start|>system\n"), qwen3.ids("<|im_end|>\n<|im_start|>assistant\n")
    odd = head + split_oddly(qwen3, "Be kind.\n\nzebra\n\nGo.") + tail
    output = qwen3.ids("ok<|im_end|>")
    run = cut(tmp_path, qwen3, [(odd, output)], section="zebra")
    assert run.rows[0]["input_ids"] == head + split_oddly(qwen3, "Be kind.\n\nGo.") + tail
    assert run.counts["section"]["unproven"] == 1
    assert any(w.startswith("section_unproven: 1 messages") for w in tito.report.Report(run.report).warnings())
    # "()" is an id that begins before the section.
    stuck = head + split_oddly(qwen3, "Call f") + qwen3.ids("() and") + split_oddly(qwen3, " go.") + tail
    clean = head + split_oddly(qwen3, "Call f() and go.") + tail
    with pytest.raises(tito.DataError) as caught:
        cut(tmp_path, qwen3, [(stuck, output)], section=") and")
    assert str(caught.value) == (
        f"{tmp_path}/d.jsonl: record 1, turn 0: the prompt holds the section, its edge lies inside an id, and the "
        "tokenizer does not make these ids of the message's text (bad calls: section_uncut 1)"
    )
    left = cut(tmp_path, qwen3, [(stuck, output)], [(clean, output)], section=") and", bad="skip")
    assert left.counts["skipped"] == {"section_uncut": 1}


def test_with_other_policies_it_goes_together(tmp_path, qwen35):
    """Cut thinking, rewritten tail and cut section do not get in one another's way."""
    prompted = conversation(qwen35, f"{DEFAULT}\n\n{SECTION}")
    default = conversation(qwen35, DEFAULT)
    for think in ("strip", "strip-all", "mask"):
        options = {"think": think, "tail": "captured" if think == "mask" else "no-think", "unterminated": "keep"}
        with_it = cut(tmp_path, qwen35, prompted, **options).rows
        path = dump(tmp_path / "d.jsonl", default)
        without_it = runs.convert(path, tmp_path / "p.jsonl", jsonl=True, profile=qwen35.profile, **options).rows
        names = ("input_ids", "output_ids", "loss_spans")
        assert [[row[name] for name in names] for row in with_it] == [[r[name] for name in names] for r in without_it]


def test_the_text_travels_with_the_rows(tmp_path, qwen3):
    run = cut(tmp_path, qwen3, conversation(qwen3, f"{DEFAULT}\n\n{SECTION}"), output="o.parquet")
    stored = json.loads(tito.open_rows(tmp_path / "o.parquet").metadata["tito.policies"])
    assert stored["drop_section"] == SECTION
    assert f"drop_section=({len(SECTION)} characters)" in tito.report.Report(run.report).text()


def test_from_the_command_line(tmp_path, qwen3):
    dump(tmp_path / "d.jsonl", conversation(qwen3, f"{DEFAULT}\n\n{SECTION}"))
    (tmp_path / "section.md").write_text(SECTION + "\n")
    main = "import sys; from tito.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "convert", "d.jsonl", "-o", "o.parquet", "--drop-section", "section.md"]
    (tmp_path / "default.md").write_text(DEFAULT)
    more = ["--tokenizer", str(qwen3.folder), "--leak-scan", "section.md", "--leak-ignore", "default.md"]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = json.loads(tito.open_rows(tmp_path / "o.parquet").metadata["tito.policies"])
    assert (stored["leak_scan"], stored["leak_ignore"]) == (SECTION + "\n", DEFAULT)
    rows = tito.open_rows(tmp_path / "o.parquet")
    assert [row.input_ids.tolist() for row in rows] == [prompt for prompt, _ in conversation(qwen3, DEFAULT)]
    missing = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (missing.returncode, missing.stderr) == (
        2,
        "error: --drop-section needs a tokenizer\nhint: name the folder of the model with --tokenizer DIR\n",
    )
    (tmp_path / "section.md").unlink()
    gone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (gone.returncode, gone.stderr.splitlines()[0]) == (3, "error: section.md: No such file or directory")


def test_a_rollout_in_memory_goes_the_same_way(qwen3):
    calls = conversation(qwen3, f"{DEFAULT}\n\n{SECTION}")
    given_calls = [tito.Call(prompt_ids=p, output_ids=o, turn=n, rollout_id="r") for n, (p, o) in enumerate(calls)]
    rows = tito.expand_turns(given_calls, policies=Policies(drop_section=SECTION), tokenizer=qwen3.folder)
    assert [row.input_ids.tolist() for row in rows] == [prompt for prompt, _ in conversation(qwen3, DEFAULT)]


def test_a_path_is_read_as_the_file_s_text(tmp_path):
    (tmp_path / "s.md").write_text(SECTION)
    assert Policies(drop_section=Path(tmp_path / "s.md")) == Policies(drop_section=SECTION)
    (tmp_path / "b.md").write_bytes(b"\xff")
    with pytest.raises(tito.UsageError, match=r"drop_section: .*b\.md: not UTF-8 text") as caught:
        Policies(drop_section=tmp_path / "b.md")
    assert caught.value.hint == "name a text file"
