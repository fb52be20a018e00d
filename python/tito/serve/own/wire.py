"""What the routes take and give, as vLLM spells it: requests checked field by field, replies with ids, typed errors.

An unknown field that would change the output is refused; a client that sends one means it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tito.serve.own.engine import Sample, Sampling
from tito.serve.parsers import PARSERS, Parsed

__all__ = ["WireError", "chat_choice", "completion_choice", "overflow", "read_sampling", "reply", "split_thinking"]

_IGNORED = {"model", "messages", "prompt", "tools", "tool_choice", "stream", "stream_options", "n", "user", "metadata"}
_IGNORED |= {"return_token_ids", "logprobs", "top_logprobs", "echo", "chat_template_kwargs", "skip_special_tokens"}
_IGNORED |= {"spaces_between_special_tokens", "add_generation_prompt", "parallel_tool_calls", "add_special_tokens"}
_IGNORED |= {"store", "include_reasoning", "return_tokens_as_token_ids"}
_READ = {"max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stop_token_ids"}
# Fields that may be sent with the value that changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "min_p": (0, None),
    "min_tokens": (0, None),
    "best_of": (1, None),
    "ignore_eos": (False, None),
    "logit_bias": ({}, None),
    "response_format": ({"type": "text"}, None),
}


class WireError(Exception):
    """An error that a client gets: HTTP status, type and parameter as vLLM's, and a reason for machines."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.reason = status, param, reason

    def to_dict(self) -> dict[str, Any]:
        """The body."""
        kinds = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
        error = {
            "message": str(self),
            "type": kinds.get(self.status, "BadRequestError"),
            "param": self.param,
            "code": self.status,
        }
        if self.reason is not None:
            error["reason"] = self.reason
        return {"error": error}


def overflow(context: int, prompt: int) -> WireError:
    """The error of a prompt that does not fit, in vLLM's words, with the reason `context_overflow`."""
    said = (
        f"This model's maximum context length is {context} tokens. However, your prompt contains {prompt} input "
        "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
        f"prompt. (parameter=input_tokens, value={prompt})"
    )
    return WireError(said, param="input_tokens", reason="context_overflow")


def read_sampling(body: Mapping[str, Any], *, room: int, default: int, stops: frozenset[int]) -> Sampling:
    """The sampling of a request. `room` is what the context has left, to which outputs are kept as in vLLM; `default`
    is what an absent `max_tokens` means."""
    for name, value in body.items():
        if name in _IGNORED or name in _READ:
            continue
        if value not in _NEUTRAL.get(name, (None,)):
            raise WireError(f"{name} is not supported by this server", param=name)
    if body.get("stream"):
        raise WireError("stream is not supported by this server", param="stream")
    wanted = body.get("max_completion_tokens") or body.get("max_tokens")
    wanted = default if wanted is None else _number(wanted, "max_tokens", int, 1)
    extra = body.get("stop_token_ids") or []
    if not isinstance(extra, list) or not all(type(i) is int for i in extra):
        raise WireError("stop_token_ids must be a list of ids", param="stop_token_ids")
    if body.get("stop"):
        raise WireError("stop strings are not supported by this server: use stop_token_ids", param="stop")
    seed = body.get("seed")
    temperature = body.get("temperature")
    return Sampling(
        max_tokens=min(wanted, room),
        temperature=1.0 if temperature is None else _number(temperature, "temperature", float, 0),
        top_p=_number(body.get("top_p") or 1.0, "top_p", float, 0),
        top_k=max(0, _number(body.get("top_k") or 0, "top_k", int, -1)),
        seed=None if seed is None else _number(seed, "seed", int, 0),
        stop_ids=stops | frozenset(extra),
    )


def _number(value: Any, name: str, kind: type[Any], least: float) -> Any:
    number: Any = value
    if isinstance(value, bool) or not isinstance(value, int | kind) or number < least:
        raise WireError(f"{name}: {value!r} is no number of at least {least}", param=name)
    return value


def reply(kind: str, model: str, choices: list[dict[str, Any]], prompt: int, outputs: int) -> dict[str, Any]:
    """The body of a reply, usage included."""
    return {
        "id": f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": {"prompt_tokens": prompt, "completion_tokens": outputs, "total_tokens": prompt + outputs},
    }


def completion_choice(
    index: int, prompt: Sequence[int], sample: Sample, text: str, tokens: Sequence[str], body: Mapping[str, Any]
) -> dict[str, Any]:
    """A choice of the completions route: both lists of ids stand in it."""
    asked = body.get("logprobs")
    logprobs: dict[str, Any] | None = None
    if asked is not None and asked is not False:
        logprobs = {"tokens": list(tokens), "token_logprobs": list(sample.logprobs), "top_logprobs": None}
    wanted = bool(body.get("return_token_ids"))
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": sample.finish,
        "stop_reason": None,
        "token_ids": list(sample.ids) if wanted else None,
        "prompt_token_ids": list(prompt) if wanted else None,
    }


def chat_choice(
    index: int,
    sample: Sample,
    text: str,
    tokens: Sequence[str],
    body: Mapping[str, Any],
    *,
    tool_parser: str | None,
    reasoning_parser: str | None,
    opened: bool,
) -> dict[str, Any]:
    """A choice of the chat route: thinking and calls taken out of the text, ids as they were sampled. `opened`: the
    prompt ends inside thinking."""
    reasoning, content = split_thinking(text, opened=opened) if reasoning_parser else (None, text)
    parsed = Parsed(content or None)
    if tool_parser is not None and body.get("tools") and body.get("tool_choice") != "none":
        parsed = PARSERS[tool_parser](content or "")
    calls = [
        {
            "id": f"chatcmpl-tool-{uuid.uuid4().hex[:16]}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in parsed.calls
    ]
    logprobs: dict[str, Any] | None = None
    if body.get("logprobs"):
        each = zip(tokens, sample.logprobs, strict=True)
        logprobs = {"content": [{"token": t, "logprob": p, "bytes": None, "top_logprobs": []} for t, p in each]}
    return {
        "index": index,
        "message": {"role": "assistant", "content": parsed.content, "reasoning": reasoning, "tool_calls": calls},
        "logprobs": logprobs,
        "finish_reason": "tool_calls" if calls and sample.finish == "stop" else sample.finish,
        "stop_reason": None,
        "token_ids": list(sample.ids) if body.get("return_token_ids") else None,
    }


def split_thinking(text: str, *, opened: bool) -> tuple[str | None, str | None]:
    """Thinking and the rest. Thinking that is opened and never closed is the whole reply, as in vLLM.

    >>> split_thinking("<think>hm</think>yes", opened=False), split_thinking("hm</think>yes", opened=True)
    (('hm', 'yes'), ('hm', 'yes'))
    >>> split_thinking("yes", opened=False), split_thinking("hm", opened=True)
    ((None, 'yes'), ('hm', None))
    """
    body = text.removeprefix("<think>")
    if "</think>" in body:
        thought, _, rest = body.partition("</think>")
        return thought or None, rest or None
    return (body or None, None) if opened or body != text else (None, text or None)
