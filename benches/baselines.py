"""What a user writes today: captures to per-turn training rows with orjson (b) or pysimdjson (d), line by line.

    python benches/baselines.py b /tmp/A200.jsonl -o /tmp/b.parquet
    python benches/baselines.py d /tmp/A200.jsonl -o /tmp/d.parquet --tuned

Rows: rollout, turn, input_ids, output_ids without the think span (cut through the first closer and the newline-only
ids after it), weight (12 for turns 0-2, else 1). Both forms of `corpus.py` are read, in file order, in constant
memory. The writer is pyarrow's with its defaults; `--tuned` sets PLAIN, zstd and 8 MiB pages.

Needs the extra `bench` (orjson, pysimdjson) beside numpy and pyarrow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CLOSERS = {151644: 151668, 248045: 248069}  # by the id that starts a turn
NEWLINES = (198, 271)
UPWEIGHTED_TURNS, UPWEIGHT = 3, 12.0
BATCH_IDS = 4_000_000

SCHEMA = pa.schema(
    [
        ("rollout", pa.string()),
        ("turn", pa.int32()),
        ("input_ids", pa.list_(pa.int32())),
        ("output_ids", pa.list_(pa.int32())),
        ("weight", pa.float32()),
    ]
)


class Call(NamedTuple):
    rollout: str
    turn: int
    prompt: np.ndarray
    output: np.ndarray


def strip_think(output: np.ndarray, closer: int) -> np.ndarray:
    """The output from behind its first closer and the newlines that follow."""
    closers = np.flatnonzero(output == closer)
    if len(closers) == 0:
        return output
    start = int(closers[0]) + 1
    while start < len(output) and output[start] in NEWLINES:
        start += 1
    return output[start:]


def calls_of(record, ids: Callable[..., np.ndarray]) -> Iterator[Call]:
    """The calls of one line: a saved trajectory or a recorded call. `record` only needs `get` and `[]`."""
    if "messages" in record:
        rollout = "{}/{}/{}/{}".format(*(record[k] for k in ("repo", "task_id", "feature_id", "agent_id")))
        turn = 0
        for message in record["messages"]:
            extra = message.get("extra")
            capture = extra.get("token_capture") if extra is not None else None
            if capture is not None:
                yield Call(rollout, turn, ids(capture["prompt_token_ids"]), ids(capture["output_token_ids"]))
                turn += 1
    else:
        response = record["response"]
        output = ids(response["choices"][0]["token_ids"])
        yield Call(record["session_id"], record["turn"], ids(response["prompt_token_ids"]), output)


def calls_orjson(dump: Path) -> Iterator[Call]:
    import orjson

    with dump.open("rb") as lines:
        for line in lines:
            yield from calls_of(orjson.loads(line), lambda array: np.array(array, dtype=np.int32))


def calls_simdjson(dump: Path) -> Iterator[Call]:
    import simdjson

    def ids(array) -> np.ndarray:
        return np.frombuffer(array.as_buffer(of_type="i"), dtype=np.int64).astype(np.int32)

    parser = simdjson.Parser()
    with dump.open("rb") as lines:
        for line in lines:
            record = parser.parse(line)
            yield from calls_of(record, ids)
            del record  # the parser is used again only when nothing points into it


READERS = {"b": calls_orjson, "d": calls_simdjson}


@dataclass
class Batch:
    """Rows until they are enough for a row group."""

    rollouts: list[str] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    prompts: list[np.ndarray] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)
    ids: int = 0

    def add(self, call: Call) -> None:
        output = strip_think(call.output, CLOSERS[int(call.prompt[0])])
        self.rollouts.append(call.rollout)
        self.turns.append(call.turn)
        self.prompts.append(call.prompt)
        self.outputs.append(output)
        self.ids += len(call.prompt) + len(output)

    def table(self) -> pa.Table:
        turns = np.array(self.turns, dtype=np.int32)
        weights = np.where(turns < UPWEIGHTED_TURNS, UPWEIGHT, 1.0).astype(np.float32)
        columns = [pa.array(self.rollouts), turns, lists(self.prompts), lists(self.outputs), weights]
        return pa.table([pa.array(c) if isinstance(c, np.ndarray) else c for c in columns], schema=SCHEMA)


def lists(arrays: list[np.ndarray]) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([len(a) for a in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))


def writer_options(tuned: bool, level: int) -> dict:
    if not tuned:
        return {}
    return {
        "compression": "zstd",
        "compression_level": level,
        "data_page_size": 8 << 20,
        "use_dictionary": False,
        "column_encoding": "PLAIN",
        "write_statistics": False,
    }


def convert(reader: str, dump: Path, out: Path, *, tuned: bool = False, level: int = 1) -> int:
    """The number of rows written."""
    rows = 0
    batch = Batch()
    with pq.ParquetWriter(out, SCHEMA, **writer_options(tuned, level)) as writer:
        for call in READERS[reader](dump):
            batch.add(call)
            rows += 1
            if batch.ids >= BATCH_IDS:
                writer.write_table(batch.table())
                batch = Batch()
        if batch.turns:
            writer.write_table(batch.table())
    return rows


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("reader", choices=tuple(READERS), help="b: orjson; d: pysimdjson")
    p.add_argument("dump", type=Path, metavar="DUMP")
    p.add_argument("-o", "--out", type=Path, required=True)
    p.add_argument("--tuned", action="store_true", help="PLAIN, zstd, 8 MiB pages, no dictionary, no statistics")
    p.add_argument("--level", type=int, default=1, help="zstd level of --tuned")
    options = p.parse_args(argv)
    rows = convert(options.reader, options.dump, options.out, tuned=options.tuned, level=options.level)
    print(f"{rows} rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
