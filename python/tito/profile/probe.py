"""What a chat template does, found by rendering it and comparing the renders.

Small conversations made of words that no template holds are rendered and tokenised; a marker is what stands between two
such words, or what two renders have in common. Cuts fall between ids, never inside one: an id that covers both scaffold
and content (`" Answer"`) belongs to the content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tito.profile.errors import ProfileError
from tito.profile.source import Source, newline_ids, template_hash, tokenizer_hash
from tito.profile.template import ChatTemplate, Message

Ids = tuple[int, ...]

_USER, _USER_2, _ASSISTANT, _SYSTEM = "Quokka", "Walrus", "Ibex", "Ferret"
_REASON, _TOOL, _ARGUMENT, _RESULT = "Narwhal", "zebrafy", "Okapi", "Lemur"

# The switches that templates have for thinking; a template ignores what it does not know.
_ON, _OFF = {"enable_thinking": True, "thinking": True}, {"enable_thinking": False, "thinking": False}

# Spellings to try where a template shows no reasoning of its own: does it treat text between them as thinking?
_SPELLINGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)

# What may stand around a marker that the tokenizer writes as ordinary ids, and grow together with it.
_BEFORE = ("", "\n", "word", "word.", "word\n", "word.\n", "word ", "word)", 'word"', "word`")
_BEHIND = ("", "\n", "\n\n", "Word", " word", "<", "{")

_TAG = re.compile(r"(<[^<>\s]+>|\[[A-Z_/]+\])")
_HINT = "write the profile by hand (start from a built-in one) or give the template the model was served with"


@dataclass(frozen=True)
class Region:
    """A stretch of a render: some of its ids, and the text that they cover."""

    text: str
    ids: Ids
    spans: tuple[tuple[int, int], ...]
    """Where each id's text lies in `text`, half-open."""

    def cut(self, start: int, end: int | None = None) -> Region:
        """The ids from number `start` up to `end`, with the text from the first one's start to the last one's end."""
        ids, spans = self.ids[start:end], self.spans[start:end]
        if not ids:
            return Region("", (), ())
        low, high = spans[0][0], spans[-1][1]
        return Region(self.text[low:high], ids, tuple((a - low, b - low) for a, b in spans))

    def within(self, low: int, high: int) -> Region:
        """The ids that lie wholly in the text's `[low, high)`."""
        inside = [n for n, (a, b) in enumerate(self.spans) if a >= low and b <= high]
        return self.cut(inside[0], inside[-1] + 1) if inside else self.cut(0, 0)

    def strip(self) -> Region:
        """Without the ids at either end whose text is only white space."""
        solid = [n for n, (a, b) in enumerate(self.spans) if self.text[a:b].strip()]
        return self.cut(solid[0], solid[-1] + 1) if solid else self.cut(0, 0)

    def find_last(self, ids: Ids) -> int:
        """Where `ids` begin in these ids, for the last time; -1 when they do not."""
        return max((n for n in range(len(self.ids) - len(ids) + 1) if self.ids[n : n + len(ids)] == ids), default=-1)


class _Template:
    """A template and tokenizer that render and tokenise probes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.template = ChatTemplate(source.chat_template, source.special)
        added = source.tokenizer.get_added_tokens_decoder()
        self.added = frozenset(added)
        self.special = frozenset(i for i, token in added.items() if token.special)
        self.in_parts = False

    def refuse(self, what: str) -> ProfileError:
        return ProfileError(f"{self.source.name}: {what}", _HINT)

    def render(self, messages: Sequence[Message], **options: Any) -> Region:
        if self.in_parts:
            messages = [
                {**m, "content": [{"type": "text", "text": m["content"]}]} if isinstance(m["content"], str) else m
                for m in messages
            ]
        return self.encode(self.template.render(messages, **options))

    def try_render(self, messages: Sequence[Message], **options: Any) -> Region | None:
        """A render, or None when the template does not know such conversations."""
        try:
            return self.render(messages, **options)
        except Exception:  # whatever template code raises
            return None

    def encode(self, text: str) -> Region:
        encoding = self.source.tokenizer.encode(text, add_special_tokens=False)
        return Region(text, tuple(encoding.ids), tuple(encoding.offsets))

    def stray_think(self, known: set[int]) -> Ids:
        """Added tokens called something with "think" that are in no marker: Instruct models carry them unused."""
        added = self.source.tokenizer.get_added_tokens_decoder()
        return tuple(sorted(i for i, t in added.items() if "think" in t.content.lower() and i not in known))

    def last_added(self, region: Region) -> Ids:
        """The last added token of a region, as a sequence of one or none."""
        return tuple(i for i in region.ids if i in self.added)[-1:]


def _message(role: str, content: str | None, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def _reasoning(text: str) -> dict[str, object]:
    """Reasoning under each name that templates read it from."""
    return {"reasoning_content": text, "reasoning": text, "thinking": text}


def _between(render: Region, left: str | None, right: str | None) -> Region | None:
    """What stands between two words (None: the text's end); None where they are not there in this order."""
    low, high = 0, len(render.text)
    if left is not None:
        if (at := render.text.rfind(left)) < 0:
            return None
        low = at + len(left)
    if right is not None and (high := render.text.find(right, low)) < 0:
        return None
    return render.within(low, high)


def _common(sequences: Iterable[Ids]) -> int:
    """Length of the longest common prefix."""
    length = 0
    for column in zip(*sequences, strict=False):
        if any(i != column[0] for i in column):
            break
        length += 1
    return length


def _unique(sequences: Iterable[Ids]) -> tuple[Ids, ...]:
    """Each sequence once, empty ones left out, the longest first, else in the order found."""
    return tuple(sorted(dict.fromkeys(s for s in sequences if s), key=len, reverse=True))


@dataclass(frozen=True)
class _Turns:
    """The scaffold of plain conversations."""

    user_end: Region
    header: Region
    """What opens an assistant turn in every render; think markers that every render has are still in it."""
    assistant_end: Region
    final_end: Region
    """What follows an answer that is the last message."""
    ends_alike: bool
    """Whether a final answer ends as one amid the conversation does (in harmony it does not)."""
    user_header: Region


@dataclass(frozen=True)
class _Think:
    """How thinking is marked; all empty where the template shows none."""

    open: tuple[Ids, ...]
    close: tuple[Ids, ...]
    texts: tuple[list[str], list[str]]
    """What openers and closers look like."""
    lone_close: bool
    header: Region
    """The assistant header without think markers."""


@dataclass(frozen=True)
class _Tools:
    """What tool calls add; empty where the template knows none."""

    open: tuple[Ids, ...]
    turn_start: tuple[Ids, ...]
    turn_end: tuple[Ids, ...]
    stop: Ids
    assistant_start: tuple[Ids, ...]


def derive(source: Source) -> dict[str, Any]:
    """The fields of a `Profile`, by name. `ProfileError` for a template that is not understood."""
    template = _Template(source)
    turns = _find_turns(template)
    think = _find_think(template, turns)
    tail_think, tail_no_think = _find_tails(template, turns, think)
    starts = _find_turn_starts(template, turns, think)
    tools = _find_tools(template, turns, think, starts)

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
        "turn_start": _unique([*starts, *tools.turn_start]),
        "assistant_start": _unique([think.header.ids, *tools.assistant_start]),
        "turn_end": _unique([*ends, *tools.turn_end]),
        "stop_ids": _find_stops(template, turns, tools),
        "prompt_start": _find_prompt_start(template),
        "tail_think": tail_think,
        "tail_no_think": tail_no_think,
        "history_pair": _writes_pair(template, think, tail_no_think),
        "tokenizer_hash": tokenizer_hash(source.tokenizer),
        "template_hash": template_hash(source.chat_template),
    }


def _find_turns(template: _Template) -> _Turns:
    user, answer, more = _message("user", _USER), _message("assistant", _ASSISTANT), _message("user", _USER_2)
    asked = _plain(template, [user])
    talk = _plain(template, [user, answer, more])
    prompt = _plain(template, [user], generate=True)
    ended = _plain(template, [user, answer])

    after_user, to_answer = _between(asked, _USER, None), _between(talk, _USER, _ASSISTANT)
    generation, after_answer = _between(prompt, _USER, None), _between(ended, _ASSISTANT, None)
    to_user = _between(talk, _ASSISTANT, _USER_2)
    if after_user is None or to_answer is None or to_user is None or generation is None or after_answer is None:
        raise template.refuse("the chat template does not show what user and assistant say")

    end = _common([after_user.ids, to_answer.ids])
    if end < len(after_user.ids) and to_answer.text.startswith(after_user.text):
        raise template.refuse(f"one id covers the end of {after_user.text!r} and the start of the header behind it")
    if not to_answer.cut(end).text.strip():
        end = 0  # [INST] style: what closes the user's turn is all that opens the answer
    user_end = to_answer.cut(0, end)
    opened = to_answer.cut(end)
    found = (_generation_tail(template, user_end.ids, opened, options) for options in ({}, _ON, _OFF))
    tails = [tail for tail in found if tail is not None]
    if generation.ids[:end] != user_end.ids or not tails:
        raise template.refuse(_no_header(generation.text, to_answer.text))
    header = opened.cut(0, _common([opened.ids, *(tail.ids for tail in tails)]))
    if not header.text.strip():
        raise template.refuse(_no_header(generation.text, to_answer.text))

    common = _common([after_answer.ids, to_user.ids])
    ends_alike = common > 0 or not after_answer.text.strip()
    if common == 0 and end and to_user.ids[:end] == user_end.ids:
        common = end
    return _Turns(user_end, header, to_user.cut(0, common), after_answer, ends_alike, to_user.cut(common))


def _no_header(generation: str, history: str) -> str:
    return (
        f"no assistant header: the generation prompt has {generation!r} behind the user's text, "
        f"a conversation has {history!r} before the answer"
    )


def _plain(template: _Template, messages: Sequence[Message], **options: Any) -> Region:
    """A render that every template must give; a template that wants content in parts is found here."""
    error: Exception | None = None
    for in_parts in (template.in_parts, True):
        template.in_parts = in_parts
        try:
            render = template.render(messages, **options)
        except Exception as e:  # whatever template code raises
            error = error or e
            continue
        if all(str(m["content"]) in render.text for m in messages):
            return render
    if error is not None:
        raise template.refuse(f"the chat template fails on a plain conversation: {error}")
    raise template.refuse("the chat template does not show what user and assistant say")


def _generation_tail(
    template: _Template, user_end: Ids, opened: Region, options: dict[str, bool], header: Ids | None = None
) -> Region | None:
    """A generation prompt from its assistant header on. Before the header is known: from where the history's begins.

    A template may write into the user's text when thinking is off (GLM: `/nothink`), so the header is searched.
    """
    render = template.try_render([_message("user", _USER)], generate=True, **options)
    region = None if render is None else _between(render, _USER, None)
    if region is None:
        return None
    if header is None:
        if region.ids[: len(user_end)] == user_end and region.ids[len(user_end) :][:1] == opened.ids[:1]:
            return region.cut(len(user_end))
        header = opened.ids[:1]
    at = region.find_last(header)
    return None if at < 0 else region.cut(at)


def _find_think(template: _Template, turns: _Turns) -> _Think:
    openers: list[str] = []
    closers: list[str] = []
    header, lone_close = turns.header, True
    for shown, behind in _reasoning_renders(template):
        before = _between(shown, _USER, _REASON)
        after = _between(shown, _REASON, behind)
        if before is None or after is None:
            continue
        at = before.find_last(header.strip().ids)
        if at < 0:
            continue
        opener = before.cut(at + len(header.strip().ids)).strip()
        cut = _swallowed(header, before.cut(at), turns.user_header)
        if cut is not None:
            opener_text, header = cut
        else:
            opener_text = opener.text
        closer = after.strip()
        core = header.strip().ids
        again = next((n for n in range(len(closer.ids)) if closer.ids[n : n + len(core)] == core), -1)
        if again >= 0:
            closer_text, lone_close = closer.cut(0, again + len(core)).text, False
        elif closer.ids[:1] and closer.ids[0] in template.added:
            closer_text = closer.cut(0, 1).text
        else:
            tag = _TAG.match(closer.text)
            closer_text = tag.group() if tag else closer.text
        opener_text, closer_text = (text.rstrip().lstrip("\n") for text in (opener_text, closer_text))
        if not opener_text or not closer_text:
            seen = shown.text[shown.text.rfind(_USER) :]
            raise template.refuse(f"reasoning is rendered without markers around it: {seen!r}")
        openers.append(opener_text)
        closers.append(closer_text)
    if not openers:
        for opener_text, closer_text in _SPELLINGS:
            if _knows(template, turns, opener_text, closer_text):
                openers.append(opener_text)
                closers.append(closer_text)
                if (at := header.text.find(opener_text)) >= 0:
                    header = header.within(0, at)
    return _Think(
        _unique(s for text in dict.fromkeys(openers) for s in _spelled(template, text, cut_left=False)),
        _unique(s for text in dict.fromkeys(closers) for s in _spelled(template, text, cut_left=True)),
        (openers, closers),
        lone_close,
        header,
    )


def _reasoning_renders(template: _Template) -> Iterable[tuple[Region, str]]:
    """Renders in which an answer has reasoning, each with the word that follows it."""
    user, more = _message("user", _USER), _message("user", _USER_2)
    answer = _message("assistant", _ASSISTANT, **_reasoning(_REASON))
    talks: tuple[list[Message], ...] = ([user, answer], [user, answer, more])
    for messages in talks:
        if (render := template.try_render(messages)) is not None:
            yield render, _ASSISTANT
    for call, result in _tool_messages(_reasoning(_REASON)):
        talks = ([user, call], [user, call, result])
        for messages in talks:
            if (render := template.try_render(messages)) is not None:
                yield render, _TOOL


def _swallowed(header: Region, shown: Region, user_header: Region) -> tuple[str, Region] | None:
    """An opener that stands in the header, whole or in part, because all renders have it; None where that is not so.

    `shown` runs from the header to the reasoning. What a user's header has too is no opener.
    """
    tag = max(_TAG.finditer(shown.text), key=lambda found: found.start(), default=None)
    if tag is None or shown.text[tag.end() :].strip() or not 0 < tag.start() < len(header.text):
        return None
    return None if tag.group() in user_header.text else (tag.group(), header.within(0, tag.start()))


def _knows(template: _Template, turns: _Turns, opener: str, closer: str) -> bool:
    """Whether a template treats text between these as thinking: it takes it out, or opens it for the model."""
    tail = _generation_tail(template, turns.user_end.ids, turns.header, _ON)
    if tail is not None and opener in tail.text:
        return True
    talk = [_message("user", _USER), _message("assistant", _ASSISTANT), _message("user", _USER_2)]
    plain = template.try_render(talk)
    talk[1] = _message("assistant", f"{opener}\n{_REASON}\n{closer}\n\n{_ASSISTANT}")
    shown = template.try_render(talk)
    return plain is not None and shown is not None and _REASON not in shown.text and _ASSISTANT in shown.text


def _spelled(template: _Template, marker: str, *, cut_left: bool) -> list[Ids]:
    """The id sequences of a marker: one where the tokenizer bounds it by added tokens, else each that contexts give.

    An id that covers the marker's end and more is taken when that is white space: cutting it loses no text. At the
    marker's start a closer may share its first id with the thinking, which goes with it (`cut_left`).
    """
    alone = template.encode(marker)
    if alone.ids and alone.ids[0] in template.added and alone.ids[-1] in template.added:
        return [alone.ids]
    found = []
    for before in _BEFORE:
        for behind in _BEHIND:
            text = before + marker + behind
            low, high = len(before), len(before) + len(marker)
            whole = template.encode(text)
            held = [n for n, (a, b) in enumerate(whole.spans) if a < high and b > low]
            first, last = whole.spans[held[0]][0], whole.spans[held[-1]][1]
            if text[high:last].strip() or (text[first:low].strip() and not cut_left):
                continue
            found.append(whole.ids[held[0] : held[-1] + 1])
    return found


def _find_tails(template: _Template, turns: _Turns, think: _Think) -> tuple[Ids, Ids | None]:
    core = think.header.strip().ids
    default, on, off = (
        _generation_tail(template, turns.user_end.ids, turns.header, options, core) for options in ({}, _ON, _OFF)
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


def _starts(ids: Ids, marker: tuple[Ids, ...]) -> bool:
    return any(ids[: len(alternative)] == alternative for alternative in marker)


def _holds(ids: Ids, marker: tuple[Ids, ...]) -> bool:
    return any(_starts(ids[n:], marker) for n in range(len(ids)))


def _find_turn_starts(template: _Template, turns: _Turns, think: _Think) -> list[Ids]:
    def start(header: Region) -> Ids:
        solid = header.strip()
        return solid.ids[:1] if solid.ids and solid.ids[0] in template.added else solid.ids

    starts = [start(turns.user_header), start(think.header)]
    user, system = _message("user", _USER), _message("system", _SYSTEM)
    found = _opening(template, [user], _USER), _opening(template, [system, user], _SYSTEM)
    openings = [opening for opening in found if opening is not None]
    shared = _common([opening.ids for opening in openings]) if len(openings) > 1 else 0
    end = turns.user_end.strip().ids
    if openings and end and _holds(openings[0].ids, (end,)):
        shared = 0  # a system turn stands there even when nobody gave one: what is shared is its header (Kimi)
    while shared and not template.added.issuperset(openings[0].ids[:shared]):
        shared -= 1
    for opening in openings:
        # A role that only the first message has, or whose header is another there, shows behind what all begin with.
        if not any(_holds(opening.ids, (known,)) for known in starts if known):
            starts.append(start(opening.cut(shared)))
    return starts


def _opening(template: _Template, messages: Sequence[Message], word: str) -> Region | None:
    """What a render has before a word, the begin-of-text token left out."""
    render = template.try_render(messages)
    before = None if render is None else _between(render, None, word)
    if before is None:
        return None
    bos = template.source.tokenizer.token_to_id(template.source.special.get("bos_token", ""))
    return before.cut(1) if before.ids[:1] == (bos,) else before


def _tool_messages(more: dict[str, object]) -> Iterable[tuple[Message, Message]]:
    """A tool call and its result, in the forms that templates want: arguments as object or text, content or none."""
    result = _message("tool", _RESULT, tool_call_id="abcdef123", name=_TOOL)
    for arguments in ({"path": _ARGUMENT}, f'{{"path": "{_ARGUMENT}"}}'):
        for content in ("", None):
            call = {"id": "abcdef123", "type": "function", "function": {"name": _TOOL, "arguments": arguments}}
            yield _message("assistant", content, tool_calls=[call], **more), result


def _find_tools(template: _Template, turns: _Turns, think: _Think, starts: Sequence[Ids]) -> _Tools:
    user = _message("user", _USER)
    for call, result in _tool_messages({}):
        called = template.try_render([user, call])
        answered = template.try_render([user, call, result])
        prompt = template.try_render([user, call, result], generate=True)
        if called is None or (before := _between(called, _USER, _ARGUMENT)) is None:
            continue
        opener = _tool_opener(template, turns, think, before)
        after = _between(called, _ARGUMENT, None)
        to_result = None if answered is None else _between(answered, _ARGUMENT, _RESULT)
        behind = None if prompt is None else _between(prompt, _RESULT, None)
        if after is None or to_result is None or behind is None:
            return _Tools(opener, (), (), (), ())
        start, end, stop = _tool_turn(template, turns, starts, after, to_result)
        again: Ids = ()
        if behind.find_last(think.header.strip().ids) < 0:
            # The answer goes on behind the result without a header of its own (DeepSeek V3, Gemma 4).
            again = template.last_added(behind)
        return _Tools(opener, (start,), (end,), stop, (again,))
    return _Tools((), (), (), (), ())


def _writes_pair(template: _Template, think: _Think, tail_no_think: Ids | None) -> bool:
    """Whether an earlier answer without reasoning begins like the no-thinking tail, inside a tool loop."""
    if tail_no_think is None or tail_no_think[: len(think.header.ids)] != think.header.ids:
        return False
    if len(tail_no_think) == len(think.header.ids):
        return False
    for call, result in _tool_messages({}):
        if (render := template.try_render([_message("user", _USER), call, result])) is not None:
            return _holds(render.ids, (tail_no_think,))
    return False


def _tool_turn(
    template: _Template, turns: _Turns, starts: Sequence[Ids], after: Region, to_result: Region
) -> tuple[Ids, Ids, Ids]:
    """What opens a tool's turn, and what ends a turn that calls one: a turn end, and the ids it stops with."""
    common = _common([after.ids, to_result.ids])
    close, header = to_result.cut(0, common).strip(), to_result.cut(common).strip()
    opens = header.ids[:1] if header.ids[:1] and header.ids[0] in template.added else ()
    ends = {ids[-1] for ids in (turns.assistant_end.strip().ids, turns.final_end.strip().ids) if ids}
    if close.ids and close.ids[-1] in ends:
        return opens, (), ()
    if any(_starts(header.ids, (known,)) for known in starts if known):
        last = close.ids[-1:] if close.ids and close.ids[-1] in template.added else ()
        if turns.assistant_end.ids:
            return (), last, last  # <|call|> of harmony
        return (), (), ()
    if opens:
        # <|observation|> of GLM: where nothing ends a turn, the model stops with the next one's start.
        return opens, (), () if turns.assistant_end.ids else opens
    if close.ids and close.ids[-1] in template.special:
        return close.ids[-1:], (), close.ids[-1:]  # <|tool_response> of Gemma 4: the template writes it for the model
    return (), (), ()


def _tool_opener(template: _Template, turns: _Turns, think: _Think, before: Region) -> tuple[Ids, ...]:
    """What opens a tool call and no other answer: from its first added token on, else a tag of ordinary ids."""
    core = think.header.strip().ids
    body = before.cut(before.find_last(core) + len(core))
    for closer in think.close:
        if (at := body.find_last(closer)) >= 0:
            body = body.cut(at + len(closer))
    body = body.strip()
    first = next((n for n, i in enumerate(body.ids) if i in template.added), None)
    if first is None:
        tag = _TAG.match(body.text)
        return _unique(_spelled(template, tag.group(), cut_left=False)) if tag else ()
    others = [r.ids for r in _other_answers(template)]
    end = first + 1
    while any(_holds(ids, (body.ids[first:end],)) for ids in others):
        if end == len(body.ids):
            return ()
        end += 1
    if end > first + 1:
        # Not one added token: take the word to its end.
        while end < len(body.ids) and body.ids[end] not in template.added and not _spaced(body, end):
            end += 1
    return (body.ids[first:end],)


def _spaced(region: Region, n: int) -> bool:
    """Whether white space stands at the border before id `n`."""
    border = region.spans[n][0]
    return any(letter.isspace() for letter in region.text[border - 1 : border + 1])


def _other_answers(template: _Template) -> Iterable[Region]:
    """Answers that call no tool, with and without reasoning."""
    user = _message("user", _USER)
    for more in ({}, _reasoning(_REASON)):
        render = template.try_render([user, _message("assistant", _ASSISTANT, **more)])
        if render is not None and (region := _between(render, _USER, None)) is not None:
            yield region


def _find_stops(template: _Template, turns: _Turns, tools: _Tools) -> Ids:
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


def _find_prompt_start(template: _Template) -> Ids:
    """What all prompts have in common, whoever speaks first, whatever is said, with tools or not, on any day."""
    parameters = {"type": "object", "properties": {"path": {"type": "string", "description": "A path"}}}
    function = {"name": _TOOL, "description": "Stripes", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    users = [_message("user", text) for text in (_USER, _USER_2, "\n" + _USER, "2 " + _USER)]
    systems = [_message("system", text) for text in (_SYSTEM, _USER, "\n" + _SYSTEM, "2 " + _SYSTEM)]
    days = (datetime(2025, 11, 3), datetime(1999, 2, 28))

    def prompts(render: Callable[..., Region | None]) -> Iterable[Region | None]:
        for messages in [[u] for u in users] + [[s, users[0]] for s in systems]:
            for options in ({}, _ON, _OFF):
                for offered in (None, tools):
                    for day in days:
                        yield render(messages, generate=True, tools=offered, now=day, **options)

    renders = [r.ids for r in prompts(template.try_render) if r is not None]
    return renders[0][: _common(renders)] if renders else ()
