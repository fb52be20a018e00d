"""A run in parts: what each task does, and what is done between them."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tito import _core
from tito.calls import Policies
from tito.convert import core_options
from tito.distributed.files import File, Folder, bring, list_files
from tito.paths import Paths, utf8_path, utf8_paths
from tito.profile import Profile
from tito.report import Report
from tito.watched import watched

__all__ = ["Executor", "Seen", "convert_parts"]

_Task = TypeVar("_Task")
_Done = TypeVar("_Done")
_DEFAULTS = Policies()


class Executor(Protocol):
    """Runs a function of this module on items, on any machine, in any order, as often as it takes."""

    def map(self, function: Callable[[_Task], _Done], items: Sequence[_Task]) -> Generator[tuple[int, _Done]]:
        """Results as they come, each with the number of its item."""
        ...


class Here:
    """One item after the other, in this process."""

    def map(self, function: Callable[[_Task], _Done], items: Sequence[_Task]) -> Generator[tuple[int, _Done]]:
        """See `Executor`."""
        for number, item in enumerate(items):
            yield number, function(item)


@dataclass(slots=True)
class Seen:
    """How far a run is: bytes of input that are done (each is read twice or more), of how many; calls that were met."""

    bytes: int = 0
    total: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class _Scan:
    file: File
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Scanned:
    file: str
    scan: bytes
    calls: int


@dataclass(frozen=True, slots=True)
class _Split:
    name: str
    file: str
    lines: bytes
    output: str
    folder: str


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    # Where each file is, and what it is called.
    paths: tuple[str, ...]
    called: tuple[dict[str, Any], ...]
    options: dict[str, Any]
    output: str
    staging: str
    weighing: str | None = None

    def options_json(self, here: str, output: str) -> str:
        """Options of the core, with the files brought here."""
        paths = bring(self.paths, Path(here))
        own = {"inputs": paths, "called": self.called, "output": output, "part": self.number}
        return json.dumps({**self.options, **own})


def convert_parts(
    inputs: Paths,
    output: str | os.PathLike[str],
    *,
    policies: Policies = _DEFAULTS,
    profile: Profile | str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    prove_think: bool = False,
    from_format: str | None = None,
    expect_rows: int | None = None,
    jsonl: bool | None = None,
    part_bytes: int = 1_000_000_000,
    workers: int = 0,
    executor: Executor | None = None,
    progress: Callable[[Seen], None] | None = None,
) -> Report:
    """Converts captures in parts, each written to a file of its own: `rows-00000.parquet`, `rows-00001.parquet`, ...

    In their order parts hold the rows that `convert` makes of the same input, in the same order, normalised and divided
    into sides alike; only rollouts that share a name or a call are moved together, copies of fractional weights are
    drawn in each part anew, and ids that repeat under another call id are counted inside parts only. The bytes of a
    part depend on the input, `part_bytes` and the options, not on `executor`, `workers` (threads a task) or retries.

    All input is scanned first. A part is what begins in about `part_bytes` bytes of files in their order, with all that
    belongs to it wherever it stands: lines of a file that several parts share are split up, compressed, beside the
    output. A record, and a rollout, are never cut, however large they are.

    Inputs and output are paths or fsspec URLs; what is not here is copied to a temporary folder where it is needed.
    Files are written in a hidden folder beside the output, and renamed when all are there and the whole run is judged
    (bad data, policies that fire nowhere, `expect_rows`, two tokenizers). Where a file system renames by copying, as
    object stores do, each file still appears whole. The manifest comes last: it says that all have their names. A run
    that is killed leaves the hidden folder, and nothing else before it has begun to rename. Raises what `convert`
    raises.

    >>> report = convert_parts(["calls.jsonl"], "parted.parquet", part_bytes=100_000)
    >>> report.rows, len(report.outputs), report.outputs[0]
    (36, 2, 'parted-00000.parquet')
    """
    folder = Folder(utf8_path(output))
    folder.refuse_old_parts()
    options = core_options(inputs, policies, profile, tokenizer, from_format, workers, prove_think)
    options["jsonl"] = folder.name.endswith(".jsonl") if jsonl is None else jsonl
    staging = f".{folder.name}.parts-{uuid.uuid4().hex[:12]}"
    named: list[str] = []
    try:
        folder.make(staging)
        steps = _Steps(executor or Here(), progress)
        report = _make(steps, inputs, folder, staging, options, expect_rows, part_bytes)
        for one in report["outputs"]:
            name = Path(one["file"]).name
            folder.move((staging, name), name)
            named.append(name)
            one["file"] = folder.shown(name)
        manifest = f"{folder.name}.manifest.json"
        folder.write(manifest, json.dumps(report, indent=2, ensure_ascii=False) + "\n", (staging, manifest))
        report["manifest"] = folder.shown(manifest)
    except BaseException:
        for name in named:
            folder.remove(name)
        raise
    finally:
        folder.remove(staging)
    return Report(report)


class _Steps:
    """Runs the steps of a run, and tells how far it is."""

    def __init__(self, executor: Executor, progress: Callable[[Seen], None] | None) -> None:
        self._executor = executor
        self._progress = progress
        self.seen = Seen()

    def run(self, function: Callable[[_Task], _Done], items: Sequence[_Task], sizes: Sequence[int]) -> list[_Done]:
        """The results in the order of the items; `sizes` are their bytes of input."""
        results: dict[int, _Done] = {}
        with closing(self._executor.map(function, items)) as done:
            for number, result in done:
                results[number] = result
                self.seen.bytes += sizes[number]
                if isinstance(result, _Scanned):
                    self.seen.calls += result.calls
                if self._progress is not None:
                    self._progress(self.seen)
        return [results[number] for number in range(len(items))]


def _make(
    steps: _Steps,
    inputs: Paths,
    folder: Folder,
    staging: str,
    options: dict[str, Any],
    expect_rows: int | None,
    part_bytes: int,
) -> dict[str, Any]:
    """Makes all parts in the staging folder; gives the report."""
    files, left_out, repeated = list_files(utf8_paths(inputs))
    sizes = [file.bytes for file in files]
    defaults = _DEFAULTS.to_dict()
    # These are about all rollouts together.
    surveys = any(options[policy] != defaults[policy] for policy in ("normalize", "weight_scale", "val"))
    steps.seen.total = (3 if surveys else 2) * sum(sizes)
    scanned = steps.run(scan_file, [_Scan(file, options) for file in files], sizes)
    facts = [json.loads(one.file) for one in scanned]
    planned, splits = _core.plan_parts([one.scan for one in scanned], sizes, part_bytes)
    lines_of = dict(splits)
    shared = {file: f"{staging}/{file}" for file in lines_of}
    split = [
        _Split(files[file].name, scanned[file].file, lines_of[file], folder.output, shared[file]) for file in lines_of
    ]
    steps.seen.total += sum(sizes[file] for file in lines_of)
    steps.run(split_file, split, [sizes[file] for file in lines_of])

    def part(number: int, members: Sequence[int]) -> _Part:
        paths = tuple(
            folder.shown(f"{shared[file]}/{number}.jsonl.zst") if file in shared else files[file].name
            for file in members
        )
        called = tuple(
            {"name": files[file].name, "lines": facts[file]["format"] if file in shared else None} for file in members
        )
        return _Part(number, paths, called, options, folder.output, staging)

    tasks = [part(number, members) for number, (_, members) in enumerate(planned)]
    bytes_of = [size for size, _ in planned]
    told = json.dumps(options)
    weighing = None
    if surveys:
        found = steps.run(survey_part, tasks, bytes_of)
        decided = _core.settle_parts(told, found, len(files))
        tasks = [replace(task, weighing=one) for task, one in zip(tasks, decided, strict=True)]
        weighing = decided[0]
    made = steps.run(convert_part, tasks, bytes_of)
    whole = json.dumps({**options, "expect_rows": expect_rows})
    read = [json.dumps({"file": name, "bytes": 0, "hash": "", "format": None}) for name in left_out]
    report: dict[str, Any] = json.loads(_core.judge_parts(whole, weighing, read + [one.file for one in scanned], made))
    report["inputs_repeated"] = repeated
    report["parts"] = [
        {"number": at, "bytes": size, "inputs": len(members)} for at, (size, members) in enumerate(planned)
    ]
    return report


def scan_file(task: _Scan) -> _Scanned:
    """What belongs together in a file, and what ties it to others."""
    with tempfile.TemporaryDirectory(prefix="tito-") as here:
        called = [{"name": task.file.name, "lines": None}]
        text = json.dumps({**task.options, "inputs": bring([task.file.name], Path(here)), "called": called})

        def scan(progress: _core.Progress) -> _Scanned:
            return _Scanned(*_core.scan_file(text, task.file.found, progress), progress.calls)

        return watched(scan, None)


def split_file(task: _Split) -> None:
    """Writes the lines that each part has of a file."""
    folder = Folder(task.output)
    with tempfile.TemporaryDirectory(prefix="tito-") as here:
        [path] = bring([task.name], Path(here))
        made = Path(here, "lines")
        made.mkdir()
        watched(lambda progress: _core.split_file(path, task.file, task.lines, str(made), progress), None)
        folder.put_all(made, task.folder)


def survey_part(task: _Part) -> str:
    """Surveys a part; gives what was found, as JSON."""
    with tempfile.TemporaryDirectory(prefix="tito-") as here:
        text = task.options_json(here, str(Path(here, "rows")))
        return watched(lambda progress: _core.survey_part(text, progress), None)


def convert_part(task: _Part) -> str:
    """Converts a part into its staged file; gives what it has done, as JSON. May run again after it was killed."""
    folder = Folder(task.output)
    with tempfile.TemporaryDirectory(prefix="tito-") as here:
        direct = folder.direct(task.staging)
        text = task.options_json(here, str(Path(direct or here, folder.name)))
        part = watched(lambda progress: _core.convert_part(text, task.weighing, progress), None)
        if direct is None:
            for one in json.loads(part)["outputs"]:
                folder.put(Path(one["file"]), task.staging, Path(one["file"]).name)
        return part
