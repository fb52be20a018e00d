"""Dumps for Hypothesis: rollouts as agents make them, written as Python programs write them.

`rollouts` draws what happened (prompts that grow, histories that keep, strip or drop thinking, drift, retries, several
choices, outputs of every thinking shape and ending); `dumps` writes it into files of every format, with the spacing,
key order, unknown keys and broken strings that real files have. Small alphabets, so that ids repeat.
"""

import json
import random
from dataclasses import dataclass, field

from hypothesis import strategies as st

NEWLINE, BLANK_LINE = 198, 271
FORMATS = ("calls", "native", "response", "lines", "documents")
PLACES = ("vllm", "completions", "litellm", "sglang", "output_token_ids", "message", "sglext", "stream")
SHAPES = (
    "plain",
    "think",
    "think",
    "empty pair",
    "closer only",
    "opener only",
    "two closers",
    "two pairs",
    "opener twice",
    "closer in tool call",
    "only thinking",
    "text before",
    "only newlines behind",
)
ENDINGS = ("stop", "stop", "stop", "stop", "other stop", "length", "silent", "stop string", "stop id")


@dataclass(frozen=True)
class Family:
    """The ids of one chat template."""

    name: str
    start: int
    end: int
    other_stop: int
    system: int
    user: int
    assistant: int
    think: tuple
    tool: int
    open_tail: bool

    def tail(self, thinking):
        head = [self.start, self.assistant, NEWLINE]
        if not thinking:
            return [*head, self.think[0], BLANK_LINE, self.think[1], BLANK_LINE]
        return [*head, self.think[0], NEWLINE] if self.open_tail else head


QWEN3 = Family("qwen3", 151644, 151645, 151643, 8948, 872, 77091, (151667, 151668), 151657, False)
QWEN35 = Family("qwen3.5", 248045, 248046, 248044, 8678, 846, 74455, (248068, 248069), 248058, True)


@dataclass
class Call:
    """One choice of a reply."""

    prompt: list
    output: list
    finish: str
    stop_reason: object = None
    stop_token_ids: list = field(default_factory=list)
    kind: str | None = None
    choice: int = 0
    request: int = 0
    turn: int | None = None
    started: float | None = None
    parse_error: bool = False
    logprobs: list | None = None


@dataclass
class Rollout:
    """The calls of one agent, in their order."""

    name: str
    task: str
    agent: str
    calls: list
    reward: float | None = None
    attempt: int | None = None
    gaps: float = 0.0
    """How often a line leaves out its task, agent or attempt."""
    disputed: bool = False
    """Lines say unlike rewards."""

    def __post_init__(self):
        self.ids = self.name
        """What the ids of its replies begin with."""


# What happened


def sampled(dice, family, shape, ending, tail_is_open):
    """(output, finish, stop_reason, stop_token_ids)."""
    opener, closer = family.think

    def words(low=1, high=4):
        return [dice.randint(1000, 1012) for _ in range(dice.randint(low, high))]

    head = [] if tail_is_open and dice.random() < 0.9 else [opener, NEWLINE]
    output = {
        "plain": lambda: words(),
        "think": lambda: [*head, *words(), NEWLINE, closer, BLANK_LINE, *words()],
        "empty pair": lambda: [opener, BLANK_LINE, closer, BLANK_LINE, *words()],
        "closer only": lambda: [*words(), closer, BLANK_LINE, *words()],
        "opener only": lambda: [opener, *words()],
        "two closers": lambda: [*head, *words(), closer, *words(), closer, *words()],
        "two pairs": lambda: [*head, *words(), closer, *words(), opener, *words(), closer, NEWLINE, *words()],
        "opener twice": lambda: [opener, *words(), opener, *words(), closer, *words()],
        "closer in tool call": lambda: [*words(), family.tool, *words(), closer, *words()],
        "only thinking": lambda: [opener, *words(), closer],
        "text before": lambda: [*words(), opener, *words(), closer, *words()],
        "only newlines behind": lambda: [*head, *words(), closer, BLANK_LINE, NEWLINE],
    }[shape]()
    match ending:
        case "stop":
            return [*output, family.end], dice.choice(("stop", "tool_calls")), None, []
        case "other stop":
            return [*output, family.other_stop], "stop", dice.choice((None, family.other_stop)), []
        case "length":
            return output, dice.choice(("length", "tool_calls")), None, []
        case "silent":
            return output, "stop", None, []
        case "stop string":
            return output, "stop", "</answer>", []
        case "stop id":
            named = dice.random() < 0.5
            return [*output, 1099], "stop", None if named else 1099, [1099] if named else []


@st.composite
def rollouts(draw, most_rollouts=4, most_turns=5, clean=False):
    """(family, rollouts). `clean`: every output ends in a stop id and nothing is cut."""
    family = draw(st.sampled_from((QWEN3, QWEN35)))
    dice = random.Random(draw(st.integers(0, 2**32)))
    timed = draw(st.booleans())
    found = []
    for number in range(draw(st.integers(1, most_rollouts))):
        history = draw(st.sampled_from(("keep", "strip", "late")))
        turns = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=most_turns))
        numbered = draw(st.booleans()) or not timed
        with_logprobs = dice.random() < 0.3
        prompt = [family.start, family.system, NEWLINE, 1001, family.end, NEWLINE]
        prompt += [family.start, family.user, NEWLINE, 1002 + number, dice.randint(1000, 1009), family.end, NEWLINE]
        calls, answers, request = [], [], 0
        for turn, shape in enumerate(turns):
            thinking = dice.random() < 0.8
            whole = [*prompt, *(one for answer in answers for one in answer), *family.tail(thinking)]
            retries = 1 + (dice.random() < 0.15)
            for _ in range(retries):
                for choice in range(1 + (dice.random() < 0.1)):
                    ending = "stop" if clean else dice.choice(ENDINGS)
                    tail_is_open = family.open_tail and thinking
                    output, finish, reason, stops = sampled(dice, family, shape, ending, tail_is_open)
                    calls.append(Call(list(whole), output, finish, reason, stops, choice=choice, request=request))
                    call = calls[-1]
                    call.turn = turn if numbered else None
                    call.started = 1.7e9 + request + number * 1e4 if timed else None
                    call.logprobs = [-dice.randint(0, 64) / 8 for _ in output] if with_logprobs else None
                    if not clean and numbered and dice.random() < 0.05:
                        call.output, call.logprobs = [], [] if with_logprobs else None
                request += 1
            kept = calls[-1].output
            if not clean and dice.random() < 0.1:
                calls.append(summary(dice, family, whole, request, timed, number))
                request += 1
            if not clean and dice.random() < 0.1:
                for call in calls:
                    call.parse_error |= call.request == request - 1 and call.kind is None
            if history != "keep":
                kept = without_thinking(kept, family)
            header = [family.start, family.assistant, NEWLINE]
            answers.append([*header, *kept, *([] if kept[-1:] == [family.end] else [family.end]), NEWLINE])
            answers.append([family.start, family.user, NEWLINE, dice.randint(1000, 1012), family.end, NEWLINE])
            if history == "late" and dice.random() < 0.4:
                answers = [without_thinking(answer, family) for answer in answers]
            if dice.random() < 0.1:
                drifting = dice.choice(answers)
                drifting[-3:-2] = [1003, 1004]
        agent = f"agent{1 + number % 2}"
        made = Rollout(f"run{number}/{agent}", f"task/{number // 2}", agent, calls)
        made.reward = dice.choice((None, 0.0, 0.5, 1.0))
        made.attempt = dice.choice((None, 0, 3))
        found.append(made)
    name_anew(found, dice)
    return family, found


def name_anew(rollouts, dice):
    """Sometimes rollouts share a name, and sometimes lines leave out what tells them apart."""
    gaps, shared, disputed = dice.choice((0, 0, 0.3)), dice.random() < 0.25, dice.random() < 0.2
    for number, rollout in enumerate(rollouts):
        rollout.gaps, rollout.disputed = gaps, disputed
        if shared:
            rollout.name = f"run{number // dice.choice((2, 3))}"


def summary(dice, family, prompt, request, timed, number):
    call = Call([*prompt[:-1], 1005, *prompt[-1:]], [1006, family.end], "stop", request=request)
    call.prompt = [*prompt[: -len(family.tail(True))], 1005, *family.tail(True)]
    call.kind = dice.choice(("summariser", "helper"))
    call.started = 1.7e9 + request + number * 1e4 if timed else None
    return call


def without_thinking(ids, family):
    """What a harness that does not send thinking back makes of an answer: cut through the last closer."""
    header = 3 if ids[:1] == [family.start] else 0
    closers = [at for at, one in enumerate(ids) if one == family.think[1]]
    return ids[:header] + ids[closers[-1] + 1 :] if closers else list(ids)


# How it is written

NASTY = (
    float("nan"),
    float("inf"),
    "\udc80 lone",
    "@@BYTES@@",
    'grep: {"prompt_token_ids": [1, 2], "output_ids": [3]}\\" [',
    {"token_ids": [5], "deep": [[[{"prompt_ids": [1]}]]]},
    None,
    True,
    -0.5,
    "\u2028 \\u00e9 é 漢",
    [],
)


class Writer:
    """JSON as some Python program writes it."""

    def __init__(self, dice):
        self.dice = dice
        self.ascii = dice.random() < 0.5
        self.separators = dice.choice(((",", ":"), (", ", ": "), (" , ", " :\t")))
        self.nasty = dice.random() < 0.6

    def line(self, value, indent=None):
        value = self.shuffled(value)
        text = json.dumps(value, ensure_ascii=self.ascii, separators=self.separators, indent=indent)
        return text.encode("utf-8", "surrogatepass").replace(b"@@BYTES@@", b"\xff\xfe\x80")

    def shuffled(self, value):
        """The same with its keys in another order and unknown ones between them."""
        if isinstance(value, list):
            return [self.shuffled(one) for one in value] if value and not isinstance(value[0], int) else value
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        if self.nasty:
            for at in range(self.dice.randint(0, 2)):
                items.append((f"x_{at}é", self.dice.choice(NASTY)))
            self.dice.shuffle(items)
        return {key: self.shuffled(one) if not key.startswith("x_") else one for key, one in items}


def who(rollout, dice):
    found = {dice.choice(("session_id", "rollout_id")): rollout.name, "task_id": rollout.task, "agent": rollout.agent}
    disputed = rollout.disputed and rollout.reward is not None and dice.random() < 0.3
    found |= {"reward": 0.25 if disputed else rollout.reward, "attempt": rollout.attempt}
    left_out = {key for key in ("task_id", "agent", "attempt") if rollout.gaps and dice.random() < rollout.gaps}
    found = {key: None if key in left_out else value for key, value in found.items()}
    return {key: value for key, value in found.items() if value is not None or dice.random() < 0.5}


def facts(call, dice, iso):
    found = {"turn": call.turn, "kind": call.kind, "started": call.started}
    if iso and call.started is not None:
        found["started"] = f"2026-11-21T12:00:{call.request:02d}.500"
    if call.parse_error:
        found["parse_error"] = True
    return {key: value for key, value in found.items() if value is not None}


def reply(calls, name, dice, place):
    """The reply to one request, in the shape of one server (not a stream)."""
    choices = []
    for call in calls:
        choice = {"index": call.choice, "finish_reason": call.finish, "message": {"role": "assistant", "content": "x"}}
        ids = {"token_ids": call.output, "stop_reason": call.stop_reason}
        match place:
            case "vllm":
                choice |= ids
            case "completions":
                choice |= {**ids, "prompt_token_ids": call.prompt, "text": "x"}
            case "litellm":
                choice["provider_specific_fields"] = ids
            case "sglang":
                choice |= {"response_token_ids": call.output, "prompt_token_ids": call.prompt}
                choice |= {} if call.stop_reason is None else {"matched_stop": call.stop_reason}
            case "output_token_ids":
                choice |= {"output_token_ids": call.output, "stop_reason": call.stop_reason}
            case "message":
                choice["message"]["token_ids"] = call.output
                choice["stop_reason"] = call.stop_reason
            case "sglext":
                choice["matched_stop"] = call.stop_reason
        if call.logprobs:
            choice["logprobs"] = {"content": [{"token": "x", "logprob": n} for n in call.logprobs]}
            if place == "completions":
                choice["logprobs"] = {"token_logprobs": call.logprobs}
        choices.append(choice)
    made = {"id": name, "object": "chat.completion", "choices": choices}
    if place == "completions":
        made["object"] = "text_completion"
    if place == "sglext":
        made["sglext"] = {"input_ids": calls[0].prompt, "output_ids": [call.output for call in calls]}
    elif place not in ("completions", "sglang"):
        made["prompt_token_ids"] = calls[0].prompt
    if dice.random() < 0.7:
        made["usage"] = {
            "prompt_tokens": len(calls[0].prompt),
            "completion_tokens": sum(len(call.output) for call in calls),
        }
    return made


def stream(calls, name, dice, done=True):
    """Server-sent events, ids in pieces of one to three."""
    events = []
    for call in calls:
        head = {"index": call.choice, "delta": {"role": "assistant", "content": ""}}
        events.append({"choices": [head], "prompt_token_ids": call.prompt})
    for call in calls:
        rest, logprobs = list(call.output), list(call.logprobs or [])
        while rest:
            n = dice.randint(1, 3)
            delta = {"index": call.choice, "delta": {"content": "x"}, "token_ids": rest[:n]}
            if logprobs:
                delta["logprobs"] = {"content": [{"token": "x", "logprob": one} for one in logprobs[:n]]}
            events.append({"choices": [delta]})
            rest, logprobs = rest[n:], logprobs[n:]
        last = {"index": call.choice, "delta": {}, "finish_reason": call.finish, "stop_reason": call.stop_reason}
        if not call.output:
            last["token_ids"] = []
        events.append({"choices": [last]})
    if dice.random() < 0.7:
        usage = {"prompt_tokens": len(calls[0].prompt), "completion_tokens": sum(len(c.output) for c in calls)}
        events.append({"choices": [], "usage": usage})
    lines = []
    for event in events:
        if dice.random() < 0.1:
            lines.append(": keep-alive\n\n")
        chunk = {"id": name, "object": "chat.completion.chunk", **event}
        lines.append(f"data: {json.dumps(chunk)}{dice.choice(('', chr(13)))}\n\n")
    return "".join(lines) + ("data: [DONE]\n\n" if done else "")


def requests(rollout):
    """The calls of a rollout by request."""
    found = {}
    for call in rollout.calls:
        found.setdefault(call.request, []).append(call)
    return list(found.values())


def records(rollout, form, dice, named):
    """The records that hold a rollout. `named`: replies have ids."""
    found, iso = [], dice.random() < 0.3
    for calls in requests(rollout):
        name = f"cmpl-{rollout.ids}-{calls[0].request}" if named else None
        call = calls[0]
        if form == "native":
            for one in calls:
                flat = {**who(rollout, dice), **facts(one, dice, iso), "finish": one.finish, "choice": one.choice}
                flat |= {"call_id": name} if name else {}
                if isinstance(one.stop_reason, str):
                    flat["stop_string"] = one.stop_reason
                stops = one.stop_token_ids + ([one.stop_reason] if isinstance(one.stop_reason, int) else [])
                flat |= {"stop_token_ids": stops} if stops else {}
                ids = {dice.choice(("prompt_ids", "input_ids")): one.prompt, "output_ids": one.output}
                ids |= {"logprobs": one.logprobs} if one.logprobs else {}
                found.append({**ids, "metadata": flat} if dice.random() < 0.3 else {**ids, **flat})
            continue
        stops = {"stop_token_ids": call.stop_token_ids}
        place = dice.choice(PLACES)
        if form == "response":
            place = "vllm" if place == "stream" else place
            record = {**who(rollout, dice), **facts(call, dice, iso), **reply(calls, name, dice, place)}
            record.pop("parse_error", None)
            found.append(record)
            continue
        record = {**who(rollout, dice), **facts(call, dice, iso), "request": {"model": "m", **stops}}
        if place == "stream":
            record["stream"] = stream(calls, name, dice, done=dice.random() < 0.9)
        else:
            record["response"] = reply(calls, name, dice, place)
        found.append(record)
    return found


def trajectory(rollout, number, dice, named):
    """A saved trajectory of CooperBench: no helpers, one choice a turn, replies that did not parse hang on users."""
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "task", "extra": {"timestamp": 1.0}}]
    for calls in requests(rollout):
        call = calls[0]
        if call.kind is not None:
            continue
        extra = {"timestamp": call.started}
        name = f"cmpl-{rollout.ids}-{call.request}" if named else None
        if call.parse_error:
            extra |= {"interrupt_type": "FormatError", "response": reply([call], name, dice, "litellm")}
            messages.append({"role": "user", "content": "no call", "extra": extra})
            continue
        if dice.random() < 0.7 and not call.stop_token_ids:
            extra["token_capture"] = {"prompt_token_ids": call.prompt, "output_token_ids": call.output}
            if call.logprobs:
                extra["token_capture"]["output_logprobs"] = call.logprobs
            if named or call.stop_reason is not None:
                brief = {"finish_reason": call.finish, "stop_reason": call.stop_reason}
                extra["response"] = {"id": name, "choices": [brief]}
        elif dice.random() < 0.9:
            extra["response"] = reply([call], name, dice, dice.choice(("litellm", "sglang", "vllm")))
        messages.append({"role": "assistant", "content": "", "extra": extra})
        messages.append({"role": "tool", "content": "{}", "extra": {"returncode": 0}})
    found = {"repo": "x_task", "task_id": number // 2, "feature_id": 1 + number % 2, "agent_id": rollout.agent}
    return found | {"status": "Submitted", "messages": messages, "model": "m"}


@dataclass
class Dump:
    """Files, in the order in which they are read."""

    family: Family
    files: list  # (name, bytes)
    form: str
    timed: bool

    def write(self, folder):
        """The paths, relative to the folder."""
        for name, data in self.files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return [name for name, _ in self.files]


@st.composite
def dumps(draw, forms=FORMATS, plain=False, source=rollouts, **how):
    """A dump in one format. `plain`: no repeats and no torn end, so that the order of lines does not matter."""
    family, all_rollouts = draw(source(**how))
    form = draw(st.sampled_from(forms))
    dice = random.Random(draw(st.integers(0, 2**32)))
    writer, named = Writer(dice), plain or dice.random() < 0.6
    timed = all_rollouts[0].calls[0].started is not None
    if form == "documents":
        files = []
        for number, rollout in enumerate(all_rollouts):
            indent = dice.choice((None, 1, 2, 4))
            data = writer.line(trajectory(rollout, number, dice, named), indent)
            data = data.replace(b"\n", b"\r\n") if dice.random() < 0.2 else data
            data += b"\n" * dice.randint(0, 2)
            folder = f"logs/{number // 2}/f1_f2"
            files.append((f"{folder}/agent{1 + number % 2}_traj.json", bom(dice) + data))
        return Dump(family, files, form, timed)
    if form == "lines":
        made = [[trajectory(rollout, number, dice, named)] for number, rollout in enumerate(all_rollouts)]
    else:
        made = [records(rollout, form, dice, named) for rollout in all_rollouts]
    # Rollouts lie one behind the other or interleaved, in one file or two.
    lines = []
    if dice.random() < 0.5:
        while any(made):
            lines.append(dice.choice([left for left in made if left]).pop(0))
    else:
        lines = [record for records_ in made for record in records_]
    if not plain and dice.random() < 0.2:
        lines.insert(dice.randint(1, len(lines)), lines[0])
    lines = [writer.line(record) for record in lines]
    cut = dice.randint(1, len(lines)) if dice.random() < 0.3 else len(lines)
    files = [(f"{n}.jsonl", join(dice, part, plain)) for n, part in enumerate((lines[:cut], lines[cut:])) if part]
    return Dump(family, files, form, timed)


def bom(dice):
    return b"\xef\xbb\xbf" if dice.random() < 0.1 else b""


def join(dice, lines, plain):
    end = dice.choice((b"\n", b"\n", b"\r\n"))
    blank = [dice.choice((b"", b"", b"", end, b"  " + end)) for _ in lines]
    data = b"".join(line + end + gap for line, gap in zip(lines, blank, strict=True))
    if dice.random() < 0.2:
        data = data.rstrip()
    if not plain and len(lines) > 1 and dice.random() < 0.1:
        data = data.rstrip()[: -dice.randint(1, min(9, len(lines[-1]) - 1))]
    return bom(dice) + data


# What is asked for

POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "think": st.sampled_from(("keep", "strip", "strip-all", "mask")),
        "tail": st.sampled_from(("captured", "no-think")),
        "truncated": st.sampled_from(("drop", "mask", "keep")),
        "unterminated": st.sampled_from(("drop", "keep")),
        "kind": st.sampled_from((["solver"], ["solver", "summariser"], ["helper", "solver", "summariser"])),
        "max_length": st.integers(12, 60),
        "overlong": st.sampled_from(("drop", "trim-prompt")),
        "upweight_as": st.sampled_from(("weight", "copies")),
        "upweight": st.lists(
            st.sampled_from(
                ("0:3", "0-2:2", "first:2", "last:3", "agent=agent1:2", "task=task/0:4", "1:0", "kind=solver:5")
            ),
            max_size=2,
            unique=True,
        ),
    },
)


def policies(drawn):
    """Drawn policies made into options that do not contradict each other."""
    options = dict(drawn)
    if options.get("max_length") is not None:
        options.setdefault("overlong", "drop")
    else:
        options.pop("overlong", None)
    if options.get("think", "keep") in ("keep", "mask"):
        options.pop("tail", None)
    return options


def sided(drawn):
    """What a side is drawn by says nothing where none is drawn."""
    return drawn if "val" in drawn else {key: value for key, value in drawn.items() if key != "val_by"}


# For all of these the input is read twice.
SURVEYED = st.fixed_dictionaries(
    {},
    optional={
        "normalize": st.sampled_from(("none", "rollout", "task")),
        "weight_scale": st.sampled_from(("auto", "min-1", "mean-1")),
        "val": st.sampled_from((0.1, 0.25, 0.5, 0.9, 1)),
        "val_by": st.sampled_from(("task", "rollout", "rollout", "repo")),
        "seed": st.integers(0, 9),
    },
).map(sided)
