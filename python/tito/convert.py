"""Captures to rows. The core does the work in one call; here is the door."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from tito import _core
from tito._core import Progress
from tito.calls import Policies, check_count
from tito.errors import UsageError, with_hint
from tito.paths import Paths, utf8_path, utf8_paths
from tito.profile import Profile
from tito.profile.find import find_profile
from tito.report import Report
from tito.watched import watched

__all__ = ["check", "convert", "core_options"]

_DEFAULTS = Policies()


def convert(
    inputs: Paths,
    output: str | os.PathLike[str],
    *,
    policies: Policies = _DEFAULTS,
    profile: Profile | str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    from_format: str | None = None,
    prove_think: bool = False,
    expect_rows: int | None = None,
    jsonl: bool | None = None,
    shard_bytes: int | None = None,
    shard_tokens: int | None = None,
    workers: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Converts captures to rows and says what it did.

    `inputs` are files, folders, globs or `-` (standard input). `output` is one file, or with `shard_bytes` or
    `shard_tokens` the name that numbered shards are made from (`rows-00000.parquet`); a manifest is written beside it.
    Shards by tokens (ids of prompts and outputs) are an eighth of that size from it at most, or a row.
    `jsonl` writes JSON lines in place of parquet; None asks the name of `output`. `tokenizer` is a model's folder or
    its `tokenizer.json`, for policies that are about text; it is loaded only if it is given, and must be the profile's.
    `prove_think` compares each answer, without its thinking, with what the next prompt of its rollout shows of it (the
    report's `prove_think`; with `tokenizer` also by text), and changes no row. `workers` is a number of threads, 0 all
    cores; the bytes written are the same for any number. `progress` is called about ten times a second from the calling
    thread; what it raises stops the run and comes through, though the output may stand already when it raises at the
    very end.

    The output gets its name only when everything is written: after an error or Ctrl-C (`KeyboardInterrupt`) nothing
    stands under it that was not there before. A Ctrl-C that comes when all is written changes nothing.

    Raises `DataError` for bad data, for a policy that fires nowhere, and for a number of rows other than `expect_rows`;
    `UsageError` for options, and for files of an earlier run that would stay among the new ones; `WorldError` for
    files, and for an output that another run is writing.

    >>> report = convert("calls.jsonl", "rows.parquet", policies=Policies(think="strip", upweight="0-2:12"))
    >>> report.rows, report.skipped, report.outputs
    (12, {'unterminated_think': 24}, ('rows.parquet',))
    """
    for told, number in (("expect_rows", expect_rows), ("shard_bytes", shard_bytes), ("shard_tokens", shard_tokens)):
        check_count(told, number)
    name = utf8_path(output)
    options = core_options(inputs, policies, profile, tokenizer, from_format, workers, prove_think)
    options |= {
        "output": name,
        "expect_rows": expect_rows,
        "jsonl": name.endswith(".jsonl") if jsonl is None else jsonl,
        "shard_bytes": shard_bytes,
        "shard_tokens": shard_tokens,
    }
    return _run(options, progress)


def check(
    inputs: Paths,
    *,
    policies: Policies = _DEFAULTS,
    profile: Profile | str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    from_format: str | None = None,
    prove_think: bool = False,
    expect_rows: int | None = None,
    workers: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Reads captures, applies the policies and counts, as `convert` does, and writes nothing.

    With `Policies(bad="skip")` bad data is in the report (`Report.bad`, `Report.examples`) and not an error.
    Raises what `convert` raises.

    >>> check("calls.jsonl", policies=Policies(bad="skip")).bad
    0
    """
    check_count("expect_rows", expect_rows)
    options = core_options(inputs, policies, profile, tokenizer, from_format, workers, prove_think)
    return _run({**options, "expect_rows": expect_rows}, progress)


def core_options(
    inputs: Paths,
    policies: Policies,
    profile: Profile | str | os.PathLike[str] | None,
    tokenizer: str | os.PathLike[str] | None,
    from_format: str | None,
    workers: int,
    prove_think: bool,
) -> dict[str, Any]:
    """What the core's options are called, and what they are."""
    check_count("workers", workers)
    if not isinstance(policies, Policies):
        hint = 'give tito.Policies(think="strip", ...)'
        raise with_hint(UsageError(f"policies: a {type(policies).__name__} is no tito.Policies"), hint)
    known = find_profile(profile)
    return {
        **policies.to_dict(),
        "inputs": utf8_paths(inputs),
        "from": from_format,
        "profile": None if known is None else json.loads(known.to_json()),
        "tokenizer": None if tokenizer is None else utf8_path(tokenizer),
        "prove_think": prove_think,
        "workers": workers,
    }


def _run(options: dict[str, Any], watch: Callable[[Progress], None] | None) -> Report:
    text = json.dumps(options)
    return Report(json.loads(watched(lambda progress: _core.convert(text, progress), watch)))
