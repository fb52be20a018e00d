"""Write a dump of captures of any size: agent-like, seeded, quick to make.

    python benches/corpus.py /tmp/A200.jsonl --size 200MB --form A --vocab qwen3 --history mix --seed 1
    python benches/corpus.py /tmp/B200.jsonl --size 200MB --form B --live 8

Form A is one saved CooperBench trajectory a line (`messages[].extra.token_capture`), form B one recorded call a line
({session_id, task_id, agent, turn, started, ended, request, response}, the response as vLLM writes it), `--live`
trajectories interleaved. The ids are not the tokens of the text: their structure is a chat template's, their
frequencies and repeats are calibrated on real code and documentation (about 3.4 digits an id, about 1.2 bytes an id
under zstd-3), and the text has the right length. Same options and seed, same bytes (for one numpy version).

- Histories: `keep` sends think spans back, `strip` never does, `late` drops them at each user message, as Qwen's
  templates do; `mix` is 40 % / 40 % / 20 %. One trajectory in twelve (8 %) drifts once: a few ids of an earlier answer
  are re-tokenised, for good.
- qwen3: the model opens thinking in its output. qwen3.5: the prompt's tail opens it.
- `--sharing off`: every prompt is drawn anew, at the same length; `single`: each trajectory is one call, with one long
  user message. In both no prompt repeats another.
- No output is truncated; the last trajectories of a form B dump are cut off by `--size`.

Needs numpy only. A gigabyte takes some 15 seconds, 60 with `--sharing off`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

NEWLINE, BLANK_LINE = 198, 271


@dataclass(frozen=True)
class Family:
    """The ids of one chat template."""

    words: int  # ordinary ids are below this
    im_start: int
    im_end: int
    system: int
    user: int
    assistant: int
    think: tuple[int, int]
    tool_call: tuple[int, int]
    tool_response: tuple[int, int]
    first_words: tuple[int, ...]  # never newlines: what stands after `</think>\n\n`
    open_tail: bool  # the generation prompt ends in <think> newline
    model: str


FAMILIES = {
    "qwen3": Family(
        words=151643,
        im_start=151644,
        im_end=151645,
        system=8948,
        user=872,
        assistant=77091,
        think=(151667, 151668),
        tool_call=(151657, 151658),
        tool_response=(151665, 151666),
        first_words=(40, 785, 7039, 5338),
        open_tail=False,
        model="hosted_vllm/Qwen/Qwen3-32B",
    ),
    "qwen3.5": Family(
        words=248044,
        im_start=248045,
        im_end=248046,
        system=8678,
        user=846,
        assistant=74455,
        think=(248068, 248069),
        tool_call=(248058, 248059),
        tool_response=(248066, 248067),
        first_words=(40, 760, 30852),
        open_tail=True,
        model="hosted_vllm/Qwen/Qwen3.5-35B-A3B",
    ),
}

REPOS = ("dottxt_ai_outlines_task", "pallets_jinja_task", "huggingface_datasets_task", "go_chi_task", "typst_task")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "bash",
            "description": "Execute a bash command",
            "parameters": {
                "type": "object",
                "properties": {"command": {"type": "string", "description": "The bash command to execute"}},
                "required": ["command"],
            },
        },
    }
]
PROSE = (
    "self return import from def class if else for in not None True False raise ValueError assert test"
    " config cache path file name value data result index length tokens model request response message"
    " agent plan edit module function the a of to and is that we should first then because error line"
    " object list dict str int bytes open read write split merge branch commit patch feature update check"
    " run pytest core utils server client naïve café → 漢字 😀"
)
WORDS = PROSE.split()

CHARS_PER_ID = 3.7  # of the text before escaping


class Lexicon:
    """Where ids and text come from: shared by all trajectories of a dump, a function of vocabulary and seed."""

    DRAWS = 1 << 20  # resolution of the frequency tables
    PHRASES = 1 << 18
    LOCAL = 800  # phrases that a trajectory prefers: its files, its names
    LOCAL_SHARE = 0.6

    def __init__(self, words: int, seed: int, separator: bytes) -> None:
        rng = np.random.default_rng([seed, 0xC0])
        # Rank to id: frequent ids are mostly, not strictly, small ones.
        by_rank = np.argsort(np.log(np.arange(words) + 50.0) + rng.standard_normal(words)).astype(np.int32)
        by_draw = by_rank[zipf(rng, words, 1.25, 30, self.DRAWS)]
        self.lengths = np.minimum(1 + rng.geometric(1 / 3.5, self.PHRASES), 24)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.phrase_ids = by_draw[rng.integers(0, self.DRAWS, int(self.lengths.sum()))]
        self.phrases = zipf(rng, self.PHRASES, 1.05, 15, self.DRAWS)
        self.local_ranks = zipf(rng, self.LOCAL, 0.8, 10, 1 << 14)

        # id -> its decimal text and separator, padded to one width
        texts = [b"%d%s" % (i, separator) for i in range(words + 64)]
        self.width = max(map(len, texts))
        self.digits = np.array(texts, dtype=f"S{self.width}").view(np.uint8).reshape(len(texts), self.width)
        self.is_text = self.digits != 0

        pieces = []
        for i, k in enumerate(rng.integers(0, len(WORDS), 200_000).tolist()):
            pieces.append(WORDS[k])
            pieces.append(('\n    "' if i % 24 == 0 else "\n") if i % 12 == 0 else "()" if i % 17 == 0 else " ")
        # A trap for scanners that are not string-aware.
        trap = 'grep: {"prompt_token_ids": [1, 2, 3], "output_token_ids": [4, 5], "path": "C:\\\\tmp\\\\"}\n'
        pieces[len(pieces) // 2] = trap
        self.text = "".join(pieces)

    def join(self, ids: np.ndarray) -> bytes:
        """The decimal text of ids, each followed by the separator."""
        return self.digits[ids][self.is_text[ids]].tobytes()

    def local(self, rng: np.random.Generator) -> np.ndarray:
        """The phrases that one trajectory prefers."""
        return self.phrases[rng.integers(0, self.DRAWS, self.LOCAL)]

    def ids(self, rng: np.random.Generator, local: np.ndarray, n: int) -> np.ndarray:
        """`n` ordinary ids: a string of phrases, the trajectory's own or any."""
        m = n // 3 + 8
        chosen = self.phrases[rng.integers(0, self.DRAWS, m)]
        near = rng.random(m) < self.LOCAL_SHARE
        chosen[near] = local[self.local_ranks[rng.integers(0, 1 << 14, int(near.sum()))]]
        lengths = self.lengths[chosen]
        ends = np.cumsum(lengths)
        if ends[-1] < n:  # a run of short phrases
            return np.concatenate([self.ids(rng, local, n - n // 2), self.ids(rng, local, n // 2)])
        at = np.arange(ends[-1]) + np.repeat(self.starts[chosen] - (ends - lengths), lengths)
        return self.phrase_ids[at[:n]]

    def prose(self, rng: np.random.Generator, n_ids: int) -> str:
        """Text as long as `n_ids` ids would be."""
        n = int(n_ids * CHARS_PER_ID)
        if n > len(self.text):
            return (self.text * (n // len(self.text) + 1))[:n]
        start = int(rng.integers(0, len(self.text) - n + 1))
        return self.text[start : start + n]


def zipf(rng: np.random.Generator, n: int, s: float, q: float, draws: int) -> np.ndarray:
    """A table such that a uniform pick from it is Zipf-Mandelbrot over `n` ranks."""
    shares = np.cumsum((np.arange(n) + q) ** -s)
    return np.minimum(
        np.searchsorted(shares / shares[-1], (np.arange(draws) + rng.random(draws)) / draws), n - 1
    ).astype(np.int32)


class Json:
    """Compact or default spacing, as bytes."""

    def __init__(self, spacing: str) -> None:
        separators = (",", ":") if spacing == "compact" else (", ", ": ")
        self.item, self.key = (s.encode() for s in separators)
        self.encode: Callable[[object], str] = json.JSONEncoder(separators=separators).encode

    def dump(self, value: object) -> bytes:
        return self.encode(value).encode()

    def object(self, fields: dict[str, bytes]) -> bytes:
        return b"{" + self.item.join(b'"%s"%s%s' % (k.encode(), self.key, v) for k, v in fields.items()) + b"}"

    def array(self, items: list[bytes]) -> bytes:
        return b"[" + self.item.join(items) + b"]"


@dataclass
class Answer:
    """One answer as it stands in later prompts."""

    at: int  # its place among the prompt's pieces
    think: np.ndarray  # what strip takes away, opener included
    rest: np.ndarray
    kept: bool


@dataclass
class Turn:
    number: int
    prompt: bytes  # ids as text, without brackets
    prompt_len: int
    output: bytes
    output_len: int
    think_len: int
    reasoning: str
    content: str
    call: dict | None  # the tool call
    started: float
    ended: float
    before: list[dict] = field(default_factory=list)  # messages since the last answer


class Trajectory:
    """The calls of one agent on one task."""

    def __init__(self, number: int, lexicon: Lexicon, family: Family, options: argparse.Namespace) -> None:
        self.number, self.lexicon, self.family = number, lexicon, family
        self.rng = np.random.default_rng([options.seed, number])
        self.local = lexicon.local(self.rng)
        self.separator = len(Json(options.spacing).item)
        self.history = options.history
        if self.history == "mix":
            self.history = ("keep", "keep", "strip", "strip", "late")[int(self.rng.integers(5))]
        self.agent = f"agent{1 + number % 2}"
        self.repo = REPOS[number % len(REPOS)]
        first, last = self.rng.uniform(2000, 5500), self.rng.uniform(16_000, 32_000)
        self.turns = int(self.rng.integers(20, 101))
        growth = (last - first) / self.turns
        self.output_mean = float(np.clip(growth * 0.95, 95, 268))
        self.redraws = options.sharing == "off"
        if options.sharing == "single":
            first, self.turns = first + (last - first) * self.rng.random(), 1
        sent_back = self.output_mean * (1.0 if self.history == "keep" else 0.44)
        self.reply_mean = max(16.0, growth - sent_back - 16)
        self.first = int(first)
        self.drifts_at = int(self.rng.integers(1, self.turns)) if self.turns > 1 and self.rng.random() < 0.08 else -1
        self.clock = 1_795_000_000.0 + number * 3600
        # The prompt so far: pieces of text that end in a separator, and how many ids each has.
        self.pieces: list[bytes] = []
        self.counts: list[int] = []
        self.answers: list[Answer] = []  # since the last user message, or all of them
        self.frozen: list[Answer] = []  # those before it
        self.last_user = 0  # its place among the pieces
        self.messages: list[dict] = []

    def words(self, n: int) -> np.ndarray:
        return self.lexicon.ids(self.rng, self.local, n)

    def add(self, ids: np.ndarray) -> None:
        self.pieces.append(self.lexicon.join(ids))
        self.counts.append(len(ids))

    def say(self, role: int, n: int, wrap: tuple[int, int] | None = None) -> None:
        """A turn that is not the model's enters the prompt."""
        f = self.family
        head, tail = [f.im_start, role, NEWLINE], [f.im_end, NEWLINE]
        if wrap:
            head, tail = [*head, wrap[0], NEWLINE], [NEWLINE, wrap[1], *tail]
        body = self.words(max(1, n - len(head) - len(tail)))
        self.add(np.concatenate([np.array(head), body, np.array(tail)]))

    def answer_ids(self, answer: Answer) -> np.ndarray:
        f = self.family
        head, end = np.array([f.im_start, f.assistant, NEWLINE]), np.array([NEWLINE])
        empty = [f.think[0], BLANK_LINE, f.think[1], BLANK_LINE] if f.open_tail and self.history == "strip" else []
        think = answer.think if answer.kept else np.array(empty if answer.at > self.last_user else [], dtype=np.int64)
        return np.concatenate([head, think, answer.rest, end])

    def write(self, answer: Answer) -> None:
        ids = self.answer_ids(answer)
        self.pieces[answer.at], self.counts[answer.at] = self.lexicon.join(ids), len(ids)

    def new_user(self, n: int, text: str) -> None:
        """A user message: where histories are not kept, it takes the think blocks before it away."""
        self.last_user = len(self.pieces)
        self.say(self.family.user, n)
        self.messages.append({"role": "user", "content": text})
        if self.history == "late" or (self.history == "strip" and self.family.open_tail):
            for answer in self.answers:
                answer.kept = False
                self.write(answer)
            self.frozen, self.answers = [*self.frozen, *self.answers], []

    def drift(self) -> None:
        """Re-tokenise two ids of an earlier answer into one, or one into two."""
        answers = [*self.frozen, *self.answers]
        answer = answers[-1] if self.rng.random() < 0.5 else answers[int(self.rng.integers(len(answers)))]
        at = len(answer.rest) // 2
        new = self.words(2)
        if self.rng.random() < 0.5:
            answer.rest = np.concatenate([answer.rest[:at], new[:1], answer.rest[at + 2 :]])
        else:
            answer.rest = np.concatenate([answer.rest[:at], new, answer.rest[at + 1 :]])
        self.write(answer)

    def redrawn(self) -> bytes:
        """A prompt as long as this one, but for the tail, that shares nothing with it."""
        f = self.family
        system = [f.im_start, f.system, NEWLINE, *self.words(self.counts[0] - 5), f.im_end, NEWLINE]
        user = [f.im_start, f.user, NEWLINE, *self.words(sum(self.counts[1:]) - 5), f.im_end, NEWLINE]
        return self.lexicon.join(np.array(system + user))

    def __iter__(self) -> Iterator[Turn]:
        f, rng, prose = self.family, self.rng, self.lexicon.prose
        system = self.first // 2
        self.say(f.system, system)
        self.messages.append({"role": "system", "content": prose(rng, system)})
        self.new_user(self.first - system, prose(rng, self.first - system))
        tail = [f.im_start, f.assistant, NEWLINE, *([f.think[0], NEWLINE] if f.open_tail else [])]
        tail_text = self.lexicon.join(np.array(tail))[: -self.separator]
        for number in range(self.turns):
            if number == self.drifts_at:
                self.drift()
            output_len = int(np.clip(self.output_mean * rng.lognormal(-0.125, 0.5), 40, 1500))
            final = number == self.turns - 1 > 0
            think, rest, said = self.sample(output_len, final)
            opened = think[2:] if f.open_tail else think
            sampled = np.concatenate([opened, rest])
            call = None
            if not final:
                command = prose(rng, len(rest) - said - 12 if len(rest) > said + 13 else 1)
                call = {
                    "id": f"chatcmpl-tool-{int(rng.integers(1 << 62)):016x}",
                    "type": "function",
                    "function": {"name": "bash", "arguments": json.dumps({"command": command})},
                }
            before, self.messages = self.messages, []
            started = self.clock
            self.clock += float(rng.uniform(1, 20))
            yield Turn(
                number=number,
                prompt=(self.redrawn() if self.redraws else b"".join(self.pieces)) + tail_text,
                prompt_len=sum(self.counts) + len(tail),
                output=self.lexicon.join(sampled)[: -self.separator],
                output_len=len(sampled),
                think_len=len(opened),
                reasoning="\n" + prose(rng, len(think) - 5) + "\n",
                content=prose(rng, said) if said else "",
                call=call,
                started=started,
                ended=self.clock,
                before=before,
            )
            answer = Answer(len(self.pieces), think, rest, self.history != "strip")
            self.pieces.append(b"")
            self.counts.append(0)
            self.write(answer)
            self.answers.append(answer)
            if number == self.turns - 1:
                return
            n = int(np.clip(self.reply_mean * rng.lognormal(-0.5, 1.0), 14, 6000))
            self.say(f.user, n, f.tool_response)
            # JSON text inside a JSON string, as CooperBench writes observations.
            observation = json.dumps({"returncode": int(rng.random() < 0.1), "output": prose(rng, int(n * 0.85))})
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": observation})
            if rng.random() < 0.1:
                n = int(rng.integers(20, 90))
                self.new_user(n, f"[Message from agent{2 - self.number % 2}]: " + prose(rng, n))
            self.clock += float(rng.uniform(0.1, 5))

    def sample(self, n: int, last: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """An output: its think span with opener and what follows, and how many ids of that are plain text."""
        f, rng = self.family, self.rng
        n_think = max(8, round(n * 0.56))
        # Of 3.5 the opener and its newline stand in the prompt: they are not part of the output's share.
        inner = self.words(n_think - (3 if f.open_tail else 5))
        think = np.concatenate([[f.think[0], NEWLINE], inner, [NEWLINE, f.think[1], BLANK_LINE]])
        left = max(12, n - n_think)
        said = left - 1 if last else 0 if rng.random() < 0.1 else max(2, left // 3)
        parts = []
        if said:
            first = f.first_words[int(rng.integers(len(f.first_words)))]
            parts += [[first], self.words(said - 1)] if said > 1 else [[first]]
        if not last:
            call = self.words(max(1, left - said - 6))
            parts += [[NEWLINE]] if said else []
            parts += [[f.tool_call[0], NEWLINE], call, [NEWLINE, f.tool_call[1]]]
        return think, np.concatenate([*parts, [f.im_end]]), said


class Logprobs:
    """Ready-made entries to pick from."""

    def __init__(self, out: Json, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x10])
        values = -rng.exponential(0.4, 2048)
        self.rounded = [b"%.6f" % v for v in values.tolist()]
        self.entries = [
            out.dump({"token": w, "logprob": v, "bytes": list(w.encode()), "top_logprobs": []})
            for v, w in zip(values.tolist(), rng.choice(WORDS, 2048).tolist(), strict=True)
        ]

    def pick(self, rng: np.random.Generator, bank: list[bytes], n: int) -> list[bytes]:
        return [bank[i] for i in rng.integers(0, len(bank), n).tolist()]


def assistant_message(turn: Turn, resend: bool) -> dict:
    message: dict = {"role": "assistant", "content": turn.content}
    if resend:
        message["reasoning_content"] = turn.reasoning
    if turn.call:
        message["tool_calls"] = [turn.call]
    return message


def form_a(trajectory: Trajectory, out: Json, logprobs: Logprobs | None) -> bytes:
    """One saved trajectory, a line."""
    messages: list[bytes] = []
    steps = 0
    for turn in trajectory:
        messages += map(out.dump, turn.before)
        capture = {
            "prompt_token_ids": b"[" + turn.prompt + b"]",
            "output_token_ids": b"[" + turn.output + b"]",
        }
        if logprobs:
            capture["output_logprobs"] = out.array(logprobs.pick(trajectory.rng, logprobs.rounded, turn.output_len))
        extra = {"token_capture": out.object(capture), "timestamp": out.dump(turn.ended)}
        message = {"role": b'"assistant"', "content": out.dump(turn.content)}
        if turn.call:
            command = json.loads(turn.call["function"]["arguments"])["command"]
            extra["actions"] = out.dump([{"tool_name": "bash", "tool_call_id": turn.call["id"], "command": command}])
        message["extra"] = out.object(extra)
        message["reasoning_content"] = out.dump(turn.reasoning)
        if turn.call:
            message["tool_calls"] = out.dump([turn.call])
        messages.append(out.object(message))
        steps += 1
    head = {
        "repo": trajectory.repo,
        "task_id": trajectory.number,
        "feature_id": 1 + trajectory.number % 2,
        "agent_id": trajectory.agent,
        "model": trajectory.family.model,
        "status": "Submitted",
        "cost": 0.0,
        "steps": steps,
    }
    return out.object({**{k: out.dump(v) for k, v in head.items()}, "messages": out.array(messages)}) + b"\n"


def form_b(trajectory: Trajectory, out: Json, logprobs: Logprobs | None) -> Iterator[bytes]:
    """The recorded calls of one trajectory, a line each."""
    rng, model = trajectory.rng, trajectory.family.model.removeprefix("hosted_vllm/")
    messages: list[bytes] = []
    for turn in trajectory:
        messages += map(out.dump, turn.before)
        request = {
            "model": out.dump(model),
            "messages": out.array(messages),
            "tools": out.dump(TOOLS),
            "max_tokens": b"4096",
            "temperature": b"0.7",
            "seed": out.dump(turn.number),
            "return_token_ids": b"true",
        }
        reply: dict = {
            "role": "assistant",
            "content": turn.content or None,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if turn.call:
            reply["tool_calls"] = [turn.call]
        reply["reasoning"] = turn.reasoning
        scores = b"null"
        if logprobs:
            request["logprobs"] = b"true"
            scores = out.object({"content": out.array(logprobs.pick(rng, logprobs.entries, turn.output_len))})
        choice = {
            "index": b"0",
            "message": out.dump(reply),
            "logprobs": scores,
            "finish_reason": b'"tool_calls"' if turn.call else b'"stop"',
            "stop_reason": b"null",
            "token_ids": b"[" + turn.output + b"]",
            "routed_experts": b"null",
        }
        usage = {
            "prompt_tokens": turn.prompt_len,
            "total_tokens": turn.prompt_len + turn.output_len,
            "completion_tokens": turn.output_len,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": turn.think_len - 2},
        }
        response = {
            "id": b'"chatcmpl-%016x"' % int(rng.integers(1 << 62)),
            "object": b'"chat.completion"',
            "created": out.dump(int(turn.started)),
            "model": out.dump(model),
            "choices": out.array([out.object(choice)]),
            "service_tier": b"null",
            "system_fingerprint": b'"vllm-0.32.0-442478e6"',
            "usage": out.dump(usage),
            "prompt_logprobs": b"null",
            "prompt_token_ids": b"[" + turn.prompt + b"]",
            "prompt_text": b"null",
            "kv_transfer_params": b"null",
            "ec_transfer_params": b"null",
            "metrics": b"null",
        }
        head = {
            "session_id": f"pair{trajectory.number // 2}/{trajectory.agent}",
            "task_id": f"{trajectory.repo}/{trajectory.number // 2}",
            "agent": trajectory.agent,
            "turn": turn.number,
            "started": turn.started,
            "ended": turn.ended,
        }
        line = {
            **{k: out.dump(v) for k, v in head.items()},
            "request": out.object(request),
            "response": out.object(response),
        }
        yield out.object(line) + b"\n"
        messages.append(out.dump(assistant_message(turn, resend=trajectory.history != "strip")))


def lines(options: argparse.Namespace) -> Iterator[bytes]:
    """The dump, line by line, without end."""
    out = Json(options.spacing)
    family = FAMILIES[options.vocab]
    lexicon = Lexicon(family.words, options.seed, out.item)
    logprobs = Logprobs(out, options.seed) if options.logprobs else None
    if options.form == "A":
        number = 0
        while True:
            yield form_a(Trajectory(number, lexicon, family, options), out, logprobs)
            number += 1
    rng = np.random.default_rng([options.seed, 0xB])
    live: list[Iterator[bytes]] = []
    number = 0
    while True:
        while len(live) < options.live:
            live.append(form_b(Trajectory(number, lexicon, family, options), out, logprobs))
            number += 1
        which = int(rng.integers(len(live)))
        line = next(live[which], None)
        if line is None:
            live.pop(which)
        else:
            yield line


def write(file: BinaryIO, options: argparse.Namespace) -> int:
    """Lines until the size is reached; the bytes written."""
    done = 0
    for line in lines(options):
        file.write(line)
        done += len(line)
        if done >= options.size:
            return done
    raise AssertionError("lines() does not end")


def size(text: str) -> int:
    """`200MB` -> 200_000_000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r} (write 200MB, 1GB)")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", metavar="OUT", help="the file to write; - is stdout")
    p.add_argument("--size", type=size, default=size("200MB"))
    p.add_argument("--form", choices=("A", "B"), default="A")
    p.add_argument("--vocab", choices=tuple(FAMILIES), default="qwen3")
    p.add_argument("--history", choices=("mix", "keep", "strip", "late"), default="mix")
    p.add_argument("--sharing", choices=("on", "off", "single"), default="on")
    p.add_argument("--spacing", choices=("compact", "default"), default="compact")
    p.add_argument("--logprobs", action="store_true")
    p.add_argument("--live", type=int, default=8, help="form B: trajectories interleaved")
    p.add_argument("--seed", type=int, default=1)
    return p


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.out == "-":
        write(sys.stdout.buffer, options)
    else:
        with open(options.out, "wb", buffering=1 << 20) as file:
            done = write(file, options)
        print(f"{options.out}: {done:,} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
