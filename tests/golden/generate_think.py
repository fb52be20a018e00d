"""Writes think.json: what every implementation of the think rules must answer. Run it after changing a rule.

The cases of `CORE` and `PROMPTS` state their answers by hand; the reference twin must agree, or nothing is written.
For the rest (random ids over small alphabets, where markers overlap and cuts join them) the twin answers alone.
"""

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import reference  # noqa: E402

OPENED = ("yes", "pair", "no", "unknown")
FLAGS = ("absent", "unterminated", "odd", "split_marker", "markers")


def profile(name, vocab_size, **known):
    """A whole profile; what a case does not need is left empty."""
    empty = {
        "version": 1,
        "name": name,
        "vocab_size": vocab_size,
        "id_limit": vocab_size,
        "think_open": [],
        "think_close": [],
        "stray_think": [],
        "lone_close": True,
        "after_close": [],
        "tool_open": [],
        "turn_start": [],
        "assistant_start": [],
        "turn_end": [],
        "stop_ids": [],
        "prompt_start": [],
        "tail_think": [],
        "tail_no_think": None,
        "history_pair": False,
        "tokenizer_hash": "",
        "template_hash": "",
    }
    assert not known.keys() - empty.keys()
    return empty | known


PROFILES = {
    one["name"]: one
    for one in (
        profile(
            "qwen3",
            151669,
            think_open=[[151667]],
            think_close=[[151668]],
            after_close=[198, 271],
            tool_open=[[151657]],
            turn_start=[[151644]],
            assistant_start=[[151644, 77091, 198]],
            turn_end=[[151645]],
            tail_think=[151644, 77091, 198],
            tail_no_think=[151644, 77091, 198, 151667, 271, 151668, 271],
        ),
        profile(
            "qwen3.5",
            248070,
            think_open=[[248068]],
            think_close=[[248069]],
            after_close=[198, 271],
            tool_open=[[248058]],
            turn_start=[[248045]],
            assistant_start=[[248045, 74455, 198]],
            turn_end=[[248046]],
            tail_think=[248045, 74455, 198, 248068, 198],
            tail_no_think=[248045, 74455, 198, 248068, 271, 248069, 271],
        ),
        profile(
            "deepseek",
            128815,
            think_open=[[128798]],
            think_close=[[128799]],
            after_close=[201],
            tool_open=[[128806]],
            turn_start=[[128803], [128804]],
            assistant_start=[[128804]],
            turn_end=[[1]],
            tail_think=[128804, 128798, 201],
        ),
        profile(
            "glm",
            151365,
            think_open=[[151350]],
            think_close=[[151351]],
            after_close=[198],
            tool_open=[[151352]],
            turn_start=[[151335], [151336], [151337], [151338]],
            assistant_start=[[151337]],
            tail_think=[151337, 151350],
            tail_no_think=[151337, 151351],
        ),
        profile(
            "harmony",
            200020,
            think_open=[[200005, 35644, 200008]],
            think_close=[[200007, 200006, 173781]],
            lone_close=False,
            tool_open=[[200005, 12606, 815]],
            turn_start=[[200006]],
            assistant_start=[[200006, 173781]],
            turn_end=[[200007], [200012]],
            tail_think=[200006, 173781],
        ),
        # Tags as ordinary ids that share pieces, one of them with two spellings.
        profile(
            "split",
            40,
            think_open=[[11, 12, 13], [11, 14]],
            think_close=[[15, 12, 13], [16]],
            after_close=[10],
            tool_open=[[17, 13]],
            turn_start=[[1]],
            assistant_start=[[1, 3]],
            turn_end=[[2]],
            tail_think=[1, 3],
            tail_no_think=[1, 3, 11, 14, 10, 16, 10],
        ),
        # No tokenizer is like these two: everything overlaps, so that nearly every cut joins something.
        profile("joins", 6, think_open=[[1, 2]], think_close=[[2, 3], [4]], tool_open=[[3, 3]], after_close=[0, 1]),
        profile(
            "joins-ordinary-closer",
            6,
            think_open=[[1, 2], [3, 1, 1]],
            think_close=[[2, 3], [2, 2]],
            lone_close=False,
            tool_open=[[3, 3, 3]],
            after_close=[2],
        ),
        # One tail ends in the other, or both are the same.
        profile("long-think-tail", 9, turn_start=[[1]], assistant_start=[[1]], tail_think=[1, 2], tail_no_think=[2]),
        profile("long-no-think-tail", 9, turn_start=[[1]], assistant_start=[[1]], tail_think=[2], tail_no_think=[1, 2]),
        profile("same-tail", 9, turn_start=[[1]], assistant_start=[[1]], tail_think=[1, 2], tail_no_think=[1, 2]),
    )
}

# Qwen3, Qwen3.5 and the rest by letters: opener, closer, tool call, newline, two newlines, end of turn.
O, X, T, N, NN, END = 151667, 151668, 151657, 198, 271, 151645  # noqa: E741
O5, X5, T5, END5 = 248068, 248069, 248058, 248046
OD, XD, TD = 128798, 128799, 128806
OG, XG = 151350, 151351
OH, XH, TH = [200005, 35644, 200008], [200007, 200006, 173781], [200005, 12606, 815]
FINAL, RETURN = [200005, 17196, 200008], 200002

# name, profile, opened, output, what stays, spans, flags
CORE = [
    ("pair cut, newlines behind it too", "qwen3", "no", [O, N, 7, 8, N, X, NN, 9, END], [9, END], [[0, 7]], "markers"),
    ("no marker", "qwen3", "no", [7, 8, END], [7, 8, END], [], "absent"),
    ("no marker, empty pair in the prompt", "qwen3", "pair", [7, END], [7, END], [], "absent"),
    ("no marker, no prompt", "qwen3", "unknown", [7, END], [7, END], [], "absent"),
    ("no marker, open tail", "qwen3.5", "yes", [7, END5], [7, END5], [], "unterminated"),
    ("empty output", "qwen3", "no", [], [], [], "absent"),
    ("empty output, open tail", "qwen3.5", "yes", [], [], [], "unterminated"),
    ("open tail, closer", "qwen3.5", "yes", [7, 8, X5, NN, 9, END5], [9, END5], [[0, 4]], "markers"),
    ("open tail, opener again", "qwen3.5", "yes", [O5, 7, X5, 9], [9], [[0, 3]], "markers"),
    ("open tail, opener in the middle", "qwen3.5", "yes", [7, O5, 8, X5, 9], [9], [[0, 4]], "markers"),
    ("open tail, closer at once", "qwen3.5", "yes", [X5, NN, 9], [9], [[0, 2]], "markers"),
    ("empty pair in the prompt, reasoned anyway", "qwen3.5", "pair", [7, X5, NN, 9], [9], [[0, 3]], "markers"),
    ("empty pair in the prompt, pair again", "qwen3.5", "pair", [7, O5, 8, X5, 9], [7, 9], [[1, 4]], "markers"),
    ("text before the opener stays", "qwen3", "no", [5, O, 7, X, 9], [5, 9], [[1, 4]], "markers"),
    ("lone closer", "qwen3", "no", [7, X, NN, 9], [7, X, NN, 9], [], "odd markers"),
    ("lone closer, no prompt", "qwen3", "unknown", [7, X, NN, 9], [9], [[0, 3]], "markers"),
    ("text before the opener, no prompt", "qwen3", "unknown", [5, O, 7, X, 9], [9], [[0, 4]], "markers"),
    ("opener only", "qwen3", "no", [O, 7, 8], [O, 7, 8], [], "unterminated markers"),
    ("opener only, no prompt", "qwen3", "unknown", [5, O, 7], [5, O, 7], [], "unterminated markers"),
    ("two pairs", "qwen3", "no", [O, 7, X, N, 5, O, 8, X, NN, 9], [5, 9], [[0, 4], [5, 9]], "markers"),
    ("two pairs that touch", "qwen3", "no", [O, 7, X, NN, O, 8, X, 9], [9], [[0, 7]], "markers"),
    ("a span, then an opener only", "qwen3", "no", [O, 7, X, 5, O, 8], [5, O, 8], [[0, 3]], "unterminated markers"),
    ("closer left over", "qwen3", "no", [O, 7, X, 9, X, NN, 6], [9, X, NN, 6], [[0, 3]], "odd markers"),
    ("closer left over, open tail", "qwen3.5", "yes", [7, X5, 9, X5, 6], [9, X5, 6], [[0, 2]], "odd markers"),
    ("closer left over, no prompt", "qwen3", "unknown", [7, X, 9, X, 6], [9, X, 6], [[0, 2]], "odd markers"),
    ("closer left over, pair", "qwen3", "pair", [7, X, 9, X, 6], [9, X, 6], [[0, 2]], "odd markers"),
    ("nested: the first closer ends it", "qwen3", "no", [O, 7, O, 8, X, 9, X], [9, X], [[0, 5]], "odd markers"),
    ("nested, not closed", "qwen3", "no", [O, 7, O, 8], [O, 7, O, 8], [], "unterminated markers"),
    ("only thinking", "qwen3", "no", [O, 7, X, NN], [], [[0, 4]], "markers"),
    ("all newlines go", "qwen3", "no", [O, X, N, NN, N, N, 9, N], [9, N], [[0, 6]], "markers"),
    ("a space is no newline", "qwen3", "no", [O, X, 220, NN, 9], [220, NN, 9], [[0, 2]], "markers"),
    ("tool call behind the span", "qwen3", "no", [O, 7, X, NN, T, 9], [T, 9], [[0, 4]], "markers"),
    ("pair in a tool call", "qwen3", "no", [T, O, 7, X, 9], [T, O, 7, X, 9], [], "odd markers"),
    ("closer in a tool call", "qwen3", "pair", [5, T, 7, X, 9], [5, T, 7, X, 9], [], "odd markers"),
    ("closer in a tool call, no prompt", "qwen3", "unknown", [5, T, X, 9], [5, T, X, 9], [], "odd markers"),
    ("closer in a tool call, open tail", "qwen3.5", "yes", [5, T5, X5, 9], [5, T5, X5, 9], [], "odd markers"),
    ("tool call inside thinking", "qwen3", "no", [O, 7, T, 8, X, 9], [O, 7, T, 8, X, 9], [], "odd markers"),
    ("tool call, thinking never closed", "qwen3", "no", [O, 7, T, 8], [O, 7, T, 8], [], "unterminated markers"),
    ("tool call, open tail", "qwen3.5", "yes", [7, T5, 8], [7, T5, 8], [], "unterminated"),
    ("tool call, opener behind it", "qwen3.5", "yes", [7, T5, O5], [7, T5, O5], [], "unterminated odd markers"),
    ("tool call only", "qwen3", "unknown", [T, 7, END], [T, 7, END], [], "absent"),
    ("a span, a closer in the call", "qwen3", "no", [O, X, NN, T, 7, X, 8], [T, 7, X, 8], [[0, 3]], "odd markers"),
    ("deepseek, open tail", "deepseek", "yes", [7, XD, 201, 201, 9, 1], [9, 1], [[0, 4]], "markers"),
    ("deepseek, no prompt, opener and closer", "deepseek", "unknown", [OD, 201, XD, 9], [9], [[0, 3]], "markers"),
    ("deepseek, tool call", "deepseek", "yes", [7, XD, TD, XD], [TD, XD], [[0, 2]], "odd markers"),
    ("glm, open tail", "glm", "yes", [7, XG, N, 9, 151336], [9, 151336], [[0, 3]], "markers"),
    ("glm, lone closer in the prompt, reasoned anyway", "glm", "pair", [7, XG, 9], [9], [[0, 2]], "markers"),
    ("glm, both in the output", "glm", "no", [N, OG, XG, N, 9], [N, 9], [[1, 4]], "markers"),
    (
        "harmony, analysis then final",
        "harmony",
        "no",
        [*OH, 7, 8, *XH, *FINAL, 9, RETURN],
        [*FINAL, 9, RETURN],
        [[0, 8]],
        "split_marker markers",
    ),
    ("harmony, final only", "harmony", "no", [*FINAL, 9, RETURN], [*FINAL, 9, RETURN], [], "absent"),
    (
        "harmony, an ordinary turn end is text",
        "harmony",
        "unknown",
        [*FINAL, 9, *XH, *FINAL, 9],
        [*FINAL, 9, *XH, *FINAL, 9],
        [],
        "absent",
    ),
    (
        "harmony, an ordinary turn end behind the span",
        "harmony",
        "pair",
        [*OH, 7, *XH, *FINAL, 9, *XH, *FINAL, 6],
        [*FINAL, 9, *XH, *FINAL, 6],
        [[0, 7]],
        "split_marker markers",
    ),
    ("harmony, open tail", "harmony", "yes", [7, *XH, *FINAL, 9], [*FINAL, 9], [[0, 4]], "split_marker markers"),
    (
        "harmony, tool call without analysis",
        "harmony",
        "no",
        [*TH, 7, *XH, 9],
        [*TH, 7, *XH, 9],
        [],
        "absent",
    ),
    (
        "harmony, tool call inside analysis",
        "harmony",
        "no",
        [*OH, 7, *TH, 8, *XH, 9],
        [*OH, 7, *TH, 8, *XH, 9],
        [],
        "odd split_marker markers",
    ),
    ("harmony, truncated", "harmony", "no", [*OH, 7], [*OH, 7], [], "unterminated split_marker markers"),
    ("harmony, half an opener", "harmony", "no", [200005, 35644], [200005, 35644], [], "absent"),
    ("split, pair", "split", "no", [11, 12, 13, 7, 15, 12, 13, 10, 9], [9], [[0, 8]], "split_marker markers"),
    ("split, one half split", "split", "no", [5, 11, 14, 7, 16, 9], [5, 9], [[1, 5]], "split_marker markers"),
    (
        "an id for newlines that begins a marker stays",
        "joins",
        "yes",
        [4, 0, 1, 1, 2],
        [1, 2],
        [[0, 3]],
        "unterminated split_marker markers",
    ),
    ("split, single closer", "split", "yes", [7, 16, 9], [9], [[0, 2]], "markers"),
    ("split, half a closer", "split", "yes", [7, 15, 12, 9], [7, 15, 12, 9], [], "unterminated"),
    ("split, tool call", "split", "no", [17, 13, 11, 14, 16], [17, 13, 11, 14, 16], [], "odd split_marker markers"),
    ("split, half a tool call", "split", "no", [17, 11, 14, 16, 9], [17, 9], [[1, 4]], "split_marker markers"),
    (
        "a cut joins an opener: it is cut with its closer",
        "split",
        "no",
        [5, 11, 11, 14, 16, 12, 13, 7, 16, 9],
        [5, 9],
        [[1, 9]],
        "odd split_marker markers",
    ),
    (
        "a cut joins a closer: it stays and is odd",
        "split",
        "no",
        [5, 15, 11, 14, 16, 12, 13, 7],
        [5, 15, 12, 13, 7],
        [[2, 5]],
        "odd split_marker markers",
    ),
    (
        "a cut joins an opener that nothing closes",
        "split",
        "no",
        [11, 11, 14, 16, 14, 7],
        [11, 14, 7],
        [[1, 4]],
        "unterminated split_marker markers",
    ),
]

S, U, A, TOOL = 8948, 872, 77091, 14172
START, SYS, USER = 151644, [151644, S, N, 1, END, N], [151644, U, N, 2, END, N]
HEAD, HEAD5, HEADG = [START, A, N], [248045, 74455, N], [151337]
SYSG, USERG = [151331, 151333, 151335, 1], [151336, 2]

# name, profile, prompt, the answers that are stated by hand
PROMPTS = [
    ("qwen3, thinking on", "qwen3", [*USER, *HEAD], {"opened": "no", "tail": "think", "strip_all": None}),
    ("qwen3, thinking off", "qwen3", [*USER, *HEAD, O, NN, X, NN], {"opened": "pair", "tail": "no_think"}),
    (
        "qwen3.5, thinking on",
        "qwen3.5",
        [5, *HEAD5, O5, N],
        {"opened": "yes", "tail": "think", "no_think_tail": [5, *HEAD5, O5, NN, X5, NN]},
    ),
    ("qwen3.5, thinking off", "qwen3.5", [*HEAD5, O5, NN, X5, NN], {"opened": "pair", "tail": "no_think"}),
    ("glm, thinking on", "glm", [*USERG, *HEADG, OG], {"opened": "yes", "no_think_tail": [*USERG, *HEADG, XG]}),
    ("glm, thinking off", "glm", [*USERG, *HEADG, XG], {"opened": "pair", "tail": "no_think"}),
    ("deepseek", "deepseek", [0, 128803, 5, 128804, OD, 201], {"opened": "yes", "no_think_tail": None}),
    ("deepseek goes on behind a tool result", "deepseek", [128804, TD, 5, 1, 128810, 6], {"opened": "unknown"}),
    ("harmony", "harmony", [200006, 1428, 5, 200007, 200006, 173781], {"opened": "no", "tail": "think"}),
    ("no assistant header", "qwen3", [*SYS, *USER], {"opened": "unknown", "tail": "other", "no_think_tail": None}),
    ("empty prompt", "qwen3", [], {"opened": "unknown", "turn_starts": [], "assistant_turns": []}),
    ("begun answer behind a closed pair", "qwen3", [*HEAD, O, X, NN, 5], {"opened": "pair", "tail": "other"}),
    ("begun thinking", "qwen3", [*HEAD, O, 5], {"opened": "yes", "tail": "other"}),
    ("half a header", "qwen3", [*HEAD, 5, END, N, START, A], {"opened": "unknown", "assistant_turns": [[3, 4]]}),
    (
        "qwen3, a history with thinking",
        "qwen3",
        [*SYS, *USER, *HEAD, O, 7, X, NN, 9, END, N, *USER, *HEAD],
        {
            "turn_starts": [0, 6, 12, 22, 28],
            "assistant_turns": [[15, 20]],
            "strip_all": [*SYS, *USER, *HEAD, 9, END, N, *USER, *HEAD],
        },
    ),
    (
        "think ids in a user turn stay",
        "qwen3",
        [START, U, N, O, 5, X, END, N, *HEAD, 9, END, N, *HEAD],
        {"strip_all": None, "opened": "no"},
    ),
    (
        "the open tail stays",
        "qwen3.5",
        [*HEAD5, O5, 7, X5, NN, 9, END5, N, *HEAD5, O5, N],
        {"strip_all": [*HEAD5, 9, END5, N, *HEAD5, O5, N], "opened": "yes"},
    ),
    (
        "a lone closer in a qwen3 history is odd",
        "qwen3",
        [*HEAD, 7, X, 9, END, N, *HEAD],
        {"strip_all": None},
    ),
    (
        "a lone closer in a glm history is a span",
        "glm",
        [*SYSG, *USERG, *HEADG, XG, 9, *USERG, *HEADG, OG, 7, XG, N, 8, *USERG, *HEADG, XG],
        {"strip_all": [*SYSG, *USERG, *HEADG, 9, *USERG, *HEADG, 8, *USERG, *HEADG, XG]},
    ),
    (
        "trimming: system turn and tail stay",
        "qwen3",
        [*SYS, *USER, *HEAD, 9, END, N, *USER, *HEAD],
        {"trims": {27: [0, 0], 26: [6, 18], 21: [6, 18], 20: [6, 18], 15: [6, 18], 14: None, 9: None, 8: None}},
    ),
    (
        "trimming: a first turn that is like a later one goes",
        "qwen3",
        [*USER, *HEAD, 9, END, N, *USER, *HEAD],
        {"trims": {21: [0, 0], 20: [0, 12], 15: [0, 12], 14: [0, 12], 9: [0, 12], 8: None, 3: None, 2: None}},
    ),
    (
        "trimming: the only user turn stays",
        "qwen3",
        [*USER, *HEAD, 9, END, N, START, TOOL, N, 4, END, N, *HEAD],
        {"trims": {21: [0, 0], 20: [6, 18], 14: [6, 18], 9: [6, 18], 8: None}},
    ),
    (
        "trimming: roles by marker, ids before the first turn",
        "glm",
        [*SYSG, *USERG, *HEADG, 9, *USERG, *HEADG, OG],
        {"trims": {12: [0, 0], 11: [4, 8], 9: [4, 8], 8: [4, 8], 6: None, 5: None}},
    ),
    ("a longer tail with thinking on", "long-think-tail", [5, 1, 2], {"tail": "think", "no_think_tail": [5, 2]}),
    ("its end alone", "long-think-tail", [5, 2], {"tail": "no_think", "no_think_tail": [5, 2]}),
    ("a longer tail with thinking off", "long-no-think-tail", [5, 1, 2], {"tail": "no_think"}),
    ("the same tail", "same-tail", [5, 1, 2], {"tail": "no_think", "no_think_tail": [5, 1, 2]}),
    ("trimming: one turn", "qwen3", HEAD, {"trims": {3: [0, 0], 2: None}}),
]


def case(name, which, opened, output):
    """One output and what the twin says of it."""
    found = reference.find_think(output, opened, PROFILES[which])
    return {
        "name": name,
        "profile": which,
        "opened": opened,
        "output": output,
        "expected": reference.strip_think(output, opened, PROFILES[which]),
        "spans": found["spans"],
        "flags": [flag for flag in FLAGS if found[flag]],
    }


def prompt_case(name, which, prompt, lengths):
    """One prompt and what the twin says of it."""
    rules = PROFILES[which]
    stripped, counts = reference.strip_all(prompt, rules)
    return {
        "name": name,
        "profile": which,
        "prompt": prompt,
        "opened": reference.opened_by(prompt, rules),
        "tail": reference.tail_of(prompt, rules),
        "turn_starts": reference.turn_starts(prompt, rules),
        "assistant_turns": reference.assistant_turns(prompt, rules),
        "strip_all": None if stripped == prompt else stripped,
        "counts": counts,
        "no_think_tail": reference.no_think_tail(prompt, rules),
        "trims": [[length, reference.trim_prompt(prompt, length, rules)] for length in lengths],
    }


def golden():
    """The whole file as a dict; raises where the twin and a hand-written answer differ."""
    cases = []
    for name, which, opened, output, expected, spans, flags in CORE:
        made = case(name, which, opened, output)
        by_hand = made | {"expected": expected, "spans": spans, "flags": flags.split()}
        assert made == by_hand, f"{name}:\n  twin    {made}\n  by hand {by_hand}"
        cases.append(made)
    prompts = []
    for name, which, prompt, answers in PROMPTS:
        answers = dict(answers)
        trims = answers.pop("trims", {})
        made = prompt_case(name, which, prompt, list(trims))
        by_hand = made | answers | {"trims": [[length, dropped] for length, dropped in trims.items()]}
        assert made == by_hand, f"{name}:\n  twin    {made}\n  by hand {by_hand}"
        prompts.append(made)
    assert len({one["name"] for one in cases + prompts}) == len(cases) + len(prompts), "two cases have one name"

    dice = random.Random(4)
    alphabets = {
        "qwen3": [O, X, T, N, 7],
        "glm": [OG, XG, 151352, N, 7],
        "split": list(range(10, 18)),
        "joins": list(range(5)),
        "joins-ordinary-closer": list(range(5)),
    }
    for n in range(400):
        which = list(alphabets)[n % len(alphabets)]
        output = dice.choices(alphabets[which], k=dice.randint(1, 14))
        cases.append(case(f"random {n}", which, OPENED[n // len(alphabets) % 4], output))
    turns = {
        "qwen3": [[START], [START, U], HEAD, HEAD, [END], [END, N], [O], [X], [T], [N], [7]],
        "glm": [[151336], [151336], [151337], [151335], [OG], [XG], [N], [7]],
        "split": [[1], [1, 3], [1, 3], [2], [2], [11, 14], [15, 12, 13], [16], [16], [10], [5]],
    }
    for n in range(120):
        which = list(turns)[n % len(turns)]
        prompt = [one for piece in dice.choices(turns[which], k=dice.randint(1, 16)) for one in piece]
        prompts.append(prompt_case(f"random prompt {n}", which, prompt, dice.choices(range(len(prompt) + 1), k=3)))
    return {"profiles": PROFILES, "cases": cases, "prompts": prompts}


def text():
    """The file, one case a line."""
    parts = []
    for key, value in golden().items():
        if isinstance(value, dict):
            lines = [f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in value.items()]
            parts.append(f" {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n }")
        else:
            lines = [f"  {json.dumps(one)}" for one in value]
            parts.append(f" {json.dumps(key)}: [\n" + ",\n".join(lines) + "\n ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    (HERE / "think.json").write_text(text(), encoding="utf-8")
