"""A client of OpenAI-compatible servers that return ids: one request at a time, every failure typed.

Only the standard library: a probe needs nothing installed. Whatever a server answers is checked for what is asked of it
(ids that are there, as many as `usage` says), never taken on trust.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tito.errors import DataError, UsageError, WorldError, with_hint

__all__ = ["Answer", "ContextOverflowError", "ModelCard", "RefusedError", "Server"]

# The last is what vLLM 0.32 says of a prompt exactly as long as its context.
_OVERFLOW = re.compile(
    r"maximum context length|maximum model length|context_length_exceeded|context_overflow"
    r"|max_tokens must be at least 1, got 0"
)


class RefusedError(DataError):
    """A server answered, with an error: `status` is HTTP's, `said` its own words."""

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said
        self.hint = "the server's own words; its log says more"


class ContextOverflowError(RefusedError):
    """Prompt and wanted output are longer than the server's context. `code` is the same for every engine."""

    code = "context_overflow"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of `/v1/models`."""

    id: str
    root: str | None
    """The path that it was loaded from."""
    parent: str | None
    """The base of a LoRA adapter."""
    context: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply, ids first."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    text: str
    """Completions: the text. Chat: content."""
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish: str | None = None
    logprobs: tuple[float, ...] = field(default=())


class Server:
    """A server by its URL, with or without `/v1`. Nothing is sent before a method is called.

    Methods raise `WorldError` where nothing answers, `RefusedError` where the server refuses, `DataError` where what
    it says is not what the wire promises.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout: float = 120.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise with_hint(UsageError(f"{url}: no URL of a server"), "like http://127.0.0.1:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key, self._timeout = key, timeout

    def models(self) -> list[ModelCard]:
        """What `/v1/models` lists."""
        found = self._call("/v1/models").get("data")
        if not isinstance(found, list):
            raise self._odd("/v1/models holds no `data`")
        return [ModelCard(str(m.get("id")), m.get("root"), m.get("parent"), m.get("max_model_len")) for m in found]

    def engine(self) -> tuple[str, str]:
        """The engine's name and version; `unknown` where it does not say."""
        for path, name, key in (("/version", "vllm", "version"), ("/get_server_info", "sglang", "version")):
            try:
                said = self._call(path)
            except RefusedError:
                continue
            return str(said.get("engine", name)), str(said.get(key, "unknown"))
        return "unknown", "unknown"

    def complete(self, model: str, prompt: Sequence[int] | str, *, max_tokens: int, **options: Any) -> Answer:
        """The completions route, greedy unless told: ids in, ids out, no template. The ids that the server says it saw
        must be those that were sent."""
        ids = prompt if isinstance(prompt, str) else [int(i) for i in prompt]
        body = {"model": model, "prompt": ids, "max_tokens": max_tokens, "temperature": 0.0, "return_token_ids": True}
        body |= {"skip_special_tokens": False, "spaces_between_special_tokens": False, **options}
        reply = self._call("/v1/completions", body)
        choice = self._choice(reply)
        seen = self._ids(choice.get("prompt_token_ids"), "prompt_token_ids")
        if not isinstance(ids, str) and list(seen) != ids:
            raise with_hint(
                DataError(f"{self.url}: {len(ids)} prompt ids were sent, and {len(seen)} others seen"),
                "this server changes prompts: probe another one",
            )
        output = self._ids(choice.get("token_ids"), "token_ids")
        self._counted(reply, len(output))
        told = (choice.get("logprobs") or {}).get("token_logprobs") or []
        return Answer(
            seen,
            output,
            str(choice.get("text") or ""),
            finish=choice.get("finish_reason"),
            logprobs=tuple(float(p) for p in told[-len(output) :] if p is not None),
        )

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], *, max_tokens: int, **options: Any) -> Answer:
        """The chat route, greedy unless told: the server's template and parsers."""
        body = {"model": model, "messages": list(messages), "max_tokens": max_tokens, "temperature": 0.0}
        reply = self._call("/v1/chat/completions", {**body, "return_token_ids": True, **options})
        choice = self._choice(reply)
        message = choice.get("message") or {}
        output = self._ids(choice.get("token_ids"), "token_ids")
        self._counted(reply, len(output))
        return Answer(
            self._ids(reply.get("prompt_token_ids"), "prompt_token_ids"),
            output,
            str(message.get("content") or ""),
            reasoning=message.get("reasoning") or message.get("reasoning_content"),
            tool_calls=tuple(message.get("tool_calls") or ()),
            finish=choice.get("finish_reason"),
        )

    def load_lora(self, name: str, path: str, *, in_place: bool = False) -> str:
        """Asks a running server to load a LoRA adapter; gives its words, which prove nothing."""
        body = {"lora_name": name, "lora_path": path, **({"load_inplace": True} if in_place else {})}
        return str(self._call("/v1/load_lora_adapter", body).get("said", ""))

    def unload_lora(self, name: str) -> str:
        """Asks a running server to forget a LoRA adapter."""
        return str(self._call("/v1/unload_lora_adapter", {"lora_name": name}).get("said", ""))

    def _call(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as reply:
                text = reply.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            raise self._refused(path, error.code, error.read().decode("utf-8", "replace")) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise with_hint(
                WorldError(f"{self.url}{path}: no answer: {why}"), "is the server up, and this its port? its log says"
            ) from None
        try:
            said = json.loads(text) if text.strip() else {}
        except ValueError:
            # vLLM's load and unload answer in plain words.
            return {"said": text}
        return said if isinstance(said, dict) else {"said": said}

    def _refused(self, path: str, status: int, text: str) -> RefusedError:
        said = text
        try:
            error = json.loads(text)
            error = error.get("error", error)
            said = str(error.get("message", text)) if isinstance(error, dict) else str(error)
        except (ValueError, AttributeError):
            pass
        overflow = status == 400 and _OVERFLOW.search(text)
        kind = ContextOverflowError if overflow else RefusedError
        made = kind(f"{self.url}{path}: {status}: {said[:500]}", status, said)
        if overflow:
            made.hint = "serve with a longer context (--max-model-len), or ask for less"
        return made

    def _choice(self, reply: Mapping[str, Any]) -> Mapping[str, Any]:
        choices = reply.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._odd("the reply has no choices")
        return choices[0]

    def _ids(self, value: object, what: str) -> tuple[int, ...]:
        if not isinstance(value, list) or not all(type(i) is int for i in value):
            raise with_hint(
                DataError(f"{self.url}: the reply has no {what}"),
                "the server must honour return_token_ids: vLLM 0.10.2 or later, or `tito serve --engine tito`",
            )
        if (wrong := next((i for i in value if not 0 <= i < 2**31), None)) is not None:
            raise self._odd(f"{what} holds {wrong}, which is no id")
        return tuple(value)

    def _counted(self, reply: Mapping[str, Any], ids: int) -> None:
        told = (reply.get("usage") or {}).get("completion_tokens")
        if told is not None and told != ids:
            raise self._odd(f"usage says {told} completion tokens, and {ids} ids came")

    def _odd(self, what: str) -> DataError:
        return with_hint(DataError(f"{self.url}: {what}"), "is this an OpenAI-compatible server?")
