"""Under which names a model's layers stand. A wrapper class (text beside vision) keeps its language model one level
deeper than the text class does; a server that is given the other's names loads an adapter and applies nothing."""

from __future__ import annotations

from typing import Literal

from tito.adapter.base import BaseModel

__all__ = ["Keys", "core_name", "keys_of", "rename", "wanted_keys"]

Keys = Literal["text", "wrapper"]

# The prefix that leads to `layers.N`, by class; the last is what older wrappers wrote.
_PREFIXES: dict[Keys, tuple[str, ...]] = {
    "wrapper": ("model.language_model.", "language_model.model.", "language_model."),
    "text": ("model.",),
}


def core_name(module: str) -> str:
    """A module's name without what depends on the class.

    >>> core_name("model.language_model.layers.0.mlp.up_proj"), core_name("model.layers.0.mlp.up_proj")
    ('layers.0.mlp.up_proj', 'layers.0.mlp.up_proj')
    """
    for prefixes in _PREFIXES.values():
        for prefix in prefixes:
            if module.startswith(prefix):
                return module.removeprefix(prefix)
    return module


def keys_of(module: str) -> Keys | None:
    """Whose names these are; None for a module outside the layers (`lm_head`).

    >>> keys_of("model.layers.0.mlp.up_proj"), keys_of("model.language_model.layers.0.mlp.up_proj"), keys_of("lm_head")
    ('text', 'wrapper', None)
    """
    for keys, prefixes in _PREFIXES.items():
        if any(module.startswith(f"{prefix}layers.") for prefix in prefixes):
            return keys
    return None


def wanted_keys(base: BaseModel) -> Keys:
    """The names that servers of this model apply. Wrapper names work for the wrapper class and, in vLLM, for its text
    class too; text names in a wrapper are a silent no-op."""
    return "wrapper" if "text_config" in base.config else "text"


def rename(module: str, keys: Keys) -> str:
    """The module's name in a class; one outside the layers keeps its name."""
    return module if keys_of(module) is None else _PREFIXES[keys][0] + core_name(module)
