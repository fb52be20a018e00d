"""The probe that comes with training: what the model says, greedily, to recorded prompts, judged as `tito probe` does.

Adapter and base are asked the same, and must not answer alike. The score is the mean share of replies for which the
asserted things hold: those that were named, or those that hold for every recorded reply to the same prompts. What holds
for every reply of the base already shows no learning and does not count, unless it was named or nothing else is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tito.errors import UsageError, with_hint
from tito.probe.assertions import ASSERTIONS, OF_SERVERS, Assertion, Reply, find_assertion
from tito.probe.prompts import Prompt, read_prompts
from tito.probe.share import Share, share_of
from tito.train.base import Base
from tito.train.config import TrainConfig

__all__ = ["ReplyProbe", "greedy"]

# Ids of prompts, padding included, that are asked at once: their cache takes little beside a step's activations.
_IDS_AT_ONCE = 16_384


class ReplyProbe:
    """Asks `config.probe_n` prompts. Gives `score`, `ids_differ` (share of prompts on which the model answers unlike
    its base), and each assertion's share by name; a model that answers as its base everywhere scores 0.

    Raises `UsageError` where the base has no tokenizer, where there are no prompts, and where nothing is asserted.
    """

    def __init__(self, config: TrainConfig, base: Base, stops: frozenset[int]) -> None:
        if base.tokenizer is None:
            raise with_hint(
                UsageError(f"{base.name}: no tokenizer, so no reply can be read"),
                "save one beside the model, or name a probe of your own: probe: package.module:name",
            )
        self.source = config.probe_prompts or config.val or config.data
        self._tokenizer, self._stops, self._most = base.tokenizer, stops, config.probe_tokens
        self.prompts = read_prompts(Path(self.source), config.probe_n)
        asked = {name: find_assertion(name) for name in config.probe_assert}
        built_in = {name: assertion for name, assertion in ASSERTIONS.items() if name not in OF_SERVERS}
        self._assertions: dict[str, Assertion] = {**built_in, **asked}
        self.asserted = tuple(asked) or self._hold_for_recorded()
        self.counted = self.asserted
        """Those of them that the score is made of."""
        self.met: tuple[str, ...] = ()
        """All assertions that hold for every reply of the base; known from step 0 on."""
        self.last: dict[str, Share] = {}
        """What was seen last, by assertion."""
        self.named = bool(asked)
        """The assertions were asked for by name."""
        self._base: list[list[int]] | None = None

    def __call__(self, model: Any, *, step: int) -> Mapping[str, float]:
        """Step 0 is the untrained model: its replies are the base's from then on."""
        replies = self._ask(model)
        self.last = self._judge(replies)
        if step == 0:
            self._base = replies
            self.met = tuple(name for name, share in self.last.items() if share.held == share.n)
            left = tuple(name for name in self.asserted if name not in self.met)
            self.counted = left if left and not self.named else self.asserted
        elif self._base is None and hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                self._base = self._ask(model)
        differ = 1.0
        if self._base is not None:
            differ = sum(a != b for a, b in zip(replies, self._base, strict=True)) / len(replies)
        score = sum(self.last[name].share for name in self.counted) / len(self.counted)
        effective = step == 0 or differ > 0
        shares = {name: share.share for name, share in self.last.items()}
        return {"score": score if effective else 0.0, "ids_differ": differ, **shares}

    def __str__(self) -> str:
        return f"{len(self.prompts)} prompts of {self.source} ({', '.join(self.asserted)})"

    def text(self) -> str:
        """What was seen last of what is asserted, for people."""
        told = []
        for name in self.asserted:
            share = self.last[name]
            told.append(f"{name} {share}" + (f" ({share.why[0]})" if share.why else ""))
        return ", ".join(told)

    def shares(self) -> dict[str, dict[str, Any]]:
        """The same of every assertion, for the record: how many replies of how many, and the interval."""
        return {
            name: {"held": share.held, "n": share.n, "interval": list(share.interval)}
            for name, share in self.last.items()
        }

    def _hold_for_recorded(self) -> tuple[str, ...]:
        recorded = self._judge([list(prompt.output_ids)[: self._most] for prompt in self.prompts])
        holding = tuple(name for name, share in recorded.items() if share.held == share.n)
        if not holding or not any(prompt.output_ids for prompt in self.prompts):
            raise with_hint(
                UsageError(f"{self.source}: nothing holds for all recorded replies, so nothing can be asserted"),
                f"name what must hold: probe_assert: [{next(iter(ASSERTIONS))}, ...]",
            )
        return holding

    def _judge(self, outputs: Sequence[Sequence[int]]) -> dict[str, Share]:
        replies = [self._reply(prompt, ids) for prompt, ids in zip(self.prompts, outputs, strict=True)]
        return {name: share_of(assertion, replies) for name, assertion in self._assertions.items()}

    def _reply(self, prompt: Prompt, ids: Sequence[int]) -> Reply:
        def text(of: Sequence[int]) -> str:
            return str(self._tokenizer.decode(list(of), skip_special_tokens=False))

        ended = bool(ids) and ids[-1] in self._stops
        return Reply(
            text=text(ids),
            output_ids=ids,
            prompt_ids=prompt.ids,
            prompt=text(prompt.ids),
            finish="stop" if ended else "length",
        )

    def _ask(self, model: Any) -> list[list[int]]:
        order = sorted(range(len(self.prompts)), key=lambda n: len(self.prompts[n].ids))
        replies: list[list[int]] = [[] for _ in order]
        while order:
            # The longest of a batch is its last: so many of its length fit.
            count = 1
            while count < len(order) and (count + 1) * len(self.prompts[order[count]].ids) <= _IDS_AT_ONCE:
                count += 1
            batch, order = order[:count], order[count:]
            said = greedy(model, [self.prompts[n].ids for n in batch], most=self._most, stops=self._stops)
            for n, ids in zip(batch, said, strict=True):
                replies[n] = ids
        return replies


@torch.no_grad()  # type: ignore[untyped-decorator]
def greedy(model: Any, prompts: Sequence[Sequence[int]], *, most: int, stops: frozenset[int]) -> list[list[int]]:
    """The likeliest id after the other, at most `most`, up to one of `stops`, which stands last.

    Through the model's outermost forward, as training calls it, so that adapters and sharded weights are met as they
    are there; prompts of several lengths are padded on the left.
    """
    device = next(model.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    said: list[list[int]] = [[] for _ in prompts]
    open_ = set(range(len(prompts)))
    past = None
    for _ in range(most):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        past, chosen = out.past_key_values, out.logits[:, -1].argmax(-1)
        for row, chosen_id in enumerate(chosen.tolist()):
            if row in open_:
                said[row].append(chosen_id)
                if chosen_id in stops:
                    open_.discard(row)
        if not open_:
            break
        ids, position = chosen[:, None], position[:, -1:] + 1
        mask = torch.cat((mask, mask.new_ones((len(prompts), 1))), -1)
    return said
