"""What an export is written as: a parquet file, JSON lines or a folder of datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tito.errors import WorldError, with_hint

__all__ = ["write_folder", "write_lines", "write_parquet", "write_records"]

# Columns that hold few different values are a fraction of a byte each as a dictionary; ids are larger as one.
_FEW_VALUES = ("loss_mask", "attention_mask")

# As Python numbers ids are ten times as large.
_ROWS_AT_A_TIME = 16

Table = Mapping[str, pa.Array]


def write_parquet(tables: Iterator[Table], schema: pa.Schema, place: Path) -> None:
    """Tables as row groups."""
    few = [f"{name}.list.element" for name in schema.names if name in _FEW_VALUES]
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": few or False,
        "write_statistics": False,
        "data_page_size": 8 << 20,
        "write_page_index": True,
        "write_page_checksum": True,
    }
    with pq.ParquetWriter(place, schema, **options) as writer:
        for table in tables:
            writer.write_table(_table(table, schema))


def write_lines(tables: Iterator[Table], place: Path) -> None:
    """Tables as one JSON object a row."""
    batches = (batch for table in tables for batch in pa.table(dict(table)).to_batches(_ROWS_AT_A_TIME))
    write_records((row for batch in batches for row in batch.to_pylist()), place)


def write_records(records: Iterator[dict[str, Any]], place: Path) -> None:
    """Objects as JSON lines."""
    with place.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
            file.write("\n")


def write_folder(tables: Iterator[Table], schema: pa.Schema, place: Path) -> None:
    """Tables as a `DatasetDict` with the split `train`, as `datasets` saves it."""
    try:
        from datasets import Dataset, DatasetDict
    except ImportError:
        raise with_hint(
            WorldError("a folder of datasets is written with the package datasets, which is not there"),
            "pip install 'tito-distill[export]'",
        ) from None
    # A stream of Arrow batches is what `datasets` maps into memory, so nothing is held at once.
    stream = place.with_suffix(".arrow")
    with pa.OSFile(str(stream), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for table in tables:
            writer.write_table(_table(table, schema))
    dataset = Dataset.from_file(str(stream))
    DatasetDict({"train": dataset}).save_to_disk(str(place))
    del dataset
    stream.unlink()


def _table(table: Table, schema: pa.Schema) -> pa.Table:
    return pa.table(dict(table), schema=schema)
