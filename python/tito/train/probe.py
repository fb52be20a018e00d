"""The place where a behaviour probe is hung into a run: it is called at checkpoints, and its numbers stand in the log.

A loss says little about behaviour: one run may have a lower loss and do worse. So where there is a probe, the best
checkpoint is chosen by it, and without one no loss is taken in its place unasked.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from tito.errors import UsageError, with_hint

__all__ = ["Probe", "load_probe"]


_NAMED = "`replies`, or package.module:name of one of your own"


class Probe(Protocol):
    """Looks at the model as it is now. `model` is the trained model in evaluation mode, on its device; `step` is 0
    before the first one.

    Gives numbers by name, the higher the better; checkpoints are chosen by `score`, or by the one that `metric` names.
    Every rank calls it; the numbers of the first one count.
    """

    def __call__(self, model: Any, *, step: int) -> Mapping[str, float]: ...


def load_probe(name: str) -> Probe:
    """The probe `package.module:name`: a function, or a class that is made without arguments."""
    module, _, attribute = name.partition(":")
    try:
        probe = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise with_hint(UsageError(f"probe {name}: {error}"), _NAMED) from None
    if isinstance(probe, type):
        probe = probe()
    if not callable(probe):
        raise with_hint(UsageError(f"probe {name}: not a function"), _NAMED)
    return probe  # type: ignore[no-any-return]
