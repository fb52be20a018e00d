"""Rows files by the schema, made by hand: per-turn rows, merged rows, and those that Hypothesis draws."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from tito import _core

_TYPES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "fixed[16]": pa.binary(16),
    "list<int32>": pa.list_(pa.field("element", pa.int32(), nullable=False)),
    "list<int8>": pa.list_(pa.field("element", pa.int8(), nullable=False)),
    "list<float32>": pa.list_(pa.field("element", pa.float32(), nullable=False)),
}
DECLARED = json.loads(_core.schema_json())["columns"]


def _type(column):
    if column["type"] != "list<struct>":
        return _TYPES[column["type"]]
    fields = [pa.field(f["name"], _TYPES[f["type"]], nullable=f["nullable"]) for f in column["fields"]]
    return pa.list_(pa.field("element", pa.struct(fields), nullable=False))


def schema(*optional):
    columns = [column for column in DECLARED if not column["optional"] or column["name"] in optional]
    return pa.schema([pa.field(c["name"], _type(c), nullable=c["nullable"]) for c in columns])


def row(input_ids, output_ids=(), spans=None, **more):
    """One row; spans as (start, end, weight). A row without output is a merged one."""
    spans = None if spans is None else [dict(zip(("start", "end", "weight"), span, strict=True)) for span in spans]
    call = {"turn": 0, "call_id": "c", "file": "calls.jsonl", "record": 1, "hash": bytes(16)}
    given = {
        "input_ids": list(input_ids),
        "output_ids": list(output_ids),
        "loss_spans": spans,
        "calls": None if output_ids else [{"start": s["start"], "end": s["end"], **call} for s in spans or []],
        "weight": 1.0,
        "source": "native",
        "capture_format": "native",
        "capture_file": "calls.jsonl",
        "capture_record": 1,
        "capture_hash": bytes(16),
        "flags": 2,
    }
    return {**{column["name"]: None for column in DECLARED if not column["optional"]}, **given, **more}


def write(path, rows, kind="turn", group=None):
    """A rows file as `convert` names things in it; `group` rows to a row group."""
    path = Path(path)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(_json(row)) + "\n" for row in rows))
        return path
    optional = ("output_logprobs",) if rows and "output_logprobs" in rows[0] else ()
    keys = {"tito.schema_version": "1", "tito.rows": kind, "tito.profile": "qwen3"}
    table = pa.Table.from_pylist(rows, schema=schema(*optional).with_metadata(keys))
    pq.write_table(table, path, row_group_size=group or 1 << 20)
    return path


def _json(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _json(inner) for name, inner in value.items()}
    if isinstance(value, float) and value != value:
        return None
    return [_json(inner) for inner in value] if isinstance(value, list) else value


ids = st.lists(st.integers(0, 2**31 - 1), max_size=8)
# Multiples of a quarter are exact as float32 and in sums.
weights = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 2.0, 3.5, 12.0])


@st.composite
def spans(draw, length, weight):
    """Ascending spans that do not overlap; some are empty."""
    ends = sorted(draw(st.lists(st.integers(0, length), min_size=0, max_size=6)))
    return [(a, b, draw(weight)) for a, b in zip(ends[::2], ends[1::2], strict=False)]


@st.composite
def rows(draw, weight=weights, merged=None):
    """A few rows of one kind; in some files they have logprobs, in merged rows one for each id."""
    merged = draw(st.booleans()) if merged is None else merged
    logprobs = draw(st.booleans())
    made = []
    for at in range(draw(st.integers(1, 6))):
        prompt, output = draw(ids), [] if merged else draw(ids)
        told = draw(spans(len(prompt) + len(output), weight)) if merged or draw(st.booleans()) else None
        who = {"rollout_id": draw(st.sampled_from(["a", "b", None])), "turn": at, "flags": draw(st.integers(0, 3))}
        reward = draw(st.sampled_from([None, 0.0, 1.0]))
        if logprobs:
            values = [-float(n) / 4 for n in range(1, len(prompt if merged else output) + 1)]
            trained = {n for start, end, _ in told or [] for n in range(start, end)}
            if merged:
                values = [value if n in trained else float("nan") for n, value in enumerate(values)]
            who["output_logprobs"] = draw(st.sampled_from([values, None]))
        made.append(row(prompt, output, told, weight=draw(weight), reward=reward, **who))
    return made
