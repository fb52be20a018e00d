"""One rollout that is in memory already, through the same policies as a dump."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tito import _core
from tito.calls import Call, Policies, Row
from tito.errors import UsageError, with_hint
from tito.paths import utf8_path
from tito.profile import Profile
from tito.profile.find import find_profile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["expand_turns", "merge_calls"]

_DEFAULTS = Policies()
_MERGED = Policies(rows="merged")


def expand_turns(
    calls: Sequence[Call],
    *,
    policies: Policies = _DEFAULTS,
    profile: Profile | str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> list[Row]:
    """The rows of one rollout, one a call, in the order of turns: what `convert` makes of the same calls in a file.

    A call whose ids are not sound, and one that a policy leaves out, gives no row; the list is empty when every call is
    left out. `profile` is found among the built-in ones by how the prompts begin and end; policies that must know the
    tokenizer refuse an unknown one. `tokenizer` is that of `convert`; each call of this function loads it anew.

    Raises `UsageError` for a policy, an array or a fact of a call that is wrong, `DataError` for bad data under
    `bad="error"`.

    >>> prompt = [151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198]
    >>> output = [151667, 198, 40, 151668, 271, 9707, 151645]
    >>> [row] = expand_turns([Call(prompt_ids=prompt, output_ids=output)], policies=Policies(think="strip"))
    >>> row.turn, row.output_ids.tolist(), row.output_ids.dtype
    (0, [9707, 151645], dtype('int32'))
    """
    return _rows(calls, policies, profile, tokenizer)


def merge_calls(
    calls: Sequence[Call],
    *,
    policies: Policies | None = None,
    profile: Profile | str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> list[Row]:
    """The rows of one rollout, one a longest sequence: what `convert` with `rows="merged"` makes of the same calls.

    A call continues another where the other's prompt and output, as captured, are the beginning of its prompt. The
    calls may come in any order, as long as `turn` or `started` tells theirs. A row holds a whole sequence in
    `input_ids` (int32), `calls` says where the samples stand that it trains, and each call is trained in one row.
    With `rows="auto"` in `policies` a call that continues nothing and that nothing continues is a row as `expand_turns`
    makes it; so are the calls of a sequence that a policy would make into one that no engine setting shows. `profile`
    and `tokenizer` as in `expand_turns`.

    Raises as `expand_turns` does.

    >>> prompt = [151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198]
    >>> output = [9707, 151645]
    >>> again = [*prompt, *output, 198, 151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198]
    >>> calls = [Call(prompt_ids=prompt, output_ids=output), Call(prompt_ids=again, output_ids=output)]
    >>> [row] = merge_calls(calls)
    >>> row.loss_spans, [call.turn for call in row.calls], len(row.input_ids), row.input_ids.dtype
    (((9, 11, 1.0), (21, 23, 1.0)), [0, 1], 23, dtype('int32'))
    """
    policies = policies or _MERGED
    merging = replace(policies, rows="merged") if policies.rows == "turn" else policies
    return _rows(calls, merging, profile, tokenizer)


def _rows(
    calls: Sequence[Call],
    policies: Policies,
    profile: Profile | str | os.PathLike[str] | None,
    tokenizer: str | os.PathLike[str] | None,
) -> list[Row]:
    options: dict[str, Any] = policies.to_dict()
    if (known := find_profile(profile)) is not None:
        options["profile"] = json.loads(known.to_json())
    if tokenizer is not None:
        options["tokenizer"] = utf8_path(tokenizer)
    calls = _listed(calls)
    made, metas = _core.expand_turns(
        [call.prompt_ids for call in calls],
        [call.output_ids for call in calls],
        [_logprobs(at, call) for at, call in enumerate(calls)],
        json.dumps([_facts(at, call) for at, call in enumerate(calls)]),
        json.dumps(options),
    )
    rows = []
    for (input_ids, output_ids, logprobs), meta in zip(made, json.loads(metas), strict=True):
        columns = {**meta, "input_ids": input_ids, "output_ids": output_ids, "output_logprobs": logprobs}
        if policies.columns:
            length = len(input_ids) + len(output_ids)
            triples = _weighted(meta["loss_spans"], len(input_ids), length, meta["weight"])
        if "loss_mask" in policies.columns:
            columns["loss_mask"] = _core.loss_mask(input_ids, output_ids, triples)
        if "labels" in policies.columns:
            columns["labels"] = _core.labels(input_ids, output_ids, triples)
        if "loss_weights" in policies.columns:
            columns["loss_weights"] = _core.loss_weights(input_ids, output_ids, triples)
        rows.append(Row.from_columns(columns))
    return rows


def _listed(calls: Iterable[Call]) -> list[Call]:
    hint = "give a list of tito.Call"
    try:
        # A generator gives its calls once, and they are looked at several times.
        listed = list(calls)
    except TypeError:
        raise with_hint(UsageError(f"calls: a {type(calls).__name__} is no list of calls"), hint) from None
    for at, call in enumerate(listed):
        if not isinstance(call, Call):
            raise with_hint(UsageError(f"call {at}: a {type(call).__name__} is no tito.Call"), hint)
    return listed


def _logprobs(at: int, call: Call) -> npt.NDArray[np.float32] | None:
    if call.logprobs is None:
        return None
    import numpy as np

    try:
        given = np.asarray(call.logprobs, np.float64)
        what = f"{given.ndim} dimensions, not 1" if given.ndim != 1 else "values are masked"
        wrong = given.ndim != 1 or np.ma.is_masked(call.logprobs)
    except (TypeError, ValueError, OverflowError):
        what, wrong = "not one list of numbers", True
    if not wrong:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(given, np.float32)
        lost = np.isfinite(given) & ~np.isfinite(values)
        if not lost.any():
            return values
        first = int(np.argmax(lost))
        what = f"{given[first]:g} at position {first} does not fit a float32"
    message = f"call {at}: logprobs: {what}"
    raise with_hint(UsageError(message), "logprobs are one number for each id of output_ids, float32")


def _facts(at: int, call: Call) -> dict[str, Any]:
    try:
        return call.stated()
    except UsageError as error:
        raise with_hint(UsageError(f"call {at}: {error}"), error.hint) from None


def _weighted(
    spans: Sequence[Mapping[str, Any]] | None, prompt: int, length: int, weight: float
) -> list[tuple[int, int, float]]:
    """Where loss falls, with what each position weighs: the row's weight times the span's, in float32."""
    import numpy as np

    told = [(prompt, length, 1.0)] if spans is None else [(s["start"], s["end"], s["weight"]) for s in spans]
    return [(start, end, float(np.float32(of_span) * np.float32(weight))) for start, end, of_span in told]
