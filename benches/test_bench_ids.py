"""Think strip through the public API, beside numpy, a byte search and one pass over the memory: is the boundary thin?

    pytest benches/test_bench_ids.py --benchmark-columns=min,median,iqr
    pytest benches/test_bench_ids.py -k short            # what a call costs, beside np.asarray

Each benchmark first asserts that its result is the rule's: all ids from behind the first closer and the newline-only
ids after it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tito
from corpus import BLANK_LINE, FAMILIES, NEWLINE

THINK_END = FAMILIES["qwen3"].think[1]
CLOSER = np.int32(THINK_END).tobytes()


def after_newlines(ids: np.ndarray, start: int) -> np.ndarray:
    while start < len(ids) and ids[start] in (NEWLINE, BLANK_LINE):
        start += 1
    return ids[start:].copy()


def strip_flatnonzero(ids: np.ndarray) -> np.ndarray:
    """What a user writes."""
    closers = np.flatnonzero(ids == THINK_END)
    return after_newlines(ids, int(closers[0]) + 1) if len(closers) else ids.copy()


def strip_find(ids: np.ndarray, raw: bytes) -> np.ndarray:
    """A search for four bytes in the same memory, and the copy. A match across two ids is looked past."""
    at = raw.find(CLOSER)
    while at > 0 and at % 4:
        at = raw.find(CLOSER, at + 1)
    return after_newlines(ids, at // 4 + 1) if at >= 0 else ids.copy()


def strip_known(ids: np.ndarray, looked_at: int, start: int) -> np.ndarray:
    """The floor: what must be looked at is read once, by a vector loop, and what stays is copied."""
    ids[:looked_at].max()
    return ids[start:].copy()


def strip_by_hand(ids: np.ndarray) -> list[int]:
    """The rule once more, as slowly as it can be said."""
    values = ids.tolist()
    if THINK_END not in values:
        return values
    rest = values[values.index(THINK_END) + 1 :]
    while rest and rest[0] in (NEWLINE, BLANK_LINE):
        rest.pop(0)
    return rest


STRIPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tito": tito.strip_think,
    "flatnonzero": strip_flatnonzero,
}


@pytest.mark.parametrize("strip", STRIPS.values(), ids=STRIPS.keys())
def test_strip_think(benchmark, output, strip):
    benchmark.group = group(output)
    assert np.asarray(strip(output)).tolist() == strip_by_hand(output)
    benchmark(strip, output)


def test_strip_find(benchmark, output):
    benchmark.group = group(output)
    raw = output.tobytes()
    assert strip_find(output, raw).tolist() == strip_by_hand(output)
    benchmark(strip_find, output, raw)


def test_strip_floor(benchmark, output):
    benchmark.group = group(output)
    closers = np.flatnonzero(output == THINK_END)
    looked_at = int(closers[0]) + 1 if len(closers) else len(output)
    start = len(output) - len(strip_by_hand(output))
    assert strip_known(output, looked_at, start).tolist() == strip_by_hand(output)
    benchmark(strip_known, output, looked_at, start)


def group(output: np.ndarray) -> str:
    return f"strip_think, {len(output):,} ids, {'closed' if THINK_END in output else 'no thinking'}"


CALLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"tito": tito.strip_think, "asarray": np.asarray}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_short_call(benchmark, short_output, call):
    benchmark.group = "one call on 16 ids"
    result = benchmark(call, short_output)
    assert result.dtype == np.int32
    if call is tito.strip_think:
        assert result.tolist() == strip_by_hand(short_output)


def test_list_short_call(benchmark, short_output):
    """A list is converted once, on the way in."""
    benchmark.group = "one call on 16 ids"
    ids = short_output.tolist()
    assert benchmark(tito.strip_think, ids).tolist() == strip_by_hand(short_output)
