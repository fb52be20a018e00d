"""Lists of ids that hold something else, or the wrong number of ids: the place, the words, and nothing else lost."""

import dumps
import pytest
import runs
from tito import DataError

MEND = "mend the capture, or leave bad calls out, counted, with --bad skip"

ENTRIES = {
    "-5": "negative",
    "2147483648": "2^31 or more",
    "99999999999999999999": "2^31 or more",
    "7.0": "not a whole number",
    "1e3": "not a whole number",
    "NaN": "not a whole number",
    '"7"': "a string",
    "true": "a boolean",
    "null": "null",
    "[7]": "a list or an object",
}


def bad_line(key, entry):
    ids = {"prompt_ids": dumps.prompt(1), "output_ids": dumps.OUTPUT, key: "LIST"}
    return dumps.line(1, **ids).replace('"LIST"', f"[151644, 872, {entry}, 5]")


@pytest.mark.parametrize("key", ["prompt_ids", "output_ids"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_is_no_id_is_named(tmp_path, key, entry):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), bad_line(key, entry), dumps.line(2))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet")
    message = f"{key}[2] is {entry}: {ENTRIES[entry]} (bad calls: bad_ids 1)"
    assert str(caught.value) == f"{dump}: record 2, turn 1, position 2: {message}"
    assert caught.value.hint == MEND
    assert runs.left_behind(tmp_path) == ["d.jsonl"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_rest_is_kept_under_bad_skip(tmp_path, entry):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), bad_line("prompt_ids", entry), dumps.line(2))
    run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    assert [row["call_id"] for row in run.rows] == ["c0", "c2"]
    assert run.counts["skipped"] == {"bad_ids": 1}
    assert run.rows[1]["input_ids"] == dumps.prompt(2)


@pytest.mark.parametrize("value", ['"1 2"', "7", "true", "{}"])
def test_ids_that_are_no_list(tmp_path, value):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, prompt_ids="LIST").replace('"LIST"', value))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet")
    message = f"prompt_ids[0] is {value}: not a list of ids (bad calls: bad_ids 1)"
    assert str(caught.value) == f"{dump}: record 1, turn 0, position 0: {message}"


@pytest.mark.parametrize(
    ("where", "change", "named"),
    [
        ("choice", {"token_ids": [1, -2]}, "token_ids[1] is -2: negative"),
        ("choice", {"token_ids": None, "response_token_ids": ["a"]}, 'response_token_ids[0] is "a": a string'),
        ("root", {"prompt_token_ids": [1, 2.5]}, "prompt_token_ids[1] is 2.5: not a whole number"),
    ],
)
def test_ids_of_a_reply_are_named_by_their_key(tmp_path, where, change, named):
    response = dumps.reply(0)
    (response["choices"][0] if where == "choice" else response).update(change)
    dump = dumps.write(tmp_path / "d.jsonl", dumps.logged(0, response), dumps.logged(1))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet")
    position = named.split("[")[1][0]
    assert str(caught.value) == f"{dump}: record 1, turn 0, position {position}: {named} (bad calls: bad_ids 1)"


@pytest.mark.parametrize("key", ["prompt_ids", "output_ids"])
@pytest.mark.parametrize("id_", [151936, 2147483647])
def test_an_id_beyond_the_vocabulary(tmp_path, key, id_):
    ids = {"prompt_ids": dumps.prompt(0), "output_ids": dumps.OUTPUT}
    ids[key] = [*ids[key][:1], id_, *ids[key][1:]]
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, **{**ids, "output": None}), dumps.line(1))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet")
    name = key.removesuffix("_ids")
    message = f"{name} id {id_} is beyond the 151936 ids of profile qwen3 (bad calls: id_out_of_vocab 1)"
    assert str(caught.value) == f"{dump}: record 1, turn 0, position 1: {message}"
    assert caught.value.hint == MEND
    run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    assert [row["call_id"] for row in run.rows] == ["c1"]


def test_ids_of_padded_embedding_rows_are_in_the_vocabulary(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, output=[151935, 151669, 151645]))
    assert runs.convert(dump, tmp_path / "o.parquet").rows[0]["output_ids"] == [151935, 151669, 151645]


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        ({"completion_tokens": 4}, "usage.completion_tokens is 4, the outputs hold 3 ids"),
        ({"completion_tokens": 0}, "usage.completion_tokens is 0, the outputs hold 3 ids"),
        ({"prompt_tokens": 9}, "usage.prompt_tokens is 9, the prompt holds 10 ids"),
    ],
)
def test_usage_that_disagrees(tmp_path, usage, message):
    response = dumps.reply(0, usage=usage)
    dump = dumps.write(tmp_path / "d.jsonl", dumps.logged(0, response), dumps.logged(1))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet")
    assert str(caught.value) == f"{dump}: record 1, turn 0: {message} (bad calls: usage_mismatch 1)"
    assert caught.value.hint == MEND
    run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    assert (run.counts["skipped"], [row["call_id"] for row in run.rows]) == ({"usage_mismatch": 1}, ["c1"])


def test_usage_counts_all_choices(tmp_path):
    choices = [{"index": n, "finish_reason": "stop", "token_ids": [n, 5, 151645]} for n in range(2)]
    for said, fits in ((6, True), (3, False)):
        response = dumps.reply(0, choices=choices, usage={"prompt_tokens": 10, "completion_tokens": said})
        dump = dumps.write(tmp_path / "d.jsonl", dumps.logged(0, response), dumps.logged(1))
        run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
        assert run.counts["skipped"] == ({} if fits else {"usage_mismatch": 2})


@pytest.mark.parametrize("second", [[151644, 872, 198, 5, 151645, 198, 151644, 77091, 198], dumps.prompt(3)])
def test_usage_of_a_list_of_prompts(tmp_path, second):
    choices = [
        {"index": n, "prompt_token_ids": ids, "token_ids": [7, 151645], "finish_reason": "stop"}
        for n, ids in enumerate([dumps.PROMPT, second])
    ]
    usage = {"prompt_tokens": len(dumps.PROMPT) + len(second), "completion_tokens": 4}
    response = {"id": "c", "object": "text_completion", "choices": choices, "usage": usage}
    dump = dumps.write(tmp_path / "d.jsonl", dumps.logged(0, response))
    assert [row["input_ids"] for row in runs.convert(dump, tmp_path / "o.parquet").rows] == [dumps.PROMPT, second]


@pytest.mark.parametrize("n", [0, 2, 4])
def test_logprobs_of_another_number(tmp_path, n):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, logprobs=[-0.5] * n), dumps.line(1, logprobs=[-0.5] * 3))
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.parquet")
    message = f"{n} logprobs for 3 output ids (bad calls: logprob_mismatch 1)"
    assert str(caught.value) == f"{dump}: record 1, turn 0: {message}"


def test_logprobs_are_carried_as_they_are(tmp_path):
    values = [-0.1, float("-inf"), -9999.0]
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, logprobs=values), dumps.line(1))
    rows = runs.convert(dump, tmp_path / "o.parquet", columns=["output_logprobs"]).rows
    assert rows[0]["output_logprobs"][1:] == values[1:]
    assert rows[0]["output_logprobs"][0] == pytest.approx(-0.1)
    assert rows[1]["output_logprobs"] is None
    with pytest.raises(DataError) as caught:
        runs.convert(dump, tmp_path / "o.jsonl", columns=["output_logprobs"], jsonl=True)
    assert str(caught.value) == f"{dump}: record 1, turn 0: output_logprobs is -inf, which JSON cannot hold"
    assert caught.value.hint == "write parquet instead"
    assert runs.left_behind(tmp_path) == ["d.jsonl", "o.parquet", "o.parquet.manifest.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt_ids": None}, "no_capture"),
        ({"output_ids": None}, "no_capture"),
        ({"prompt_ids": []}, "no_capture"),
        ({"output_ids": []}, "empty_output"),
    ],
)
def test_missing_ids_are_counted(tmp_path, change, reason):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(1, **change))
    run = runs.convert(dump, tmp_path / "o.parquet")
    assert (run.counts["skipped"], [row["call_id"] for row in run.rows]) == ({reason: 1}, ["c0"])
    assert run.counts["examples"][reason][0].startswith(f"{dump}: record 2, turn 1: ")


def test_missing_lists_are_missing_captures(tmp_path):
    response = dumps.reply(0)
    del response["choices"][0]["token_ids"]
    lost = [dumps.logged(0, response), dumps.logged(1, {"id": "x", "choices": []}), '{"response": null, "turn": 4}']
    dump = dumps.write(tmp_path / "d.jsonl", *lost, dumps.logged(2))
    run = runs.convert(dump, tmp_path / "o.parquet")
    assert (run.counts["skipped"], len(run.rows)) == ({"no_capture": 3}, 1)
