"""Conversion in parts: a rollout is in one part wherever its calls stand, and parts hold the rows of one run."""

import gzip
import json
import math
import os
import random
import tempfile
from itertools import pairwise
from pathlib import Path

import dumps
import fsspec
import pytest
import runs
import strategies
import test_section
import tito
import zstandard
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tito import Policies, distributed

CAPTURES = Path(__file__).parent / "captures"
LENIENT = Policies(bad="skip")
TOLD = ("counts", "policies", "given", "profiles", "inputs", "inputs_repeated", "passed_over", "weights", "val")


def numbered(path, number):
    return path.with_name(f"{path.stem}-{number:05}{path.suffix}")


def rows_of(path):
    """Rows of all parts, in their order."""
    found, number = [], 0
    while numbered(path, number).exists():
        found += runs.read_rows(numbered(path, number))
        number += 1
    assert len(list(path.parent.glob(f"{path.stem}-*{path.suffix}"))) == number
    return found


def alike(one, other):
    """Equal, but for the order in which floats were added up."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return one == other


def both(inputs, folder, name="rows.parquet", *, part_bytes=1, **options):
    """A run over all and a run in parts; both reports, or both errors."""
    reports = []
    for kind, make in (("whole", tito.convert), ("parts", distributed.convert_parts)):
        (folder / kind).mkdir(exist_ok=True)
        more = {"part_bytes": part_bytes} if kind == "parts" else {}
        try:
            reports.append(make(inputs, folder / kind / name, **options, **more))
        except tito.TitoError as error:
            reports.append(error)
    return reports


def assert_same(inputs, folder, name="rows.parquet", **options):
    """Parts hold the rows of one run, in its order, and tell the same of it; gives their report."""
    whole, parts = both(inputs, folder, name, **options)
    if isinstance(whole, tito.TitoError):
        assert (type(parts), str(parts), parts.hint) == (type(whole), str(whole), whole.hint)
        assert runs.left_behind(folder / "parts") == []
        return None
    if isinstance(parts, tito.TitoError):
        raise parts
    names = [name]
    if options.get("policies", LENIENT).val is not None:
        names.append(Path(name).with_suffix(f".val{Path(name).suffix}"))
    expected = {name: runs.read_rows(folder / "whole" / name) for name in names}
    shared = any("#" in (row["rollout_id"] or "") for rows in expected.values() for row in rows)
    # Rollouts that share a name stand together.
    order = by_rollout if shared else list
    for name, rows in expected.items():
        assert order(rows_of(folder / "parts" / name)) == order(rows)
    for key in TOLD:
        told, expected = parts.data[key], whole.data[key]
        if shared and key == "counts":
            # The first of their kind are others in another order.
            told, expected = map(without_examples, (told, expected))
        assert alike(told, expected), (key, differences(told, expected))
    return parts


def differences(one, other):
    return {key: (one[key], other[key]) for key in one if not alike(one[key], other[key])}


def without_examples(counts):
    proof = counts["prove_think"]
    return {**counts, "examples": None, "prove_think": proof and {**proof, "examples": None}}


def by_rollout(rows):
    """Rows in the order of their rollouts' names; those of a rollout stay in theirs."""
    return sorted(rows, key=lambda row: row["rollout_id"] or "")


def scattered(dump, folder, dice, ways):
    """Writes the lines of a dump to several files, some compressed; gives the paths in their order."""
    if dump.form == "documents":
        return [folder / name for name in dump.write(folder)]
    lines = [line for _, data in dump.files for line in data.splitlines(keepends=True)]
    if ways == "in turns":
        files = [lines[n::3] for n in range(3)]
    elif ways == "one by one":
        files = [[line] for line in lines]
    else:
        cuts = sorted({0, len(lines), *(dice.randint(0, len(lines)) for _ in range(3))})
        files = [lines[start:end] for start, end in pairwise(cuts)]
    paths = []
    for at, part in enumerate(files):
        data = b"".join(part)
        if not data.strip():
            continue
        pack, suffix = dice.choice(((bytes, ""), (gzip.compress, ".gz"), (zstandard.compress, ".zst")))
        paths.append(folder / f"{at:03}.jsonl{suffix}")
        paths[-1].write_bytes(pack(data))
    return paths


@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    strategies.dumps(most_rollouts=6),
    strategies.POLICIES,
    strategies.SURVEYED,
    st.sampled_from(("turn", "merged", "auto")),
    st.sampled_from(("in turns", "one by one", "cut")),
    st.sampled_from((1, 300, 2000, 10**9)),
    st.integers(0, 2**32),
)
def test_parts_hold_the_rows_of_the_whole(dump, drawn, more, rows, ways, part_bytes, seed):
    options = {**strategies.policies({**drawn, **more}), "rows": rows, "bad": "skip"}
    if options.get("upweight_as") == "copies" and ("normalize" in options or "weight_scale" in options):
        # Copies of fractions are drawn in each part anew.
        options["upweight_as"] = "weight"
    policies = Policies(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        inputs = scattered(dump, folder / "in", random.Random(seed), ways)
        assert_same(inputs, folder, "rows.jsonl", policies=policies, part_bytes=part_bytes, prove_think=seed % 2 == 0)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return test_section.Engine(tmp_path_factory.mktemp("qwen3"), "qwen3", "qwen3")


@pytest.mark.parametrize(
    "chosen",
    [
        {"drop_section": test_section.SECTION, "rows": "merged", "think": "strip"},
        {"leak_scan": test_section.SECTION, "leaks": "drop", "rows": "auto"},
        {"leak_scan": test_section.SECTION},
        {"think": "strip-all", "tail": "no-think", "max_length": 200, "overlong": "trim-prompt"},
        {"columns": ("loss_mask", "labels"), "upweight": "last:2.5", "normalize": "task", "weight_scale": "mean-1"},
    ],
    ids=lambda chosen: " ".join(chosen),
)
def test_policies_about_text_and_rows(tmp_path, engine, chosen):
    """Every call stands in a file of its own; the first rollout and the fourth were given the section."""
    (tmp_path / "in").mkdir()
    for rollout in range(6):
        system = test_section.DEFAULT + (f"\n\n{test_section.SECTION}" if rollout % 3 == 0 else "")
        messages = [{"role": "system", "content": system}, {"role": "user", "content": f"Mend {rollout}."}]
        for turn in range(3):
            answer = f"<think>\nLook at {turn}\n</think>\n\nDone {rollout} {turn}"
            call = {"prompt_ids": engine.prompt(messages), "output_ids": engine.ids(f"{answer}<|im_end|>")}
            call |= {"rollout_id": f"r{rollout}", "task_id": f"t/{rollout // 2}", "turn": turn}
            dumps.write(
                tmp_path / "in" / f"{turn}-{rollout}.jsonl", json.dumps({**call, "call_id": f"{rollout}.{turn}"})
            )
            messages += [
                {"role": "assistant", "content": f"Done {rollout} {turn}"},
                {"role": "user", "content": "Go on."},
            ]
    report = assert_same(
        tmp_path / "in",
        tmp_path,
        part_bytes=4000,
        policies=Policies(**chosen),
        profile=tito.Profile.from_json(json.dumps(engine.profile)),
        tokenizer=engine.folder if {"drop_section", "leak_scan"} & set(chosen) else None,
        prove_think=True,
    )
    if chosen == {"leak_scan": test_section.SECTION}:
        assert report is None
    else:
        assert len(report.outputs) >= 2


def folder_of(path, files=6):
    """Files of calls; each holds a rollout of its own."""
    path.mkdir()
    for n in range(files):
        lines = [dumps.line(10 * n + t, turn=t, rollout_id=f"r{n}", call_id=f"c{n}-{t}") for t in range(3)]
        dumps.write(path / f"{n}.jsonl", *lines)
    return path


def test_what_a_run_in_parts_leaves(tmp_path):
    inputs = folder_of(tmp_path / "in")
    (inputs / "away").symlink_to(tmp_path)
    report = assert_same([inputs, inputs / "0.jsonl", f"{inputs}/./1.jsonl"], tmp_path, part_bytes=600)
    assert report.data["inputs_repeated"] == 2
    assert report.data["passed_over"]["files"] == 1
    out = tmp_path / "parts" / "rows.parquet"
    assert list(report.outputs) == [str(numbered(out, n)) for n in range(3)]
    assert [part["inputs"] for part in report.data["parts"]] == [2, 2, 2]
    manifest = json.loads((tmp_path / "parts" / "rows.parquet.manifest.json").read_text())
    assert manifest == {key: value for key, value in report.data.items() if key != "manifest"}
    assert tito.verify(list(report.outputs), inputs).ok
    left = [f"rows-0000{n}.parquet" for n in range(3)] + ["rows.parquet.manifest.json"]
    assert runs.left_behind(tmp_path / "parts") == left


def test_a_rollout_in_several_files_is_one_rollout(tmp_path):
    inputs = folder_of(tmp_path / "in", files=4)
    # Calls of r0 in two files, and a call that was saved twice.
    dumps.write(inputs / "4.jsonl", dumps.line(7, rollout_id="r0", turn=3, call_id="c0-7"))
    dumps.write(inputs / "5.jsonl", *(inputs / "1.jsonl").read_text().splitlines())
    report = assert_same(inputs, tmp_path, policies=Policies(rows="merged"))
    assert report.skipped == {"duplicate": 3}
    assert [part["inputs"] for part in report.data["parts"]] == [2, 2, 1, 1]


def test_a_file_is_shared_line_by_line(tmp_path):
    """Every rollout has a line in every file: no file belongs to one part alone."""
    (tmp_path / "in").mkdir()
    for t in range(5):
        lines = [dumps.line(10 * n + t, turn=t, rollout_id=f"r{n}", call_id=f"c{n}-{t}") for n in range(8)]
        packed = zstandard.compress("\n\n".join(lines).encode())
        (tmp_path / "in" / f"{t}.jsonl.zst").write_bytes(packed)
    report = assert_same(tmp_path / "in", tmp_path)
    assert [part["inputs"] for part in report.data["parts"]] == [5] * len(report.data["parts"])
    assert len(report.data["parts"]) > 3
    assert {row["capture_record"] for row in rows_of(tmp_path / "parts" / "rows.parquet")} == set(range(1, 16, 2))
    assert tito.verify(list(report.outputs), tmp_path / "in").ok


def test_rollouts_of_one_name_are_told_apart_as_in_one_run(tmp_path):
    inputs = folder_of(tmp_path / "in", files=3)
    for agent in ("a", "b"):
        dumps.write(inputs / f"{agent}.jsonl", dumps.line(50, rollout_id="r", agent=agent, call_id=agent))
    whole, parts = both(inputs, tmp_path)

    def names(rows):
        return sorted((row["rollout_id"], row["call_id"]) for row in rows)

    rows = rows_of(tmp_path / "parts" / "rows.parquet")
    assert names(rows) == names(runs.read_rows(tmp_path / "whole" / "rows.parquet"))
    assert {("r", "a"), ("r#2", "b")} < set(names(rows))
    assert alike(parts.data["counts"], whole.data["counts"])


def test_copies_and_files_of_two_models(tmp_path):
    inputs = folder_of(tmp_path / "in", files=5)
    lines = [{"prompt_ids": dumps.PROMPT_35, "output_ids": [9, 248046], "rollout_id": f"q{n}"} for n in range(2)]
    dumps.write(inputs / "6.jsonl", *map(json.dumps, lines))
    with pytest.raises(tito.DataError, match=r"two tokenizers or templates in one dump: qwen3, qwen3\.5"):
        distributed.convert_parts(inputs, tmp_path / "rows.parquet", part_bytes=1)
    chosen = Policies(group_by="identity", upweight="0:3", upweight_as="copies")
    report = distributed.convert_parts(inputs, tmp_path / "rows.parquet", policies=chosen, part_bytes=1)
    assert report.rows == 5 * 5 + 2 * 3
    assert {Path(file).name for file in report.outputs} == {
        *(f"rows.qwen3-{n:05}.parquet" for n in range(5)),
        *(f"rows.qwen3.5-{n:05}.parquet" for n in (5, 6)),
    }


def test_the_run_is_judged_once(tmp_path, monkeypatch):
    inputs = folder_of(tmp_path / "in")
    # A rule that matches in one part only is no error; one that matches in none is.
    report = assert_same(inputs, tmp_path, policies=Policies(upweight="rollout=r5:2"))
    assert [(rule["rule"], rule["calls"]) for rule in report.data["counts"]["upweight"]] == [("rollout=r5:2", 3)]
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    cases = [
        ({"policies": Policies(upweight="rollout=r9:2")}, '--upweight "rollout=r9:2" matches no row'),
        (
            {"policies": Policies(val=7, val_by="rollout")},
            "--val 7: there are rows of 6 rollouts, and one must be left",
        ),
        ({"policies": Policies(normalize="rollout", upweight="0-9:0")}, "no id that would be trained weighs more"),
        ({"expect_rows": 17}, "18 rows, 17 were expected"),
        ({"policies": Policies(max_length=3)}, "in/0.jsonl: record 1, turn 0: "),
        ({"profile": "qwen3.5"}, "in/0.jsonl: record 1, turn 0: --profile needs a prompt"),
    ]
    for options, message in cases:
        with pytest.raises(tito.DataError) as error:
            distributed.convert_parts("in", out / "rows.parquet", **options, part_bytes=1)
        assert str(error.value).startswith(message)
        assert runs.left_behind(out) == []
        assert os.listdir(out) == []


def test_files_that_change_are_refused(tmp_path):
    inputs = folder_of(tmp_path / "in", files=2)
    split = tmp_path / "split"
    split.mkdir()
    dumps.write(
        split / "0.jsonl",
        *(inputs / "0.jsonl").read_text().splitlines(),
        *[dumps.line(40 + t, turn=t, rollout_id="s", call_id=f"s{t}") for t in range(3)],
    )

    class Meddling(distributed.parts.Here):
        def map(self, function, items):
            yield from super().map(function, items)
            if function is distributed.parts.scan_file:
                path = Path(items[0].file.name)
                path.write_bytes(path.read_bytes().replace(b'"turn": 2', b'"turn": 5'))

    for where in (inputs, split):
        with pytest.raises(tito.DataError, match=r"0\.jsonl: the file changed between two readings"):
            distributed.convert_parts(where, tmp_path / "rows.parquet", part_bytes=1, executor=Meddling())
        assert not list(tmp_path.glob("*rows*"))


def test_what_is_no_capture_is_passed_over_in_folders_only(tmp_path):
    inputs = folder_of(tmp_path / "in", files=2)
    (inputs / "notes.txt").write_text("hello\n")
    assert assert_same(inputs, tmp_path).data["passed_over"] == {"files": 1, "first": [str(inputs / "notes.txt")]}
    with pytest.raises(tito.DataError, match=r"notes\.txt: "):
        distributed.convert_parts([inputs / "notes.txt", inputs], tmp_path / "more.jsonl")
    (tmp_path / "empty").mkdir()
    dumps.write(tmp_path / "empty" / "notes.txt", "hello")
    (tmp_path / "none").mkdir()
    assert assert_same(tmp_path / "empty", tmp_path / "none") is None


def test_parts_of_an_earlier_run_are_not_mixed_with_new_ones(tmp_path):
    inputs = folder_of(tmp_path / "in", files=2)
    chosen = Policies(val=1, val_by="rollout")
    distributed.convert_parts(inputs, tmp_path / "rows.parquet", policies=chosen)
    for left in ("rows-00000.parquet", "rows.val-00000.parquet"):
        with pytest.raises(tito.UsageError, match=r"rows(\.val)?-00000\.parquet is there already"):
            distributed.convert_parts(inputs, tmp_path / "rows.parquet")
        (tmp_path / left).unlink()
    distributed.convert_parts(inputs, tmp_path / "rows.parquet")


@pytest.mark.parametrize("there", ["memory://", "file://"])
def test_urls_are_read_and_written(tmp_path, there):
    """The reward beside trajectories comes along, and rows name the URL."""
    root = there if there == "memory://" else f"{there}{tmp_path}/"
    system, base = fsspec.core.url_to_fs(f"{root}run{tmp_path.name}")
    for file in (CAPTURES / "qwen3" / "coop").rglob("*"):
        if file.is_file():
            target = f"{base}/coop/{file.relative_to(CAPTURES / 'qwen3' / 'coop')}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.pipe_file(target, file.read_bytes())
    tito.convert(CAPTURES / "qwen3" / "coop", tmp_path / "here.parquet", policies=LENIENT)
    out = f"{root}run{tmp_path.name}/out/rows.parquet"
    report = distributed.convert_parts(f"{root}run{tmp_path.name}/coop", out, policies=LENIENT)
    assert report.outputs == (out.replace("rows.", "rows-00000."),)
    assert sorted(name.rsplit("/", 1)[1] for name in system.ls(f"{base}/out", detail=False)) == [
        "rows-00000.parquet",
        "rows.parquet.manifest.json",
    ]
    (tmp_path / "there.parquet").write_bytes(system.cat_file(f"{base}/out/rows-00000.parquet"))
    here, away = (runs.read_rows(tmp_path / f"{name}.parquet") for name in ("here", "there"))
    for row in away:
        assert row["capture_file"].startswith(f"{there}/")
    assert [{**row, "capture_file": ""} for row in here] == [{**row, "capture_file": ""} for row in away]


def test_shared_files_elsewhere(tmp_path):
    """Lines that parts share lie beside the output, wherever that is; a glob of URLs."""
    system = fsspec.filesystem("memory")
    folder = f"/shared{tmp_path.name}"
    (tmp_path / "in").mkdir()
    for t in range(3):
        lines = [dumps.line(10 * n + t, turn=t, rollout_id=f"r{n}", call_id=f"c{n}-{t}") for n in range(6)]
        data = "\n".join(lines).encode()
        system.pipe_file(f"{folder}/in/{t}.jsonl", data)
        (tmp_path / "in" / f"{t}.jsonl").write_bytes(data)
    tito.convert(tmp_path / "in", tmp_path / "whole.jsonl")
    out = f"memory:/{folder}/rows.jsonl"
    report = distributed.convert_parts(f"memory:/{folder}/in/*.jsonl", out, part_bytes=1)
    assert len(report.outputs) > 3
    rows = [json.loads(line) for file in report.outputs for line in fsspec.open(file).open().read().splitlines()]
    whole = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [{**row, "capture_file": ""} for row in rows] == [{**row, "capture_file": ""} for row in whole]
    assert len(system.ls(folder, detail=False)) == len(report.outputs) + 2
    with pytest.raises(tito.UsageError, match=r"rows-00000\.jsonl is there already"):
        distributed.convert_parts(f"memory:/{folder}/in", out)
    with pytest.raises(tito.WorldError, match="no such file"):
        distributed.convert_parts(f"memory:/{folder}/nowhere", f"memory:/{folder}/more.jsonl")


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["--part-mb", "0"], "--part-mb 0: not a size", "give the megabytes of input, like 512"),
        *(
            (
                ["--part-mb", "5", *more],
                "parts are files of their own: not with --dry-run, --format, --shard-mb, --shard-tokens or -o -",
                "name a file with -o, and go on from the parts",
            )
            for more in (["--dry-run"], ["--shard-mb", "5"], ["--shard-tokens", "100"], ["--format", "trl"])
        ),
    ],
)
def test_what_parts_cannot_be(run, args, message, hint):
    folder_of(Path("in"), files=1)
    assert run("convert", "in", "-o", "rows.parquet", *args) == (2, "", f"error: {message}\nhint: {hint}\n")


def test_standard_input_has_no_parts(run):
    message = "error: standard input cannot be cut into parts\nhint: name files or folders\n"
    assert run("convert", "-", "-o", "rows.parquet", "--part-mb", "1") == (2, "", message)


def test_the_command_line_names_the_parts(run):
    folder_of(Path("in"))
    code, out, err = run("convert", "in", "-o", "rows.parquet", "--part-mb", "0.0006", "--normalize", "rollout")
    assert (code, out) == (0, "")
    assert err.splitlines()[-1].endswith("For TRL: tito convert rows-*.parquet --format trl -o trl.parquet")
    assert len(runs.left_behind(Path(), "rows.parquet.manifest.json")) == 6 + 3


def test_a_folder_to_write_to_that_is_not_there(run):
    folder_of(Path("in"), files=1)
    error = "error: no/rows.parquet: cannot write: no such folder\n"
    hint = "hint: there is no folder no; make it first: mkdir -p no\n"
    assert run("convert", "in", "-o", "no/rows.parquet", "--part-mb", "1") == (3, "", error + hint)
