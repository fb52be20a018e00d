"""The same examples as a stream: for loaders that want a torch `IterableDataset`, sharded by rank and by worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from tito.train.collate import filler
from tito.train.dataset import Sample, TitoSFTDataset
from tito.train.order import EpochOrder

__all__ = ["TitoIterableDataset"]


class TitoIterableDataset(IterableDataset[Sample]):  # type: ignore[misc]
    """Examples of a `TitoSFTDataset` in the order of `EpochOrder`, each on one rank and in one worker.

    Every rank yields as many examples; fillers (no loss, `rows` -1) make up the rest. `set_epoch` changes the order;
    `state_dict` and `load_state_dict` go on where a stream was left (without workers, or under a loader that keeps each
    worker's state, such as torchdata's). `rank` and `world` are those of `torch.distributed` unless told.
    """

    def __init__(
        self,
        dataset: TitoSFTDataset,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world: int | None = None,
        pad_id: int = 0,
    ) -> None:
        live = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.dataset, self._pad_id = dataset, pad_id
        self._world = (torch.distributed.get_world_size() if live else 1) if world is None else world
        rank = (torch.distributed.get_rank() if live else 0) if rank is None else rank
        self._order = EpochOrder(
            len(dataset), rank=rank, world=self._world, seed=seed, shuffle=shuffle, blocks=dataset.blocks
        )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        here, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        done = self._order.state_dict()["done"]
        for number, example in enumerate(self._order, done):
            if number % workers == here:
                yield self.dataset[example] if example < len(self.dataset) else filler(self._pad_id)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration."""
        self._order.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return self._order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on there."""
        self._order.load_state_dict(state)
