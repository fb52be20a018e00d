"""Parquet files, read with the checksums of their pages checked. What pyarrow makes of a damaged file is one error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tito.errors import DataError, with_hint

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["damage", "open_parquet", "read_group"]


def open_parquet(name: str) -> pq.ParquetFile:
    """Opens a file. Raises `DataError` for one that is damaged, `OSError` for what the system refuses."""
    import pyarrow.parquet as pq

    with damage(name):
        return pq.ParquetFile(name, page_checksum_verification=True)


def read_group(name: str, file: pq.ParquetFile, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """A row group of an opened file, or some columns of it. Raises as `open_parquet`."""
    with damage(name):
        table = file.read_row_group(group, columns=None if columns is None else list(columns))
        # Offsets that run backwards and text that is none are found here, and nowhere later.
        table.validate(full=True)
        return table


@contextmanager
def damage(name: str) -> Iterator[None]:
    """Turns what reading a damaged file raises into `DataError`.

    >>> with damage("rows.parquet"):
    ...     raise ValueError("page 3: corrupt")
    Traceback (most recent call last):
    tito.DataError: rows.parquet: the file is damaged: page 3: corrupt
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        # The system's own refusals have a number, Arrow's have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        said = " ".join(str(error).split())
        hint = "the file is cut off or was changed; convert again"
        raise with_hint(DataError(f"{name}: the file is damaged: {said}"), hint) from None
