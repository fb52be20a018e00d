"""What a chat template does, found by rendering it and comparing the renders: the fields of a profile.

The pieces are found in the order in which they need each other: turns, thinking, tails, tools, stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from tito.profile.renders import (
    OFF,
    ON,
    SYSTEM,
    TOOL,
    USER,
    USER_2,
    Ids,
    Region,
    Renderer,
    between,
    common_prefix,
    holds,
    message,
    tool_messages,
    unique,
)
from tito.profile.scaffold import Turns, find_turns, generation_tail
from tito.profile.source import Source, newline_ids, template_hash, tokenizer_hash
from tito.profile.template import Message
from tito.profile.think import Think, find_think
from tito.profile.tools import Tools, find_tools


def derive(source: Source) -> dict[str, Any]:
    """The fields of a `Profile`, by name. `ProfileError` for a template that is not understood."""
    template = Renderer(source)
    turns = find_turns(template)
    think = find_think(template, turns)
    tail_think, tail_no_think = _find_tails(template, turns, think)
    starts = _find_turn_starts(template, turns, think)
    tools = find_tools(template, turns, think, starts)

    ends = [template.last_added(end) or end.strip().ids for end in (turns.assistant_end, turns.user_end)]
    vocab_size = max(source.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return {
        "version": 1,
        "name": source.name,
        "vocab_size": vocab_size,
        "id_limit": max(vocab_size, source.model_ids or 0),
        "think_open": think.open,
        "think_close": think.close,
        "stray_think": template.stray_think({i for marker in (think.open, think.close) for ids in marker for i in ids}),
        "lone_close": think.lone_close,
        "after_close": newline_ids(source.tokenizer, vocab_size),
        "tool_open": tools.open,
        "turn_start": unique([*starts, *tools.turn_start]),
        "assistant_start": unique([think.header.ids, *tools.assistant_start]),
        "turn_end": unique([*ends, *tools.turn_end]),
        "stop_ids": _find_stops(template, turns, tools),
        "prompt_start": _find_prompt_start(template),
        "tail_think": tail_think,
        "tail_no_think": tail_no_think,
        "history_pair": _writes_pair(template, think, tail_no_think),
        "tokenizer_hash": tokenizer_hash(source.tokenizer),
        "template_hash": template_hash(source.chat_template),
    }


def _find_tails(template: Renderer, turns: Turns, think: Think) -> tuple[Ids, Ids | None]:
    core = think.header.strip().ids
    default, on, off = (
        generation_tail(template, turns.user_end.ids, turns.header, options, core) for options in ({}, ON, OFF)
    )
    if default is None:
        raise template.refuse("the generation prompt has no assistant header")
    on, off = on or default, off or default
    if default.ids not in (on.ids, off.ids):
        raise template.refuse(
            f"the generation prompt is {default.text!r} by default, {on.text!r} with thinking on and {off.text!r} off"
        )
    openers, closers = think.texts
    for tail in (on, off):
        rest = tail.cut(len(think.header.ids)).text.strip()
        if rest and not rest.startswith((*openers, *closers)):
            what = f"the generation prompt ends in {tail.text!r}: what stands behind {think.header.text!r}"
            raise template.refuse(f"{what} is no think marker that a render shows")
    closed_on, closed_off = (any(text in tail.text for text in closers) for tail in (on, off))
    if on.ids == off.ids:
        return on.ids, on.ids if closed_on else None
    if closed_on or (any(text in off.text for text in openers) and not closed_off):
        raise template.refuse(
            f"thinking on and off contradict each other: the generation prompt ends in {on.text!r} with thinking on, "
            f"in {off.text!r} with thinking off"
        )
    return on.ids, off.ids


def _find_turn_starts(template: Renderer, turns: Turns, think: Think) -> list[Ids]:
    def start(header: Region) -> Ids:
        solid = header.strip()
        return solid.ids[:1] if solid.ids and solid.ids[0] in template.added else solid.ids

    starts = [start(turns.user_header), start(think.header)]
    user, system = message("user", USER), message("system", SYSTEM)
    found = _opening(template, [user], USER), _opening(template, [system, user], SYSTEM)
    openings = [opening for opening in found if opening is not None]
    shared = common_prefix([opening.ids for opening in openings]) if len(openings) > 1 else 0
    end = turns.user_end.strip().ids
    if openings and end and holds(openings[0].ids, (end,)):
        shared = 0  # a system turn stands there even when nobody gave one: what is shared is its header (Kimi)
    while shared and not template.added.issuperset(openings[0].ids[:shared]):
        shared -= 1
    for opening in openings:
        # A role that only the first message has, or whose header is another there, shows behind what all begin with.
        if not any(holds(opening.ids, (known,)) for known in starts if known):
            starts.append(start(opening.cut(shared)))
    return starts


def _opening(template: Renderer, messages: Sequence[Message], word: str) -> Region | None:
    """What a render has before a word, the begin-of-text token left out."""
    render = template.try_render(messages)
    before = None if render is None else between(render, None, word)
    if before is None:
        return None
    bos = template.source.tokenizer.token_to_id(template.source.special.get("bos_token", ""))
    return before.cut(1) if before.ids[:1] == (bos,) else before


def _writes_pair(template: Renderer, think: Think, tail_no_think: Ids | None) -> bool:
    """Whether an earlier answer without reasoning begins like the no-thinking tail, inside a tool loop."""
    if tail_no_think is None or tail_no_think[: len(think.header.ids)] != think.header.ids:
        return False
    if len(tail_no_think) == len(think.header.ids):
        return False
    for call, result in tool_messages({}):
        if (render := template.try_render([message("user", USER), call, result])) is not None:
            return holds(render.ids, (tail_no_think,))
    return False


def _find_stops(template: Renderer, turns: Turns, tools: Tools) -> Ids:
    source = template.source
    found: list[int] = []
    end = turns.assistant_end if turns.ends_alike else turns.final_end
    if end.strip().ids:
        found += template.last_added(end) if turns.ends_alike else [i for i in end.ids if i in template.added][:1]
    else:
        # A turn that nothing ends: the model stops with the first id of the next one (GLM).
        found += [i for i in turns.user_header.strip().ids[:1] if i in template.added]
    found += tools.stop
    if (eos := source.tokenizer.token_to_id(source.special.get("eos_token", ""))) is not None:
        found.append(eos)
    if not (found := [*found, *source.stop_ids]):
        raise template.refuse("no id is known that ends an answer: the turn end is no added token, no eos_token is set")
    return tuple(dict.fromkeys(found))


def _find_prompt_start(template: Renderer) -> Ids:
    """What all prompts have in common, whoever speaks first, whatever is said, with tools or not, on any day."""
    parameters = {"type": "object", "properties": {"path": {"type": "string", "description": "A path"}}}
    function = {"name": TOOL, "description": "Stripes", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    users = [message("user", text) for text in (USER, USER_2, "\n" + USER, "2 " + USER)]
    systems = [message("system", text) for text in (SYSTEM, USER, "\n" + SYSTEM, "2 " + SYSTEM)]
    days = (datetime(2025, 11, 3), datetime(1999, 2, 28))

    def prompts(render: Callable[..., Region | None]) -> Iterable[Region | None]:
        for messages in [[u] for u in users] + [[s, users[0]] for s in systems]:
            for options in ({}, ON, OFF):
                for offered in (None, tools):
                    for day in days:
                        yield render(messages, generate=True, tools=offered, now=day, **options)

    renders = [r.ids for r in prompts(template.try_render) if r is not None]
    return renders[0][: common_prefix(renders)] if renders else ()
