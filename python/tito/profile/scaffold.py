"""The scaffold of plain conversations: what opens and ends a user's and an assistant's turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tito.profile.renders import (
    ASSISTANT,
    OFF,
    ON,
    USER,
    USER_2,
    Ids,
    Region,
    Renderer,
    between,
    common_prefix,
    message,
)
from tito.profile.template import Message


@dataclass(frozen=True)
class Turns:
    """The scaffold of plain conversations."""

    user_end: Region
    header: Region
    """What opens an assistant turn in every render; think markers that every render has are still in it."""
    assistant_end: Region
    final_end: Region
    """What follows an answer that is the last message."""
    ends_alike: bool
    """Whether a final answer ends as one amid the conversation does (in harmony it does not)."""
    user_header: Region


def find_turns(template: Renderer) -> Turns:
    """Finds what surrounds the words of two who talk. `ProfileError` where the template does not show that."""
    user, answer, more = message("user", USER), message("assistant", ASSISTANT), message("user", USER_2)
    asked = _plain(template, [user])
    talk = _plain(template, [user, answer, more])
    prompt = _plain(template, [user], generate=True)
    ended = _plain(template, [user, answer])

    after_user, to_answer = between(asked, USER, None), between(talk, USER, ASSISTANT)
    generation, after_answer = between(prompt, USER, None), between(ended, ASSISTANT, None)
    to_user = between(talk, ASSISTANT, USER_2)
    if after_user is None or to_answer is None or to_user is None or generation is None or after_answer is None:
        raise template.refuse("the chat template does not show what user and assistant say")

    end = common_prefix([after_user.ids, to_answer.ids])
    if end < len(after_user.ids) and to_answer.text.startswith(after_user.text):
        raise template.refuse(f"one id covers the end of {after_user.text!r} and the start of the header behind it")
    if not to_answer.cut(end).text.strip():
        end = 0  # [INST] style: what closes the user's turn is all that opens the answer
    user_end = to_answer.cut(0, end)
    opened = to_answer.cut(end)
    found = (generation_tail(template, user_end.ids, opened, options) for options in ({}, ON, OFF))
    tails = [tail for tail in found if tail is not None]
    if generation.ids[:end] != user_end.ids or not tails:
        raise template.refuse(_no_header(generation.text, to_answer.text))
    header = opened.cut(0, common_prefix([opened.ids, *(tail.ids for tail in tails)]))
    if not header.text.strip():
        raise template.refuse(_no_header(generation.text, to_answer.text))

    common = common_prefix([after_answer.ids, to_user.ids])
    ends_alike = common > 0 or not after_answer.text.strip()
    if common == 0 and end and to_user.ids[:end] == user_end.ids:
        common = end
    return Turns(user_end, header, to_user.cut(0, common), after_answer, ends_alike, to_user.cut(common))


def _no_header(generation: str, history: str) -> str:
    return (
        f"no assistant header: the generation prompt has {generation!r} behind the user's text, "
        f"a conversation has {history!r} before the answer"
    )


def _plain(template: Renderer, messages: Sequence[Message], **options: Any) -> Region:
    """A render that every template must give; a template that wants content in parts is found here."""
    error: Exception | None = None
    for in_parts in (template.in_parts, True):
        template.in_parts = in_parts
        try:
            render = template.render(messages, **options)
        except Exception as e:  # whatever template code raises
            error = error or e
            continue
        if all(str(m["content"]) in render.text for m in messages):
            return render
    if error is not None:
        raise template.refuse(f"the chat template fails on a plain conversation: {error}")
    raise template.refuse("the chat template does not show what user and assistant say")


def generation_tail(
    template: Renderer, user_end: Ids, opened: Region, options: dict[str, bool], header: Ids | None = None
) -> Region | None:
    """A generation prompt from its assistant header on. Before the header is known: from where the history's begins.

    A template may write into the user's text when thinking is off (GLM: `/nothink`), so the header is searched.
    """
    render = template.try_render([message("user", USER)], generate=True, **options)
    region = None if render is None else between(render, USER, None)
    if region is None:
        return None
    if header is None:
        if region.ids[: len(user_end)] == user_end and region.ids[len(user_end) :][:1] == opened.ids[:1]:
            return region.cut(len(user_end))
        header = opened.ids[:1]
    at = region.find_last(header)
    return None if at < 0 else region.cut(at)
