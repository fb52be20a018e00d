"""What goes in and what comes out: calls, rows, and the policies between them. Plain data, ids as int32 arrays.

`Policies` mirrors the core's options and `Row` the columns of the row schema; tests compare both with the core.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntFlag
from functools import cache
from itertools import compress
from math import isfinite
from operator import attrgetter, index, is_not
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from tito.errors import UsageError, with_hint

__all__ = ["Call", "Flag", "LossSpan", "Policies", "Row", "RowCall"]

if TYPE_CHECKING:
    # numpy is half of what a command needs to start, and most commands never use it from Python.
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int32]

LossSpan = tuple[int, int, float]
"""`(start, end, weight)`: half-open positions in `input_ids + output_ids`."""

Column = Literal["loss_mask", "loss_weights", "labels", "output_logprobs"]


class Flag(IntFlag):
    """Bits of a row's `flags`."""

    TRUNCATED = 1
    PROMPT_EXACT = 1 << 1
    THINK_STRIPPED = 1 << 2
    THINK_ABSENT = 1 << 3
    THINK_UNTERMINATED = 1 << 4
    THINK_ODD = 1 << 5
    OPEN_THINK_TAIL = 1 << 6
    PARSE_ERROR = 1 << 7
    RETRIED = 1 << 8
    COPIED = 1 << 9
    THINK_MASKED = 1 << 10
    SPLIT_MARKER = 1 << 11
    PROMPT_TRIMMED = 1 << 12


# What rounds to the largest float32 lies below.
_FLOAT32 = float.fromhex("0x1.ffffffp127")


# Arrays have no single truth value, so calls and rows are compared by identity.
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Call:
    """One request to an engine and one choice of its reply.

    `prompt_ids` and `output_ids` are int32 arrays of one dimension (lists are converted once, by the functions that
    take calls); `logprobs`, if there are any, is float32 and as long as `output_ids`. What is not known stays None:
    nothing is made up.

    >>> Call(prompt_ids=[1, 2], output_ids=[3], turn=0).finish is None
    True
    """

    prompt_ids: npt.ArrayLike
    output_ids: npt.ArrayLike
    logprobs: npt.ArrayLike | None = None
    rollout_id: str | None = None
    task_id: str | None = None
    pair_id: str | None = None
    agent: str | None = None
    status: str | None = None
    """How the rollout ended: ok, agent_error, infra_error, limits, format; unknown where a word says none of these, and
    None where nothing is said."""
    attempt: int | None = None
    reward: float | None = None
    source: str | None = None
    """Who made the ids, if not an engine."""
    call_id: str | None = None
    choice: int = 0
    kind: str | None = None
    """solver (also when None), summariser or helper."""
    turn: int | None = None
    """0-based; None lets the calls' order number them."""
    annotations: Mapping[str, str | int | float | bool] | None = None
    """What somebody noted of the call; `note:NAME=VALUE` selects by it."""
    started: float | None = None
    """Seconds since the epoch."""
    finish: str | None = None
    """The engine's word (`stop`, `length`, ...); asked only where no profile tells the stop ids."""
    stop_string: bool = False
    """Whether a stop string ended the output: a clean end."""
    stop_token_ids: Sequence[int] = ()
    """Ids that the request named as ends."""
    parse_error: bool = False

    def facts(self) -> dict[str, Any]:
        """Everything but the arrays, as the core reads it: numbers of numpy as Python's, a number that is not finite
        and a boolean reward as None. `UsageError` names what is of another type, or does not fit it."""
        return {name: read(name, getattr(self, name)) for name, read in _FACTS.items()}

    def stated(self) -> dict[str, Any]:
        """`facts` without those that stand at their defaults, which the core knows."""
        values = _FACTS_OF(self)
        told = compress(zip(_FACTS.items(), values, strict=True), map(is_not, values, _UNSTATED))
        return {name: read(name, value) for (name, read), value in told}


def _is_bool(value: object) -> bool:
    # numpy's own is called `bool_` before numpy 2.
    kind = type(value)
    return kind is bool or (kind.__module__ == "numpy" and kind.__name__ in {"bool", "bool_"})


def _whole(name: str, value: Any) -> int | None:
    if value is None or type(value) is int:
        return value
    if not _is_bool(value):
        with suppress(TypeError):
            return index(value)
    raise with_hint(UsageError(f"{name}: {value!r} is no whole number"), "give an int, or None where it is not known")


def _int32(name: str, value: Any) -> int | None:
    number = _whole(name, value)
    if number is not None and not -(2**31) <= number < 2**31:
        raise with_hint(UsageError(f"{name}: {number} does not fit 32 bits"), "give a smaller number")
    return number


def _turn(name: str, value: Any) -> int | None:
    number = _int32(name, value)
    if number is not None and number < 0:
        raise with_hint(
            UsageError(f"{name}: {number} is no turn"), "turns count from 0; None lets the order number them"
        )
    return number


def _number(name: str, value: Any) -> float | None:
    if value is None or _is_bool(value):
        return None
    if not isinstance(value, str | bytes):
        with suppress(TypeError, ValueError):
            number = float(value)
            return number if isfinite(number) else None
    raise with_hint(UsageError(f"{name}: {value!r} is no number"), "give a number, or None where it is not known")


def _reward(name: str, value: Any) -> float | None:
    number = _number(name, value)
    # Beyond the largest float32 it is infinite, as in files.
    return number if number is None or abs(number) < _FLOAT32 else None


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise with_hint(UsageError(f"{name}: {value!r} holds half a character"), "give text of Unicode") from None
        return value
    if not _is_bool(value):
        with suppress(TypeError):
            # Names that are numbers, as in files.
            return str(index(value))
    raise with_hint(UsageError(f"{name}: {value!r} is no text"), "give a str, or None where it is not known")


def _truth(name: str, value: Any) -> bool:
    if _is_bool(value):
        return bool(value)
    raise with_hint(UsageError(f"{name}: {value!r} is neither True nor False"), "give a bool")


def _wholes(name: str, value: Any) -> list[int | None]:
    with suppress(TypeError):
        return [_int32(name, i) for i in value]
    raise with_hint(UsageError(f"{name}: {value!r} is no list"), "give whole numbers")


def _notes(name: str, value: Any) -> dict[str, str]:
    there = {} if value is None else value
    if not isinstance(there, Mapping):
        raise with_hint(UsageError(f"{name}: {value!r} is no mapping"), "give {NAME: VALUE}")
    return {str(_text(name, key)): _note(name, one) for key, one in there.items() if one is not None}


def _note(name: str, value: Any) -> str:
    # As it would be written in JSON.
    if isinstance(value, str):
        return str(_text(name, value))
    with suppress(TypeError, ValueError):
        return json.dumps(value)
    raise with_hint(UsageError(f"{name}: {value!r} is no value of JSON"), "give a str, a number or a bool")


_FACTS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("rollout_id", "task_id", "pair_id", "agent", "status", "source", "call_id"), _text),
    **dict.fromkeys(("kind", "finish"), _text),
    **dict.fromkeys(("attempt", "choice"), _int32),
    "turn": _turn,
    "reward": _reward,
    "started": _number,
    **dict.fromkeys(("stop_string", "parse_error"), _truth),
    "stop_token_ids": _wholes,
    "annotations": _notes,
}
_FACTS_OF = attrgetter(*_FACTS)
_UNSTATED = _FACTS_OF(Call(prompt_ids=(), output_ids=()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCall:
    """One call that a merged row trains: where its sample stands, and which call it was, that of record `record` (from
    1) of the capture `file`, with `hash` over its ids."""

    start: int
    end: int
    turn: int | None
    call_id: str | None
    file: str
    record: int
    hash: bytes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, repr=False)
class Row:
    """One training example, field by field the columns of row schema version 1.

    `input_ids` (the prompt) and `output_ids` (the sample, after policies) are int32 arrays of one dimension. In a
    merged row the whole sequence stands in `input_ids`, `output_ids` is empty, and `calls` says where the samples are
    that the row trains; `calls` is None in a row of one call. Loss falls on `loss_spans`; None means all of
    `output_ids`, weight 1. There only where they were asked for, as long as both together: `loss_weights` (float32),
    the weight of each position, `weight` times that of its span; `loss_mask` (int8) and `labels` (int32), which are 1
    and the id where that is above 0, else 0 and -100; and `output_logprobs` (float32), as long as `output_ids`, in a
    merged row as `input_ids`, with NaN where the row trains no sample.
    """

    input_ids: Ids
    output_ids: Ids
    loss_spans: tuple[LossSpan, ...] | None
    calls: tuple[RowCall, ...] | None
    weight: float
    rollout_id: str | None
    task_id: str | None
    pair_id: str | None
    agent: str | None
    call_id: str | None
    kind: str | None
    status: str | None
    attempt: int | None
    turn: int | None
    reward: float | None
    source: str
    capture_format: str
    capture_file: str
    capture_record: int
    capture_hash: bytes
    flags: Flag
    loss_mask: npt.NDArray[np.int8] | None = None
    loss_weights: npt.NDArray[np.float32] | None = None
    labels: Ids | None = None
    output_logprobs: npt.NDArray[np.float32] | None = None

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Row:
        """A row from its columns: arrays as they are, everything else as JSON and Arrow spell it (hashes as hex or
        bytes, spans and calls as lists of objects). `KeyError` names a column that is missing."""
        spans, calls = columns["loss_spans"], columns["calls"]
        given: dict[str, Any] = {name: columns.get(name) for name in cls.__dataclass_fields__}
        for name in ("weight", "source", "capture_format", "capture_file", "capture_record"):
            given[name] = columns[name]
        given |= {
            "loss_spans": None if spans is None else tuple((s["start"], s["end"], s["weight"]) for s in spans),
            "calls": None if calls is None else tuple(RowCall(**{**c, "hash": _hash(c["hash"])}) for c in calls),
            "capture_hash": _hash(columns["capture_hash"]),
            "flags": Flag(columns["flags"]),
        }
        return cls(**given)

    def __repr__(self) -> str:
        """Which call, how many ids, and how many of them carry loss: ids by the thousand are read by nobody.

        >>> import tito
        >>> tito.open_rows("kept.parquet")[0]
        <row of turn 0 of pair0/agent1: 169 + 82 ids, loss on 82, weight 1>
        """
        spans = self.loss_spans
        loss = len(self.output_ids) if spans is None else sum(end - start for start, end, _ in spans)
        which = f"turn {self.turn}" if self.calls is None else f"{len(self.calls)} calls"
        ids = f"{len(self.input_ids):,}" + (f" + {len(self.output_ids):,}" if self.calls is None else "")
        return f"<row of {which} of {self.rollout_id}: {ids} ids, loss on {loss:,}, weight {self.weight:g}>"


@cache
def _choices() -> dict[str, tuple[str, ...]]:
    """The policies whose values are words, with the words."""
    hints = get_type_hints(Policies)
    words = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
    return {**words, "columns": get_args(Column)}


# Policies that are whole numbers: the least and the most that the core takes.
_COUNTS = {"seed": (0, 2**64 - 1), "max_length": (0, 2**63 - 1), "leak_ngram": (1, 2**63 - 1)}


def check_count(name: str, value: object, least: int = 0, most: int = 2**63 - 1) -> None:
    """Raises `UsageError` for what is no whole number from `least` to `most`; None goes.

    >>> check_count("seed", 7)
    """
    if value is None:
        return
    number = _whole(name, value)
    if number is not None and not least <= number <= most:
        raise with_hint(UsageError(f"{name}: {number} is not from {least} to {most}"), "choose a number in between")


# Commas in a `/REGEX/` belong to it.
_RULE = re.compile(r"(?:match=/(?:\\.|[^/\\])*/|[^,])+")


def _hash(value: str | bytes) -> bytes:
    return bytes.fromhex(value) if isinstance(value, str) else value


# One word with a folder or an ending: nobody removes such a text from prompts.
_LIKE_A_FILE = re.compile(r"\S*(/|\.\w{1,8})\S*")


def _text_of(name: str, value: str | Path | None) -> str | None:
    if not isinstance(value, Path):
        if value is not None and _LIKE_A_FILE.fullmatch(value):
            hint = "give pathlib.Path(...) for a file; a str is the text itself"
            raise with_hint(UsageError(f"{name}: {value!r} is the name of a file, not a text"), hint)
        return value
    try:
        return value.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise with_hint(UsageError(f"{name}: {value}: not UTF-8 text: {error}"), "name a text file") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Every choice that decides which rows come out, with its default; the command line spells them alike.

    - `think`: `keep` leaves thinking in outputs; `strip` cuts it from them; `strip-all` cuts it from earlier turns in
      prompts too; `mask` leaves it and takes its loss away.
    - `tail`: `captured` leaves the generation prompt's end; `no-think` rewrites it to the template's end with thinking
      switched off.
    - `rows`: `turn` makes one row a call; `merged` one row of each longest sequence, in which all its calls train,
      each call in one row only; `auto` is `merged`, but a sequence of one call is a row of that call. Calls continue
      one another where the ids of prompt and output, as captured, are the beginning of the next prompt. Where a think
      policy would make a sequence that no engine setting shows, its calls are written one a row, counted.
    - `ambiguous`: of replies to one prompt of which no later prompt tells which one was kept, all stay (`keep-all`),
      the last stays (`keep-last`), none does (`drop`), or all stay without loss (`mask`). Choices of one reply are not
      meant.
    - `upweight`: rules `SELECTOR:WEIGHT`. A selector is a turn (`3`), turns from and to (`0-2`, both included), `first`
      or `last` (of the rollout), `KEY=VALUE` with the key `agent`, `kind`, `task`, `pair`, `rollout`, `status` or
      `attempt`, `reward=1`, `reward=LOW..HIGH` (both included, either may be left out), `reward=none`,
      `note:NAME=VALUE` (an annotation of the capture), `tool=NAME` or `match=/REGEX/` (of the output's text), or
      several of them joined by `&`. Weights of all rules that match a row multiply; a rule that matches no row is an
      error.
    - `upweight_as`: `weight` writes the column `weight`, which counts only if the loss uses it; `copies` repeats rows,
      drawn with `seed` where a weight is no whole number, and the total is the same.
    - `normalize`: each `rollout` or each `task` gets the same sum of weight over its trained ids, in however many rows
      they stand; the rules then say what weighs more inside it. A rollout without a task is a task of its own.
    - `weight_scale`: weights are multiplied so that the least weight of a trained id (`min-1`) or their mean (`mean-1`)
      is 1. `auto` leaves the total as the rules make it; normalised weights that become copies get `min-1`, so that no
      row vanishes.
    - `val`, `val_by`: a share (below 1) or a number of the keys goes to a second file, `rows.val.parquet`, unweighted
      and uncopied. Keys are tasks, repositories (what stands before the last `/` of a task) or rollouts; those are
      taken whose SHA-256 of `SEED:KEY` comes first. Rollouts without a key are trained on, counted.
    - `truncated`: outputs that end in no stop id are left out (`drop`), stay without loss (`mask`), or stay (`keep`).
    - `unterminated`: outputs that open thinking and never close it are left out (`drop`) or stay (`keep`); asked only
      when `think` is not `keep`.
    - `max_length`, `overlong`: a row of more ids than that fails the run (`error`), is left out (`drop`), or loses its
      prompt's oldest turns (`trim-prompt`).
    - `drop_section`: a text that leaves the prompts of calls, as ids, with the white space that joined it: what a
      harness without it would have rendered. It must stand in some prompt word for word; what an engine sampled is
      never touched. Needs `tokenizer=`.
    - `leak_scan`: a text of which no row may hold `leak_ngram` words in a row, whatever their case and punctuation;
      runs that `leak_ignore` (the default prompt) has too are no leaks. A row that does fails the run (`leaks="error"`)
      or is left out (`drop`). Needs `tokenizer=`.
    - `kind`: kinds of calls that give rows.
    - `bad`: bad data fails the run when all is read (`error`), or is left out and counted (`skip`).
    - `group_by`: two tokenizers in one dump are refused (`none`), or get a file each (`identity`).
    - `columns`: `loss_mask`, `loss_weights`, `labels`, `output_logprobs`.

    `upweight`, `kind` and `columns` also take one text with commas, and the texts also a `Path` to a file that holds
    them; the text itself travels with the rows, so that they can be made again. Raises `UsageError` for a word that is
    no choice and a file that is not UTF-8; rules of `upweight` are read by the core when they are used.

    >>> Policies(think="strip", upweight="0-2:12,last:2").upweight
    ('0-2:12', 'last:2')
    """

    think: Literal["keep", "strip", "strip-all", "mask"] = "keep"
    """Thinking in outputs stays, is cut, is cut in earlier turns of prompts too, or stays without loss."""
    tail: Literal["captured", "no-think"] = "captured"
    """The generation prompt's end stays, or is rewritten to the profile's no-thinking tail."""
    rows: Literal["turn", "merged", "auto"] = "turn"
    """One row a call, one a longest sequence, or the latter only where calls continue one another."""
    ambiguous: Literal["keep-all", "keep-last", "drop", "mask"] = "keep-all"
    """Replies to one prompt of which nobody can tell which one was kept."""
    upweight: Sequence[str] = ()
    """Rules `SELECTOR:WEIGHT`; all that match a row multiply."""
    upweight_as: Literal["weight", "copies"] = "weight"
    """Weights stand in the `weight` column, or become copies of rows."""
    seed: int = 0
    """Seed of the copies and of the validation side."""
    normalize: Literal["none", "rollout", "task"] = "none"
    """What gets the same total weight."""
    weight_scale: Literal["auto", "min-1", "mean-1"] = "auto"
    """What makes the least or the mean weight of a trained id 1."""
    val: float | None = None
    """Keys set apart: below 1 a share of them, else a number."""
    val_by: Literal["task", "repo", "rollout"] = "task"
    """What never stands on both sides."""
    truncated: Literal["drop", "mask", "keep"] = "drop"
    """Outputs that do not end in a stop id."""
    unterminated: Literal["drop", "keep"] = "drop"
    """Outputs that open thinking and never close it; asked only when `think` is not keep."""
    max_length: int | None = None
    """Most ids of a row."""
    overlong: Literal["error", "drop", "trim-prompt"] = "error"
    """Rows over that."""
    drop_section: str | Path | None = None
    """A text that leaves prompts."""
    leak_scan: str | Path | None = None
    """A text that no row may hold a run of words of."""
    leak_ngram: int = 8
    """Words of such a run; a shorter text is one run."""
    leak_ignore: str | Path | None = None
    """A text whose runs of words are no leaks."""
    leaks: Literal["error", "drop"] = "error"
    """Rows that leak fail the run, or are left out and counted."""
    kind: Sequence[str] = ("solver", "summariser")
    """Kinds of calls that give rows."""
    bad: Literal["error", "skip"] = "error"
    """Bad data fails the run, or is left out and counted."""
    group_by: Literal["none", "identity"] = "none"
    """Different tokenizers in one dump are refused, or get a file each."""
    columns: Sequence[Column] = ()
    """Columns on request."""

    def __post_init__(self) -> None:
        for name in ("upweight", "kind", "columns"):
            value = getattr(self, name)
            parts = [part.strip() for part in _RULE.findall(value)] if isinstance(value, str) else value
            named = tuple(part for part in parts if part)
            if not named and (value or name == "kind"):
                raise with_hint(UsageError(f"{name}: {value!r} names nothing"), f"name one, or leave {name} out")
            object.__setattr__(self, name, named)
        for name, (least, most) in _COUNTS.items():
            check_count(name, getattr(self, name), least, most)
        for name in ("drop_section", "leak_scan", "leak_ignore"):
            object.__setattr__(self, name, _text_of(name, getattr(self, name)))
        for name, allowed in _choices().items():
            value = getattr(self, name)
            for choice in value if isinstance(value, tuple) else (value,):
                if choice not in allowed:
                    near = get_close_matches(str(choice), allowed, 1)
                    message = f"{name}: {choice!r} is none of {', '.join(allowed)}"
                    raise with_hint(UsageError(message), f"did you mean {near[0]}?" if near else "choose one of them")

    def to_dict(self) -> dict[str, Any]:
        """The policies as the core's options name them, tuples as lists.

        >>> Policies(think="mask").to_dict()["think"]
        'mask'
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())
