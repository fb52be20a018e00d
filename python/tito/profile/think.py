"""How a template marks thinking: what opens and closes it, and how a tokenizer spells that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tito.profile.renders import (
    ASSISTANT,
    ON,
    REASON,
    TAG,
    TOOL,
    USER,
    USER_2,
    Ids,
    Region,
    Renderer,
    between,
    message,
    reasoning,
    tool_messages,
    unique,
)
from tito.profile.scaffold import Turns, generation_tail
from tito.profile.template import Message

# Spellings to try where a template shows no reasoning of its own: does it treat text between them as thinking?
_SPELLINGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)

# What may stand around a marker that the tokenizer writes as ordinary ids, and grow together with it.
_BEFORE = ("", "\n", "word", "word.", "word\n", "word.\n", "word ", "word)", 'word"', "word`")
_BEHIND = ("", "\n", "\n\n", "Word", " word", "<", "{")


@dataclass(frozen=True)
class Think:
    """How thinking is marked; all empty where the template shows none."""

    open: tuple[Ids, ...]
    close: tuple[Ids, ...]
    texts: tuple[list[str], list[str]]
    """What openers and closers look like."""
    lone_close: bool
    header: Region
    """The assistant header without think markers."""


def find_think(template: Renderer, turns: Turns) -> Think:
    """Finds the markers around an answer's reasoning. `ProfileError` where reasoning is shown without any."""
    openers: list[str] = []
    closers: list[str] = []
    header, lone_close = turns.header, True
    for shown, behind in _reasoning_renders(template):
        before = between(shown, USER, REASON)
        after = between(shown, REASON, behind)
        if before is None or after is None:
            continue
        at = before.find_last(header.strip().ids)
        if at < 0:
            continue
        opener = before.cut(at + len(header.strip().ids)).strip()
        cut = _swallowed(header, before.cut(at), turns.user_header)
        if cut is not None:
            opener_text, header = cut
        else:
            opener_text = opener.text
        closer = after.strip()
        core = header.strip().ids
        again = next((n for n in range(len(closer.ids)) if closer.ids[n : n + len(core)] == core), -1)
        if again >= 0:
            closer_text, lone_close = closer.cut(0, again + len(core)).text, False
        elif closer.ids[:1] and closer.ids[0] in template.added:
            closer_text = closer.cut(0, 1).text
        else:
            tag = TAG.match(closer.text)
            closer_text = tag.group() if tag else closer.text
        opener_text, closer_text = (text.rstrip().lstrip("\n") for text in (opener_text, closer_text))
        if not opener_text or not closer_text:
            seen = shown.text[shown.text.rfind(USER) :]
            raise template.refuse(f"reasoning is rendered without markers around it: {seen!r}")
        openers.append(opener_text)
        closers.append(closer_text)
    if not openers:
        for opener_text, closer_text in _SPELLINGS:
            if _knows(template, turns, opener_text, closer_text):
                openers.append(opener_text)
                closers.append(closer_text)
                if (at := header.text.find(opener_text)) >= 0:
                    header = header.within(0, at)
    return Think(
        unique(s for text in dict.fromkeys(openers) for s in spelled(template, text, cut_left=False)),
        unique(s for text in dict.fromkeys(closers) for s in spelled(template, text, cut_left=True)),
        (openers, closers),
        lone_close,
        header,
    )


def _reasoning_renders(template: Renderer) -> Iterable[tuple[Region, str]]:
    """Renders in which an answer has reasoning, each with the word that follows it."""
    user, more = message("user", USER), message("user", USER_2)
    answer = message("assistant", ASSISTANT, **reasoning(REASON))
    talks: tuple[list[Message], ...] = ([user, answer], [user, answer, more])
    for messages in talks:
        if (render := template.try_render(messages)) is not None:
            yield render, ASSISTANT
    for call, result in tool_messages(reasoning(REASON)):
        talks = ([user, call], [user, call, result])
        for messages in talks:
            if (render := template.try_render(messages)) is not None:
                yield render, TOOL


def _swallowed(header: Region, shown: Region, user_header: Region) -> tuple[str, Region] | None:
    """An opener that stands in the header, whole or in part, because all renders have it; None where that is not so.

    `shown` runs from the header to the reasoning. What a user's header has too is no opener.
    """
    tag = max(TAG.finditer(shown.text), key=lambda found: found.start(), default=None)
    if tag is None or shown.text[tag.end() :].strip() or not 0 < tag.start() < len(header.text):
        return None
    return None if tag.group() in user_header.text else (tag.group(), header.within(0, tag.start()))


def _knows(template: Renderer, turns: Turns, opener: str, closer: str) -> bool:
    """Whether a template treats text between these as thinking: it takes it out, or opens it for the model."""
    tail = generation_tail(template, turns.user_end.ids, turns.header, ON)
    if tail is not None and opener in tail.text:
        return True
    talk = [message("user", USER), message("assistant", ASSISTANT), message("user", USER_2)]
    plain = template.try_render(talk)
    talk[1] = message("assistant", f"{opener}\n{REASON}\n{closer}\n\n{ASSISTANT}")
    shown = template.try_render(talk)
    return plain is not None and shown is not None and REASON not in shown.text and ASSISTANT in shown.text


def spelled(template: Renderer, marker: str, *, cut_left: bool) -> list[Ids]:
    """The id sequences of a marker: one where the tokenizer bounds it by added tokens, else each that contexts give.

    An id that covers the marker's end and more is taken when that is white space: cutting it loses no text. At the
    marker's start a closer may share its first id with the thinking, which goes with it (`cut_left`).
    """
    alone = template.encode(marker)
    if alone.ids and alone.ids[0] in template.added and alone.ids[-1] in template.added:
        return [alone.ids]
    found = []
    for before in _BEFORE:
        for behind in _BEHIND:
            text = before + marker + behind
            low, high = len(before), len(before) + len(marker)
            whole = template.encode(text)
            held = [n for n, (a, b) in enumerate(whole.spans) if a < high and b > low]
            first, last = whole.spans[held[0]][0], whole.spans[held[-1]][1]
            if text[high:last].strip() or (text[first:low].strip() and not cut_left):
                continue
            found.append(whole.ids[held[0] : held[-1] + 1])
    return found
