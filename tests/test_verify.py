"""Re-derivation: what was converted verifies, whatever the policies; one changed value is found and named."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dumps
import made_tokenizers
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import runs
import strategies
import tito
from hypothesis import assume, given
from hypothesis import strategies as st
from tito import _core
from tito.calls import Flag

CAPTURES = Path(__file__).parent / "captures"
COLUMNS = ["loss_mask", "loss_weights", "labels", "output_logprobs"]
MASKED = tito.Policies(think="mask", unterminated="keep", columns=COLUMNS, upweight="0:12")
KINDS = st.sampled_from(("turn", "merged", "auto"))


WHOLE = st.fixed_dictionaries(
    {},
    optional={
        "normalize": st.sampled_from(("rollout", "task")),
        "weight_scale": st.sampled_from(("min-1", "mean-1")),
        "val": st.sampled_from((0.3, 1)),
        "val_by": st.sampled_from(("task", "rollout")),
    },
).map(strategies.sided)


def converted(dump, folder, drawn, suffix="parquet", **more):
    """Names of the captures and of the rows; no example where the policies leave no row."""
    names = [str(folder / name) for name in dump.write(folder)]
    options = {**strategies.policies(drawn), **more}
    try:
        runs.convert(names, folder / f"rows.{suffix}", bad="skip", jsonl=suffix == "jsonl", **options)
    except _core.DataError:
        assume(False)
    return names, folder / f"rows.{suffix}"


@given(
    strategies.dumps(),
    strategies.POLICIES,
    KINDS,
    st.sampled_from(("parquet", "jsonl")),
    st.lists(st.sampled_from(COLUMNS), unique=True),
    st.integers(1, 3),
    WHOLE,
)
def test_what_was_converted_verifies(dump, drawn, rows, suffix, columns, workers, whole):
    with tempfile.TemporaryDirectory() as folder:
        names, _ = converted(dump, Path(folder), drawn, suffix, rows=rows, columns=columns, **whole)
        files = [file for file in Path(folder).glob(f"rows*.{suffix}") if file.stat().st_size]
        found = tito.verify(files, names, workers=workers)
        assert found.failures == []
        assert found.ok
        assert found.rows == found.verified == sum(len(runs.read_rows(file)) for file in files)
        assert sum(captures["rows_not_here"] for captures in found.data["captures"]) == 0


def other(value, kind, dice):
    """Another value of the same type."""
    if pa.types.is_list(kind):
        if value is None:
            return []
        if not value or dice.random() < 0.2:
            return None if pa.types.is_struct(kind.value_type) else [*value, 7]
        at = dice.randrange(len(value))
        if dice.random() < 0.2:
            return value[:at] + value[at + 1 :]
        return [*value[:at], other(value[at], kind.value_type, dice), *value[at + 1 :]]
    if pa.types.is_struct(kind):
        field = dice.choice(list(kind))
        return {**value, field.name: other(value[field.name], field.type, dice)}
    if pa.types.is_fixed_size_binary(kind):
        return bytes([value[0] ^ 1, *value[1:]])
    if pa.types.is_string(kind):
        return dice.choice(("", "x", "solver", value + "x")) if value is not None else "x"
    if pa.types.is_floating(kind):
        # What is no number stays none, whatever is added.
        return (0 if value is None or value != value else value) + dice.choice((0.5, -1, 2))
    return 1 - value if kind == pa.int8() else (value or 0) + dice.choice((1, -1, 1000))


@given(strategies.dumps(), strategies.POLICIES, KINDS, st.booleans(), st.randoms(use_true_random=False))
def test_one_changed_value_is_found(dump, drawn, rows, compressed, dice):
    with tempfile.TemporaryDirectory() as folder:
        names, path = converted(dump, Path(folder), drawn, rows=rows, columns=COLUMNS)
        table = pq.read_table(path)
        field = dice.choice(list(table.schema))
        values = table.column(field.name).to_pylist()
        at = dice.randrange(len(values))
        # Where a folder stood is not compared: captures move. The file's own name is.
        changed = values[at] + "x" if field.name == "capture_file" else other(values[at], field.type, dice)
        assume(changed != values[at])
        values[at] = changed
        column = table.schema.get_field_index(field.name)
        table = table.set_column(column, field, pa.array(values, field.type))
        pq.write_table(table, path, compression="snappy" if compressed else "none", row_group_size=3)
        found = tito.verify(path, names)
        assert found.data["failed"], (field, at)
        assert found.rows - found.verified == 1
        [failure] = found.data["failures"]
        assert failure["row"] == at
        assert failure["found"] == "differs"
        assert field.name in [difference["column"] for difference in failure["differences"]]


@given(strategies.dumps(), strategies.POLICIES, KINDS, st.randoms(use_true_random=False))
def test_some_rows_in_any_order_and_any_number_of_files(dump, drawn, rows, dice):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        names, path = converted(dump, folder, drawn, rows=rows)
        table = pq.read_table(path)
        numbers = dice.sample(range(len(table)), dice.randint(1, len(table)))
        cut = dice.randint(0, len(numbers))
        for name, some in (("a", numbers[:cut]), ("b", numbers[cut:])):
            pq.write_table(table.take(pa.array(some, pa.int64())), folder / f"{name}.parquet")
        found = tito.verify([folder / "a.parquet", folder / "b.parquet"], names)
        assert found.failures == []
        assert found.rows == len(numbers)
        assert sum(captures["rows_not_here"] for captures in found.data["captures"]) == len(table) - len(numbers)


@pytest.fixture
def kept(tmp_path):
    """Captures and rows as a user has them: `calls.jsonl`, `rows.parquet`."""
    shutil.copy(CAPTURES / "qwen3" / "calls.jsonl", tmp_path)
    os.chdir(tmp_path)
    tito.convert("calls.jsonl", "rows.parquet", policies=MASKED)
    return tmp_path


def edit(path, column, change, row=5):
    """Writes the file with one value changed."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    values[row] = change(values[row])
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), path)


def told(path, **more):
    """Writes the file with other metadata; None takes a key away."""
    table = pq.read_table(path)
    keys = {**table.schema.metadata, **{f"tito.{k}".encode(): v for k, v in more.items()}}
    keys = {key: value for key, value in keys.items() if value is not None}
    pq.write_table(table.replace_schema_metadata(keys), path)


PLACE = "(calls.jsonl, record {record}, turn {turn})"


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        ("input_ids", lambda ids: [*ids[:9], 7, *ids[10:]], "input_ids[9] is 7, captured {input_ids[9]}"),
        ("input_ids", lambda ids: ids[:-1], "input_ids[{last}] is null, captured 198"),
        ("output_ids", lambda ids: [*ids, 7], "output_ids[{outputs}] is 7, captured null"),
        ("labels", lambda ids: [*ids[:-1], -100], "labels[{end}] is -100, captured 151645"),
        ("loss_mask", lambda mask: [1, *mask[1:]], "loss_mask[0] is 1, captured 0"),
        ("loss_weights", lambda weights: [*weights[:-1], 2.0], "loss_weights[{end}] is 2.0, captured {weight}"),
        ("weight", lambda _: 11.5, "weight is 11.5, captured {weight}"),
        ("turn", lambda turn: turn + 1, "turn is {turn_plus}, captured {turn}"),
        ("rollout_id", lambda _: "other", 'rollout_id is "other", captured "{rollout_id}"'),
        ("reward", lambda _: 0.5, "reward is 0.5, captured null"),
        ("flags", lambda flags: flags ^ 1, "flags is {flags_xor}, captured {flags}"),
        ("capture_file", lambda name: f"{name}x", 'capture_file is "calls.jsonlx", captured "calls.jsonl"'),
        ("capture_hash", lambda _: bytes(16), f'capture_hash is "{"0" * 32}", captured "{{hash}}"'),
        ("capture_record", lambda _: 99, "capture_record is 99, captured {record}"),
    ],
)
def test_a_tampered_value_is_named(kept, column, change, said):
    row = tito.open_rows("rows.parquet")[5]
    edit("rows.parquet", column, change)
    found = tito.verify("rows.parquet", "calls.jsonl")
    place = {
        "record": 99 if column == "capture_record" else row.capture_record,
        "turn": row.turn + (column == "turn"),
    }
    said = said.format(
        input_ids=row.input_ids,
        last=len(row.input_ids) - 1,
        outputs=len(row.output_ids),
        end=len(row.input_ids) + len(row.output_ids) - 1,
        weight=json.dumps(row.weight),
        turn=row.turn,
        turn_plus=row.turn + 1,
        rollout_id=row.rollout_id,
        flags=int(row.flags),
        flags_xor=int(row.flags) ^ 1,
        hash=row.capture_hash.hex(),
        record=row.capture_record,
    )
    name = "calls.jsonlx" if column == "capture_file" else "calls.jsonl"
    whence = PLACE.format(**place).replace("calls.jsonl", name)
    assert found.failures == [f"rows.parquet: row 5: {said} {whence}"]
    assert (found.rows, found.verified) == (36, 35)


def test_merged_rows_name_the_call_that_differs(tmp_path):
    capture = CAPTURES / "qwen35" / "coop"
    tito.convert(capture, tmp_path / "m.parquet", policies=tito.Policies(rows="merged"))
    assert tito.verify(tmp_path / "m.parquet", capture).ok
    edit(tmp_path / "m.parquet", "calls", lambda calls: [{**calls[0], "end": 9}, *calls[1:]], row=0)
    [failure] = tito.verify(tmp_path / "m.parquet", capture).data["failures"]
    [difference] = failure["differences"]
    assert (difference["column"], difference["position"], difference["field"]) == ("calls", 0, "end")
    assert difference["stated"] == 9


def test_a_row_of_the_other_side_is_found(tmp_path):
    lines = [dumps.line(n, rollout_id=f"r{n}", turn=0) for n in range(20)]
    path = dumps.write(tmp_path / "calls.jsonl", *lines)
    tito.convert(path, tmp_path / "rows.parquet", policies=tito.Policies(val=0.3, val_by="rollout"))
    files = [tmp_path / "rows.parquet", tmp_path / "rows.val.parquet"]
    assert tito.verify(files, path).ok
    train, held = (pq.read_table(file) for file in files)
    pq.write_table(pa.concat_tables([train, held.slice(0, 1).replace_schema_metadata(train.schema.metadata)]), files[0])
    [failure] = tito.verify(files, path).failures
    assert f'rows.parquet: row {len(train)}: side is "train", captured "val"' in failure


def test_rules_that_read_text_ask_for_the_tokenizer(kept):
    folder = kept / "qwen3"
    folder.mkdir()
    made_tokenizers.qwen("qwen3").save(str(folder / "tokenizer.json"))
    rule = tito.Policies(upweight="match=/the/:3")
    tito.convert("calls.jsonl", "text.parquet", policies=rule, tokenizer=folder)
    assert tito.verify("text.parquet", "calls.jsonl", tokenizer=folder).ok
    with pytest.raises(tito.UsageError, match="needs a tokenizer"):
        tito.verify("text.parquet", "calls.jsonl")


def over_two_files(folder):
    """A rollout whose log goes on in another file."""
    folder.mkdir()
    first = {"rollout_id": "r", "call_id": "a", "turn": 0, "prompt_ids": dumps.PROMPT, "output_ids": [5, 151645]}
    longer = [*dumps.PROMPT, 5, 151645, 198, *dumps.PROMPT]
    second = {**first, "call_id": "b", "turn": 1, "prompt_ids": longer, "output_ids": [6, 151645]}
    for name, call in {"log-1.jsonl": first, "log-2.jsonl": second}.items():
        (folder / name).write_text(json.dumps(call) + "\n")
    return folder


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_calls_of_a_merged_row_name_their_files(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    over_two_files(tmp_path / "log")
    rows = f"m.{suffix}"
    tito.convert("log", rows, policies=tito.Policies(rows="merged"))
    [row] = tito.open_rows(rows)
    assert [(call.call_id, call.file, call.record) for call in row.calls] == [
        ("a", "log/log-1.jsonl", 1),
        ("b", "log/log-2.jsonl", 1),
    ]
    assert row.capture_file == "log/log-2.jsonl"
    assert tito.verify(rows, "log").ok
    shutil.move("log", "elsewhere")
    moved = tito.verify(rows, "elsewhere")
    assert moved.ok
    assert moved.data["moved"] == {
        "files": 2,
        "first": [[f"log/log-{n}.jsonl", f"elsewhere/log-{n}.jsonl"] for n in (1, 2)],
    }


@pytest.mark.parametrize(
    ("name", "moved"), [("log/log-2.jsonl", False), ("log/log-2.jsonl", True), ("log/log-3.jsonl", False)]
)
def test_a_call_that_names_another_file_is_told(tmp_path, monkeypatch, name, moved):
    monkeypatch.chdir(tmp_path)
    over_two_files(tmp_path / "log")
    tito.convert("log", "m.parquet", policies=tito.Policies(rows="merged"))
    edit("m.parquet", "calls", lambda calls: [{**calls[0], "file": name}, calls[1]], row=0)
    if moved:
        shutil.move("log", "elsewhere")
    found = tito.verify("m.parquet", "elsewhere" if moved else "log")
    [failure] = found.data["failures"]
    [difference] = failure["differences"]
    assert (difference["column"], difference["position"], difference["field"]) == ("calls", 0, "file")
    assert (difference["stated"], difference["derived"]) == (name, f"{'elsewhere' if moved else 'log'}/log-1.jsonl")
    assert f'calls[0].file is "{name}"' in found.failures[0]


def test_rows_of_one_run_give_a_calls_file_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    over_two_files(tmp_path / "log")
    for name, task in (("log/log-1.jsonl", "s"), ("log/log-2.jsonl", "s")):
        line = json.loads(Path(name).read_text())
        again = [json.dumps({**line, "rollout_id": task, "call_id": line["call_id"] + more}) for more in ("s",)]
        Path(name).write_text("\n".join([json.dumps(line), *again]) + "\n")
    tito.convert("log", "m.parquet", policies=tito.Policies(rows="merged"))
    assert len(tito.open_rows("m.parquet")) == 2
    edit("m.parquet", "calls", lambda calls: [{**calls[0], "file": "x/log/log-1.jsonl"}, calls[1]], row=0)
    [failure] = tito.verify("m.parquet", "log").failures
    assert 'calls[0].file is "x/log/log-1.jsonl", captured "log/log-1.jsonl"' in failure


def test_rows_that_stand_too_often(kept):
    table = pq.read_table("rows.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), "rows.parquet")
    found = tito.verify("rows.parquet", "calls.jsonl")
    assert found.data["failed"] == {"too_often": 1}
    [failure] = found.failures
    assert "stands more often than its call gives it" in failure


def test_copies_verify_and_one_copy_too_many_does_not(kept):
    tito.convert("calls.jsonl", "c.parquet", policies=tito.Policies(upweight="0:2.5,1:0.5", upweight_as="copies"))
    assert tito.verify("c.parquet", "calls.jsonl").ok
    table = pq.read_table("c.parquet")
    copied = next(at for at, flags in enumerate(table.column("flags").to_pylist()) if flags & Flag.COPIED)
    pq.write_table(pa.concat_tables([table, table.slice(copied, 1)]), "c.parquet")
    assert tito.verify("c.parquet", "calls.jsonl").data["failed"] == {"too_often": 1}


def test_a_file_for_each_identity(tmp_path):
    inputs = [CAPTURES / "qwen3" / "calls.jsonl", CAPTURES / "qwen35" / "calls.jsonl", CAPTURES / "smollm2-chat.jsonl"]
    tito.convert(inputs, tmp_path / "r.parquet", policies=tito.Policies(group_by="identity"))
    files = sorted(tmp_path.glob("*.parquet"))
    assert [file.name for file in files] == ["r.qwen3.5.parquet", "r.qwen3.parquet", "r.unknown.parquet"]
    for file in files:
        assert tito.verify(file, inputs).ok
    assert tito.verify(files, inputs).ok
    # A given profile is part of the run.
    tito.convert(inputs, tmp_path / "g.parquet", profile="qwen3.5", policies=tito.Policies(group_by="identity"))
    for file in tmp_path.glob("g.*.parquet"):
        assert tito.verify(file, inputs).ok


def test_captures_may_move_be_compressed_and_lie_among_others(kept):
    elsewhere = kept / "archive" / "deep"
    elsewhere.mkdir(parents=True)
    subprocess.run(["gzip", "-k", "calls.jsonl"], check=True)
    shutil.move("calls.jsonl.gz", elsewhere)
    shutil.copytree(CAPTURES / "qwen35" / "coop", elsewhere.parent / "others")
    for captures in (elsewhere.parent, elsewhere, elsewhere / "calls.jsonl.gz", "arch*"):
        found = tito.verify("rows.parquet", captures)
        assert found.ok, captures
        assert found.data["moved"]["files"] == 1
    assert (
        f"moved     1 capture: calls.jsonl is {elsewhere}/calls.jsonl.gz"
        in tito.verify("rows.parquet", elsewhere).text()
    )


def test_folders_above_are_compared_as_far_as_they_are_named(tmp_path):
    os.chdir(tmp_path)
    for name in ("one", "two"):
        Path("runs", name).mkdir(parents=True)
        dumps.write(Path("runs", name, "calls.jsonl"), dumps.line(0, call_id=None, rollout_id=name))
    tito.convert("runs", "rows.parquet")
    shutil.copytree("runs", "moved")
    assert tito.verify("rows.parquet", "moved").ok
    Path("moved", "two").rename(Path("moved", "three"))
    [failure] = tito.verify("rows.parquet", "moved").failures
    assert 'capture_file is "runs/two/calls.jsonl", captured "moved/three/calls.jsonl"' in failure


def test_one_run_gives_a_capture_one_name(kept):
    edit("rows.parquet", "capture_file", lambda _: "/elsewhere/calls.jsonl")
    [failure] = tito.verify("rows.parquet", "calls.jsonl").failures
    assert 'capture_file is "/elsewhere/calls.jsonl", captured "calls.jsonl"' in failure


def test_rows_whose_capture_is_missing_and_calls_that_have_no_row(kept):
    lines = Path("calls.jsonl").read_text().splitlines(keepends=True)
    Path("calls.jsonl").write_text("".join(lines[:30]))
    found = tito.verify("rows.parquet", "calls.jsonl", n=2)
    assert found.data["failed"] == {"no_capture": 6}
    assert len(found.failures) == 2
    row = tito.open_rows("rows.parquet")[int(found.data["failures"][0]["row"])]
    assert found.failures[0].endswith(
        f"its call is not in these captures (ids {row.capture_hash.hex()}) "
        f"(calls.jsonl, record {row.capture_record}, turn {row.turn})"
    )
    tito.convert(CAPTURES / "qwen3" / "calls.jsonl", "some.parquet", policies=tito.Policies(think="strip"))
    found = tito.verify("some.parquet", CAPTURES / "qwen3" / "calls.jsonl")
    assert found.ok
    assert "captures  36 calls, 12 of them in 12 rows; without a row: unterminated_think 24" in found.text()


def test_a_row_of_a_call_that_gives_none(kept):
    table = pq.read_table("rows.parquet")
    tito.convert("calls.jsonl", "strip.parquet", policies=tito.Policies(think="strip", columns=COLUMNS))
    keys = pq.read_schema("strip.parquet").metadata
    pq.write_table(table.replace_schema_metadata(keys), "rows.parquet")
    found = tito.verify("rows.parquet", "calls.jsonl", n=100)
    assert set(found.data["failed"]) == {"differs", "no_row"}
    assert any("its call gives no row under these policies" in failure for failure in found.failures)


def tito_verify(*args):
    command = [sys.executable, "-c", "import sys; from tito.cli import main; sys.exit(main())", "verify", *args]
    environment = {**os.environ, "PYTHONPATH": str(Path(tito.__file__).parents[1])}
    child = subprocess.run([str(a) for a in command], capture_output=True, text=True, env=environment)
    return child.returncode, child.stdout, child.stderr


def test_the_command_line(kept):
    assert tito_verify("rows.parquet", "--captures", "calls.jsonl") == (
        0,
        "",
        "verified  36 of 36 rows in 1 file\ncaptures  36 calls, 36 of them in 36 rows\n",
    )
    code, out, err = tito_verify("rows.parquet", "--captures", "calls.jsonl", "--json")
    assert (code, json.loads(out)["verified"], err) == (0, 36, "")
    edit("rows.parquet", "weight", lambda _: 3.0)
    code, out, err = tito_verify("rows.parquet", "--captures", "calls.jsonl", "--quiet")
    assert code == 1
    assert out.startswith("rows.parquet: row 5: weight is 3.0, captured ")
    assert err == (
        "error: 1 of 36 rows do not verify\n"
        "hint: convert the captures again, or name all captures the rows were made of, in the order of their run\n"
    )
    code, out, err = tito_verify("rows.parquet", "--captures", "calls.jsonl", "--quiet", "--n", "0")
    assert (code, out) == (1, "")


def foreign(folder):
    pq.write_table(pa.table({"a": [1]}), "rows.parquet")


def foreign_lines(folder):
    Path("rows.parquet").write_text('{"a": 1}\n')


def empty_folder(folder):
    Path("calls.jsonl").unlink()
    Path("calls.jsonl").mkdir()


def other_tokenizer(folder):
    tito.convert("calls.jsonl", "rows.parquet", policies=tito.Policies(think="strip"))
    shutil.copy(CAPTURES / "smollm2-chat.jsonl", "calls.jsonl")


def lines_alone(folder):
    tito.convert("calls.jsonl", "o.jsonl")
    Path("o.jsonl").rename("rows.parquet")
    Path("rows.parquet.manifest.json").unlink()


def null_weight(folder):
    table = pq.read_table("rows.parquet")
    weights = pa.array([None, *table.column("weight").to_pylist()[1:]], pa.float32())
    pq.write_table(table.set_column(table.schema.get_field_index("weight"), "weight", weights), "rows.parquet")


def wide_ids(folder):
    table = pq.read_table("rows.parquet")
    ids = table.column("input_ids").cast(pa.list_(pa.int64()))
    pq.write_table(table.set_column(0, "input_ids", ids), "rows.parquet")


def cut_off(folder):
    data = Path("rows.parquet").read_bytes()
    Path("rows.parquet").write_bytes(data[: len(data) // 2])


def added(path, name):
    table = pq.read_table(path)
    pq.write_table(table.append_column(pa.field(name, table.schema.field("input_ids").type), table["input_ids"]), path)


def lines_of(change):
    """The rows as JSON lines, under the same name, beside a manifest that was changed."""
    tito.convert("calls.jsonl", "rows.parquet", policies=MASKED, jsonl=True)
    manifest = Path("rows.parquet.manifest.json")
    told = json.loads(manifest.read_text())
    change(told)
    manifest.write_text(json.dumps(told))


def added_key(folder):
    lines_of(lambda told: None)
    lines = Path("rows.parquet").read_text().splitlines(keepends=True)
    lines[7] = lines[7].replace("{", '{"completion_mask": [1], ', 1)
    Path("rows.parquet").write_text("".join(lines))


OURS = "name files that `tito convert` wrote"
WRITTEN = "verify files that `tito convert` wrote; JSON lines need their manifest beside them"
CHANGED = "what the file says of itself (tito.*) was changed after it was written"
UNSEALED = "what the file says of itself (tito.*) has no checksum: nobody can tell whether it was changed"
AGAIN = "convert again, or take the file from where it was written"
POLICIES = json.dumps({**MASKED.to_dict(), "seed": 1})
BAD = {
    "another tool's": (foreign, 1, "no rows of row schema 1: no column input_ids (its columns: a)", OURS),
    "another tool's lines": (foreign_lines, 1, "no rows of row schema 1: no column input_ids (its keys: a)", OURS),
    "no metadata": (
        lambda _: told("rows.parquet", policies=None),
        1,
        "nothing says how these rows were made",
        WRITTEN,
    ),
    "no manifest": (lines_alone, 1, "nothing says how these rows were made", WRITTEN),
    "other schema": (
        lambda _: told("rows.parquet", schema_version="2"),
        1,
        "row schema 2; this tito knows 1",
        "use the tito that wrote the file",
    ),
    "older": (
        lambda _: told("rows.parquet", given=None),
        1,
        "the file does not say which profile its run was given",
        "it is of an older tito: convert again",
    ),
    "added column": (
        lambda _: added("rows.parquet", "completion_mask"),
        1,
        "column completion_mask is none that `tito convert` writes",
        "verify the file as it was written: no column may be left out or added",
    ),
    "a column twice": (lambda _: added("rows.parquet", "output_ids"), 1, "two columns are called output_ids", OURS),
    "added key": (
        added_key,
        1,
        "column completion_mask is none that `tito convert` writes",
        "verify the file as it was written: no column may be left out or added",
    ),
    "no checksum": (lambda _: told("rows.parquet", checksum=None), 1, UNSEALED, AGAIN),
    "no checksum and other policies": (
        lambda _: told("rows.parquet", checksum=None, policies=POLICIES),
        1,
        UNSEALED,
        AGAIN,
    ),
    "manifest without a checksum": (
        lambda _: lines_of(lambda told: told["outputs"][0].pop("checksum")),
        1,
        UNSEALED,
        AGAIN,
    ),
    "manifest with other policies": (
        lambda _: lines_of(lambda told: told["policies"].update(seed=1)),
        1,
        CHANGED,
        AGAIN,
    ),
    "manifest with another profile": (
        lambda _: lines_of(lambda told: told["profiles"][0].update(stop_ids=[1])),
        1,
        CHANGED,
        AGAIN,
    ),
    "changed policies": (lambda _: told("rows.parquet", policies=POLICIES), 1, CHANGED, AGAIN),
    "changed counts": (lambda _: told("rows.parquet", counts="{}"), 1, CHANGED, AGAIN),
    "changed profile": (lambda _: told("rows.parquet", tokenizer_hash="0"), 1, CHANGED, AGAIN),
    "no profile": (lambda _: told("rows.parquet", profile=None), 1, CHANGED, AGAIN),
    "left-out column": (
        lambda _: pq.write_table(pq.read_table("rows.parquet").drop_columns(["labels"]), "rows.parquet"),
        1,
        "the columns on request are not those that its policies name",
        "verify the file as it was written: no column may be left out or added",
    ),
    "null": (null_weight, 1, "row 0: weight is null", "the file is cut off or was changed; convert again"),
    "int64": (wide_ids, 1, "column input_ids is List(Int64, field: 'element'), which row schema 1 does not have", OURS),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_verified(kept, name):
    spoil, expected, message, hint = BAD[name]
    spoil(kept)
    code, out, err = tito_verify("rows.parquet", "--captures", "calls.jsonl")
    assert (code, out) == (expected, "")
    assert err == f"error: rows.parquet: {message}\nhint: {hint}\n"


@pytest.mark.parametrize(
    ("spoil", "args", "code", "error"),
    [
        (cut_off, ["calls.jsonl"], 1, "error: rows.parquet: "),
        (empty_folder, ["calls.jsonl"], 1, "error: calls.jsonl: the folder is empty\n"),
        (None, ["nowhere.jsonl"], 3, "error: nowhere.jsonl: cannot read: "),
        (None, ["-"], 2, "error: captures cannot come from stdin: they may be read twice\n"),
        (
            other_tokenizer,
            ["calls.jsonl"],
            1,
            "error: calls.jsonl: record 1, turn 0: --think must know the tokenizer, and no built-in profile fits a "
            "prompt that ends in [2, 198, 1, 520, 9531, 198]\nhint: name only captures that the rows were made of\n",
        ),
    ],
)
def test_captures_that_cannot_be_read(kept, spoil, args, code, error):
    if spoil is not None:
        spoil(kept)
    found, out, err = tito_verify("rows.parquet", "--captures", *args)
    assert (found, out) == (code, "")
    assert err.startswith(error), err
    assert "\nhint: " in err


def test_captures_of_another_run_that_cannot_be_divided(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", *(dumps.line(n, rollout_id=f"r{n}", task_id=f"t{n}") for n in range(4)))
    other = dumps.write(tmp_path / "other.jsonl", dumps.line(9))
    tito.convert(dump, tmp_path / "rows.parquet", policies=tito.Policies(val=0.5))
    with pytest.raises(tito.DataError) as caught:
        tito.verify(tmp_path / "rows.parquet", other)
    said = "these captures cannot be converted as the rows were: --val: no row names a task, and each side needs one"
    assert (str(caught.value), caught.value.hint) == (said, "name the captures that the rows were made of")


def test_captures_are_asked_for(kept):
    assert tito_verify("rows.parquet") == (
        2,
        "",
        "error: the following arguments are required: --captures\n"
        "hint: `tito verify --help` lists the arguments and ends in an example\n",
    )


def test_lines_verify_with_their_manifest_and_tampering_is_named(kept):
    tito.convert("calls.jsonl", "o.jsonl", policies=tito.Policies(think="mask", columns=COLUMNS))
    assert tito.verify("o.jsonl", "calls.jsonl").ok
    lines = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    nested = [{"input_ids": row.pop("input_ids"), "metadata": {"agent": row.pop("agent")}, **row} for row in lines]
    nested[2]["output_ids"][0] += 1
    Path("o.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in nested))
    [failure] = tito.verify("o.jsonl", "calls.jsonl").failures
    assert failure.startswith("o.jsonl: row 2: output_ids[0] is ")
    for text, message in {
        '{"a": 1}\n': "line 25: column 8: no input_ids",
        '{"input_ids": [1.5]}\n': "line 25: column 18: invalid type: floating point `1.5`, expected i32",
        '{"weight": 1, "weight": 2}\n': "line 25: column 22: weight stands twice",
        '{"weight": "x"}\n': 'line 25: column 15: weight is "x", no float32',
    }.items():
        Path("o.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in nested) + text)
        with pytest.raises(tito.DataError) as error:
            tito.verify("o.jsonl", "calls.jsonl")
        assert str(error.value) == f"o.jsonl: {message}"


def test_any_worker_may_come_first(tmp_path):
    lines = [dumps.line(n, rollout_id=f"r{n % 7}", turn=n // 7) for n in range(300)]
    random.Random(3).shuffle(lines)
    path = dumps.write(tmp_path / "calls.jsonl", *lines)
    tito.convert(path, tmp_path / "o.parquet", policies=tito.Policies(upweight="0:1.5", upweight_as="copies"))
    for workers in (1, 2, 7):
        assert tito.verify(tmp_path / "o.parquet", path, workers=workers).ok


def test_a_manifest_may_be_laid_out_anew(kept):
    lines_of(lambda told: None)
    assert tito.verify("rows.parquet", "calls.jsonl").ok


def test_files_without_rows_are_of_captures_that_give_none(kept):
    pq.write_table(pq.read_table("rows.parquet").slice(0, 0), "rows.parquet")
    found = tito.verify("rows.parquet", "calls.jsonl")
    assert (found.ok, found.rows, found.missing) == (False, 0, 36)
    assert tito_verify("rows.parquet", "--captures", "calls.jsonl", "--quiet") == (
        1,
        "",
        "error: there are no rows, and these captures give 36\n"
        "hint: convert the captures again, or name those that the rows were made of\n",
    )
    none = tito.Policies(kind="helper")
    tito.convert("calls.jsonl", "none.parquet", policies=none, expect_rows=0)
    found = tito.verify("none.parquet", "calls.jsonl")
    assert (found.ok, found.rows, found.missing) == (True, 0, 0)
    # Some rows of a run verify; what is missing is counted.
    tito.convert("calls.jsonl", "rows.parquet", policies=MASKED)
    pq.write_table(pq.read_table("rows.parquet").slice(0, 30), "rows.parquet")
    found = tito.verify("rows.parquet", "calls.jsonl")
    assert (found.ok, found.rows, found.missing) == (True, 30, 6)
    assert "not here  6 rows that these captures also give are in no file named" in found.text()
