"""The handoffs of a run: each step's record names by hash what it took, and the step before it what it gave.

Records: `*.manifest.json` (convert), `tito_train.json` (train), `tito_adapter.json` (export, merge), `serving.json`,
and a probe's report. What is not there cannot be judged and is said to be missing; what is there must agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tito._core import content_hash
from tito.adapter import LoraAdapter
from tito.adapter.lora import CONFIG
from tito.adapter.write import ORIGIN
from tito.errors import DataError, TitoError, WorldError, with_hint
from tito.files import file_hash
from tito.paths import utf8_path

__all__ = ["STEPS", "Finding", "examine", "short"]

STEPS = ("data", "rows", "train", "merge", "serve", "probe")
"""The steps, in their order."""
State = Literal["ok", "broken", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One handoff: what `step` took over."""

    step: str
    state: State
    what: str
    hash: str | None = None
    """Of the thing handed over, as it is now."""


@dataclass(slots=True)
class _Run:
    """The records found, newest last where there are several."""

    folder: Path
    manifests: list[tuple[Path, dict[str, Any]]]
    trains: list[tuple[Path, dict[str, Any]]]
    origins: list[tuple[Path, dict[str, Any]]]
    servings: list[tuple[Path, dict[str, Any]]]
    probes: list[tuple[Path, dict[str, Any]]]
    adapters: dict[str, Path]
    """Folders of adapters by content hash."""
    damaged: list[Finding]


def examine(folder: Path) -> list[Finding]:
    """All handoffs of a run's folder, in the order of the steps; the first one that is `broken` is where to look.

    Raises `WorldError` where there is no such folder, `DataError` where it holds no record at all.
    """
    run = _read(folder)
    found = [*run.damaged, *_data(run), *_rows(run), *_train(run), *_merge(run), *_serve(run), *_probe(run)]
    if not any((run.manifests, run.trains, run.servings, run.probes, run.adapters)):
        raise with_hint(
            DataError(f"{folder}: no manifest, no tito_train.json, no adapter, no serving.json, no probe report"),
            "name the folder that holds the run's outputs",
        )
    return sorted(found, key=lambda finding: STEPS.index(finding.step))


def _read(folder: Path) -> _Run:
    if not folder.is_dir():
        raise with_hint(WorldError(f"{folder}: no such folder"), "name a run's folder")
    run = _Run(folder, [], [], [], [], [], {}, [])
    # What a run gave is known by its own name, and only then by a checkpoint that holds the same.
    for path in sorted(folder.rglob("*.json"), key=lambda p: ("checkpoints" in p.parts, p.stat().st_mtime, str(p))):
        if path.name == CONFIG:
            try:
                run.adapters.setdefault(LoraAdapter(path.parent).hash, path.parent)
            except TitoError as error:
                run.damaged.append(Finding("train", "broken", str(error)))
            continue
        kind = _kind(path)
        if kind is None:
            continue
        where, step = kind
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
        except (ValueError, UnicodeDecodeError) as error:
            run.damaged.append(Finding(step, "broken", f"{path}: {error}"))
            continue
        if where != "probes" or {"ids_differ", "assertions"} <= value.keys():
            getattr(run, where).append((path, value))
    return run


def _kind(path: Path) -> tuple[str, str] | None:
    if path.name.endswith(".manifest.json"):
        return "manifests", "rows"
    names = {
        "tito_train.json": ("trains", "train"),
        ORIGIN: ("origins", "merge"),
        "serving.json": ("servings", "serve"),
    }
    if path.name in names:
        return names[path.name]
    return ("probes", "probe") if "probe" in path.name else None


def _data(run: _Run) -> Iterator[Finding]:
    """Captures against the manifest of the conversion."""
    for path, manifest in run.manifests:
        for told in manifest.get("inputs") or []:
            yield _file("data", run, path, told, "captures")


def _rows(run: _Run) -> Iterator[Finding]:
    """Rows against the manifest that was written with them."""
    for path, manifest in run.manifests:
        for told in manifest.get("outputs") or []:
            yield _file("rows", run, path, told, "rows")


def _train(run: _Run) -> Iterator[Finding]:
    """What was trained on: rows, tokenizer, base; and the adapter that came of it."""
    written = [_find(run, path, str(told.get("file"))) for path, m in run.manifests for told in m.get("outputs") or []]
    given = {file_hash(path): path for path in written if path is not None}
    for path, train in run.trains:
        for name, hash_ in {**(train.get("data") or {}), **(train.get("val") or {})}.items():
            if hash_ in given:
                yield Finding("train", "ok", f"{path}: trained on {given[hash_]}, the rows of a manifest", hash_)
            elif given:
                yield Finding(
                    "train", "broken", f"{path}: trained on {name} ({short(hash_)}), no rows of a manifest here"
                )
            else:
                yield _file("train", run, path, {"file": name, "hash": hash_}, "training data")
        rows, base = (train.get("rows") or {}).get("tito.tokenizer_hash"), train.get("tokenizer_hash")
        if rows and base and rows != base:
            yield Finding("train", "broken", f"{path}: rows of tokenizer {short(rows)}, base of {short(base)}")
        if (state := train.get("state")) in ("failed", "running", "stopped"):
            why = train.get("stopped") or "no end is recorded"
            yield Finding("train", "broken", f"{path}: the run is {state}: {why}")
        yield _gave(run, path, train)


def _gave(run: _Run, path: Path, train: Mapping[str, Any]) -> Finding:
    """The adapter of a run: by its hash where it is recorded, else the one that lies beside the record."""
    if hash_ := train.get("adapter_hash"):
        if hash_ in run.adapters:
            return Finding("train", "ok", f"{path}: gave {run.adapters[hash_]}", hash_)
        return Finding("train", "broken", f"{path}: gave adapter {short(hash_)}, which is not in {run.folder}")
    beside = [folder for folder in run.adapters.values() if folder in (path.parent, path.parent / "adapter")]
    if beside:
        return Finding("train", "unknown", f"{path}: no hash of an adapter is recorded; {beside[0]} lies beside it")
    return Finding("train", "unknown", f"{path}: no hash of an adapter is recorded, and none lies beside it")


def _merge(run: _Run) -> Iterator[Finding]:
    """Adapters made of others."""
    for path, note in run.origins:
        origin = note.get("from") or {}
        if note.get("hash"):
            there = {folder: hash_ for hash_, folder in run.adapters.items()}.get(path.parent)
            if there != note["hash"]:
                yield Finding(
                    "merge", "broken", f"{path.parent}: {short(there)} now, {short(note['hash'])} when it was made"
                )
                continue
        if origin.get("hash") in run.adapters:
            yield Finding("merge", "ok", f"{path.parent}: made of {run.adapters[origin['hash']]}", origin["hash"])
        elif origin.get("hash") and any(t.get("adapter_hash") for _, t in run.trains):
            yield Finding("merge", "broken", f"{path.parent}: made of {short(origin['hash'])}, which no run here gave")
        else:
            yield Finding("merge", "unknown", f"{path.parent}: made of {origin.get('folder')}, which has no hash here")


def _serve(run: _Run) -> Iterator[Finding]:
    """What is served: adapter, base, tokenizer and template, against what was trained."""
    bases = {t["base_hash"] for _, t in run.trains if t.get("base_hash")}
    for path, serving in run.servings:
        for adapter in serving.get("adapters") or []:
            yield _served(run, path, adapter)
        if bases and serving.get("base_hash") and serving["base_hash"] not in bases:
            yield Finding(
                "serve", "broken", f"{path}: base {short(serving['base_hash'])}, trained was {short(min(bases))}"
            )
        elif bases and serving.get("base_hash"):
            yield Finding("serve", "ok", f"{path}: serves the base that was trained on", serving["base_hash"])
        yield from _identity(run, path, serving)


def _served(run: _Run, path: Path, adapter: Mapping[str, Any]) -> Finding:
    folder, hash_ = Path(str(adapter.get("folder"))), str(adapter.get("hash"))
    try:
        now = LoraAdapter(folder).hash
    except TitoError as error:
        return Finding("serve", "broken", f"{path}: {adapter.get('name')}: {error}")
    if now != hash_:
        return Finding("serve", "broken", f"{folder}: changed since it was served: {short(now)}, served {short(hash_)}")
    if run.adapters and hash_ not in run.adapters:
        return Finding(
            "serve", "broken", f"{path}: serves {folder} ({short(hash_)}), an adapter that this run did not give"
        )
    return Finding("serve", "ok", f"{path}: serves {adapter.get('name')} from {folder}", hash_)


def _identity(run: _Run, path: Path, serving: Mapping[str, Any]) -> Iterator[Finding]:
    for key, what in (("tokenizer_hash", "tokenizer"), ("template_hash", "template")):
        trained = {str(t[key]) for _, t in run.trains if t.get(key)} | {
            str(profile[key]) for _, m in run.manifests for profile in _profiles(m) if profile.get(key)
        }
        served = serving.get(key)
        if not trained or not served:
            continue
        if served in trained:
            yield Finding("serve", "ok", f"{path}: the {what} that was trained on", str(served))
        else:
            yield Finding(
                "serve", "broken", f"{path}: {what} {short(served)} is served, trained was {short(min(trained))}"
            )


def _probe(run: _Run) -> Iterator[Finding]:
    """Probes against the server that they asked."""
    servings = {file_hash(path): path for path, _ in run.servings}
    adapters = {a.get("hash") for _, s in run.servings for a in s.get("adapters") or []}
    for path, probe in run.probes:
        asked = probe.get("serving_hash")
        if asked and servings and asked not in servings and probe.get("adapter_hash") not in adapters:
            yield Finding("probe", "broken", f"{path}: asked a server of which no serving.json is here")
        elif not probe.get("passed"):
            problems = probe.get("problems") or ["it did not pass"]
            yield Finding("probe", "broken", f"{path}: {problems[0]}")
        else:
            yield Finding("probe", "ok", f"{path}: passed ({probe.get('verdict')})", probe.get("adapter_hash"))


def _file(step: str, run: _Run, record: Path, told: Mapping[str, Any], what: str) -> Finding:
    """A file that a record names, against the size and the hash that stand there."""
    path = _find(run, record, str(told.get("file")))
    if path is None:
        return Finding(step, "unknown", f"{record}: {what} {told.get('file')}: not here")
    size = path.stat().st_size
    if told.get("bytes") not in (None, size):
        wanted = f"{size:,} bytes, {told['bytes']:,} were recorded"
        return Finding(step, "broken", f"{path}: changed since {record.name} was written: {wanted}")
    if not (hash_ := told.get("hash")):
        return Finding(
            step, "ok", f"{path}: the {what} of {record.name} (by name and size: no hash is recorded)", file_hash(path)
        )
    now = _hash_as(str(hash_), path)
    if now != hash_:
        wanted = f"{short(now)}, recorded was {short(hash_)}"
        return Finding(step, "broken", f"{path}: changed since {record.name} was written: {wanted}")
    return Finding(step, "ok", f"{path}: the {what} of {record.name}", now)


def _find(run: _Run, record: Path, name: str) -> Path | None:
    """A file by the name that its record has for it: beside the record, from its folder, from here, or in the run's
    folder. Beside it first: another file of that name may lie where doctor stands."""
    places = (record.parent / Path(name).name, record.parent / name, Path(name), run.folder / Path(name).name)
    return next((path for path in places if path.is_file()), None)


def _hash_as(told: str, path: Path) -> str:
    """The file's hash, of the kind that was recorded."""
    return content_hash(utf8_path(path)) if told.startswith("xxh3-128:") else file_hash(path)


def _profiles(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    profiles = manifest.get("profiles") or []
    return [p for p in (profiles.values() if isinstance(profiles, dict) else profiles) if isinstance(p, dict)]


def _bare(hash_: object) -> str:
    return str(hash_).rpartition(":")[2]


def short(hash_: object) -> str:
    """The digits of a hash that people compare."""
    return _bare(hash_)[:12]
