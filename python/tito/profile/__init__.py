"""Profiles: what must be known of a tokenizer and its chat template to cut and compare ids.

A profile is data. It is built in (`Profile.named`), read from a file (`Profile.load`) or derived from a tokenizer and
its template (`Profile.from_tokenizer`): the template is rendered on small conversations, the renders are compared, and
the markers are read off the ids. No family is known by name. The fields are those of the core's `ids::profile`.

Reading a tokenizer needs the packages tokenizers and jinja2; they are imported when it happens, not before.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tito._core import ThinkRule, built_in_profile
from tito.files import write_whole
from tito.profile.errors import ProfileError

__all__ = ["Ids", "Marker", "Profile", "ProfileError"]

Ids = tuple[int, ...]
Marker = tuple[Ids, ...]

_REMAKE = "make one with `tito profile TOKENIZER_DIR -o FILE`"
_MARKERS = ("think_open", "think_close", "tool_open", "turn_start", "assistant_start", "turn_end")
_LISTS = ("stray_think", "after_close", "stop_ids", "prompt_start", "tail_think")
_TEXTS = ("name", "tokenizer_hash", "template_hash")
_NUMBERS = ("version", "vocab_size", "id_limit")


@dataclass(frozen=True)
class Profile:
    """What must be known of a tokenizer and its chat template; see the module.

    A `Marker` is alternatives, each an id sequence, the longest first. All ids lie in `[0, id_limit)`.

    Raises `ProfileError` when the fields contradict each other.

    >>> marks = {"think_open": ((5,),), "think_close": ((6,),), "stray_think": ()}
    >>> marks |= {"tool_open": (), "turn_start": ((1,),)}
    >>> profile = Profile(
    ...     version=1, name="tiny", vocab_size=8, id_limit=8, **marks, lone_close=True, after_close=(7,),
    ...     assistant_start=((1, 3, 7),), turn_end=((2,),), stop_ids=(2,), prompt_start=(1,), tail_think=(1, 3, 7),
    ...     tail_no_think=None, history_pair=False, tokenizer_hash="sha256:0", template_hash="sha256:0",
    ... )
    >>> Profile.from_json(profile.to_json()) == profile
    True
    """

    version: int
    """Version of this layout: 1."""
    name: str
    """Short name, `qwen3`."""
    vocab_size: int
    """Number of ids of the tokenizer, added tokens included."""
    id_limit: int
    """The first id that no model of the family can emit (its padded embedding size)."""
    think_open: Marker
    """What opens thinking; empty for a model that does not think."""
    think_close: Marker
    """What closes thinking."""
    stray_think: Ids
    """Added tokens that look like think markers although the template never writes them: an output with one is odd."""
    lone_close: bool
    """Whether a closer without an opener in sight ends thinking (false where it is an ordinary turn end: harmony)."""
    after_close: Ids
    """Ids whose text is only newlines: they go with the span when they stand directly behind a closer."""
    tool_open: Marker
    """What opens a tool call: no closer counts behind it."""
    turn_start: Marker
    """What opens a turn of any role."""
    assistant_start: Marker
    """What opens an assistant turn, header and newline included, think markers not."""
    turn_end: Marker
    """What ends a turn inside a rendered prompt; empty where a turn ends only by the next one's start (GLM)."""
    stop_ids: Ids
    """Last ids of a cleanly finished output."""
    prompt_start: Ids
    """The ids a rendered prompt of this template begins with (the same for every conversation), possibly empty."""
    tail_think: Ids
    """End of a generation prompt with thinking on, from the assistant header on."""
    tail_no_think: Ids | None
    """End of a generation prompt with thinking off; None where the template cannot switch it off."""
    history_pair: bool
    """Whether the template writes the no-thinking tail's pair into an earlier assistant turn without reasoning."""
    tokenizer_hash: str
    """Hash of vocabulary, merges and added tokens."""
    template_hash: str
    """Hash of the chat template's text."""

    def __post_init__(self) -> None:
        self._check()

    @cached_property
    def think_rule(self) -> ThinkRule:
        """The profile made ready to search with; made once, at first use."""
        return ThinkRule(self.to_json())

    def __getstate__(self) -> dict[str, Any]:
        # Without `think_rule`, which is of the core and does not pickle.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def named(cls, name: str) -> Self:
        """A built-in profile: `Profile.named("qwen3")`. An unknown name is the core's usage error."""
        return cls.from_json(built_in_profile(name))

    @classmethod
    def from_tokenizer(
        cls,
        source: str | os.PathLike[str] | object,
        *,
        name: str | None = None,
        chat_template: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Derives the profile of a tokenizer and its chat template, without a network.

        `source` is a directory (`tokenizer.json` and a template; `tokenizer_config.json`, `generation_config.json` and
        `config.json` are read where present), a `tokenizer.json` file, or a transformers tokenizer. `chat_template` is
        the template's text, or a `Path` to it, in place of the source's own. `name` is the directory's name by default.

        Raises `ProfileError` (with `.hint`) for a source that cannot be read and for a template whose renders show no
        assistant header or contradict each other: what is not understood is refused, not guessed. `WorldError` where
        tokenizers or jinja2 is not installed.

        An example::

            profile = Profile.from_tokenizer("models/Qwen3-8B")
            profile.think_open, profile.tail_no_think
            # (((151667,),), (151644, 77091, 198, 151667, 271, 151668, 271))
        """
        from tito.profile.probe import derive
        from tito.profile.source import read_source

        return cls(**derive(read_source(source, name=name, chat_template=chat_template)))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a profile from JSON; `ProfileError` when it is not one (a field missing, unknown, of another type)."""
        try:
            value = json.loads(text)
        except json.JSONDecodeError as e:
            raise ProfileError(f"not a profile: {e}", _REMAKE) from None
        if not isinstance(value, dict):
            raise ProfileError(f"not a profile: a JSON object was wanted, not {type(value).__name__}", _REMAKE)
        names = [field.name for field in fields(cls)]
        if missing := [n for n in names if n not in value]:
            raise ProfileError(f"not a profile: missing field {missing[0]!r}", _REMAKE)
        if unknown := [n for n in value if n not in names]:
            raise ProfileError(f"not a profile: unknown field {unknown[0]!r}", _REMAKE)
        return cls(**{n: _frozen(n, value[n]) for n in names})

    def to_json(self) -> str:
        """The profile as JSON, keys in their order of declaration, one a line; ends in a newline."""
        values = {field.name: json.dumps(getattr(self, field.name), ensure_ascii=False) for field in fields(self)}
        lines = [f'  "{name}": {value}' for name, value in values.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a profile file; `ProfileError` names the file when it is not one. `OSError` when it cannot be read."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ProfileError as e:
            raise ProfileError(f"{os.fspath(path)}: {e}", e.hint) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the profile as JSON, whole or not at all: a temporary file beside `path` gets its name at the end."""
        write_whole(Path(path), self.to_json())

    def _check(self) -> None:
        def bad(what: str) -> ProfileError:
            return ProfileError(f"profile {self.name!r}: {what}", _REMAKE)

        if self.version != 1:
            raise bad(f"version {self.version} is not 1")
        if bool(self.think_open) != bool(self.think_close):
            raise bad("think_open and think_close must both be there or both be empty")
        markers = [getattr(self, n) for n in _MARKERS]
        if any(not alternative for marker in markers for alternative in marker):
            raise bad("a marker is empty")
        if self.id_limit < self.vocab_size or self.vocab_size <= 0:
            raise bad(f"id_limit {self.id_limit} is below vocab_size {self.vocab_size}")
        ids = [i for marker in markers for alternative in marker for i in alternative]
        ids += [i for n in _LISTS for i in getattr(self, n)] + list(self.tail_no_think or ())
        if outside := [i for i in ids if not 0 <= i < self.id_limit]:
            raise bad(f"id {outside[0]} is outside 0..{self.id_limit}")


def _frozen(name: str, value: Any) -> Any:
    """A JSON value as the field holds it: lists as tuples. `ProfileError` when it is of another type."""

    def ids(v: Any) -> bool:
        return isinstance(v, list) and all(type(i) is int for i in v)

    if name in _MARKERS:
        if isinstance(value, list) and all(ids(v) for v in value):
            return tuple(tuple(v) for v in value)
        wanted = "a list of lists of ids"
    elif name in _LISTS:
        if ids(value):
            return tuple(value)
        wanted = "a list of ids"
    elif name == "tail_no_think":
        if value is None or ids(value):
            return None if value is None else tuple(value)
        wanted = "a list of ids or null"
    else:
        kinds = {**dict.fromkeys(_TEXTS, (str, "a text")), **dict.fromkeys(_NUMBERS, (int, "a number"))}
        kind, wanted = kinds.get(name, (bool, "a boolean"))
        if type(value) is kind:
            return value
    raise ProfileError(f"not a profile: {name} must be {wanted}", _REMAKE)
