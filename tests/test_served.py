"""What a log says of its engine is held against the profile, and against what other logs say."""

import json

import dumps
import pytest
import tito
from runs import QWEN3

OTHER = "sha256:0123"
TOKENIZER, TEMPLATE = QWEN3["tokenizer_hash"], QWEN3["template_hash"]


def log(folder, *engines):
    """A log of one segment an engine, each with one call."""
    for number, (tokenizer, template) in enumerate(engines, 1):
        identity = {"tito_log": 1, "type": "identity", "engine": "vllm"}
        identity |= {"tokenizer_hash": tokenizer} if tokenizer else {}
        identity |= {"template_hash": template} if template else {}
        call = dumps.logged(number, session_id=f"r{number}", tito_log=1, type="call")
        dumps.write(folder / f"calls-{number:06}.jsonl", json.dumps(identity), call)
    return folder


def refused(folder, profile=None, **policies):
    with pytest.raises(tito.DataError) as told:
        tito.convert(folder, folder / "out" / "rows.parquet", policies=tito.Policies(**policies), profile=profile)
    assert not (folder / "out").exists() or not list((folder / "out").iterdir())
    return str(told.value).replace(str(folder), "LOG"), told.value.hint


@pytest.fixture(autouse=True)
def out(tmp_path):
    (tmp_path / "out").mkdir()


def test_a_given_profile_of_another_tokenizer_is_refused(tmp_path):
    said, hint = refused(log(tmp_path, (TOKENIZER, TEMPLATE), (OTHER, TEMPLATE)), "qwen3", group_by="identity")
    assert said.startswith(
        f"LOG/calls-000002.jsonl: record 1: the log says that tokenizer {OTHER} was served, and profile qwen3 is of "
        f"{TOKENIZER}"
    )
    assert hint == "make the profile from the folder that the engine served: `tito profile DIR`"


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        (
            ((TOKENIZER, TEMPLATE), (OTHER, TEMPLATE)),
            f"two tokenizers in one dump: {OTHER} was served here, {TOKENIZER}",
        ),
        (((TOKENIZER, TEMPLATE), (None, None), (TOKENIZER, OTHER)), f"two templates in one dump: {OTHER} was served"),
    ],
)
def test_two_engines_in_one_dump_are_refused(tmp_path, engines, said):
    log(tmp_path, *engines)
    found, hint = refused(tmp_path)
    assert f"calls-{len(engines):06}.jsonl: record 1: {said}" in found
    assert "at LOG/calls-000001.jsonl: record 1" in found
    assert hint == "convert the logs apart, or give each tokenizer its own file with --group-by identity"
    policies = tito.Policies(group_by="identity")
    assert tito.convert(tmp_path, tmp_path / "out" / "rows.parquet", policies=policies).rows == len(engines)


@pytest.mark.parametrize(
    "engines", [[(None, None)], [(TOKENIZER, None), (None, TEMPLATE)], [(TOKENIZER, TEMPLATE)] * 3]
)
@pytest.mark.parametrize("profile", [None, "qwen3"])
def test_logs_that_agree_or_do_not_know_are_read(tmp_path, engines, profile):
    log(tmp_path, *engines)
    report = tito.convert(tmp_path, tmp_path / "out" / "rows.parquet", profile=profile)
    assert report.rows == len(engines)
    assert not [warning for warning in report.warnings() if warning.startswith("other_")]
    said = {(engine["tokenizer_hash"], engine["template_hash"]) for engine in report.data["counts"]["served"]}
    assert said == set(engines) - {(None, None)}


def test_a_profile_that_was_found_is_warned_of(tmp_path):
    report = tito.convert(log(tmp_path, (OTHER, None)), tmp_path / "out" / "rows.parquet")
    place = tmp_path / "calls-000001.jsonl"
    assert [warning for warning in report.warnings() if warning.startswith("other_")] == [
        f"other_tokenizer: {place}: record 1 says that tokenizer {OTHER} was served; its ids look like those of qwen3 "
        f"({TOKENIZER}). Make its profile with `tito profile DIR` and name it with --profile"
    ]


def test_another_template_than_the_given_profile_s_is_warned_of(tmp_path):
    log(tmp_path, (TOKENIZER, OTHER))
    report = tito.convert(tmp_path, tmp_path / "out" / "rows.parquet", profile="qwen3")
    place = tmp_path / "calls-000001.jsonl"
    assert [warning for warning in report.warnings() if warning.startswith("other_")] == [
        f"other_template: {place}: record 1 says that template {OTHER} was served; profile qwen3 is of {TEMPLATE}"
    ]
