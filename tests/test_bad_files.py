"""Files that are broken, empty, foreign or not there: the words, the hint, and what is kept all the same."""

import gzip
import json

import dumps
import pytest
import runs
import tito
import zstandard
from tito import DataError, UsageError, WorldError

# First lines that tell a format of their own: a file that begins like this is taken for something else.
LOOK_WHOLE = {
    "not json": "is not JSON",
    "{}}": "is not JSON with keys",
    '{"a": 01}': "holds no capture that is known (keys: a)",
}
FORMATS = "cooperbench, calls, native, response"


def refused(error, inputs, output, **options):
    """(message, hint) of a run that must fail and leave nothing."""
    before = runs.left_behind(output.parent)
    with pytest.raises(error) as caught:
        runs.convert(inputs, output, **options)
    assert runs.left_behind(output.parent) == before
    return str(caught.value), caught.value.hint


def test_a_torn_last_line_is_counted(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(1)[:40].encode())
    run = runs.convert(dump, tmp_path / "o.parquet")
    assert (run.counts["skipped"], len(run.rows), run.counts["calls_seen"]) == ({"torn_record": 1}, 1, 2)
    assert run.counts["examples"]["torn_record"][0].startswith(f"{dump}: record 2, position ")


def test_a_whole_last_line_without_newline_is_kept(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(1).encode())
    assert len(runs.convert(dump, tmp_path / "o.parquet").rows) == 2


@pytest.mark.parametrize("broken", ['{"a": ', "{", '{"prompt_ids": [1, 2', "not json", "{}}", '{"a": 01}'])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_broken_line_is_one_lost_call(tmp_path, broken, at):
    lines = [dumps.line(0), dumps.line(1)]
    lines.insert(at, broken)
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    if at == 0 and broken in LOOK_WHOLE:
        message, _ = refused(DataError, dump, tmp_path / "o.parquet", bad="skip")
        assert message == f"{dump}: {LOOK_WHOLE[broken]}"
        return
    message, hint = refused(DataError, dump, tmp_path / "o.parquet")
    assert message.startswith(f"{dump}: record {at + 1}, position ")
    assert ": not JSON: " in message
    assert message.endswith(" (bad calls: bad_json 1)")
    assert hint == "mend the capture, or leave bad calls out, counted, with --bad skip"
    run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    assert [row["call_id"] for row in run.rows] == ["c0", "c1"]
    assert [row["capture_record"] for row in run.rows] == [n for n in (1, 2, 3) if n != at + 1]
    assert run.counts["skipped"] == {"bad_json": 1}


@pytest.mark.parametrize("torn", ['{"session_id": "s", "respon', '{"turn": 0, "x": {"response": 1'])
def test_a_broken_first_line_does_not_hide_the_format(tmp_path, torn):
    dump = dumps.write(tmp_path / "d.jsonl", torn, dumps.logged(1), dumps.logged(2))
    run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    assert ([row["call_id"] for row in run.rows], run.counts["skipped"]) == (["c1", "c2"], {"bad_json": 1})


def test_lines_that_are_no_captures_are_lost_calls(tmp_path):
    others = ["7", '"x"', "null", '{"unknown": 1}']
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), *others, dumps.line(1))
    message, _ = refused(DataError, dump, tmp_path / "o.parquet")
    assert message == f"{dump}: record 2: not a JSON object (bad calls: unknown_record 4)"
    run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    assert (run.counts["skipped"], len(run.rows)) == ({"unknown_record": 4}, 2)


@pytest.mark.parametrize(
    "nasty", [b"\xff\xfe", b"\xc3", b"\xed\xb2\x80", rb"\udc80", rb"\ud83d", b"\xf0\x9f\x98\x80", b"[{", rb"\""]
)
def test_strings_that_nobody_needs_are_skipped(tmp_path, nasty):
    record = dumps.logged(0, note="NOTE", messages=[{"NOTE": ["NOTE"]}]).encode().replace(b"NOTE", b"a" + nasty + b"b")
    dump = dumps.write(tmp_path / "d.jsonl", record + b"\n", dumps.logged(1))
    assert len(runs.convert(dump, tmp_path / "o.parquet").rows) == 2


@pytest.mark.parametrize("nasty", [b"\xff", rb"\udc80"])
def test_broken_names_are_read_lossily(tmp_path, nasty):
    record = dumps.line(0, rollout_id="NAME").encode().replace(b"NAME", b"a" + nasty)
    dump = dumps.write(tmp_path / "d.jsonl", record)
    assert runs.convert(dump, tmp_path / "o.parquet").rows[0]["rollout_id"] == "a\ufffd"


def test_literals_of_python_are_read(tmp_path):
    number = float("nan")
    more = {"reward": number, "x": [float("inf"), float("-inf"), {"y": number}], "attempt": number}
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, **more), dumps.logged(1))
    row = runs.convert(dumps.write(tmp_path / "d.jsonl", dumps.line(0, **more)), tmp_path / "o.parquet").rows[0]
    assert (row["reward"], row["attempt"]) == (None, None)
    assert dump.exists()


@pytest.mark.parametrize("reward", [True, False, None, 1e39, float("inf")])
def test_a_reward_that_is_no_number_is_none(tmp_path, reward):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0, reward=reward))
    assert runs.convert(dump, tmp_path / "o.parquet").rows[0]["reward"] is None


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", ""])
def test_byte_order_mark_spacing_and_line_ends(tmp_path, indent, end):
    text = json.dumps([json.loads(dumps.logged(n)) for n in range(3)], indent=indent).replace("\n", end or "\n")
    dump = dumps.write(tmp_path / "d.json", b"\xef\xbb\xbf  \n" + (text + end).encode())
    assert [row["call_id"] for row in runs.convert(dump, tmp_path / "o.parquet").rows] == ["c0", "c1", "c2"]


def test_an_empty_file_is_passed_over(tmp_path):
    empty = dumps.write(tmp_path / "empty.jsonl")
    blank = dumps.write(tmp_path / "blank.jsonl", "", "  ")
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    run = runs.convert([empty, dump], tmp_path / "o.parquet")
    assert (len(run.rows), run.report["passed_over"]) == (1, {"files": 1, "first": [str(empty)]})
    message, hint = refused(DataError, empty, tmp_path / "p.parquet")
    assert message == f"no captures in {empty} (1 file looked at)"
    assert hint == "name files or folders that hold captures; `tito formats` shows what is read"
    message, _ = refused(DataError, blank, tmp_path / "p.parquet")
    assert message == f"{blank}: is empty"


def test_a_folder_without_captures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    message, hint = refused(DataError, folder, tmp_path / "o.parquet")
    assert (message, hint) == (f"{folder}: the folder is empty", "name a folder that holds captures")
    dumps.write(folder / "notes.txt", "nothing")
    dumps.write(folder / "config.json", '{"a": 1}')
    dumps.write(folder / ".hidden.jsonl", dumps.line(0))
    message, _ = refused(DataError, folder, tmp_path / "o.parquet")
    assert message == f"no captures in {folder} (2 files looked at)"


def test_what_is_no_capture_in_a_folder_is_passed_over(tmp_path):
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    dumps.write(folder / "b.jsonl", dumps.line(0))
    dumps.write(folder / "a.txt", "nothing")
    run = runs.convert(tmp_path / "in", tmp_path / "o.parquet")
    assert [row["capture_file"] for row in run.rows] == [str(folder / "b.jsonl")]
    assert run.report["passed_over"] == {"files": 1, "first": [str(folder / "a.txt")]}


FOREIGN = {
    "an ATIF trajectory": {"schema_version": "ATIF-v1.7", "steps": []},
    "a SWE-agent trajectory (text only, no ids)": {"trajectory": [], "history": [], "info": {}},
    "a verifiers trace": {"nodes": [], "calls": [], "version": 1},
    "a BenchFlow exchange": {"request": {}, "response": {}, "duration_ms": 3},
    "an SGLang native reply": {"text": "x", "output_ids": [1], "meta_info": {}},
    "a NeMo Gym token entry": {"generation_token_ids": [1], "model_call_id": "x"},
    "a LiteLLM proxy log": {"call_type": "x", "model_parameters": {}, "response": {}},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_known_format_that_is_not_read_is_named(tmp_path, name):
    dump = dumps.write(tmp_path / "d.json", json.dumps(FOREIGN[name]))
    message, hint = refused(DataError, dump, tmp_path / "o.parquet")
    assert message == f"{dump}: looks like {name}, which is not read"
    assert hint == f"known formats: {FORMATS}, shown by `tito formats`; --from FORMAT forces one"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": 1, "b": 2}', "holds no capture that is known (keys: a, b)"),
        (
            json.dumps(dict.fromkeys("abcdefghijklmn")),
            f"holds no capture that is known (keys: {', '.join('abcdefghijkl')}, ...)",
        ),
        ("hello", "is not JSON"),
        ("{}", "is not JSON with keys"),
        ("\x00\x01", "is not JSON"),
    ],
)
def test_an_unknown_format_names_what_was_seen(tmp_path, text, what):
    dump = dumps.write(tmp_path / "d.json", text)
    message, hint = refused(DataError, dump, tmp_path / "o.parquet")
    assert (message, hint) == (
        f"{dump}: {what}",
        f"known formats: {FORMATS}, shown by `tito formats`; --from FORMAT forces one",
    )


def test_a_format_that_does_not_exist(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    message, hint = refused(UsageError, dump, tmp_path / "o.parquet", from_format="natve")
    assert (message, hint) == ('unknown format "natve"', f"--from takes one of {FORMATS}")


def test_a_format_that_the_file_is_not_in(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), dumps.line(1))
    message, _ = refused(DataError, dump, tmp_path / "o.parquet", from_format="calls")
    what = "no `response` and no `stream` in a call log (bad calls: unknown_record 2)"
    assert message == f"{dump}: record 1: {what}"


def test_a_file_that_is_not_there(tmp_path):
    for name in ("no.jsonl", "no/where.jsonl"):
        message, hint = refused(WorldError, tmp_path / name, tmp_path / "o.parquet")
        assert message == f"{tmp_path / name}: cannot read: No such file or directory (os error 2)"
        assert hint == "check the path; unless it begins with /, it starts in the folder where tito runs"
    message, hint = refused(WorldError, tmp_path / "no*.jsonl", tmp_path / "o.parquet")
    assert message == f"{tmp_path}/no*.jsonl: cannot read: the pattern matches no file"
    assert hint == "check the pattern, and the folder that it names"


def test_a_folder_to_write_to_that_is_not_there(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    message, hint = refused(WorldError, dump, tmp_path / "no" / "deep" / "o.parquet")
    assert message == f"{tmp_path}/no/deep/o.parquet: cannot write: No such file or directory (os error 2)"
    assert hint == f"there is no folder {tmp_path}/no/deep; make it first: mkdir -p {tmp_path}/no/deep"


@pytest.mark.parametrize(
    ("keys", "near"),
    [
        (["prompt_ids", "completion_ids"], 'native, whose records also have "output_ids"'),
        (["output_ids", "tokens"], 'native, whose records also have "prompt_ids"'),
        (["choices"], 'response, whose records also have "prompt_token_ids"'),
        (["messages", "a"], 'cooperbench, whose records also have "agent_id" and "feature_id"'),
        (["agent_id", "messages", "usage"], 'cooperbench, whose records also have "feature_id"'),
    ],
)
def test_the_nearest_format_and_the_missing_key_are_named(tmp_path, keys, near):
    dump = dumps.write(tmp_path / "d.jsonl", json.dumps(dict.fromkeys(keys)))
    message, hint = refused(DataError, dump, tmp_path / "o.parquet")
    assert message == f"{dump}: holds no capture that is known (keys: {', '.join(keys)})"
    assert hint == f"nearest is {near}; known formats: {FORMATS}, shown by `tito formats`; --from FORMAT forces one"


def test_rows_in_place_of_captures_are_told_how_to_go_on(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    rows = tmp_path / "rows.parquet"
    runs.convert(dump, rows)
    message, hint = refused(DataError, rows, tmp_path / "o.parquet")
    assert message == f"{rows}: is parquet, which holds rows and no captures"
    assert hint == f"to make rows, name captures; for a trainer: tito convert {rows} --format trl -o trl.parquet"
    tito.convert(dump, tmp_path / "rows.jsonl")
    message, hint = refused(DataError, tmp_path / "rows.jsonl", tmp_path / "o.parquet")
    assert message == f"{tmp_path}/rows.jsonl: holds rows, not captures: their masks and weights would be lost"
    assert hint.endswith(f"for a trainer: tito convert {tmp_path}/rows.jsonl --format trl -o trl.parquet")


def test_no_input_at_all(tmp_path):
    message, hint = refused(UsageError, [], tmp_path / "o.parquet")
    assert (message, hint) == ("no input", "name files, folders or globs, or - for standard input")


def test_a_file_that_is_named_twice_is_read_once(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    (tmp_path / "link.jsonl").symlink_to(dump)
    run = runs.convert([dump, tmp_path / "*.jsonl", dump], tmp_path / "o.parquet")
    assert (len(run.rows), run.report["inputs_repeated"]) == (1, 3)


@pytest.mark.parametrize("cut", ["half", "end", "middle"])
@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_damaged_compression(tmp_path, kind, cut):
    text = "".join(dumps.line(n) + "\n" for n in range(2000)).encode()
    data = gzip.compress(text) if kind == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(text)
    if cut == "middle":
        data = bytearray(data)
        data[len(data) // 2] ^= 0xFF
    else:
        data = data[: len(data) // 2] if cut == "half" else data[:-3]
    dump = dumps.write(tmp_path / f"d.jsonl.{kind}", bytes(data))
    message, hint = refused(DataError, dump, tmp_path / "o.parquet", bad="skip")
    if "the compressed data" in message:
        assert message.startswith(f"{dump}: the compressed data is damaged or ends early: ")
        assert hint == "copy the file again; what is left can be read after `zstd -d` or `gzip -d` has saved it"
    else:
        pytest.fail(message)


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_compression_is_told_by_content_and_may_have_many_parts(tmp_path, kind):
    compress = gzip.compress if kind == "gz" else zstandard.ZstdCompressor().compress
    parts = [compress((dumps.line(n) + "\n").encode()) for n in range(3)]
    dump = dumps.write(tmp_path / "d.jsonl", b"".join(parts))
    assert len(runs.convert(dump, tmp_path / "o.parquet").rows) == 3


def test_the_output_is_not_read_as_input(tmp_path):
    dumps.write(tmp_path / "d.jsonl", dumps.line(0))
    for _ in range(2):
        run = runs.convert(tmp_path, tmp_path / "rows.jsonl", jsonl=True)
        assert len(run.rows) == 1


def test_a_capture_is_never_written_over(tmp_path):
    for name, output in (
        ("a.jsonl", "a.jsonl"),
        ("o.qwen3.jsonl", "o.jsonl"),
        ("p.parquet.manifest.json", "p.parquet"),
    ):
        dumps.write(tmp_path / name, dumps.line(0), dumps.line(1))
        kept = (tmp_path / name).read_bytes()
        with pytest.raises(UsageError, match=r" is an input and would be written over$") as caught:
            runs.convert(tmp_path, tmp_path / output, jsonl=output.endswith("jsonl"), group_by="identity")
        assert caught.value.hint == "write to another name"
        assert (tmp_path / name).read_bytes() == kept
        (tmp_path / name).unlink()
