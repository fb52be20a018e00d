"""How many replies an assertion holds for: a share that is never told without its n and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tito.probe.assertions import Assertion, Reply

__all__ = ["Share", "share_of", "wilson"]

# Two-sided 95 %.
_Z = 1.959963984540054


@dataclass(slots=True)
class Share:
    """How many replies hold, of how many; with Wilson's interval and the first reasons why not."""

    held: int = 0
    n: int = 0
    interval: tuple[float, float] = (0.0, 1.0)
    why: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """`held / n`; 1 of nothing."""
        return self.held / self.n if self.n else 1.0

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.held}/{self.n} [{low:.0%}, {high:.0%}]" if self.n else "not asked"


def share_of(assertion: Assertion, replies: Sequence[Reply]) -> Share:
    """Judges each reply."""
    share = Share(n=len(replies))
    for reply in replies:
        said = assertion(reply)
        if said is True:
            share.held += 1
        elif len(share.why) < 3:
            share.why.append(said if isinstance(said, str) else "false")
    share.interval = wilson(share.held, share.n)
    return share


def wilson(held: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    >>> [round(edge, 2) for edge in wilson(10, 10)]
    [0.72, 1.0]
    """
    if n == 0:
        return 0.0, 1.0
    share, square = held / n, _Z * _Z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _Z / (1 + square / n) * (share * (1 - share) / n + square / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
