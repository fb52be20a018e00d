"""Tool calls in text: the surface forms that models write, and what each server's parser makes of them.

A parser takes a reply's text (markers included, thinking cut) and gives what it leaves as content and the calls it
finds. `hermes` and `qwen3_coder` follow vLLM's parsers of those names; `fence` and `json` are what text harnesses read.
A reply in a form that the served parser does not read comes back as plain content: no call, no error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PARSERS", "Parsed", "ToolCall", "matrix", "surface_form"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a parser found."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser makes of a text: the content that is left (None where nothing is), and the calls."""

    content: str | None
    calls: tuple[ToolCall, ...] = field(default=())


Parser = Callable[[str], Parsed]

_HERMES = re.compile(r"<tool_call>(.*?)</tool_call>|<tool_call>(.*)", re.S)
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|$)", re.S)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>(.*?)(?=</parameter>|<parameter=|</function>|$)", re.S)
_FENCE = re.compile(r"```(?:bash|sh|mswea_bash_command)?[ \t]*\n(.*?)\n?```", re.S)


def _hermes(text: str) -> Parsed:
    if "<tool_call>" not in text:
        return Parsed(text or None)
    calls = []
    for whole, cut in _HERMES.findall(text):
        try:
            said = json.loads(whole or cut)
            calls.append(ToolCall(said["name"], said["arguments"]))
        except (ValueError, KeyError, TypeError):
            # vLLM's gives up on all of them.
            return Parsed(text)
    return Parsed(text[: text.index("<tool_call>")] or None, tuple(calls))


def _qwen3_coder(text: str) -> Parsed:
    if "<function=" not in text:
        return Parsed(text or None)
    calls = []
    for name, body in _FUNCTION.findall(text):
        arguments = {key: _value(value) for key, value in _PARAMETER.findall(body)}
        calls.append(ToolCall(name, arguments))
    start = min(at for mark in ("<tool_call>", "<function=") if (at := text.find(mark)) >= 0)
    return Parsed(text[:start] or None, tuple(calls))


def _value(text: str) -> str:
    # One newline after the opener and one before the closer belong to the form.
    return text.removeprefix("\n").removesuffix("\n")


def _fence(text: str) -> Parsed:
    found = _FENCE.findall(text)
    # Harnesses of text want exactly one block.
    return Parsed(text, (ToolCall("bash", {"command": found[0]}),)) if len(found) == 1 else Parsed(text or None)


def _json(text: str) -> Parsed:
    try:
        said = json.loads(text.strip())
    except ValueError:
        return Parsed(text or None)
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        return Parsed(text)
    arguments = said.get("args", said.get("arguments"))
    if said.get("type", "tool_call") != "tool_call" or not isinstance(arguments, dict):
        return Parsed(text)
    return Parsed(None, (ToolCall(said["name"], arguments),))


PARSERS: Mapping[str, Parser] = {"hermes": _hermes, "qwen3_coder": _qwen3_coder, "fence": _fence, "json": _json}
"""Every parser by name."""


def surface_form(text: str) -> str:
    """The form of a reply's call: a parser's name, `broken` (a marker that no parser reads), or `none`.

    >>> surface_form('<tool_call>\\n{"name": "bash", "arguments": {}}\\n</tool_call>'), surface_form("hello")
    ('hermes', 'none')
    """
    for name, parse in PARSERS.items():
        if parse(text).calls:
            return name
    return "broken" if any(mark in text for mark in ("<tool_call>", "<function=", "```")) else "none"


def matrix(texts: Iterable[str]) -> dict[str, dict[str, int]]:
    """How many replies of each surface form each parser reads, and under `replies` how many there are.

    >>> matrix(["```bash\\nls\\n```"])
    {'fence': {'replies': 1, 'hermes': 0, 'qwen3_coder': 0, 'fence': 1, 'json': 0}}
    """
    counts: dict[str, dict[str, int]] = {}
    for text in texts:
        row = counts.setdefault(surface_form(text), {"replies": 0, **dict.fromkeys(PARSERS, 0)})
        row["replies"] += 1
        for name, parse in PARSERS.items():
            row[name] += bool(parse(text).calls)
    return counts
