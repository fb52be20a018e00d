"""The data-shape report: what a trainer will see of this data, on one screen. A pure function of the report's JSON.

Shares are of rows' weights and, where it says ids, of weight times trained ids: what the loss is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tito.calls import Policies

__all__ = ["chosen_policies", "percent", "shape_text"]

# More turns than this are told in groups of ten.
_TURNS_ONE_BY_ONE = 12
# Policies that are whole texts.
_TEXTS = ("drop_section", "leak_scan", "leak_ignore")


def shape_text(data: Mapping[str, Any]) -> str:
    """The report as lines of `name  facts`; ends in a newline."""
    counts = data["counts"]
    lines = [
        _line("calls", _calls(counts)),
        _line("rows", _rows(counts)),
        *_side_table(data),
        *(_line("dilution", text) for text in _dilution(counts["turns"], data["policies"]["rows"])),
        *_turn_table(counts["turns"], data["policies"]["rows"]),
        *(_line("upweight", text) for text in _rules(counts)),
        *(_line("weights", text) for text in _weights(data)),
        _line("tokens", _tokens(counts["tokens"])),
        *(_line("thinking", text) for text in _thinking(data)),
        _line("lengths", _lengths(counts["lengths"])),
        *(_line("merging", text) for text in _merging(counts["merge"], data["policies"])),
        _line("truncated", _truncated(data)),
        *(_line("prompts", text) for text in _prompts(counts)),
        *(_line("section", text) for text in _section(counts)),
        *(_line("shown", text) for text in _proof(counts)),
        _line("policies", chosen_policies(data["policies"])),
        _line("profile", _profile(data)),
        _line("input", _input(data)),
        *(_line("passed", text) for text in _passed_over(data)),
        *(_line("output", _output(file)) for file in data["outputs"]),
    ]
    return "".join(f"{line}\n" for line in lines)


def percent(part: float, whole: float) -> str:
    """A share with one digit: `41.5 %`; `-` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _line(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _many(n: int, thing: str) -> str:
    if n != 1:
        thing = "replies" if thing == "reply" else f"{thing}s"
    return f"{n:,} {thing}"


def _size(n: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"


def _by_name(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def _calls(counts: Mapping[str, Any]) -> str:
    skipped = counts["skipped"]
    reasons = f" ({_by_name(skipped)})" if skipped else ""
    return f"{counts['calls_seen']:,} seen = {counts['calls_used']:,} used + {sum(skipped.values()):,} skipped{reasons}"


def _rows(counts: Mapping[str, Any]) -> str:
    copies = f", {counts['copies']:,} of them made as copies" if counts["copies"] else ""
    rollouts = _many(counts["rollouts"], "rollout")
    return f"{_many(counts['rows'], 'row')} of {rollouts}, weight {counts['weight']:,g}{copies}"


def _side_table(data: Mapping[str, Any]) -> Iterable[str]:
    if (val := data["val"]) is None:
        return
    sides = data["counts"]["sides"].items()
    weight, ids = (sum(side[name] for _, side in sides) for name in ("weight", "weighted_ids"))
    yield f"{'side':<10}{'rows':>9}{'weight':>12}{'of weight':>12}{'of ids':>12}"
    for name, side in sides:
        of_weight, of_ids = percent(side["weight"], weight), percent(side["weighted_ids"], ids)
        yield f"{name:<10}{side['rows']:>9,}{side['weight']:>12,g}{of_weight:>12}{of_ids:>12}"
    without = val["rollouts_without_key"]
    more = f"; {_many(without, 'rollout')} without one on the training side" if without else ""
    yield _line("val", f"{val['keys']:,} of {_many(val['of_keys'], val['by'])}{more}")


def _rules(counts: Mapping[str, Any]) -> Iterable[str]:
    turns = counts["turns"]
    weight, ids = sum(t["weight"] for t in turns), sum(t["weighted_ids"] for t in turns)
    for rule in counts["upweight"]:
        shares = f"{percent(rule['weight'], weight)} of weight, {percent(rule['weighted_ids'], ids)} of ids"
        yield f"{rule['rule']} matches {_many(rule['calls'], 'call')}: {shares}"


def _weights(data: Mapping[str, Any]) -> Iterable[str]:
    if (told := data["weights"]) is None:
        return
    equal = f"each of {_many(told['units'], told['normalize'])} weighs {told['each']:,g}; " if told["each"] else ""
    yield (
        f"{equal}scale {told['scale']} (times {told['factor']:.6g}); an id weighs from {told['least']:.6g} to "
        f"{told['most']:.6g}"
    )


def _dilution(turns: Sequence[Mapping[str, Any]], kind: str) -> Iterable[str]:
    # A merged row trains several turns.
    thing = "row" if kind == "turn" else "call"
    every, first = (sum(t["rows"] for t in some) for some in (turns, [t for t in turns if t["turn"] == 0]))
    if first:
        yield f"{every / first:.1f}: turn 0 is {first:,} of {_many(every, thing)}"


def _turn_table(turns: Sequence[Mapping[str, Any]], kind: str) -> Iterable[str]:
    weight, ids = sum(t["weight"] for t in turns), sum(t["weighted_ids"] for t in turns)
    yield f"{'turn':<10}{'rows' if kind == 'turn' else 'calls':>9}{'weight':>12}{'of weight':>12}{'of ids':>12}"
    for name, group in _grouped(turns):
        w, i = sum(t["weight"] for t in group), sum(t["weighted_ids"] for t in group)
        yield f"{name:<10}{sum(t['rows'] for t in group):>9,}{w:>12,g}{percent(w, weight):>12}{percent(i, ids):>12}"


def _grouped(turns: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, list[Mapping[str, Any]]]]:
    if len(turns) <= _TURNS_ONE_BY_ONE:
        for t in turns:
            yield _turn_name(t["turn"]), [t]
        return
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for t in turns:
        turn = t["turn"]
        name = _turn_name(turn)
        if turn is not None and turn >= 10:
            name = f"{turn // 10 * 10}-{turn // 10 * 10 + 9}" if turn < 90 else "90 and on"
        groups.setdefault(name, []).append(t)
    yield from groups.items()


def _turn_name(turn: int | None) -> str:
    if turn is None:
        return "unknown"
    # The core counts turns behind 99 with it.
    return "99 and on" if turn == 99 else str(turn)


def _tokens(tokens: Mapping[str, int]) -> str:
    parts = {
        "trained": "trained",
        "think_cut": "cut as thinking",
        "think_masked": "masked as thinking",
        "truncated_masked": "masked as truncated",
        "ambiguous_masked": "masked as ambiguous",
        "skipped": "skipped",
    }
    there = [f"{tokens[key]:,} {words}" for key, words in parts.items() if tokens[key] or key == "trained"]
    return f"{tokens['sampled']:,} sampled = {' + '.join(there)}; {tokens['prompt']:,} of prompts"


def _thinking(data: Mapping[str, Any]) -> Iterable[str]:
    counts, think = data["counts"], data["counts"]["think"]
    if not think["seen"]:
        yield "not looked for: no profile is known"
        return
    tokens = counts["tokens"]
    used = tokens["sampled"] - tokens["skipped"]
    yield f"{tokens['thinking']:,} ids, {percent(tokens['thinking'], used)} of what the used calls sampled"
    names = (
        "absent",
        "unterminated",
        "odd",
        "split_marker",
        "open_think_tail",
        "tail_unknown",
        "history_stripped",
        "history_left",
    )
    rest = {name: think[name] for name in names if think[name]}
    found = f"a span in {think['stripped']:,} of {_many(think['seen'], 'output')}"
    yield f"{found}; {_by_name(rest)}" if rest else found


def _lengths(lengths: Mapping[str, int | None]) -> str:
    there = [f"{name} {n:,}" for name, n in lengths.items() if n is not None]
    return f"{', '.join(there)} ids a row" if there else "no rows"


def _merging(merge: Mapping[str, int], policies: Mapping[str, Any]) -> Iterable[str]:
    calls, rows, ids, merged = (merge[name] for name in ("calls", "merged_rows", "ids", "merged_ids"))
    if calls > rows:
        told = f"{_many(calls, 'call')} continue one another in {_many(rows, 'longest sequence')}"
        yield f"{told}: {merged:,} ids as captured, {ids:,} with one row a call ({ids / merged:.1f} times)"
        if policies["rows"] == "turn":
            saved, asked = f"{percent(ids - merged, ids)} of the ids", _may_fall_back(policies)
            saved = f"at most {saved}: nothing where {asked} forbids merging" if asked else saved
            yield f"--rows auto would save a trainer {saved}"
    elif calls:
        yield f"no call continues another: --rows auto would write the same {_many(calls, 'row')}"
    if n := merge["fell_back"]:
        how = f"--think {policies['think']} --tail {policies['tail']}"
        yield f"{_many(n, 'call')} written one a row: merged under {how} they would be what no engine setting shows"
    if n := merge["fell_back_overlong"]:
        yield f"{_many(n, 'call')} written one a row: merged they are longer than {policies['max_length']:,} ids"
    if n := merge["superseded"]:
        yield f"{_many(n, 'reply')} replaced by another to the same prompt: trained all the same"
    if n := merge["ambiguous"]:
        fate = {"keep-all": "all trained", "keep-last": "the last trained", "drop": "left out", "mask": "masked"}
        which = f"{_many(n, 'reply')} to a prompt that has others, and no later prompt tells which was kept"
        yield f"{which}: {fate[policies['ambiguous']]}"


def _may_fall_back(policies: Mapping[str, Any]) -> str:
    """The policies for which merging writes some calls one a row all the same, as they are spelled."""
    asked = [f"--think {policies['think']}"] if policies["think"] in ("strip", "strip-all") else []
    asked += ["--tail no-think"] if policies["tail"] == "no-think" else []
    asked += [f"--max-length {policies['max_length']}"] if policies["max_length"] is not None else []
    return " ".join(asked)


def _truncated(data: Mapping[str, Any]) -> str:
    counts, policy = data["counts"], data["policies"]["truncated"]
    judged = counts["truncation_judged"]
    dropped = counts["skipped"].get("truncated", 0)
    fate = {
        "drop": f"{_many(dropped, 'output')} dropped",
        "mask": f"{_many(counts['tokens']['truncated_masked'], 'id')} masked",
        "keep": "kept and flagged",
    }[policy]
    words = (("last id", "by_last_id"), ("finish word", "by_finish"), ("nothing", "by_nothing"))
    told = [f"by {word} {judged[key]:,}" for word, key in words if judged[key] or key != "by_nothing"]
    return f"{fate}; judged {', '.join(told)}"


def _prompts(counts: Mapping[str, Any]) -> Iterable[str]:
    if counts["prompts_changed"]:
        yield f"{_many(counts['prompts_changed'], 'prompt')} changed by a policy: not what the engine saw"


def _section(counts: Mapping[str, Any]) -> Iterable[str]:
    if not (cut := counts.get("section")):
        return
    kinds = {
        "pure": "with every id as captured",
        "reencoded": "with ids made anew around the cut",
        "unproven": "with ids that the tokenizer makes otherwise",
        "whole": "as a whole",
    }
    how = "; ".join(f"{_many(cut[kind], 'message')} {words}" for kind, words in kinds.items() if cut[kind])
    calls = cut["calls_with"] + cut["calls_without"]
    yield f"stood in {cut['calls_with']:,} of {_many(calls, 'prompt')}, {_many(cut['sections'], 'time')}; cut: {how}"


def _proof(counts: Mapping[str, Any]) -> Iterable[str]:
    if (proof := counts.get("prove_think")) is None:
        return
    shown = {kind.replace("_", " "): n for kind, n in proof["shown"].items()}
    yield (
        f"{_many(proof['compared'], 'answer')} in the next prompt: {_by_name(shown) or 'none'}; "
        f"{proof['last']:,} with no next prompt, {proof['retried']:,} retried"
        + (f", {proof['unknown']:,} of a tokenizer without a profile" if proof["unknown"] else "")
    )
    for kind, places in proof["examples"].items():
        for place in places:
            yield f"{kind.replace('_', ' ')}: {place}"


def chosen_policies(policies: Mapping[str, Any]) -> str:
    """Those that are not the defaults; all of them stand in the JSON, the manifest and the file.

    >>> chosen_policies({"think": "strip", "tail": "captured"})
    'think=strip; the others by default'
    """
    defaults = Policies().to_dict()
    # A file of another version may name others.
    chosen = {name: value for name, value in policies.items() if name not in defaults or value != defaults[name]}
    if not chosen:
        return "all by default"

    def value(v: Any) -> str:
        if v is None:
            return "none"
        return (",".join(map(str, v)) or "none") if isinstance(v, list) else str(v)

    def told(name: str, v: Any) -> str:
        # A text of many lines would drown the rest; the whole of it stands in the file and the manifest.
        return f"{name}=({len(v):,} characters)" if name in _TEXTS and v is not None else f"{name}={value(v)}"

    return f"{' '.join(told(name, v) for name, v in chosen.items())}; the others by default"


def _profile(data: Mapping[str, Any]) -> str:
    known = {profile["name"]: profile for profile in data["profiles"]}
    told = []
    for name, rows in data["counts"]["identities"].items():
        hashes = ""
        if profile := known.get(name):
            hashes = f" (tokenizer {_short(profile, 'tokenizer')}, template {_short(profile, 'template')})"
        told.append(f"{name}{hashes}: {_many(rows, 'row')}")
    return "; ".join(told) or "none"


def _short(profile: Mapping[str, Any], what: str) -> str:
    return str(profile[f"{what}_hash"]).removeprefix("sha256:")[:12]


def _input(data: Mapping[str, Any]) -> str:
    inputs = data["inputs"]
    formats: dict[str, int] = {}
    for file in inputs:
        formats[file["format"]] = formats.get(file["format"], 0) + 1
    repeated = f"; named twice {data['inputs_repeated']:,}" if data["inputs_repeated"] else ""
    size = _size(sum(file["bytes"] for file in inputs))
    return f"{_many(len(inputs), 'file')}, {size} ({_by_name(formats)}){repeated}"


def _passed_over(data: Mapping[str, Any]) -> Iterable[str]:
    passed = data["passed_over"]
    if passed["files"]:
        more = ", ..." if passed["files"] > len(passed["first"]) else ""
        yield f"{_many(passed['files'], 'file')} over, which hold no captures: {', '.join(passed['first'])}{more}"


def _output(file: Mapping[str, Any]) -> str:
    return f"{file['file']}: {_many(file['rows'], 'row')}, {_many(file['ids'], 'id')}, {_size(file['bytes'])}"
