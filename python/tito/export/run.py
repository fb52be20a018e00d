"""One export: rows files in, one output in a trainer's columns and a manifest out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tito._core import __version__
from tito.errors import DataError, UsageError, WorldError, with_hint
from tito.export import Format, find_contract
from tito.files import file_hash, staged
from tito.paths import utf8_path

if TYPE_CHECKING:
    from tito.export.contract import Contract, Counts, Examples
    from tito.export.loss import Weights
    from tito.rows import RowsFile

__all__ = ["Exported", "Plan", "export", "plan", "write_export"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export did. `data` is the manifest: `format`, `options`, `counts`, `source`, `output`, `loses`,
    `settings`, `versions`."""

    data: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Records written, copies included."""
        return int(self.data["counts"]["rows_written"])

    @property
    def output(self) -> str:
        """The file or folder that was written."""
        return str(self.data["output"]["file"])

    @property
    def left_out(self) -> Mapping[str, int]:
        """Rows that are not in the output, by reason; reasons that did not occur are not in it."""
        return {reason: rows for reason, rows in self.data["counts"]["left_out"].items() if rows}

    def warnings(self) -> list[str]:
        """What a user would not expect: each `name: sentence`."""
        counts, found = self.data["counts"], []
        if counts.get("weights_dropped"):
            found.append(f"weights_dropped: {counts['weights_dropped']:,} rows lost what they weigh")
        for reason, rows in self.left_out.items():
            found.append(f"left_out: {rows:,} of {counts['rows_read']:,} rows: {reason}")
        if counts.get("first_ids"):
            found.append(f"first_ids: {counts['first_ids']:,} ids with loss stand first and carry none now")
        return found

    def text(self) -> str:
        """The same for people, without the warnings; ends in a newline."""
        counts = self.data["counts"]
        lines = [
            f"exported {counts['rows_exported']:,} of {counts['rows_read']:,} rows for {self.data['format']}: "
            f"{counts['rows_written']:,} records"
        ]
        if ids := counts.get("ids"):
            lines[0] += f", {ids:,} ids, {counts['loss_ids'] / ids:.1%} with loss"
            lines.append(
                f"weight of ids with loss: {counts['weight_read']:,.6g} of rows, {counts['weight_written']:,.6g} here"
            )
        lines += [
            f"not in it: {', '.join(self.data['loses'])}",
            *(f"set: {setting}" for setting in self.data["settings"]),
            f"written: {self.output} ({self.data['output']['bytes']:,} bytes)",
        ]
        return "\n".join(lines) + "\n"


def export(
    rows: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: Format,
    weights: Weights = "error",
    seed: int = 0,
    max_length: int | None = None,
    overlong: Literal["error", "drop"] = "error",
    pack: int | None = None,
    expect_rows: int | None = None,
) -> Exported:
    """Writes rows in the columns of one trainer: `trl`, `skyrl`, `verl`, `axolotl`, `llamafactory` (tables), `nemo-rl`,
    `tinker`, `slime` (JSON lines of their objects).

    `rows` is what `open_rows` opens, per-turn rows or merged ones. Prompt and output are joined, loss falls where
    `loss_spans` say and never on the first id of a sequence; rows without loss or of weight 0 are left out and counted.
    The suffix of `out`, `.parquet` or `.jsonl`, decides where the trainer takes both; llamafactory gets a folder. A
    manifest is written beside it.

    `weights` says what becomes of weights that the trainer cannot be told (per row nemo-rl takes them, per id tinker):
    `error`; `copies`, drawn with `seed`, with the same total; `drop`, every id with loss weighs 1. `max_length` with
    `overlong` bounds the ids of a row. `pack` (trl) lays whole rows into packs of so many ids, with `seq_lengths`.
    `expect_rows` is the number of records that must be written.

    Raises `UsageError` for options and for weights that the trainer cannot be told, `DataError` for rows that are
    damaged or too long, `WorldError` for files. After an error nothing stands under the name of `out`.

    >>> export("kept.parquet", "trl.parquet", format="trl").data["counts"]["rows_written"]
    36
    """
    options = {"weights": weights, "seed": seed, "max_length": max_length, "overlong": overlong, "pack": pack}
    path = output_path(out)
    how = plan(format, path, **options)
    return write_export(how, rows, path, expect_rows=expect_rows)


@dataclass(frozen=True, slots=True)
class Plan:
    """An export that was asked for and can be."""

    contract: Contract
    kind: str
    options: Mapping[str, Any]


def plan(format: str, path: Path, **options: Any) -> Plan:
    """Checks what can be checked before any row is read."""
    from tito.export.loss import Weights

    contract = find_contract(format)
    kind = _kind(contract, path)
    if options["weights"] not in get_args(Weights):
        raise with_hint(UsageError(f"weights: {options['weights']!r} is none of error, copies, drop"), "choose one")
    if options["pack"] is not None and not contract.packs:
        raise with_hint(UsageError(f"{contract.name} takes no packs"), "leave pack out: this trainer packs by itself")
    for name in ("pack", "max_length"):
        if options[name] is not None and options[name] < 2:
            raise with_hint(UsageError(f"{name}: rows of {options[name]} ids hold no loss"), "give more, like 8192")
    return Plan(contract, kind, options)


def write_export(
    how: Plan,
    rows: str | os.PathLike[str],
    path: Path,
    *,
    expect_rows: int | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Exported:
    """Does what was planned. `origin` is told in place of the rows file, where that is a temporary one."""
    from tito.export.batches import read_batches
    from tito.export.loss import Chooser
    from tito.rows import open_rows

    contract, options = how.contract, how.options
    source = open_rows(rows)
    if path.exists() and any(path.samefile(file) for file in source.files):
        raise with_hint(UsageError(f"{path} is an input and would be written over"), "write to another name")
    most = min((n for n in (options["max_length"], options["pack"]) if n is not None), default=None)
    chooser = Chooser(
        contract,
        weights=options["weights"],
        seed=options["seed"],
        max_length=most,
        drop_overlong=options["overlong"] == "drop",
        pack=options["pack"] or 0,
    )
    counts = chooser.counts
    parts = (part for batch in read_batches(source.files, contract.columns) for part in chooser.examples(batch))
    # The output gets its name before the manifest does.
    with staged(path.with_name(path.name + ".manifest.json")) as manifest, staged(path) as place:
        _write(how, parts, place, counts)
        if counts.rows_written == 0:
            raise with_hint(
                DataError(f"{os.fspath(rows)}: no row is left to export ({_reasons(counts.left_out)})"),
                "tito show prints rows and where their loss falls",
            )
        if expect_rows is not None and counts.rows_written != expect_rows:
            raise with_hint(
                DataError(f"{counts.rows_written} rows, {expect_rows} were expected"),
                "nothing was written; the reasons for rows left out are in the report without expect_rows",
            )
        data = {
            "versions": {"tito": __version__},
            "format": contract.name,
            "options": dict(options),
            "counts": asdict(counts),
            "source": {**(describe_files(source.files) if origin is None else origin), **_told(source)},
            "output": {"file": str(path), "kind": how.kind, "bytes": _size(place)},
            "loses": list(contract.loses),
            "settings": [setting.replace("OUT", str(path)) for setting in contract.settings(counts)],
        }
        write_manifest(manifest, data)
    return Exported(data)


def describe_files(files: Sequence[str]) -> dict[str, Any]:
    """Names and hashes of what was read."""
    return {"files": [{"file": file, "sha256": file_hash(file).removeprefix("sha256:")} for file in files]}


def write_manifest(place: Path, data: Mapping[str, Any]) -> None:
    """The account of an export, beside it."""
    place.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _told(source: RowsFile) -> dict[str, Any]:
    """What the rows say of themselves."""
    told = {name: source.metadata.get(f"tito.{name}") for name in ("profile", "tokenizer_hash", "template_hash")}
    return {"rows": source.kind, **told, "policies": json.loads(source.metadata.get("tito.policies", "null"))}


def _kind(contract: Contract, path: Path) -> str:
    """`parquet`, `jsonl` or `folder`: trainers tell files by their suffix, so the name must say what is in it."""
    if contract.suffixes == ("",):
        if path.suffix in (".parquet", ".jsonl"):
            raise with_hint(UsageError(f"{contract.name} reads a folder, not {path.name}"), "name a folder to make")
        return "folder"
    if path.suffix not in contract.suffixes:
        raise with_hint(
            UsageError(f"{contract.name} does not read {path.name}"), f"name a {' or '.join(contract.suffixes)} file"
        )
    return path.suffix.removeprefix(".")


def _write(how: Plan, parts: Iterator[Examples], place: Path, counts: Counts) -> None:
    import pyarrow as pa

    from tito.export import write
    from tito.export.packed import packed_tables

    contract = how.contract
    if contract.records is not None:
        write.write_records(contract.records(parts), place)
    if contract.table is None:
        return
    pack = how.options["pack"]
    tables = map(contract.table, parts) if pack is None else packed_tables(parts, pack, counts)
    if how.kind == "jsonl":
        write.write_lines(tables, place)
    elif (first := next(tables, None)) is not None:
        schema = pa.schema([(name, column.type) for name, column in first.items()])
        writer = write.write_folder if how.kind == "folder" else write.write_parquet
        writer(chain([first], tables), schema, place)


def output_path(out: str | os.PathLike[str]) -> Path:
    """Where to write. What a link points to is written, not the link replaced; what only the last rename would notice
    is refused early."""
    path = Path(utf8_path(out))
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_dir() and not path.is_file():
        raise with_hint(UsageError(f"{path} is no regular file and would be replaced by one"), "name a file to write")
    if path.is_dir():
        raise with_hint(UsageError(f"{path} is a folder that is there already"), "remove it or write elsewhere")
    if not path.parent.is_dir():
        raise with_hint(WorldError(f"{path}: no such folder to write to"), "make the folder first")
    return path


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())


def _reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {rows}" for reason, rows in left_out.items() if rows) or "there were none"
