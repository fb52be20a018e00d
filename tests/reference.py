"""What tito means, written slowly in plain Python, to be read by anyone who doubts a rule.

Ids are Python ints in lists; a profile is the dict that `tito profile` writes. Nothing here is fast, and nothing here
is taken from the Rust: both are written from the rules, and `tests/golden/` holds what both must answer.

The rules of a think span. O opens thinking, X closes it, T opens a tool call. `opened` says how the prompt ended:

    yes      in an opener: the output starts inside thinking. The first X ends it, even behind another O.
    pair     in a closed (usually empty) pair or a lone closer. An X before any O ends a span from the start: the
             model reasoned anyway.
    no       without a marker. Only O..X is cut; text before O stays.
    unknown  nobody tells. The first X ends a span from the start, whatever comes before it.

Behind the first span the rules of `no` hold. Behind the first T nothing is cut, so thinking that is open there stays.
An X or O that stays without a rule for it is odd. Thinking that no X ends at all is unterminated and stays.
Newline-only ids (`after_close`) directly behind a closer go with the span. Where the closer is an ordinary turn end
(`lone_close` is false), an X that does not end thinking is just text, and `pair` and `unknown` are `no`.
"""

# Markers


def split_at_markers(ids, profile):
    """The ids as a list of (kind, start, end): markers, and every other id alone as kind "text".

    Of several markers that could stand at one place, the longest one does.
    """
    markers = [
        (list(marker), kind)
        for kind, key in (("open", "think_open"), ("close", "think_close"), ("tool", "tool_open"))
        for marker in profile[key]
    ]
    markers.sort(key=lambda pair: -len(pair[0]))
    pieces, at = [], 0
    while at < len(ids):
        for marker, kind in markers:
            if ids[at : at + len(marker)] == marker:
                pieces.append((kind, at, at + len(marker)))
                break
        else:
            pieces.append(("text", at, at + 1))
        at = pieces[-1][2]
    return pieces


def matches(ids, marker):
    """(start, end) of every place where one of the marker's alternatives stands, without overlaps."""
    places, at = [], 0
    while at < len(ids):
        here = [len(way) for way in marker if ids[at : at + len(way)] == list(way)]
        if here:
            places.append((at, at + max(here)))
        at += max(here, default=1)
    return places


# Think spans of an output


def find_once(ids, opened, profile):
    """One look: the set of positions to cut, and the flags."""
    pieces = split_at_markers(ids, profile)
    kinds = [kind for kind, _, _ in pieces]
    lone_close = profile["lone_close"]
    if not lone_close and opened in ("pair", "unknown"):
        opened = "no"

    # Everything from the first tool call on is out of reach.
    reach = kinds.index("tool") if "tool" in kinds else len(kinds)

    def first(kind, start):
        return next((i for i in range(start, reach) if kinds[i] == kind), None)

    # 1. The spans, as (first piece, piece of the closer); and the piece from which thinking stays open, if it does.
    spans, at, open_from = [], 0, None
    opener, closer = first("open", 0), first("close", 0)
    if closer is not None and (
        opened in ("yes", "unknown") or (opened == "pair" and (opener is None or closer < opener))
    ):
        spans.append((0, closer))
        at = closer + 1
    elif opened == "yes":
        open_from = 0
    while open_from is None and (opener := first("open", at)) is not None:
        closer = first("close", opener)
        if closer is None:
            open_from = opener
        else:
            spans.append((opener, closer))
            at = closer + 1

    # 2. The positions of the spans, with the newlines behind the closer.
    positions = set()
    for begin, last in spans:
        end = last + 1
        while end < len(pieces) and kinds[end] == "text" and ids[pieces[end][1]] in profile["after_close"]:
            end += 1
        positions.update(range(pieces[begin][1], pieces[end - 1][2]))

    # 3. The flags. An ordinary turn end is a marker only if thinking is open before it.
    markers, odd = [], False
    for i, kind in enumerate(kinds):
        if kind not in ("open", "close"):
            continue
        in_span = any(begin <= i <= last for begin, last in spans)
        in_open = open_from is not None and i >= open_from
        if kind == "close" and not lone_close and not in_span and not in_open:
            continue
        markers.append(pieces[i])
        if not in_span and (i > reach or kind == "close"):
            odd = True
    return positions, {
        "unterminated": open_from is not None and "close" not in kinds[reach:],
        "odd": odd,
        "split_marker": any(end - start > 1 for _, start, end in markers),
        "markers": bool(markers),
    }


def find_think(ids, opened, profile):
    """What to cut of an output: "spans" as [start, end], "absent", "unterminated", "odd", "split_marker", "markers".

    Cutting can bring the halves of a marker of several ids together. What is left is therefore looked at again, as an
    output of its own (`no`), until nothing more is found; the flags of all looks count. A span of a later look
    reaches across what was cut before.
    """
    positions, flags = find_once(ids, opened, profile)
    flags["absent"] = not flags["markers"] and opened != "yes"
    more = positions
    while more:
        left = [i for i in range(len(ids)) if i not in positions]
        more, more_flags = find_once([ids[i] for i in left], "no", profile)
        positions = positions | {left[i] for i in more}
        for name in ("unterminated", "odd", "split_marker"):
            flags[name] = flags[name] or more_flags[name]
    return {"spans": runs(positions), **flags}


def runs(positions):
    """A set of positions as a sorted list of [start, end], touching ones joined."""
    spans = []
    for at in sorted(positions):
        if spans and spans[-1][1] == at:
            spans[-1][1] = at + 1
        else:
            spans.append([at, at + 1])
    return spans


def cut(ids, spans):
    """The ids outside the spans."""
    return [one for at, one in enumerate(ids) if not any(start <= at < end for start, end in spans)]


def keep_spans(length, spans):
    """What the spans leave of 0..length, as [start, end]."""
    return runs({at for at in range(length) if not any(start <= at < end for start, end in spans)})


def strip_think(ids, opened, profile):
    """The ids without their think spans."""
    return cut(ids, find_think(ids, opened, profile)["spans"])


def count_think(findings):
    """How many of the findings are of which kind."""
    counts = dict.fromkeys(("seen", "stripped", "absent", "unterminated", "odd", "split_marker", "cut_ids"), 0)
    for found in findings:
        counts["seen"] += 1
        counts["stripped"] += bool(found["spans"])
        for name in ("absent", "unterminated", "odd", "split_marker"):
            counts[name] += found[name]
        counts["cut_ids"] += sum(end - start for start, end in found["spans"])
    return counts


# Prompts


def think_kinds(ids, profile):
    """The think markers in order: "open", "close"."""
    return [kind for kind, _, _ in split_at_markers(ids, profile) if kind in ("open", "close")]


def opened_by(prompt, profile):
    """How the prompt ended: the last think marker behind the last assistant header says it.

    "unknown" if there is no header, or if the turn behind the last one has ended: the output does not continue it.
    """
    headers = [
        (start, start + len(header))
        for start in range(len(prompt))
        for header in profile["assistant_start"]
        if prompt[start : start + len(header)] == list(header)
    ]
    if not headers:
        return "unknown"
    tail = prompt[max(headers)[1] :]
    if matches(tail, profile["turn_end"]) or matches(tail, profile["turn_start"]):
        return "unknown"
    return {"open": "yes", "close": "pair", None: "no"}[([None, *think_kinds(tail, profile)])[-1]]


def turn_starts(prompt, profile):
    """Where turns start, the open one at the end included."""
    return [start for start, _ in matches(prompt, profile["turn_start"])]


def assistant_turns(prompt, profile):
    """[start, end] of what each closed assistant turn holds: behind the header, up to a turn end or turn start.

    The next header is looked for from there on.
    """
    turns, at = [], 0
    while headers := matches(prompt[at:], profile["assistant_start"]):
        start = at + headers[0][1]
        rest = prompt[start:]
        ends = matches(rest, profile["turn_end"]) + matches(rest, profile["turn_start"])
        if not ends:
            break
        at = start + min(ends)[0]
        turns.append([start, at])
    return turns


def history_opened(profile):
    """Where the no-thinking tail is a lone closer, the template writes one into earlier answers too."""
    return "pair" if think_kinds(profile["tail_no_think"] or [], profile)[:1] == ["close"] else "no"


def strip_all(prompt, profile):
    """(the prompt with every closed assistant turn stripped, counts of turns)."""
    findings, positions = [], set()
    for start, end in assistant_turns(prompt, profile):
        found = find_think(prompt[start:end], history_opened(profile), profile)
        findings.append(found)
        positions.update(start + at for first, last in found["spans"] for at in range(first, last))
    return cut(prompt, runs(positions)), count_think(findings)


def tail_of(prompt, profile):
    """One of "think", "no_think", "other". The longer tail is meant where both fit, no_think where they are equal."""
    tails = [("no_think", profile["tail_no_think"]), ("think", profile["tail_think"])]
    fitting = [(name, len(tail)) for name, tail in tails if tail and prompt[-len(tail) :] == tail]
    return max(fitting, key=lambda pair: pair[1])[0] if fitting else "other"


def no_think_tail(prompt, profile):
    """The prompt with thinking off in its generation tail; None if it ends in no known tail, or it cannot be off."""
    tail = tail_of(prompt, profile)
    if profile["tail_no_think"] is None or tail == "other":
        return None
    if tail == "no_think":
        return list(prompt)
    return prompt[: -len(profile["tail_think"])] + profile["tail_no_think"]


def trim_prompt(prompt, max_len, profile):
    """[start, end] of the whole turns to drop so that at most `max_len` ids stay; None if that cannot be.

    What comes before the first turn stays; so does the last turn; so does the first one if it is a system turn, which
    is to say: if no later turn opens like it. The oldest go first, and no more than needed; what stays behind the gap
    does not begin with an answer.
    """
    if len(prompt) <= max_len:
        return [0, 0]
    starts = turn_starts(prompt, profile)
    # Where one marker opens the turns of all roles, the id behind it names the role.
    extra = 0 if len(profile["turn_start"]) > 1 else 1
    roles = [prompt[start : end + extra] for start, end in matches(prompt, profile["turn_start"])]
    droppable = starts if roles and roles[0] in roles[1:] else starts[1:]

    def answers(start):
        return any(prompt[start : start + len(header)] == header for header in profile["assistant_start"])

    # Behind a system turn stands a question, behind a question that stays an answer.
    asked = len(droppable) < len(starts) and answers(droppable[0]) if droppable else False
    for end in droppable[1:]:
        if answers(end) == asked and len(prompt) - (end - droppable[0]) <= max_len:
            return [droppable[0], end]
    return None
