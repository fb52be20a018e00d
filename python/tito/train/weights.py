"""How often each row is trained, and with what weight: copies of indices where they can say it, else a weighted loss.

Repeating a row's index is training its copies, bit for bit. A weight below 1, or weights that differ inside a row, can
only be said by the loss: `sum(w * nll) / (loss tokens of the step * W)` with W a constant of the whole set (its mean
token weight; its mean row weight where a step holds one row). A divisor of the step's own weights would cancel them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tito._core import Copies
from tito.errors import UsageError, with_hint
from tito.train.survey import Survey

__all__ = ["Exposure", "expose"]

Mode = Literal["auto", "repeat", "loss", "ignore"]


@dataclass(frozen=True, slots=True)
class Exposure:
    """What an epoch holds."""

    mode: Literal["repeat", "loss", "ignore"]
    why: str
    copies: npt.NDArray[np.int64]
    """How often each row stands in an epoch; 0 for rows that are left out."""
    divisor: float
    """W of the weighted loss; 1 where the loss is not weighted."""

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """Row numbers of an epoch, in file order, repeated."""
        return np.repeat(np.arange(len(self.copies)), self.copies)


def expose(survey: Survey, keep: npt.NDArray[np.bool_], *, mode: Mode, seed: int, one_row_a_step: bool) -> Exposure:
    """Decides it for the rows in `keep`. A row of weight 0 is never trained, in any mode but `ignore`. Raises
    `UsageError` where copies are asked for and weights differ inside a row."""
    weight = survey.weight
    used = keep & ((weight > 0) | (mode == "ignore"))
    if mode == "ignore":
        return Exposure("ignore", "weights are ignored, as asked", used.astype(np.int64), 1.0)
    chosen, why = _choose(survey, used, mode)
    if chosen == "repeat":
        copies = np.zeros(len(weight), np.int64)
        copies[used] = Copies(seed).draw(weight[used].astype(np.float32))
        return Exposure("repeat", why, copies, 1.0)
    tokens = survey.loss_tokens[used]
    if one_row_a_step:
        divisor = float(weight[used].mean()) if used.any() else 1.0
    else:
        divisor = float((weight[used] * tokens).sum() / max(int(tokens.sum()), 1))
    return Exposure("loss", why, used.astype(np.int64), divisor)


def _choose(survey: Survey, used: npt.NDArray[np.bool_], mode: Mode) -> tuple[Literal["repeat", "loss"], str]:
    if mode == "loss":
        return "loss", "the loss is weighted, as asked"
    if uneven := int((~survey.even & used).sum()):
        if mode == "repeat":
            raise with_hint(
                UsageError(
                    f"weights: repeat, but {uneven} rows weigh their tokens differently, which copies cannot say"
                ),
                "convert with --upweight-as copies, or take weights: auto where the trainer knows weights",
            )
        return "loss", f"{uneven} rows weigh their tokens differently: the loss is weighted, no index is repeated"
    if (below := int(((survey.weight < 1 - 1e-6) & used).sum())) and mode == "auto":
        return "loss", f"{below} rows weigh less than 1: the loss is weighted, no index is repeated"
    if bool((survey.weight[used] == 1).all()):
        return "repeat", "every row weighs 1"
    return "repeat", "rows are repeated by weight"
