"""Examples laid end to end before they are written: for trainers that take packs as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from tito._core import lay_packs, plan_packs
from tito.export.contract import Counts, Examples, as_lists

__all__ = ["packed_tables"]


def packed_tables(parts: Iterator[Examples], length: int, counts: Counts) -> Iterator[Mapping[str, pa.Array]]:
    """Packs of at most `length` ids: `input_ids`, `labels`, and `seq_lengths`, which tell the sequences apart.

    Rows are packed with those that are read together (about 4 M ids), so that memory does not grow with the file.
    """
    counts.packed = True
    records = longest = 0
    for examples in parts:
        rows, starts, _ = plan_packs(np.diff(examples.offsets), length)
        laid = lay_packs(examples.ids, examples.weights, examples.offsets, rows, starts)
        input_ids, labels, _, _, sequence_starts, pack_starts = laid
        records += len(starts) - 1
        longest = max(longest, int(np.diff(pack_starts).max(initial=0)))
        lengths = np.diff(sequence_starts).astype(np.int32)
        yield {
            "input_ids": as_lists(input_ids, pack_starts),
            "labels": as_lists(labels, pack_starts),
            "seq_lengths": as_lists(lengths, starts),
        }
    counts.rows_written, counts.longest = records, longest
