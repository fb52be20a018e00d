"""Replies, and what later prompts tell of them.

A prompt is known by the hashes of its messages. A prompt that begins with an earlier one goes on from it; what stands
behind the earlier one says whether its reply was kept. Memory is bounded: of a rollout the last prompts are known, of a
session the last used rollouts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from tito._core import Request, request_mentions
from tito.capture.record.tags import Tags

__all__ = ["Index", "Mark", "Replied", "RolloutKey", "judge", "keep", "kept_text", "summed_up"]

RolloutKey: TypeAlias = tuple[str | None, str | None, int | None]
"""Agent, task and attempt."""

# Of a rollout, and of a session.
_PROMPTS = 64
_PROMPTS_OF_SESSION = 8192
# A reply shorter than this may stand in a later prompt by chance.
_SUMMARY_CHARACTERS = 40
_SUMMARY_KEPT = 20_000


@dataclass(slots=True, eq=False)
class Replied:
    """One reply, as far as later prompts tell of it."""

    call_id: str | None
    tags: Tags
    hashes: tuple[int, ...]
    """Of the message of each choice."""
    kind: str
    guessed: bool
    offered: bool
    """Tools were offered."""
    called: bool
    """A tool was called."""
    text: str
    left_out: bool = False
    kept: bool = False
    """A later prompt held it: what comes after may be cut, and tells no more of it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that a later prompt tells of a reply: `kept`, `parse_error`, `dropped`, or a `kind`."""

    reply: Replied
    mark: str
    kind: str | None = None
    was: str = "solver"
    """The kind before."""

    def withdraw(self) -> None:
        """Takes a mark back that could not be written, so that the next prompt which tells it is asked again."""
        reply = self.reply
        if self.mark == "kind":
            reply.kind = self.was
        elif self.mark == "kept":
            reply.left_out, reply.kept = True, False
        else:
            reply.left_out = False


@dataclass(slots=True, eq=False)
class Known:
    """What is known of one open rollout."""

    root: int | None
    """Hash of its first system message; None for one that begins without."""
    replies: OrderedDict[int, list[Replied]] = field(default_factory=OrderedDict)
    """By the prompts they answered."""
    last: Replied | None = None

    def before(self, request: Request) -> tuple[int, list[Replied]] | None:
        """The longest earlier prompt that this one goes on from: how many messages it had, and its replies."""
        chain = request.chain
        for length in range(len(chain) - 1, 0, -1):
            if replies := self.replies.get(chain[length - 1]):
                return length, replies
        return None

    def held(self, request: Request) -> Replied | None:
        """The reply that stands last in a prompt."""
        by_hash = {answer: reply for replies in self.replies.values() for reply in replies for answer in reply.hashes}
        said = zip(reversed(request.roles), reversed(request.messages), strict=True)
        return next((by_hash[message] for role, message in said if role == "a" and message in by_hash), None)


@dataclass(slots=True, eq=False)
class Index:
    """What is known of a session's open rollouts, each told from the others; every begin and end starts a new one, so
    that what comes behind the end of a rollout is told of nobody.
    """

    rollouts: OrderedDict[RolloutKey, Known] = field(default_factory=OrderedDict)
    size: int = 0
    """Rollouts and prompts."""

    def known(self, rollout: RolloutKey, request: Request) -> Known:
        """A rollout, which begins with this request if it is new."""
        known = self.rollouts.get(rollout)
        if known is None:
            known = self.rollouts[rollout] = Known(request.chain[0] if request.roles[:1] == "s" else None)
            self.size += 1
        self.rollouts.move_to_end(rollout)
        while self.size > _PROMPTS_OF_SESSION and len(self.rollouts) > 1:
            _, gone = self.rollouts.popitem(last=False)
            self.size -= 1 + len(gone.replies)
        return known

    def add(self, prompt: int, reply: Replied) -> None:
        """Takes note of a reply."""
        known = self.rollouts.get(reply.tags.rollout)
        if known is None:
            return
        if known.last is not None:
            # Only a last reply is looked for as a text.
            known.last.text = ""
        known.last = reply
        self.size -= len(known.replies)
        known.replies.setdefault(prompt, []).append(reply)
        known.replies.move_to_end(prompt)
        while len(known.replies) > _PROMPTS:
            known.replies.popitem(last=False)
        self.size += len(known.replies)


def keep(reply: Replied) -> Iterator[Mark]:
    """A later prompt holds a reply."""
    reply.kept = True
    if reply.left_out:
        reply.left_out = False
        yield Mark(reply, "kept")


def judge(request: Request, length: int, replies: list[Replied]) -> Iterator[Mark]:
    """What the message behind an earlier prompt says of that prompt's replies."""
    answer = request.messages[length] if request.roles[length] == "a" else None
    kept = [reply for reply in replies if answer in reply.hashes]
    if answer is not None and not kept:
        # The harness wrote the reply anew (cut it, say): which one of several cannot be told.
        kept = replies
    for reply in replies:
        if reply in kept:
            yield from keep(reply)
        elif not (reply.left_out or reply.kept):
            reply.left_out = True
            yield Mark(reply, "parse_error" if reply.offered and not reply.called else "dropped")


def summed_up(reply: Replied, body: bytes) -> bool:
    """Whether a request holds a reply as a text somewhere, as behind a compaction."""
    return len(reply.text) >= _SUMMARY_CHARACTERS and request_mentions(body, reply.text)


def kept_text(text: str) -> str:
    """As much of a reply as is kept to be found again.

    >>> kept_text("summary")
    'summary'
    """
    return text.strip()[:_SUMMARY_KEPT]
