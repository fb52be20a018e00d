"""What a run says of itself: the counts of the core as JSON, the data-shape report for people, and its warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tito.report.shape import shape_text
from tito.report.warnings import find_notes, find_warnings

__all__ = ["Report"]


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """The report of one run over `data`, the core's JSON; the properties are what is asked for most.

    `data` has the keys `versions`, `policies`, `counts`, `inputs`, `passed_over`, `inputs_repeated`, `weights` (how
    they were normalised and scaled, or None), `val` (how keys were divided, or None), `outputs`, `profiles` and, when
    files were written, `manifest`.
    """

    data: Mapping[str, Any]

    def __repr__(self) -> str:
        """
        >>> import tito
        >>> tito.check("calls.jsonl")
        <report: 36 calls seen, 36 used, 36 rows>
        """
        return f"<report: {self.calls_seen:,} calls seen, {self.calls_used:,} used, {self.rows:,} rows>"

    @property
    def rows(self) -> int:
        """Rows made, of both sides, copies included."""
        return int(self.data["counts"]["rows"])

    @property
    def calls_seen(self) -> int:
        """Calls met, and records that gave none; equals `calls_used` plus the sum of `skipped`."""
        return int(self.data["counts"]["calls_seen"])

    @property
    def calls_used(self) -> int:
        """Calls that gave rows."""
        return int(self.data["counts"]["calls_used"])

    @property
    def skipped(self) -> Mapping[str, int]:
        """Calls that gave none, by reason; reasons that did not occur are not in it."""
        return dict(self.data["counts"]["skipped"])

    @property
    def bad(self) -> int:
        """Calls left out because their data is bad, not because of a policy."""
        return int(self.data["counts"]["bad"])

    @property
    def examples(self) -> Mapping[str, list[str]]:
        """Up to three places and messages for each reason of `skipped`."""
        return dict(self.data["counts"]["examples"])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Files written."""
        return tuple(output["file"] for output in self.data["outputs"])

    def warnings(self) -> list[str]:
        """What is extreme about the data: each `name: sentence`, in a fixed order; empty when nothing is."""
        return find_warnings(self.data)

    def notes(self) -> list[str]:
        """What is worth knowing and no fault of the data, in the same form."""
        return find_notes(self.data)

    def text(self) -> str:
        """The data-shape report as plain text, without warnings and notes; ends in a newline."""
        return shape_text(self.data)
