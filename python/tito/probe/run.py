"""One probe of one served student: effect, assertions, parse matrix, templates; `tito doctor` reads its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tito.files import file_hash, write_whole
from tito.probe.assertions import Assertion, Reply
from tito.probe.prompts import Prompt
from tito.probe.share import Share, share_of
from tito.probe.templates import Templates
from tito.serve.client import Answer, Server
from tito.serve.effect import compare
from tito.serve.parsers import PARSERS, matrix
from tito.serve.record import Serving

__all__ = ["Asked", "ProbeReport", "probe"]

_SERVERS_PARSERS = ("hermes", "qwen3_coder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a probe does."""

    model: str
    base: str | None
    """The base's name on the server; None where there is nothing to compare with."""
    prompts: Sequence[Prompt]
    live: Sequence[Prompt] = ()
    """Prompts as the student meets them now: what it learnt on the others should hold on these."""
    assertions: Mapping[str, Assertion]
    judged: frozenset[str]
    """The assertions whose failure fails the probe; the others are shown."""
    max_tokens: int = 128
    least: float = 1.0
    """The share of replies on which a judged assertion must hold."""
    templates: Templates | None = None
    tool_parser: str | None = None
    chat: bool = True


@dataclass(slots=True)
class ProbeReport:
    """What was seen. `problems` fail the probe."""

    url: str
    model: str
    base: str | None
    adapter_hash: str | None
    serving_hash: str | None
    """sha256 of the `serving.json` that was read."""
    prompts: int
    ids_differ: int | None = None
    """Prompts on which adapter and base gave other ids; None where there is no base to compare with."""
    logprob_differs: float | None = None
    assertions: dict[str, dict[str, Share]] = field(default_factory=dict)
    """By name, then by how it was asked: `trained` and `live` prompts as ids, `chat` requests."""
    parse: dict[str, dict[str, int]] = field(default_factory=dict)
    """Surface forms against parsers, with `replies`."""
    templates: dict[str, int] = field(default_factory=dict)
    """By way of asking: prompts whose ids are the trained ones."""
    template_prompts: int = 0
    not_run: dict[str, str] = field(default_factory=dict)
    """What was to be looked at and could not be, or not on every prompt: why, and on how many."""
    template_difference: str | None = None
    said: dict[str, str] = field(default_factory=dict)
    """By model: the first reply, as text where the tokenizer is known."""
    verdict: str = ""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    asked: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    version: int = 1

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.problems

    def to_json(self) -> str:
        """The report as JSON, ending in a newline."""
        return json.dumps({**asdict(self), "passed": self.passed}, indent=2, ensure_ascii=False) + "\n"

    def save(self, path: Path) -> None:
        """Writes the report whole or not at all."""
        write_whole(path, self.to_json())


def probe(server: Server, asked: Asked, serving: Serving | None = None, file: Path | None = None) -> ProbeReport:
    """Asks, compares and judges; changes nothing. Raises what `Server` raises."""
    known = None if serving is None else next((a for a in serving.adapters if a.name == asked.model), None)
    report = ProbeReport(
        url=server.url,
        model=asked.model,
        base=asked.base,
        adapter_hash=None if known is None else known.hash,
        serving_hash=None if file is None else file_hash(file),
        prompts=len(asked.prompts),
    )
    answers = [_complete(server, asked.model, p, asked.max_tokens) for p in asked.prompts]
    replies = {"trained": [_reply(a, p, asked) for a, p in zip(answers, asked.prompts, strict=True)]}
    report.said[asked.model] = replies["trained"][0].text
    _silent(report, asked.model, answers)
    if asked.base is not None:
        of_base = [_complete(server, asked.base, p, asked.max_tokens) for p in asked.prompts]
        _silent(report, asked.base, of_base)
        _effect(report, of_base, answers)
        report.said[asked.base] = _reply(of_base[0], asked.prompts[0], asked).text
    if asked.live:
        replies["live"] = [_reply(_complete(server, asked.model, p, asked.max_tokens), p, asked) for p in asked.live]
    with_request = [p for p in asked.prompts if p.request is not None] if asked.chat else []
    if with_request:
        replies["chat"] = [_chat(server, p, asked) for p in with_request]
    _judge(report, asked, replies)
    _parse(report, asked, [reply for group in replies.values() for reply in group])
    _templates(report, asked, server if asked.chat else None)
    report.not_run |= _not_run(asked)
    report.verdict = _verdict(report, asked)
    return report


def _not_run(asked: Asked) -> dict[str, str]:
    n = len(asked.prompts)
    bare = sum(prompt.request is None for prompt in asked.prompts)
    why = f"{bare} of {n} prompts have no chat request: their capture is not there, or holds none"
    found = {}
    if not asked.chat:
        found["chat"] = "--no-chat"
    elif bare:
        found["chat"] = why
    if asked.templates is None:
        found["templates"] = "no folder with tokenizer and template is known (--tokenizer DIR)"
    elif bare:
        found["templates"] = why
    return found


def _complete(server: Server, model: str, prompt: Prompt, max_tokens: int) -> Answer:
    return server.complete(model, prompt.ids, max_tokens=max_tokens, logprobs=1)


def _chat(server: Server, prompt: Prompt, asked: Asked) -> Reply:
    assert prompt.request is not None
    options = {name: prompt.request[name] for name in ("tools", "chat_template_kwargs") if prompt.request.get(name)}
    answer = server.chat(asked.model, prompt.request["messages"], max_tokens=asked.max_tokens, **options)
    return _reply(answer, prompt, asked, chat=True)


def _reply(answer: Answer, prompt: Prompt, asked: Asked, *, chat: bool = False) -> Reply:
    def text(ids: Sequence[int]) -> str | None:
        if asked.templates is None:
            return None
        return str(asked.templates.source.tokenizer.decode(list(ids), skip_special_tokens=False))

    sampled = text(answer.output_ids)
    return Reply(
        text=answer.text if sampled is None else sampled,
        output_ids=answer.output_ids,
        prompt_ids=answer.prompt_ids,
        prompt=text(answer.prompt_ids) or "",
        finish=answer.finish,
        content=answer.text if chat else None,
        reasoning=answer.reasoning,
        tool_calls=answer.tool_calls,
        chat=chat,
    )


def _silent(report: ProbeReport, model: str, answers: Sequence[Answer]) -> None:
    """A model that says nothing, or is cut off, differs from every other and has learnt nothing."""
    if n := sum(not answer.output_ids or answer.finish in ("abort", "error") for answer in answers):
        report.problems.append(f"{model}: {n} of {len(answers)} replies are empty or were aborted")


def _effect(report: ProbeReport, base: Sequence[Answer], adapted: Sequence[Answer]) -> None:
    seen = compare(base, adapted)
    report.ids_differ, report.logprob_differs = seen.ids_differ, seen.logprob
    if seen.ids_differ == 0:
        report.problems.append(
            f"adapter has no effect: {report.model} and {report.base} give the same ids on all {seen.prompts} prompts "
            f"(logprobs differ by up to {seen.logprob:.2g})"
        )


def _judge(report: ProbeReport, asked: Asked, replies: Mapping[str, Sequence[Reply]]) -> None:
    for name, assertion in asked.assertions.items():
        shares = {how: share_of(assertion, group) for how, group in replies.items()}
        report.assertions[name] = shares
        if name not in asked.judged:
            continue
        for how, share in shares.items():
            if share.share < asked.least:
                report.problems.append(f"{name} ({how}): {share}: {share.why[0]}")


def _parse(report: ProbeReport, asked: Asked, replies: Sequence[Reply]) -> None:
    texts = [reply.text.rpartition("</think>")[2].replace("<|im_end|>", "").strip() for reply in replies]
    report.parse = matrix(texts)
    read = {name: sum(row[name] for row in report.parse.values()) for name in PARSERS}
    best = max(PARSERS, key=lambda name: read[name])
    if len([form for form in report.parse if form in PARSERS]) > 1:
        report.warnings.append(f"calls in several surface forms: {', '.join(f for f in report.parse if f in PARSERS)}")
    served = asked.tool_parser
    if served is not None and served in PARSERS and read[served] < read[best]:
        hint = f"serve with --tool-parser {best}" if best in _SERVERS_PARSERS else f"read {best} from the content"
        report.problems.append(
            f"the served parser {served} reads {read[served]} of {len(texts)} replies, {best} {read[best]}: {hint}"
        )


def _templates(report: ProbeReport, asked: Asked, server: Server | None) -> None:
    if asked.templates is None:
        return
    for prompt in asked.prompts:
        if (found := asked.templates.compare(prompt, server, asked.model)) is None:
            continue
        report.template_prompts += 1
        for way, difference in found.ways.items():
            report.templates[way] = report.templates.get(way, 0) + (difference is None)
        way = "server" if "server" in found.ways else "as captured"
        if (first := found.ways[way]) is not None and report.template_difference is None:
            report.template_difference = f"{found.where}: {first}"
            others = [name for name in found.same if name != way]
            same = f"; the same ids come with: {', '.join(others)}" if others else ""
            if way == "server":
                report.problems.append(
                    f"the server's prompt is not the trained one, {report.template_difference}{same}"
                )
            else:
                report.warnings.append(
                    f"the template's prompt is not the trained one, {report.template_difference}{same}"
                )


def _verdict(report: ProbeReport, asked: Asked) -> str:
    """Where the student stands, by the judged assertions (all, where none is): trained against live and chat."""

    def mean(how: str) -> float | None:
        names = asked.judged or frozenset(report.assertions)
        found = [shares[how].share for name, shares in report.assertions.items() if name in names and how in shares]
        return sum(found) / len(found) if found else None

    trained, live, chat = mean("trained"), mean("live"), mean("chat")
    if trained is None:
        return "nothing asserted"
    if trained <= 0.2:
        return "not learned: it fails on the very prompts it was trained on"
    if trained >= 0.8 and live is not None and live <= 0.2:
        return "learned, not generalising: it holds on trained prompts and fails on live ones"
    if trained >= 0.8 and chat is not None and chat <= 0.2:
        return "learned, not reached: it holds on trained ids and fails through the chat route (template or parsers)"
    return f"trained {trained:.0%}" + "".join(
        f", {how} {share:.0%}" for how, share in (("live", live), ("chat", chat)) if share is not None
    )
