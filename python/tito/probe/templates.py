"""Where the prompts of training and those of serving differ: the same request, rendered with and without tools and with
thinking on and off, against the ids that were trained on.

A student that was trained on one and is asked with another is out of its distribution from the first id on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tito.probe.prompts import Prompt
from tito.profile.errors import ProfileError
from tito.profile.source import Source, read_source
from tito.profile.template import ChatTemplate
from tito.serve.client import RefusedError, Server
from tito.serve.messages import plain

__all__ = ["Difference", "TemplateDiff", "Templates", "first_difference"]

# Ids shown on either side of a difference.
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two prompts differ: what both have before it, and how each goes on (as text)."""

    at: int
    before: str
    trained: str
    served: str

    def __str__(self) -> str:
        return f"at id {self.at}, after {self.before!r}: trained {self.trained!r}, served {self.served!r}"


@dataclass(frozen=True, slots=True)
class TemplateDiff:
    """One trained prompt against every way to ask for it. None: the very same ids."""

    where: str
    ways: Mapping[str, Difference | None]
    """By way: `server` (what the running server makes of the request), `as captured`, `no tools`, `thinking`,
    `no thinking`."""

    @property
    def same(self) -> tuple[str, ...]:
        """The ways that give the trained ids."""
        return tuple(way for way, difference in self.ways.items() if difference is None)


def first_difference(trained: Sequence[int], served: Sequence[int], source: Source | None) -> Difference | None:
    """The first place where two lists of ids differ; None where they are equal."""
    if list(trained) == list(served):
        return None
    at = next(
        (i for i, (a, b) in enumerate(zip(trained, served, strict=False)) if a != b), min(len(trained), len(served))
    )

    def text(ids: Sequence[int]) -> str:
        if source is None:
            return " ".join(map(str, ids))
        return str(source.tokenizer.decode(list(ids), skip_special_tokens=False))

    return Difference(
        at, text(trained[max(0, at - _SHOWN) : at]), text(trained[at : at + _SHOWN]), text(served[at : at + _SHOWN])
    )


class Templates:
    """A model's tokenizer and template, ready to render requests. `ProfileError` where the folder has none."""

    def __init__(self, folder: Path, chat_template: Path | None = None) -> None:
        self.source = read_source(folder, chat_template=chat_template)
        self._template = ChatTemplate(self.source.chat_template, self.source.special)

    def ids(self, request: Mapping[str, Any], **options: Any) -> list[int]:
        """The ids of a request's prompt; `options` win over its `chat_template_kwargs`, and `tools` over its own."""
        tools = options.pop("tools", request.get("tools"))
        options = {**(request.get("chat_template_kwargs") or {}), **options}
        messages = [plain(message) for message in request["messages"]]
        try:
            text = self._template.render(messages, generate=True, tools=tools or None, **options)
        except Exception as error:  # templates raise what they like
            raise ProfileError(f"the chat template refuses the request: {error}", "try another") from None
        return list(self.source.tokenizer.encode(text, add_special_tokens=False).ids)

    def compare(self, prompt: Prompt, server: Server | None, model: str) -> TemplateDiff | None:
        """Every way against the trained ids; None for a prompt whose request is not known."""
        if (request := prompt.request) is None:
            return None
        made: dict[str, list[int]] = {"as captured": self.ids(request)}
        if request.get("tools"):
            made["no tools"] = self.ids(request, tools=None)
        made["thinking"] = self.ids(request, enable_thinking=True)
        made["no thinking"] = self.ids(request, enable_thinking=False)
        ways = {way: first_difference(prompt.ids, ids, self.source) for way, ids in made.items()}
        if server is not None:
            seen = served_ids(server, model, request)
            ways = {"server": first_difference(prompt.ids, seen, self.source), **ways}
        return TemplateDiff(prompt.where, ways)


def served_ids(server: Server, model: str, request: Mapping[str, Any]) -> tuple[int, ...]:
    """The prompt ids that a running server makes of a request. `RefusedError` where it refuses."""
    options = {name: request[name] for name in ("tools", "chat_template_kwargs") if request.get(name)}
    try:
        return server.chat(model, request["messages"], max_tokens=1, **options).prompt_ids
    except RefusedError as error:
        error.hint = "the server's chat route refuses the captured request: its template or its parsers"
        raise
