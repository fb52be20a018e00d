"""What the calls behind rows were asked and answered: their messages as text, for whatever works on text.

The calls are those that `convert` would make rows of: the same files, rollouts, policies and reasons, told by the same
report. The core reads the captures twice, first for the calls and then for their text, a stretch at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tito import _core
from tito._core import Progress
from tito.calls import Policies
from tito.convert import core_options
from tito.paths import Paths, utf8_path
from tito.profile import Profile
from tito.report import Report
from tito.watched import watched

__all__ = ["Exchange", "Exchanges", "read_exchanges"]

_DEFAULTS = Policies()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One call that gives a row: where it stands, who made it, and its text as JSON, bytes as the capture has them.

    The text is not looked into: what is inside a message may be damaged. Ids that a format saves in messages are left
    out of them.
    """

    file: str
    record: int
    """From 1."""
    rollout: int
    """Which rollout of the input: two agents that share a session are two."""
    rollout_id: str | None
    task_id: str | None
    pair_id: str | None
    agent: str | None
    status: str | None
    attempt: int | None
    reward: float | None
    call_id: str | None
    kind: str | None
    turn: int | None
    last: bool
    """No call of the rollout that gives a row comes later."""
    messages: bytes | None
    """A list: what the request sent. None where the capture holds no messages."""
    tools: bytes | None
    model: bytes | None
    reply: bytes | None
    """The message of the reply."""


class Exchanges(Iterator[Exchange]):
    """See `read_exchanges`."""

    def __init__(self, options: str, progress: Callable[[Progress], None] | None) -> None:
        self._watch = progress
        self._progress, self._core = watched(lambda made: (made, _core.Exchanges(options, made)), progress)
        self._batch: Iterator[dict[str, Any]] = iter(())

    @property
    def report(self) -> Report:
        """What `check` with the same policies would say."""
        return Report(json.loads(self._core.report))

    def __next__(self) -> Exchange:
        while (one := next(self._batch, None)) is None:
            batch = self._core.next_batch()
            if self._watch is not None:
                self._watch(self._progress)
            if batch is None:
                raise StopIteration
            self._batch = iter(batch)
        return Exchange(**one)


def read_exchanges(
    inputs: Paths,
    *,
    policies: Policies = _DEFAULTS,
    profile: Profile | str | os.PathLike[str] | None = None,
    from_format: str | None = None,
    output: str | os.PathLike[str] | None = None,
    workers: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Exchanges:
    """The calls that `convert` would make rows of, as text, in the order of the captures.

    `policies` say which calls those are; what they would do to ids is not done to the text. `output` is where the
    caller will write: it may be no input, and what must lie on disk for a while lies beside it. The other options are
    those of `convert`.

    Raises what `convert` raises, and `UsageError` for input that can be read only once; while it is read, `DataError`
    for captures that changed in the meantime.

    >>> exchanges = read_exchanges("calls.jsonl")
    >>> exchanges.report.calls_used == sum(1 for _ in exchanges)
    True
    """
    options = core_options(inputs, policies, profile, None, from_format, workers, False)
    name = None if output is None else utf8_path(output)
    return Exchanges(json.dumps({**options, "output": name}), progress)
