"""Sessions: which rollout a call belongs to, and of what kind it is.

What is not said is guessed from the call's prompt, and marked as a guess. Memory is bounded: of all sessions the last
used are known.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from tito._core import Request
from tito.capture.record.errors import refused
from tito.capture.record.replies import Index, Mark, Replied, RolloutKey, judge, keep, summed_up
from tito.capture.record.tags import Tags, with_session

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

__all__ = ["Placed", "Rollout", "Session", "Sessions"]

_SESSIONS = 20_000
_PROMPTS_OF_ALL = 200_000
_PAST = 1000
# So many sessions, the last used ones, are asked whether a prompt holds their last reply.
_COMPACTED = 8


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a call belongs."""

    session: Session
    index: Index
    tags: Tags
    guessed_session: bool
    guessed_kind: bool
    marks: tuple[Mark, ...]
    prompt: int
    """Hash of the whole prompt."""


@dataclass(slots=True, eq=False)
class Rollout:
    """A rollout, as far as its begin and its end go."""

    tags: Tags
    calls: int = 0
    told: bool = False
    """Its begin stands in the log, or is on its way there."""


@dataclass(slots=True, eq=False)
class Session:
    """The calls that go by one name."""

    name: str
    defaults: Tags = Tags(attempt=1)  # noqa: RUF009 - frozen
    """What is so of a call that does not say otherwise. Attempts are counted from 1: whatever comes behind an end is of
    the next one, so that rollouts that follow each other are told apart."""
    highest: int = 0
    """The highest attempt that was used."""
    state: str = "implicit"
    """`implicit`, `begun` or `ended`."""
    rollouts: dict[RolloutKey, Rollout] = field(default_factory=dict)
    """Those that the next end is the end of."""
    ended: dict[RolloutKey, Rollout] = field(default_factory=dict)
    """Those that the last end was the end of."""
    told: tuple[dict[str, Any], asyncio.Future[str | None]] | None = None
    """What the last end told, and the writing of it, which gives what went wrong."""
    unanswered: tuple[Tags, Awaitable[None]] | None = None
    """What a begin told whose client went away before the answer, and the writing of it."""
    past: OrderedDict[RolloutKey, None] = field(default_factory=OrderedDict)
    """All that had a begin, a call or an end, as far back as is remembered."""
    before: Tags = Tags()  # noqa: RUF009
    """The defaults before the last begin or end."""
    index: Index = field(default_factory=Index)
    call_ids: set[str] | None = None
    """Of the replies since the last begin; None where there was none, for it may never end."""

    def last(self) -> Replied | None:
        """The last reply of the rollout that was used last."""
        for known in reversed(self.index.rollouts.values()):
            if known.last is not None:
                return known.last
        return None

    def use(self, rollout: RolloutKey) -> None:
        """Takes note of a rollout."""
        _remember(self.past, rollout, None, _PAST)
        self.highest = max(self.highest, rollout[2] or 0)

    def close_to(self, tags: Tags) -> RolloutKey | None:
        """A rollout that was used and might be the one of these tags: what is not said may be anything."""

        def same(used: RolloutKey) -> bool:
            return used[2] == tags.attempt and all(
                None in pair or pair[0] == pair[1] for pair in zip(used[:2], tags.rollout[:2], strict=True)
            )

        return next((used for used in self.past if same(used)), None)

    def withdraw(self) -> None:
        """Takes a begin back that could not be written."""
        if self.state != "begun":
            return
        self.state, self.unanswered = "implicit", None
        rollout = self.defaults.rollout
        if (begun := self.rollouts.get(rollout)) and not begun.calls:
            del self.rollouts[rollout], self.past[rollout]
            self.defaults = self.before
            self.highest = max((attempt or 0 for *_, attempt in self.past), default=0)

    def reopen(self, lost: Iterable[RolloutKey]) -> None:
        """Takes an end back that could not be written, for the rollouts of which it could not."""
        self.defaults = self.before
        for rollout in lost:
            ended = self.ended.pop(rollout)
            again = self.rollouts.setdefault(rollout, Rollout(ended.tags))
            again.calls, again.told = again.calls + ended.calls, again.told or ended.told
        self.told = None


class Sessions:
    """All sessions of a recorder."""

    def __init__(self, on_rollout: Callable[[Rollout], None]) -> None:
        self._all: OrderedDict[str, Session] = OrderedDict()
        # By a prompt, and by a prompt and its answer; the last one of each counts.
        self._by_prompt: OrderedDict[int, str] = OrderedDict()
        self._by_answer: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._run = secrets.token_hex(3)
        self._made = 0
        self._prompts = 0
        self._on_rollout = on_rollout

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, name: str, defaults: Tags) -> Session:
        """Opens a session, with the next attempt where none is named. `CallError` for a session that is open, unless
        this is its begin told again by a client that missed the answer, and for an attempt that was used.
        """
        session = self._named(name)
        if session.state == "begun" and session.unanswered is not None and session.unanswered[0] == defaults:
            return session
        if session.state == "begun":
            raise refused(f"session {name!r} has begun already: end it first", 409)
        if defaults.attempt is None:
            defaults = replace(defaults, attempt=session.highest + 1)
        elif (used := session.close_to(defaults)) is not None:
            what = "has calls" if used in session.rollouts else "has ended"
            said = f"attempt {defaults.attempt} of session {name!r} {what} already: name another attempt, or none"
            raise refused(said, 409)
        session.before = session.defaults
        session.state, session.defaults = "begun", with_session(defaults, name)
        session.rollouts = {session.defaults.rollout: Rollout(session.defaults, told=True)}
        session.use(session.defaults.rollout)
        session.ended, session.told, session.unanswered, session.call_ids = {}, None, None, set()
        self._start_anew(session)
        return session

    def end(self, name: str) -> Session:
        """Closes a session; one that was never opened is closed all the same.

        What ends are the rollouts that had a begin or a call since the last end. Where there are none, more is told of
        those that ended last.
        """
        session = self._named(name)
        if session.rollouts or not session.ended:
            rollout = session.defaults.rollout
            ended = session.rollouts or {rollout: Rollout(with_session(session.defaults, name))}
            session.ended, session.told, session.rollouts = ended, None, {}
            if session.state != "begun":
                session.call_ids = None
            for rollout in ended:
                session.use(rollout)
            session.before = session.defaults
            session.defaults = replace(session.defaults, attempt=session.highest + 1)
        session.state, session.unanswered = "ended", None
        self._start_anew(session)
        return session

    def place(self, tags: Tags, request: Request, body: bytes) -> Placed:
        """Says where a call belongs. `body` is the request's text."""
        guessed = tags.session is None
        session = self._named(tags.session) if tags.session is not None else self._find(request, body)
        tags = with_session(tags.over(session.defaults), session.name)
        marks: list[Mark] = []
        kind = "solver"
        index, size = session.index, session.index.size
        known = index.known(tags.rollout, request)
        self._grown(index.size - size)
        root, last, found = known.root, known.last, known.before(request)
        answered = found is not None and request.roles[found[0]] == "a"
        if last is not None and not answered and summed_up(last, body):
            # A summary that stands in what the model is told: the rollout goes on behind a compaction.
            if last.guessed and last.kind != "summariser":
                marks.append(Mark(last, "kind", "summariser", was=last.kind))
                last.kind = "summariser"
        elif found is not None:
            marks += judge(request, *found)
            kind = found[1][-1].kind
        elif root is not None and request.chain and request.chain[0] != root:
            # Another system prompt, or none. Without one, another first message may well be the solver's. A prompt that
            # holds a reply goes on from it all the same: system prompts may tell the time.
            kind = "helper"
            if (reply := known.held(request)) is not None:
                kind = reply.kind
                marks += keep(reply)
        guessed_kind = tags.kind is None
        if guessed_kind:
            tags = tags.over(Tags(kind=kind))
        session.unanswered = None
        self._enter(session, tags)
        prompt = request.chain[-1] if request.chain else 0
        return Placed(session, index, tags, guessed, guessed_kind, tuple(marks), prompt)

    def replied(self, placed: Placed, reply: Replied) -> None:
        """Takes note of a reply, so that later prompts find it."""
        session, index = placed.session, placed.index
        if index is session.index and session is self._all.get(session.name):
            size = index.size
            index.add(placed.prompt, reply)
            self._grown(index.size - size)
            if reply.call_id is not None and session.state == "begun" and session.call_ids is not None:
                session.call_ids.add(reply.call_id)
        if placed.guessed_session:
            name = session.name
            _remember(self._by_prompt, placed.prompt, name, _PROMPTS_OF_ALL)
            for answer in reply.hashes:
                _remember(self._by_answer, (placed.prompt, answer), name, _PROMPTS_OF_ALL)

    def _enter(self, session: Session, tags: Tags) -> None:
        rollout = session.rollouts.get(tags.rollout)
        if rollout is None:
            rollout = session.rollouts[tags.rollout] = Rollout(tags)
            session.use(tags.rollout)
        if session.state == "begun" and not rollout.told:
            rollout.told = True
            self._on_rollout(rollout)
        rollout.calls += 1

    def _start_anew(self, session: Session) -> None:
        self._prompts -= session.index.size
        session.index = Index()

    def _named(self, name: str) -> Session:
        session = self._all.get(name)
        if session is None:
            while len(self._all) >= _SESSIONS:
                self._forget()
            session = self._all[name] = Session(name)
        self._all.move_to_end(name)
        return session

    def _forget(self) -> None:
        """Forgets the session that was used the longest ago; one that is open stays unless all are."""
        name = next((name for name, session in self._all.items() if session.state != "begun"), next(iter(self._all)))
        self._prompts -= self._all.pop(name).index.size

    def _grown(self, prompts: int) -> None:
        """Counts prompts. Where there are too many a tenth goes, of the sessions that were used the longest ago."""
        self._prompts += prompts
        if self._prompts > _PROMPTS_OF_ALL:
            for session in self._all.values():
                if self._prompts <= _PROMPTS_OF_ALL * 0.9:
                    break
                self._start_anew(session)

    def _find(self, request: Request, body: bytes) -> Session:
        """The session whose prompts this one goes on from; a new one where none does."""
        chain, roles = request.chain, request.roles
        for length in range(len(chain) - 1, 0, -1):
            prompt = chain[length - 1]
            name = self._by_answer.get((prompt, request.messages[length])) if roles[length] == "a" else None
            name = name or self._by_prompt.get(prompt)
            if name is not None and name in self._all:
                return self._named(name)
        # The same prompt again: in the middle of a rollout a retry, at its start another rollout of the same task.
        again = self._by_prompt.get(chain[-1]) if "a" in roles else None
        if again is not None and again in self._all:
            return self._named(again)
        # After a compaction the prompt holds the summary, which is the last reply of its session.
        for name in islice(reversed(self._all), _COMPACTED):
            if (last := self._all[name].last()) is not None and summed_up(last, body):
                return self._named(name)
        self._made += 1
        return self._named(f"auto-{self._run}-{self._made}")


def _remember(index: OrderedDict[_Key, _Value], key: _Key, value: _Value, limit: int) -> None:
    index[key] = value
    index.move_to_end(key)
    while len(index) > limit:
        index.popitem(last=False)
