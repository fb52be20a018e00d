"""Weights over a whole data set: selectors, normalisation, scale, and the validation side (laws 5 and 6)."""

import json
import math
import random
from pathlib import Path

import dumps
import made_tokenizers
import numpy as np
import pyarrow.parquet as pq
import pytest
import reference_convert
import reference_weights
import runs
import strategies
import tito
from hypothesis import given
from hypothesis import strategies as st
from test_convert_laws import COLUMNS, written
from tito import DataError, UsageError, _core
from tito.cli import main

CAPTURES = Path(__file__).parent / "captures"
# Runs that fail as a whole, in the words of the core.
FAILED = (
    "fired nowhere",
    "matches no row",
    "each side needs one",
    "one must be left",
    "weighs more than 0",
    "no row is",
    "do not say which of the rollouts",
)


def surveyed(names, output="o.parquet", **options):
    """A run, or None where it fails as a whole."""
    try:
        return runs.convert(names, output, bad="skip", **options)
    except DataError as error:
        assert any(said in str(error) for said in FAILED), error  # noqa: PT017
        assert not Path(output).exists()
        return None


def trained(row):
    """(weight, trained ids) of each part of a row."""
    if row["loss_spans"] is None:
        return [(row["weight"], len(row["output_ids"]))]
    return [(row["weight"] * weight, end - start) for start, end, weight in row["loss_spans"]]


def totals(rows, key="rollout_id"):
    found = {}
    for row in rows:
        found[row[key]] = found.get(row[key], 0) + sum(weight * n for weight, n in trained(row))
    return found


@given(strategies.dumps(), strategies.POLICIES, strategies.SURVEYED)
def test_the_twin_weighs_and_divides_alike(dump, drawn, more):
    options = {**strategies.policies({**drawn, "upweight_as": "weight"}), **more}
    with written(dump) as names:
        run = surveyed(names, **options)
    try:
        twin = reference_convert.convert(dump.files, {**runs.DEFAULTS, **options}, runs.BUILT_IN)
    except ValueError:
        twin = None
    if run is None:
        return
    assert twin is not None
    for side, rows, expected_rows in (("train", run.rows, twin["rows"]), ("val", run.val, twin["val"])):
        for row, expected in zip(rows, expected_rows, strict=True):
            assert math.isclose(row.pop("weight"), expected["weight"], rel_tol=1e-6)
            for column in COLUMNS:
                assert column == "weight" or row[column] == expected[column], column
        assert run.counts["sides"][side]["rows"] == len(rows)


@given(strategies.dumps(plain=True, clean=True), st.sampled_from(("rollout", "task")), st.booleans())
def test_everyone_weighs_the_same_in_however_many_rows(dump, normalize, upweighted):
    options = {"normalize": normalize, "upweight": ["0:3"] if upweighted else []}
    with written(dump) as names:
        per_turn, merged = (surveyed(names, rows=rows, **options) for rows in ("turn", "merged"))
    if per_turn is None or merged is None:
        return
    key = "rollout_id" if normalize == "rollout" else "task_id"
    before, after = totals(per_turn.rows, key), totals(merged.rows, key)
    assert before.keys() == after.keys()
    if None in before or any(row["task_id"] is None for row in per_turn.rows):
        return
    each = per_turn.report["weights"]["each"]
    assert all(math.isclose(total, each, rel_tol=1e-5) for total in [*before.values(), *after.values()])
    assert math.isclose(merged.report["weights"]["each"], each, rel_tol=1e-9)
    assert len(before) == per_turn.report["weights"]["units"]


@given(strategies.dumps(), strategies.POLICIES, strategies.SURVEYED, st.sampled_from(("turn", "merged", "auto")))
def test_copies_state_what_floats_state(dump, drawn, more, shape):
    drawn = {name: value for name, value in drawn.items() if name not in ("upweight_as", "max_length", "overlong")}
    options = {**strategies.policies(drawn), **more, "rows": shape, "truncated": "drop", "weight_scale": "min-1"}
    with written(dump) as names:
        floats, copies = (surveyed(names, **options, upweight_as=how) for how in ("weight", "copies"))
    if floats is None or copies is None:
        return
    weights, drawn_copies = by_call(floats.rows), by_call(copies.rows)
    stated, given = sum(weights.values()), sum(drawn_copies.values())
    assert abs(given - stated) < 1 + 1e-4
    assert copies.counts["weight"] == given
    assert math.isclose(floats.counts["weight"], stated, rel_tol=1e-6)
    if all(weight == round(weight) for weight in weights.values()):
        assert drawn_copies == {call: weight for call, weight in weights.items() if weight}
    # No trained id weighs less than 1, so none vanishes.
    for row in floats.rows:
        for weight, n in trained(row):
            assert n == 0 or weight == 0 or weight >= 1
    assert {row["weight"] for row in copies.rows + floats.val + copies.val} <= {1.0}
    assert floats.val == copies.val


def by_call(rows):
    """The weight that rows give each call, loss or not; of rows of a merged call that is masked, nothing."""
    found = {}
    for row in rows:
        parts = [(row["capture_record"], row["capture_hash"], None)]
        if row["calls"] is not None:
            parts = [(call["record"], call["hash"], (call["start"], call["end"])) for call in row["calls"]]
        for record, digest, where in parts:
            weight = row["weight"]
            if where is not None:
                inside = [w for start, end, w in row["loss_spans"] if where[0] <= start and end <= where[1]]
                assert inside or row["loss_spans"] is not None
                weight *= inside[0] if inside else 0
            key = (row["capture_file"], record, digest if isinstance(digest, str) else digest.hex())
            found[key] = found.get(key, 0) + weight
    return found


@given(strategies.dumps(most_rollouts=8), strategies.POLICIES, strategies.SURVEYED, st.sampled_from(("turn", "merged")))
def test_no_key_stands_on_both_sides(dump, drawn, more, shape):
    options = {**strategies.policies(drawn), **more, "rows": shape, "val": more.get("val", 0.25)}
    with written(dump) as names:
        run = surveyed(names, **options)
    if run is None:
        return
    by = options.get("val_by", "task")
    entries = [{"task": row["task_id"], "name": row["rollout_id"]} for row in run.rows + run.val]
    keys = {reference_weights.key_of(entry, by) for entry in entries} - {None}
    apart = {reference_weights.key_of(entry, by) for entry in entries[len(run.rows) :]}
    # Two rollouts that share a name are one key; their rows tell them apart by a number.
    if not any("#" in (key or "") for key in keys):
        assert apart == reference_weights.keys_apart(keys, options["val"], options.get("seed", 0))
        assert (len(apart), len(keys)) == (run.report["val"]["keys"], run.report["val"]["of_keys"])
    assert not apart & {reference_weights.key_of(entry, by) for entry in entries[: len(run.rows)]}
    assert all(row["weight"] == 1 and not row["flags"] & reference_convert.COPIED for row in run.val)
    assert run.counts["rows"] == len(run.rows) + len(run.val)
    assert run.rows
    assert run.val


@given(strategies.dumps(plain=True, forms=("calls", "native", "lines")), strategies.SURVEYED, st.randoms())
def test_the_order_of_lines_changes_no_weight_and_no_side(dump, more, dice):
    options = {**more, "upweight": ["0:3", "kind=solver:1.7"]}
    with written(dump) as names:
        run = surveyed(names, **options)
        lines = [line for name in names for line in Path(name).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()]
        dice.shuffle(lines)
        Path("mixed.jsonl").write_bytes(b"\n".join(lines))
        mixed = surveyed(["mixed.jsonl"], "m.parquet", **options)
    assert (run is None) == (mixed is None)
    if run is None or not all(row["call_id"] for row in run.rows + run.val):
        return

    def told(rows):
        # Rollouts that share a name are numbered as they come.
        names = [row["rollout_id"].partition("#")[0] for row in rows]
        facts = [(row["call_id"], row["capture_hash"], row["weight"]) for row in rows]
        return sorted(zip(names, facts, strict=True))

    assert (told(run.rows), told(run.val)) == (told(mixed.rows), told(mixed.val))


@pytest.mark.parametrize("shape", ["turn", "merged"])
@pytest.mark.parametrize("how", ["weight", "copies"])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, shape, how):
    options = {"normalize": "task", "val": 0.4, "upweight": ["0:2.5"], "upweight_as": how, "rows": shape}
    found = set()
    for workers in (1, 2, 5):
        folder = tmp_path / str(workers)
        folder.mkdir()
        runs.convert(many(tmp_path), folder / "o.parquet", workers=workers, **options)
        found.add(tuple((folder / name).read_bytes() for name in ("o.parquet", "o.val.parquet")))
    assert len(found) == 1


def many(folder, rollouts=40, turns=5):
    """Rollouts of 20 tasks, interleaved, outputs of 1 to 30 ids."""
    dice = random.Random(5)
    lines = []
    for turn in range(turns):
        for n in range(rollouts):
            prompt = [*dumps.PROMPT[:3], 3000 + n, *([7] * turn), *dumps.PROMPT[3:]]
            output = [*(dice.randint(1000, 2000) for _ in range(dice.randint(1, 30))), 151645]
            who = {"rollout_id": f"r{n}", "task_id": f"repo{n // 8}/{n // 2}", "reward": n % 4 / 4}
            lines.append(dumps.line(n, prompt_ids=prompt, output=output, turn=turn, call_id=f"c{n}.{turn}", **who))
    return dumps.write(folder / "many.jsonl", *lines)


def test_a_rollout_too_large_for_one_stretch_weighs_what_others_weigh(tmp_path):
    # More than two million ids, so that its rows are made in several parts.
    lines = []
    for turn in range(12):
        prompt = [*dumps.PROMPT[:3], *([5] * 180_000), 3000 + turn, *dumps.PROMPT[3:]]
        lines.append(dumps.line(turn, prompt_ids=prompt, rollout_id="large", call_id=f"l{turn}"))
        lines.append(dumps.line(50 + turn, turn=turn, rollout_id="small", output=[9707, 9707, 9707, 151645]))
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    run = runs.convert(dump, tmp_path / "o.parquet", normalize="rollout", workers=2)
    assert totals(run.rows) == pytest.approx({"large": 42, "small": 42})
    assert run.report["weights"] == {
        "normalize": "rollout",
        "scale": "auto",
        "factor": 1.0,
        "units": 2,
        "each": 42.0,
        "total": 84.0,
        "trained": 84,
        "least": 0.875,
        "most": pytest.approx(42 / 36),
        "rollouts_without_task": 0,
    }


@pytest.mark.parametrize("rows", ["turn", "merged"])
def test_ids_without_loss_do_not_count(tmp_path, rows):
    lines = [dumps.line(0, output=dumps.THOUGHT), dumps.line(1, output=dumps.THOUGHT[:5], rollout_id="cut")]
    lines.append(dumps.line(2, output=[9707, 9707, 9707, 151645], rollout_id="long"))
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    options = {"think": "mask", "truncated": "mask", "normalize": "rollout", "rows": rows}
    run = runs.convert(dump, tmp_path / "o.parquet", **options)
    # Of seven ids of the first two have loss, of the second none.
    assert (run.report["weights"]["units"], run.report["weights"]["trained"]) == (2, 6)
    found = totals(run.rows)
    assert found == pytest.approx({"r": 3, "cut": 0, "long": 3})


@pytest.mark.parametrize(
    ("scale", "weights"),
    [("auto", [6, 1, 0.5]), ("min-1", [12, 2, 1]), ("mean-1", [6 / 2.5, 1 / 2.5, 0.5 / 2.5])],
)
def test_scales(tmp_path, scale, weights):
    lines = [dumps.line(n, output=[9707, 151645]) for n in range(3)]
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    run = runs.convert(dump, tmp_path / "o.parquet", weight_scale=scale, upweight=["0:6", "2:0.5"])
    assert [row["weight"] for row in run.rows] == pytest.approx(weights)
    metadata = pq.read_schema(run.path).metadata
    told = json.loads(metadata[b"tito.weights"]) if scale != "auto" else None
    assert told == run.report["weights"]
    assert (b"tito.weights" in metadata) == (scale != "auto")
    manifest = json.loads(Path(f"{run.path}.manifest.json").read_text())
    assert manifest["weights"] == told


def test_normalised_copies_are_scaled_so_that_none_vanishes(tmp_path):
    run = runs.convert(many(tmp_path), tmp_path / "o.parquet", normalize="rollout", upweight_as="copies")
    assert run.report["weights"]["scale"] == "min-1"
    assert len({row["call_id"] for row in run.rows}) == 200
    each = run.report["weights"]["each"]
    # Drawn row by row: each rollout is off by less than one row of its longest.
    assert all(abs(total - each) < 62 for total in totals(run.rows).values())
    plain = runs.convert(many(tmp_path), tmp_path / "p.parquet", normalize="rollout", weight_scale="min-1")
    assert abs(len(run.rows) - sum(row["weight"] for row in plain.rows)) < 1.001


# Selectors


@pytest.mark.parametrize(
    ("rule", "weights"),
    [
        ("reward=1:2", [1, 1, 2, 1]),
        ("reward=..0.1:2", [2, 1, 1, 1]),
        ("reward=0.1..0.7:2", [2, 2, 1, 1]),
        ("reward=0.1..:2", [2, 2, 2, 1]),
        ("reward=none:2", [1, 1, 1, 2]),
        ("note:grade=A:2", [2, 1, 1, 1]),
        ("note:tries=3:2", [1, 2, 1, 1]),
        ("note:ok=true:2", [1, 1, 2, 1]),
        ("note:a:b=c:d:2", [1, 1, 1, 2]),
        ("agent=a&0-1:2", [2, 1, 1, 1]),
        ("agent=a & reward=0.5..:2", [1, 1, 2, 1]),
        ("agent=a&first:2", [2, 1, 1, 1]),
    ],
)
def test_selectors(tmp_path, rule, weights):
    rewards = [0.1, 0.7, 1.0, None]
    notes = [{"grade": "A"}, {"tries": 3, "grade": None}, {"ok": True, "x": [1]}, {"a:b": "c:d"}]
    facts = [
        {"agent": "ab"[n % 2], "reward": rewards[n], "annotations": notes[n], "rollout_id": f"r{n}"} for n in range(4)
    ]
    facts = [{**fact, "turn": 0 if n == 0 else 2} for n, fact in enumerate(facts)]
    if "first" in rule:
        facts = [{**fact, "rollout_id": "r"} for fact in facts]
    native = dumps.write(tmp_path / "n.jsonl", *(dumps.line(n, **fact) for n, fact in enumerate(facts)))
    logged = dumps.write(tmp_path / "l.jsonl", *(dumps.logged(n, **fact) for n, fact in enumerate(facts)))
    bare = dumps.write(tmp_path / "b.jsonl", *(json.dumps({**dumps.reply(n), **fact}) for n, fact in enumerate(facts)))
    for dump in (native, logged, bare):
        rows = runs.convert(dump, tmp_path / "o.parquet", upweight=[rule]).rows
        assert [row["weight"] for row in sorted(rows, key=lambda row: row["call_id"])] == weights
    calls = [
        tito.Call(
            prompt_ids=dumps.prompt(n),
            output_ids=[9707, 151645],
            **{k: v for k, v in fact.items() if k not in ("rollout_id", "agent")},
        )
        for n, fact in enumerate(facts)
    ]
    if "reward" not in rule and "agent" not in rule:
        made = tito.expand_turns(calls, policies=tito.Policies(upweight=(rule,)))
        assert [row.weight for row in made] == weights


def test_commas_of_an_expression_do_not_end_a_rule():
    rules = tito.Policies(upweight=r"match=/a,b\/,c/&0-1:2, last:3").upweight
    assert rules == (r"match=/a,b\/,c/&0-1:2", "last:3")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with Qwen3's, and what encodes with it."""
    made = made_tokenizers.qwen("qwen3")
    folder = tmp_path_factory.mktemp("qwen3")
    made.save(str(folder / "tokenizer.json"))
    return folder, lambda text: made.encode(text, add_special_tokens=False).ids


SAID = [
    '<think>\nA plan: <invoke name="bash">\n</think>\n\nHello<|im_end|>',
    'Plan: look.\n<tool_call>\n{"name": "bash", "arguments": {"command": "ls a,b"}}\n</tool_call><|im_end|>',
    'I call <tool_call>\n{"arguments": {"name": "bash"}, "name": "write"}\n</tool_call><|im_end|>',
    "naïve 漢字<|im_end|>",
]


@pytest.mark.parametrize("rows", ["turn", "merged"])
@pytest.mark.parametrize(
    ("rule", "think", "weights"),
    [
        ("tool=bash:2", "keep", [1, 2, 1, 1]),
        ("tool=write:2", "strip", [1, 1, 2, 1]),
        ("match=/(?i)plan:/:2", "keep", [2, 2, 1, 1]),
        ("match=/(?i)plan:/:2", "strip", [1, 2, 1, 1]),
        ("match=/(?i)plan:/:2", "mask", [1, 2, 1, 1]),
        ("match=/ls a,b/:2", "keep", [1, 2, 1, 1]),
        ("match=/^naïve 漢.<\\|im_end\\|>$/:2", "keep", [1, 1, 1, 2]),
        (r"match=/<\/tool_call>/&1:2", "keep", [1, 2, 1, 1]),
    ],
)
def test_rules_about_text(tmp_path, tokenizer, rows, rule, think, weights):
    folder, encode = tokenizer
    prompt, lines = list(dumps.PROMPT), []
    for turn, said in enumerate(SAID):
        lines.append(dumps.line(turn, prompt_ids=prompt, output=encode(said)))
        prompt = [*prompt, *encode(said), 198, *dumps.PROMPT]
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    policies = tito.Policies(upweight=rule, think=think, rows=rows)
    tito.convert(dump, tmp_path / "o.parquet", policies=policies, tokenizer=folder)
    made = runs.read_rows(tmp_path / "o.parquet")
    found = {}
    for row in made:
        if row["calls"] is None:
            found[row["turn"]] = row["weight"]
            continue
        for call in row["calls"]:
            [found[call["turn"]]] = {w for s, e, w in row["loss_spans"] if call["start"] <= s and e <= call["end"]}
    assert [found[turn] for turn in range(len(SAID))] == weights
    assert rows == "turn" or think != "keep" or len(made) == 1


def test_rules_about_text_need_a_tokenizer(tmp_path):
    message, hint = refused(tmp_path, UsageError, TWO, upweight=["0-9:2", "0-3&tool=bash:2"])
    assert message == '--upweight "0-3&tool=bash:2" reads the text of outputs, which needs a tokenizer'
    assert hint == "name its folder with --tokenizer"


def test_shares_are_told_by_rule_and_by_side(tmp_path, capsys):
    out = tmp_path / "o.parquet"
    assert main(["convert", str(many(tmp_path)), "-o", str(out), "--val", "0.25", "--upweight", "0:4"]) == 0
    said = capsys.readouterr().err
    assert "side           rows      weight   of weight      of ids\n" in said
    assert "train           150         240      82.8 %" in said
    assert "val              50          50      17.2 %" in said
    assert "val       5 of 20 tasks\n" in said
    assert "upweight  0:4 matches 30 calls: 50.0 % of weight," in said
    assert "warning: few_val_keys: the validation side has 5 tasks; what is measured on so few says little." in said


# The validation side


@pytest.mark.parametrize(("val", "keys"), [(0.25, 5), (0.125, 3), (0.01, 1), (0.99, 19), (7, 7), (19, 19)])
def test_so_many_keys_as_asked(tmp_path, val, keys):
    run = runs.convert(many(tmp_path), tmp_path / "o.parquet", val=val)
    assert len({row["task_id"] for row in run.val}) == keys
    assert run.report["val"] == {"by": "task", "keys": keys, "of_keys": 20, "rollouts_without_key": 0}


@pytest.mark.parametrize(("by", "keys"), [("task", 5), ("repo", 1), ("rollout", 10)])
def test_keys(tmp_path, by, keys):
    run = runs.convert(many(tmp_path), tmp_path / "o.parquet", val=0.25, val_by=by, seed=3)
    names = {"task": "task_id", "rollout": "rollout_id"}
    found = [
        {row[names[by]] if by in names else row["task_id"].rpartition("/")[0] for row in rows}
        for rows in (run.val, run.rows)
    ]
    assert len(found[0]) == keys
    assert not found[0] & found[1]
    other = runs.convert(many(tmp_path), tmp_path / "o.parquet", val=0.25, val_by=by, seed=4)
    assert by == "repo" or {row["call_id"] for row in other.val} != {row["call_id"] for row in run.val}


def test_agents_that_share_a_session_stay_together(tmp_path):
    lines = [dumps.line(10 * n + k, turn=0, rollout_id=f"s{n}", agent=f"a{k}") for n in range(6) for k in range(2)]
    run = runs.convert(dumps.write(tmp_path / "d.jsonl", *lines), tmp_path / "o.parquet", val=0.5, val_by="rollout")
    sessions = [{row["rollout_id"].split("#")[0] for row in rows} for rows in (run.rows, run.val)]
    assert (len(sessions[0]), len(sessions[1]), sessions[0] & sessions[1]) == (3, 3, set())
    assert run.report["val"]["of_keys"] == 6


def test_rollouts_without_a_key_are_trained_on_and_told(tmp_path, capsys):
    lines = [dumps.line(n, rollout_id=f"r{n}", task_id=f"t{n}" if n < 4 else None) for n in range(6)]
    dump = dumps.write(tmp_path / "d.jsonl", *lines)
    out = tmp_path / "o.parquet"
    assert main(["convert", str(dump), "-o", str(out), "--val", "0.5"]) == 0
    said = capsys.readouterr().err
    assert "val       2 of 4 tasks; 2 rollouts without one on the training side\n" in said
    assert "warning: no_val_key: 2 rollouts have no task and stand on the training side" in said
    assert {None} < {row["task_id"] for row in runs.read_rows(out)}
    assert None not in {row["task_id"] for row in runs.read_rows(tmp_path / "o.val.parquet")}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_files_by_side_identity_and_shard(tmp_path, suffix):
    dump = [CAPTURES / "qwen3" / "calls.jsonl", CAPTURES / "qwen35" / "calls.jsonl"]
    options = {"group_by": "identity", "val": 0.5, "val_by": "rollout", "jsonl": suffix == "jsonl"}
    report = json.loads(_core.convert(runs.options_json(dump, tmp_path / f"o.{suffix}", **options), _core.Progress()))
    sides = {Path(output["file"]).name: output["side"] for output in report["outputs"]}
    assert set(sides) <= {f"o.qwen3{v}{s}.{suffix}" for v in ("", ".5") for s in ("", ".val")}
    assert all((side == "val") == (".val." in name) for name, side in sides.items())
    assert set(sides.values()) == {"train", "val"}
    if suffix == "parquet":
        for name, side in sides.items():
            metadata = pq.read_schema(tmp_path / name).metadata
            assert metadata[b"tito.side"].decode() == side
            assert json.loads(metadata[b"tito.val"]) == report["val"]


def test_each_side_has_its_shards(tmp_path):
    _core.convert(
        runs.options_json(many(tmp_path), tmp_path / "o.jsonl", val=0.5, jsonl=True, shard_bytes=20_000),
        _core.Progress(),
    )
    names = sorted(path.name for path in tmp_path.glob("o*.jsonl"))
    assert next(name for name in names if ".val" in name) == "o.val-00000.jsonl"
    assert "o-00000.jsonl" in names
    assert sum(len(runs.read_rows(tmp_path / name)) for name in names) == 200


def test_nothing_is_written_by_a_dry_run_and_both_sides_are_counted(tmp_path):
    dump = many(tmp_path)
    counts = runs.count(dump, val=0.25, expect_rows=200)
    assert [counts["sides"][side]["rows"] for side in ("train", "val")] == [150, 50]
    assert tito.check(dump, policies=tito.Policies(val=0.25)).data["val"]["keys"] == 5
    assert runs.left_behind(tmp_path) == ["many.jsonl"]
    with pytest.raises(DataError, match=r"^200 rows, 150 were expected$"):
        runs.convert(dump, tmp_path / "o.parquet", val=0.25, expect_rows=150)
    assert runs.left_behind(tmp_path) == ["many.jsonl"]


# What is refused


def refused(folder, error, lines, **options):
    dump = dumps.write(folder / "d.jsonl", *lines)
    with pytest.raises(error) as caught:
        runs.convert(dump, folder / "o.parquet", **options)
    assert runs.left_behind(folder) == ["d.jsonl"]
    return str(caught.value).replace(str(folder), "DIR"), caught.value.hint


TWO = [dumps.line(n, rollout_id=f"r{n}", task_id=f"t{n}") for n in range(2)]


@pytest.mark.parametrize("val", [0, -1, 1.5])
def test_a_share_that_is_none(tmp_path, val):
    message, hint = refused(tmp_path, UsageError, TWO, val=val)
    assert message == f"--val {val}: neither a share between 0 and 1 nor a whole number of keys"
    assert hint == "give a share like 0.1, or a number like 20; --val-by says of what"


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf", ""])
def test_a_share_that_is_none_on_the_command_line(capsys, text):
    with pytest.raises(SystemExit) as caught:
        main(["convert", "d.jsonl", "-o", "o.parquet", f"--val={text}"])
    assert caught.value.code == 2
    assert f"{text!r} is neither a share like 0.1 nor a number like 20" in capsys.readouterr().err


def test_too_few_keys(tmp_path):
    message, hint = refused(tmp_path, DataError, TWO[:1], val=0.5)
    assert message == "--val: rows of 1 tasks, and each side needs one"
    assert hint == "choose another --val-by, or leave --val out"
    nameless = [dumps.line(n, rollout_id=f"r{n}") for n in range(2)]
    message, hint = refused(tmp_path, DataError, nameless, val=0.5)
    assert message == "--val: no row names a task, and each side needs one"
    assert hint == 'put "task_id" at the top of each record, or divide by rollouts: --val-by rollout'
    message, _ = refused(tmp_path, DataError, TWO, val=0.5, val_by="repo")
    assert message == "--val: rows of 0 repositories, and each side needs one"
    message, hint = refused(tmp_path, DataError, TWO, val=2)
    assert message == "--val 2: there are rows of 2 tasks, and one must be left to train on"
    assert hint == "ask for fewer, or for a share like 0.1"


@pytest.mark.parametrize("how", ["weight", "copies"])
@pytest.mark.parametrize("normalize", ["none", "rollout"])
def test_nothing_that_weighs_anything(tmp_path, how, normalize):
    message, hint = refused(tmp_path, DataError, TWO, upweight=["0-9:0"], upweight_as=how, normalize=normalize)
    if how == "copies" and normalize == "none":
        assert message.startswith("no row is left of 2 calls (skipped: not_drawn 2)")
        return
    assert message == "no id that would be trained weighs more than 0"
    assert hint == "give what should be trained a weight above 0 with --upweight"


def test_weights_that_are_too_far_apart(tmp_path):
    lines = [dumps.line(0, rollout_id="a"), dumps.line(1, rollout_id="a"), dumps.line(2, rollout_id="b")]
    rules = ["0:0.0001", "1:1000"]
    message, hint = refused(tmp_path, DataError, lines, upweight=rules, weight_scale="min-1")
    assert message == "rows would weigh 1.000e7 with the lightest at 1.000e0, the limit is 1e6"
    assert hint == "choose --weight-scale mean-1, or weights that are nearer to each other"


@pytest.mark.parametrize(
    ("options", "named"),
    [({"val": 0.5}, "--val"), ({"normalize": "task"}, "--normalize"), ({"weight_scale": "min-1"}, "--weight-scale")],
)
def test_standard_input_is_read_once(tmp_path, options, named):
    with pytest.raises(UsageError) as caught:
        runs.convert("-", tmp_path / "o.parquet", **options)
    assert str(caught.value) == f"{named} reads its input twice, and standard input can be read only once"
    assert caught.value.hint == "write it to a file first, like `cat > dump.jsonl`, and convert that"


def test_a_second_file_has_no_place_on_standard_output(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", *TWO)
    with pytest.raises(UsageError) as caught:
        _core.convert(runs.options_json(dump, "-", jsonl=True, val=0.5), _core.Progress())
    assert str(caught.value) == "--val writes a second file, and standard output is one"
    assert caught.value.hint == "write to a file: the validation rows go beside it"


def test_a_second_file_is_not_exported(tmp_path, capsys):
    dump = dumps.write(tmp_path / "d.jsonl", *TWO)
    assert main(["convert", str(dump), "--format", "trl", "-o", str(tmp_path / "o.parquet"), "--val", "0.5"]) == 2
    assert capsys.readouterr().err == (
        "error: val=0.5 makes a second file of rows, an export is one\n"
        "hint: convert with it and without a format, then export rows.parquet and rows.val.parquet\n"
    )
    assert runs.left_behind(tmp_path) == ["d.jsonl"]


def test_a_rule_about_the_validation_side_alone(tmp_path):
    apart = reference_weights.keys_apart({"t0", "t1"}, 1, 0)
    message, _ = refused(tmp_path, DataError, TWO, val=1, upweight=[f"task={apart.pop()}:2"])
    assert message.endswith("matches no row of the training side")


def test_an_input_is_not_written_over_by_the_second_file(tmp_path):
    dump = dumps.write(tmp_path / "o.val.parquet", *TWO)
    with pytest.raises(UsageError, match=r"o\.val\.parquet is an input and would be written over"):
        runs.convert(dump, tmp_path / "o.parquet", val=1)


def test_rewards_are_compared_as_they_are_kept(tmp_path):
    lines = [dumps.line(n, reward=reward) for n, reward in enumerate((0.1, 0.3))]
    dump = dumps.write(tmp_path / "d.jsonl", *lines, dumps.line(2, rollout_id="x", reward=0.7))
    run = runs.convert(dump, tmp_path / "o.parquet", upweight=["reward=0.7:2"])
    assert [row["weight"] for row in run.rows] == [1, 1, 2]
    assert np.float32(0.7) == run.rows[2]["reward"]
