"""Rows files with a bit that flipped on a disk: an error that names the file, or the rows as they were written."""

import json
import os

import dumps
import numpy as np
import pytest
import tito
from tito import _core

COLUMNS = ["loss_mask", "loss_weights", "labels", "output_logprobs"]
POLICIES = tito.Policies(columns=COLUMNS, rows="auto", upweight="0:2")
# A prime, so that all eight bits come round: each bit of the file would take minutes.
STEP = 41


@pytest.fixture
def rows(tmp_path):
    """`calls.jsonl` and `rows.parquet`, a few kilobytes."""
    os.chdir(tmp_path)
    lines = [dumps.line(n, rollout_id=f"r{n}", logprobs=[-0.5] * 3, reward=0.5 * n) for n in range(2)]
    dumps.write(tmp_path / "calls.jsonl", *lines)
    tito.convert("calls.jsonl", "rows.parquet", policies=POLICIES)
    return tmp_path / "rows.parquet"


def flipped(path, step=STEP):
    """The file with one bit flipped, again and again; yields where."""
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), step):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        yield bit
    path.write_bytes(whole)


def values(path):
    """All that is read of a file."""
    opened = tito.open_rows(path)
    names = [name for name in opened.columns if name in tito.Row.__slots__]
    plain = lambda value: value.tolist() if isinstance(value, np.ndarray) else value  # noqa: E731
    return [{name: plain(getattr(row, name)) for name in names} for row in opened]


def equal(found, expected):
    """Rows as they were written; a column on request that lost its name is passed over, as other tools' columns are."""
    required = {column["name"] for column in json.loads(_core.schema_json())["columns"] if not column["optional"]}
    return len(found) == len(expected) and all(
        required <= one.keys() and all(other[name] == value for name, value in one.items())
        for one, other in zip(found, expected, strict=True)
    )


def test_verify_tells_damage(rows, capfd):
    outcomes, told = {"ok": 0, "found": 0, "refused": 0}, []
    for _ in flipped(rows):
        try:
            found = tito.verify(rows, "calls.jsonl", workers=1)
            outcomes["ok" if found.ok else "found"] += 1
        except tito.DataError as error:
            outcomes["refused"] += 1
            told.append(str(error))
    assert [error for error in told if not error.startswith(f"{rows}: ")] == []
    assert outcomes["refused"] > outcomes["ok"] > 0
    assert capfd.readouterr() == ("", "")


def test_what_is_read_is_what_was_written(rows):
    expected = values(rows)
    told = []
    for bit in flipped(rows):
        try:
            assert equal(values(rows), expected), bit
        except tito.DataError as error:
            told.append(str(error))
    assert [error for error in told if not error.startswith(f"{rows}: ")] == []
    assert len(told) > 100


def test_an_id_that_flips_is_told_by_the_checksum(rows):
    whole = rows.read_bytes()
    # A page this small is stored as it is.
    at = whole.index(np.array([*dumps.OUTPUT[:1], 1000, *dumps.OUTPUT[1:]], "<i4").tobytes())
    rows.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(tito.DataError) as caught:
        tito.open_rows(rows)[0]
    what = "could not verify page integrity, CRC checksum verification failed for page_ordinal 0"
    assert str(caught.value) == f"{rows}: the file is damaged: {what}"
    assert caught.value.hint == "the file is cut off or was changed; convert again"
    with pytest.raises(tito.DataError) as caught:
        tito.export(rows, "o.parquet", format="trl")
    assert str(caught.value).startswith(f"{rows}: the file is damaged: ")
    with pytest.raises(tito.DataError) as caught:
        tito.verify(rows, "calls.jsonl")
    assert str(caught.value).startswith(f"{rows}: the file is damaged: row 0 or behind: ")
    assert str(caught.value).endswith(": Page CRC checksum mismatch")
