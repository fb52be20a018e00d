"""The command line: exit codes, streams, hints, and that what it prints is what the library says."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tito
from tokenizers import Tokenizer, models

CAPTURES = Path(__file__).parent / "captures"
QWEN3 = str(CAPTURES / "qwen3" / "calls.jsonl")
TITO = [sys.executable, "-c", "import sys; from tito.cli import main; sys.exit(main())"]


def error(err):
    """The message and the hint that end a failure."""
    *_, message, hint = err.splitlines()
    assert message.startswith("error: ")
    assert hint.startswith("hint: ")
    return message.removeprefix("error: "), hint.removeprefix("hint: ")


def test_convert_writes_rows_and_says_what_it_did_on_stderr(run):
    code, out, err = run("convert", QWEN3, "-o", "rows.parquet", "--think", "strip", "--upweight", "0-2:12")
    assert (code, out) == (0, "")
    rows = tito.open_rows("rows.parquet")
    assert {row.weight for row in rows} == {12.0}
    assert err.startswith("calls     36 seen = 12 used + 24 skipped (unterminated_think 24)\n")
    assert "warning: mostly_skipped:" in err
    last = err.splitlines()[-1]
    assert last.startswith("note: these are per-turn rows: input_ids is the prompt alone")
    assert "would train on the prompt" in last
    assert "--format trl" in last


def test_the_report_as_json_is_the_library_s(run):
    code, out, err = run("convert", QWEN3, "-o", "rows.parquet", "--json")
    report = json.loads(out)
    assert (code, report["counts"]["rows"]) == (0, 36)
    assert [warning.split(":")[0] for warning in report["warnings"]] == ["unterminated"]
    assert [note.split(":")[0] for note in report["notes"]] == ["few_rows"]
    assert "calls" not in err
    del report["warnings"], report["notes"], report["manifest"]
    manifest = json.loads(Path("rows.parquet.manifest.json").read_text())
    assert report == manifest


def test_quiet_leaves_warnings_alone(run):
    code, out, err = run("convert", QWEN3, "-o", "rows.parquet", "--quiet")
    assert (code, out) == (0, "")
    assert [line.split(":")[0] for line in err.splitlines()] == ["warning"]


def test_a_dry_run_writes_nothing(run):
    code, _, err = run("convert", QWEN3, "--dry-run", "-o", "rows.parquet")
    assert code == 0
    assert "rows      36 rows" in err
    assert "note: these are" not in err
    assert list(Path().iterdir()) == []


def test_json_lines_by_name_or_on_request(run):
    assert run("convert", QWEN3, "-o", "by_name.jsonl")[0] == 0
    assert run("convert", QWEN3, "-o", "asked.rows", "--jsonl")[0] == 0
    done = subprocess.run([*TITO, "convert", QWEN3, "-o", "-", "--jsonl"], capture_output=True, text=True, check=True)
    assert Path("by_name.jsonl").read_text() == Path("asked.rows").read_text() == done.stdout
    assert len([json.loads(line)["input_ids"] for line in done.stdout.splitlines()]) == 36


def test_every_option_reaches_the_core(run):
    options = {
        "think": "strip-all",
        "tail": "no-think",
        "rows": "auto",
        "ambiguous": "keep-last",
        "upweight-as": "copies",
        "seed": 7,
        "normalize": "rollout",
        "weight-scale": "mean-1",
        "val": 0.25,
        "val-by": "rollout",
        "truncated": "keep",
        "unterminated": "keep",
        "max-length": 5000,
        "overlong": "trim-prompt",
        "leak-ngram": 5,
        "kind": "solver,helper",
        "bad": "skip",
        "group-by": "identity",
        "columns": "loss_mask,labels",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    rules = ["--upweight", "0:2,first:3", "--upweight", "agent=agent1:1.5"]
    more = ["--workers", 1, "--profile", "qwen3", "--from", "calls"]
    code, out, err = run("convert", QWEN3, "-o", "r.parquet", "--json", *words, *rules, *more)
    assert code == 0, err
    policies = json.loads(out)["policies"]
    expected = {name.replace("-", "_"): value for name, value in options.items()}
    expected |= {"upweight": ["0:2", "first:3", "agent=agent1:1.5"], "kind": ["solver", "helper"]}
    # The options that name texts need a tokenizer, and are tried where there is one.
    expected |= dict.fromkeys(("drop_section", "leak_scan", "leak_ignore")) | {"leaks": "error"}
    assert policies == {**expected, "columns": ["loss_mask", "labels"]}


def test_strip_think_is_think_strip(run):
    _, out, _ = run("check", QWEN3, "--strip-think", "--json")
    assert json.loads(out)["policies"]["think"] == "strip"
    code, _, err = run("check", QWEN3, "--strip-think", "--think", "keep")
    assert code == 2
    assert "not allowed with" in error(err)[0]


def test_shards_are_named_by_number(run):
    lines = ({"prompt_ids": list(range(n, n + 1000)), "output_ids": [n]} for n in range(2000))
    Path("dump.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = run("convert", "dump.jsonl", "-o", "rows.jsonl", "--shard-mb", "1.5")
    assert code == 0, err
    assert sorted(p.name for p in Path().glob("rows-*.jsonl"))[:2] == ["rows-00000.jsonl", "rows-00001.jsonl"]


@pytest.mark.parametrize(
    ("args", "code", "message", "hint"),
    [
        ([], 2, "required: VERB", "tito --help"),
        (["conver"], 2, "invalid choice: 'conver'", "did you mean convert?"),
        (
            ["convert", "x", "-o", "y", "--thnik", "strip"],
            2,
            "unrecognized arguments: --thnik",
            "did you mean --think?",
        ),
        (["convert", "x", "-o", "y", "--think", "stirp"], 2, "invalid choice: 'stirp'", "did you mean strip?"),
        (["convert", "x", "-o", "y", "--thin", "strip"], 2, "unrecognized arguments: --thin", "did you mean --think?"),
        (["formats", "nocap"], 2, "unrecognized arguments: nocap", "leave nocap out; `tito formats --help` shows"),
        (["convert", "x", "-o", "y", "--columns", "lables"], 2, "columns: 'lables'", "did you mean labels?"),
        (["convert", "x", "-o", "y", "--workers", "-1"], 2, "'-1' is no whole number", "tito convert --help"),
        (["convert", "x", "-o", "y", "--shard-mb", "0"], 2, "not a size", "512"),
        (["convert", "x", "-o", "y", "--profile", "qwen33"], 2, "no built-in name", "did you mean qwen3?"),
        (["convert", QWEN3], 2, "no output is named", "--dry-run"),
        (["convert", QWEN3, "-o", "-"], 2, "parquet cannot go to standard output", "--jsonl"),
        (["convert", QWEN3, "-o", "-", "--jsonl", "--json"], 2, "cannot both go to stdout", "write the rows"),
        (["convert", QWEN3, "-o", "y", "--upweight", "0-2"], 2, "no colon", "SELECTOR:WEIGHT"),
        (["convert", QWEN3, "-o", "y", "--upweight", "9:2"], 1, "matches no row", "tito check"),
        (["convert", QWEN3, "-o", "y", "--expect-rows", "35"], 1, "36 rows, 35 were expected", "nothing was written"),
        (["convert", "none.jsonl", "-o", "y"], 3, "none.jsonl: cannot read", "check the path"),
        (["convert", QWEN3, "-o", "none/y"], 3, "cannot write", "make it first: mkdir -p none"),
        (["check", "none.jsonl"], 3, "none.jsonl: cannot read", "check the path"),
        (["show", "none.jsonl"], 3, "none.jsonl: cannot read", "check the path"),
        (["show", QWEN3, "--record", "99"], 2, "no record 99", "counted from 1"),
        (["show", QWEN3, "--record", "0"], 2, "'0' is no whole number of 1 or more", "tito show --help"),
        (["show", QWEN3, "--row", "0"], 2, "holds captures, not rows", "name one with --record N, from 1"),
        (["show", QWEN3, "--tokenizer", "none"], 2, "no such file", "tokenizer.json"),
        (["profile", "none"], 2, "no built-in name", "tokenizer folder"),
        (["profile", "qwen3", "--name", "x"], 2, "is built in", "name a folder"),
    ],
)
def test_failures_end_in_a_hint_and_leave_nothing(run, args, code, message, hint):
    got, out, err = run(*args)
    said = error(err)
    assert (got, out) == (code, "")
    assert message in said[0]
    assert hint in said[1]
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("verb", ["convert", "check", "show", "profile", "formats"])
def test_help_ends_in_an_example(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"example:\n  tito {verb}" in out
    assert f"  {verb}" in run("--help")[1]


def test_version(run):
    assert run("--version")[:2] == (0, f"tito {tito.__version__}\n")


# check


def test_check_counts_and_writes_nothing(run):
    code, out, err = run("check", QWEN3)
    assert (code, out) == (0, "")
    assert "calls     36 seen = 36 used + 0 skipped" in err
    assert list(Path().iterdir()) == []


def test_check_names_all_that_is_bad(run, tmp_path):
    good = {"prompt_ids": [1], "output_ids": [2]}
    bad = [{"prompt_ids": [1], "output_ids": [-2]}, {"prompt_ids": [1], "output_ids": [3], "logprobs": [0.5, 0.5]}]
    dump = tmp_path / "dump.jsonl"
    dump.write_text("".join(json.dumps(line) + "\n" for line in (good, *bad)))
    code, _, err = run("check", dump)
    assert code == 1
    assert error(err) == ("2 of 3 calls are bad", "mend the captures, or leave bad calls out with --bad skip")
    assert re.search(r"^bad_ids: .*dump.jsonl: record 2", err, re.M)
    assert re.search(r"^logprob_mismatch: .*dump.jsonl: record 3", err, re.M)
    assert run("check", dump, "--bad", "skip")[0] == 0


# show


def test_show_says_what_kind_of_rows_and_marks_what_is_trained(run):
    run("convert", QWEN3, "-o", "rows.parquet", "--think", "mask", "--upweight", "0:12")
    code, out, err = run("show", "rows.parquet", "--n", "2", "--full")
    assert (code, err) == (0, "")
    assert "rows.parquet: 12 rows\nper-turn rows: input_ids is the prompt, output_ids what was sampled\n" in out
    rows = tito.open_rows("rows.parquet")
    for number, text in enumerate(re.findall(r"^[\d ⟦⟧]+$", out, re.M)):
        row = rows[number]
        ids = [*row.input_ids.tolist(), *row.output_ids.tolist()]
        assert [int(i) for i in re.findall(r"\d+", text)] == ids
        trained = [int(i) for part in re.findall(r"⟦(.*?)⟧", text) for i in part.split()]
        assert trained == [i for i in tito.labels(row.input_ids, row.output_ids, row.loss_spans).tolist() if i != -100]
    assert "weight 12" in out
    assert "flags prompt_exact, think_stripped, think_masked" in out
    assert "\x1b" not in out


def test_show_one_record(run):
    run("convert", QWEN3, "-o", "rows.jsonl")
    _, out, _ = run("show", "rows.jsonl", "--row", "5")
    assert re.findall(r"^row (\d+)", out, re.M) == ["5"]
    _, out, _ = run("show", QWEN3, "--record", "5")
    assert re.findall(r"record (\d+)", out) == ["5"]
    code, out, err = run("show", "rows.jsonl", "--record", "1")
    assert (code, out, error(err)) == (2, "", ("rows.jsonl holds rows, not records", "name one with --row N, from 0"))
    code, _, err = run("show", "rows.jsonl", "--row", "36")
    assert (code, error(err)) == (2, ("no row 36: there are 36", "rows are counted from 0"))


def test_show_captures(run):
    code, out, _ = run("show", QWEN3, "--n", "1")
    assert code == 0
    assert f"{QWEN3} record 1  turn 0  rollout pair0/agent1  task toy/0  agent agent1\n" in out
    assert "  prompt 169 ids, output 82 ids\n" in out
    assert "⟦151667 198 40" in out
    assert "... 145 ids ..." in out


def test_show_decodes_and_never_sends_control_characters(run, tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"hello": 0, "\x1b[2J": 1, "bye": 2, "[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    Path("dump.jsonl").write_text('{"prompt_ids": [0, 1], "output_ids": [2, 0]}\n')
    code, out, err = run("show", "dump.jsonl", "--tokenizer", tmp_path)
    assert (code, err) == (0, "")
    assert "hello \\u001b[2J⟦bye hello⟧" in out
    _, out, _ = run("show", "dump.jsonl", "--tokenizer", tmp_path, "--ids")
    assert "0 1 ⟦2 0⟧" in out


# formats, profile


def test_formats_are_the_core_s(run):
    code, out, _ = run("formats")
    _, as_json, _ = run("formats", "--json")
    assert code == 0
    listed = json.loads(as_json)
    assert [line.split(":")[0] for line in out.splitlines()[::3]] == [format["name"] for format in listed]
    assert "cooperbench" in out


def test_profiles_are_printed_and_saved(run):
    code, out, err = run("profile", "qwen3")
    assert code == 0
    assert tito.Profile.from_json(out) == tito.Profile.named("qwen3")
    assert "thinking   151667 ... 151668\n" in err
    code, out, err = run("profile", "qwen3.5", "-o", "mine.json", "--quiet")
    assert (code, out, err) == (0, "", "")
    assert tito.Profile.load("mine.json") == tito.Profile.named("qwen3.5")
    assert run("check", CAPTURES / "qwen35" / "calls.jsonl", "--profile", "mine.json", "--think", "strip")[0] == 0


# The process


def test_a_reader_that_leaves_early_is_no_error():
    for args in (["convert", QWEN3, "-o", "-", "--jsonl", "--quiet"], ["show", QWEN3, "--n", "36", "--full"]):
        process = subprocess.Popen([*TITO, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        err = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait() == 0, err
        assert "error" not in err
        assert "Traceback" not in err


def test_a_bar_moves_on_a_terminal_only(tmp_path):
    command = [*TITO, "convert", QWEN3, "-o", str(tmp_path / "rows.parquet")]
    watched, terminal = pty.openpty()
    process = subprocess.Popen(command, stderr=terminal, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    seen = b""
    # A terminal whose other end is closed gives an error in place of an end.
    with contextlib.suppress(OSError):
        while part := os.read(watched, 4096):
            seen += part
    os.close(watched)
    assert process.wait() == 0
    assert b"\x1b[" in seen
    assert "━".encode() in seen
    assert b"36 seen" in seen
    piped = subprocess.run(command, capture_output=True, check=True)
    assert b"\x1b" not in piped.stderr + piped.stdout


def test_ctrl_c_stops_and_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [*TITO, "convert", "-", "-o", str(tmp_path / "rows.parquet")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = Path(QWEN3).read_text().splitlines()[0] + "\n"
    process.stdin.write(line)
    process.stdin.flush()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    # The core looks up between two stretches of input, so let it have one more.
    process.stdin.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 130
    assert err.splitlines()[-1] == "stopped; nothing was written"
    assert not (tmp_path / "rows.parquet").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_stop_like_ctrl_c(tmp_path, number):
    process = subprocess.Popen(
        [*TITO, "convert", "-", "-o", str(tmp_path / "rows.parquet")], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(Path(QWEN3).read_bytes().splitlines(keepends=True)[0])
    process.stdin.flush()
    time.sleep(1)
    process.send_signal(number)
    time.sleep(0.2)
    process.stdin.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 128 + number
    assert err.splitlines()[-1] == b"stopped; nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_handlers_of_signals_are_put_back(run):
    before = signal.getsignal(signal.SIGTERM)
    assert run("formats")[0] == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("redirect", "args", "code"),
    [
        (">&-", ["convert", QWEN3, "-o", "rows.parquet"], 0),
        ("2>&-", ["convert", QWEN3, "-o", "rows.parquet"], 0),
        (">&- 2>&- <&-", ["convert", QWEN3, "-o", "rows.parquet"], 0),
        (">&-", ["formats"], 3),
        ("2>&-", ["formats"], 0),
        ("2>&-", ["check", "none.jsonl"], 3),
        (">&-", ["--help"], 0),
        (">/dev/full", ["formats"], 3),
    ],
)
def test_closed_streams_are_no_traceback(tmp_path, redirect, args, code):
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", *TITO, *args], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "-o" in args:
        assert len(tito.open_rows(tmp_path / "rows.parquet")) == 36


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_a_name_that_is_not_utf_8_is_wrong_use(run):
    name = os.fsdecode(b"bad\xff.jsonl")
    Path(name).write_bytes(Path(QWEN3).read_bytes())
    for args in (["check", name], ["show", name], ["convert", QWEN3, "-o", name]):
        code, _, err = run(*args)
        assert (code, error(err)[0]) == (2, "bad\\udcff.jsonl: the name is not UTF-8")


def test_a_missing_package_is_the_world_s(run, monkeypatch, tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    (tmp_path / "m").mkdir()
    tokenizer.save(str(tmp_path / "m" / "tokenizer.json"))
    code, _, err = run("profile", "m")
    assert (code, error(err)[1]) == (2, "give the template: `tito profile m --template FILE -o p.json`")
    Path("t.jinja").write_text("{{ messages }}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    code, _, err = run("profile", "m", "--template", "t.jinja")
    assert code == 3
    assert error(err) == ("reading a tokenizer needs tokenizers", "in the checkout: pip install '.[profile]'")


def test_check_does_not_offer_what_it_does_not_do(run):
    assert "--bad skip" in run("check", "--help")[1]
    assert "error|skip" in run("convert", "--help")[1]
