"""In which order examples are trained: a permutation by seed and epoch, the same on every rank, fillers at its end.

Where examples do not divide by ranks x batch, loaders repeat the first ones without a word. Here the rest is made up of
fillers: numbers from `examples` on, which train nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["WINDOW", "EpochOrder", "epoch_order", "fillers"]

WINDOW = 8
"""Stretches of a file among which examples are shuffled."""


def fillers(examples: int, multiple: int) -> int:
    """How many fillers make a number of examples divide.

    >>> fillers(25, 2), fillers(24, 2)
    (1, 0)
    """
    return -examples % multiple


def epoch_order(
    examples: int,
    *,
    seed: int,
    epoch: int,
    multiple: int = 1,
    shuffle: bool = True,
    blocks: npt.NDArray[np.int64] | None = None,
    window: int = WINDOW,
) -> npt.NDArray[np.int64]:
    """Numbers of an epoch's examples, fillers behind them.

    `blocks` gives the stretch of the file in which each example stands: then stretches are shuffled, and examples only
    among `window` of them, so that no more than that is decoded at a time. Without it every order is as likely.

    >>> epoch_order(5, seed=0, epoch=0, multiple=4, shuffle=False).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    extra = np.arange(examples, examples + fillers(examples, multiple))
    if not shuffle:
        return np.concatenate((np.arange(examples), extra))
    random = np.random.default_rng([seed, epoch])
    if blocks is None:
        return np.concatenate((random.permutation(examples), extra))
    names = np.unique(blocks)
    place = np.empty(int(names.max(initial=0)) + 1, np.int64)
    place[names] = random.permutation(len(names)) // window
    return np.concatenate((np.lexsort((random.random(examples), place[blocks])), extra))


class EpochOrder:
    """A sampler: numbers of examples for one rank (or, with `world=1`, for a loader that shards by itself).

    Fits `torch.utils.data.DataLoader(sampler=...)`. `set_epoch` changes the order; `state_dict` and `load_state_dict`
    go on where an epoch was left.

    >>> order = EpochOrder(5, batch=2, world=2, rank=1, shuffle=False)
    >>> list(order)
    [2, 3, 6, 7]
    """

    def __init__(
        self,
        examples: int,
        *,
        batch: int = 1,
        rank: int = 0,
        world: int = 1,
        multiple: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        blocks: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self._examples, self._seed, self._shuffle, self._blocks = examples, seed, shuffle, blocks
        self._batch, self._rank, self._world = batch, rank, world
        self._multiple = batch * world if multiple is None else multiple
        self._epoch = self._done = 0

    def __len__(self) -> int:
        return (self._examples + fillers(self._examples, self._multiple)) // self._world

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(
            self._examples,
            seed=self._seed,
            epoch=self._epoch,
            multiple=self._multiple,
            shuffle=self._shuffle,
            blocks=self._blocks,
        )
        # Batch after batch goes round the ranks, as accelerate deals them out.
        mine = order.reshape(-1, self._world, self._batch)[:, self._rank].ravel() if self._world > 1 else order
        start, self._done = self._done, 0
        for number in mine[start:].tolist():
            start += 1
            self._done = start
            yield number
        self._done = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands."""
        return {"epoch": self._epoch, "done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on there."""
        self._epoch, self._done = int(state["epoch"]), int(state["done"])
