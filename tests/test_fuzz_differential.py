"""Captures in any spelling that strict JSON allows: the core reads from the bytes what Python's own json reads."""

import json
import string
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tito import _core as core

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

LARGEST = 2**31 - 1
SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
KNOWN = ("prompt_ids", "input_ids", "output_ids", "token_ids", "choices", "messages", "metadata", "logprobs", "extra")

ids = st.lists(st.one_of(st.integers(0, 300), st.integers(0, LARGEST)), max_size=30)
not_an_id = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=LARGEST + 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts, ids),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(texts, st.sampled_from(KNOWN)), inner, max_size=4)
    ),
    max_leaves=12,
)
# Names that no format reads, so that what stands under them must not matter.
unknown = st.text(string.ascii_letters, min_size=1, max_size=6).map("x-".__add__)
extras = st.dictionaries(unknown, junk, max_size=3)


class Spelling:
    """Writes a value as JSON, choosing white space, escapes and the order of keys."""

    def __init__(self, draw, multiline):
        self.dice = draw(st.randoms(use_true_random=False))
        # An object at the very start of a line would pass for the next record of a file of lines.
        self.blanks = ["", "", " ", "\t", "  ", "\r"] + (["\n ", "\n    "] if multiline else [])

    def gap(self):
        return self.dice.choice(self.blanks)

    def text(self, value):
        written = []
        for char in value:
            code = ord(char)
            must = char in '"\\' or code < 0x20
            way = self.dice.randrange(8)
            if way == 0 or (must and (char not in SHORT or way < 4)):
                units = char.encode("utf-16-be")
                pairs = (units[i : i + 2].hex() for i in range(0, len(units), 2))
                written += ["\\u" + (pair.upper() if self.dice.random() < 0.5 else pair) for pair in pairs]
            elif must:
                written.append(SHORT[char])
            else:
                written.append("\\/" if char == "/" and way == 1 else char)
        return '"' + "".join(written) + '"'

    def value(self, value):
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            entries = list(value.items())
            self.dice.shuffle(entries)
            parts = [f"{self.gap()}{self.text(k)}{self.gap()}:{self.gap()}{self.value(v)}" for k, v in entries]
            return "{" + f"{self.gap()},".join(parts) + self.gap() + "}"
        if isinstance(value, list):
            return "[" + f"{self.gap()},".join(self.gap() + self.value(v) for v in value) + self.gap() + "]"
        return json.dumps(value)


@st.composite
def growing(draw):
    """Lists of ids, most of which begin like an earlier one: what the reader does not parse twice."""
    lists = []
    for new in draw(st.lists(ids, min_size=1, max_size=6)):
        if lists and draw(st.booleans()):
            earlier = draw(st.sampled_from(lists))
            new = earlier[: draw(st.integers(0, len(earlier)))] + new
        lists.append(new)
    return lists


@st.composite
def native_lines(draw):
    lines = []
    for prompt in draw(growing()):
        record = {draw(st.sampled_from(["prompt_ids", "input_ids"])): prompt, "output_ids": draw(ids)}
        for key in list(record):
            if draw(st.integers(0, 9)) == 0:
                record[key] = draw(st.one_of(st.none(), not_an_id.map(lambda entry, k=key, r=record: [*r[k], entry])))
        who = {"call_id": draw(texts), "agent": draw(texts), "turn": draw(st.integers(0, 99))}
        record |= {"metadata": who | draw(extras)} if draw(st.booleans()) else who
        lines.append(Spelling(draw, multiline=False).value(record | draw(extras)))
    return lines


@st.composite
def trajectories(draw):
    messages = []
    for prompt in draw(growing()):
        capture = {"prompt_token_ids": prompt, "output_token_ids": draw(ids)}
        extra = draw(extras) | {"token_capture": capture | draw(extras)}
        messages.append({"role": "user", "content": draw(texts)} | draw(extras))
        messages.append({"role": "assistant", "content": draw(texts), "extra": extra} | draw(extras))
    document = {"agent_id": "agent1", "feature_id": 1, "messages": messages}
    return Spelling(draw, multiline=True).value(document | draw(extras))


@st.composite
def replies(draw):
    choices = [
        {"index": i, "message": {"content": draw(texts)} | draw(extras), "token_ids": draw(ids)} | draw(extras)
        for i in range(draw(st.integers(1, 3)))
    ]
    reply = {"object": "chat.completion", "id": draw(texts), "choices": choices, "prompt_token_ids": draw(ids)}
    return Spelling(draw, multiline=True).value(reply | draw(extras))


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("captures"), count()

    def read(text):
        path = folder / str(next(numbers))
        path.write_bytes(text.encode())
        try:
            return core.call_ids(str(path), limit=1000)
        finally:
            path.unlink()

    return read


def same_ids(array, expected):
    return array is None if expected is None else array is not None and array.tolist() == expected


def is_list_of_ids(value):
    return value is None or all(type(entry) is int and 0 <= entry <= LARGEST for entry in value)


@MANY
@given(lines=native_lines())
def test_native_lines(read, lines):
    calls = read("\n".join(lines))
    assert len(calls) == len(lines)
    for number, (call, line) in enumerate(zip(calls, lines, strict=True), start=1):
        record = json.loads(line)
        prompt, output = record.get("prompt_ids", record.get("input_ids")), record["output_ids"]
        who = record.get("metadata", record)
        assert call["record"] == number
        assert (call["call_id"], call["agent"]) == (who["call_id"] or None, who["agent"] or None)
        assert call["turn"] == who["turn"]
        if is_list_of_ids(prompt) and is_list_of_ids(output):
            assert call["bad"] is None
            assert same_ids(call["prompt_ids"], prompt)
            assert same_ids(call["output_ids"], output)
        else:
            assert call["bad"] is not None


@MANY
@given(text=trajectories())
def test_trajectories(read, text):
    messages = [m for m in json.loads(text)["messages"] if m["role"] == "assistant"]
    calls = read(text)
    assert [call["turn"] for call in calls] == list(range(len(messages)))
    for call, message in zip(calls, messages, strict=True):
        capture = message["extra"]["token_capture"]
        assert call["bad"] is None
        assert same_ids(call["prompt_ids"], capture["prompt_token_ids"])
        assert same_ids(call["output_ids"], capture["output_token_ids"])


@MANY
@given(text=replies())
def test_replies(read, text):
    reply = json.loads(text)
    calls = read(text)
    for call, choice in zip(calls, reply["choices"], strict=True):
        assert call["bad"] is None
        assert call["call_id"] == reply["id"]
        assert same_ids(call["prompt_ids"], reply["prompt_token_ids"])
        assert same_ids(call["output_ids"], choice["token_ids"])
