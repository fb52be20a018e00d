"""Runs of the core and what they leave: for tests."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from tito import _core

DEFAULTS = json.loads(_core.defaults_json())
BUILT_IN = [json.loads(_core.built_in_profile(name)) for name in ("qwen3", "qwen3.5")]
QWEN3, QWEN35 = BUILT_IN


@dataclass
class Run:
    """What one conversion gave."""

    report: dict
    rows: list
    path: Path
    val: list

    @property
    def counts(self):
        return self.report["counts"]


def options_json(inputs, output=None, **options):
    inputs = [inputs] if isinstance(inputs, str | Path) else inputs
    options = {"from" if key == "from_format" else key: value for key, value in options.items()}
    return json.dumps({"inputs": [str(i) for i in inputs], "output": output and str(output), "workers": 1, **options})


def convert(inputs, output, **options):
    val = Path(output).with_suffix(f".val{Path(output).suffix}")
    report = convert_report(inputs, output, **options)
    return Run(report, read_rows(output), Path(output), read_rows(val) if options.get("val") else [])


def convert_report(inputs, output, **options):
    return json.loads(_core.convert(options_json(inputs, output, **options), _core.Progress()))


def count(inputs, **options):
    """The counts of a run that writes nothing."""
    return json.loads(_core.convert(options_json(inputs, **options), _core.Progress()))["counts"]


def read_rows(path):
    """Rows of a parquet file or of JSON lines, spans as tuples and hashes as hex."""
    path = Path(path)
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    for row in rows:
        if row["loss_spans"] is not None:
            row["loss_spans"] = [(s["start"], s["end"], s["weight"]) for s in row["loss_spans"]]
        if isinstance(row["capture_hash"], bytes):
            row["capture_hash"] = row["capture_hash"].hex()
    return rows


def left_behind(folder, *but):
    """What lies in a folder besides what should."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file() and p.name not in but)
