"""`serving.json`: what a server serves, by content. Recording, probing and evaluation read it, so that a result can be
traced to weights, template and flags, and not to a name that somebody typed."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tito.adapter import LoraAdapter
from tito.errors import DataError, WorldError, with_hint
from tito.files import write_whole
from tito.serve.client import Server

__all__ = ["NAME", "ServedAdapter", "Serving"]

NAME = "serving.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """A LoRA adapter under the name that requests give."""

    name: str
    folder: str
    hash: str
    rank: int
    alpha: float

    @classmethod
    def of(cls, adapter: LoraAdapter, base_name: str) -> ServedAdapter:
        """An adapter under its content's name."""
        folder = str(adapter.folder.resolve())
        return cls(adapter.served_name(base_name), folder, adapter.hash, adapter.rank, adapter.alpha)


@dataclass(slots=True, kw_only=True)
class Serving:
    """One server. Times are ISO 8601 in UTC; hashes are `sha256:` and hex digits; None is what nobody could tell."""

    url: str
    engine: str
    engine_version: str
    model: str
    """The name that requests give the base."""
    base: str
    base_hash: str | None
    architecture: str
    dtype: str | None
    context_length: int | None
    tool_parser: str | None
    reasoning_parser: str | None
    tokenizer_hash: str | None
    template_hash: str | None
    adapters: list[ServedAdapter] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    """What started it; empty for a server that was only checked."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that were set for it."""
    verified: list[str] = field(default_factory=list)
    """Adapters whose effect was seen: `NAME: ids differ from the base's on K of N prompts`."""
    pid: int | None = None
    host: str = field(default_factory=platform.node)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    version: int = _VERSION

    def to_json(self) -> str:
        """The record as JSON, ending in a newline."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the record whole or not at all; a folder gets a `serving.json` in it."""
        target = Path(path)
        target = target / NAME if target.is_dir() else target
        write_whole(target, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Serving:
        """Reads a record; `WorldError` where there is none, `DataError` where it is none."""
        file = Path(path)
        file = file / NAME if file.is_dir() else file
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            if value.get("version") != _VERSION:
                raise TypeError(f"version {value.get('version')!r} is not {_VERSION}")
            return cls(**{**value, "adapters": [ServedAdapter(**a) for a in value["adapters"]]})
        except FileNotFoundError:
            raise with_hint(WorldError(f"{file}: no such file"), "`tito serve` writes it") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise with_hint(DataError(f"{file}: no record of a server: {error}"), "`tito serve` writes one") from None

    def identity(self) -> dict[str, Any]:
        """What a recorder's log keeps of the server: contents and flags, nothing of the machine."""
        left_out = ("url", "base", "adapters", "command", "environment", "verified", "pid", "host", "version")
        told = {name: value for name, value in asdict(self).items() if name not in left_out}
        adapters = [{"name": a.name, "hash": a.hash, "rank": a.rank, "alpha": a.alpha} for a in self.adapters]
        return {**told, "adapters": adapters}

    def adapter(self, name: str | None) -> ServedAdapter:
        """The adapter of a name, or the only one. `DataError` where there is none, or several and no name."""
        found = [a for a in self.adapters if name is None or a.name == name]
        if len(found) != 1:
            names = ", ".join(a.name for a in self.adapters) or "none"
            raise with_hint(DataError(f"{self.url}: no single adapter {name or ''}: {names}"), "name one with --model")
        return found[0]

    def check(self, server: Server) -> None:
        """Whether the server still serves what the record says: names and paths. `DataError` names the first that it
        does not."""
        there = {card.id: card for card in server.models()}
        for name, root in [(self.model, None), *((a.name, a.folder) for a in self.adapters)]:
            if name not in there:
                raise with_hint(DataError(f"{self.url}: {name} is not served ({', '.join(there)})"), "start it again")
            seen = there[name].root
            if root is not None and (seen is None or Path(seen).resolve() != Path(root)):
                raise with_hint(
                    DataError(f"{self.url}: {name} is served from {seen}, not from {root}"), "load it under a new name"
                )
