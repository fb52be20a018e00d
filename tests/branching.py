"""Rollouts that branch, for Hypothesis: what `strategies.rollouts` is for a straight run.

Conversations are continued, forked, retried (kept or not), repeated word for word, handed to sub-agents that run in
between, compacted, sent back without their thinking, and rolled back so that the model says the same ids again across
another boundary between prompt and output (such prompts end in no tail, so the profile must be given). Outputs end in
every way, some are cut off, some are empty.
"""

import random
from dataclasses import dataclass, field

import strategies
from hypothesis import strategies as st
from strategies import NEWLINE, QWEN3, QWEN35, Call, Rollout, sampled

# Of thinking shapes those that templates cut cleanly are as frequent as all others.
SHAPES = (*strategies.SHAPES, *("plain",) * 3, *("think",) * 4, "empty pair")
STEPS = ("go on", "go on", "go on", "retry", "twins", "fork", "sub-agent", "compact", "strip", "regrow", "choices")


@dataclass
class Talk:
    """A conversation: what stands in its prompt before the next user turn, at each of its states."""

    states: list = field(default_factory=list)
    thinking: bool = True


@st.composite
def branching(draw, most_rollouts=3, most_steps=9, clean=False):
    """(family, rollouts), as `strategies.rollouts` gives them."""
    family = draw(st.sampled_from((QWEN3, QWEN35)))
    dice = random.Random(draw(st.integers(0, 2**32)))
    timed = draw(st.booleans())
    found = []
    for number in range(draw(st.integers(1, most_rollouts))):
        steps = draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=most_steps))
        agent = f"agent{1 + number % 2}"
        made = Rollout(f"run{number}/{agent}", f"task/{number // 2}", agent, [])
        made.reward, made.attempt = dice.choice((None, 0.5, 1.0)), dice.choice((None, 0, 3))
        Maker(family, dice, clean, made.calls).run(steps)
        with_logprobs, numbered = dice.random() < 0.5, not timed or dice.random() < 0.3
        for call in made.calls:
            call.started = 1.7e9 + call.request + number * 1e4 if timed else None
            call.turn = call.request if numbered and call.kind is None else None
            call.logprobs = [-dice.randint(0, 64) / 8 for _ in call.output] if with_logprobs else None
        found.append(made)
    strategies.name_anew(found, dice)
    return family, found


class Maker:
    """Makes the calls of one rollout."""

    def __init__(self, family, dice, clean, calls):
        self.family, self.dice, self.clean, self.calls = family, dice, clean, calls
        self.request = 0
        self.talks = [self.opened(1001)]

    def opened(self, system):
        family = self.family
        start = [family.start, family.system, NEWLINE, system, family.end, NEWLINE]
        return Talk([[*start, *self.turn()]], self.dice.random() < 0.7)

    def turn(self):
        family = self.family
        return [family.start, family.user, NEWLINE, self.dice.randint(1000, 1005), family.end, NEWLINE]

    def run(self, steps):
        for step in steps:
            talk = self.dice.choice(self.talks)
            match step:
                case "go on":
                    self.keep(talk, self.ask(talk))
                case "retry":
                    self.keep(talk, self.dice.choice([self.ask(talk), self.ask(talk), None]))
                case "twins":
                    call = self.ask(talk)
                    self.add(call.prompt, call.output, call.finish, call.stop_reason, call.stop_token_ids)
                    self.keep(talk, self.dice.choice([call, None]))
                case "fork":
                    self.talks.append(Talk([self.dice.choice(talk.states)], talk.thinking))
                case "sub-agent":
                    self.talks.append(self.opened(1002))
                    self.keep(self.talks[-1], self.ask(self.talks[-1]))
                case "compact":
                    self.talks.append(self.opened(1001))
                case "strip":
                    talk.states.append(self.stripped(talk.states[-1]))
                case "regrow" if self.calls:
                    self.regrow()
                case "choices":
                    self.keep(talk, self.dice.choice([self.ask(talk), self.ask(talk, choice=1)]))
        if not self.calls:
            self.ask(self.talks[0])

    def ask(self, talk, choice=0):
        """The model answers; nothing is kept yet."""
        family, dice = self.family, self.dice
        ending = "stop" if self.clean else dice.choice(strategies.ENDINGS)
        shape = dice.choice(SHAPES)
        answer = sampled(dice, family, shape, ending, family.open_tail and talk.thinking)
        call = self.add([*talk.states[-1], *family.tail(talk.thinking)], *answer, choice=choice)
        if not self.clean and dice.random() < 0.05:
            call.output = []
        if not self.clean and dice.random() < 0.05:
            call.kind = dice.choice(("summariser", "helper"))
        if not self.clean and dice.random() < 0.05:
            call.parse_error = True
        return call

    def add(self, prompt, output, finish, stop_reason, stop_token_ids, choice=0):
        self.request -= bool(choice)
        call = Call(list(prompt), list(output), finish, stop_reason, list(stop_token_ids), choice=choice)
        call.request = self.request
        self.request += 1
        self.calls.append(call)
        return call

    def keep(self, talk, call):
        """The harness goes on from an answer."""
        if call is None:
            return
        end = [] if call.output[-1:] == [self.family.end] else [self.family.end]
        talk.states.append([*call.prompt, *call.output, *end, NEWLINE, *self.turn()])

    def regrow(self):
        """Part of an answer is sent back, and the model says the rest again."""
        call = self.dice.choice(self.calls)
        if not call.output:
            return
        at = self.dice.randint(0, len(call.output) - 1)
        rest = call.output[at:]
        if self.dice.random() < 0.3:
            rest = [*rest[:-1], 1007, rest[-1]]
        again = self.add([*call.prompt, *call.output[:at]], rest, call.finish, call.stop_reason, call.stop_token_ids)
        if self.dice.random() < 0.5:
            talk = Talk([])
            self.keep(talk, again)
            self.talks.append(talk)

    def stripped(self, ids):
        """A history sent back without thinking."""
        opener, closer = self.family.think
        made, thinking = [], False
        for one in ids:
            thinking = (thinking or one == opener) and one != closer
            if not thinking and one != closer:
                made.append(one)
        return made
