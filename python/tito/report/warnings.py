"""What is extreme about a data set, and what is merely worth knowing. Each rule reads the report's JSON and gives one
sentence or none.

The thresholds are rules of thumb: they warn and never stop a run. What holds for most small or first runs is a note: a
warning that is nearly always there is read by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tito.report.shape import percent

__all__ = ["find_notes", "find_warnings"]

# One class of turns above this share starves the others.
_MOST_WEIGHT = 0.8
# Turn 0 below this share is drowned.
_LEAST_FIRST_TURN = 0.1
# Above this share what is learnt is mostly thinking.
_MOST_THINKING = 0.5
# Fewer different rows than this are few.
_FEW_ROWS = 100
_MOST_SKIPPED = 0.5
# A measurement on fewer tasks than this says little.
_FEW_KEYS = 10
# Ids that weigh so much more than others are nearly all that is learnt.
_MOST_SPREAD = 1000.0


def find_warnings(data: Mapping[str, Any]) -> list[str]:
    """Each `name: sentence`, in a fixed order."""
    rules = (_balance, _spread, _sides, _think, _section, _drift, _served, _judgement, _naming, _amounts)
    return [warning for rule in rules for warning in rule(data)]


def find_notes(data: Mapping[str, Any]) -> list[str]:
    """Each `name: sentence`, in a fixed order."""
    return [note for rule in (_judged_by_finish, _few_rows, _no_rule) for note in rule(data)]


def _balance(data: Mapping[str, Any]) -> Iterable[str]:
    turns = {t["turn"]: t["weight"] for t in data["counts"]["turns"] if t["turn"] is not None}
    whole = sum(t["weight"] for t in data["counts"]["turns"])
    if len(turns) < 2 or whole <= 0:
        return
    classes = {_turn_class(turn): {turn} for turn in turns}
    for rule in data["policies"]["upweight"]:
        if match := re.match(r"(\d+)-(\d+):", rule):
            low, high = int(match[1]), int(match[2])
            classes[f"turns {low}-{high}"] = {turn for turn in turns if low <= turn <= high}
    advice = "Lower --upweight" if data["policies"]["upweight"] else "Raise them with --upweight"
    for name, members in classes.items():
        weight = sum(turns[turn] for turn in members)
        if weight / whole > _MOST_WEIGHT and len(members) < len(turns):
            yield (
                f"one_sided: {name} {'is' if name.startswith('turn ') else 'are'} {percent(weight, whole)} of the "
                f"weight; the other turns are hardly trained. {advice}"
            )
    first = turns.get(0, 0)
    if first / whole < _LEAST_FIRST_TURN:
        yield (
            f"diluted: turn 0 is {percent(first, whole)} of the weight; what is done first is hardly trained. "
            "Raise it with --upweight 0-2:12"
        )


def _spread(data: Mapping[str, Any]) -> Iterable[str]:
    told = data["weights"]
    if told is None:
        return
    if told["least"] and told["most"] / told["least"] > _MOST_SPREAD:
        yield (
            f"uneven: some ids weigh {told['most'] / told['least']:,.0f} times as much as others; a few short rollouts "
            "may decide what is learnt. Look at them, or leave --normalize out"
        )
    if without := told["rollouts_without_task"]:
        yield f"no_task: {without:,} rollouts name no task, and each was normalised as a task of its own"


def _sides(data: Mapping[str, Any]) -> Iterable[str]:
    if (val := data["val"]) is None:
        return
    if val["keys"] < _FEW_KEYS:
        yield (
            f"few_val_keys: the validation side has {val['keys']:,} {val['by']}{'' if val['keys'] == 1 else 's'}; what "
            "is measured on so few says little. Raise --val"
        )
    if without := val["rollouts_without_key"]:
        yield (
            f"no_val_key: {without:,} rollouts have no {val['by']} and stand on the training side, though they may be "
            "of the same kind as what is validated on"
        )


def _turn_class(turn: int) -> str:
    # The core counts turns behind 99 with it.
    return f"turns from {turn} on" if turn == 99 else f"turn {turn}"


def _think(data: Mapping[str, Any]) -> Iterable[str]:
    counts, policy = data["counts"], data["policies"]["think"]
    think, tokens = counts["think"], counts["tokens"]
    used = tokens["sampled"] - tokens["skipped"]
    if policy == "keep" and used and tokens["thinking"] / used > _MOST_THINKING:
        yield (
            f"mostly_thinking: {percent(tokens['thinking'], used)} of what is trained is thinking. "
            "Cut it with --think strip, or leave its loss out with --think mask"
        )
    if policy != "keep" and think["stripped"] == 0 and think["history_stripped"] == 0:
        yield f"nothing_stripped: --think {policy} was asked and no output holds thinking; thinking was off, or is text"
    if think["open_think_tail"]:
        yield (
            f"open_think_tail: {think['open_think_tail']:,} prompts end inside thinking that was cut from the output, "
            "so the student learns to answer inside it. Use --tail no-think, and serve with thinking off"
        )
    if think["tail_unknown"]:
        yield (
            f"tail_unknown: {think['tail_unknown']:,} prompts end in no tail of the profile and were left as they are, "
            "though --tail no-think was asked. Look at them with `tito show`"
        )
    if left := think["history_left"]:
        yield (
            f"history_left: {left:,} earlier turns in prompts keep a think marker that is never closed, "
            "or that no rule explains. Look at them with `tito show`"
        )
    if think["odd"]:
        yield f"odd_markers: {think['odd']:,} outputs hold a think marker that no rule explains; it was left in place"
    if think["unterminated"] and (policy == "keep" or data["policies"]["unterminated"] == "keep"):
        yield f"unterminated: {think['unterminated']:,} outputs open thinking and never close it, and were kept"


def _judgement(data: Mapping[str, Any]) -> Iterable[str]:
    if n := data["counts"]["truncation_judged"]["by_nothing"]:
        yield (
            f"judged_by_nothing: nothing tells whether {n:,} outputs were cut off (no profile fits, and no finish word "
            "is there); they were kept. Name the tokenizer with --profile"
        )


def _judged_by_finish(data: Mapping[str, Any]) -> Iterable[str]:
    if n := data["counts"]["truncation_judged"]["by_finish"]:
        yield (
            f"judged_by_finish: whether {n:,} outputs are truncated was told by the finish word alone, which servers "
            "overwrite. Name the tokenizer with --profile to tell it by the last id"
        )


def _naming(data: Mapping[str, Any]) -> Iterable[str]:
    """What records say of who they are of and when, by their keys."""
    counts = data["counts"]
    if n := counts["unplaced"]:
        said = (
            "call does not say which of several rollouts of its name it is of, and stands as a rollout of its own"
            if n == 1
            else "calls do not say which of several rollouts of their name they are of, and stand as ones of their own"
        )
        yield f"unplaced: {n:,} {said}; write task, agent and attempt on every line"
    if n := counts["without_calls"]:
        yield (
            f"without_calls: {n:,} {'rollout is' if n == 1 else 'rollouts are'} told of (opened, closed or marked) and "
            f"{'has' if n == 1 else 'have'} no call in the dump"
        )
    if n := counts["begun_again"]:
        yield (
            f"begun_again: {n:,} {'rollout was' if n == 1 else 'rollouts were'} begun more than once, and the calls, "
            "the last status and the last reward of all its beginnings are one rollout's: a recorder that is started "
            "anew counts attempts from 1. Give each run a log of its own, or name the attempts"
        )
    if n := counts["disputed"]:
        yield (
            f"disputed: the calls of {n:,} {'rollout' if n == 1 else 'rollouts'} say unlike rewards or statuses; a "
            "rollout has one of each, and the latest call's word counts"
        )
    if n := counts["backwards"]:
        yield (
            f"turns_against_prompts: {n:,} {'call has a turn' if n == 1 else 'calls have turns'} before the one that "
            f"{'it continues' if n == 1 else 'they continue'} ({counts['backwards_first']}), so rules about turns "
            'mean others. Give each call its "turn" or when it "started"'
        )
    if unread := counts["unread"]:
        keys = ", ".join(f"{key!r} ({n:,}; {meant!r} is read)" for key, (meant, n) in sorted(unread.items()))
        yield f"unread_keys: some records have keys that nobody reads: {keys}"
    if n := counts["unnamed"]:
        yield (
            f"unnamed: {n:,} {'call names' if n == 1 else 'calls name'} no rollout: each stands alone, without merging "
            'and --val. Put "rollout_id" at the top of each record'
        )
    if n := counts["prompt_in_output"]:
        yield (
            f"prompt_in_output: {n:,} {'output begins with its' if n == 1 else 'outputs begin with their'} whole "
            "prompt, which is trained too; were prompt and completion saved as the output?"
        )
    if n := counts["retold"]:
        yield (
            f"retold: of {n:,} {'call' if n == 1 else 'calls'} a second line has the same ids and another rollout, "
            "finish, kind, turn or parse error; the first line counts"
        )
    if counts["repeated_ids"]:
        yield (
            f"repeated_ids: {counts['repeated_ids']:,} calls have the very ids of another call under another name; "
            "were captures copied into the dump twice?"
        )


# How a later prompt shows an answer that the student would not see so.
_DRIFTED = ("retokenised", "template_rewrite", "other", "other_ids")


def _drift(data: Mapping[str, Any]) -> Iterable[str]:
    proof = data["counts"].get("prove_think")
    if proof is None:
        return
    if n := sum(proof["shown"].get(kind, 0) for kind in _DRIFTED):
        yield (
            f"drift: {n:,} of {proof['compared']:,} answers stand in the next prompt in other ids than were sampled; "
            "rows hold what was sampled, and prompts what the engine saw"
        )


def _section(data: Mapping[str, Any]) -> Iterable[str]:
    if not (cut := data["counts"].get("section")):
        return
    if cut["calls_without"]:
        yield (
            f"section_missing: {cut['calls_without']:,} prompts do not hold the section that --drop-section names and "
            "were left as they are. Is it worded otherwise there? --leak-scan tells"
        )
    if cut["unproven"]:
        yield (
            f"section_unproven: {cut['unproven']:,} messages lost the section between ids, though their ids are not "
            "those that the tokenizer makes of their text: nobody can tell what they would have been without it"
        )
    if not data["policies"]["leak_scan"]:
        yield "not_scanned: answers may quote the section that left the prompts; --leak-scan FILE finds it"


def _served(data: Mapping[str, Any]) -> Iterable[str]:
    """A given profile of another tokenizer is refused by the core; a found one was told by the ids' shape alone."""
    given = data["given"]["profile"] is not None
    for profile in data["profiles"]:
        for said in data["counts"]["served"]:
            if said["tokenizer_hash"] not in (None, profile["tokenizer_hash"]):
                yield (
                    f"other_tokenizer: {said['place']} says that tokenizer {said['tokenizer_hash']} was served; its "
                    f"ids look like those of {profile['name']} ({profile['tokenizer_hash']}). Make its profile with "
                    "`tito profile DIR` and name it with --profile"
                )
            # The templates of a family's releases differ in words; only whoever named a profile vouched for one.
            elif given and said["template_hash"] not in (None, profile["template_hash"]):
                yield (
                    f"other_template: {said['place']} says that template {said['template_hash']} was served; profile "
                    f"{profile['name']} is of {profile['template_hash']}"
                )


def _amounts(data: Mapping[str, Any]) -> Iterable[str]:
    counts = data["counts"]
    seen, skipped = counts["calls_seen"], sum(counts["skipped"].values())
    if seen and skipped / seen > _MOST_SKIPPED:
        yield f"mostly_skipped: {percent(skipped, seen)} of the calls gave no row; the reasons are under `calls`"
    if lost := counts["skipped"].get("no_capture"):
        yield (
            f"no_capture: {lost:,} calls gave no row: the replies hold no token ids; ask the engine for "
            "return_token_ids: true"
        )
    if torn := counts["skipped"].get("torn_record"):
        yield (
            f"torn_record: {torn:,} {'file ends' if torn == 1 else 'files end'} in a line that is cut off, which gave "
            "no row; is it still being written?"
        )


def _no_rule(data: Mapping[str, Any]) -> Iterable[str]:
    whole = sum(turn["weight"] for turn in data["counts"]["turns"])
    for rule in data["counts"]["upweight"]:
        if rule["weight"] == whole > 0 and data["policies"]["normalize"] == "none":
            yield f"no_rule: {rule['rule']} matches every call, so nothing weighs less; as copies each comes as often"


def _few_rows(data: Mapping[str, Any]) -> Iterable[str]:
    counts = data["counts"]
    # Copies are not more to learn from, and a merged row is as much as its calls.
    rows, thing = counts["sides"]["train"]["rows"] - counts["copies"], "rows"
    if data["policies"]["rows"] != "turn":
        rows, thing = counts["calls_used"], "calls"
    if rows < _FEW_ROWS:
        yield f"few_rows: {rows:,} different {thing} supervise everything: fewer than {_FEW_ROWS} different {thing}"
