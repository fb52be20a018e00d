"""`tito train`: rows to a LoRA adapter, or to a model."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

from tito.errors import UsageError, with_hint

ABOUT = "train a LoRA adapter (or every weight) on rows, id for id; proves what reaches the model before and after"
EXAMPLE = """\
example:
  tito train qwen3-4b-lora base=models/Qwen3-4B data=rows.parquet output=out --dry-run
  tito train qwen3-4b-lora base=models/Qwen3-4B data=rows.parquet val=rows.val.parquet output=out --probe-every 50
  tito train qwen3-4b-lora base=models/Qwen3-4B data=rows.parquet output=out resume=last
  torchrun --nproc_per_node 8 -m tito.train qwen3-4b-lora data=rows.parquet output=out world=8

RECIPE is a YAML file or a name of --list, which also says what every key means; key=value goes over it. A run needs
base, data (rows of `tito convert`) and output, a folder: output/adapter is what PEFT and vLLM load,
output/tito_train.json what was trained on what. With --probe-every the model in training is asked recorded prompts, and
the best checkpoint is the one that answers best; without it the last one is kept, and no loss chooses unasked
(metric=heldout does). Exit 1 when a check fails: what was written stays, and says so.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.set_defaults(late="settings")
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a YAML file, or the name of a recipe")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="over the recipe; base=, data=, output= are needed"
    )
    parser.add_argument("--list", action="store_true", help="recipes that come with tito; every key with its meaning")
    parser.add_argument(
        "--dry-run", action="store_true", help="plan and checks of the rows; nothing is loaded or written"
    )
    parser.add_argument("--probe-every", type=int, metavar="N", help="steps between looks at what the model says")
    parser.add_argument("--json", action="store_true", help="the run's record as JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="warnings and errors only")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from tito.train.config import TrainConfig

    if args.list:
        _list()
        return os.EX_OK
    if args.recipe is None:
        raise with_hint(UsageError("no recipe is named"), "`tito train --list` lists those that come with tito")
    given = list(args.settings)
    if args.probe_every is not None:
        given.append(f"probe_every={args.probe_every}")
    config = TrainConfig.load(args.recipe, given)

    from tito.train.run import train

    args.stopped = "" if args.dry_run else f"; checkpoints in {config.output} are whole, resume=last goes on"
    first = os.environ.get("RANK", "0") == "0"

    def say(line: str) -> None:
        if first and (not args.quiet or line.startswith("warning")):
            print(line, file=sys.stderr, flush=True)

    _silence_libraries()
    record = train(config, dry_run=args.dry_run, say=say)
    if args.json and first:
        print(json.dumps(record, indent=2, ensure_ascii=False, default=str))
    return os.EX_OK


def _silence_libraries() -> None:
    """Their progress bars and notes are not ours; what matters of them is checked and told by us."""
    for name in ("bitsandbytes", "torch.utils.flop_counter"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _list() -> None:
    from dataclasses import MISSING, fields

    from tito.train.config import TrainConfig, meanings, recipes

    for name, about in recipes().items():
        print(f"{name:<24} {about}")
    print()
    said = meanings()
    for field in fields(TrainConfig):
        default = "needed" if field.default is MISSING else "-" if field.default in (None, ()) else str(field.default)
        print(f"{field.name:<24} {default:<10} {said.get(field.name, '')}".rstrip())
