"""Calls that come twice, calls that contradict each other, two tokenizers in one dump."""

import json

import dumps
import pytest
import runs
import tito
from tito import DataError, _core

RETRIED = 256


def test_the_same_call_twice_is_one(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(0), dumps.line(1), dumps.line(0))
    run = runs.convert(dump, tmp_path / "o.parquet")
    assert run.counts["skipped"] == {"duplicate": 2}
    assert [row["call_id"] for row in run.rows] == ["c0", "c1"]
    assert [row["flags"] & RETRIED for row in run.rows] == [0, 0]
    assert run.counts["examples"]["duplicate"] == [
        f"{dump}: record 2, turn 0: the same call came before",
        f"{dump}: record 4, turn 0: the same call came before",
    ]


def test_the_same_call_in_two_formats_is_one(tmp_path):
    response = dumps.reply(0)
    native = dumps.line(0, prompt_ids=response["prompt_token_ids"], output=response["choices"][0]["token_ids"])
    one = dumps.write(tmp_path / "a.jsonl", native)
    other = dumps.write(tmp_path / "b.jsonl", dumps.logged(0), dumps.logged(1))
    run = runs.convert([one, other], tmp_path / "o.parquet")
    assert (run.counts["skipped"], len(run.rows)) == ({"duplicate": 1}, 2)


def test_one_id_with_two_contents_is_an_error(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(0, output=[5, 151645]), dumps.line(1))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet")
    message = "the same call id came before with other ids (bad calls: contradicting_ids 1)"
    assert str(caught.value) == f"{dump}: record 2, turn 0: {message}"
    run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    assert [row["call_id"] for row in run.rows] == ["c0", "c1"]


@pytest.mark.parametrize(
    ("first", "second", "retold"),
    [
        ({}, {}, 0),
        ({"finish": "stop"}, {}, 0),
        ({"finish": "stop"}, {"finish": "length"}, 1),
        ({"kind": "solver"}, {"kind": "helper"}, 1),
        ({}, {"parse_error": True}, 1),
        ({"parse_error": True}, {}, 1),
        ({"turn": 0}, {"turn": 3}, 1),
        ({"turn": 0}, {"turn": None}, 0),
    ],
)
def test_a_call_that_comes_twice_and_is_told_otherwise_is_counted(tmp_path, first, second, retold):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, **first), dumps.line(0, **second), dumps.line(1))
    report = tito.convert(dump, tmp_path / "o.parquet")
    assert (report.skipped["duplicate"], report.data["counts"]["retold"]) == (1, retold)
    told = [warning for warning in report.warnings() if warning.startswith("retold")]
    words = "of 1 call a second line has the same ids and another rollout, finish, kind, turn or parse error"
    assert told == [f"retold: {words}; the first line counts"] * retold


def test_choices_of_a_reply_share_its_id(tmp_path):
    choices = [{"index": n, "finish_reason": "stop", "token_ids": [7, n, 151645]} for n in range(2)]
    dump = dumps.write(tmp_path / "d.jsonl", dumps.logged(0, dumps.reply(0, choices=choices, usage=None)))
    run = runs.convert(dump, tmp_path / "o.parquet")
    assert [row["output_ids"][1] for row in run.rows] == [0, 1]
    assert all(row["turn"] == 0 and row["flags"] & RETRIED for row in run.rows)


def test_equal_ids_under_two_names_are_counted_and_kept(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(0, call_id="other", turn=1))
    run = runs.convert(dump, tmp_path / "o.parquet")
    assert (len(run.rows), run.counts["repeated_ids"]) == (2, 1)
    assert len({row["capture_hash"] for row in run.rows}) == 1


def test_a_prompt_that_was_saved_with_the_output_is_told(tmp_path):
    whole = dumps.line(0, output_ids=[*dumps.prompt(0), *dumps.OUTPUT])
    report = tito.convert(dumps.write(tmp_path / "d.jsonl", whole, dumps.line(1)), tmp_path / "o.parquet")
    assert report.data["counts"]["prompt_in_output"] == 1
    assert any(warning.startswith("prompt_in_output: 1 output begins") for warning in report.warnings())


def test_one_reply_in_two_rollouts_is_one_call_and_told(tmp_path):
    lines = [dumps.logged(0, session_id=name) for name in ("a", "b")]
    report = tito.convert(dumps.write(tmp_path / "d.jsonl", *lines), tmp_path / "o.parquet")
    assert report.skipped == {"duplicate": 1}
    assert report.data["counts"]["retold"] == 1


def test_what_a_call_is_hashed_by(tmp_path):
    """xxhash.xxh3_128(struct.pack(f"<{len(ids)}iQ", *ids, len(prompt))), ids = prompt + output, by its own package."""
    rows = runs.convert(dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(3)), tmp_path / "o.parquet").rows
    assert [row["capture_hash"] for row in rows] == [
        "00cc0d16a6737f353d7e49bb1a82507a",
        "1f9013016bfafdccf3d40acef65aa558",
    ]


def test_a_line_without_id_is_told_by_its_time(tmp_path):
    line = dumps.line(0, call_id=None, started=5.0)
    dump = dumps.write(tmp_path / "d.jsonl", line, line, dumps.line(0, call_id=None, started=6.0))
    assert runs.convert(dump, tmp_path / "o.parquet").counts["skipped"] == {"duplicate": 1}


def test_a_retry_is_told_among_prompts_of_one_length(tmp_path):
    lines = [dumps.line(n, prompt_ids=dumps.prompt(n % 2)) for n in range(3)]
    rows = runs.convert(dumps.write(tmp_path / "d.jsonl", *lines), tmp_path / "o.parquet").rows
    assert [bool(row["flags"] & RETRIED) for row in rows] == [True, False, True]


def qwen35(n, **more):
    ids = {"prompt_ids": [*dumps.PROMPT_35[:3], n, *dumps.PROMPT_35[3:]], "output_ids": [9, 248046]}
    return json.dumps({"rollout_id": "s", "turn": n, "call_id": f"d{n}", **ids, **more})


def test_two_tokenizers_are_refused(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), qwen35(7), dumps.line(1))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    place = f"{dump}: record 2, turn 7"
    message = f"two tokenizers or templates in one dump: qwen3.5 here, qwen3 at {dump}: record 1, turn 0"
    assert str(caught.value) == f"{place}: {message}"
    assert caught.value.hint == "convert them apart, or give each its own file with --group-by identity"
    assert runs.left_behind(tmp_path) == ["d.jsonl"]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_two_tokenizers_get_a_file_each(tmp_path, workers, shared):
    more = {} if shared else {"rollout_id": None}
    lines = [make(n, **more) for n in range(3) for make in (dumps.line, qwen35)]
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    options = json.loads(runs.options_json(dump, tmp_path / "o.parquet", group_by="identity", workers=workers))
    report = json.loads(_core.convert(json.dumps(options), _core.Progress()))
    assert [(file["file"], file["rows"]) for file in report["outputs"]] == [
        (str(tmp_path / "o.qwen3.parquet"), 3),
        (str(tmp_path / "o.qwen3.5.parquet"), 3),
    ]
    for name, first in (("qwen3", 151644), ("qwen3.5", 248045)):
        assert all(row["input_ids"][0] == first for row in runs.read_rows(tmp_path / f"o.{name}.parquet"))
    assert runs.left_behind(tmp_path) == ["d.jsonl", "o.parquet.manifest.json", "o.qwen3.5.parquet", "o.qwen3.parquet"]


UNKNOWN = {"prompt_ids": [1, 2, 3], "output_ids": [4, 5, 6]}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"think": "strip"}, "--think"),
        ({"think": "mask"}, "--think"),
        ({"max_length": 9, "overlong": "trim-prompt"}, "--overlong trim-prompt"),
    ],
)
def test_an_unknown_tokenizer_is_refused_by_what_must_know_it(tmp_path, options, name):
    dump = dumps.write(tmp_path / "d.jsonl", json.dumps({**UNKNOWN, "turn": 3}))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet", **options)
    what = "must know the tokenizer, and no built-in profile fits a prompt that ends in [1, 2, 3]"
    assert str(caught.value) == f"{dump}: record 1, turn 3: {name} {what}"
    expected = "name it with --profile TOKENIZER_DIR (or a file made by `tito profile`); --think keep needs none"
    assert caught.value.hint == expected
    run = runs.convert(dump, tmp_path / "o.parquet")
    assert (run.rows[0]["output_ids"], run.counts["identities"]) == ([4, 5, 6], {"unknown": 1})


def test_without_a_profile_the_finish_word_tells_truncation(tmp_path):
    lines = [json.dumps({**UNKNOWN, "finish": word, "call_id": word}) for word in ("stop", "length")]
    run = runs.convert(dumps.write(tmp_path / "d.jsonl", *lines), tmp_path / "o.parquet")
    assert (run.counts["skipped"], [row["call_id"] for row in run.rows]) == ({"truncated": 1}, ["stop"])
    assert run.counts["truncation_judged"] == {"by_last_id": 0, "by_finish": 2, "by_nothing": 0}


def test_a_given_profile_must_fit(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet", think="strip", profile=runs.QWEN35)
    what = "--think needs a prompt that ends in an assistant turn of profile qwen3.5; this one ends in "
    assert str(caught.value) == f"{dump}: record 1, turn 0: {what}[151645, 198, 151644, 77091, 198]".replace(
        "[151645", "[13048, 151645"
    )
    assert caught.value.hint == "give the profile of the tokenizer and template that made the captures"


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_choices_on_lines_of_their_own_share_a_turn(tmp_path, order):
    made = [
        dumps.line(0, turn=None, started=1.0, choice=0),
        dumps.line(0, turn=None, started=1.0, choice=1, output=[5, 151645]),
        dumps.line(1, turn=None, started=2.0),
    ]
    dump = dumps.write(tmp_path / "d.jsonl", *(made[n] for n in order))
    rows = runs.convert(dump, tmp_path / "o.parquet").rows
    assert [(row["call_id"], row["turn"], len(row["output_ids"])) for row in rows] == [
        ("c0", 0, 3),
        ("c0", 0, 2),
        ("c1", 1, 3),
    ]
