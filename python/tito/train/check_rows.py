"""Checks of the rows against the base, before any weight is loaded: ids, loss, tokenizer, weights, ranks, memory."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tito.profile import Profile, ProfileError
from tito.train.base import Base
from tito.train.config import TrainConfig
from tito.train.dataset import TitoSFTDataset
from tito.train.findings import Finding
from tito.train.memory import Memory, available
from tito.train.order import fillers

__all__ = ["check_divisibility", "check_fingerprint", "check_lengths", "check_loss", "check_memory", "check_weights"]


def check_lengths(data: TitoSFTDataset, base: Base) -> Finding:
    """Ids exist for the model, and no row is longer than it can see. (That ids, spans and labels fit one another is
    asked when the rows are read.)"""
    seen = data.survey
    for id_, row in ((seen.highest_id, seen.highest_at), (seen.lowest_id, seen.lowest_at)):
        if not 0 <= id_ < base.vocabulary:
            return Finding(
                "lengths",
                False,
                f"{data.table.place(row)}: id {id_}, and {base.name} has {base.vocabulary:,} ids",
                "the rows are of another tokenizer; name the base that they were captured from",
            )
    used = data.exposure.copies > 0
    longest = int(np.where(used, seen.lengths, 0).argmax())
    if base.context is not None and (length := int(seen.lengths[longest])) > base.context:
        return Finding(
            "lengths",
            False,
            f"{data.table.place(longest)}: {length:,} ids, and {base.name} sees {base.context:,}",
            "set max_length and overlong: drop, or convert with --max-length",
        )
    return Finding("lengths", True, f"ids {seen.lowest_id}..{seen.highest_id} of {base.vocabulary:,}")


def check_loss(data: TitoSFTDataset) -> Finding:
    """Rows that carry no loss are told; the share of ids with loss, in fifths of the rows."""
    seen = data.survey
    share = seen.loss_tokens / np.maximum(seen.lengths, 1)
    fifths = [round(float(v), 4) for v in np.quantile(share, [0, 0.25, 0.5, 0.75, 1])]
    silent = np.flatnonzero(seen.loss_tokens == 0)[:10].tolist()
    text = f"{int(seen.loss_tokens.sum()):,} loss tokens, "
    text += f"share a row {fifths[0]:.1%} .. {fifths[2]:.1%} .. {fifths[4]:.1%}"
    if silent:
        text += f"; {data.silent} rows without loss are left out ({', '.join(map(data.table.place, silent[:3]))})"
    if data.silent * 2 > len(seen.lengths):
        return Finding("loss_tokens", False, text, "look at them with `tito show`; most rows would train nothing")
    return Finding("loss_tokens", True, text, numbers={"share_quartiles": fifths, "silent": silent})


def check_fingerprint(data: TitoSFTDataset, base: Base) -> Finding:
    """The rows' tokenizer is the base's, by vocabulary, merges and added tokens: another one refuses. Another template
    is told, with what differs: ids are final, but a server that renders otherwise shows the student other prompts."""
    said = data.table.metadata
    ours, theirs = said.get("tito.tokenizer_hash"), base.tokenizer_hash
    if ours is None or theirs is None:
        who = "the rows do not say" if ours is None else f"{base.name} has no tokenizer.json to say"
        return Finding("fingerprint", None, f"{who} which tokenizer; only the ids' range was compared")
    if ours != theirs:
        name = said.get("tito.profile", "?")
        return Finding(
            "fingerprint",
            False,
            f"the rows are of tokenizer {_short(ours)} ({name}), {base.name} has {_short(theirs)}",
            "name the base that they were captured from; ids of another vocabulary mean other text",
            {"rows": ours, "base": theirs},
        )
    text = f"tokenizer {_short(ours)} on both sides"
    template = said.get("tito.template_hash")
    if template != base.template_hash:
        text += f"; templates differ: {_template_difference(said, base)}"
    return Finding("fingerprint", True, text, numbers={"template_rows": template, "template_base": base.template_hash})


def _template_difference(said: Any, base: Base) -> str:
    if base.template is None:
        return "the base has none"
    try:
        served = json.loads(Profile.from_tokenizer(base.name).to_json())
    except (ProfileError, OSError):
        return f"{_short(said.get('tito.template_hash') or '?')} and {_short(base.template_hash or '?')}"
    rows = json.loads(said.get("tito.profile_json", "{}"))
    fields = ("tail_think", "tail_no_think", "assistant_start", "turn_end", "stop_ids", "history_pair", "tool_open")
    differ = [
        f"{name} {rows.get(name)} != {served[name]}" for name in fields if rows and rows.get(name) != served[name]
    ]
    return "; ".join(differ[:2]) or "in text only, the markers are the same"


def _short(hash_: str) -> str:
    return hash_.removeprefix("sha256:")[:12]


def check_weights(data: TitoSFTDataset, config: TrainConfig, world: int) -> Finding:
    """What weights do to the run: their sum, the steps with and without them. (That each is a number of 0 or more is
    asked when the rows are read.)"""
    weight, exposure = data.survey.weight, data.exposure
    used = exposure.copies > 0
    ignored = exposure.mode == "ignore" and bool((weight[used] != 1).any())
    step = config.rows_per_step(world)
    numbers: dict[str, Any] = {
        "sum": float(weight[used].sum()),
        "largest": float(weight[used].max()),
        "mode": exposure.mode,
        "steps_an_epoch": len(data) / step,
        "steps_without": int(used.sum()) / step,
        "zero": int((weight == 0).sum()),
    }
    text = f"{exposure.why}; sum {numbers['sum']:g}, largest {numbers['largest']:g}, steps an epoch "
    text += f"{numbers['steps_an_epoch']:g} (without weights {numbers['steps_without']:g})"
    if numbers["zero"]:
        text += f"; {numbers['zero']} rows weigh 0 and are left out"
    lost = exposure.mode == "repeat" and abs(float(exposure.copies.sum()) - numbers["sum"]) > 1
    if ignored or lost:
        return Finding("weights", False, f"the weights are not honoured: {text}", "take weights: auto", numbers)
    return Finding("weights", True, text, numbers=numbers)


def check_divisibility(data: TitoSFTDataset, config: TrainConfig, world: int) -> Finding:
    """No example is trained twice to fill a batch, and as many ranks are there as were asked for."""
    if config.world is not None and config.world != world:
        return Finding(
            "divisibility",
            False,
            f"{config.world} ranks were asked for, {world} are there",
            f"launch with torchrun --nproc_per_node {config.world} -m tito.train",
        )
    extra = fillers(len(data), config.batch * world)
    text = f"{len(data):,} examples on {world} x {config.batch}: {extra} fillers without loss, none twice"
    return Finding("divisibility", True, text, numbers={"fillers": extra, "world": world})


def check_memory(memory: Memory, device: str) -> Finding:
    """The estimate fits the device."""
    have = available(device)
    text = f"{memory.total / 2**30:.1f} GiB estimated, {have / 2**30:.1f} GiB there"
    hint = "take tune: qlora, gradient_checkpointing, a shorter max_length, or more GPUs with fsdp"
    return Finding("memory", memory.total <= have, text, hint, {"estimated": memory.total, "available": have})
