"""Writing adapters: renamed for a server's class, or merged from shards. A folder gets its name when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tito.adapter.base import BaseModel
from tito.adapter.keys import Keys, rename, wanted_keys
from tito.adapter.lora import CONFIG, WEIGHTS, LoraAdapter
from tito.adapter.tensors import Part, write_tensors
from tito.errors import UsageError, WorldError, with_hint
from tito.files import staged

__all__ = ["ORIGIN", "export", "new_folder", "write_adapter"]

ORIGIN = "tito_adapter.json"
"""What an adapter was made from, beside it: `{"from": {"hash", "folder"}, "hash", "keys", "made_by"}`."""
_PREFIX = "base_model.model."


def export(
    adapter: LoraAdapter,
    output: str | os.PathLike[str],
    *,
    base: BaseModel | None = None,
    keys: Keys | None = None,
    base_name: str | None = None,
) -> LoraAdapter:
    """Copies an adapter with the names that the server's class applies (those of `base`, unless `keys` says), the
    base's public name in place of a local path, and `task_type` as plain text. Bytes of tensors are not touched.

    Raises `UsageError` where `output` is there already, or neither `base` nor `keys` is given.
    """
    if keys is None and base is None:
        raise with_hint(UsageError("whose names the server applies is not known"), "give --base DIR, or --keys")
    chosen = keys or wanted_keys(base)  # type: ignore[arg-type]
    config = dict(adapter.config)
    if base_name is not None:
        config["base_model_name_or_path"] = base_name

    def named(name: str) -> str:
        module, dot, rest = name.removeprefix(_PREFIX).partition(".lora_")
        return f"{_PREFIX}{rename(module, chosen)}{dot}{rest}" if name.startswith(_PREFIX) else name

    tensors = [tensor.part(named(name)) for name, tensor in adapter.tensors.items()]
    return write_adapter(Path(output), config, tensors, origin=adapter, keys=chosen)


def write_adapter(
    output: Path,
    config: dict[str, Any],
    tensors: Iterable[Part],
    *,
    origin: LoraAdapter | str,
    keys: str,
) -> LoraAdapter:
    """Writes an adapter's folder whole, with a note of what it was made from."""
    with new_folder(output) as folder:
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_tensors(folder / WEIGHTS, tensors)
        made = LoraAdapter(folder)
        source: dict[str, str | None]
        if isinstance(origin, LoraAdapter):
            source = {"hash": origin.hash, "folder": str(origin.folder)}
            if (record := origin.folder / "tito_train.json").is_file():
                shutil.copy(record, folder)
        else:
            source = {"hash": None, "folder": origin}
        note = {"from": source, "hash": made.hash, "keys": keys}
        (folder / ORIGIN).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return LoraAdapter(output)


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder that gets the name `output` at the end; nothing is left after an error."""
    if output.exists():
        raise with_hint(UsageError(f"{output}: there already"), "name a folder that is not there")
    if not output.resolve().parent.is_dir():
        raise with_hint(WorldError(f"{output.parent}: no such folder"), "make it first")
    with staged(output) as place:
        place.mkdir()
        yield place
