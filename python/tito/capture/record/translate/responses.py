"""OpenAI's Responses route, spoken as chat. Nothing is stored: a request holds its whole history."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from tito.capture.record.errors import CallError, chat_error
from tito.capture.record.translate.chat import Translated, answer_parts, event, objects, only, refuse, text_of, texts
from tito.errors import UsageError

__all__ = ["Responses"]

_SAME = ("model", "temperature", "top_p", "parallel_tool_calls", "user", "seed", "chat_template_kwargs")
_READ = frozenset(
    {*_SAME, "input", "instructions", "tools", "tool_choice", "max_output_tokens", "stream", "text", "reasoning"}
)
# What says nothing of the sample.
_SILENT = frozenset(
    {"metadata", "store", "include", "service_tier", "safety_identifier", "stream_options", "truncation", "background"}
    | {"prompt_cache_key", "prompt_cache_retention", "client_metadata"}
)
# What an item says of itself, not to the model. The name beside a result is that of the call it answers.
_ITEM = frozenset({"type", "id", "status"})
_ITEMS = {
    "message": _ITEM | {"role", "content"},
    "function_call": _ITEM | {"call_id", "name", "arguments", "parsed_arguments"},
    "function_call_output": _ITEM | {"call_id", "output", "name"},
    "reasoning": _ITEM | {"content", "summary"},
}
_TEXTS = ("input_text", "output_text", "text")


class Responses(Translated):
    """See the module."""

    route = "responses"

    def __init__(self) -> None:
        super().__init__()
        self.number = -1
        self.created = time.time()
        self.asked: dict[str, Any] = {}
        self.output: list[dict[str, Any]] = []
        self.item: str | None = None

    def error(self, error: CallError) -> bytes:
        """A failure in OpenAI's shape."""
        return chat_error(error)

    def error_event(self, error: CallError) -> bytes:
        """A failure in a stream."""
        told = json.loads(chat_error(error))["error"]
        return self._event("error", {**told, "error": told})

    def to_chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        """See `Translated`."""
        only(asked, _READ | _SILENT, "")
        if asked.get("background") or asked.get("truncation") not in (None, "disabled"):
            raise refuse("a request in the background, or one that may be cut")
        self.asked = asked
        chat: dict[str, Any] = {name: asked.get(name) for name in _SAME}
        chat["max_tokens"] = asked.get("max_output_tokens")
        messages: list[dict[str, Any]] = []
        if asked.get("instructions"):
            messages.append({"role": "system", "content": asked["instructions"]})
        said = asked.get("input")
        items = [{"role": "user", "content": said}] if isinstance(said, str) else objects(said, "input")
        for item in items:
            _item(item, messages)
        chat["messages"] = messages
        if asked.get("tools"):
            chat["tools"] = [_tool(tool) for tool in objects(asked["tools"], "tools")]
        choice = _choice(asked.get("tool_choice"))
        if not asked.get("tools"):
            if choice not in (None, "auto", "none"):
                raise refuse("a tool that must be called, and no tools,")
            choice = None
        chat["tool_choice"] = choice
        if reasoning := asked.get("reasoning"):
            # A summary is made of what was thought. All that comes back goes to the model.
            silent = ("effort", "summary", "generate_summary")
            only(reasoning, silent, "reasoning", context=("auto", "all_turns"), mode=("standard",))
            chat["reasoning_effort"] = reasoning.get("effort")
        if text := asked.get("text"):
            only(text, ("format",), "text", verbosity=("medium",))
            chat["response_format"] = _format(text.get("format") or {})
        return chat

    def from_chat(self, message: dict[str, Any]) -> dict[str, Any]:
        """See `Translated`."""
        thinking, text, calls = answer_parts(message)
        if thinking:
            self.output.append(self._reasoning(thinking))
        if text or not calls:
            self.output.append(self._message(text))
        for call in calls:
            self.output.append(self._function(call["id"], call["function"]["name"], call["function"]["arguments"]))
        return self._response(self._status())

    def start(self) -> Iterator[bytes]:
        """See `Translated`."""
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", {"response": self._response("in_progress")})

    def think(self, words: str) -> Iterator[bytes]:
        """See `Translated`."""
        yield from self._open("reasoning", self._reasoning(""))
        item = self.output[-1]
        item["content"][0]["text"] += words
        yield self._event("response.reasoning_text.delta", {**self._at(), "content_index": 0, "delta": words})

    def say(self, words: str) -> Iterator[bytes]:
        """See `Translated`."""
        yield from self._open("message", self._message(""))
        item = self.output[-1]
        item["content"][0]["text"] += words
        yield self._event(
            "response.output_text.delta", {**self._at(), "content_index": 0, "delta": words, "logprobs": []}
        )

    def call(self, delta: dict[str, Any]) -> Iterator[bytes]:
        """See `Translated`."""
        function = delta.get("function") or {}
        made = self._function(delta.get("id") or "", function.get("name") or "", "")
        yield from self._open(f"tool {delta.get('index', 0)}", made)
        if arguments := function.get("arguments"):
            self.output[-1]["arguments"] += arguments
            yield self._event("response.function_call_arguments.delta", {**self._at(), "delta": arguments})

    def stop(self) -> Iterator[bytes]:
        """See `Translated`."""
        yield from self._close()
        status = self._status()
        yield self._event(f"response.{status}", {"response": self._response(status)})

    def _open(self, name: str, item: dict[str, Any]) -> Iterator[bytes]:
        if self.item == name:
            return
        yield from self._close()
        self.item = name
        self.output.append(item)
        begun = {**item, "status": "in_progress"}
        if item["type"] != "function_call":
            begun["content"] = []
        yield self._event("response.output_item.added", {"output_index": len(self.output) - 1, "item": begun})
        if item["type"] == "message":
            part = {**self._at(), "content_index": 0, "part": _text("")}
            yield self._event("response.content_part.added", part)

    def _close(self) -> Iterator[bytes]:
        if self.item is None:
            return
        self.item = None
        item = self.output[-1]
        kind = item["type"]
        if kind == "function_call":
            done = {**self._at(), "name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", done)
        else:
            text = item["content"][0]["text"]
            word = "output_text" if kind == "message" else "reasoning_text"
            done = {**self._at(), "content_index": 0, "text": text}
            yield self._event(f"response.{word}.done", done | ({"logprobs": []} if kind == "message" else {}))
            if kind == "message":
                part = {**self._at(), "content_index": 0, "part": _text(text)}
                yield self._event("response.content_part.done", part)
        yield self._event("response.output_item.done", {"output_index": len(self.output) - 1, "item": item})

    def _event(self, name: str, data: dict[str, Any]) -> bytes:
        self.number += 1
        return event(name, {**data, "type": name, "sequence_number": self.number})

    def _at(self) -> dict[str, Any]:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}

    def _item_id(self, kind: str) -> str:
        return f"{kind}_{self.id}_{len(self.output)}"

    def _reasoning(self, text: str) -> dict[str, Any]:
        content = [{"type": "reasoning_text", "text": text}]
        return {
            "id": self._item_id("rs"),
            "type": "reasoning",
            "summary": [],
            "content": content,
            "status": "completed",
        }

    def _message(self, text: str) -> dict[str, Any]:
        head = {"id": self._item_id("msg"), "type": "message", "role": "assistant", "status": "completed"}
        return {**head, "content": [_text(text)]}

    def _function(self, call: str, name: str, arguments: str) -> dict[str, Any]:
        head = {"id": self._item_id("fc"), "type": "function_call", "call_id": call, "status": "completed"}
        return {**head, "name": name, "arguments": arguments}

    def _status(self) -> str:
        return "incomplete" if self.finish == "length" else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        asked, usage = self.asked, self.usage
        told: dict[str, Any] | None = None
        if usage and status != "in_progress":
            told = {
                "input_tokens": usage.get("prompt_tokens", 0),
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage.get("completion_tokens", 0),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.get("total_tokens", 0),
            }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "metadata": asked.get("metadata") or {},
            "model": self.model,
            "output": self.output,
            "parallel_tool_calls": asked.get("parallel_tool_calls", True),
            "temperature": asked.get("temperature"),
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": asked.get("tools") or [],
            "top_p": asked.get("top_p"),
            "usage": told,
        }


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        if choice not in (None, "auto", "none", "required"):
            raise refuse(f"the tool choice {choice!r}")
        return choice
    if choice.get("type") != "function":
        raise refuse(f"the tool choice {choice.get('type')!r}")
    only(choice, ("type", "name"), "tool_choice")
    if not isinstance(name := choice.get("name"), str):
        raise UsageError(f"tool_choice: {name!r} is no name of a tool")
    return {"type": "function", "function": {"name": name}}


def _format(form: dict[str, Any]) -> dict[str, Any] | None:
    kind = form.get("type", "text")
    if kind not in ("text", "json_object", "json_schema"):
        raise refuse(f"the text format {kind!r}")
    names = ("name", "schema", "description", "strict") if kind == "json_schema" else ()
    only(form, ("type", *names), "text.format")
    schema = {name: form[name] for name in names if form.get(name) is not None}
    if kind == "text":
        return None
    return {"type": kind} | ({"json_schema": schema} if schema else {})


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise refuse(f"the tool {tool.get('type')!r}")
    names = ("name", "description", "parameters", "strict")
    only(tool, ("type", *names), "tools", defer_loading=(False,), allowed_callers=(["direct"],))
    kept = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": kept}


def _item(item: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    """Adds one item of the input; what one turn of the model is in items, is one message."""
    kind = item.get("type", "message")
    if kind not in _ITEMS:
        raise refuse(f"an item of type {kind!r}")
    only(item, _ITEMS[kind], kind, caller=({"type": "direct"},))
    if kind == "message":
        role = {"developer": "system"}.get(str(item.get("role")), item.get("role"))
        content = _content(item.get("content"))
        if role == "assistant":
            said = bool(messages) and (messages[-1]["content"] is not None or "tool_calls" in messages[-1])
            _turn(messages, new=said)["content"] = content
        else:
            messages.append({"role": role, "content": content})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        _turn(messages).setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        output = texts(item.get("output") or "", _TEXTS, "function_call_output")
        if output is None:
            raise refuse("a tool result with something other than text")
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
    else:
        parts = item.get("content") or item.get("summary") or []
        text = "".join(text_of(part, kind) for part in parts)
        if text:
            # Engines differ in the name they read.
            _turn(messages, new=True).update(reasoning=text, reasoning_content=text)


def _turn(messages: list[dict[str, Any]], *, new: bool = False) -> dict[str, Any]:
    """The model's turn that an item belongs to: thinking opens one, calls join one."""
    if new or not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _content(content: Any) -> Any:
    if (text := texts(content, _TEXTS, "input")) is not None:
        return text
    parts: list[dict[str, Any]] = []
    for part in objects(content, "input: content"):
        if part.get("type") in _TEXTS:
            parts.append({"type": "text", "text": text_of(part, part["type"])})
        elif part.get("type") == "input_image" and part.get("image_url"):
            only(part, ("type", "image_url", "detail", "prompt_cache_breakpoint"), "input_image")
            image = {"url": part["image_url"], "detail": part.get("detail")}
            parts.append({"type": "image_url", "image_url": {name: said for name, said in image.items() if said}})
        else:
            raise refuse(f"a part of type {part.get('type')!r}")
    return parts
