"""Rows and captures for people: what is trained stands between ⟦ and ⟧, in colour where there is some.

Pure functions from rows and calls to text; the command line brings the terminal and the tokenizer.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tito import _core
from tito.calls import Row
from tito.errors import UsageError, WorldError, with_hint
from tito.profile.errors import PROFILE_EXTRA
from tito.report.shape import chosen_policies
from tito.rows import RowsFile

__all__ = ["Decode", "Painter", "load_decoder", "show_call", "show_file", "show_row"]

Decode = Callable[[Sequence[int]], str]
"""Ids to text, special tokens included."""

_KINDS = {
    "turn": "per-turn rows: input_ids is the prompt, output_ids what was sampled",
    "merged": "merged rows: input_ids is the whole sequence, output_ids is empty",
    "auto": "merged rows where calls continue one another, else per-turn rows (calls is null)",
}
# What is told of a row or a call, and the word it goes by.
_WHO = {
    "turn": "turn",
    "rollout_id": "rollout",
    "task_id": "task",
    "agent": "agent",
    "kind": "kind",
    "status": "status",
    "reward": "reward",
}
_COLOUR, _PLAIN = "\x1b[32m", "\x1b[0m"


def load_decoder(path: str | os.PathLike[str]) -> Decode:
    """The decoder of a tokenizer's folder or `tokenizer.json`. Raises `UsageError`, and `WorldError` where the package
    tokenizers is not installed."""
    file = Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise with_hint(UsageError(f"{file}: no such file"), "name a folder that holds a tokenizer.json, or the file")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise with_hint(WorldError("decoding needs tokenizers"), f"{PROFILE_EXTRA}, or show --ids") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise with_hint(
            UsageError(f"{file}: not a tokenizer: {error}"), "name a tokenizer.json made by tokenizers"
        ) from None
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


class Painter:
    """How ids become text: decoded or as numbers, shortened in the middle, marked where loss falls.

    `width` is the number of characters (of decoded text) or of ids that a stretch shows; None shows all.

    >>> Painter(None, colour=False, width=4).paint(range(9), [(0, 6, False), (6, 9, True)])
    '0 1 ... 2 ids ... 4 5 ⟦6 7 8⟧'
    """

    def __init__(self, decode: Decode | None, *, colour: bool, width: int | None) -> None:
        self._decode = decode
        self._colour = colour
        self._width = width

    def paint(self, ids: Sequence[int] | npt.NDArray[np.int32], stretches: Iterable[tuple[int, int, bool]]) -> str:
        """The ids, stretch by stretch: `(start, end, marked)`."""
        painted = []
        for start, end, marked in stretches:
            text = self._stretch([int(i) for i in ids[start:end]])
            if marked:
                text = f"{_COLOUR}⟦{text}⟧{_PLAIN}" if self._colour else f"⟦{text}⟧"
            painted.append(text)
        return ("" if self._decode else " ").join(painted)

    def _stretch(self, ids: list[int]) -> str:
        if self._decode is None:
            parts, unit, glue = [str(i) for i in ids], "ids", " "
        else:
            parts, unit, glue = list(_printable(self._decode(ids))), "characters", ""
        if self._width is None or len(parts) <= self._width:
            return glue.join(parts)
        half = self._width // 2
        left_out = f" ... {len(parts) - 2 * half:,} {unit} ... "
        return glue.join(parts[:half]) + left_out + glue.join(parts[len(parts) - half :])


def _printable(text: str) -> str:
    """Text from a model may hold what a terminal obeys; newlines and tabs stay."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") else f"\\u{ord(c):04x}" for c in text
    )


def show_file(rows: RowsFile) -> str:
    """What kind of rows a file holds, how many, and which policies made them."""
    lines = [f"{', '.join(rows.files)}: {len(rows):,} rows", _KINDS.get(rows.kind, rows.kind)]
    stored = rows.metadata
    if policies := stored.get("tito.policies"):
        lines.append(f"policies {chosen_policies(json.loads(policies))}")
    if profile := stored.get("tito.profile"):
        lines.append(f"profile {profile}, tokenizer {stored['tito.tokenizer_hash']}")
    lines.append("what is trained stands between ⟦ and ⟧")
    return "\n".join(lines) + "\n"


def show_row(number: int, row: Row, painter: Painter) -> str:
    """One row: who, whence, where loss falls, and its ids or text."""
    ids = np.concatenate([row.input_ids, row.output_ids])
    mask = _core.loss_mask(row.input_ids, row.output_ids, None if row.loss_spans is None else list(row.loss_spans))
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    # The prompt ends where the sample begins, whether or not loss changes there.
    edges = sorted({*edges, len(row.input_ids)})
    stretches = [(a, b, bool(mask[a])) for a, b in pairwise(edges) if a < b]
    trained = [f"{a}-{b}" for a, b, marked in stretches if marked]
    facts = {name: getattr(row, name) for name in _WHO}
    flags = ", ".join(flag.name.lower() for flag in row.flags if flag.name) or "none"
    head = [
        f"row {number}  {_who(facts)}  weight {row.weight:g}",
        f"  from {row.capture_file} record {row.capture_record} ({row.capture_format}, {row.source}), "
        f"hash {row.capture_hash.hex()}, flags {flags}",
        f"  {_lengths(row)}, loss on {int(mask.sum()):,}" + (f" (positions {', '.join(trained)})" if trained else ""),
    ]
    return "\n".join([*head, painter.paint(ids, stretches)]) + "\n"


def _lengths(row: Row) -> str:
    if row.calls is None:
        return f"prompt {len(row.input_ids):,} ids, output {len(row.output_ids):,} ids"
    turns = ", ".join("?" if call.turn is None else str(call.turn) for call in row.calls)
    return f"sequence {len(row.input_ids):,} ids, trains {len(row.calls)} calls (turns {turns})"


def show_call(call: Mapping[str, Any], painter: Painter) -> str:
    """One captured call, an entry of `_core.call_ids`: who, whence, what is wrong with it, and its ids or text."""
    head = [f"{call['file']} record {call['record']}" + (f"  {_who(call)}" if call.get("format") else "")]
    if call.get("bad"):
        head.append(f"  bad: {call['bad']}")
    prompt, output = call.get("prompt_ids"), call.get("output_ids")
    if prompt is None or output is None:
        missing = "prompt and output" if prompt is None and output is None else "prompt" if prompt is None else "output"
        if call.get("format"):
            head.append(f"  {missing} ids: none")
        return "\n".join(head) + "\n"
    head.append(f"  prompt {len(prompt):,} ids, output {len(output):,} ids")
    ids = np.concatenate([prompt, output])
    stretches = [(0, len(prompt), False), (len(prompt), len(ids), True)]
    return "\n".join([*head, painter.paint(ids, [s for s in stretches if s[0] < s[1]])]) + "\n"


def _who(facts: Mapping[str, Any]) -> str:
    told = (f"{word} {facts[name]}" for name, word in _WHO.items() if facts.get(name) is not None)
    return _printable("  ".join(told))
