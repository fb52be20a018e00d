"""The base model, read without its weights: what it is, which tokenizer it has, which modules an adapter would sit on.

A model of its config is built on the meta device, so that parameters, targets and memory are known before anything is
loaded. The text class is trained where a model has one of its own beside a vision tower; `wrapped` says that servers
know the same weights under the wrapper's names.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tito.errors import DataError, UsageError, WorldError, with_hint
from tito.profile.errors import NoTemplateError, ProfileError
from tito.profile.source import Source, read_source, template_hash, tokenizer_hash
from tito.train.config import TRAIN_EXTRA, TrainConfig

__all__ = ["HYBRID", "SEVEN", "Base", "Targets", "find_targets", "read_base"]

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Linear attention too, but not its small gates (in_proj_a, in_proj_b), which some servers drop, nor a vision tower,
# which has no `layers`.
HYBRID = (
    r".*layers\.\d+\.(self_attn|linear_attn|mlp)\."
    r"(q_proj|k_proj|v_proj|o_proj|in_proj_qkv|in_proj_z|out_proj|gate_proj|up_proj|down_proj)"
)


@dataclass(frozen=True, slots=True)
class Base:
    """A base model without its weights."""

    name: str
    config: Any
    skeleton: Any
    """The model on the meta device."""
    parameters: int
    vocabulary: int
    """Rows of the embedding, padding included: an id below it exists for the model."""
    context: int | None
    wrapped: bool
    """Whether servers know it as a wrapper with a vision tower: modules stand under `model.language_model` there."""
    hybrid: bool
    """Whether some layers have linear attention, which only special kernels keep apart in packs."""
    tokenizer_hash: str | None
    template_hash: str | None
    template: str | None
    stop_ids: tuple[int, ...]
    tokenizer: Any
    """A `tokenizers.Tokenizer`, None where the base has none."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The modules an adapter sits on."""

    spelled: Any
    """As PEFT takes it: names, or a regular expression."""
    modules: tuple[str, ...]
    parameters: int
    bare: int
    """Layers in which no attention module has LoRA."""
    layers: int


def read_base(config: TrainConfig) -> Base:
    """Reads config and tokenizer of the base. `WorldError` where there is none, `DataError` where it is quantised and
    that is not allowed."""
    folder = Path(config.base)
    if not folder.is_dir():
        refuse_missing(config.base)
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise with_hint(WorldError("training needs torch, transformers, trl and peft"), TRAIN_EXTRA) from error

    if folder.is_dir() and not (folder / "config.json").is_file():
        raise with_hint(WorldError(f"{config.base}: no config.json"), "name a folder as `save_pretrained` writes it")
    try:
        told = AutoConfig.from_pretrained(config.base)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise with_hint(
            WorldError(f"{config.base}: {first}"), "name a model folder, or a model that is there"
        ) from None
    quantised = getattr(told, "quantization_config", None)
    if quantised and "quantised" not in config.allow:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else quantised.quant_method
        raise with_hint(
            DataError(
                f"{config.base}: the base is quantised ({method}); an adapter fits the weights it was trained on"
            ),
            "name the full-precision model (tune: qlora makes its own 4 bits of it), or allow: [quantised]",
        )
    text = told.get_text_config()
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(told)
    source = _source(config.base)
    template = None if source is None else source.chat_template or None
    return Base(
        name=config.base,
        config=told,
        skeleton=skeleton,
        parameters=sum(p.numel() for p in skeleton.parameters()),
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
        wrapped=text is not told and "vision_config" in told.to_dict(),
        hybrid="linear_attention" in (getattr(text, "layer_types", None) or []),
        tokenizer_hash=None if source is None else tokenizer_hash(source.tokenizer),
        template_hash=None if template is None else template_hash(template),
        template=template,
        stop_ids=() if source is None else source.stop_ids,
        tokenizer=None if source is None else source.tokenizer,
    )


def refuse_missing(name: str) -> None:
    """`WorldError` where a base that is no folder here is not on the hub either. The hub is asked once: its client asks
    six times, for half a minute. A model that was fetched before is there without it."""
    place = Path(name)
    if place.is_file():
        raise with_hint(WorldError(f"{name}: a file"), "name the folder of the model, as `save_pretrained` writes it")
    there = [path.name for path in place.parent.iterdir() if path.is_dir()] if place.parent.is_dir() else []
    near = [f"did you mean {place.parent / meant}?" for meant in get_close_matches(place.name, there, 1)]
    if name.startswith(("~", ".", os.sep)) or name.endswith("/") or name.count("/") > 1 or "\\" in name:
        where = "check the path" if place.parent.is_dir() else f"{place.parent} is no folder either"
        raise with_hint(WorldError(f"{name}: no such folder"), near[0] if near else where)
    near.append(f"no folder of that name in {os.getcwd()}; a model of the hub is called OWNER/NAME")
    if (why := _not_on_hub(name)) is not None:
        raise with_hint(WorldError(f"{name}: no such folder, and {why}"), near[0])


def _not_on_hub(name: str) -> str | None:
    """Why a model cannot be had from the hub; None where it can."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return None
        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE keeps the hub from being asked"
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except GatedRepoError:
        # It is there; what is asked of the user is told where it is fetched.
        return None
    except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError):
        return "no such model on the hub"
    except Exception as error:
        # Of whatever library the hub's client speaks HTTP with.
        return f"the hub cannot be asked ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    return None


def _source(base: str) -> Source | None:
    """Tokenizer and template, an empty one where it has none; None where the base has no tokenizer."""
    source: Any = base
    if not os.path.isdir(base):
        from transformers import AutoTokenizer

        source = AutoTokenizer.from_pretrained(base)
    try:
        return read_source(source)
    except NoTemplateError:
        return read_source(source, chat_template="")
    except ProfileError:
        return None


def find_targets(model: Any, config: TrainConfig) -> Targets:
    """The linear modules that `lora_targets` names. `UsageError` where it names none, or one in a vision tower."""
    import torch

    asked = config.lora_targets
    spelled: Any = list(SEVEN) if asked == "all-seven" else HYBRID if asked == "hybrid" else asked
    if isinstance(spelled, str):
        try:
            pattern = re.compile(spelled)
        except re.error as error:
            raise with_hint(UsageError(f"lora_targets: {spelled!r}: {error}"), "write a regular expression") from None
    else:
        spelled = list(spelled)
        pattern = re.compile(rf"(?:.*\.)?(?:{'|'.join(map(re.escape, spelled))})")
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    hit = {name: module for name, module in linear.items() if pattern.fullmatch(name)}
    if not hit:
        inside = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise with_hint(UsageError(f"lora_targets: {asked!r} names no linear module"), f"there are {', '.join(inside)}")
    if wrong := [name for name in hit if "visual" in name or name.endswith("lm_head")]:
        raise with_hint(UsageError(f"lora_targets: {wrong[0]} is among them"), "take names of the text layers alone")
    layers = {match[1] for name in linear if (match := re.match(r"(.*layers\.\d+)\.", name))}
    reached = {match[1] for name in hit if (match := re.match(r"(.*layers\.\d+)\.(?!mlp)", name))}
    return Targets(
        spelled=spelled,
        modules=tuple(hit),
        parameters=sum(config.lora_rank * (m.in_features + m.out_features) for m in hit.values()),
        bare=len(layers - reached),
        layers=len(layers),
    )
