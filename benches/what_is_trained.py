"""What is left to train of captures, by who merges them: rows, ids, and the share of the sampled ids that has loss.

    python benches/what_is_trained.py tests/captures

The table is "What is left to train" of docs/benchmarks.md. TRL and SkyRL run their own functions (see `peers.py`) on
the same calls, rollout by rollout, in the order of turns. NeMo Gym is on no package index; its line applies its rule to
tito's rows: one chain of a rollout is delivered, and a rollout of several chains is masked.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import tito
from peers import Turn, installed


def rollouts(captures: list[str]) -> dict[str, list[tito.Row]]:
    """Rows of one call, as captured, by rollout."""
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for number, capture in enumerate(captures):
            out = Path(folder, f"{number}.parquet")
            tito.convert(capture, out, policies=tito.Policies(truncated="keep", group_by="identity", bad="skip"))
            for file in sorted(Path(folder).glob(f"{number}*.parquet")):
                for row in tito.open_rows(file):
                    found[f"{number}/{row.rollout_id}"].append(row)
    return found


def line(who: str, rows: int, ids: int, trained: int, sampled: int) -> str:
    return f"| {who} | {rows:,} | {ids:,} | {trained / sampled:.1%} |"


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("captures", nargs="+", help="captures; each is read by itself, and named in a heading")
    options = p.parse_args(argv)
    for capture in options.captures:
        found = rollouts([capture])
        calls = [row for rows in found.values() for row in rows]
        sampled = sum(len(row.output_ids) for row in calls)
        print(f"\n{capture}: {len(calls)} calls of {len(found)} rollouts, {sampled:,} ids sampled\n")
        print("| rows made by | rows | ids | trained |")
        print("|---|---:|---:|---:|")
        whole = sum(len(row.input_ids) + len(row.output_ids) for row in calls)
        print(line("`tito --rows turn`", len(calls), whole, sampled, sampled))
        merged = [
            tito.merge_calls(
                [
                    tito.Call(prompt_ids=r.input_ids, output_ids=r.output_ids, turn=r.turn, call_id=r.call_id)
                    for r in rows
                ],
                policies=tito.Policies(truncated="keep", kind="solver,summariser,helper"),
            )
            for rows in found.values()
        ]
        every = [row for rows in merged for row in rows]
        trained = sum(end - start for row in every for start, end, _ in row.loss_spans or ())
        print(line("`tito --rows merged`", len(every), sum(len(row.input_ids) for row in every), trained, sampled))
        for peer in installed():
            rows = []
            for one in found.values():
                turns = [Turn(row.input_ids.tolist(), row.output_ids.tolist()) for row in one]
                rows += peer.read(peer.merge(peer.prepare(turns)))
            ids = sum(len(row.ids) for row in rows)
            print(line(peer.name, len(rows), ids, sum(sum(row.mask) for row in rows), sampled))
        alone = [rows[0] for rows in merged if len(rows) == 1]
        trained = sum(end - start for row in alone for start, end, _ in row.loss_spans or ())
        print(line("NeMo Gym's rule", len(alone), sum(len(row.input_ids) for row in alone), trained, sampled))
    return 0


if __name__ == "__main__":
    sys.exit(main())
