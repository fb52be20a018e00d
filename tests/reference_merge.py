"""Merged rows, written slowly in plain Python: `reference_convert` for every value of `rows` and `ambiguous`.

Every call is compared with every other by the ids themselves. A merged row is built as a list of cells, each an id
and the call that sampled it; policies take cells away or put others there, and what a row trains is read off the
cells that are left.

The rules. A call continues the longest other prompt + output that its own prompt begins with (of equal ones, the one
that stands last in the order of rows). Calls that give no row leave first. A call that nothing continues ends a
sequence, which is a row; a call that several sequences hold trains in the first of them. Of replies to one prompt it
must be told by a later prompt which one was kept; where none tells, `ambiguous` settles it, and the calls are hung
anew. A row must be what some engine setting shows: where a policy changes an answer that is not the row's last, it has
to stand there as the template writes an answer without reasoning, and so have all other answers.
"""

import reference
import reference_convert as rc


def convert(files, options, profiles, rewards=None):
    """As `reference_convert.convert`; also "merge": its counts."""
    calls, skipped, seen = rc.read(files, rewards)
    rows, tokens, used = [], dict.fromkeys(rc.TOKENS, 0), 0
    names = ("calls", "ids", "merged_rows", "merged_ids", "ambiguous", "superseded", "fell_back", "fell_back_overlong")
    merge = dict.fromkeys(names, 0)
    for rollout in rc.rollouts_of(calls):
        rc.arrange(rollout)
        verdicts = {id(call): rc.judge(call, rollout, options, profiles) for call in rollout}
        settle_ambiguous(rollout, verdicts, options, profiles, merge)
        stay = [call for call in rollout if not isinstance(verdicts[id(call)], str)]
        skipped += [
            (verdicts[id(call)], len(call["output"] or [])) for call in rollout if isinstance(verdicts[id(call)], str)
        ]
        for parts in rows_of(rollout, stay, verdicts, options, profiles, merge):
            if isinstance(parts, dict):
                made, trained = turn_copies(parts, rollout, verdicts, options, skipped)
            else:
                made, trained = merged_copies(parts, rollout, verdicts, options, skipped)
            rows += made
            used += len(trained)
            for call in trained:
                for key, n in rc.tokens_of(call, verdicts[id(call)], options).items():
                    tokens[key] += n
            if made:
                sampled = [rc.tokens_of(c, verdicts[id(c)], options) for c in all_trained(parts)]
                length = len(made[0]["input_ids"]) + len(made[0]["output_ids"])
                tokens["prompt"] += length - sum(t["sampled"] - t["think_cut"] for t in sampled)
    counts = rc.count_skipped(skipped, tokens)
    return {
        "rows": rows,
        "skipped": counts,
        "tokens": tokens,
        "calls_seen": seen,
        "calls_used": used,
        "merge": merge,
    }


def sequence(call):
    return call["prompt"] + call["output"]


def continues(call, others, options, profiles):
    """The call that this one continues, or None. `others` stand in the order of rows."""
    prompt, best = call["prompt"], None
    for other in others:
        whole = sequence(other)
        if other is call or prompt[: len(whole)] != whole:
            continue
        if rc.identity_of(other["prompt"], options, profiles) != rc.identity_of(prompt, options, profiles):
            continue
        if best is None or len(whole) >= len(sequence(best)):
            best = other
    return best


def settle_ambiguous(rollout, verdicts, options, profiles, merge):
    """Replaces the verdicts of calls that the policy leaves out by "ambiguous", and notes those that it masks."""
    stay = [call for call in rollout if not isinstance(verdicts[id(call)], str)]
    told = [call for call in rollout if call["prompt"] and not call["repeat"] and not call["bad_reasons"]]
    kept = {id(continues(call, stay, options, profiles)) for call in told}
    for call in stay:
        group = [other for other in stay if other["prompt"] == call["prompt"]]
        if group[0] is not call or all(same_reply(call, other) for other in group):
            continue
        twins = [one for one in group if sum(one["output"] == other["output"] for other in group) > 1]
        continued = [one for one in group if id(one) in kept]
        unsettled = twins if continued else group
        merge["ambiguous"] += len(unsettled)
        if len(continued) == 1:
            merge["superseded"] += sum(one is not continued[0] and one not in twins for one in group)
        for one in unsettled:
            match options["ambiguous"]:
                case "mask":
                    verdict = verdicts[id(one)]
                    verdicts[id(one)] = {**verdict, "masked": verdict["masked"] or "ambiguous_masked"}
                case "drop":
                    verdicts[id(one)] = "ambiguous"
                case "keep-last" if one is not unsettled[-1]:
                    verdicts[id(one)] = "ambiguous"


def same_reply(one, other):
    if one["call_id"] is not None and other["call_id"] is not None:
        return one["call_id"] == other["call_id"]
    here = [(call["call_id"], call["file"], call["record"], call["nth"]) for call in (one, other)]
    return here[0] == here[1]


def rows_of(rollout, stay, verdicts, options, profiles, merge):
    """What rows are made of, in their order: a call, or a list of (call, whether it trains there)."""
    parents = {id(call): continues(call, stay, options, profiles) for call in stay}
    leaves = [call for call in stay if not any(parent is call for parent in parents.values())]
    merge["calls"] += len(stay)
    merge["ids"] += sum(len(sequence(call)) for call in stay)
    merge["merged_rows"] += len(leaves)
    merge["merged_ids"] += sum(len(sequence(call)) for call in leaves)
    if options["rows"] == "turn":
        return stay
    found, trained = [], set()
    for leaf in leaves:
        lineage, call = [], leaf
        while call is not None:
            lineage.insert(0, (call, id(call) not in trained))
            call = parents[id(call)]
        mine = [call for call, trains in lineage if trains]
        trained |= {id(call) for call in mine}
        limit = options["max_length"]
        if options["rows"] == "auto" and len(lineage) == 1:
            found.append(leaf)
        elif not is_shown(lineage, verdicts, options):
            merge["fell_back"] += len(mine)
            found += mine
        elif limit is not None and len(cells_of(lineage, verdicts, options)) > limit:
            merge["fell_back_overlong"] += len(mine)
            found += mine
        else:
            found.append(lineage)
    place = {id(call): at for at, call in enumerate(rollout)}
    return sorted(found, key=lambda parts: place[id(parts if isinstance(parts, dict) else parts[-1][0])])


def all_trained(parts):
    return [parts] if isinstance(parts, dict) else [call for call, trains in parts if trains]


# One row


def cells_of(lineage, verdicts, options):
    """The row as a list of (id, the call that sampled it and trains here or None, its place in the output)."""
    leaf = lineage[-1][0]
    profile = verdicts[id(leaf)]["profile"]
    cells = [(one, None, None) for one in sequence(leaf)]
    changes = {}
    for call, trains in lineage:
        start = len(call["prompt"])
        for at, one in enumerate(call["output"]):
            cells[start + at] = (one, call if trains else None, at)
        for first, last in verdicts[id(call)]["cut"]:
            changes[start + first] = (start + last, [])
        if profile and options["tail"] == "no-think" and reference.tail_of(call["prompt"], profile) == "think":
            changes[start - len(profile["tail_think"])] = (start, profile["tail_no_think"])
    if profile and options["think"] == "strip-all":
        pair = rc.history_pair(profile) if options["tail"] == "no-think" else []
        for first, last in thinking_of_others(lineage, profile):
            changes[first] = (last, pair)
    made, at = [], 0
    while at < len(cells):
        if at in changes:
            at, new = changes[at]
            made += [(one, None, None) for one in new]
        else:
            made.append(cells[at])
            at += 1
    return made


def thinking_of_others(lineage, profile):
    """[start, end] of thinking in earlier assistant turns that no call of the sequence sampled."""
    prompt = lineage[-1][0]["prompt"]
    sampled = {len(call["prompt"]) for call, _ in lineage}
    found = []
    for start, end in reference.assistant_turns(prompt, profile):
        if not sampled & set(range(start, end + 1)):
            found += [span for span in rc.thinking_of_history(prompt, profile) if start <= span[0] and span[1] <= end]
    return found


def is_shown(lineage, verdicts, options):
    """Whether the earlier answers stand in the row as captured, or else as the template writes them."""
    changed = None
    for call, _ in lineage[:-1]:
        verdict = verdicts[id(call)]
        profile = verdict["profile"]
        if profile is None:
            continue
        prompt = rc.policies_on_prompt(call["prompt"], profile, {**options, "think": "keep"})
        left = reference.cut(call["output"], verdict["cut"])
        if (prompt, left) == (call["prompt"], call["output"]):
            continue
        changed = profile
        if verdict["flags"] & (rc.THINK_UNTERMINATED | rc.THINK_ODD):
            return False
        # From behind the header to the end of the sample.
        header = max(end for _, end in reference.matches(prompt, profile["assistant_start"]))
        if prompt[header:] + left != rc.history_pair(profile) + answer_of(call["output"], profile):
            return False
    if changed is None or options["think"] == "strip-all":
        return True
    prompt = lineage[-1][0]["prompt"]
    return all(prompt[start:end] == rc.history_pair(changed) for start, end in thinking_of_others(lineage, changed))


def answer_of(output, profile):
    """What a template keeps of a reply: what stands behind its last closer, without leading newlines."""
    pieces = reference.split_at_markers(output, profile)
    closers = [end for kind, _, end in pieces if kind == "close"]
    if not closers:
        return output
    at = closers[-1]
    while output[at : at + 1] and output[at] in profile["after_close"]:
        at += 1
    return output[at:]


def copies_of(call, rollout, options):
    """(weight, copies)."""
    weight = rc.weigh(rc.facts_of(call), rollout, options)
    return (1.0, int(weight)) if options["upweight_as"] == "copies" else (weight, 1)


def turn_copies(call, rollout, verdicts, options, skipped):
    row = rc.turn_row(call, verdicts[id(call)], options)
    if isinstance(row, str):
        skipped.append((row, len(call["output"])))
        return [], []
    weight, copies = copies_of(call, rollout, options)
    if copies == 0:
        skipped.append(("not_drawn", len(call["output"])))
        return [], []
    row |= {"calls": None, "weight": weight, "output_logprobs": None}
    if call["logprobs"]:
        left = reference.keep_spans(len(call["output"]), verdicts[id(call)]["cut"])
        row["output_logprobs"] = [value for start, end in left for value in call["logprobs"][start:end]]
    row.pop("tokens")
    return [{**row, "flags": row["flags"] | (rc.COPIED if n else 0)} for n in range(copies)], [call]


def merged_copies(lineage, rollout, verdicts, options, skipped):
    """Copy i of a row trains the calls that have more than i copies."""
    weights = {id(call): copies_of(call, rollout, options) for call, trains in lineage if trains}
    for call, trains in lineage:
        if trains and weights[id(call)][1] == 0:
            skipped.append(("not_drawn", len(call["output"])))
    made = []
    for copy in range(max(copies for _, copies in weights.values())):
        now = [call for call, trains in lineage if trains and weights[id(call)][1] > copy]
        row = merged_row(lineage, now, {key: weight for key, (weight, _) in weights.items()}, verdicts, options)
        made.append({**row, "flags": row["flags"] | (rc.COPIED if copy else 0)})
    return made, [call for call, trains in lineage if trains and weights[id(call)][1]]


def merged_row(lineage, now, weights, verdicts, options):
    """One copy of a merged row: `now` are the calls that it trains."""
    leaf = lineage[-1][0]
    cells = cells_of(lineage, verdicts, options)
    ids = [one for one, _, _ in cells]
    members = [call for call, trains in lineage if trains]
    spans, calls = [], []
    for call in now:
        verdict = verdicts[id(call)]
        mine = [at for at, (_, owner, _) in enumerate(cells) if owner is call]
        assert mine == list(range(mine[0], mine[-1] + 1))
        known = {"turn": call["turn"], "call_id": call["call_id"], "file": call["file"], "record": call["record"]}
        calls.append({"start": mine[0], "end": mine[-1] + 1, **known})
        if verdict["masked"]:
            continue
        thinking = {at for first, last in verdict["spans"] for at in range(first, last)}
        loss = {at for at in mine if options["think"] == "keep" or cells[at][2] not in thinking}
        spans += [(start, end, weights[id(call)]) for start, end in reference.runs(loss)]
    flags = 0
    for call in members:
        verdict = verdicts[id(call)]
        flags |= verdict["flags"] & ~rc.THINK_ABSENT
        if options["think"] == "mask" and verdict["spans"] and not verdict["masked"]:
            flags |= rc.THINK_MASKED
    if all(verdicts[id(call)]["flags"] & rc.THINK_ABSENT for call in members):
        flags |= rc.THINK_ABSENT
    verdict = verdicts[id(leaf)]
    if verdict["cut"] and verdict["opened"] == "yes" and options["tail"] == "captured":
        flags |= rc.OPEN_THINK_TAIL
    behind = len(ids) - len(reference.cut(leaf["output"], verdict["cut"]))
    if ids[:behind] == leaf["prompt"]:
        flags |= rc.PROMPT_EXACT
    logprobs = None
    if any(call["logprobs"] for call in members):
        there = {id(call): call["logprobs"] for call in now if call["logprobs"]}
        logprobs = [there[id(owner)][at] if id(owner) in there else None for _, owner, at in cells]
    return {
        "input_ids": ids,
        "output_ids": [],
        "loss_spans": spans,
        "calls": calls,
        "output_logprobs": logprobs,
        **rc.facts_of(leaf),
        "weight": 1.0,
        "flags": flags,
    }
