"""Options that several verbs share, spelled alike in all. Choices and defaults are those of `tito.Policies`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tito.calls import Policies
from tito.errors import UsageError, with_hint

__all__ = ["add_input_options", "add_policy_options", "count", "count_from_1", "input_options", "policies"]

_HINTS = get_type_hints(Policies)
_DEFAULTS = Policies()
_MOST = 2**63 - 1


def add_input_options(parser: argparse.ArgumentParser, *, checks: bool = False) -> None:
    """What to read and what it is. `checks`: the verb reads past bad data in any case."""
    parser.add_argument("inputs", nargs="+", metavar="DUMP", help="files, folders or globs of captures; - is stdin")
    reading = parser.add_argument_group("reading")
    reading.add_argument("--from", dest="from_format", metavar="FORMAT", help="format of all input (tito formats)")
    reading.add_argument("--profile", metavar="NAME|DIR|FILE", help="tokenizer and template (default: found)")
    reading.add_argument("--tokenizer", metavar="DIR|FILE", help="a tokenizer.json, for policies that are about text")
    if checks:
        choices, about = get_args(_HINTS["bad"]), "bad calls are told and forgiven: exit 0 (else exit 1)"
        reading.add_argument("--bad", choices=choices, default=argparse.SUPPRESS, metavar="skip", help=about)
    else:
        _choice(reading, "bad", "bad data fails the run, or is left out and counted")
    reading.add_argument("--workers", type=count, default=0, metavar="N", help="threads (default: all cores)")


def input_options(args: argparse.Namespace) -> dict[str, Any]:
    """The same as keywords of `tito.convert` and `tito.check`."""
    tokenizer = args.tokenizer
    if args.prove_think not in (None, "ids"):
        if tokenizer not in (None, args.prove_think):
            message = f"--prove-think {args.prove_think} and --tokenizer {tokenizer} are two tokenizers"
            raise with_hint(UsageError(message), "name one; --prove-think ids takes that of --tokenizer")
        tokenizer = args.prove_think
    given = {"profile": args.profile, "from_format": args.from_format, "workers": args.workers}
    return {**given, "tokenizer": tokenizer, "prove_think": args.prove_think is not None}


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    """What decides which rows come out."""
    group = parser.add_argument_group("policies (the default stands first)")
    think = group.add_mutually_exclusive_group()
    _choice(think, "think", "thinking stays, is cut from outputs, from earlier turns too, or loses its loss")
    think.add_argument(
        "--strip-think",
        dest="think",
        action="store_const",
        const="strip",
        default=argparse.SUPPRESS,
        help="--think strip",
    )
    _choice(group, "tail", "the generation prompt's end: as captured, or rewritten to the no-thinking one")
    _choice(
        group,
        "rows",
        "what a row is: one call, all calls of a longest sequence, or the latter only where calls continue one another",
    )
    _choice(group, "ambiguous", "replies to one prompt of which nobody can tell which one was kept")
    group.add_argument(
        "--upweight",
        action="append",
        default=[],
        metavar="RULE[,RULE]",
        help="SELECTOR:WEIGHT, like 0-2:12, last:2, agent=agent1&reward=0.5..:2; rules that match a row multiply",
    )
    _choice(group, "upweight_as", "weights stand in a column, or become copies of rows")
    group.add_argument(
        "--seed", type=count, default=_DEFAULTS.seed, metavar="N", help="of copies and --val (default 0)"
    )
    _choice(group, "normalize", "each rollout or each task gets the same total weight")
    _choice(group, "weight_scale", "what makes the least or the mean weight of a trained id 1")
    group.add_argument(
        "--val", type=_share, metavar="SHARE|N", help="keys whose rows go to a second file, OUT with .val, unweighted"
    )
    _choice(group, "val_by", "what never stands on both sides")
    about = "compare answers without thinking with later prompts; ids: by ids alone, no tokenizer; changes no row"
    group.add_argument("--prove-think", metavar="DIR|FILE|ids", help=about)
    _choice(group, "truncated", "outputs that end in no stop id")
    _choice(group, "unterminated", "outputs that never close thinking, unless thinking is kept")
    group.add_argument("--max-length", type=count, metavar="N", help="most ids of a row (default: no limit)")
    _choice(group, "overlong", "rows over that")
    _text(group, "drop_section", "a text that leaves prompts, as ids, as if it had never been in them")
    _text(group, "leak_scan", "a text that no row may hold a run of words of, in prompt, thinking or answer")
    group.add_argument(
        "--leak-ngram",
        type=count_from_1,
        default=_DEFAULTS.leak_ngram,
        metavar="N",
        help="words of such a run (default 8)",
    )
    _text(group, "leak_ignore", "a text whose runs of words are no leaks: the default prompt")
    _choice(group, "leaks", "rows that leak fail the run, or are left out and counted")
    group.add_argument(
        "--kind",
        default=_DEFAULTS.kind,
        metavar="KIND[,KIND]",
        help=f"kinds of calls that give rows (default {','.join(_DEFAULTS.kind)}; also helper)",
    )
    _choice(group, "group_by", "different tokenizers in one dump are refused, or get a file each")
    group.add_argument(
        "--expect-rows",
        "--expected-rows",
        type=count,
        metavar="N",
        help="any other number of rows is an error, and nothing is written",
    )


def policies(args: argparse.Namespace, **more: Any) -> Policies:
    """The policies that were asked for; `more` wins."""
    given = {field.name: getattr(args, field.name) for field in fields(Policies) if field.name in vars(args)}
    return Policies(**{**given, "upweight": ",".join(args.upweight), **more})


def _choice(group: Any, name: str, about: str) -> None:
    default = getattr(_DEFAULTS, name)
    choices = get_args(_HINTS[name])
    shown = "|".join([default, *(choice for choice in choices if choice != default)])
    option = f"--{name.replace('_', '-')}"
    # Absent, not the default: argparse does not see `--think keep --strip-think` contradict each other otherwise.
    group.add_argument(option, dest=name, choices=choices, default=argparse.SUPPRESS, metavar=shown, help=about)


def _share(text: str) -> float:
    """A number above 0."""
    with suppress(ValueError):
        if 0 < (number := float(text)) < inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is neither a share like 0.1 nor a number like 20")


def _text(group: Any, name: str, about: str) -> None:
    option = f"--{name.replace('_', '-')}"
    group.add_argument(option, dest=name, type=Path, default=argparse.SUPPRESS, metavar="FILE", help=about)


def count(text: str, least: int = 0) -> int:
    """A whole number of 0 (or `least`) or more, that 64 bits hold."""
    # int() refuses thousands of digits with an error of its own.
    if not text.isascii() or not text.isdigit() or (len(text) < 99 and int(text) < least):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
    if len(text) > 99 or int(text) > _MOST:
        raise argparse.ArgumentTypeError(f"{text} is more than {_MOST}")
    return int(text)


def count_from_1(text: str) -> int:
    """The same of 1 or more."""
    return count(text, 1)
