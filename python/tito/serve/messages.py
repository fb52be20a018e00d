"""Messages as chat templates read them, made of messages as clients send them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["plain"]


def plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its parts of text joined, arguments of calls as objects, and reasoning under the name that
    templates know.

    >>> plain({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})
    {'role': 'user', 'content': 'ab'}
    """
    made = dict(message)
    if isinstance(made.get("content"), list):
        made["content"] = "".join(str(part.get("text", "")) for part in made["content"] if isinstance(part, dict))
    if (reasoning := made.pop("reasoning", None)) is not None:
        made.setdefault("reasoning_content", reasoning)
    if calls := made.get("tool_calls"):
        made["tool_calls"] = [_call(call) for call in calls]
    return made


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    if isinstance(function.get("arguments"), str):
        function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}
