"""A template that never thinks, on a tokenizer with think tokens: what the model emits all the same is counted."""

import json

import made_tokenizers as made
import pytest
import tito


@pytest.fixture(scope="module")
def instruct(tmp_path_factory) -> tito.Profile:
    folder = tmp_path_factory.mktemp("instruct")
    return tito.Profile.from_tokenizer(made.save_qwen(folder, "qwen3", made.template("qwen3_instruct_2507")))


def test_the_tokens_are_known_as_strays(instruct):
    assert (instruct.think_open, instruct.think_close) == ((), ())
    assert instruct.stray_think == (151667, 151668)
    assert tito.Profile.named("qwen3").stray_think == ()


def test_a_strip_that_can_cut_nothing_is_an_error_where_such_tokens_are(tmp_path, instruct):
    prompt = [151644, 872, 198, 14990, 151645, 198, 151644, 77091, 198]
    output = [151667, 198, 40, 151668, 271, 9707, 151645]
    dump = tmp_path / "calls.jsonl"
    dump.write_text(json.dumps({"prompt_ids": prompt, "output_ids": output}) + "\n")
    with pytest.raises(tito.DataError) as error:
        tito.convert(dump, tmp_path / "rows.parquet", policies=tito.Policies(think="strip"), profile=instruct)
    assert str(error.value) == (
        "--think fired nowhere although think markers are there: 1 of 1 outputs hold one or start inside one "
        "(unterminated 0, odd 1)"
    )
    assert not (tmp_path / "rows.parquet").exists()


def test_without_such_tokens_there_is_nothing_to_complain_of(tmp_path, instruct):
    dump = tmp_path / "calls.jsonl"
    dump.write_text(json.dumps({"prompt_ids": [151644, 872, 198, 151644, 77091, 198], "output_ids": [9707, 151645]}))
    report = tito.convert(dump, tmp_path / "rows.parquet", policies=tito.Policies(think="strip"), profile=instruct)
    assert report.rows == 1
