"""Cutting a section out of messages, written slowly in plain Python: the twin of `--drop-section`.

`without` is the rule about text, `cut_prompt` what becomes of a prompt's ids. Messages are found by looking at ids one
by one, every message is tokenised with the `tokenizers` package, and nothing is remembered.
"""

import re

import reference


def without(text, section):
    """The text of a message's body without the section, as a harness without it would have written it."""
    blocks = re.split(f"((?:{re.escape(section)}\\s*)*{re.escape(section)})", text)
    texts, count = blocks[0::2], text.count(section)
    made = texts[0]
    for at, right in enumerate(texts[1:], 2):
        left_joint, right_joint = joint(space_at_end(made)), joint(space_at_start(right))
        if not made.strip():
            made = made + right[len(right_joint) :]
        elif (not right.strip() and at == len(texts)) or size(right_joint) > size(left_joint):
            made = made.rstrip() + right
        else:
            made = made.rstrip() + left_joint + right[len(right_joint) :]
    return made, count


def inside_word(text, section):
    """Whether a word goes on before or behind the section; scripts from U+2E80 on put no space between words."""

    def joins(at):
        return all(
            c < "\u2e80" and (c.isalnum() or c == "_") for c in (text[at - 1 : at] or " ", text[at : at + 1] or " ")
        )

    found = re.finditer(f"(?:{re.escape(section)}\\s*)*{re.escape(section)}", text)
    return any(joins(match.start()) or joins(match.end()) for match in found)


def space_at_end(text):
    return text[len(text.rstrip()) :]


def space_at_start(text):
    return text[: len(text) - len(text.lstrip())]


def joint(space):
    """What joins two texts: up to the last newline; behind it is the indent of the text that follows."""
    return space[: space.rfind("\n") + 1] if "\n" in space else space


def size(space):
    return space.count("\n"), len(space)


def cut_prompt(ids, section, tokenizer, profile):
    """The prompt without the section, and how each message that held it was cut."""
    starts = reference.matches(ids, profile["turn_start"])
    pieces = [(0, 0, starts[0][0] if starts else len(ids))]
    for at, (start, end) in enumerate(starts):
        pieces.append((start, end, starts[at + 1][0] if at + 1 < len(starts) else len(ids)))
    made, kinds = [], []
    for start, header, end in pieces:
        message = ids[start:end]
        answers = any(message[: len(way)] == list(way) for way in profile["assistant_start"])
        new, kind = (None, None) if answers else cut_message(message, header - start, section, tokenizer, profile)
        made += message if new is None else new
        kinds += [kind] if kind else []
    return made, kinds


def cut_message(message, header, section, tokenizer, profile):
    """(new ids, kind), or (None, None) for a message that does not hold the section."""
    text = tokenizer.decode(message, skip_special_tokens=False)
    if section not in text:
        return None, None
    added = tokenizer.get_added_tokens_decoder()
    special = [token.content for token in added.values() if token.special]
    head = tokenizer.decode(message[:header], skip_special_tokens=False)
    if header and all(len(way) == 1 for way in profile["turn_start"]):
        head += re.match(r"[A-Za-z0-9_]*", text[len(head) :])[0]
    parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text[len(head) :])
    parts[0::2] = [without(part, section)[0] for part in parts[0::2]]
    if header and not any(part.strip() for part in parts[0::2]):
        return [], "whole"
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    assert encode(text) == message, "the twin knows only messages that are what the tokenizer makes of their text"
    new = encode(head + "".join(parts))
    first = next((n for n, (a, b) in enumerate(zip(message, new, strict=False)) if a != b), min(len(message), len(new)))
    room = min(len(message), len(new)) - first
    last = next((n for n in range(room) if message[-1 - n] != new[-1 - n]), room)
    # One cut: nothing new stands between what is left. Of several cuts the core says pure where all lie between ids.
    return new, "pure" if first + last >= len(new) else "reencoded"
