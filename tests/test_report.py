"""The data-shape report, word for word, and each warning on the smallest data that calls for it."""

import copy

import dumps
import pytest
import tito
from tito.report import Report

DATA = {
    "versions": {"tito": "0.1.0", "schema": 1},
    "policies": {
        "think": "strip",
        "tail": "captured",
        "rows": "turn",
        "ambiguous": "keep-all",
        "upweight": ["0-2:12"],
        "upweight_as": "weight",
        "seed": 0,
        "normalize": "none",
        "weight_scale": "auto",
        "val": None,
        "val_by": "task",
        "truncated": "drop",
        "unterminated": "drop",
        "max_length": None,
        "overlong": "error",
        "kind": ["solver", "summariser"],
        "bad": "error",
        "group_by": "none",
        "columns": [],
    },
    "given": {"from": None, "profile": None},
    "counts": {
        "calls_seen": 600,
        "calls_used": 571,
        "rollouts": 38,
        "rows": 571,
        "copies": 0,
        "weight": 1825.0,
        "sides": {
            "train": {"rows": 571, "weight": 1825.0, "weighted_ids": 100000.0},
            "val": {"rows": 0, "weight": 0.0, "weighted_ids": 0.0},
        },
        "skipped": {"duplicate": 20, "truncated": 9},
        "bad": 0,
        "examples": {},
        "tokens": {
            "sampled": 60000,
            "trained": 40000,
            "think_cut": 17000,
            "think_masked": 0,
            "truncated_masked": 0,
            "ambiguous_masked": 0,
            "skipped": 3000,
            "prompt": 2000000,
            "thinking": 17000,
        },
        "think": {
            "seen": 591,
            "stripped": 560,
            "absent": 30,
            "unterminated": 0,
            "odd": 1,
            "split_marker": 0,
            "open_think_tail": 0,
            "history_stripped": 0,
            "history_left": 0,
            "tail_unknown": 0,
            "markers": 561,
        },
        "merge": {
            "calls": 571,
            "ids": 2057000,
            "merged_rows": 57,
            "merged_ids": 411400,
            "ambiguous": 0,
            "superseded": 0,
            "fell_back": 0,
            "fell_back_overlong": 0,
        },
        "turns": [
            {"turn": 0, "rows": 38, "weight": 456.0, "weighted_ids": 40000.0},
            {"turn": 1, "rows": 38, "weight": 456.0, "weighted_ids": 30000.0},
            {"turn": 2, "rows": 38, "weight": 456.0, "weighted_ids": 20000.0},
            {"turn": 3, "rows": 457, "weight": 457.0, "weighted_ids": 10000.0},
        ],
        "lengths": {"p50": 3500, "p90": 6100, "p99": 8000, "max": 8190},
        "truncation_judged": {"by_last_id": 580, "by_finish": 0, "by_nothing": 0},
        "prompts_changed": 0,
        "repeated_ids": 0,
        "retold": 0,
        "prompt_in_output": 0,
        "unplaced": 0,
        "without_calls": 0,
        "begun_again": 0,
        "disputed": 0,
        "unnamed": 0,
        "backwards": 0,
        "unread": {},
        "backwards_first": None,
        "identities": {"qwen3": 571},
        "served": [],
        "upweight": [{"rule": "0-2:12", "calls": 114, "weight": 1368.0, "weighted_ids": 90000.0}],
    },
    "inputs": [
        {"file": "a.jsonl", "bytes": 90000000, "hash": "x", "format": "calls"},
        {"file": "b.json", "bytes": 10000000, "hash": "y", "format": "cooperbench"},
    ],
    "passed_over": {"files": 4, "first": ["a.log", "b.log", "c.log"]},
    "inputs_repeated": 0,
    "weights": None,
    "val": None,
    "outputs": [{"file": "rows.parquet", "rows": 571, "ids": 2040000, "bytes": 1234567, "row_groups": 1}],
    "profiles": [
        {"name": "qwen3", "tokenizer_hash": "sha256:9cb7c07365093fd8", "template_hash": "sha256:a55ee1b16601"}
    ],
    "manifest": "rows.parquet.manifest.json",
}

TEXT = """\
calls     600 seen = 571 used + 29 skipped (duplicate 20, truncated 9)
rows      571 rows of 38 rollouts, weight 1,825
dilution  15.0: turn 0 is 38 of 571 rows
turn           rows      weight   of weight      of ids
0                38         456      25.0 %      40.0 %
1                38         456      25.0 %      30.0 %
2                38         456      25.0 %      20.0 %
3               457         457      25.0 %      10.0 %
upweight  0-2:12 matches 114 calls: 75.0 % of weight, 90.0 % of ids
tokens    60,000 sampled = 40,000 trained + 17,000 cut as thinking + 3,000 skipped; 2,000,000 of prompts
thinking  17,000 ids, 29.8 % of what the used calls sampled
thinking  a span in 560 of 591 outputs; absent 30, odd 1
lengths   p50 3,500, p90 6,100, p99 8,000, max 8,190 ids a row
merging   571 calls continue one another in 57 longest sequences: 411,400 ids as captured, 2,057,000 with one row a \
call (5.0 times)
merging   --rows auto would save a trainer at most 80.0 % of the ids: nothing where --think strip forbids merging
truncated 9 outputs dropped; judged by last id 580, by finish word 0
policies  think=strip upweight=0-2:12; the others by default
profile   qwen3 (tokenizer 9cb7c0736509, template a55ee1b16601): 571 rows
input     2 files, 100.0 MB (calls 1, cooperbench 1)
passed    4 files over, which hold no captures: a.log, b.log, c.log, ...
output    rows.parquet: 571 rows, 2,040,000 ids, 1.2 MB
"""


def changed(**paths):
    """DATA with some values changed: `counts__sides__train__rows=1`."""
    data = copy.deepcopy(DATA)
    for path, value in paths.items():
        *parents, last = path.split("__")
        place = data
        for parent in parents:
            place = place[parent]
        place[last] = value
    return Report(data)


def line(report, name):
    return [line for line in report.text().splitlines() if line.startswith(name)]


def names(report):
    return [warning.split(":")[0] for warning in report.warnings()]


def test_the_whole_report_word_for_word():
    assert Report(DATA).text() == TEXT


def test_what_is_asked_for_most():
    report = Report(DATA)
    assert (report.rows, report.calls_seen, report.calls_used, report.bad) == (571, 600, 571, 0)
    assert report.skipped == {"duplicate": 20, "truncated": 9}
    assert report.outputs == ("rows.parquet",)


def test_nothing_is_said_of_what_is_not_there():
    text = changed(
        counts__skipped={},
        counts__upweight=[],
        passed_over={"files": 0, "first": []},
        outputs=[],
        counts__identities={},
    ).text()
    assert "calls     600 seen = 571 used + 0 skipped\n" in text
    assert not any(line.startswith(("upweight", "passed", "output", "prompts")) for line in text.splitlines())
    assert "profile   none\n" in text


def test_turns_that_are_many_are_grouped():
    turns = [{"turn": t, "rows": 2, "weight": 2.0, "weighted_ids": 10.0} for t in (*range(25), 95, 99)]
    turns.insert(0, {"turn": None, "rows": 1, "weight": 1.0, "weighted_ids": 5.0})
    report = changed(counts__turns=turns)
    table = report.text().split("of ids\n")[1].split("upweight")[0].splitlines()
    assert [row.split("  ")[0] for row in table] == ["unknown", *map(str, range(10)), "10-19", "20-29", "90 and on"]
    assert table[11] == "10-19            20          20      36.4 %      36.4 %"


def test_copies_masks_and_changed_prompts_are_told():
    report = changed(
        counts__copies=1254,
        counts__prompts_changed=3,
        policies__truncated="mask",
        counts__tokens__truncated_masked=70,
        inputs_repeated=2,
    )
    assert line(report, "rows") == ["rows      571 rows of 38 rollouts, weight 1,825, 1,254 of them made as copies"]
    assert line(report, "prompts") == ["prompts   3 prompts changed by a policy: not what the engine saw"]
    assert line(report, "truncated")[0].startswith("truncated 70 ids masked;")
    assert "70 masked as truncated" in line(report, "tokens")[0]
    assert line(report, "input")[0].endswith("; named twice 2")


def test_what_merging_did_is_told():
    report = changed(
        policies__rows="merged",
        policies__ambiguous="mask",
        policies__max_length=8192,
        counts__rows=60,
        counts__tokens__ambiguous_masked=12,
        counts__merge__ambiguous=2,
        counts__merge__superseded=1,
        counts__merge__fell_back=3,
        counts__merge__fell_back_overlong=4,
    )
    assert line(report, "merging")[1:] == [
        "merging   3 calls written one a row: merged under --think strip --tail captured they would be what no engine "
        "setting shows",
        "merging   4 calls written one a row: merged they are longer than 8,192 ids",
        "merging   1 reply replaced by another to the same prompt: trained all the same",
        "merging   2 replies to a prompt that has others, and no later prompt tells which was kept: masked",
    ]
    assert "12 masked as ambiguous" in line(report, "tokens")[0]
    # A merged row trains many calls: what is counted by turn is calls.
    assert line(report, "dilution") == ["dilution  15.0: turn 0 is 38 of 571 calls"]
    assert line(report, "turn ") == ["turn          calls      weight   of weight      of ids"]
    assert names(report) == ["odd_markers"]


@pytest.mark.parametrize(
    ("policies", "asked"),
    [
        ({"policies__think": "strip", "policies__tail": "no-think"}, "--think strip --tail no-think"),
        ({"policies__think": "strip-all"}, "--think strip-all"),
        ({"policies__think": "mask"}, None),
        ({"policies__think": "keep", "policies__max_length": 4096}, "--max-length 4096"),
        ({"policies__think": "keep"}, None),
    ],
)
def test_what_merging_would_save_is_no_promise_where_calls_may_stay_apart(policies, asked):
    saved = "merging   --rows auto would save a trainer "
    rest = "80.0 % of the ids" if asked is None else f"at most 80.0 % of the ids: nothing where {asked} forbids merging"
    assert line(changed(**policies), "merging")[1:] == [saved + rest]


def test_calls_that_nothing_continues_are_told():
    report = changed(counts__merge__merged_rows=571, counts__merge__merged_ids=2057000)
    assert line(report, "merging") == ["merging   no call continues another: --rows auto would write the same 571 rows"]
    assert line(changed(counts__merge__calls=0, counts__merge__merged_rows=0), "merging") == []


def test_turns_that_are_counted_together_are_not_called_one():
    lump = [*turns(50, 40), {"turn": 99, "rows": 50, "weight": 910.0, "weighted_ids": 9.0}]
    report = changed(counts__think__odd=0, counts__turns=lump, policies__upweight=[])
    assert report.warnings()[0] == (
        "one_sided: turns from 99 on are 91.0 % of the weight; the other turns are hardly trained. "
        "Raise them with --upweight"
    )
    ruled = changed(counts__think__odd=0, counts__turns=lump, policies__upweight=["first:2"])
    assert ruled.warnings()[0].endswith("the other turns are hardly trained. Lower --upweight")


def test_an_unknown_tokenizer_is_said_not_to_be_looked_at():
    report = changed(counts__think__seen=0, counts__identities={"unknown": 571}, profiles=[])
    assert line(report, "thinking") == ["thinking  not looked for: no profile is known"]
    assert line(report, "profile") == ["profile   unknown: 571 rows"]


def test_a_sound_data_set_warns_of_its_one_odd_marker_alone():
    assert names(Report(DATA)) == ["odd_markers"]
    assert names(changed(counts__think__odd=0)) == []


WEIGHTS = {
    "normalize": "rollout",
    "scale": "min-1",
    "factor": 2.5,
    "units": 38,
    "each": 1200.0,
    "total": 45600.0,
    "trained": 40000,
    "least": 1.0,
    "most": 1000.0,
    "rollouts_without_task": 0,
}
VAL = {"by": "task", "keys": 10, "of_keys": 100, "rollouts_without_key": 0}


def test_scale_and_sides_are_told():
    report = changed(
        weights=WEIGHTS,
        val=VAL,
        counts__sides__val={"rows": 57, "weight": 57.0, "weighted_ids": 25000.0},
    )
    assert line(report, "weights") == [
        "weights   each of 38 rollouts weighs 1,200; scale min-1 (times 2.5); an id weighs from 1 to 1000"
    ]
    assert report.text().splitlines()[2:6] == [
        "side           rows      weight   of weight      of ids",
        "train           571       1,825      97.0 %      80.0 %",
        "val              57          57       3.0 %      20.0 %",
        "val       10 of 100 tasks",
    ]
    unequal = changed(weights={**WEIGHTS, "normalize": "none", "each": None})
    assert line(unequal, "weights") == ["weights   scale min-1 (times 2.5); an id weighs from 1 to 1000"]


def turns(*weights):
    return [{"turn": t, "rows": 50, "weight": float(w), "weighted_ids": float(w)} for t, w in enumerate(weights)]


@pytest.mark.parametrize(
    ("paths", "name", "words"),
    [
        ({"counts__turns": turns(810, 190), "policies__upweight": []}, "one_sided", "turn 0 is 81.0 % of the weight"),
        ({"counts__turns": turns(300, 300, 300, 99)}, "one_sided", "turns 0-2 are 90.1 % of the weight"),
        ({"counts__turns": turns(99, 500, 500)}, "diluted", "turn 0 is 9.0 % of the weight"),
        ({"policies__think": "keep", "counts__tokens__thinking": 28501}, "mostly_thinking", "50.0 % of what is"),
        ({"counts__think__stripped": 0}, "nothing_stripped", "--think strip was asked"),
        ({"counts__think__open_think_tail": 7}, "open_think_tail", "7 prompts end inside"),
        ({"counts__think__tail_unknown": 8}, "tail_unknown", "8 prompts end in no tail"),
        ({"counts__think__history_left": 3}, "history_left", "3 earlier turns"),
        ({"policies__think": "keep", "counts__think__unterminated": 4}, "unterminated", "4 outputs open"),
        ({"policies__unterminated": "keep", "counts__think__unterminated": 4}, "unterminated", "4 outputs open"),
        ({"counts__skipped": {"no_capture": 1}}, "no_capture", "ask the engine for return_token_ids: true"),
        ({"counts__skipped": {"torn_record": 2}}, "torn_record", "2 files end in a line that is cut off"),
        ({"counts__prompt_in_output": 1}, "prompt_in_output", "1 output begins with its whole prompt, which is"),
        ({"counts__retold": 7}, "retold", "of 7 calls a second line has the same ids and another rollout, finish"),
        ({"counts__repeated_ids": 6}, "repeated_ids", "6 calls have the very ids"),
        ({"counts__skipped": {"duplicate": 301}}, "mostly_skipped", "50.2 % of the calls"),
        ({"weights": WEIGHTS | {"most": 1001.0}}, "uneven", "some ids weigh 1,001 times as much as others"),
        ({"weights": WEIGHTS | {"rollouts_without_task": 3}}, "no_task", "3 rollouts name no task"),
        ({"val": VAL | {"keys": 9}}, "few_val_keys", "the validation side has 9 tasks;"),
        ({"val": VAL | {"rollouts_without_key": 2}}, "no_val_key", "2 rollouts have no task and stand on the training"),
    ],
)
def test_every_extreme_is_warned_of(paths, name, words):
    report = changed(**{"counts__think__odd": 0, **paths})
    assert names(report) == [name]
    assert words in report.warnings()[0]


@pytest.mark.parametrize(
    "paths",
    [
        {"counts__turns": turns(800, 200)},
        {"weights": WEIGHTS, "val": VAL},
        {"counts__turns": turns(1000)},
        {"counts__turns": turns(100, 450, 450)},
        {"policies__think": "keep", "counts__tokens__thinking": 28500},
        {"policies__think": "mask", "counts__tokens__thinking": 50000},
        {"policies__think": "keep", "counts__think__stripped": 0},
        {"counts__think__stripped": 0, "counts__think__history_stripped": 1},
        {"counts__skipped": {"duplicate": 300}},
    ],
)
def test_what_is_not_extreme_is_not(paths):
    assert names(changed(**{"counts__think__odd": 0, **paths})) == []


@pytest.mark.parametrize(
    ("paths", "notes"),
    [
        ({}, []),
        (
            {"counts__truncation_judged__by_finish": 5},
            [
                "judged_by_finish: whether 5 outputs are truncated was told by the finish word alone, which servers "
                "overwrite. Name the tokenizer with --profile to tell it by the last id"
            ],
        ),
        ({"counts__sides__train__rows": 100}, []),
        (
            {"counts__sides__train__rows": 99},
            ["few_rows: 99 different rows supervise everything: fewer than 100 different rows"],
        ),
        (
            {"counts__copies": 500},
            ["few_rows: 71 different rows supervise everything: fewer than 100 different rows"],
        ),
        (
            {"policies__rows": "merged", "counts__calls_used": 98},
            ["few_rows: 98 different calls supervise everything: fewer than 100 different calls"],
        ),
    ],
)
def test_what_is_worth_knowing_is_a_note_and_no_warning(paths, notes):
    report = changed(**{"counts__think__odd": 0, **paths})
    assert (report.warnings(), report.notes()) == ([], notes)


def test_only_policies_that_were_chosen_are_told():
    told = line(changed(policies=tito.Policies().to_dict()), "policies")
    assert told == ["policies  all by default"]
    section = tito.Policies(drop_section="one two", columns="labels,loss_mask", seed=3).to_dict()
    assert line(changed(policies=section), "policies") == [
        "policies  seed=3 drop_section=(7 characters) columns=labels,loss_mask; the others by default"
    ]


def test_a_rule_that_matches_every_call_is_noted(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", *(dumps.line(n) for n in range(3)))
    for rule, noted in (("0-2:12", True), ("0-1:12", False)):
        report = tito.convert(dump, tmp_path / "o.parquet", policies=tito.Policies(upweight=rule))
        words = f"no_rule: {rule} matches every call, so nothing weighs less; as copies each comes as often"
        assert (words in report.notes()) is noted
