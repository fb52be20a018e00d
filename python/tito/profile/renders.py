"""Small conversations made of words that no template holds, rendered and tokenised.

A marker is what stands between two such words, or what two renders have in common. Cuts fall between ids, never inside
one: an id that covers both scaffold and content (`" Answer"`) belongs to the content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tito.profile.errors import ProfileError
from tito.profile.source import Source
from tito.profile.template import ChatTemplate, Message

Ids = tuple[int, ...]

USER, USER_2, ASSISTANT, SYSTEM = "Quokka", "Walrus", "Ibex", "Ferret"
REASON, TOOL, ARGUMENT, RESULT = "Narwhal", "zebrafy", "Okapi", "Lemur"

# The switches that templates have for thinking; a template ignores what it does not know.
ON, OFF = {"enable_thinking": True, "thinking": True}, {"enable_thinking": False, "thinking": False}

TAG = re.compile(r"(<[^<>\s]+>|\[[A-Z_/]+\])")
_HINT = "write the profile by hand (start from a built-in one) or give the template the model was served with"


@dataclass(frozen=True)
class Region:
    """A stretch of a render: some of its ids, and the text that they cover."""

    text: str
    ids: Ids
    spans: tuple[tuple[int, int], ...]
    """Where each id's text lies in `text`, half-open."""

    def cut(self, start: int, end: int | None = None) -> Region:
        """The ids from number `start` up to `end`, with the text from the first one's start to the last one's end."""
        ids, spans = self.ids[start:end], self.spans[start:end]
        if not ids:
            return Region("", (), ())
        low, high = spans[0][0], spans[-1][1]
        return Region(self.text[low:high], ids, tuple((a - low, b - low) for a, b in spans))

    def within(self, low: int, high: int) -> Region:
        """The ids that lie wholly in the text's `[low, high)`."""
        inside = [n for n, (a, b) in enumerate(self.spans) if a >= low and b <= high]
        return self.cut(inside[0], inside[-1] + 1) if inside else self.cut(0, 0)

    def strip(self) -> Region:
        """Without the ids at either end whose text is only white space."""
        solid = [n for n, (a, b) in enumerate(self.spans) if self.text[a:b].strip()]
        return self.cut(solid[0], solid[-1] + 1) if solid else self.cut(0, 0)

    def find_last(self, ids: Ids) -> int:
        """Where `ids` begin in these ids, for the last time; -1 when they do not."""
        return max((n for n in range(len(self.ids) - len(ids) + 1) if self.ids[n : n + len(ids)] == ids), default=-1)


class Renderer:
    """A template and tokenizer that render and tokenise probes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.template = ChatTemplate(source.chat_template, source.special)
        added = source.tokenizer.get_added_tokens_decoder()
        self.added = frozenset(added)
        self.special = frozenset(i for i, token in added.items() if token.special)
        self.in_parts = False

    def refuse(self, what: str) -> ProfileError:
        return ProfileError(f"{self.source.name}: {what}", _HINT)

    def render(self, messages: Sequence[Message], **options: Any) -> Region:
        if self.in_parts:
            messages = [
                {**m, "content": [{"type": "text", "text": m["content"]}]} if isinstance(m["content"], str) else m
                for m in messages
            ]
        return self.encode(self.template.render(messages, **options))

    def try_render(self, messages: Sequence[Message], **options: Any) -> Region | None:
        """A render, or None when the template does not know such conversations."""
        try:
            return self.render(messages, **options)
        except Exception:  # whatever template code raises
            return None

    def encode(self, text: str) -> Region:
        encoding = self.source.tokenizer.encode(text, add_special_tokens=False)
        return Region(text, tuple(encoding.ids), tuple(encoding.offsets))

    def stray_think(self, known: set[int]) -> Ids:
        """Added tokens called something with "think" that are in no marker: Instruct models carry them unused."""
        added = self.source.tokenizer.get_added_tokens_decoder()
        return tuple(sorted(i for i, t in added.items() if "think" in t.content.lower() and i not in known))

    def last_added(self, region: Region) -> Ids:
        """The last added token of a region, as a sequence of one or none."""
        return tuple(i for i in region.ids if i in self.added)[-1:]


def message(role: str, content: str | None, **more: object) -> dict[str, object]:
    """A message of a probe."""
    return {"role": role, "content": content, **more}


def reasoning(text: str) -> dict[str, object]:
    """Reasoning under each name that templates read it from."""
    return {"reasoning_content": text, "reasoning": text, "thinking": text}


def tool_messages(more: dict[str, object]) -> Iterable[tuple[Message, Message]]:
    """A tool call and its result, in the forms that templates want: arguments as object or text, content or none."""
    result = message("tool", RESULT, tool_call_id="abcdef123", name=TOOL)
    for arguments in ({"path": ARGUMENT}, f'{{"path": "{ARGUMENT}"}}'):
        for content in ("", None):
            call = {"id": "abcdef123", "type": "function", "function": {"name": TOOL, "arguments": arguments}}
            yield message("assistant", content, tool_calls=[call], **more), result


def between(render: Region, left: str | None, right: str | None) -> Region | None:
    """What stands between two words (None: the text's end); None where they are not there in this order."""
    low, high = 0, len(render.text)
    if left is not None:
        if (at := render.text.rfind(left)) < 0:
            return None
        low = at + len(left)
    if right is not None and (high := render.text.find(right, low)) < 0:
        return None
    return render.within(low, high)


def common_prefix(sequences: Iterable[Ids]) -> int:
    """Length of the longest common prefix."""
    length = 0
    for column in zip(*sequences, strict=False):
        if any(i != column[0] for i in column):
            break
        length += 1
    return length


def unique(sequences: Iterable[Ids]) -> tuple[Ids, ...]:
    """Each sequence once, empty ones left out, the longest first, else in the order found."""
    return tuple(sorted(dict.fromkeys(s for s in sequences if s), key=len, reverse=True))


def starts_with(ids: Ids, marker: tuple[Ids, ...]) -> bool:
    """Whether ids begin with one of a marker's spellings."""
    return any(ids[: len(alternative)] == alternative for alternative in marker)


def holds(ids: Ids, marker: tuple[Ids, ...]) -> bool:
    """Whether one of a marker's spellings stands anywhere in ids."""
    return any(starts_with(ids[n:], marker) for n in range(len(ids)))
