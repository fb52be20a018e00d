"""Bad input through the command line: exit code, message, place, hint, and nothing else on either stream."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import dumps
import pytest
import runs
import tito as package
from tito.cli import main

ENVIRONMENT = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(package.__file__).parents[1])}
TITO = [sys.executable, "-c", "import sys; from tito.cli import main; sys.exit(main())"]
MEND = "mend the capture, or leave bad calls out, counted, with --bad skip"
FORMATS = "known formats: cooperbench, calls, native, response, shown by `tito formats`; --from FORMAT forces one"
FREE = "free some space or write elsewhere; nothing was left under the final name"
LISTS = "`tito convert --help` lists the arguments and ends in an example"
RULE = (
    "a rule is SELECTOR:WEIGHT, like 0-2:12, last:3 or agent=agent1&0-2:2 "
    "(keys: agent, kind, task, pair, rollout, status, attempt, reward, tool, match, note:NAME)"
)
HELP = "see the report's turns and names with `tito check DUMP`"


def tito(folder, *args):
    command = [*TITO, *map(str, args)]
    child = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    return child.returncode, child.stdout, child.stderr


USAGE = dumps.reply(1, usage={"prompt_tokens": 10, "completion_tokens": 9})
LINES = {
    "good": [dumps.line(0), dumps.line(1)],
    "negative": [dumps.line(0), dumps.line(1, prompt_ids=[1, -5])],
    "float": [dumps.line(0), dumps.line(1, output=[7.5])],
    "torn": [dumps.line(0), dumps.line(1)[:30]],
    "usage": [dumps.logged(0), dumps.logged(1, USAGE)],
    "twice": [dumps.line(0), dumps.line(0, output=[9, 151645])],
    "two": [dumps.line(0), json.dumps({"prompt_ids": dumps.PROMPT_35, "output_ids": [9, 248046]})],
    "unknown": [json.dumps({"prompt_ids": [1, 2], "output_ids": [3]})],
    "foreign": [json.dumps({"a": 1})],
    "atif": [json.dumps({"schema_version": "ATIF-v1.7", "steps": []})],
}

CASES = {
    "negative": (
        ["negative"],
        1,
        "negative.jsonl: record 2, turn 1, position 1: prompt_ids[1] is -5: negative (bad calls: bad_ids 1)",
        MEND,
    ),
    "float": (
        ["float"],
        1,
        "float.jsonl: record 2, turn 1, position 0: output_ids[0] is 7.5: not a whole number (bad calls: bad_ids 1)",
        MEND,
    ),
    "usage": (
        ["usage"],
        1,
        "usage.jsonl: record 2, turn 1: usage.completion_tokens is 9, the outputs hold 3 ids "
        "(bad calls: usage_mismatch 1)",
        MEND,
    ),
    "twice": (
        ["twice"],
        1,
        "twice.jsonl: record 2, turn 0: the same call id came before with other ids (bad calls: contradicting_ids 1)",
        MEND,
    ),
    "two tokenizers": (
        ["two"],
        1,
        "two.jsonl: record 2: two tokenizers or templates in one dump: qwen3.5 here, qwen3 at "
        "two.jsonl: record 1, turn 0",
        "convert them apart, or give each its own file with --group-by identity",
    ),
    "unknown tokenizer": (
        ["unknown", "--think", "strip"],
        1,
        "unknown.jsonl: record 1: --think must know the tokenizer, and no built-in profile fits a prompt that ends in "
        "[1, 2]",
        "name it with --profile TOKENIZER_DIR (or a file made by `tito profile`); --think keep needs none",
    ),
    "foreign": (["foreign"], 1, "foreign.jsonl: holds no capture that is known (keys: a)", FORMATS),
    "atif": (["atif"], 1, "atif.jsonl: looks like an ATIF trajectory, which is not read", FORMATS),
    "from": (
        ["good", "--from", "natve"],
        2,
        'unknown format "natve"',
        "--from takes one of cooperbench, calls, native, response",
    ),
    "rule": (["good", "--upweight", "9:2"], 1, '--upweight "9:2" matches no row', HELP),
    "rule that is none": (
        ["good", "--upweight", "x"],
        2,
        '--upweight "x": no colon',
        RULE,
    ),
    "weight too small": (
        ["good", "--upweight", "0:1e-50"],
        2,
        '--upweight "0:1e-50": "1e-50" is too small for a float32 and would be 0',
        RULE,
    ),
    "weights too small": (
        ["good", "--upweight", "0:1e-30,0-1:1e-30"],
        2,
        "--upweight: rows could weigh 1e-60, which a float32 does not hold",
        "use larger weights: only their ratios matter to a trainer",
    ),
    "no rule": (["good", "--upweight", ","], 2, "upweight: ',' names nothing", "name one, or leave upweight out"),
    "no kind": (["good", "--kind", ","], 2, "kind: ',' names nothing", "name one, or leave kind out"),
    "unknown kind": (
        ["good", "--kind", "solver,foo"],
        1,
        "--kind foo matches no call (calls by kind: solver 2)",
        "name kinds that are there; a call that states none is a solver's",
    ),
    "no column": (["good", "--columns", ","], 2, "columns: ',' names nothing", "name one, or leave columns out"),
    "no words": (
        ["good", "--leak-ngram", "0"],
        2,
        "argument --leak-ngram: '0' is no whole number of 1 or more",
        LISTS,
    ),
    "too large": (
        ["good", "--max-length", "99999999999999999999"],
        2,
        "argument --max-length: 99999999999999999999 is more than 9223372036854775807",
        LISTS,
    ),
    "too large a seed": (
        ["good", "--seed", "9223372036854775808"],
        2,
        "argument --seed: 9223372036854775808 is more than 9223372036854775807",
        LISTS,
    ),
    "too large a pack": (
        ["good", "--format", "trl", "--pack", "99999999999999999999"],
        2,
        "argument --pack: 99999999999999999999 is more than 9223372036854775807",
        LISTS,
    ),
    "expected rows": (
        ["good", "--expect-rows", "3"],
        1,
        "2 rows, 3 were expected",
        "`tito check` with the same options says what is left out and why; nothing was written",
    ),
    "overlong": (
        ["good", "--max-length", "12"],
        1,
        "good.jsonl: record 1, turn 0: the row has 13 ids, the limit is 12 (rows over the limit: 2)",
        "raise --max-length, or choose --overlong drop or trim-prompt",
    ),
    "no such file": (
        ["no"],
        3,
        "no.jsonl: cannot read: No such file or directory (os error 2)",
        "check the path; unless it begins with /, it starts in the folder where tito runs",
    ),
}


@pytest.fixture
def folder(tmp_path):
    for name, lines in LINES.items():
        dumps.write(tmp_path / f"{name}.jsonl", *lines)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_exit_code_message_and_hint(folder, name):
    (dump, *options), code, message, hint = CASES[name]
    before = runs.left_behind(folder)
    done = tito(folder, "convert", f"{dump}.jsonl", "-o", "o.parquet", *options)
    assert done == (code, "", f"error: {message}\nhint: {hint}\n")
    assert runs.left_behind(folder) == before


@pytest.mark.parametrize("name", ["negative", "float", "usage", "twice"])
def test_nothing_else_is_lost_under_bad_skip(folder, name):
    code, out, _ = tito(folder, "convert", f"{name}.jsonl", "-o", "o.parquet", "--bad", "skip", "--json")
    counts = json.loads(out)["counts"]
    assert (code, counts["rows"], sum(counts["skipped"].values())) == (0, 1, 1)
    assert len(runs.read_rows(folder / "o.parquet")) == 1


def test_a_torn_line_is_no_error_but_said(folder):
    path = folder / "torn.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    code, out, err = tito(folder, "convert", "torn.jsonl", "-o", "o.parquet")
    assert (code, out) == (0, "")
    assert "torn_record 1" in err


@pytest.mark.parametrize("options", [["--think", "cut"], ["--thnk", "keep"], ["--workers", "-1"], ["--rows", "tree"]])
def test_wrong_use_is_exit_code_2(folder, options):
    code, out, err = tito(folder, "convert", "good.jsonl", "-o", "o.parquet", *options)
    assert (code, out) == (2, "")
    assert "hint: " in err.splitlines()[-1]
    assert not (folder / "o.parquet").exists()


@pytest.mark.parametrize("out", ["good.jsonl/o.parquet", "no/o.parquet", "/proc/o.parquet"])
def test_an_output_that_cannot_be_is_exit_code_3(folder, out):
    code, printed, err = tito(folder, "convert", "good.jsonl", "-o", out)
    assert (code, printed) == (3, "")
    assert err.startswith(f"error: {out}: cannot write: ")
    assert err.splitlines()[1].startswith("hint: ")


def test_standard_input_and_output(folder):
    data = (folder / "good.jsonl").read_bytes()
    command = [*TITO, "convert", "-", "-o", "-", "--jsonl", "--quiet"]
    done = subprocess.run(command, input=data, capture_output=True, cwd=folder, env=ENVIRONMENT)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [row["capture_file"] for row in rows]) == (0, ["-", "-"])
    done = subprocess.run(command, input=b"hello", capture_output=True, cwd=folder, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("error: -: is not JSON\nhint: ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_named(folder):
    said = "error: standard output: cannot write: No space left on device\nhint: free some space or write elsewhere\n"
    for unbuffered in ("", "1"):
        environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}
        with open("/dev/full", "wb") as full:
            command = [*TITO, "show", "good.jsonl"]
            done = subprocess.run(command, cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
        assert (done.returncode, done.stderr) == (3, said)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("no/p.json", "no: no such folder", "make it first"),
        ("good.jsonl/p.json", "good.jsonl/p.json: cannot write: Not a directory", "check the output's folder"),
    ],
)
def test_a_profile_that_cannot_be_written_is_named(folder, name, message, hint):
    done = tito(folder, "profile", "qwen3", "-o", name)
    assert done == (3, "", f"error: {message}\nhint: {hint}\n")


def test_a_profile_on_a_full_disk_is_named(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    code = main(["profile", "qwen3", "-o", str(tmp_path / "p.json"), "--quiet"])
    said = f"error: {tmp_path}/p.json: cannot write: No space left on device\nhint: {FREE}\n"
    assert (code, *capsys.readouterr()) == (3, "", said)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error(folder):
    lines = [dumps.line(n, rollout_id=str(n)) for n in range(20_000)]
    dumps.write(folder / "many.jsonl", *lines)
    command = " ".join(f"'{part}'" for part in [*TITO, "convert", "many.jsonl", "-o", "-", "--jsonl", "--quiet"])
    pipe = ["bash", "-c", f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(pipe, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
