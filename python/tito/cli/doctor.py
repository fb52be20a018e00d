"""`tito doctor`: what is wrong with this installation, or with a run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

ABOUT = "print versions and conflicts, or walk a run's handoffs by their hashes and name the first that is broken"
EXAMPLE = """\
example:
  tito doctor
  tito doctor runs/2026-11-21

A run is a folder with its outputs: rows and their manifest, tito_train.json and the adapter, serving.json, a probe's
report (a JSON file with probe in its name). Steps: data, rows, train, merge, serve, probe. Exit 1 where versions
conflict or a handoff is broken.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("run_folder", nargs="?", metavar="RUN", help="a run's folder (default: look at versions)")
    parser.add_argument("--json", action="store_true", help="the findings as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    return _versions(args.json) if args.run_folder is None else _run(Path(args.run_folder), args.json)


def _versions(as_json: bool) -> int:
    from tito.doctor.versions import conflicts, packages

    found = packages()
    wrong = conflicts(found)
    if as_json:
        print(json.dumps({"versions": {p.name: p.version for p in found}, "conflicts": wrong}, indent=2))
    else:
        for package in found:
            print(f"{package.name:<24}{package.version or '-'}")
    for text in wrong:
        print(f"conflict: {text}", file=sys.stderr)
    if wrong:
        print("hint: install versions that go together in an environment of their own", file=sys.stderr)
    return 1 if wrong else 0


def _run(folder: Path, as_json: bool) -> int:
    from tito.doctor.handoffs import STEPS, examine, short

    found = examine(folder)
    broken = [finding for finding in found if finding.state == "broken"]
    if as_json:
        first = broken[0].step if broken else None
        print(json.dumps({"findings": [asdict(f) for f in found], "first_broken": first}, indent=2, ensure_ascii=False))
    else:
        for finding in found:
            hashed = "-" if finding.hash is None else short(finding.hash)
            print(f"{finding.step:<7}{finding.state:<9}{hashed:<14}{finding.what}")
        for step in STEPS:
            if not any(finding.step == step for finding in found):
                print(f"{step:<7}{'missing':<9}{'-':<14}no record in {folder}")
    if not broken:
        return 0
    print(f"error: {broken[0].step}: {broken[0].what}", file=sys.stderr)
    print(f"hint: do {broken[0].step} again; what comes after it stands on it", file=sys.stderr)
    return 1
