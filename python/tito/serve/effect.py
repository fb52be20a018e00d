"""Whether two served models answer alike: greedy ids, and logprobs where the ids are the same.

A name in `/v1/models` proves nothing, nor does a server's word `Success`: weights that are not applied, or not swapped,
show only in what is sampled. Two models whose ids agree on every prompt and whose logprobs agree to rounding are taken
for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tito.serve.client import Answer, Server

__all__ = ["PROMPTS", "Effect", "Prompts", "ask", "compare", "effect"]

Prompts = Sequence[Sequence[int] | str]
"""Prompts as ids, or as text that the server tokenises."""

PROMPTS: Prompts = ("The first thing to do is", "def main():\n    ", "1, 2, 3,", '{"name": "', "Dear all,\n")
"""What is asked where nobody gives prompts; captured ones tell more, for an adapter shows what it learnt."""

_OUTPUT = 16
# Batches round differently in bfloat16: logprobs of one model have been seen to differ by 0.02.
_ROUNDING = 0.05


@dataclass(frozen=True, slots=True)
class Effect:
    """How a model differs from another."""

    prompts: int
    ids_differ: int
    """Prompts on which the ids differ."""
    logprob: float
    """The largest difference of logprobs over ids that both gave."""
    examples: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """Outputs of both, for each prompt."""

    @property
    def any(self) -> bool:
        """Whether they are two models at all."""
        return self.ids_differ > 0 or self.logprob > _ROUNDING

    def beyond(self, noise: Effect) -> bool:
        """Whether it is more than a model differs from itself, of which `noise` was seen once."""
        return self.ids_differ > 2 * noise.ids_differ or self.logprob > max(_ROUNDING, 2 * noise.logprob)

    def __str__(self) -> str:
        return f"ids differ on {self.ids_differ} of {self.prompts} prompts, logprobs by up to {self.logprob:.2g}"


def effect(server: Server, one: str, other: str, prompts: Prompts, *, max_tokens: int = _OUTPUT) -> Effect:
    """Asks both the same, greedy, through the completions route. Raises what `Server.complete` raises."""
    pairs = [(_ask(server, one, prompt, max_tokens), _ask(server, other, prompt, max_tokens)) for prompt in prompts]
    return compare([a for a, _ in pairs], [b for _, b in pairs])


def ask(server: Server, model: str, prompts: Prompts, *, max_tokens: int = _OUTPUT) -> list[Answer]:
    """Greedy answers with logprobs. Raises what `Server.complete` raises."""
    return [_ask(server, model, prompt, max_tokens) for prompt in prompts]


def compare(one: Sequence[Answer], other: Sequence[Answer]) -> Effect:
    """The same of answers that are at hand, to the same prompts."""
    differ, most = 0, 0.0
    pairs = list(zip(one, other, strict=True))
    for a, b in pairs:
        differ += a.output_ids != b.output_ids
        for x, y, p, q in zip(a.output_ids, b.output_ids, a.logprobs, b.logprobs, strict=False):
            if x != y:
                break
            most = max(most, abs(p - q))
    return Effect(len(pairs), differ, most, tuple((a.output_ids, b.output_ids) for a, b in pairs))


def _ask(server: Server, model: str, prompt: Sequence[int] | str, max_tokens: int) -> Answer:
    return server.complete(model, prompt, max_tokens=max_tokens, logprobs=1)
