"""What an engine returns and what it loses, tried out with four small calls before a long run depends on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from tito._core import EventStream, Reply
from tito.capture.record.call import check
from tito.capture.record.connection import Connections, read
from tito.capture.record.engine import Engine, find_engine, overflows
from tito.capture.record.errors import CallError
from tito.errors import DataError, WorldError, with_hint

if TYPE_CHECKING:
    from tito.capture.record.options import Options

__all__ = ["Finding", "preflight"]

_TOOL = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Run a shell command",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
        },
    },
}
_ASK = [{"role": "user", "content": "List the files of this folder with the tool bash."}]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried: `state` is `ok`, `warn` or `fail`; `advice` is what to change."""

    what: str
    state: str
    found: str
    advice: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        return asdict(self)


async def preflight(options: Options, model: str | None = None) -> list[Finding]:
    """Tries an engine: a whole reply, a stream, a call with tools, one with thinking.

    `WorldError` when nobody is there.
    """
    async with Connections(options.idle_seconds) as connections:
        engine = await find_engine(connections.http, options)
        if not engine.models:
            hint = "start the engine, or see whether the URL is its base URL"
            raise with_hint(WorldError(f"{options.upstream.shown}: no engine lists its models here"), hint)
        trial = _Trial(connections, options, engine, model or str(engine.models[0]["id"]))
        findings = [_identity(engine)]
        findings.append(await trial.ids("whole reply", stream=False))
        findings.append(await trial.ids("stream", stream=True))
        findings.append(await trial.tools())
        findings.append(await trial.thinking())
        return findings


def _identity(engine: Engine) -> Finding:
    names = ", ".join(str(model["id"]) for model in engine.models)
    found = f"{engine.name} {engine.version or '(version unknown)'}: {names}"
    if engine.tokenizer_hash is None:
        return Finding("engine", "warn", f"{found}; its tokenizer is not known here", "name it: --tokenizer DIR")
    return Finding("engine", "ok", f"{found}; tokenizer {engine.tokenizer_hash[:19]} of {engine.tokenizer_from}")


class _Trial:
    def __init__(self, connections: Connections, options: Options, engine: Engine, model: str) -> None:
        self.connections, self.options, self.engine, self.model = connections, options, engine, model

    async def ask(self, *, stream: bool, **more: Any) -> bytes:
        """A chat reply; a stream is joined. `CallError` where the engine refuses."""
        asked: dict[str, Any] = {"model": self.model, "messages": _ASK, "temperature": 0, "max_tokens": 64, **more}
        switches = self.engine.switches("chat", stream=stream)
        asked |= {name: json.loads(value) for name, value in switches}
        if stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        url = f"{self.options.upstream.api}/chat/completions"
        headers = {**self.options.headers, "Content-Type": "application/json"}
        # Short calls: what drips without end is no reply either.
        timeout = aiohttp.ClientTimeout(total=self.options.idle_seconds, sock_connect=30)
        try:
            async with self.connections.http.post(url, json=asked, headers=headers, timeout=timeout) as reply:
                with self.connections.reading(reply):
                    body = await read(reply.read())
                if reply.status != 200:
                    outcome = "context_overflow" if overflows(reply.status, body) else "upstream_status"
                    raise CallError(outcome, f"{reply.status}: {body[:300].decode('utf-8', 'replace')}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CallError("upstream_error", str(error) or type(error).__name__) from None
        if stream:
            events = EventStream(1, False, False)
            events.feed(body)
            body = events.reply()
        return body

    async def ids(self, what: str, **more: Any) -> Finding:
        """Whether ids come, and are as many as the engine counts."""
        try:
            reply = Reply(await self.ask(**more))
            check(reply, 1)
        except (CallError, DataError) as error:
            advice = {
                "vllm": "use vLLM 0.10.2 or later (0.12 or later for streams with tools and reasoning parsers)",
                "sglang": "use a release with `return_token_ids` and `return_output_ids_in_sglext`",
            }.get(self.engine.name, "use vLLM or SGLang, or record text alone with --text-only")
            return Finding(what, "fail", str(error), advice)
        prompt, output, *_ = reply.choices[0]
        return Finding(what, "ok", f"{prompt} prompt ids and {output} output ids, as many as usage says")

    async def tools(self) -> Finding:
        """Whether tools may be offered, and whether ids come with them in a stream."""
        what = "tools"
        try:
            message, _ = _message(await self.ask(stream=False, tools=[_TOOL]))
        except CallError as error:
            advice = "start the engine with a tool parser: --enable-auto-tool-choice --tool-call-parser hermes (Qwen3)"
            return Finding(what, "fail", str(error), advice)
        found = await self.ids(what, stream=True, tools=[_TOOL])
        if found.state != "ok":
            return found
        text = str(message.get("content") or "")
        if (called := _called(message)) is not None:
            return Finding(what, "ok", f"a call of {called!r} was parsed")
        if "<tool_call>" in text or "<function=" in text:
            advice = "the tool parser does not fit: --tool-call-parser hermes for Qwen3, qwen3_coder for Qwen3.5"
            return Finding(what, "warn", "a call stands in the content, unparsed", advice)
        return Finding(what, "warn", "offered, and the model called none; ids come all the same", None)

    async def thinking(self) -> Finding:
        """Whether thinking is parsed, and whether the parser swallows the answer."""
        what = "thinking"
        found = await self.ids(what, stream=True, chat_template_kwargs={"enable_thinking": True})
        if found.state != "ok":
            return found
        try:
            asked = self.ask(stream=False, chat_template_kwargs={"enable_thinking": True}, max_tokens=256)
            message, finish = _message(await asked)
        except CallError as error:
            return Finding(what, "fail", str(error))
        thought = message.get("reasoning") or message.get("reasoning_content")
        text = str(message.get("content") or "")
        if "<think>" in text or "</think>" in text:
            advice = "start the engine with a reasoning parser: --reasoning-parser qwen3 (ids are exact without it too)"
            return Finding(what, "warn", "thinking stands in the content: harnesses will send it back", advice)
        if thought and not text and not message.get("tool_calls") and finish == "stop":
            advice = "the reasoning parser takes everything for thinking: drop it, or choose the model's own"
            return Finding(what, "warn", "the reply ended, and all of it counts as thinking", advice)
        return Finding(what, "ok", "thinking is told apart" if thought else "no thinking came; ids come all the same")


def _message(body: bytes) -> tuple[dict[str, Any], Any]:
    """The message of a whole reply, and its finish reason; `CallError` where it has none."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallError("broken_stream", f"the reply is not JSON: {error}") from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(message := choice.get("message"), dict):
        raise CallError("broken_stream", f"the reply holds no message: {body[:300].decode('utf-8', 'replace')}")
    return message, choice.get("finish_reason")


def _called(message: dict[str, Any]) -> str | None:
    """The tool that a message calls first."""
    calls = message.get("tool_calls")
    first = calls[0] if isinstance(calls, list) and calls else None
    function = first.get("function") if isinstance(first, dict) else None
    return str(function.get("name")) if isinstance(function, dict) else None
