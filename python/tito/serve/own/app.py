"""The HTTP side of our own server: routes, models by name, and the queue before the one engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

import tito
from tito.errors import TitoError
from tito.profile.source import Source
from tito.profile.template import ChatTemplate
from tito.serve.messages import plain
from tito.serve.own import wire
from tito.serve.own.engine import Engine, Sample, Sampling
from tito.serve.own.wire import WireError

__all__ = ["Face", "make_app"]

_DEFAULT_OUTPUT = 256


@dataclass(slots=True, kw_only=True)
class Face:
    """An engine with everything that turns text into ids and back. `source` is None for a model without a tokenizer:
    then ids alone are served."""

    engine: Engine
    model: str
    root: str
    source: Source | None
    template: ChatTemplate | None
    tool_parser: str | None
    reasoning_parser: str | None
    stops: frozenset[int]

    def ids(self, text: str) -> list[int]:
        """Text to ids, special tokens read as such."""
        if self.source is None:
            raise WireError("this model was served without a tokenizer: send ids")
        return list(self.source.tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int], *, special: bool) -> str:
        """Ids to text; `special` keeps special tokens."""
        if self.source is None:
            return ""
        return str(self.source.tokenizer.decode(list(ids), skip_special_tokens=not special))

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Each id's text."""
        return [self.text([i], special=True) for i in ids]


def make_app(face: Face) -> web.Application:
    """The application; every answer is JSON, every error is vLLM's shape."""
    routes = _Routes(face)
    app = web.Application(middlewares=[_errors], client_max_size=1 << 28)
    app.router.add_get("/health", routes.health)
    app.router.add_get("/version", routes.version)
    app.router.add_get("/v1/models", routes.models)
    for path, handler in {
        "/v1/completions": routes.completions,
        "/v1/chat/completions": routes.chat,
        "/v1/load_lora_adapter": routes.load,
        "/v1/unload_lora_adapter": routes.unload,
        "/tokenize": routes.tokenize,
        "/detokenize": routes.detokenize,
    }.items():
        app.router.add_post(path, handler)
    return app


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except WireError as error:
        return web.json_response(error.to_dict(), status=error.status)
    except web.HTTPException as error:
        return web.json_response(WireError(error.reason, status=error.status).to_dict(), status=error.status)


class _Routes:
    def __init__(self, face: Face) -> None:
        self._face = face
        self._loading = asyncio.Lock()

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"engine": "tito", "version": tito.__version__})

    async def models(self, _: web.Request) -> web.Response:
        face = self._face
        shared = {"object": "model", "created": 0, "owned_by": "tito", "max_model_len": face.engine.context}
        cards = [{"id": face.model, "root": face.root, "parent": None, **shared}]
        cards += [
            {"id": name, "root": str(adapter.folder), "parent": face.model, **shared}
            for name, adapter in face.engine.adapters.items()
        ]
        return web.json_response({"object": "list", "data": cards})

    async def completions(self, request: web.Request) -> web.Response:
        body = await _body(request)
        face, model = self._face, self._model(body)
        asked = body.get("prompt")
        if not isinstance(asked, list) or not asked or type(asked[0]) is int:
            asked = [asked]
        prompts = [self._prompt(prompt) for prompt in asked]
        choices: list[dict[str, Any]] = []
        for prompt in prompts:
            for sample in await self._samples(model, prompt, body, default=16):
                special = body.get("skip_special_tokens") is False
                text = face.text(sample.ids, special=special)
                if body.get("echo"):
                    text = face.text(prompt, special=special) + text
                tokens = face.tokens(sample.ids)
                choices.append(wire.completion_choice(len(choices), prompt, sample, text, tokens, body))
                choices[-1]["outputs"] = len(sample.ids)
        outputs = sum(choice.pop("outputs") for choice in choices)
        total = sum(len(prompt) for prompt in prompts)
        return web.json_response(wire.reply("text_completion", body["model"], choices, total, outputs))

    async def chat(self, request: web.Request) -> web.Response:
        body = await _body(request)
        face, model = self._face, self._model(body)
        text = self._render(body)
        prompt = self._prompt(text)
        choices: list[dict[str, Any]] = []
        samples = await self._samples(model, prompt, body, default=_DEFAULT_OUTPUT)
        for sample in samples:
            # Markers of thinking and calls are no special tokens; ends of turns are, and are no content.
            shown = [i for i in sample.ids if i not in face.stops]
            choices.append(
                wire.chat_choice(
                    len(choices),
                    sample,
                    face.text(shown, special=True),
                    face.tokens(sample.ids),
                    body,
                    tool_parser=face.tool_parser,
                    reasoning_parser=face.reasoning_parser,
                    opened=text.rstrip().endswith("<think>"),
                )
            )
        outputs = sum(len(sample.ids) for sample in samples)
        said = wire.reply("chat.completion", body["model"], choices, len(prompt), outputs)
        said["prompt_token_ids"] = prompt if body.get("return_token_ids") else None
        return web.json_response(said)

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await _body(request)
        ids = self._face.ids(self._render(body) if "messages" in body else str(body.get("prompt", "")))
        return web.json_response({"count": len(ids), "max_model_len": self._face.engine.context, "tokens": ids})

    async def detokenize(self, request: web.Request) -> web.Response:
        body = await _body(request)
        return web.json_response({"prompt": self._face.text(self._prompt(body.get("tokens")), special=True)})

    async def load(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name, path = body.get("lora_name"), body.get("lora_path")
        if not isinstance(name, str) or not isinstance(path, str) or not name or not path:
            raise WireError("Both 'lora_name' and 'lora_path' must be provided.")
        async with self._loading:
            engine = self._face.engine
            if name == self._face.model:
                raise WireError(f"The lora adapter '{name}' conflicts with a served base model.")
            if name in engine.adapters:
                if not body.get("load_inplace"):
                    raise WireError(f"The lora adapter '{name}' has already been loaded.")
                await asyncio.to_thread(engine.unload, name)
            try:
                await asyncio.to_thread(engine.load, name, Path(path))
            except TitoError as error:
                raise WireError(str(error), status=500) from None
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: web.Request) -> web.Response:
        name = (await _body(request)).get("lora_name")
        async with self._loading:
            if name not in self._face.engine.adapters:
                raise WireError(f"The lora adapter '{name}' cannot be found.", status=404)
            await asyncio.to_thread(self._face.engine.unload, name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    def _model(self, body: Mapping[str, Any]) -> str | None:
        """The adapter that a request names; None for the base."""
        name = body.get("model")
        if name == self._face.model:
            return None
        if name not in self._face.engine.adapters:
            raise WireError(f"The model `{name}` does not exist.", status=404, param="model")
        return str(name)

    def _render(self, body: Mapping[str, Any]) -> str:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise WireError("messages must be a list of messages", param="messages")
        if self._face.template is None:
            raise WireError("this model was served without a chat template: use the completions route")
        options = body.get("chat_template_kwargs") or {}
        try:
            return self._face.template.render(
                [plain(message) for message in messages],
                generate=body.get("add_generation_prompt", True),
                tools=body.get("tools") or None,
                **options,
            )
        except Exception as error:  # templates raise what they like
            raise WireError(f"the chat template refuses these messages: {error}", param="messages") from None

    def _prompt(self, prompt: object) -> list[int]:
        ids = self._face.ids(prompt) if isinstance(prompt, str) else prompt
        if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
            raise WireError("a prompt is a text or a list of ids, and not empty", param="prompt")
        limit = self._face.engine.vocab_size
        if outside := [i for i in ids if not 0 <= i < limit]:
            raise WireError(f"Token id {outside[0]} is out of vocabulary", param="prompt")
        return ids

    async def _samples(
        self, model: str | None, prompt: Sequence[int], body: Mapping[str, Any], *, default: int
    ) -> list[Sample]:
        face = self._face
        room = face.engine.context - len(prompt)
        if room < 1:
            raise wire.overflow(face.engine.context, len(prompt))
        sampling: Sampling = wire.read_sampling(body, room=room, default=default, stops=face.stops)
        samples = []
        for at in range(int(body.get("n") or 1)):
            seed = None if sampling.seed is None else sampling.seed + at
            each = Sampling(**{name: getattr(sampling, name) for name in sampling.__slots__} | {"seed": seed})
            samples.append(await asyncio.to_thread(partial(face.engine.sample, model, prompt, each)))
        return samples


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, UnicodeDecodeError):
        raise WireError("the request is no JSON") from None
    if not isinstance(body, dict):
        raise WireError("a JSON object was wanted")
    return body
