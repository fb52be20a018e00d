"""What will be served, checked before anything starts: base, LoRA adapters, rows that they were trained on, limits.

A server that starts with a wrong rank, parser or length fails later, or answers wrongly; here it fails at once, and the
message names the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tito.adapter import BaseModel, LoraAdapter, inspect
from tito.adapter.inspect import VLLM_RANKS, room_for
from tito.errors import DataError, UsageError, with_hint
from tito.profile.errors import NoTemplateError
from tito.profile.source import Source, read_source, template_hash, tokenizer_hash
from tito.serve.parsers import PARSERS, matrix
from tito.serve.record import ServedAdapter

if TYPE_CHECKING:
    from tito.calls import Row
    from tito.rows import RowsFile

__all__ = ["Plan", "Wanted", "make_plan"]

_SAMPLED_ROWS = 64
# Servers' names for parsers whose form is the same.
_SAME_FORM = {"qwen3_xml": "qwen3_coder", "qwen25": "hermes", "qwen": "hermes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user asked for; None lets the plan choose."""

    base: Path
    adapters: Sequence[Path] = ()
    name: str | None = None
    rows: Path | None = None
    chat_template: Path | None = None
    context: int | None = None
    max_rank: int | None = None
    tool_parser: str | None = None
    """`none` for no parser."""
    reasoning_parser: str | None = None
    dtype: str | None = None
    allow_quantised: bool = False
    host: str = "127.0.0.1"
    port: int = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe turns into a command. Everything in it was checked."""

    base: BaseModel
    model: str
    adapters: tuple[ServedAdapter, ...]
    host: str
    port: int
    dtype: str
    context: int | None
    max_rank: int | None
    """Room for adapters; None serves none."""
    tool_parser: str | None
    reasoning_parser: str | None
    chat_template: Path | None
    tokenizer_hash: str | None
    template_hash: str | None
    warnings: tuple[str, ...] = field(default=())

    @property
    def url(self) -> str:
        """Where it will answer."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}"


def make_plan(wanted: Wanted) -> Plan:
    """Checks what was asked for. Raises `UsageError` for options that contradict the files, `DataError` for adapters
    and rows that do not fit the base, `WorldError` for files that are not there."""
    base = BaseModel(wanted.base)
    if base.quantised and not wanted.allow_quantised:
        raise with_hint(
            UsageError(f"{base.folder}: quantised ({base.quantised}); adapters are trained on full precision"),
            "serve the full-precision base, or say --allow-quantised",
        )
    if not base.tensors:
        raise with_hint(DataError(f"{base.folder}: no safetensors weights"), "download or save the model whole")
    model = wanted.name or base.name
    warnings: list[str] = []
    adapters = tuple(_adapter(folder, base, model, warnings) for folder in wanted.adapters)
    if len({a.name for a in adapters}) != len(adapters):
        raise with_hint(UsageError("one adapter is named twice"), "name each once")
    source = _tokenizer(base, wanted.chat_template)
    tokenizer = None if source is None else tokenizer_hash(source.tokenizer)
    context = _context(wanted, base)
    tool, reasoning = wanted.tool_parser, wanted.reasoning_parser
    if wanted.rows is not None:
        tool, reasoning = _from_rows(wanted, base, context, source, tokenizer, warnings)
    elif tool is None or reasoning is None:
        guessed = _from_template(base, wanted.chat_template)
        tool, reasoning = tool or guessed[0], reasoning or guessed[1]
    return Plan(
        base=base,
        model=model,
        adapters=adapters,
        host=wanted.host,
        port=wanted.port,
        dtype=wanted.dtype or "bfloat16",
        context=context,
        max_rank=_rank(wanted, adapters),
        tool_parser=None if tool == "none" else tool,
        reasoning_parser=None if reasoning == "none" else reasoning,
        chat_template=wanted.chat_template,
        tokenizer_hash=tokenizer,
        template_hash=template_hash(source.chat_template) if source is not None and source.chat_template else None,
        warnings=tuple(warnings),
    )


def _adapter(folder: Path, base: BaseModel, model: str, warnings: list[str]) -> ServedAdapter:
    adapter = LoraAdapter(folder)
    report = inspect(adapter, base)
    if report.problems:
        more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
        raise with_hint(
            DataError(f"{folder}: {report.problems[0]}{more}"), f"`tito adapter inspect {folder} --base {base.folder}`"
        )
    warnings += [f"{folder}: {warning}" for warning in report.warnings]
    return ServedAdapter.of(adapter, model)


def _rank(wanted: Wanted, adapters: Sequence[ServedAdapter]) -> int | None:
    needed = max((LoraAdapter(a.folder).most_rank for a in adapters), default=None)
    given = wanted.max_rank
    if given is not None and given not in VLLM_RANKS:
        raise with_hint(
            UsageError(f"--max-lora-rank {given} is none of {', '.join(map(str, VLLM_RANKS))}"),
            f"{room_for(given)} has room for rank {given}",
        )
    if given is not None and needed is not None and needed > given:
        worst = next(a for a in adapters if LoraAdapter(a.folder).most_rank > given)
        raise with_hint(
            UsageError(f"{worst.folder}: rank {needed} is above --max-lora-rank {given}"),
            f"say --max-lora-rank {room_for(needed)}, or leave it out",
        )
    return given if given is not None else None if needed is None else room_for(needed)


def _context(wanted: Wanted, base: BaseModel) -> int | None:
    if wanted.context is None:
        return base.context
    if wanted.context < 1:
        raise with_hint(UsageError(f"--max-model-len {wanted.context}: at least 1"), "give a number of ids")
    if base.context is not None and wanted.context > base.context:
        raise with_hint(
            UsageError(f"--max-model-len {wanted.context:,} is above the {base.context:,} positions of {base.folder}"),
            f"say --max-model-len {base.context}, or leave it out",
        )
    return wanted.context


def _tokenizer(base: BaseModel, chat_template: Path | None) -> Source | None:
    """Tokenizer and template that will be served; None where the folder has no tokenizer, an empty template where it
    has none of these."""
    if not (base.folder / "tokenizer.json").is_file():
        return None
    try:
        return read_source(base.folder, chat_template=chat_template)
    except NoTemplateError:
        return read_source(base.folder, chat_template="")


def _from_rows(
    wanted: Wanted,
    base: BaseModel,
    context: int | None,
    source: Source | None,
    tokenizer: str | None,
    warnings: list[str],
) -> tuple[str | None, str | None]:
    """Checks that the base can be what the rows were made for; gives the parsers that their outputs need."""
    from tito.rows import open_rows

    assert wanted.rows is not None
    rows = open_rows(wanted.rows)
    told = rows.metadata.get("tito.tokenizer_hash")
    if told and tokenizer and told != tokenizer:
        raise with_hint(
            DataError(f"{wanted.rows}: made with tokenizer {told[:19]}, {base.folder} has {tokenizer[:19]}"),
            "serve the base that the rows were recorded from",
        )
    longest, highest = rows.extent()
    if context is not None and longest > context:
        raise with_hint(
            DataError(f"{wanted.rows}: a row of {longest:,} ids does not fit a context of {context:,}"),
            "serve with a longer --max-model-len",
        )
    if base.vocab_size is not None and highest >= base.vocab_size:
        raise with_hint(
            DataError(f"{wanted.rows}: id {highest:,} is above the base's {base.vocab_size:,} embedding rows"),
            "serve the base that the rows were recorded from",
        )
    if source is None:
        warnings.append(f"{base.folder}: no tokenizer.json, so the rows' tool calls were not looked at")
        return wanted.tool_parser, wanted.reasoning_parser
    return _parsers_of(rows, wanted, source, warnings)


def _parsers_of(rows: RowsFile, wanted: Wanted, source: Source, warnings: list[str]) -> tuple[str, str]:
    step = max(1, len(rows) // _SAMPLED_ROWS)
    texts = [_trained_text(rows[at], source) for at in range(0, len(rows), step)]
    counts = matrix(_without_think(text) for text in texts)
    read = Counter({name: sum(row[name] for row in counts.values()) for name in PARSERS})
    best = max(PARSERS, key=lambda name: read[name])
    tool = wanted.tool_parser
    if tool is None:
        # Only these two are parsers of servers: a harness reads the other forms from content.
        tool = best if read[best] and best in ("hermes", "qwen3_coder") else "none"
    named = _SAME_FORM.get(tool, tool)
    if named in PARSERS and read[best] and read[named] < read[best]:
        raise with_hint(
            DataError(
                f"{wanted.rows}: parser {tool} reads {read[named]} of {len(texts)} sampled outputs, {best} {read[best]}"
            ),
            f"say --tool-parser {best if best in ('hermes', 'qwen3_coder') else 'none'}",
        )
    if len(forms := [form for form in counts if form not in ("none", "broken")]) > 1:
        warnings.append(f"{wanted.rows}: outputs in {len(forms)} surface forms ({', '.join(forms)})")
    thinks = any("</think>" in text for text in texts)
    reasoning = wanted.reasoning_parser
    if reasoning is None:
        reasoning = "qwen3" if thinks else "none"
    elif reasoning != "none" and not thinks:
        warnings.append(
            f"{wanted.rows}: no sampled output closes thinking, and parser {reasoning} may take whole replies for "
            "thinking (content null): say --reasoning-parser none"
        )
    return tool, reasoning


def _trained_text(row: Row, source: Source) -> str:
    """The text of a row's output; of a merged row that of its last call."""
    ids = row.output_ids
    if row.calls and not len(ids):
        ids = row.input_ids[row.calls[-1].start : row.calls[-1].end]
    return str(source.tokenizer.decode(ids.tolist(), skip_special_tokens=False))


def _without_think(text: str) -> str:
    rest = text.rpartition("</think>")[2]
    return rest.replace("<|im_end|>", "").replace("<|endoftext|>", "").strip()


def _from_template(base: BaseModel, given: Path | None) -> tuple[str, str]:
    """Parsers by what the template writes: the form of earlier calls, and think markers."""
    text = ""
    for path in (given, base.folder / "chat_template.jinja", base.folder / "tokenizer_config.json"):
        if path is not None and path.is_file():
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                text = str(json.loads(text).get("chat_template") or "")
            if text:
                break
    tool = "qwen3_coder" if "<function=" in text else "hermes" if "<tool_call>" in text else "none"
    return tool, "qwen3" if "</think>" in text else "none"
