"""Loading and unloading LoRA adapters on a running server, believed only when it is seen.

vLLM once answered `Success` to a second load under one name and went on with the old weights. So an adapter gets a name
that no other content has, the listed root must be its folder, and it must answer unlike the base and unlike every other
adapter there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tito.adapter import BaseModel, LoraAdapter, inspect
from tito.adapter.inspect import room_for
from tito.errors import DataError, UsageError, with_hint
from tito.serve.client import RefusedError, Server
from tito.serve.effect import Prompts, ask, compare, effect
from tito.serve.record import ServedAdapter

__all__ = ["load", "unload"]


def load(
    server: Server,
    adapter: LoraAdapter,
    prompts: Prompts,
    *,
    base_folder: BaseModel | None = None,
    name: str | None = None,
    in_place: bool = False,
    recorded: Sequence[ServedAdapter] = (),
) -> tuple[ServedAdapter, str]:
    """Loads an adapter and proves that it is served; gives it, and what was seen. Where `base_folder` is known, shapes
    and names are compared with it first; `recorded` says what content other names were loaded with.

    An adapter that is served already under its content's name is only proved. Raises `UsageError` for a name that
    stands for other content (unless `in_place`), `DataError` for an adapter that is broken, that the server refuses, or
    that was not swapped in.
    """
    if problems := inspect(adapter, base_folder).problems:
        raise with_hint(DataError(f"{adapter.folder}: {problems[0]}"), f"`tito adapter inspect {adapter.folder}`")
    before = {card.id: card for card in server.models()}
    bases = [card for card in before.values() if card.parent is None]
    if not bases:
        raise with_hint(DataError(f"{server.url}: no base model is listed"), "is this an engine that serves adapters?")
    base = bases[0].id
    served = ServedAdapter.of(adapter, base)
    known = {(served.name, served.hash), *((other.name, other.hash) for other in recorded)}
    if name is not None:
        served = ServedAdapter(name, served.folder, served.hash, served.rank, served.alpha)
    old = before.get(served.name)
    same = old is not None and _is(old.root, served.folder) and name is None
    if old is not None and not same and not in_place:
        raise with_hint(
            UsageError(f"{server.url}: {served.name} is served already, from {old.root}"),
            "leave --name out: the content's own name is free; or say --in-place",
        )
    earlier = ask(server, served.name, prompts) if old and not same else []
    noise = compare(earlier, ask(server, served.name, prompts)) if earlier else None
    if not same:
        _ask(server, served, in_place=in_place)
    root = {card.id: card.root for card in server.models()}.get(served.name)
    if not _is(root, served.folder):
        raise with_hint(
            DataError(f"{server.url}: adapter not swapped: {served.name} is listed from {root}, not {served.folder}"),
            "restart the server with `tito serve`",
        )
    seen = effect(server, base, served.name, prompts)
    if not seen.any:
        raise with_hint(
            DataError(f"{server.url}: adapter not swapped: {served.name} answers as {base} does ({seen})"),
            "the names in its file may be another class's: `tito adapter inspect`; or give --prompts that it learnt",
        )
    if noise is not None:
        change = compare(earlier, ask(server, served.name, prompts))
        if not change.beyond(noise):
            told = f" ({change}; before the load, asked twice: {noise})" if noise.any else f" ({change})"
            raise with_hint(
                DataError(f"{server.url}: adapter not swapped: {served.name} answers as before the load{told}"),
                "load it under a name of its own: leave --name out",
            )
    for card in before.values():
        # The same content may be there under two names. A root does not say so: another adapter may have stood there.
        twin = (card.id, adapter.hash) in known
        if card.parent is None or card.id == served.name or (twin and _is(card.root, served.folder)):
            continue
        if not effect(server, card.id, served.name, prompts).any:
            raise with_hint(
                DataError(f"{server.url}: adapter not swapped: {served.name} answers as {card.id} does"),
                "unload that one (it may be of the same content), or restart the server with `tito serve`",
            )
    return served, str(seen)


def unload(server: Server, name: str) -> None:
    """Unloads an adapter and proves that it is gone. `UsageError` for a name that is not served, or a base's."""
    before = {card.id: card for card in server.models()}
    if name not in before or before[name].parent is None:
        adapters = ", ".join(card.id for card in before.values() if card.parent is not None) or "none"
        raise with_hint(UsageError(f"{server.url}: no adapter {name} is served"), f"served: {adapters}")
    server.unload_lora(name)
    if name in {card.id for card in server.models()}:
        raise with_hint(DataError(f"{server.url}: {name} is still served after its unload"), "restart the server")


def _ask(server: Server, served: ServedAdapter, *, in_place: bool) -> None:
    try:
        server.load_lora(served.name, served.folder, in_place=in_place)
    except RefusedError as error:
        if "max_lora_rank" in error.said:
            error.hint = f"restart the server with --max-lora-rank {room_for(served.rank)}"
        elif error.status in (404, 405):
            error.hint = "vLLM loads at run time with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; `tito serve` sets it"
        raise


def _is(root: str | None, folder: str) -> bool:
    return root is not None and Path(root).resolve() == Path(folder).resolve()
