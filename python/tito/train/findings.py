"""What checks find, and what happens then: a check that fails stops the run, unless its name is allowed to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tito.errors import DataError, with_hint

__all__ = ["Finding", "Findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result; `ok` is None where it was not run, and `text` says why."""

    name: str
    ok: bool | None
    text: str
    hint: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """For people."""
        word = {True: "ok", False: "FAILED", None: "not run"}[self.ok]
        return f"check       {self.name}: {word}: {self.text}"


class Findings(list[Finding]):
    """Results in their order."""

    def __init__(self, allow: Sequence[str]) -> None:
        super().__init__()
        self._allow = allow

    def need(self, *found: Finding) -> None:
        """Adds results; `DataError` for the first that failed and is not allowed to."""
        self.extend(found)
        for finding in found:
            self.refuse(finding)

    def refuse(self, finding: Finding) -> None:
        """`DataError` where it failed and is not allowed to."""
        if finding.ok is False and finding.name not in self._allow:
            raise with_hint(
                DataError(f"check {finding.name}: {finding.text}"),
                f"{finding.hint}; allow=[{finding.name}] goes on in spite of it",
            )

    def to_list(self) -> list[dict[str, Any]]:
        """As the record holds them."""
        return [
            {
                "name": f.name,
                "ok": f.ok,
                "allowed": f.ok is False and f.name in self._allow,
                "text": f.text,
                **f.numbers,
            }
            for f in self
        ]
