"""Captures straight to a trainer's columns: rows are made beside the output, exported and removed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tito._core import Progress
from tito.calls import Policies
from tito.convert import convert
from tito.errors import UsageError, WorldError, with_hint
from tito.export.run import Exported, output_path, plan, write_export
from tito.paths import Paths
from tito.report import Report

__all__ = ["export_captures"]


def export_captures(
    inputs: Paths,
    out: str | os.PathLike[str],
    *,
    format: str,
    options: Mapping[str, Any],
    policies: Policies,
    expect_rows: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    **reading: Any,
) -> tuple[Report, Exported]:
    """`tito.convert` and then `tito.export`, with nothing between them left behind.

    `options` are those of `export`; `reading` are those of `convert` that say what the input is. `expect_rows` counts
    the export's records.
    """
    path = output_path(out)
    how = plan(format, path, **options)
    if policies.group_by != "none":
        raise with_hint(
            UsageError(f"group_by={policies.group_by} makes several files, an export is one"),
            "convert without a format, then export each file",
        )
    if policies.val is not None:
        raise with_hint(
            UsageError(f"val={policies.val:g} makes a second file of rows, an export is one"),
            "convert with it and without a format, then export rows.parquet and rows.val.parquet",
        )
    try:
        folder = tempfile.TemporaryDirectory(prefix=".tito-export-", dir=path.parent)
    except OSError as error:
        raise with_hint(WorldError(f"{path}: cannot write: {error.strerror}"), "check the output's folder") from None
    with folder:
        rows = Path(folder.name) / "rows.parquet"
        report = convert(inputs, rows, policies=policies, progress=progress, **reading)
        origin = {"captures": report.data["inputs"], "rows_made": report.rows}
        exported = write_export(how, rows, path, expect_rows=expect_rows, origin=origin)
    # The rows and their manifest are gone.
    data = {name: value for name, value in report.data.items() if name != "manifest"}
    return Report({**data, "outputs": [], "export": exported.data}), exported
