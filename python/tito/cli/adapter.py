"""`tito adapter`: LoRA adapters by their files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tito.errors import UsageError, with_hint

if TYPE_CHECKING:
    from tito.adapter import AdapterReport

ABOUT = "look at a LoRA adapter, merge its shards or merge it into its base, and name its tensors for a server"
EXAMPLE = """\
example:
  tito adapter inspect out/adapter --base models/Qwen3-4B
  tito adapter merge checkpoints/global_step_100 -o out/adapter --alpha 32
  tito adapter merge out/adapter --into models/Qwen3-4B -o out/merged
  tito adapter export out/adapter --base models/Qwen3.5-9B --base-name Qwen/Qwen3.5-9B -o out/served

inspect: exit 1 for an adapter that does nothing, holds NaN, is of another base or has what servers refuse. merge: FSDP
shards of verl to one PEFT adapter; with --into, an adapter into its base's weights (float32, rounded once). export:
names of the class that the server loads. Outputs are new folders.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("action", choices=("inspect", "merge", "export"), help="what to do")
    parser.add_argument("folder", metavar="DIR", help="an adapter's folder; with merge also a checkpoint's")
    parser.add_argument("--base", metavar="DIR", help="its base: shapes and names are compared")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder to make")
    parser.add_argument("--into", metavar="DIR", help="merge: into the weights of this base")
    parser.add_argument("--alpha", type=float, metavar="X", help="merge: lora_alpha, where the checkpoint does not say")
    parser.add_argument("--base-name", metavar="NAME", help="the base's public name, in place of a local path")
    parser.add_argument("--keys", choices=("text", "wrapper"), help="export: names of this class, whatever the base")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from tito.adapter import BaseModel, LoraAdapter, inspect

    if args.action == "inspect":
        base = None if args.base is None else BaseModel(args.base)
        return _tell(inspect(LoraAdapter(args.folder), base), args.json)
    if args.output is None:
        raise with_hint(UsageError("no output is named"), "add -o DIR")
    output = Path(args.output)
    if args.action == "export":
        from tito.adapter.write import export

        base = None if args.base is None else BaseModel(args.base)
        made = export(LoraAdapter(args.folder), output, base=base, keys=args.keys, base_name=args.base_name)
    elif args.into is not None:
        from tito.adapter.fuse import fuse

        fuse(LoraAdapter(args.folder), BaseModel(args.into), output)
        print(f"{output}: {args.into} with {args.folder} in it", file=sys.stderr)
        return 0
    else:
        from tito.adapter.shards import merge_shards

        made = merge_shards(Path(args.folder), output, alpha=args.alpha, base_name=args.base_name)
    base = None if args.base is None else BaseModel(args.base)
    return _tell(inspect(made, base), args.json)


def _tell(report: AdapterReport, as_json: bool) -> int:
    if as_json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        sys.stdout.write(_text(report))
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not report.problems:
        return 0
    for problem in report.problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"hint: {report.folder} must not be served as it is", file=sys.stderr)
    return 1


def _text(report: AdapterReport) -> str:
    lines = {
        "folder": report.folder,
        "hash": report.hash,
        "rank": f"{report.rank}, alpha {report.alpha:g}, scaling {report.scaling:g}",
        "task type": report.task_type or "not set",
        "base": report.base_name or "not set",
        "names": f"{report.keys} class",
        "tensors": f"{report.tensors:,} ({', '.join(report.dtypes)}), {report.parameters:,} parameters",
    }
    text = "".join(f"{name:<11}{value}\n" for name, value in lines.items())
    text += f"{'target':<14}{'modules':>8}{'rank':>8}{'B not zero':>12}{'mean |BA|':>12}\n"
    for name, target in report.targets.items():
        ranks = ",".join(map(str, target.ranks))
        text += f"{name:<14}{target.modules:>8,}{ranks:>8}{target.nonzero_b:>12.1%}{target.norm:>12.4g}\n"
    return text
