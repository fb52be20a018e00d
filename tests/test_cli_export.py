"""`tito convert --format`: rows or captures in, a trainer's columns out; what belongs to the other is refused."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tito

CAPTURES = Path(__file__).parent / "captures"
QWEN3 = str(CAPTURES / "qwen3" / "calls.jsonl")
STRIP = ("--think", "strip", "--upweight", "0-2:12")


def rows(path):
    return pq.read_table(path).to_pylist()


def test_rows_and_captures_give_the_same(run):
    assert run("convert", QWEN3, "-o", "rows.parquet", *STRIP)[0] == 0
    code, out, err = run("convert", "rows.parquet", "--format", "trl", "-o", "one.parquet", "--weights", "copies")
    assert (code, out) == (0, "")
    assert err.splitlines()[0] == ("exported 12 of 12 rows for trl: 144 records, 31,536 ids, 22.8% with loss")
    assert "not in it: weights, provenance, logprobs" in err
    code, out, err = run("convert", QWEN3, *STRIP, "--format", "trl", "-o", "two.parquet", "--upweight-as", "copies")
    assert (code, out) == (0, "")
    assert err.startswith("calls     36 seen = 12 used + 24 skipped")
    assert rows("one.parquet") == rows("two.parquet")
    assert sorted(name for name in os.listdir() if "one" not in name and "rows" not in name) == [
        "two.parquet",
        "two.parquet.manifest.json",
    ]
    source = json.loads(Path("two.parquet.manifest.json").read_text())["source"]
    assert source["captures"][0]["file"] == QWEN3
    assert (source["rows_made"], source["policies"]["think"]) == (144, "strip")


@pytest.mark.parametrize("kind", ["turn", "merged", "auto"])
def test_rows_of_every_kind_train_the_same_ids(run, kind):
    """What is sampled once carries loss once, and weighs the same, however rows are cut."""
    for upweight, weight in (("0:1", 1_920), ("0:12", 19_344)):
        args = ("--rows", kind, "--upweight", upweight, "--format", "trl", "--weights", "copies")
        code, _, err = run("convert", QWEN3, *args, "-o", "o.parquet")
        assert code == 0, err
        counts = json.loads(Path("o.parquet.manifest.json").read_text())["counts"]
        assert counts["weight_written"] == counts["weight_read"] == weight


def test_json_is_the_manifest(run):
    run("convert", QWEN3, "-o", "rows.parquet")
    code, out, err = run("convert", "rows.parquet", "--format", "skyrl", "-o", "s.jsonl", "--json")
    told = json.loads(out)
    assert (code, err, told.pop("warnings")) == (0, "", [])
    assert told == json.loads(Path("s.jsonl.manifest.json").read_text())
    code, out, err = run("convert", QWEN3, "--format", "skyrl", "-o", "s.jsonl", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["export"]["counts"]["rows_written"] == 36


def test_prime_sft_is_made_of_captures(run):
    captures = CAPTURES / "qwen3"
    code, out, err = run("convert", captures, "--format", "prime-sft", "-o", "p.jsonl", "--row-mode", "exchange")
    assert (code, out) == (0, "")
    assert "not in it: token ids (all text is tokenised again), thinking" in err
    assert "warning: left_out: 24 of 72 rows: missing_tool_defs" in err
    run("convert", QWEN3, "-o", "rows.parquet")
    code, _, err = run("convert", "rows.parquet", "--format", "prime-sft", "-o", "q.jsonl")
    assert (code, err.splitlines()[0]) == (2, "error: rows.parquet holds rows, and prime-sft is made of messages")
    code, _, err = run("convert", QWEN3, "--format", "prime-sft", "-o", "q.jsonl", "--think", "strip")
    assert (code, err.splitlines()[0]) == (2, "error: --think belongs to rows, not to --format prime-sft")
    code, _, err = run("convert", QWEN3, "--format", "prime-sft", "-o", "q.jsonl", "--kind", "helper")
    assert (code, err.splitlines()[0]) == (
        1,
        "error: no row is left of 36 calls (skipped: kind 36); "
        f'first {QWEN3}: record 1, turn 0: kind "solver" was not asked for',
    )


CASES = {
    "weights": (["rows.parquet", "--format", "trl"], "rows.parquet: row 0: it weighs 12, and trl takes no weights"),
    "captures' weights": ([QWEN3, *STRIP, "--format", "trl"], "row 0: it weighs 12, and trl takes no weights"),
    "policy": (["rows.parquet", "--format", "trl", *STRIP], "--think works on captures, and rows.parquet holds rows"),
    "kind": (["rows.parquet", "--format", "trl", "--kind", "helper"], "--kind works on captures"),
    "profile": (["rows.parquet", "--format", "trl", "--profile", "qwen3"], "--profile works on captures"),
    "from": (["rows.parquet", "--format", "trl", "--from", "calls"], "--from works on captures"),
    "trim": (["rows.parquet", "--format", "trl", "--overlong", "trim-prompt"], "--overlong trim-prompt works on"),
    "two": (["rows.parquet", QWEN3, "--format", "trl"], "rows.parquet holds rows, and 2 inputs are named"),
    "format": ([QWEN3, "--format", "tlr"], "argument --format: invalid choice: 'tlr'"),
    "no format": ([QWEN3, "--weights", "copies"], "--weights belongs to an export"),
    "no pack": ([QWEN3, "--pack", "9"], "--pack belongs to an export"),
    "columns": ([QWEN3, "--format", "trl", "--columns", "labels"], "--columns belongs to rows, not to --format trl"),
    "shards": ([QWEN3, "--format", "trl", "--shard-tokens", "9"], "--shard-tokens belongs to rows"),
    "shards by size": ([QWEN3, "--format", "trl", "--shard-mb", "9"], "--shard-mb belongs to rows, not to"),
    "val": ([QWEN3, "--format", "trl", "--val", "0.3"], "val=0.3 makes a second file of rows, an export is one"),
    "tokenizer": (["rows.parquet", "--format", "trl", "--tokenizer", "t"], "--tokenizer works on captures, and"),
    "dry run": ([QWEN3, "--format", "trl", "--dry-run"], "--dry-run exports nothing"),
    "row mode": ([QWEN3, "--format", "trl", "--row-mode", "rollout"], "--row-mode belongs to prime-sft, not to trl"),
    "identity": ([QWEN3, "--format", "trl", "--group-by", "identity"], "group_by=identity makes several files"),
    "pack": ([QWEN3, "--format", "verl", "--pack", "9"], "verl takes no packs"),
    "no shard": ([QWEN3, "--shard-tokens", "0"], "--shard-tokens 0: not a size"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_wrong_use(run, case):
    args, message = CASES[case]
    run("convert", QWEN3, "-o", "rows.parquet", *STRIP)
    code, out, err = run("convert", *args, "-o", "out.parquet")
    *_, error, hint = err.splitlines()
    assert (code, out) == (2, "")
    assert message in error
    assert hint.startswith("hint: ")
    assert sorted(os.listdir()) == ["rows.parquet", "rows.parquet.manifest.json"]


def test_a_folder_of_rows_and_captures_is_refused(run):
    """Rows of an earlier run among captures: exporting either of them would leave the other out in silence."""
    mixed = Path("mixed")
    (mixed / "deep").mkdir(parents=True)
    shutil.copy(QWEN3, mixed / "deep" / "calls.jsonl")
    run("convert", QWEN3, "-o", mixed / "old.parquet")
    said = [
        "error: mixed holds rows (mixed/old.parquet) and captures (mixed/deep/calls.jsonl)",
        "hint: name the rows to work on rows, or keep them apart: captures in a folder of their own",
    ]
    for name in ("trl", "prime-sft"):
        code, out, err = run("convert", mixed, "--format", name, "-o", "out.jsonl")
        assert (code, out, err.splitlines()) == (2, "", said)
    assert os.listdir() == ["mixed"]
    assert run("convert", mixed / "old.parquet", "--format", "trl", "-o", "out.jsonl")[0] == 0
    (mixed / "old.parquet").unlink()
    (mixed / "old.parquet.manifest.json").unlink()
    pq.write_table(pa.table({"text": ["a"]}), mixed / "other.parquet")
    code, _, err = run("convert", mixed, "--format", "trl", "-o", "out.parquet", "--think", "strip")
    assert (code, err.splitlines()[0]) == (0, "calls     36 seen = 12 used + 24 skipped (unterminated_think 24)")


def test_rows_without_a_format_stay_refused(run):
    run("convert", QWEN3, "-o", "rows.jsonl")
    code, _, err = run("convert", "rows.jsonl", "-o", "out.parquet")
    assert code == 1
    assert "holds rows, not captures" in err


def test_the_number_of_records_is_checked(run):
    code, _, err = run("convert", QWEN3, "--format", "trl", "-o", "o.parquet", "--expect-rows", "35")
    assert (code, err.splitlines()[-2]) == (1, "error: 36 rows, 35 were expected")
    assert os.listdir() == []
    assert run("convert", QWEN3, "--format", "trl", "-o", "o.parquet", "--expect-rows", "36")[0] == 0


def test_shards_by_tokens_are_the_same_for_any_number_of_workers(run):
    written = []
    for workers in ("1", "3"):
        Path(workers).mkdir()
        args = ("-o", f"{workers}/rows.parquet", "--shard-tokens", 3000, "--workers", workers)
        assert run("convert", CAPTURES / "qwen3", *args)[0] == 0
        written.append([shard.read_bytes() for shard in sorted(Path(workers).glob("*.parquet"))])
    assert written[0] == written[1]
    report = json.loads(Path("1/rows.parquet.manifest.json").read_text())
    *full, last = [output["ids"] for output in report["outputs"]]
    assert len(full) > 4
    # A row of these has 307 ids at most.
    assert all(abs(ids - 3000) <= 3000 / 8 + 307 for ids in full)
    assert last <= 3000 + 307
    assert len(tito.open_rows("1")) == report["counts"]["rows"]
