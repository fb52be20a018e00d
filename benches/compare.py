"""Measure `tito convert` beside the baselines: CPU seconds, wall, peak memory, output size.

    python benches/compare.py /tmp/A200.jsonl --runs 5
    python benches/compare.py /tmp/A1G.jsonl --workers 1,2 --json /tmp/compare.json
    python benches/compare.py /tmp/A200.jsonl --fail-above 0.333   # the check for CI: CPU seconds, tito : d

First the rows of tito (every `--workers`) must equal those of baseline b: input_ids, output_ids and weight, in tito's
order (rollouts as they first appear, turns inside). Exit 1 if they do not, or if a ratio is above `--fail-above`.
Then all run `--runs` times, interleaved, each round starting with another one. Every process is waited for with
wait4, so CPU seconds and peak memory include the children it waited for. A wall time is marked quiet when the rest of
the machine used less than a quarter of a core meanwhile.

A `--tito` command without {dump} is given the standard arguments of `tito convert`; with it, {dump}, {out} and
{workers} are filled in, which lets a stand-in try the plumbing:

    python benches/compare.py /tmp/B200.jsonl --file-order --tito 'python benches/baselines.py d {dump} -o {out}'

This process stays small and imports no pyarrow on purpose: a child inherits its parent's peak as its own floor.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
QUIET_CORES = 0.25
STANDARD = ("convert", "{dump}", "-o", "{out}", "--think", "strip", "--upweight", "0-2:12")
COLUMNS = ("input_ids", "output_ids", "weight")
HEAD = "| what | CPU s | spread | CPU s/GB | x d | x b | wall s | MB per CPU s | peak RSS MiB | out MB | 1/default |"


@dataclass
class Run:
    """What one command cost."""

    cpu: float  # seconds, user and system
    wall: float
    rss: int  # bytes, at its highest
    others: float  # cores that the rest of the machine used
    out: int  # bytes written


def measure(command: list[str], out: Path | None = None) -> Run:
    """Run it to its end; its output file is left for the caller."""
    with tempfile.TemporaryFile() as log:
        busy, start = busy_seconds(), time.perf_counter()
        try:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        except FileNotFoundError:
            raise SystemExit(f"no such command: {command[0]} (name it with --tito 'CMD')") from None
        _, status, usage = os.wait4(process.pid, 0)
        wall, busy = time.perf_counter() - start, busy_seconds() - busy
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            tail = log.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"exit {process.returncode}: {shlex.join(command)}\n{tail}")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(cpu, wall, usage.ru_maxrss * 1024, max(0.0, busy - cpu) / wall, out.stat().st_size if out else 0)


def busy_seconds() -> float:
    """CPU seconds that the whole machine has used."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def baseline(reader: str, *flags: str) -> list[str]:
    return [sys.executable, str(HERE / "baselines.py"), reader, "{dump}", "-o", "{out}", *flags]


def tito(command: str, workers: int) -> list[str]:
    words = shlex.split(command)
    if "{dump}" not in words:
        words += [*STANDARD, "--workers", "{workers}"]
    return [word.replace("{workers}", str(workers)) for word in words]


def fill(command: list[str], dump: Path, out: Path) -> list[str]:
    return [word.replace("{dump}", str(dump)).replace("{out}", str(out)) for word in command]


# --- the rows -------------------------------------------------------------------------------------------------------


def digests(path: Path, columns: tuple[str, ...]) -> Iterator[tuple]:
    """For each row: the scalars, and for each list of ids its length and hash."""
    import hashlib

    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64, columns=list(columns)):
            parts = []
            for name in columns:
                column = batch.column(name)
                if not name.endswith("_ids"):
                    parts.append(column.to_pylist())
                    continue
                if column.null_count or column.values.null_count or str(column.type.value_type) != "int32":
                    raise SystemExit(f"{path}: {name} is {column.type} with nulls or not int32")
                values, ends = column.values.to_numpy(), column.offsets.to_pylist()
                rows = [values[a:b] for a, b in pairwise(ends)]
                parts.append([(len(row), hashlib.blake2b(row, digest_size=16).digest()) for row in rows])
            yield from zip(*parts, strict=True)


def differences(expected: Path, got: Path, file_order: bool) -> str | None:
    """None where the rows of tito are those of the baseline, else the first difference."""
    rollouts: dict[str, list[tuple]] = {}  # 100 bytes or so a row, never the ids
    ordered: Iterator[tuple] = digests(expected, ("rollout", "turn", *COLUMNS))
    if not file_order:
        for rollout, *row in ordered:
            rollouts.setdefault(rollout, []).append(tuple(row))
        ordered = ((rollout, *row) for rollout, rows in rollouts.items() for row in sorted(rows))
    found = digests(got, COLUMNS)
    count = 0
    for count, (rollout, turn, *want) in enumerate(ordered, start=1):
        have = next(found, None)
        if have is None:
            return f"{count - 1} rows, expected more: the next is {rollout} turn {turn}"
        for name, a, b in zip(COLUMNS, want, have, strict=True):
            if a != b:
                lengths = f": {b[0]} ids, expected {a[0]}" if isinstance(a, tuple) else f": {b}, expected {a}"
                return f"row {count - 1} ({rollout} turn {turn}) differs in {name}{lengths}"
    extra = sum(1 for _ in found)
    return f"{count + extra} rows, expected {count}" if extra else None


def rows_equal(expected: Path, got: Path, file_order: bool) -> bool:
    """In a process of its own."""
    check = [sys.executable, str(Path(__file__).resolve()), "--rows-equal", str(expected), str(got)]
    check += ["--file-order"] * file_order
    return subprocess.run(check, check=False).returncode == 0


# --- the table ------------------------------------------------------------------------------------------------------


def middle(runs: list[Run], name: str) -> float:
    return median(getattr(run, name) for run in runs)


def wall_of(runs: list[Run]) -> tuple[float, bool]:
    """The median of the quiet runs, or of all where none was quiet."""
    quiet = [run for run in runs if run.others < QUIET_CORES]
    return middle(quiet or runs, "wall"), bool(quiet)


def table(dump: Path, results: dict[str, list[Run]]) -> str:
    gigabytes = dump.stat().st_size / 1e9
    b, d = (middle(results[name], "cpu") for name in ("b", "d"))
    default_size = middle(results["d"], "out")
    rows = [
        f"{dump} ({gigabytes:.3f} GB), {len(results['d'])} runs, medians; * = the machine was not quiet",
        "",
        HEAD,
        "|---" * (HEAD.count("|") - 1) + "|",
    ]
    for name, runs in results.items():
        cpu, out = middle(runs, "cpu"), middle(runs, "out")
        wall, quiet = wall_of(runs)
        spread = f"{min(r.cpu for r in runs):.2f}-{max(r.cpu for r in runs):.2f}"
        cells = [
            name,
            f"{cpu:.2f}",
            spread,
            f"{cpu / gigabytes:.2f}",
            f"{d / cpu:.2f}",
            f"{b / cpu:.2f}",
            f"{wall:.2f}{'' if quiet else '*'}",
            f"{gigabytes * 1e3 / cpu:.0f}",
            f"{max(r.rss for r in runs) / 2**20:.0f}",
            f"{out / 1e6:.2f}",
            f"{default_size / out:.1f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def compare(dump: Path, options: argparse.Namespace, folder: Path) -> tuple[dict[str, list[Run]], bool]:
    """Check the rows, then measure. False where the rows differ."""
    ours = {f"tito, {n} worker{'s' * (n > 1)}": tito(options.tito, n) for n in options.workers}
    contestants = {"b": baseline("b"), "d": baseline("d"), "d tuned": baseline("d", "--tuned"), **ours}
    outputs = {name: folder / f"{i}.parquet" for i, name in enumerate(contestants)}
    for name in ("b", *ours):
        measure(fill(contestants[name], dump, outputs[name]), outputs[name])
        if name != "b" and not rows_equal(outputs["b"], outputs[name], options.file_order):
            return {}, False
    print(f"{dump}: rows equal to baseline b's", file=sys.stderr)
    results: dict[str, list[Run]] = {name: [] for name in contestants}
    names = list(contestants)
    for i in range(options.runs):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            out = outputs[name]
            results[name].append(measure(fill(contestants[name], dump, out), out))
            out.unlink()
    return results, True


def startup(command: str) -> str:
    """What the interpreter and the imports cost alone; nothing for a stand-in."""
    if "{dump}" in command:
        return ""
    run = measure([*shlex.split(command), "--help"])
    return f"tito --help: {run.cpu:.2f} CPU s, peak RSS {run.rss / 2**20:.0f} MiB\n"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dumps", nargs="*", type=Path, metavar="DUMP")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--tito", default="tito", metavar="CMD")
    p.add_argument("--workers", type=lambda s: [int(n) for n in s.split(",")], default=[1], metavar="N[,N]")
    p.add_argument("--json", type=Path, metavar="FILE", help="write every run there")
    p.add_argument("--fail-above", type=float, metavar="RATIO", help="exit 1 if CPU seconds tito : d are above this")
    p.add_argument("--folder", type=Path, help="where outputs are written (default: the system's temporary folder)")
    p.add_argument("--file-order", action="store_true", help="expect the rows in the order of the dump's calls")
    p.add_argument("--rows-equal", nargs=2, type=Path, metavar=("B", "TITO"), help="only compare two outputs")
    return p


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.rows_equal:
        difference = differences(*options.rows_equal, options.file_order)
        if difference:
            print(f"rows differ: {difference}", file=sys.stderr)
        return 1 if difference else 0
    if not options.dumps:
        parser().error("no DUMP")
    print(startup(options.tito))
    report: dict[str, dict] = {}
    failed = False
    for dump in options.dumps:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            results, equal = compare(dump, options, Path(folder))
        if not equal:
            print(f"{dump}: rows differ, nothing was measured", file=sys.stderr)
            failed = True
            continue
        print(table(dump, results), end="\n\n")
        ours = [name for name in results if name.startswith("tito")]
        first = wall_of(results[ours[0]])[0]
        for name in ours[1:]:
            print(f"wall, {ours[0]} : {name} = {first / wall_of(results[name])[0]:.2f}\n")
        ratio = middle(results[ours[0]], "cpu") / middle(results["d"], "cpu")
        if options.fail_above is not None and ratio > options.fail_above:
            print(f"{dump}: CPU seconds tito : d = {ratio:.3f}, above {options.fail_above}", file=sys.stderr)
            failed = True
        report[str(dump)] = {
            "bytes": dump.stat().st_size,
            "runs": {name: [asdict(run) for run in runs] for name, runs in results.items()},
        }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
