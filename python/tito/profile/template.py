"""Chat templates, rendered as transformers renders them, without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tito.errors import WorldError, with_hint
from tito.profile.errors import PROFILE_EXTRA, ProfileError

Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled chat template.

    `special` are the special tokens that templates may name (`bos_token`, `eos_token`, ...). `ProfileError` when
    the text is not a template, `WorldError` when jinja2 is missing.

    >>> template = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", {})
    >>> template.render([{"role": "user", "content": "hi"}])
    '[user]hi'
    """

    def __init__(self, text: str, special: Mapping[str, str]) -> None:
        try:
            import jinja2
            from jinja2 import nodes
            from jinja2.ext import Extension, loopcontrols
            from jinja2.parser import Parser
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as e:
            raise with_hint(WorldError("rendering a chat template needs jinja2"), PROFILE_EXTRA) from e

        class Generation(Extension):
            """`{% generation %}` marks what an assistant wrote, for trainers; it renders as its body."""

            tags = {"generation"}  # noqa: RUF012 (jinja's own declaration)

            def parse(self, parser: Parser) -> list[nodes.Node]:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                # A scope of its own, as the block that transformers makes of it: what is set inside stays inside.
                return [nodes.Scope(body).set_lineno(line)]

        self._now = datetime.now()

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: self._now.strftime(form)
        self._special = dict(special)
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateSyntaxError as e:
            raise ProfileError(f"the chat template does not compile: {e}", "repair it, or give another") from e

    def render(
        self,
        messages: Sequence[Message],
        *,
        generate: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        now: datetime | None = None,
        **options: Any,
    ) -> str:
        """The text of a conversation; with `generate`, ending in a generation prompt. `options` are template kwargs.

        `now` is what the template takes for today. Whatever the template raises comes through.
        """
        self._now = now or datetime.now()
        given = {"messages": list(messages), "tools": tools, "documents": None, "add_generation_prompt": generate}
        return self._template.render({**self._special, **given, **options})


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja's own filter escapes HTML; templates for models want plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
