"""The place where a behaviour probe is hung into a run: it is called at checkpoints, and its numbers stand in the log.

A loss says little about behaviour: one run may have a lower loss and do worse. So where a probe is given, the best
checkpoint is chosen by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from tito.errors import UsageError, with_hint

__all__ = ["Probe", "load_probe"]


class Probe(Protocol):
    """Looks at the model as it is now. `model` is the trained model in evaluation mode, on its device.

    Gives numbers by name; `score` is the one that checkpoints are chosen by, the higher the better.
    """

    def __call__(self, model: Any, *, step: int) -> Mapping[str, float]: ...


def load_probe(name: str) -> Probe:
    """The probe `package.module:name`: a function, or a class that is made without arguments."""
    module, found, attribute = name.partition(":")
    try:
        probe = getattr(import_module(module), attribute) if found else None
    except (ImportError, AttributeError) as error:
        raise with_hint(UsageError(f"probe {name}: {error}"), "name it package.module:name") from None
    if isinstance(probe, type):
        probe = probe()
    if not callable(probe):
        raise with_hint(UsageError(f"probe {name}: not a function"), "name it package.module:name")
    return probe  # type: ignore[no-any-return]
