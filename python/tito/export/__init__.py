"""Rows in the columns that one trainer reads. One file a trainer, each of which says what it wants and what is lost.

`CONTRACTS` names the files; a contract is loaded when it is asked for, so that no trainer's package is touched by
another's export, and none at all by `import tito`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_args

from tito.errors import UsageError, with_hint

if TYPE_CHECKING:
    from tito.export.contract import Contract

__all__ = ["FORMATS", "Format", "find_contract"]

Format = Literal["trl", "skyrl", "verl", "axolotl", "llamafactory", "nemo-rl", "tinker", "slime"]
"""Trainers that rows can be written for."""
FORMATS: tuple[str, ...] = get_args(Format)


def find_contract(name: str) -> Contract:
    """The contract of a trainer. Raises `UsageError` for a name that is none.

    >>> find_contract("trl").weights
    'none'
    """
    if name not in FORMATS:
        raise with_hint(UsageError(f"format: {name!r} is none of {', '.join(FORMATS)}"), "choose one of them")
    contract: Contract = import_module(f"tito.export.{name.replace('-', '_')}").CONTRACT
    return contract
