"""What tool calls add to a conversation: what opens a call, a result, and what ends a turn that calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tito.profile.renders import (
    ARGUMENT,
    ASSISTANT,
    REASON,
    RESULT,
    TAG,
    USER,
    Ids,
    Region,
    Renderer,
    between,
    common_prefix,
    holds,
    message,
    reasoning,
    starts_with,
    tool_messages,
    unique,
)
from tito.profile.scaffold import Turns
from tito.profile.think import Think, spelled


@dataclass(frozen=True)
class Tools:
    """What tool calls add; empty where the template knows none."""

    open: tuple[Ids, ...]
    turn_start: tuple[Ids, ...]
    turn_end: tuple[Ids, ...]
    stop: Ids
    assistant_start: tuple[Ids, ...]


def find_tools(template: Renderer, turns: Turns, think: Think, starts: Sequence[Ids]) -> Tools:
    """Finds what a call and its result add, in the first form of a call that the template takes."""
    user = message("user", USER)
    for call, result in tool_messages({}):
        called = template.try_render([user, call])
        answered = template.try_render([user, call, result])
        prompt = template.try_render([user, call, result], generate=True)
        if called is None or (before := between(called, USER, ARGUMENT)) is None:
            continue
        opener = _tool_opener(template, turns, think, before)
        after = between(called, ARGUMENT, None)
        to_result = None if answered is None else between(answered, ARGUMENT, RESULT)
        behind = None if prompt is None else between(prompt, RESULT, None)
        if after is None or to_result is None or behind is None:
            return Tools(opener, (), (), (), ())
        start, end, stop = _tool_turn(template, turns, starts, after, to_result)
        again: Ids = ()
        if behind.find_last(think.header.strip().ids) < 0:
            # The answer goes on behind the result without a header of its own (DeepSeek V3, Gemma 4).
            again = template.last_added(behind)
        return Tools(opener, (start,), (end,), stop, (again,))
    return Tools((), (), (), (), ())


def _tool_turn(
    template: Renderer, turns: Turns, starts: Sequence[Ids], after: Region, to_result: Region
) -> tuple[Ids, Ids, Ids]:
    """What opens a tool's turn, and what ends a turn that calls one: a turn end, and the ids it stops with."""
    common = common_prefix([after.ids, to_result.ids])
    close, header = to_result.cut(0, common).strip(), to_result.cut(common).strip()
    opens = header.ids[:1] if header.ids[:1] and header.ids[0] in template.added else ()
    ends = {ids[-1] for ids in (turns.assistant_end.strip().ids, turns.final_end.strip().ids) if ids}
    if close.ids and close.ids[-1] in ends:
        return opens, (), ()
    if any(starts_with(header.ids, (known,)) for known in starts if known):
        last = close.ids[-1:] if close.ids and close.ids[-1] in template.added else ()
        if turns.assistant_end.ids:
            return (), last, last  # <|call|> of harmony
        return (), (), ()
    if opens:
        # <|observation|> of GLM: where nothing ends a turn, the model stops with the next one's start.
        return opens, (), () if turns.assistant_end.ids else opens
    if close.ids and close.ids[-1] in template.special:
        return close.ids[-1:], (), close.ids[-1:]  # <|tool_response> of Gemma 4: the template writes it for the model
    return (), (), ()


def _tool_opener(template: Renderer, turns: Turns, think: Think, before: Region) -> tuple[Ids, ...]:
    """What opens a tool call and no other answer: from its first added token on, else a tag of ordinary ids."""
    core = think.header.strip().ids
    body = before.cut(before.find_last(core) + len(core))
    for closer in think.close:
        if (at := body.find_last(closer)) >= 0:
            body = body.cut(at + len(closer))
    body = body.strip()
    first = next((n for n, i in enumerate(body.ids) if i in template.added), None)
    if first is None:
        tag = TAG.match(body.text)
        return unique(spelled(template, tag.group(), cut_left=False)) if tag else ()
    others = [r.ids for r in _other_answers(template)]
    end = first + 1
    while any(holds(ids, (body.ids[first:end],)) for ids in others):
        if end == len(body.ids):
            return ()
        end += 1
    if end > first + 1:
        # Not one added token: take the word to its end.
        while end < len(body.ids) and body.ids[end] not in template.added and not _spaced(body, end):
            end += 1
    return (body.ids[first:end],)


def _spaced(region: Region, n: int) -> bool:
    """Whether white space stands at the border before id `n`."""
    border = region.spans[n][0]
    return any(letter.isspace() for letter in region.text[border - 1 : border + 1])


def _other_answers(template: Renderer) -> Iterable[Region]:
    """Answers that call no tool, with and without reasoning."""
    user = message("user", USER)
    for more in ({}, reasoning(REASON)):
        render = template.try_render([user, message("assistant", ASSISTANT, **more)])
        if render is not None and (region := between(render, USER, None)) is not None:
            yield region
