"""Streams that lost something on the way."""

import json

import dumps
import pytest
import runs
from tito import DataError

IDS = [9707, 1000, 151645]


def chunks(usage=True):
    """The events of one streamed reply, an id each."""
    events = [{"choices": [{"index": 0, "delta": {"role": "assistant"}}], "prompt_token_ids": dumps.prompt(0)}]
    events += [{"choices": [{"index": 0, "delta": {"content": "x"}, "token_ids": [one]}]} for one in IDS]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        numbers = {"prompt_tokens": len(dumps.prompt(0)), "completion_tokens": len(IDS)}
        events.append({"choices": [], "usage": numbers})
    return [{"id": "c0", "object": "chat.completion.chunk", **event} for event in events]


def text(events, done=True):
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ("data: [DONE]\n\n" if done else "")


def dump(folder, events, done=True):
    stream = json.dumps({"session_id": "r", "turn": 0, "stream": text(events, done)})
    return dumps.write(folder / "d.jsonl", stream, dumps.logged(1))


def test_a_whole_stream(tmp_path):
    rows = runs.convert(dump(tmp_path, chunks()), tmp_path / "o.parquet").rows
    assert next((row["input_ids"], row["output_ids"]) for row in rows) == (dumps.prompt(0), IDS)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_lost_chunk_disagrees_with_usage(tmp_path, lost):
    events = chunks()
    del events[lost]
    with pytest.raises(DataError) as caught:
        runs.convert(dump(tmp_path, events), tmp_path / "o.parquet")
    message = "usage.completion_tokens is 3, the outputs hold 2 ids (bad calls: usage_mismatch 1)"
    assert str(caught.value) == f"{tmp_path}/d.jsonl: record 1, turn 0: {message}"
    run = runs.convert(dump(tmp_path, events), tmp_path / "o.parquet", bad="skip")
    assert (run.counts["skipped"], len(run.rows)) == ({"usage_mismatch": 1}, 1)


def test_a_lost_first_chunk_is_a_lost_prompt(tmp_path):
    run = runs.convert(dump(tmp_path, chunks()[1:]), tmp_path / "o.parquet")
    assert (run.counts["skipped"], len(run.rows)) == ({"no_capture": 1}, 1)


@pytest.mark.parametrize("error", [{"message": "boom"}, "boom"])
def test_an_error_in_the_middle_drops_the_call(tmp_path, error):
    events = [*chunks()[:2], {"error": error}, *chunks()[2:]]
    run = runs.convert(dump(tmp_path, events), tmp_path / "o.parquet")
    assert (run.counts["skipped"], len(run.rows)) == ({"infra_error": 1}, 1)


def test_a_client_that_went_away_drops_the_call(tmp_path):
    run = runs.convert(dump(tmp_path, chunks()[:3], done=False), tmp_path / "o.parquet")
    assert (run.counts["skipped"], len(run.rows)) == ({"infra_error": 1}, 1)


def test_a_missing_done_alone_loses_nothing(tmp_path):
    run = runs.convert(dump(tmp_path, chunks(usage=False), done=False), tmp_path / "o.parquet")
    assert (run.counts["skipped"], len(run.rows)) == ({}, 2)


def test_a_broken_event_is_a_broken_record(tmp_path):
    stream = text(chunks()).replace('"token_ids": [1000]}]}', '"token_ids": [1000')
    file = dumps.write(tmp_path / "d.jsonl", json.dumps({"stream": stream}), dumps.logged(1))
    run = runs.convert(file, tmp_path / "o.parquet", bad="skip")
    assert (run.counts["skipped"], len(run.rows)) == ({"bad_json": 1}, 1)


def test_a_bad_id_in_a_chunk(tmp_path):
    events = chunks(usage=False)
    events[2]["choices"][0]["token_ids"] = [5, -1]
    with pytest.raises(DataError) as caught:
        runs.convert(dump(tmp_path, events), tmp_path / "o.parquet")
    message = "token_ids[1] is -1: negative (bad calls: bad_ids 1)"
    assert str(caught.value) == f"{tmp_path}/d.jsonl: record 1, turn 0, position 1: {message}"


def test_choices_are_joined_by_index(tmp_path):
    events = [{"choices": [{"index": n}], "prompt_token_ids": dumps.prompt(0)} for n in (0, 1)]
    for one in IDS:
        events += [{"choices": [{"index": n, "token_ids": [one, n]}]} for n in (1, 0)]
    events += [{"choices": [{"index": n, "finish_reason": "stop", "token_ids": [151645]}]} for n in (0, 1)]
    file = dumps.write(tmp_path / "d.jsonl", json.dumps({"session_id": "r", "stream": text(events)}))
    rows = runs.convert(file, tmp_path / "o.parquet").rows
    assert [row["output_ids"] for row in rows] == [[*(x for one in IDS for x in (one, n)), 151645] for n in (0, 1)]


@pytest.mark.parametrize("start", ["", "\n", ": hello\n", "event: message\n", "\ufeff", "\r\n\r\n\r\n"])
def test_bare_events_in_a_file(tmp_path, start):
    second = [{**event, "id": "c9"} for event in chunks()]
    file = dumps.write(tmp_path / "d.sse", start + text(chunks()), text(second))
    rows = runs.convert(file, tmp_path / "o.parquet").rows
    assert [row["call_id"] for row in rows] == ["c0", "c9"]
    assert [row["output_ids"] for row in rows] == [IDS, IDS]


def test_events_that_were_cut_off_lose_the_last_reply_only(tmp_path):
    second = text([{**event, "id": "c9"} for event in chunks()])
    file = dumps.write(tmp_path / "d.sse", text(chunks()), second[: len(second) // 2].encode())
    run = runs.convert(file, tmp_path / "o.parquet", bad="skip")
    assert [row["call_id"] for row in run.rows] == ["c0"]
    assert sum(run.counts["skipped"].values()) == 1
