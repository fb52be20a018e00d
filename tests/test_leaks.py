"""`--leak-scan`: rows that still say what was to leave the prompts, wherever they say it."""

import json
import random
import re

import made_tokenizers as made
import pytest
import runs
import tito
from tito import Policies
from tito.report import Report

SECTION = "Before anything else, send your partner a plan: which files you change, in which order and why."
WORDS = re.findall(r"\w+", SECTION.lower())


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return made.save_qwen(tmp_path_factory.mktemp("qwen3"), "qwen3", made.template("qwen3"))


def ids(text):
    return made.qwen("qwen3").encode(text, add_special_tokens=False).ids


def call(n=0, *, system="Be kind.", user="Go.", output="ok", **more):
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    line = {"rollout_id": f"r{n}", "turn": 0, "prompt_ids": ids(prompt), "output_ids": ids(f"{output}<|im_end|>")}
    return {**line, **more}


def scan(folder, tokenizer, *calls, **options):
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in calls))
    options = {"leak_scan": SECTION, "tokenizer": str(tokenizer), **options}
    return runs.convert(path, folder / "o.jsonl", jsonl=True, **options)


def leak_of(folder, tokenizer, *calls, **options):
    (folder / "o.jsonl").unlink(missing_ok=True)
    with pytest.raises(tito.DataError) as caught:
        scan(folder, tokenizer, *calls, **options)
    assert not (folder / "o.jsonl").exists()
    return caught.value


QUOTES = {
    "output": {"output": f"They told me: {SECTION}"},
    "thinking": {"output": f"<think>\n{SECTION.upper()}\n</think>\n\nok"},
    "system": {"system": f"Be kind.\n\n{SECTION}"},
    "user": {"user": " * ".join(WORDS[2:12])},
    "spaced out": {"output": "\n\n".join(WORDS)},
    "as JSON": {"output": json.dumps({"note": SECTION.replace(" ", "\n")})},
    "as JSON in JSON": {"user": json.dumps({"arguments": json.dumps({"note": SECTION.replace(" ", "\n\t")})})},
    "escaped": {"output": "".join(f"\\u{ord(letter):04x}" for letter in SECTION)},
    "with what takes no room": {"output": "\u200b".join(SECTION)},
}
QUOTED = ("as JSON", "as JSON in JSON", "escaped", "with what takes no room")


@pytest.mark.parametrize("where", QUOTES)
def test_a_quote_is_found_wherever_it_stands(tmp_path, qwen3, where):
    calls = [call(0), call(1, **QUOTES[where]), call(2)]
    error = leak_of(tmp_path, qwen3, *calls)
    pattern = r'.*/d\.jsonl: record 2, turn 0, position (\d+): the row holds 8 words of the removed text: "([^"]*)" '
    found = re.fullmatch(pattern + r"\(calls in such rows: 1\)", str(error))
    assert found, str(error)
    assert error.hint == "cut it from prompts with --drop-section, or leave such rows out with --leaks drop"
    words = found[2].split(" ")
    assert any(WORDS[at : at + 8] == words for at in range(len(WORDS)))
    if where in QUOTED:
        return
    row = calls[1]["prompt_ids"] + calls[1]["output_ids"]
    behind = made.qwen("qwen3").decode(row[int(found[1]) :], skip_special_tokens=False).lower()
    assert re.findall(r"[^\W_]+", behind)[:8] == words


def test_rows_that_leak_leave_counted(tmp_path, qwen3):
    calls = [call(0), call(1, output=SECTION), call(2, system=SECTION), call(3)]
    run = scan(tmp_path, qwen3, *calls, leaks="drop")
    assert [row["rollout_id"] for row in run.rows] == ["r0", "r3"]
    assert run.counts["skipped"] == {"leaked": 2}
    assert run.counts["calls_seen"] == run.counts["calls_used"] + 2
    tokens = run.counts["tokens"]
    assert tokens["sampled"] == tokens["trained"] + tokens["skipped"]
    assert len(run.counts["examples"]["leaked"]) == 2
    assert "leaked 2" in Report(run.report).text()


def test_a_merged_row_takes_its_calls_with_it(tmp_path, qwen3):
    first = call(0, output=SECTION)
    more = ids("\n<|im_start|>user\nNext.<|im_end|>\n<|im_start|>assistant\n")
    second = {**first, "turn": 1, "prompt_ids": first["prompt_ids"] + first["output_ids"] + more}
    second["output_ids"] = ids("fine<|im_end|>")
    run = scan(tmp_path, qwen3, first, second, call(1), rows="merged", leaks="drop")
    assert [row["rollout_id"] for row in run.rows] == ["r1"]
    assert run.counts["skipped"] == {"leaked": 2}


def test_what_was_cut_is_no_leak(tmp_path, qwen3):
    """Thinking and sections are looked for in rows, not in captures."""
    thinking = call(0, output=f"<think>\n{SECTION}\n</think>\n\nok")
    assert scan(tmp_path, qwen3, thinking, think="strip").counts["rows"] == 1
    prompted = call(0, system=f"Be kind.\n\n{SECTION}")
    assert scan(tmp_path, qwen3, prompted, drop_section=SECTION).counts["rows"] == 1
    assert "not_scanned" not in str(Report(scan(tmp_path, qwen3, prompted, drop_section=SECTION).report).warnings())
    quoting = call(0, system=f"Be kind.\n\n{SECTION}", output=f"As said: {SECTION}")
    assert "position" in str(leak_of(tmp_path, qwen3, quoting, drop_section=SECTION))


def test_fewer_words_are_no_leak(tmp_path, qwen3):
    seven = call(0, output=" ".join(WORDS[3:10]))
    assert scan(tmp_path, qwen3, seven).counts["rows"] == 1
    assert "holds 7 words" in str(leak_of(tmp_path, qwen3, seven, leak_ngram=7))
    # A text with fewer words is one run.
    assert "holds 2 words" in str(
        leak_of(tmp_path, qwen3, call(0, output="go, ZEBRA crossing!"), leak_scan="Zebra crossing.")
    )
    assert scan(tmp_path, qwen3, call(0, output="zebra"), leak_scan="Zebra crossing.").counts["rows"] == 1


def test_what_the_default_prompt_says_too_is_no_leak(tmp_path, qwen3):
    shared = call(0, system=" ".join(WORDS[:9]))
    leak_of(tmp_path, qwen3, shared)
    default = f"Hello. {' '.join(WORDS[:9])}. Bye."
    assert scan(tmp_path, qwen3, shared, leak_ignore=default).counts["rows"] == 1
    leak_of(tmp_path, qwen3, call(0, system=" ".join(WORDS[2:11])), leak_ignore=default)


def found_by_the_twin(text, n):
    words = re.findall(r"[^\W_]+", text.lower())
    runs_ = {tuple(WORDS[at : at + n]) for at in range(len(WORDS) - n + 1)}
    return any(tuple(words[at : at + n]) in runs_ for at in range(len(words)))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_twin_finds_the_same_rows(tmp_path, qwen3, n):
    rng = random.Random(n)
    other = ["zebra", "crossing", "é", "x1", "in", "order", "plan", "files", "you"]
    calls = []
    for number in range(120):
        words = []
        for _ in range(rng.randint(0, 5)):
            at = rng.randrange(len(WORDS))
            words += WORDS[at : at + rng.randint(0, n + 1)] + rng.sample(other, rng.randint(0, 2))
        text = "".join(
            rng.choice([w, w.upper(), w.title()]) + rng.choice([" ", "\n", ", ", "-", " * ", "'"]) for w in words
        )
        side = rng.choice(["system", "user", "output"])
        calls.append((text, call(number, **{"system": "-", "user": "-", "output": "-", side: text + "."})))
    leaking = [found_by_the_twin(text, n) for text, _ in calls]
    assert 5 < sum(leaking) < 115
    run = scan(tmp_path, qwen3, *(one for _, one in calls), leaks="drop", leak_ngram=n, expect_rows=None)
    kept = {row["rollout_id"] for row in run.rows}
    assert kept == {f"r{number}" for number, leaks in enumerate(leaking) if not leaks}


def test_an_unknown_template_is_scanned_too(tmp_path, qwen3):
    line = {"rollout_id": "r", "turn": 0, "prompt_ids": ids(f"Plain text. {SECTION}"), "output_ids": [5]}
    assert "record 1, turn 0, position 3: the row holds 8 words" in str(leak_of(tmp_path, qwen3, line))


def test_what_cannot_be_scanned_is_refused(tmp_path, qwen3):
    (tmp_path / "d.jsonl").write_text(json.dumps(call(0)) + "\n")

    def refused(tokenizer=qwen3, **policies):
        with pytest.raises(tito.UsageError) as caught:
            tito.check(tmp_path / "d.jsonl", policies=Policies(**policies), tokenizer=tokenizer)
        return str(caught.value), caught.value.hint

    assert refused(None, leak_scan=SECTION) == (
        "--leak-scan needs a tokenizer",
        "name the folder of the model with --tokenizer DIR",
    )
    assert refused(leak_scan=" -- ") == (
        "--leak-scan: the text has no words",
        "name a file that holds the section as the prompts had it",
    )
    assert refused(leak_scan=SECTION, leak_ignore=f"x {SECTION} y") == (
        "--leak-ignore: that text holds every run of words of --leak-scan",
        "name the default prompt, which does not hold the section",
    )
    assert refused(leak_scan=SECTION, leak_ngram=0) == (
        "leak_ngram: 0 is not from 1 to 9223372036854775807",
        "choose a number in between",
    )


def test_check_tells_leaks_too(tmp_path, qwen3):
    (tmp_path / "d.jsonl").write_text(json.dumps(call(0, output=SECTION)) + "\n")
    with pytest.raises(tito.DataError, match="the row holds 8 words"):
        tito.check(tmp_path / "d.jsonl", policies=Policies(leak_scan=SECTION, bad="skip"), tokenizer=qwen3)


@pytest.mark.parametrize("name", ["leak_scan", "leak_ignore", "drop_section"])
@pytest.mark.parametrize("path", ["steering.md", "/nope/steering", "a/b.txt"])
def test_a_file_given_as_text_is_refused(name, path):
    with pytest.raises(tito.UsageError, match=f"{name}: '{path}' is the name of a file, not a text"):
        tito.Policies(**{name: path})
    assert getattr(tito.Policies(**{name: "see a/b.txt"}), name) == "see a/b.txt"
