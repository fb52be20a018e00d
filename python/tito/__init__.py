"""Token-exact agent distillation: captures in, training rows out, nothing re-tokenised.

The public face. Everything here is typed; what is native is documented in `_core.pyi`.
"""

from typing import TYPE_CHECKING, Any

from tito._core import __version__, find_think, labels, loss_mask, plan_packs, strip_think
from tito.calls import Call, Policies, Row
from tito.convert import check, convert
from tito.errors import DataError, TitoError, UsageError, WorldError
from tito.export.run import export
from tito.pack import pack
from tito.profile import Profile
from tito.rows import open_rows
from tito.turns import expand_turns, merge_calls
from tito.verify import verify

if TYPE_CHECKING:
    from tito.capture.record.face import recording

__all__ = [
    "Call",
    "DataError",
    "Policies",
    "Profile",
    "Row",
    "TitoError",
    "UsageError",
    "WorldError",
    "__version__",
    "check",
    "convert",
    "expand_turns",
    "export",
    "find_think",
    "labels",
    "loss_mask",
    "merge_calls",
    "open_rows",
    "pack",
    "plan_packs",
    "recording",
    "strip_think",
    "verify",
]


def __getattr__(name: str) -> Any:
    # A fifth of what importing this costs, and most programs never record.
    if name == "recording":
        from tito.capture.record.face import recording

        return recording
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
