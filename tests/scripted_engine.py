"""An engine that speaks like vLLM, samples nothing and misbehaves on request.

What it answers is a function of the request; what goes wrong is the request's `scripted.fault`, or drawn when the
engine was started with `faults`. It keeps a ledger of what it sent: response id, length of the prompt, output ids of
each choice, fault.
Plain asyncio, so that it is never what a benchmark measures.

`python tests/scripted_engine.py --port 0 [--faults 0.3 --seed 1] [--ledger FILE] [--tokens 20] [--delay 0.01]` prints
its base URL and serves until it is stopped.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import threading
from dataclasses import dataclass, field

FAULTS = (
    "drop_chunk",
    "double_chunk",
    "close_early",
    "reset",
    "no_done",
    "wrong_usage",
    "no_usage",
    "no_ids",
    "no_prompt_ids",
    "odd_id",
    "error_event",
    "not_json",
    "bad_framing",
    "status_500",
    "overflow",
)
"""What breaks a call. `slow_bytes` and `stall` break none."""

MODEL = "scripted"
CONTEXT = 1_000_000
_IM_END = 151645
_TAIL = [151644, 77091, 198]
_WORDS = [str((i * 7919 + 11) % 151000) for i in range(300_000)]
_TEXT = ", ".join(_WORDS)
_ENDS = [0]
for _word in _WORDS:
    _ENDS.append(_ENDS[-1] + len(_word) + 2)


def prompt_ids(request):
    """Ids of a request's prompt: as many as a tokenizer would make, and an assistant header."""
    return [int(word) for word in _WORDS[: _prompt_length(request)]] + _TAIL


def _prompt_length(request):
    if isinstance(prompt := request.get("prompt"), str):
        return len(prompt) // 4 + 1
    return sum(len(m.get("content") or "") // 4 + 4 for m in request.get("messages", ()))


def _prompt_json(request):
    return f"[{_TEXT[: _ENDS[_prompt_length(request)]]}{', '.join(map(str, _TAIL))}]"


def output_ids(request, choice, tokens):
    """Ids of a choice: made of the prompt's length, so that they are the same however they are sent."""
    seed = (_prompt_length(request) * 31 + choice * 977) % 100_000
    return [1000 + (seed + i * 13) % 90_000 for i in range(tokens - 1)] + [_IM_END]


def text_of(ids):
    """The text of output ids."""
    return "".join(f" w{i}" for i in ids if i != _IM_END)


@dataclass
class ScriptedEngine:
    """See the module. `start` inside a running loop; `serving` in a thread of its own."""

    tokens: int = 4
    delay: float = 0.0
    faults: float = 0.0
    seed: int = 0
    owner: str = "vllm"
    ids: bool = True
    script: dict = field(default_factory=dict)
    scripts: list = field(default_factory=list)
    """One a request, in their order, before `script`: for harnesses that cannot send one along."""
    ledger: list = field(default_factory=list)
    ledger_file: object = None
    requests: list = field(default_factory=list)
    keep_requests: bool = True
    idle: float | None = None
    """After so many seconds without a request a connection is closed."""
    headers: list = field(default_factory=list)
    targets: list = field(default_factory=list)
    """Path and query of each request."""
    listed: object = None
    """What it lists as its models."""
    server: object = None
    number: int = 0
    open: set = field(default_factory=set)

    def __post_init__(self):
        self.random = random.Random(self.seed)

    async def start(self, port=0):
        self.server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), "127.0.0.1", port, backlog=4096
        )
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"

    def close(self):
        """Vanishes: nobody listens, open connections are cut."""
        self.server.close()
        for transport in list(self.open):
            transport.abort()

    @contextlib.contextmanager
    def serving(self, port=0):
        """Serves from a thread; gives the base URL."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield asyncio.run_coroutine_threadsafe(self.start(port), loop).result()
        finally:

            async def end():
                self.close()
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                await asyncio.sleep(0.01)

            asyncio.run_coroutine_threadsafe(end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def note(self, entry):
        if self.ledger_file is not None:
            self.ledger_file.write(json.dumps(entry) + "\n")
            self.ledger_file.flush()
        else:
            self.ledger.append(entry)


class _Connection(asyncio.Protocol):
    def __init__(self, engine):
        self.engine = engine
        self.buffer = b""
        self.busy = None
        self.hang_up = None

    def connection_made(self, transport):
        self.transport = transport
        self.engine.open.add(transport)

    def connection_lost(self, error):
        self.engine.open.discard(self.transport)
        if self.busy is not None:
            self.busy.cancel()

    def data_received(self, data):
        self.buffer += data
        if self.busy is None:
            self._next()

    def _next(self):
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        body, self.buffer = rest[:length], rest[length:]
        method, path, _ = lines[0].split(" ", 2)
        if self.hang_up is not None:
            self.hang_up.cancel()
        self.busy = asyncio.ensure_future(self._answer(method, path, headers, body))
        self.busy.add_done_callback(self._answered)

    def _answered(self, task):
        self.busy = None
        if self.engine.idle is not None:
            self.hang_up = asyncio.get_running_loop().call_later(self.engine.idle, self.transport.close)
        if not task.cancelled() and task.exception() is not None:
            self.transport.abort()
            raise task.exception()
        if self.buffer and not self.transport.is_closing():
            self._next()

    def _send(self, status, body, kind="application/json"):
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)

    async def _answer(self, method, path, headers, body):
        engine = self.engine
        if engine.keep_requests:
            engine.targets.append(path)
        if method == "GET":
            row = {"id": MODEL, "root": f"/models/{MODEL}", "max_model_len": CONTEXT, "owned_by": engine.owner}
            known = {
                "/v1/models": {"object": "list", "data": [row] if engine.listed is None else engine.listed},
                "/version": {"version": "0.32.0"},
                "/health": {},
            }
            path = path.partition("?")[0]
            self._send(200 if path in known else 404, json.dumps(known.get(path, {})).encode())
            return
        if path.endswith("/tokenize"):
            self._send(200, json.dumps({"count": 1, "tokens": [1]}).encode())
            return
        request = json.loads(body)
        if engine.keep_requests:
            engine.requests.append(request)
            engine.headers.append(headers)
        script = engine.scripts.pop(0) if engine.scripts else engine.script
        script = {**script, **(request.get("scripted") or {})}
        fault = script.get("fault")
        if fault is None and engine.faults and engine.random.random() < engine.faults:
            fault = engine.random.choice([*FAULTS, "slow_bytes"])
        engine.number += 1
        reply_id = f"{'chatcmpl' if 'messages' in request else 'cmpl'}-{engine.seed}-{engine.number}"
        answer = _Answer(engine, request, script, fault, reply_id)
        engine.note(answer.entry())
        if fault == "reset":
            self.transport.abort()
        elif fault == "status_500":
            self._send(500, b'{"error": {"message": "scripted failure", "type": "InternalServerError", "code": 500}}')
        elif fault == "overflow" or len(answer.prompt) // 6 > CONTEXT:
            said = f"This model's maximum context length is {CONTEXT} tokens. Please reduce the length of the messages."
            told = {"message": said, "type": "BadRequestError", "param": None, "code": 400}
            self._send(400, json.dumps({"error": told}).encode())
        elif request.get("stream"):
            await self._stream(answer)
        elif (said := script.get("said")) is not None:
            self._send(script.get("status", 200), said.encode())
        else:
            await asyncio.sleep(engine.delay * answer.tokens)
            whole = answer.whole()
            if fault == "bad_framing":
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                self.transport.write(head)
                self._chunk(whole[: len(whole) // 2])
                await self._break_framing()
            elif fault == "close_early":
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(whole)}\r\n\r\n"
                self.transport.write(head.encode() + whole[: len(whole) // 2])
                await asyncio.sleep(0.01)
                self.transport.close()
            else:
                self._send(200, whole)
                self._again(answer)

    async def _stream(self, answer):
        fault, delay = answer.fault, self.engine.delay
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        events = answer.events()
        if fault == "close_early":
            events = events[: len(events) // 2]
        for at, event in enumerate(events):
            # Usage and [DONE] come with the last token, as they do from real engines.
            if delay and at and b'"choices": [{' in event:
                await asyncio.sleep(delay)
            if fault == "slow_bytes" and at < 3:
                for part in (event[:1], event[1:9], event[9:]):
                    self._chunk(part)
                    await asyncio.sleep(0.002)
            else:
                self._chunk(event)
            if fault == "bad_framing" and at == len(events) // 2:
                await self._break_framing()
            if fault == "stall" and at == len(events) // 2:
                await asyncio.sleep(3600)
        if fault == "close_early":
            await asyncio.sleep(0.01)
            self.transport.close()
        else:
            if late := answer.script.get("late_end"):
                await asyncio.sleep(late)
            self.transport.write(b"0\r\n\r\n")
            self._again(answer)

    async def _break_framing(self):
        """Sends what is no chunk, when the last one is read and the next one waited for."""
        await asyncio.sleep(0.05)
        self.transport.write(b"no chunk at all\r\n\r\n")
        await asyncio.sleep(3600)

    def _again(self, answer):
        """A second reply that nobody asked for, behind the first one or a moment later."""
        if (again := answer.script.get("again")) is not None:
            twice = _Answer(
                self.engine, answer.request, {**answer.script, "reply": "nobody asked"}, None, answer.id + "-again"
            )
            asyncio.get_running_loop().call_later(again, self._send, 200, twice.whole())

    def _chunk(self, data):
        if data:
            self.transport.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


class _Answer:
    """One reply, whole or as events."""

    def __init__(self, engine, request, script, fault, reply_id):
        self.request, self.fault, self.id = request, fault, reply_id
        self.chat = "messages" in request
        self.tokens = script.get("tokens") or engine.tokens
        self.n = request.get("n") or 1
        self.ids = bool(request.get("return_token_ids")) and engine.ids and script.get("ids", True)
        self.prompt = _prompt_json(request)
        self.outputs = [output_ids(request, choice, self.tokens) for choice in range(self.n)]
        self.script = script
        self.finish = script.get("finish") or ("tool_calls" if script.get("tool") else "stop")
        seen = _prompt_length(request) + len(_TAIL)
        sampled = sum(map(len, self.outputs)) + (self.fault == "wrong_usage")
        self.usage = {"prompt_tokens": seen, "completion_tokens": sampled, "total_tokens": seen + sampled}

    def entry(self):
        return {
            "id": self.id,
            "fault": self.fault,
            "prompt": _prompt_length(self.request) + len(_TAIL),
            "outputs": self.outputs,
        }

    def _text(self, ids):
        return self.script.get("reply") if "reply" in self.script else text_of(ids)

    def _message(self, ids):
        message = {"role": "assistant", "content": self._text(ids), "tool_calls": []}
        if self.script.get("think"):
            message["reasoning"] = self.script["think"]
        if tool := self.script.get("tool"):
            message |= {"content": None, "tool_calls": [{"id": f"t-{self.id}", "type": "function", "function": tool}]}
        return message

    def whole(self):
        show = self.ids and self.fault != "no_ids"
        prompt = json.loads(self.prompt) if len(self.prompt) < 2000 and show and self.fault != "no_prompt_ids" else None
        choices = []
        for index, ids in enumerate(self.outputs):
            listed = [*ids[:-1], None] if self.fault == "odd_id" else ids
            listed = (
                ids[1:] if self.fault == "drop_chunk" else [ids[0], *ids] if self.fault == "double_chunk" else listed
            )
            said = (
                {"message": self._message(ids)} if self.chat else {"text": self._text(ids), "prompt_token_ids": prompt}
            )
            last = {"logprobs": None, "finish_reason": self.finish, "stop_reason": None}
            choices.append({"index": index, **said, **last, "token_ids": listed if show else None})
        made = {
            "id": self.id,
            "object": "chat.completion" if self.chat else "text_completion",
            "created": 1,
            "model": MODEL,
        }
        if self.chat:
            made["prompt_token_ids"] = prompt
        made["choices"] = choices
        if self.fault != "no_usage":
            made["usage"] = self.usage
        text = json.dumps(made)
        if show and prompt is None and self.fault != "no_prompt_ids":
            # A long prompt is not made to ids and back.
            text = text.replace('"prompt_token_ids": null', f'"prompt_token_ids": {self.prompt}')
        if self.fault in ("error_event", "not_json", "no_done"):
            text = '{"error": {"message": "scripted", "code": 500}}' if self.fault == "error_event" else text[:-9]
        return text.encode()

    def events(self):
        head = {
            "id": self.id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": 1,
            "model": MODEL,
        }
        show = self.ids and self.fault != "no_ids"
        events = []
        for index, ids in enumerate(self.outputs):
            prompt = f', "prompt_token_ids": {self.prompt}' if show and self.fault != "no_prompt_ids" else ""
            if self.chat:
                first = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                events.append(json.dumps({**head, "choices": [first]})[:-1] + prompt + "}")
            deltas = self._deltas(ids)
            for at, (delta, sampled) in enumerate(deltas):
                choice = {"index": index, **delta, "finish_reason": self.finish if at == len(deltas) - 1 else None}
                if show:
                    choice["token_ids"] = sampled if self.fault != "odd_id" or at else ["7"]
                event = json.dumps({**head, "choices": [choice]})
                if not self.chat and at == 0 and prompt:
                    event = event[:-3] + prompt + "}]}"
                events.append(event)
        # What is lost, doubled or broken is a chunk with ids, as long as there are any.
        sampled = [at for at, event in enumerate(events) if '"token_ids": [' in event]
        at = sampled[len(sampled) // 2] if sampled else len(events) // 2
        if self.fault == "drop_chunk":
            del events[at]
        elif self.fault == "double_chunk":
            events.insert(at, events[at])
        elif self.fault == "error_event":
            events[at:] = ['{"error": {"message": "scripted failure", "type": "InternalServerError", "code": 500}}']
        elif self.fault == "not_json":
            events[at] = events[at][:-2]
        options = self.request.get("stream_options") or {}
        if options.get("include_usage") and self.fault not in ("no_usage", "error_event"):
            events.append(json.dumps({**head, "choices": [], "usage": self.usage}))
        ended = [] if self.fault == "no_done" else ["[DONE]"]
        return [f"data: {event}\n\n".encode() for event in [*events, *ended]]

    def _deltas(self, ids):
        """(what the choice holds, ids) of each chunk: some chunks have several ids, some none of their text."""
        if not self.chat:
            return [({"text": text_of([i])}, [i]) for i in ids]
        if tool := self.script.get("tool"):
            named = {
                "index": 0,
                "id": f"t-{self.id}",
                "type": "function",
                "function": {"name": tool["name"], "arguments": ""},
            }
            rest = {"index": 0, "function": {"arguments": tool["arguments"]}}
            return [
                ({"delta": {}}, ids[:1]),
                ({"delta": {"tool_calls": [named]}}, ids[1:2]),
                ({"delta": {"tool_calls": [rest]}}, ids[2:-1]),
                ({"delta": {}}, ids[-1:]),
            ]
        made = []
        if think := self.script.get("think"):
            made.append(({"delta": {"reasoning": think}}, ids[:1]))
            ids = ids[1:]
        if "reply" in self.script:
            return [
                *made,
                ({"delta": {"content": self.script["reply"]}}, ids[:-1]),
                ({"delta": {"content": ""}}, ids[-1:]),
            ]
        return made + [({"delta": {"content": text_of([i])}}, [i]) for i in ids]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--ledger")
    args = parser.parse_args()

    async def serve():
        file = open(args.ledger, "w", encoding="utf-8") if args.ledger else None  # noqa: SIM115
        engine = ScriptedEngine(
            tokens=args.tokens,
            delay=args.delay,
            faults=args.faults,
            seed=args.seed,
            ledger_file=file,
            keep_requests=False,
        )
        if file is None:
            engine.note = lambda entry: None
        print(await engine.start(args.port), flush=True)
        await asyncio.Event().wait()

    loop = None
    with contextlib.suppress(ImportError):
        import uvloop

        loop = uvloop.new_event_loop
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    sys.exit(main())
