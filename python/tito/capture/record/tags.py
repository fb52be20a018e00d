"""Whose call a request is: what its headers, its path and its key say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from tito.errors import UsageError

__all__ = ["Tags", "check_tags", "read_tags", "split_path"]

_PREFIX = re.compile(r"/s/([^/]+)(/.*)")
_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,256}")
_ATTEMPTS = 10**9
_KEY = "tito:"
# What `tito convert` knows: a call of another kind would never give a row.
_KINDS = ("solver", "summariser", "helper")


@dataclass(frozen=True, slots=True)
class Tags:
    """What is known of a call before its body is read. `kind` None is to be guessed."""

    session: str | None = None
    task: str | None = None
    pair: str | None = None
    agent: str | None = None
    attempt: int | None = None
    kind: str | None = None

    def over(self, other: Tags) -> Tags:
        """These tags, with those of `other` where nothing is said.

        >>> Tags(agent="a").over(Tags(agent="b", task="t")).task
        't'
        """
        return Tags(
            other.session if self.session is None else self.session,
            other.task if self.task is None else self.task,
            other.pair if self.pair is None else self.pair,
            other.agent if self.agent is None else self.agent,
            other.attempt if self.attempt is None else self.attempt,
            other.kind if self.kind is None else self.kind,
        )

    @property
    def rollout(self) -> tuple[str | None, str | None, int | None]:
        """What tells rollouts of one session apart, as `tito convert` does."""
        return self.agent, self.task, self.attempt

    def record(self) -> dict[str, str | int | None]:
        """The tags as records spell them."""
        return {
            "session_id": self.session,
            "task_id": self.task,
            "pair_id": self.pair,
            "agent": self.agent,
            "attempt": self.attempt,
        }


def split_path(path: str) -> tuple[str | None, str]:
    """The session of a path, and the path without it. The session may be percent-encoded.

    >>> split_path("/s/run%201/v1/chat/completions")
    ('run 1', '/v1/chat/completions')
    """
    if match := _PREFIX.fullmatch(path):
        return _decoded(unquote_to_bytes(match[1].encode("utf-8", "surrogateescape"))), match[2]
    return None, path


def check_tags(tags: Tags, prefix: str) -> Tags:
    """The tags of a begin, where each of them and the session in the path is one; `UsageError` otherwise."""
    _check("the session in the path", prefix)
    for name in ("task", "pair", "agent"):
        if (value := getattr(tags, name)) is not None:
            _check(f"begin: {name if name == 'agent' else f'{name}_id'}", value)
    if tags.attempt is not None and not 0 <= tags.attempt < _ATTEMPTS:
        raise UsageError(f"begin: attempt must be from 0 to {_ATTEMPTS - 1:,}")
    return tags


def read_tags(headers: Mapping[str, str], prefix: str | None, *, by_key: bool) -> tuple[Tags, str | None]:
    """Tags of a request, and the API key to send on when the client's own carries the session: `tito:SESSION`, or
    `tito:SESSION:KEY`. The header wins over the path, the path over the key. `UsageError` for a tag that cannot be one.
    """

    def text(name: str) -> str | None:
        value = headers.get(f"x-tito-{name}")
        return None if value is None else _check(f"x-tito-{name}", _sent(value))

    attempt = text("attempt")
    if attempt is not None and not re.fullmatch(r"\d{1,9}", attempt):
        raise UsageError(f"x-tito-attempt: {attempt!r} is no whole number")
    kind = text("kind")
    if kind is not None and kind not in _KINDS:
        raise UsageError(f"x-tito-kind: {kind!r} is none of {', '.join(_KINDS)}")
    key = headers.get("authorization", "").removeprefix("Bearer ").strip() or headers.get("x-api-key", "")
    from_key, real = None, None
    if key.startswith(_KEY):
        from_key, _, real = key.removeprefix(_KEY).partition(":")
        if from_key := _sent(from_key):
            _check("the session in the key", from_key)
    elif by_key and key:
        # A hash that nobody can turn back into the key.
        from_key = "key-" + hashlib.sha256(key.encode()).hexdigest()[:16]
    if prefix is not None:
        _check("the session in the path", prefix)
    tags = Tags(
        session=text("session") or prefix or from_key or None,
        task=text("task"),
        pair=text("pair"),
        agent=text("agent"),
        attempt=None if attempt is None else int(attempt),
        kind=kind,
    )
    return tags, real


def with_session(tags: Tags, session: str) -> Tags:
    """The tags, in a session."""
    return Tags(session, tags.task, tags.pair, tags.agent, tags.attempt, tags.kind)


def _check(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what}: 1 to 256 characters, none of them a control character")
    return name


def _sent(value: str) -> str:
    """A header's value as it was meant: the server reads UTF-8, and what is none stands as lone surrogates."""
    return value if value.isascii() else _decoded(value.encode("utf-8", "surrogateescape"))


def _decoded(name: bytes) -> str:
    """UTF-8, or what is none as Latin-1, so that two names stay two."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
