"""Packs: which rows stand behind one another in one sequence. No row is ever cut.

Best-fit decreasing on lengths: the longest row first, each into the fullest pack that still holds it.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

__all__ = ["pack"]


def pack(lengths: npt.NDArray[np.int64], capacity: int) -> list[npt.NDArray[np.int64]]:
    """Positions in `lengths`, pack by pack; in a pack they ascend, and packs stand by their first position. Lengths of
    `capacity` or more stand alone.

    >>> [p.tolist() for p in pack(np.array([5, 9, 3, 4, 1]), 9)]
    [[0, 3], [1], [2, 4]]
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, pack), ascending
    for at in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[at])
        fits = bisect_left(room, (length, -1))
        if fits < len(room):
            left, number = room.pop(fits)
        else:
            left, number = max(capacity, length), len(packs)
            packs.append([])
        packs[number].append(at)
        if left > length:
            insort(room, (left - length, number))
    return [np.array(sorted(members), np.int64) for members in sorted(packs, key=min)]
