"""Assertions: functions over one reply that say whether it is as it must be.

Built in are those that separate a student from noise; a user's own is a function of a `Reply` that gives True, False or
a text that says what is wrong: `--assert my_module:function` or `--assert file.py:function`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tito.errors import UsageError, with_hint
from tito.serve.parsers import PARSERS, surface_form

__all__ = ["ASSERTIONS", "OF_SERVERS", "Assertion", "Reply", "find_assertion"]


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of the student. `text` is all that was sampled, markers included; `content`, `reasoning` and
    `tool_calls` are what the server's parsers made of it, and stand only in replies of the chat route."""

    text: str
    output_ids: Sequence[int]
    prompt_ids: Sequence[int]
    prompt: str = ""
    """The prompt's text, as far as it is known."""
    finish: str | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] = field(default=())
    chat: bool = False


Assertion = Callable[[Reply], bool | str]
"""Gives True, or False, or what is wrong."""

_SEND = re.compile(r"(?:^|[\n;&|(\"'\s])send_message\s+(?:--wait\s+)?[\w-]+")
_COPIED_WORDS = 12


def _said(text: str) -> str:
    """A reply without thinking and without marks of turns."""
    rest = text.rpartition("</think>")[2]
    return re.sub(r"<\|(?:im_end|endoftext)\|>", "", rest).strip()


def call_tag(reply: Reply) -> bool | str:
    """The reply holds a tool call in a form that some parser reads."""
    if reply.tool_calls:
        return True
    form = surface_form(_said(reply.text))
    return True if form in PARSERS else "a call's marker, and no call" if form == "broken" else "no call"


def no_think(reply: Reply) -> bool | str:
    """The reply neither opens nor closes thinking."""
    return ("<think>" not in reply.text and "</think>" not in reply.text) or "a think marker"


def sends_message(reply: Reply) -> bool | str:
    """The reply's first call sends a message: a tool of that name, or a shell command."""
    text = _said(reply.text)
    calls = [(str(c.get("function", {}).get("name")), c.get("function", {}).get("arguments")) for c in reply.tool_calls]
    if not calls and (form := surface_form(text)) in PARSERS:
        calls = [(call.name, call.arguments) for call in PARSERS[form](text).calls]
    if not calls:
        return "no call"
    name, arguments = calls[0]
    if name == "send_message":
        return True
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    command = str(given.get("command", "")) if isinstance(given, Mapping) else ""
    return bool(_SEND.search(command)) or f"the first call is {name}, and sends nothing"


def ends(reply: Reply) -> bool | str:
    """The reply ends by itself."""
    return reply.finish != "length" or f"cut off after {len(reply.output_ids)} ids"


def not_swallowed(reply: Reply) -> bool | str:
    """Something is left of the reply behind the server's parsers: a reasoning parser may take all of it."""
    if not reply.chat or reply.content or reply.tool_calls or not reply.output_ids:
        return True
    return "reasoning_parser_swallowed_output" if reply.reasoning else "nothing is left of it"


def no_parrot(reply: Reply) -> bool | str:
    """The reply copies no long stretch of its prompt (twelve words)."""
    words, prompt = _said(reply.text).split(), f" {' '.join(reply.prompt.split())} "
    for at in range(len(words) - _COPIED_WORDS + 1):
        stretch = " ".join(words[at : at + _COPIED_WORDS])
        if f" {stretch} " in prompt:
            return f"copied from the prompt: {stretch}"
    return True


ASSERTIONS: Mapping[str, Assertion] = {
    "call-tag": call_tag,
    "no-think": no_think,
    "sends-message": sends_message,
    "ends": ends,
    "not-swallowed": not_swallowed,
    "no-parrot": no_parrot,
}
"""The built-in ones by name."""
OF_SERVERS = frozenset({"not-swallowed"})
"""Those that judge what a server's parsers leave of a reply, and hold for every other."""


def find_assertion(name: str) -> Assertion:
    """A built-in assertion, or a user's own (see the module). `UsageError` where there is none."""
    if name in ASSERTIONS:
        return ASSERTIONS[name]
    place, found, function = name.rpartition(":")
    if not found:
        near = [f"did you mean {meant}?" for meant in get_close_matches(name, ASSERTIONS, 1)]
        built_in = f"built in: {', '.join(ASSERTIONS)}; or MODULE:FUNCTION"
        raise with_hint(UsageError(f"no assertion {name}"), " ".join([*near, built_in]))
    try:
        asked = getattr(_module(place), function)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise with_hint(UsageError(f"{name}: {error}"), "name it MODULE:FUNCTION or FILE.py:FUNCTION") from None
    if not callable(asked):
        raise with_hint(UsageError(f"{name}: not a function"), "name it MODULE:FUNCTION or FILE.py:FUNCTION")
    return asked  # type: ignore[no-any-return]


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(f"tito_probe_{Path(place).stem}", place)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
