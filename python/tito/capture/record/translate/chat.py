"""What both translations share: the request's door, and a chat reply taken apart, whole or in deltas."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from typing import Any

from tito.capture.record.errors import CallError, said
from tito.errors import UsageError

__all__ = ["Translated", "answer_parts", "event", "objects", "only", "refuse", "text_of", "texts"]

# Of a part of text: what a reply told of it, what caches are told, and what clients made of it.
_TEXT = frozenset(
    {"type", "text", "annotations", "logprobs", "citations", "parsed", "parsed_output"}
    | {"cache_control", "prompt_cache_breakpoint"}
)

# What comes of a value of another type than was thought.
_ODD = (AttributeError, LookupError, TypeError, ValueError)


def refuse(what: str) -> UsageError:
    """The error for what chat cannot say."""
    return UsageError(f"{what} cannot be translated to chat completions, the only route on which engines return ids")


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects, or nothing; `UsageError` for anything else.

    >>> objects(None, "tools")
    []
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UsageError(f"{where}: a list of objects")
    return value


def only(value: dict[str, Any], names: Container[str], where: str, **harmless: tuple[Any, ...]) -> None:
    """`UsageError` for a member that is not in `names`: it would be left out. Null says nothing, nor does a value that
    `harmless` gives for its name: what holds where the member is missing.

    >>> only({"effort": "low", "mode": "standard", "context": None}, ("effort",), "reasoning", mode=("standard",))
    """
    for name, given in value.items():
        if name not in names and given is not None and given not in harmless.get(name, ()):
            raise refuse(repr(f"{where}.{name}" if where else name))


def text_of(part: dict[str, Any], where: str) -> str:
    """The text of a part of text."""
    only(part, _TEXT, where)
    return str(part.get("text", ""))


def texts(content: Any, kinds: tuple[str, ...], where: str) -> str | None:
    """The text of a content that must hold nothing else; None where it holds something else.

    >>> texts([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], ("text",), "system")
    'ab'
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UsageError(f"{where}: a text or a list of parts")
    parts = [part for part in content if isinstance(part, dict) and part.get("type") in kinds]
    return "".join(text_of(part, where) for part in parts) if len(parts) == len(content) else None


def answer_parts(message: dict[str, Any]) -> tuple[str, str, list[dict[str, Any]]]:
    """Thinking, text and tool calls of a chat message."""
    thinking = message.get("reasoning") or message.get("reasoning_content") or ""
    return thinking, message.get("content") or "", message.get("tool_calls") or []


class Translated(ABC):
    """A dialect that is translated; one object serves one call."""

    route: str

    def __init__(self) -> None:
        self.started = False
        self.finish: str | None = None
        self.usage: dict[str, Any] = {}
        self.id = ""
        self.model = ""

    def request(self, body: bytes) -> bytes:
        """The request as chat. `UsageError` for one that chat cannot say."""
        try:
            asked = json.loads(body)
        except ValueError as error:
            raise UsageError(f"the request is not JSON: {error}") from None
        if not isinstance(asked, dict):
            raise UsageError("a request is a JSON object")
        try:
            chat = self.to_chat(asked)
        except UsageError:
            raise
        except _ODD as error:
            raise UsageError(f"the request is not of the shape of this route: {said(error)}") from None
        if asked.get("stream"):
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps({key: value for key, value in chat.items() if value is not None}).encode()

    def reply(self, body: bytes) -> bytes:
        """A whole chat reply, translated. `CallError` for one that this route cannot say."""
        try:
            reply = json.loads(body)
            self._take(reply)
            choice = reply["choices"][0]
            self.finish = choice.get("finish_reason")
            return json.dumps(self.from_chat(choice["message"])).encode()
        except _ODD as error:
            raise self._odd(error) from None

    def events(self, text: bytes) -> bytes:
        """Whole events of a chat stream, translated. `CallError` for what this route cannot say."""
        try:
            return self._events(text)
        except _ODD as error:
            raise self._odd(error) from None

    def _odd(self, error: Exception) -> CallError:
        return CallError("broken_stream", f"the reply cannot be told in the words of {self.route}: {said(error)}")

    def _events(self, text: bytes) -> bytes:
        out: list[bytes] = []
        for line in text.split(b"\n"):
            if not line.startswith(b"data:"):
                if line.startswith(b":"):
                    out.append(line + b"\n\n")
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                out.extend(self.stop())
                continue
            chunk = json.loads(data)
            self._take(chunk)
            if not self.started:
                self.started = True
                out.extend(self.start())
            for choice in chunk.get("choices") or ():
                thinking, words, calls = answer_parts(choice.get("delta") or {})
                if thinking:
                    out.extend(self.think(thinking))
                if words:
                    out.extend(self.say(words))
                for call in calls:
                    out.extend(self.call(call))
                self.finish = choice.get("finish_reason") or self.finish
        return b"".join(out)

    def _take(self, chat: dict[str, Any]) -> None:
        self.id = chat.get("id") or self.id
        self.model = chat.get("model") or self.model
        self.usage = chat.get("usage") or self.usage

    @abstractmethod
    def to_chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The request as chat; members that are None are left out."""

    @abstractmethod
    def from_chat(self, message: dict[str, Any]) -> dict[str, Any]:
        """The reply, of a chat message."""

    @abstractmethod
    def start(self) -> Iterator[bytes]:
        """Events that open a stream."""

    @abstractmethod
    def think(self, words: str) -> Iterator[bytes]:
        """Events of a delta of thinking."""

    @abstractmethod
    def say(self, words: str) -> Iterator[bytes]:
        """Events of a delta of text."""

    @abstractmethod
    def call(self, delta: dict[str, Any]) -> Iterator[bytes]:
        """Events of a delta of a tool call."""

    @abstractmethod
    def stop(self) -> Iterator[bytes]:
        """Events that close a stream."""
