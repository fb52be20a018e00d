"""Messages of captures: what was asked and answered as text, and whether a trainer can take it as it is."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tito.errors import DataError, WorldError, with_hint

__all__ = ["Exchange", "UnfitError", "find_files", "fit_messages", "fit_tools", "read_exchanges"]

Message = dict[str, Any]


class UnfitError(Exception):
    """An exchange that gives no row; its text is the reason, one word."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its reply."""

    file: str
    record: int
    rollout: str
    turn: int
    messages: Sequence[Any]
    reply: Any
    finish: str | None
    tools: Sequence[Any]
    facts: Mapping[str, Any]


def find_files(inputs: Sequence[str]) -> list[str]:
    """Files, those in folders, and what globs match; in the order of their names."""
    found: list[str] = []
    for name in inputs:
        if os.path.isdir(name):
            found += sorted(str(path) for path in Path(name).rglob("*") if path.suffix in (".json", ".jsonl"))
        elif os.path.exists(name):
            found.append(name)
        elif matched := sorted(glob.glob(name)):
            found += matched
        else:
            raise with_hint(WorldError(f"{name}: no such file"), "check the path; globs must match at least one file")
    return list(dict.fromkeys(found))


def read_exchanges(file: str) -> Iterator[Exchange | None]:
    """The exchanges of one file; None for a record that holds no messages.

    A call log (`request.messages` beside `response` or `stream`) gives one a choice, a saved trajectory (`messages` of
    one document) one an assistant message.
    """
    for record, data in _records(file):
        if not isinstance(data, dict):
            yield None
        elif isinstance(request := data.get("request"), dict) and isinstance(request.get("messages"), list):
            yield from _logged(file, record, data, request)
        elif isinstance(data.get("messages"), list):
            yield from _saved(file, record, data)
        else:
            yield None


def _records(file: str) -> Iterator[tuple[int, Any]]:
    """Lines, or the one document that a file is."""
    with open(file, encoding="utf-8") as opened:
        for number, line in enumerate(opened, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                if number == 1 and not file.endswith(".jsonl"):
                    break
                raise with_hint(DataError(f"{file}: record {number}: {error}"), "the capture is damaged") from None
        else:
            return
    try:
        yield 1, json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise with_hint(DataError(f"{file}: {error}"), "the capture is damaged, or no JSON") from None


def _logged(file: str, record: int, data: Mapping[str, Any], request: Mapping[str, Any]) -> Iterator[Exchange]:
    response = data.get("response")
    stream = data.get("stream")
    choices = _streamed(stream) if isinstance(stream, str) else response.get("choices") if response else None
    rollout = data.get("rollout_id") or data.get("session_id") or f"{file}:{record}"
    facts = {"task_name": data.get("task_id"), "agent": data.get("agent"), "reward": _number(data.get("reward"))}
    for choice in choices or [{}]:
        yield Exchange(
            file=file,
            record=record,
            rollout=str(rollout),
            turn=data["turn"] if isinstance(data.get("turn"), int) else record,
            messages=request["messages"],
            reply=choice.get("message"),
            finish=choice.get("finish_reason"),
            tools=request.get("tools") or [],
            facts={**facts, "model": request.get("model")},
        )


def _saved(file: str, record: int, data: Mapping[str, Any]) -> Iterator[Exchange]:
    facts = {"task_name": data.get("task_id"), "agent": data.get("agent_id"), "model": data.get("model")}
    tools = data.get("tools") or data.get("tool_defs") or []
    for at, message in enumerate(data["messages"]):
        if isinstance(message, dict) and message.get("role") == "assistant":
            choices = ((message.get("extra") or {}).get("response") or {}).get("choices") or [{}]
            finish = choices[0].get("finish_reason")
            yield Exchange(file, record, f"{file}:{record}", at, data["messages"][:at], message, finish, tools, facts)


def _streamed(stream: str) -> list[dict[str, Any]]:
    """The choices of a stream of server-sent events, their deltas joined."""
    made: dict[int, dict[str, Any]] = {}
    for line in stream.splitlines():
        text = line.removeprefix("data:").strip()
        if not line.startswith("data:") or text == "[DONE]":
            continue
        for choice in json.loads(text).get("choices") or []:
            one = made.setdefault(
                choice.get("index", 0), {"message": {"role": "assistant", "content": ""}, "finish_reason": None}
            )
            one["finish_reason"] = choice.get("finish_reason") or one["finish_reason"]
            delta = choice.get("delta") or {}
            one["message"]["content"] += delta.get("content") or ""
            for part in delta.get("tool_calls") or []:
                calls = one["message"].setdefault("tool_calls", {})
                call = calls.setdefault(part.get("index", 0), {"id": None, "function": {"name": "", "arguments": ""}})
                call["id"] = part.get("id") or call["id"]
                for name, value in (part.get("function") or {}).items():
                    call["function"][name] = call["function"].get(name, "") + (value or "")
    for one in made.values():
        if "tool_calls" in one["message"]:
            one["message"]["tool_calls"] = list(one["message"]["tool_calls"].values())
    return [made[index] for index in sorted(made)]


def fit_messages(exchange: Exchange, tool_names: set[str]) -> list[Message]:
    """The messages of an exchange and its reply as prime-sft takes them. Raises `UnfitError`; nothing is repaired."""
    if not isinstance(exchange.reply, dict):
        raise UnfitError("no_reply")
    if exchange.finish == "length":
        # Rows need a stop token, and this text has none.
        raise UnfitError("truncated")
    fitted: list[Message] = []
    pending: set[str] = set()
    for message in [*exchange.messages, {**exchange.reply, "role": "assistant"}]:
        if not isinstance(message, dict):
            raise UnfitError("invalid")
        role = {"developer": "system", "model": "assistant"}.get(message.get("role", ""), message.get("role"))
        if role not in ("system", "user", "assistant", "tool"):
            raise UnfitError("unknown_role")
        if role == "system" and fitted:
            raise UnfitError("system_not_first")
        one: Message = {"role": role, "content": _text(message.get("content"))}
        if role == "tool":
            if message.get("tool_call_id") not in pending:
                raise UnfitError("unknown_tool_call")
            pending.discard(message["tool_call_id"])
            one["tool_call_id"] = message["tool_call_id"]
        if calls := message.get("tool_calls"):
            if role != "assistant":
                raise UnfitError("invalid")
            one["tool_calls"] = [_call(call, tool_names) for call in calls]
            pending |= {call["id"] for call in one["tool_calls"]}
        fitted.append(one)
    return fitted


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "\n".join(str(part.get("text", "")) for part in content)
    raise UnfitError("content_not_text")


def _call(call: Any, tool_names: set[str]) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call.get("id"), str) or not call["id"]:
        raise UnfitError("invalid")
    if not tool_names:
        raise UnfitError("missing_tool_defs")
    if function.get("name") not in tool_names:
        raise UnfitError("unknown_tool")
    arguments = function.get("arguments")
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise UnfitError("bad_arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(parsed, ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": text}}


def fit_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Definitions of tools, each as a function with name, description and parameters."""
    fitted = []
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UnfitError("invalid")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        told = {"name": function["name"], "description": function.get("description") or "", "parameters": parameters}
        fitted.append({"type": "function", "function": told})
    return fitted


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
