"""How fast rows become training examples, beside bare slices of the file by pyarrow. Equal arrays first, then ratios.

    python benches/corpus.py dump.jsonl --size 200MB && tito convert dump.jsonl -o rows.parquet
    python benches/loader.py rows.parquet

All loops run interleaved in one process, the best of --runs each; what counts is the ratio.
"""

import argparse
import time

import numpy as np
import pyarrow.parquet as pq
import tito
from tito.train import TitoSFTDataset
from tito.train.table import Table


def slices(path):
    """Prompt and output of each row as views of what pyarrow decoded: no joining, no labels."""
    for batch in pq.ParquetFile(path).iter_batches(batch_size=64, columns=["input_ids", "output_ids"]):
        columns = [batch.column(0), batch.column(1)]
        parts = [(c.offsets.to_numpy(), c.values.to_numpy()) for c in columns]
        for row in range(batch.num_rows):
            yield [values[offsets[row] : offsets[row + 1]] for offsets, values in parts]


def raw(path):
    return sum(len(a) + len(b) for a, b in slices(path))


def joined(path):
    total = 0
    for a, b in slices(path):
        ids = np.concatenate((a, b))
        labels = ids.copy()
        labels[: len(a)] = -100
        total += len(labels)
    return total


def in_order(path):
    """Every row once, cold: decoding included, ids and labels made."""
    table = Table(path)
    total = 0
    for group in table.groups():
        for row in range(group.rows):
            total += len(group.example(row)[1])
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    path = given.rows
    data = TitoSFTDataset(path, weights="ignore")
    for number, (a, b) in enumerate(slices(path)):
        sample = data[number]
        assert np.array_equal(sample["input_ids"], np.concatenate((a, b))), number
        assert (sample["labels"] != -100).sum() == len(b), number
    shuffled = np.random.default_rng(0).permutation(len(data)).tolist()
    few = tito.open_rows(path)

    loops = {
        "pyarrow, bare slices, decoding": lambda: raw(path),
        "pyarrow, joined and labelled, decoding": lambda: joined(path),
        "tito, in order, decoding": lambda: in_order(path),
        "TitoSFTDataset, shuffled, decoded": lambda: sum(len(data[n]["labels"]) for n in shuffled),
        "open_rows, in order, decoding": lambda: sum(len(r.input_ids) + len(r.output_ids) for r in few),
    }
    best = dict.fromkeys(loops, float("inf"))
    for _ in range(given.runs):
        for name, loop in loops.items():
            start = time.process_time()
            total = loop()
            best[name] = min(best[name], time.process_time() - start)
    print(f"{len(data):,} rows, {total:,} ids; CPU seconds, the best of {given.runs}")
    bare = best["pyarrow, bare slices, decoding"]
    for name, seconds in best.items():
        print(f"{name:<42} {total / seconds / 1e6:>8.0f} M ids/s {bare / seconds:>6.2f} x bare slices")


if __name__ == "__main__":
    main()
