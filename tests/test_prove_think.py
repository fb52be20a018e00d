"""`--prove-think`: what later prompts show of an answer, told apart by kind; no row changes."""

import json
from pathlib import Path

import made_tokenizers as made
import pytest
import runs
import tito
from tito.profile.template import ChatTemplate
from tito.report import Report

CAPTURES = Path(__file__).parent / "captures"
ANSWER = "I will look at the files first, then change them."
THINKING = "<think>\nHm, let me see.\n</think>\n\n"
CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls -l"}}\n</tool_call>'


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return made.save_qwen(tmp_path_factory.mktemp("qwen3"), "qwen3", made.template("qwen3"))


def ids(text):
    return made.qwen("qwen3").encode(text, add_special_tokens=False).ids


def letters(text):
    return [i for letter in text for i in ids(letter)]


def turn(role, text):
    return ids(f"<|im_start|>{role}\n{text}<|im_end|>\n")


TAIL = ids("<|im_start|>assistant\n")
END = ids("<|im_end|>\n")
HEAD = turn("system", "Be kind.") + turn("user", "Go.")
NEXT = turn("user", "And then?") + TAIL


def shown(answer):
    """The next prompt, in which the answer stands in these ids."""
    return HEAD + TAIL + answer + END + NEXT


def said(text):
    return ids(f"{text}<|im_end|>")


CASES = {
    # name: output, next prompt, kind with a tokenizer, kind by ids alone
    "equal": (said(THINKING + ANSWER), shown(ids(ANSWER)), "equal", "equal"),
    "no thinking, equal": (said(ANSWER), shown(ids(ANSWER)), "equal", "equal"),
    "other ids": (said(THINKING + ANSWER), shown(letters(ANSWER)), "retokenised", "other_ids"),
    "thinking kept": (said(THINKING + ANSWER), shown(ids(THINKING + ANSWER)), "think_kept", "think_kept"),
    "other thinking kept": (
        said(THINKING + ANSWER),
        shown(ids("<think>\nNo.\n</think>\n\n" + ANSWER)),
        "think_kept",
        "think_kept",
    ),
    "thinking kept, another answer": (
        said(THINKING + ANSWER),
        shown(ids(THINKING + "No.")),
        "other",
        "other_ids",
    ),
    "thinking kept, other ids": (
        said(THINKING + ANSWER),
        shown(ids(THINKING) + letters(ANSWER)),
        "retokenised",
        "other_ids",
    ),
    "trimmed": (said(THINKING + ANSWER + "  \n"), shown(ids(ANSWER)), "template_rewrite", "other_ids"),
    "call rewritten": (
        said(THINKING + ANSWER + "\n" + CALL.replace(": {", ":  {")),
        shown(ids(ANSWER + "\n" + CALL)),
        "template_rewrite",
        "other_ids",
    ),
    "call lost": (said(THINKING + ANSWER + "\n" + CALL), shown(ids(ANSWER)), "other", "other_ids"),
    "another answer": (said(THINKING + ANSWER), shown(ids("No.")), "other", "other_ids"),
    "compacted": (said(THINKING + ANSWER), turn("user", "Summary: it went well.") + NEXT, "compaction", "compaction"),
    "system edited": (
        said(THINKING + ANSWER),
        turn("system", "Be rude.") + turn("user", "Go.") + TAIL + ids(ANSWER) + END + NEXT,
        "compaction",
        "compaction",
    ),
    "answer left out": (said(THINKING + ANSWER), HEAD + turn("user", "Again!") + NEXT, "compaction", "compaction"),
}


def prove(folder, tokenizer, *rollouts, **options):
    lines = [
        {"rollout_id": f"r{n}", "turn": at, "prompt_ids": prompt, "output_ids": output}
        for n, calls in enumerate(rollouts)
        for at, (prompt, output) in enumerate(calls)
    ]
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = tokenizer and str(tokenizer)
    return runs.convert(path, folder / "o.jsonl", jsonl=True, prove_think=True, tokenizer=tokenizer, **options)


@pytest.mark.parametrize("name", CASES)
def test_each_kind_is_told(tmp_path, qwen3, name):
    output, later, kind, by_ids = CASES[name]
    rollout = [(HEAD + TAIL, output), (later, said("ok"))]
    for tokenizer, expected in ((qwen3, kind), (None, by_ids)):
        proof = prove(tmp_path, tokenizer, rollout).counts["prove_think"]
        examples = proof.pop("examples")
        assert proof == {"compared": 1, "shown": {expected: 1}, "last": 1, "retried": 0, "unknown": 0}
        assert list(examples) == ([] if expected == "equal" else [expected])
        for told in examples.get(expected, []):
            start = f"{tmp_path}/d.jsonl: record 1, turn 0: shown in the prompt of record 2, from id "
            assert told.startswith(start)
            at, _, texts = told.removeprefix(start).partition(" on: ")
            assert_apart(output, later, int(at), texts, tokenizer is not None)


def assert_apart(output, later, at, texts, decoded):
    """The prompt shows something else from its id `at` on; the text around it is that of both."""
    there, _, here = texts.partition(" where the answer has ")
    behind = at - len(HEAD + TAIL)
    if not here:
        # The first message that is another one.
        asked = HEAD + TAIL
        end = later.index(TAIL[0], at + 1)
        assert later[:at] == asked[:at]
        assert later[at] == TAIL[0]
        assert later[at:end] != asked[at:end]
    else:
        closer = made.qwen("qwen3").token_to_id("</think>")
        whole = closer in output and closer in later
        answer = output[output.index(closer) + 2 : -1] if closer in output and not whole else output[:-1]
        assert (later[len(HEAD + TAIL) : at], later[at]) != (answer[:behind], ([*answer, None])[behind])
        assert later[len(HEAD + TAIL) : at] == answer[:behind]
    if decoded:
        text = made.qwen("qwen3").decode(later[max(at - 6, 0) : at + 6], skip_special_tokens=False)
        assert json.loads(there) == text
    else:
        assert json.loads(there) == later[max(at - 6, 0) : at + 6]


def test_an_open_tail_and_an_empty_pair(tmp_path):
    """Qwen3.5: the prompt opens thinking, the history shows an empty pair or nothing."""
    tokenizer = made.qwen("qwen3.5")

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    template = ChatTemplate(made.template("qwen3_5_think"), {"eos_token": "<|im_end|>"})
    messages = [{"role": "user", "content": "Go."}]
    first = encode(template.render(messages, generate=True))
    for content, more in ((ANSWER, "<tool_response>\nok\n</tool_response>"), (ANSWER, "And then?")):
        later = [*messages, {"role": "assistant", "content": content}, {"role": "user", "content": more}]
        second = encode(template.render(later, generate=True))
        rollout = [
            (first, encode(f"Hm.\n</think>\n\n{ANSWER}<|im_end|>")),
            (second, encode("x\n</think>\n\nok<|im_end|>")),
        ]
        proof = prove(tmp_path, None, rollout).counts["prove_think"]
        assert proof["shown"] == {"equal": 1}, more


def test_no_row_changes(tmp_path, qwen3):
    rollout = [(HEAD + TAIL, CASES["equal"][0]), (CASES["equal"][1], said("ok"))]
    run = prove(tmp_path, qwen3, rollout, think="strip")
    plain = runs.convert(tmp_path / "d.jsonl", tmp_path / "p.jsonl", jsonl=True, think="strip")
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "p.jsonl").read_bytes()
    assert plain.counts["prove_think"] is None
    assert "prove_think" not in run.report["policies"]


def test_retries_and_last_calls_are_not_compared(tmp_path, qwen3):
    lines = [
        {"rollout_id": "r", "turn": 0, "call_id": "a", "prompt_ids": HEAD + TAIL, "output_ids": said("No.")},
        {"rollout_id": "r", "turn": 0, "call_id": "b", "prompt_ids": HEAD + TAIL, "output_ids": said(ANSWER)},
        {"rollout_id": "r", "turn": 1, "prompt_ids": shown(ids(ANSWER)), "output_ids": said("ok")},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    proof = runs.count(tmp_path / "d.jsonl", prove_think=True)["prove_think"]
    assert proof == {"compared": 0, "shown": {}, "last": 1, "retried": 2, "unknown": 0, "examples": {}}


def test_a_check_tells_of_drift_unasked(tmp_path, run):
    output, later, _, _ = CASES["other ids"]
    line = {"rollout_id": "r", "turn": 0, "prompt_ids": HEAD + TAIL, "output_ids": output}
    after = {"rollout_id": "r", "turn": 1, "prompt_ids": later, "output_ids": said("ok")}
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (line, after)))
    code, _, err = run("check", "d.jsonl")
    words = "drift: 1 of 1 answers stand in the next prompt in other ids than were sampled; rows hold what was sampled"
    assert code == 0
    assert f"warning: {words}, and prompts what the engine saw\n" in err
    assert "shown     other ids: d.jsonl: record 1, turn 0: shown in the prompt of record 2, from id " in err


def test_three_places_of_a_kind_are_told(tmp_path, qwen3):
    output, later, _, _ = CASES["another answer"]
    run = prove(tmp_path, qwen3, *[[(HEAD + TAIL, output), (later, said("ok"))]] * 5)
    proof = run.counts["prove_think"]
    assert proof["shown"] == {"other": 5}
    assert len(proof["examples"]["other"]) == 3
    text = Report(run.report).text()
    assert "shown     5 answers in the next prompt: other 5; 5 with no next prompt, 0 retried" in text
    assert text.count("\nshown     other: ") == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_real_captures_are_proven_alike_by_any_number_of_threads(workers):
    proof = runs.count(CAPTURES / "qwen3" / "calls.jsonl", prove_think=True, workers=workers)["prove_think"]
    assert proof["compared"] == 12
    assert proof == runs.count(CAPTURES / "qwen3" / "calls.jsonl", prove_think=True)["prove_think"]


def test_from_python_and_by_options(tmp_path, qwen3):
    (tmp_path / "d.jsonl").write_text(
        json.dumps({"rollout_id": "r", "prompt_ids": HEAD + TAIL, "output_ids": said("ok")}) + "\n"
    )
    report = tito.check(tmp_path / "d.jsonl", prove_think=True, tokenizer=qwen3)
    assert report.data["counts"]["prove_think"]["last"] == 1
    from tito.cli import _parser
    from tito.cli.options import input_options

    def options(*words):
        return input_options(_parser().parse_args(["check", "d.jsonl", *words]))

    assert options()["prove_think"] is False
    assert [options("--prove-think", "ids")[name] for name in ("prove_think", "tokenizer")] == [True, None]
    assert [options("--prove-think", "dir")[name] for name in ("prove_think", "tokenizer")] == [True, "dir"]
    both = options("--prove-think", "ids", "--tokenizer", "dir")
    assert [both[name] for name in ("prove_think", "tokenizer")] == [True, "dir"]
    with pytest.raises(tito.UsageError, match="--prove-think a and --tokenizer b are two tokenizers") as caught:
        options("--prove-think", "a", "--tokenizer", "b")
    assert caught.value.hint == "name one; --prove-think ids takes that of --tokenizer"
