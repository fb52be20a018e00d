"""Training on rows: `tito train`, and the datasets it is made of for other trainers.

Importing this touches neither torch nor pyarrow; a name is loaded when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tito.train.collate import TitoCollator
    from tito.train.config import TrainConfig
    from tito.train.dataset import TitoSFTDataset
    from tito.train.order import EpochOrder
    from tito.train.probe import Probe
    from tito.train.run import train
    from tito.train.stream import TitoIterableDataset
    from tito.train.verl import TitoVerlDataset

__all__ = [
    "EpochOrder",
    "Probe",
    "TitoCollator",
    "TitoIterableDataset",
    "TitoSFTDataset",
    "TitoVerlDataset",
    "TrainConfig",
    "train",
]

_WHERE = {
    "EpochOrder": "order",
    "Probe": "probe",
    "TitoCollator": "collate",
    "TitoIterableDataset": "stream",
    "TitoSFTDataset": "dataset",
    "TitoVerlDataset": "verl",
    "TrainConfig": "config",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tito.train.{_WHERE[name]}"), name)
