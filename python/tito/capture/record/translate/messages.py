"""Anthropic's Messages route, spoken as chat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tito.capture.record.errors import CallError
from tito.capture.record.translate.chat import Translated, answer_parts, event, objects, only, refuse, text_of, texts
from tito.errors import UsageError

__all__ = ["Messages"]

_SAME = ("model", "max_tokens", "temperature", "top_p", "top_k", "chat_template_kwargs")
_READ = frozenset({*_SAME, "messages", "system", "tools", "tool_choice", "stop_sequences", "stream", "thinking"})
# What says nothing of the sample.
_SILENT = frozenset({"metadata", "service_tier", "betas", "inference_geo", "cache_control"})
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
# Clients must name a budget with `enabled`, and it is a target: engines think as long as they think. What is displayed
# is shown in any case.
_THINKING = frozenset({"type", "budget_tokens", "display"})
_STOP = {"length": "max_tokens", "tool_calls": "tool_use"}


class Messages(Translated):
    """See the module."""

    route = "messages"

    def __init__(self) -> None:
        super().__init__()
        self.block: str | None = None
        self.index = -1
        self.called = False

    def error(self, error: CallError) -> bytes:
        """A failure in Anthropic's shape."""
        kind = "invalid_request_error" if error.status in (400, 413) else "api_error"
        told = {"type": kind, "message": f"tito record: {error}", "code": error.outcome}
        return json.dumps({"type": "error", "error": told}).encode()

    def error_event(self, error: CallError) -> bytes:
        """A failure in a stream."""
        return b"event: error\ndata: " + self.error(error) + b"\n\n"

    def to_chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        """See `Translated`."""
        only(asked, _READ | _SILENT, "")
        chat: dict[str, Any] = {name: asked.get(name) for name in _SAME}
        messages: list[dict[str, Any]] = []
        if (system := asked.get("system")) is not None:
            if (text := texts(system, ("text",), "system")) is None:
                raise refuse("a system prompt with something other than text")
            messages.append({"role": "system", "content": text})
        for message in objects(asked.get("messages"), "messages"):
            messages += _message(message)
        chat |= {"messages": messages, "stop": asked.get("stop_sequences")}
        if asked.get("tools"):
            chat["tools"] = [_tool(tool) for tool in objects(asked["tools"], "tools")]
        if choice := asked.get("tool_choice"):
            chat["tool_choice"] = _choice(choice)
            if choice.get("disable_parallel_tool_use"):
                chat["parallel_tool_calls"] = False
        if thinking := asked.get("thinking"):
            only(thinking, _THINKING, "thinking")
            if (kind := thinking.get("type")) not in ("enabled", "adaptive", "disabled"):
                raise refuse(f"thinking of type {kind!r}")
            switch = {"enable_thinking": kind != "disabled"}
            chat["chat_template_kwargs"] = switch | (asked.get("chat_template_kwargs") or {})
        return chat

    def from_chat(self, message: dict[str, Any]) -> dict[str, Any]:
        """See `Translated`."""
        thinking, text, calls = answer_parts(message)
        content: list[dict[str, Any]] = []
        if thinking:
            content.append({"type": "thinking", "thinking": thinking, "signature": ""})
        if text or not calls:
            content.append({"type": "text", "text": text})
        self.called = bool(calls)
        for call in calls:
            function = call["function"]
            content.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": _input(function)})
        return self._message(content) | {"stop_reason": self._stop_reason(), "usage": self._usage()}

    def start(self) -> Iterator[bytes]:
        """See `Translated`."""
        yield event("message_start", {"type": "message_start", "message": self._message([])})

    def think(self, words: str) -> Iterator[bytes]:
        """See `Translated`."""
        yield from self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        yield self._delta({"type": "thinking_delta", "thinking": words})

    def say(self, words: str) -> Iterator[bytes]:
        """See `Translated`."""
        yield from self._open("text", {"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": words})

    def call(self, delta: dict[str, Any]) -> Iterator[bytes]:
        """See `Translated`."""
        self.called = True
        function = delta.get("function") or {}
        block: dict[str, Any] = {
            "type": "tool_use",
            "id": delta.get("id") or "",
            "name": function.get("name") or "",
            "input": {},
        }
        yield from self._open(f"tool {delta.get('index', 0)}", block)
        if arguments := function.get("arguments"):
            yield self._delta({"type": "input_json_delta", "partial_json": arguments})

    def stop(self) -> Iterator[bytes]:
        """See `Translated`."""
        yield from self._close()
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        yield event("message_delta", {"type": "message_delta", "delta": delta, "usage": self._usage()})
        yield event("message_stop", {"type": "message_stop"})

    def _open(self, name: str, block: dict[str, Any]) -> Iterator[bytes]:
        if self.block != name:
            yield from self._close()
            self.block, self.index = name, self.index + 1
            start = {"type": "content_block_start", "index": self.index, "content_block": block}
            yield event("content_block_start", start)

    def _close(self) -> Iterator[bytes]:
        if self.block is not None:
            self.block = None
            yield event("content_block_stop", {"type": "content_block_stop", "index": self.index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", {"type": "content_block_delta", "index": self.index, "delta": delta})

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content}
        return {**head, "stop_reason": None, "stop_sequence": None, "usage": self._usage()}

    def _stop_reason(self) -> str:
        # Engines say `stop` behind a call that was forced. What a client has to do is told by the blocks it got.
        finish = "tool_calls" if self.called and self.finish != "length" else self.finish
        return _STOP.get(finish or "", "end_turn")

    def _usage(self) -> dict[str, Any]:
        usage = self.usage
        return {"input_tokens": usage.get("prompt_tokens", 0), "output_tokens": usage.get("completion_tokens", 0)}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if (tool.get("type") or "custom") != "custom":
        raise refuse(f"the tool {tool.get('type')!r}")
    names = {"name": "name", "description": "description", "input_schema": "parameters", "strict": "strict"}
    silent = {"type", "cache_control", "eager_input_streaming"}
    only(tool, names.keys() | silent, "tools", defer_loading=(False,), allowed_callers=(["direct"],))
    kept = {said: tool[name] for name, said in names.items() if tool.get(name) is not None}
    return {"type": "function", "function": kept}


def _choice(choice: dict[str, Any]) -> str | dict[str, Any]:
    only(choice, ("type", "name", "disable_parallel_tool_use"), "tool_choice")
    kind, name = choice.get("type"), choice.get("name")
    if kind == "tool":
        if not isinstance(name, str):
            raise UsageError(f"tool_choice: {name!r} is no name of a tool")
        return {"type": "function", "function": {"name": name}}
    if kind not in _CHOICES:
        raise refuse(f"the tool choice {kind!r}")
    return _CHOICES[kind]


def _input(function: dict[str, Any]) -> Any:
    try:
        return json.loads(function.get("arguments") or "{}")
    except ValueError:
        # The engine's parser let it through; the ids in the log are what was sampled.
        return {"arguments": function["arguments"]}


def _message(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One message; the results of tools become messages of their own, before what the user says."""
    only(message, ("role", "content"), "messages")
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise UsageError(f"messages: {role!r} is no role")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    said: list[dict[str, Any]] = []
    thinking, calls = "", []
    for block in objects(content, "messages: content"):
        kind = block.get("type")
        if kind == "text":
            said.append({"type": "text", "text": text_of(block, kind)})
        elif kind == "thinking":
            only(block, ("type", "thinking", "signature", "cache_control"), kind)
            thinking += block.get("thinking", "")
        elif kind == "tool_use":
            only(block, ("type", "id", "name", "input", "cache_control"), kind, caller=({"type": "direct"},))
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            yield _result(block)
        elif kind == "image" and role == "user":
            only(block, ("type", "source", "cache_control"), kind)
            said.append({"type": "image_url", "image_url": {"url": _image(block.get("source") or {})}})
        else:
            raise refuse(f"a block of type {kind!r}")
    only_text = all(part["type"] == "text" for part in said)
    words: Any = "".join(part["text"] for part in said) if only_text else said
    if role == "assistant":
        extra: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if thinking:
            # Engines differ in the name they read.
            extra |= {"reasoning": thinking, "reasoning_content": thinking}
        yield {"role": role, "content": words or None, **extra}
    elif said:
        yield {"role": role, "content": words}


def _result(block: dict[str, Any]) -> dict[str, Any]:
    only(block, ("type", "tool_use_id", "content", "is_error", "cache_control"), "tool_result")
    result = texts(block.get("content") or "", ("text",), "tool_result")
    if result is None:
        raise refuse("a tool result with something other than text")
    if block.get("is_error"):
        # Chat has no member for it, and the model must not take a failure for a result.
        result = f"Error: {result}"
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": result}


def _image(source: dict[str, Any]) -> str:
    only(source, ("type", "media_type", "data", "url"), "image.source")
    if source.get("type") == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    if source.get("type") == "url":
        return str(source.get("url"))
    raise refuse(f"an image from {source.get('type')!r}")
