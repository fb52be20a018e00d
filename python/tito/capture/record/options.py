"""What a recorder is told: where the engine is, where the log goes, and what to do when ids are missing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tito.errors import UsageError, with_hint

__all__ = ["Options", "Upstream"]

EngineName = Literal["auto", "vllm", "sglang", "other"]


@dataclass(frozen=True, slots=True)
class Upstream:
    """An engine's address: `root` without `/v1`, `api` with it."""

    root: str
    api: str

    @classmethod
    def parse(cls, url: str) -> Upstream:
        """Reads a base URL as clients take it, with or without `/v1`; `UsageError` for anything else.

        >>> Upstream.parse("http://host:8000/v1/").root, Upstream.parse("http://host:8000").api
        ('http://host:8000', 'http://host:8000/v1')
        """
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
            _ = parts.port
        except ValueError:
            good = False
        if not good:
            raise with_hint(UsageError(f"--upstream {url!r} is no base URL"), "give http://HOST:PORT/v1")
        root = re.sub(r"(/v1)?/*$", "", url)
        return cls(root, f"{root}/v1")

    @property
    def shown(self) -> str:
        """The address as it may be written down: without a user and a password."""
        return re.sub(r"//[^/@]*@", "//", self.api)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything a recorder is told. Sizes are bytes, times seconds.

    - `engine`: how ids are asked for; `auto` looks at the engine.
    - `durability`: `fsync` answers when the disk has the record, `flush` when the system has it.
    - `on_missing`: a reply without ids fails the client's request (`fail`), goes on and is counted (`pass`), or goes on
      and is recorded as text (`mark`).
    - `text_only`: ids are not even asked for.
    - `served`: what the server says of itself (`tito.serve.record.Serving.identity()`); the log opens with it.
    - `by_key`: calls without a session are grouped by a hash of their API key, not by their prompts.

    >>> Options(upstream=Upstream.parse("http://127.0.0.1:8000"), out=Path("log")).durability
    'fsync'
    """

    upstream: Upstream
    out: Path
    host: str = "127.0.0.1"
    port: int = 0
    engine: EngineName = "auto"
    durability: Literal["fsync", "flush"] = "fsync"
    on_missing: Literal["fail", "pass", "mark"] = "fail"
    text_only: bool = False
    by_key: bool = False
    tokenizer: Path | None = None
    served: dict[str, Any] | None = None
    segment_bytes: int = 256 << 20
    request_bytes: int = 256 << 20
    open_calls: int = 4096
    idle_seconds: float = 600.0
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request to the engine, in place of the client's own of the same name; never stored."""
