"""Messages and tools as a trainer takes them: fitted where that loses nothing, refused with a reason elsewhere."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["UnfitError", "fit_messages", "fit_tools", "load"]

Message = dict[str, Any]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
}


class UnfitError(Exception):
    """An exchange that gives no row; its text is the reason, one word."""


def load(text: bytes | None) -> Any:
    """What a JSON text of a capture holds, None where there is none. Raises `UnfitError` for what cannot be written
    again: damaged JSON, NaN, half of a surrogate pair."""
    if text is None:
        return None
    try:
        value = json.loads(text, parse_constant=_refuse)
        if b"\\ud" in text or b"\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise UnfitError("invalid") from None
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def fit_messages(messages: Any, reply: Any, tool_names: set[str]) -> list[Message]:
    """The messages of an exchange and its reply as prime-sft takes them. Raises `UnfitError`; nothing is repaired."""
    if not isinstance(messages, list):
        raise UnfitError("no_messages")
    if not isinstance(reply, dict):
        raise UnfitError("no_reply")
    fitted: list[Message] = []
    pending: set[str] = set()
    for message in [*messages, {**reply, "role": "assistant"}]:
        if not isinstance(message, dict):
            raise UnfitError("invalid")
        role = message.get("role")
        role = _ROLES.get(role) if isinstance(role, str) else None
        if role is None:
            raise UnfitError("unknown_role")
        if role == "system" and fitted:
            raise UnfitError("system_not_first")
        one: Message = {"role": role, "content": _text(message.get("content"))}
        if role == "tool":
            answers = message.get("tool_call_id")
            if not isinstance(answers, str) or answers not in pending:
                raise UnfitError("unknown_tool_call")
            pending.discard(answers)
            one["tool_call_id"] = answers
        if calls := message.get("tool_calls"):
            if role != "assistant" or not isinstance(calls, list):
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
    if not isinstance(function.get("name"), str) or function["name"] not in tool_names:
        raise UnfitError("unknown_tool")
    arguments = function.get("arguments")
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise UnfitError("bad_arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(parsed, ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": text}}


def fit_tools(tools: Any) -> list[dict[str, Any]]:
    """Definitions of tools, each as a function with name, description and parameters."""
    if not isinstance(tools, list | None):
        raise UnfitError("invalid")
    fitted = []
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UnfitError("invalid")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        told = {"name": function["name"], "description": function.get("description") or "", "parameters": parameters}
        fitted.append({"type": "function", "function": told})
    return fitted
