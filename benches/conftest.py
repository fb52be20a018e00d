"""What the benchmarks of the public API share: outputs to cut, as ids.

    pytest benches --benchmark-columns=min,median,iqr,rounds

Needs the extra `dev` (pytest-benchmark). Without an installed `tito` they are skipped.
"""

from __future__ import annotations

import numpy as np
import pytest
from corpus import BLANK_LINE, FAMILIES, NEWLINE

SIZES = (1_000, 10_000, 100_000)
THINK_SHARE = 0.56


def sampled(size: int, closed: bool = True) -> np.ndarray:
    """An output of Qwen3: `<think>` newline ... newline `</think>` blank line ... `<|im_end|>`; or without thinking."""
    family = FAMILIES["qwen3"]
    ids = np.random.default_rng(size).integers(1000, 140_000, size, dtype=np.int32)
    ids[-1] = family.im_end
    if closed:
        end = int(size * THINK_SHARE)
        ids[:2] = family.think[0], NEWLINE
        ids[end - 3 : end] = NEWLINE, family.think[1], BLANK_LINE
    return ids


@pytest.fixture(params=SIZES, ids="{:,}".format)
def size(request) -> int:
    return request.param


@pytest.fixture(params=[True, False], ids=["closed", "absent"])
def output(request, size) -> np.ndarray:
    """One output, read-only as those that come from files."""
    ids = sampled(size, closed=request.param)
    ids.flags.writeable = False
    return ids


@pytest.fixture
def short_output() -> np.ndarray:
    """So short that only the call itself is measured."""
    return sampled(16)
