"""The engine behind a recorder: what it is, which switches make it return ids, what identifies its model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tito.errors import TitoError, UsageError, with_hint

if TYPE_CHECKING:
    import aiohttp

    from tito.capture.record.options import Options

__all__ = ["Engine", "find_engine", "overflows"]

# SGLang refuses `return_token_ids` for streams of chat and puts the ids into a last chunk of their own instead.
_SGLANG_STREAM = [("return_input_ids_in_sglext", "true"), ("return_output_ids_in_sglext", "true")]
_SWITCH = [("return_token_ids", "true")]
# What engines say of a request that is longer than the context: vLLM (two releases), SGLang, llama.cpp, OpenAI.
_OVERFLOW = (
    "context_length_exceeded",
    "maximum context length",
    "longer than the model's context length",
    "exceeds the available context size",
    "exceed_context_size_error",
    "longer than the maximum model length",
    "is longer than the maximum",
)


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine, as far as it shows itself. `name` is `vllm`, `sglang` or `other`."""

    name: str
    version: str | None = None
    models: list[dict[str, Any]] = field(default_factory=list)
    tokenizer_hash: str | None = None
    template_hash: str | None = None
    tokenizer_from: str | None = None
    served: dict[str, Any] | None = None
    reached: bool = False
    """It answered; one that did not is looked at again."""

    def switches(self, route: str, *, stream: bool) -> list[tuple[str, str]]:
        """Members that make a request return ids, as JSON."""
        if self.name == "sglang" and stream and route == "chat":
            return _SGLANG_STREAM
        return _SWITCH

    def identity(self) -> dict[str, Any]:
        """What the log keeps of it."""
        return {
            "engine": self.name,
            "engine_version": self.version,
            "models": self.models or None,
            "tokenizer_hash": self.tokenizer_hash,
            "template_hash": self.template_hash,
            "tokenizer_from": self.tokenizer_from,
            "served": self.served,
        }


async def find_engine(client: aiohttp.ClientSession, options: Options) -> Engine:
    """Looks at an engine. One that cannot be reached yet is `other` without models: the recorder may start first.

    `UsageError` when the folder of `--tokenizer` holds none, or what is served is not what `served` says.
    """
    root = options.upstream.root
    answered = await _answer(client, f"{options.upstream.api}/models", options)
    listed = answered or {}
    data = listed.get("data")
    models = [model for row in (data if isinstance(data, list) else []) if "id" in (model := _model(row))]
    owners = {model.get("owned_by") for model in models}
    version = (await _get(client, f"{root}/version", options)).get("version") if models else None
    paths = [str(model.get("root") or model.get("id")) for model in models if "parent" not in model]
    if options.engine != "auto":
        name = options.engine
    elif answered is None:
        name = "other"
    elif "sglang" in owners or (info := await _get(client, f"{root}/get_model_info", options)):
        name = "sglang"
        info = await _get(client, f"{root}/get_model_info", options)
        version = version or (await _get(client, f"{root}/get_server_info", options)).get("version")
        paths = [str(path) for path in (info.get("tokenizer_path"), info.get("model_path")) if path] + paths
    else:
        name = "vllm" if "vllm" in owners or version else "other"
    tokenizer, template, where = _hashes(options.tokenizer, paths)
    if options.served is not None:
        tokenizer, template = _agreed(options.served, models, tokenizer, template)
    version = version if isinstance(version, str) else None
    return Engine(name, version, models, tokenizer, template, where, options.served, answered is not None)


def overflows(status: int, body: bytes) -> bool:
    """Whether an engine's refusal says that the request is longer than the context.

    >>> overflows(400, b'{"message": "This model\\'s maximum context length is 4096 tokens."}')
    True
    """
    text = body[:65536].decode("utf-8", "replace").lower()
    return status in (400, 413, 422) and any(words in text for words in _OVERFLOW)


def _model(row: Any) -> dict[str, Any]:
    """What is kept of a model that an engine lists; whatever is not of its type is left out."""
    told = row if isinstance(row, dict) else {}
    texts = {key: told[key] for key in ("id", "root", "parent", "owned_by") if isinstance(told.get(key), str)}
    # JSON can spell half a surrogate pair, which can be neither sent nor shown.
    model: dict[str, Any] = {key: text.encode("utf-8", "backslashreplace").decode() for key, text in texts.items()}
    if isinstance(told.get("max_model_len"), int):
        model["max_model_len"] = told["max_model_len"]
    return model


async def _get(client: aiohttp.ClientSession, url: str, options: Options) -> dict[str, Any]:
    return await _answer(client, url, options) or {}


async def _answer(client: aiohttp.ClientSession, url: str, options: Options) -> dict[str, Any] | None:
    """What a route answers, empty where that is no object; None where nobody answers, or not yet."""
    import aiohttp

    headers = dict(options.headers)
    if "authorization" not in {name.lower() for name in headers} and (key := os.environ.get("OPENAI_API_KEY")):
        headers["Authorization"] = f"Bearer {key}"
    try:
        timeout = aiohttp.ClientTimeout(total=5)
        async with client.get(url, headers=headers, timeout=timeout, allow_redirects=False) as reply:
            if reply.status >= 500:
                return None
            value = json.loads(await reply.read()) if reply.status == 200 else {}
    except (ValueError, RecursionError):
        return {}
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    return value if isinstance(value, dict) else {}


def _agreed(
    served: dict[str, Any], models: list[dict[str, Any]], tokenizer: str | None, template: str | None
) -> tuple[str | None, str | None]:
    """Both hashes, where the server's record and what is seen of the engine agree; `UsageError` where they do not."""
    hint = "name the record of the server that --upstream leads to: `tito serve` writes it when it starts"
    there = {str(model.get("id")) for model in models}
    named = [served["model"], *(adapter["name"] for adapter in served["adapters"])]
    if there and (gone := [name for name in named if name not in there]):
        raise with_hint(
            UsageError(f"--serving names {gone[0]}, and the engine serves {', '.join(sorted(there))}"), hint
        )
    for what, seen in (("tokenizer", tokenizer), ("template", template)):
        if None not in (seen, said := served[f"{what}_hash"]) and seen != said:
            raise with_hint(UsageError(f"--serving says {what} {said}, and the engine's folder has {seen}"), hint)
    return tokenizer or served["tokenizer_hash"], template or served["template_hash"]


def _hashes(given: Path | None, paths: list[str]) -> tuple[str | None, str | None, str | None]:
    """Hashes of tokenizer and template, from the folder that was named or from one that the engine names."""
    from tito.profile.source import read_source, template_hash, tokenizer_hash

    def read(folder: Path) -> tuple[str, str]:
        source = read_source(folder)
        return tokenizer_hash(source.tokenizer), template_hash(source.chat_template)

    if given is not None:
        if not given.is_dir():
            raise UsageError(f"--tokenizer {given}: no such folder")
        return (*read(given), str(given))
    for path in paths:
        try:
            if (folder := Path(path)).joinpath("tokenizer.json").is_file():
                return (*read(folder), path)
        except (TitoError, OSError, ValueError):
            # What cannot be read here (no template, a missing package, a folder of another user's, a name that is no
            # path) is not known, and so is left out.
            continue
    return None, None, None
