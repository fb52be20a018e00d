"""A model and its LoRA adapters in memory: ids in, ids out, one sequence at a time.

The class is the one that the config names, as servers take it: an adapter with another class's names is refused here,
where a server would apply nothing. Nothing is sampled that is not returned.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from tito.adapter import BaseModel, LoraAdapter, inspect
from tito.errors import DataError, UsageError, WorldError, with_hint

__all__ = ["SERVE_EXTRA", "Engine", "Sample", "Sampling"]

SERVE_EXTRA = "in the checkout: pip install '.[serve]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample; temperature 0 is greedy."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_ids: frozenset[int] = field(default=frozenset())
    """Ids that end the output, in which they stand last."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One output. `logprobs` is as long as `ids`: the log-probability of each under the untouched distribution."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    """`stop` or `length`."""


class Engine:
    """A base and its adapters. Methods may be called from any thread; they wait for one another.

    Raises `WorldError` where torch, transformers or peft is missing, `UsageError` for a quantised base.
    """

    def __init__(
        self, base: BaseModel, *, dtype: str = "float32", context: int | None = None, max_rank: int = 16
    ) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise with_hint(
                WorldError(f"the server needs {error.name}"), "pip install 'tito-distill[serve]'"
            ) from error
        if base.quantised:
            raise with_hint(UsageError(f"{base.folder}: quantised ({base.quantised})"), "serve a full-precision base")
        kind: Any = getattr(transformers, base.architecture, None) or transformers.AutoModelForCausalLM
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = kind.from_pretrained(base.folder, dtype=getattr(torch, dtype)).to(device).eval()
        # The scores of a prompt's other ids are asked by nobody: of 8,192 over 151,936 ids they take 5 GB.
        asked = "logits_to_keep" in signature(self._model.forward).parameters
        self._last: dict[str, int] = {"logits_to_keep": 1} if asked else {}
        self._torch = torch
        self._device = device
        self._base = base
        self._peft: Any = None
        self._inner: dict[str, str] = {}
        self._made = 0
        self._lock = threading.Lock()
        self.adapters: dict[str, LoraAdapter] = {}
        self.max_rank = max_rank
        self.context = context or base.context or 2048
        self.vocab_size: int = self._model.get_input_embeddings().num_embeddings

    def load(self, name: str, folder: Path) -> None:
        """Loads an adapter. `DataError` for one that does not fit or whose rank is above `max_rank`."""
        adapter = LoraAdapter(folder)
        if adapter.most_rank > self.max_rank:
            raise DataError(f"LoRA rank {adapter.most_rank} is greater than max_lora_rank {self.max_rank}.")
        if problems := inspect(adapter, self._base).problems:
            raise DataError(problems[0])
        try:
            from peft import PeftModel
        except ImportError as error:
            raise with_hint(WorldError("adapters need peft"), SERVE_EXTRA) from error
        with self._lock:
            # torch allows no dot in a module's name, and names of models have some.
            inner = f"a{self._made}"
            self._made += 1
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self._model, str(folder), adapter_name=inner).eval()
            else:
                self._peft.load_adapter(str(folder), adapter_name=inner)
            applied = sum(f".{inner}." in key and ".lora_B." in key for key in self._peft.state_dict())
            if applied != len(adapter.modules):
                self._peft.delete_adapter(inner)
                raise DataError(f"{folder}: {len(adapter.modules)} modules in the file, {applied} in the model")
            self._inner[name] = inner
            self.adapters[name] = adapter

    def unload(self, name: str) -> None:
        """Forgets an adapter."""
        with self._lock:
            self._peft.delete_adapter(self._inner.pop(name))
            del self.adapters[name]

    def sample(self, model: str | None, prompt: Sequence[int], sampling: Sampling) -> Sample:
        """Samples one output. `model` is an adapter's name, None the base. The prompt is not empty and fits."""
        with self._lock, self._as(model), self._torch.inference_mode():
            return self._sample(prompt, sampling)

    @contextmanager
    def _as(self, name: str | None) -> Iterator[None]:
        off: AbstractContextManager[Any] = nullcontext()
        if self._peft is not None:
            if name is None:
                off = self._peft.disable_adapter()
            else:
                self._peft.set_adapter(self._inner[name])
        with off:
            yield

    def _sample(self, prompt: Sequence[int], sampling: Sampling) -> Sample:
        torch = self._torch
        chance = torch.Generator(device=self._device)
        if sampling.seed is None:
            chance.seed()
        else:
            chance.manual_seed(sampling.seed)
        model = self._model if self._peft is None else self._peft
        ids: list[int] = []
        logprobs: list[float] = []
        given = torch.tensor([list(prompt)], device=self._device)
        past = None
        while len(ids) < sampling.max_tokens:
            out = model(input_ids=given, past_key_values=past, use_cache=True, **self._last)
            past = out.past_key_values
            scores = out.logits[0, -1].float()
            chosen = self._choose(scores, sampling, chance)
            ids.append(chosen)
            logprobs.append(float(torch.log_softmax(scores, -1)[chosen]))
            if chosen in sampling.stop_ids:
                return Sample(tuple(ids), tuple(logprobs), "stop")
            given = torch.tensor([[chosen]], device=self._device)
        return Sample(tuple(ids), tuple(logprobs), "length")

    def _choose(self, scores: Any, sampling: Sampling, chance: Any) -> int:
        torch = self._torch
        if sampling.temperature == 0:
            return int(scores.argmax())
        scores = scores / sampling.temperature
        if sampling.top_k > 0:
            scores = scores.masked_fill(scores < scores.topk(min(sampling.top_k, len(scores))).values[-1], -torch.inf)
        weights = torch.softmax(scores, -1)
        if sampling.top_p < 1:
            ordered, where = weights.sort(descending=True)
            # The id that crosses the threshold stays.
            ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0)
            weights = torch.zeros_like(weights).scatter(0, where, ordered)
        return int(torch.multinomial(weights, 1, generator=chance))
