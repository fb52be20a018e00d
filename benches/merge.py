"""Merging beside what peers do, on three shapes of rollouts: rows, share of the sampled ids that is trained, speed.

    python benches/merge.py
    python benches/merge.py --dump /tmp/A200.jsonl --dump /tmp/B200.jsonl --runs 5
    python benches/merge.py --json merge.json --fail

Twelve rollouts of 40 turns, 57,000 ids of context at the end, 30 % of them sampled. `append`: every prompt goes on from
the sequence before. `think`: 70 % of each answer is thinking, which later prompts do not hold. `sub`: every other turn
is a sub-agent's, of a conversation of its own. `calls` is one rollout of 10,000 small turns. tito takes int32 arrays
(`tito.merge_calls`), a peer its own lists; making either is not measured. Speed is prompt and output ids of all calls
by CPU seconds, the best of `--runs`; rows are checked first: every id that tito trains was sampled there, each once.

With `--dump`, also CPU seconds of `tito convert` with `--rows turn` and `--rows merged` on whole dumps (`corpus.py`).
`--fail` exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tito
from compare import measure
from peers import Peer, Row, Turn, installed

ROLLOUTS, TURNS, CONTEXT, SAMPLED, THINKING = 12, 40, 57_000, 0.3, 0.7
# What merging must make of each shape: rows a rollout.
IDEAL = {"append": 1, "think": TURNS, "sub": 2, "calls": 1}
FASTER_THAN_PEERS, SLOWEST, DEARER_THAN_TURN, INTERLEAVED = 20, 200, 1.3, 2.0


@dataclass
class Line:
    """One line of the table."""

    shape: str
    who: str
    rows: int
    ids: int
    trained: float
    speed: float  # million ids a CPU second


Calls = list[tuple[np.ndarray, np.ndarray]]


def append(dice: np.random.Generator, turns: int = TURNS, context: int = CONTEXT) -> Calls:
    made, each = [], context // turns
    ids = dice.integers(0, 150_000, context, np.int32)
    for turn in range(turns):
        end = (turn + 1) * each
        at = end - int(SAMPLED * each)
        made.append((ids[:at], ids[at:end]))
    return made


def think(dice: np.random.Generator) -> Calls:
    made, each = [], CONTEXT // TURNS
    sampled = int(SAMPLED * each)
    # What stays of a turn, so that the last prompt is as long as in the other shapes.
    history = np.empty(0, np.int32)
    for _ in range(TURNS):
        said = dice.integers(0, 150_000, each - sampled + int(THINKING * sampled), np.int32)
        output = dice.integers(0, 150_000, sampled, np.int32)
        prompt = np.concatenate([history, said])
        made.append((prompt, output))
        history = np.concatenate([prompt, output[int(THINKING * sampled) :]])
    return made


def sub(dice: np.random.Generator) -> Calls:
    # Both begin with the same instructions.
    head = dice.integers(0, 150_000, 500, np.int32)
    chains = [append(dice, TURNS // 2, CONTEXT // 2) for _ in range(2)]
    both = [[(np.concatenate([head, prompt]), output) for prompt, output in chain] for chain in chains]
    return [call for pair in zip(*both, strict=True) for call in pair]


def shapes() -> dict[str, list[Calls]]:
    dice = np.random.default_rng(0)
    found = {
        name: [make(dice) for _ in range(ROLLOUTS)]
        for name, make in (("append", append), ("think", think), ("sub", sub))
    }
    return {**found, "calls": [append(dice, 10_000, 40_000)]}


def best(work: Callable[[Any], Any], given: Sequence[Any], runs: int) -> tuple[float, list[Any]]:
    """CPU seconds of the fastest run over all of `given`, and what it made."""
    fastest = float("inf")
    for _ in range(runs):
        start = time.process_time()
        made = [work(one) for one in given]
        fastest = min(fastest, time.process_time() - start)
    return fastest, made


def tito_rows(made: Sequence[tito.Row]) -> list[Row]:
    found = []
    for row in made:
        ids = np.concatenate([row.input_ids, row.output_ids])
        spans = None if row.loss_spans is None else list(row.loss_spans)
        found.append(Row(ids.tolist(), tito.loss_mask(row.input_ids, row.output_ids, spans).tolist()))
    return found


def line_of(shape: str, who: str, rollouts: Sequence[Calls], rows: Sequence[Sequence[Row]], seconds: float) -> Line:
    total = sum(len(prompt) + len(output) for calls in rollouts for prompt, output in calls)
    sampled = sum(len(output) for calls in rollouts for _, output in calls)
    every = [row for made in rows for row in made]
    trained = sum(sum(row.mask) for row in every)
    return Line(shape, who, len(every), sum(len(row.ids) for row in every), trained / sampled, total / seconds / 1e6)


def run_shape(shape: str, rollouts: Sequence[Calls], peers: Sequence[Peer], runs: int) -> list[Line]:
    calls = [
        [
            tito.Call(prompt_ids=prompt, output_ids=output, turn=n, finish="stop")
            for n, (prompt, output) in enumerate(one)
        ]
        for one in rollouts
    ]
    seconds, made = best(tito.merge_calls, calls, runs)
    rows = [tito_rows(one) for one in made]
    for one, merged in zip(rollouts, rows, strict=True):
        assert len(merged) == IDEAL[shape], (shape, len(merged))
        # Everything sampled is trained, at its place, once.
        left = {(prompt.tobytes(), output.tobytes()) for prompt, output in one}
        for row in merged:
            ids, mask = np.array(row.ids, np.int32), np.array([0, *row.mask, 0], np.int8)
            edges = np.flatnonzero(np.diff(mask)).reshape(-1, 2)
            for start, end in edges:
                left.remove((ids[:start].tobytes(), ids[start:end].tobytes()))
        assert not left
    lines = [line_of(shape, "tito", rollouts, rows, seconds)]
    for peer in peers:
        given = [peer.prepare([Turn(p.tolist(), o.tolist()) for p, o in one]) for one in rollouts]
        seconds, theirs = best(peer.merge, given, 1 if shape == "calls" else max(1, runs // 2))
        found = [peer.read(one) for one in theirs]
        if shape == "append":
            assert found == rows, "on the shape that all can do, all make the same rows"
        lines.append(line_of(shape, peer.name, rollouts, found, seconds))
    return lines


def convert_cost(dump: Path, runs: int) -> dict[str, float]:
    """CPU seconds of `tito convert` by `--rows`, the best of some interleaved runs; and the ids of the calls."""
    cost = {"turn": float("inf"), "merged": float("inf")}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "o.parquet")
        for _ in range(runs):
            for kind in cost:
                command = [
                    str(Path(sys.executable).with_name("tito")),
                    "convert",
                    str(dump),
                    "-o",
                    str(out),
                    "--rows",
                    kind,
                ]
                cost[kind] = min(cost[kind], measure([*command, "--workers", "1", "--quiet"], out).cpu)
        merge = json.loads(Path(f"{out}.manifest.json").read_text())["counts"]["merge"]
    return {**cost, "ids": merge["ids"], "bytes": dump.stat().st_size}


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=7)
    p.add_argument("--dump", type=Path, action="append", default=[], metavar="DUMP")
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--fail", action="store_true", help="exit 1 if a target is missed")
    options = p.parse_args(argv)
    peers, lines, missed = installed(), [], []
    print(f"peers: {', '.join(peer.name for peer in peers) or 'none; pip install --no-deps trl skyrl'}")
    print("| shape | who | rows | ids of rows | trained of sampled | M ids / CPU s | tito is |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for shape, rollouts in shapes().items():
        found = run_shape(shape, rollouts, peers, options.runs)
        lines += found
        for line in found:
            times = f"{found[0].speed / line.speed:.0f} x" if line is not found[0] else ""
            cells = (
                shape,
                line.who,
                f"{line.rows:,}",
                f"{line.ids:,}",
                f"{line.trained:.1%}",
                f"{line.speed:,.1f}",
                times,
            )
            print(f"| {' | '.join(cells)} |")
        if found[0].speed < SLOWEST:
            missed.append(f"{shape}: {found[0].speed:.0f} M ids/s, {SLOWEST} are wanted")
    fastest = max((line.speed for line in lines if line.shape == "append" and line.who != "tito"), default=0.0)
    if lines[0].speed < FASTER_THAN_PEERS * fastest:
        missed.append(f"append: {lines[0].speed / fastest:.1f} x the fastest peer, {FASTER_THAN_PEERS} are wanted")
    dumps = {str(dump): convert_cost(dump, max(1, options.runs // 2)) for dump in options.dump}
    for name, cost in dumps.items():
        print(
            f"{Path(name).name}: {cost['turn']:.2f} CPU s with --rows turn, {cost['merged']:.2f} with --rows merged "
            f"({cost['merged'] / cost['turn']:.2f} x), {cost['merged'] / cost['ids'] * 1e9:.2f} ns an id"
        )
        if cost["merged"] > DEARER_THAN_TURN * cost["turn"]:
            missed.append(f"{name}: merged costs {cost['merged'] / cost['turn']:.2f} x, {DEARER_THAN_TURN} are allowed")
    if len(dumps) == 2:
        one, other = (cost["merged"] / cost["ids"] for cost in dumps.values())
        byte = [cost["merged"] / cost["bytes"] for cost in dumps.values()]
        print(f"interleaved: {other / one:.2f} x an id, {byte[1] / byte[0]:.2f} x a byte of input")
        if other > INTERLEAVED * one:
            missed.append(f"interleaved: {other / one:.2f} x an id, {INTERLEAVED} are allowed")
    for miss in missed:
        print(f"missed: {miss}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps({"lines": [asdict(line) for line in lines], "dumps": dumps}, indent=1))
    return 1 if missed and options.fail else 0


if __name__ == "__main__":
    sys.exit(main())
