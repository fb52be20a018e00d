"""Recorders for tests: a scripted engine, a recorder before it, and what the log holds afterwards."""

import contextlib
import io
import json
import urllib.request
from pathlib import Path

import openai
import tito
import zstandard
from scripted_engine import MODEL, ScriptedEngine

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}]
TOOL = {"name": "bash", "arguments": '{"command": "ls -l \\"a b\\""}'}


@contextlib.contextmanager
def recorder(folder, engine=None, **options):
    """(base URL of the recorder, engine, base URL of the engine); the log is whole when the block is left."""
    engine = engine or ScriptedEngine()
    with engine.serving() as upstream, tito.recording(upstream, folder, **{"durability": "flush", **options}) as url:
        yield url, engine, upstream


def client(url, **options):
    return openai.OpenAI(base_url=url, **{"api_key": "secret-key", "max_retries": 0, **options})


def ask(url, messages=HELLO, *, headers=None, **options):
    """One chat call; a stream is joined to (text, finish, chunks)."""
    script = options.pop("scripted", None)
    more = {"extra_body": {"scripted": script}} if script else {}
    with client(url) as made:
        reply = made.chat.completions.create(model=MODEL, messages=messages, extra_headers=headers, **more, **options)
        return list(reply) if options.get("stream") else reply


def post(url, body=None):
    """What a route that takes JSON answers."""
    request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else b"", method="POST")
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.loads(reply.read())


def root(url):
    """A recorder's base URL without `/v1`."""
    return url.removesuffix("/v1")


def lines(folder, kind="call"):
    """The log's lines of one type, in their order; None gives all."""
    found = []
    for path in sorted(Path(folder).glob("calls-*")):
        data = path.read_bytes()
        if path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
        found += [json.loads(line) for line in data.splitlines()]
    assert all(line["tito_log"] == 1 for line in found)
    return [line for line in found if kind is None or line["type"] == kind]


def ids_of(line):
    """(prompt ids, output ids of each choice) of a recorded call."""
    reply = line["response"]
    prompt = reply.get("prompt_token_ids") or reply["choices"][0].get("prompt_token_ids")
    return prompt, [choice["token_ids"] for choice in reply["choices"]]


def skipped(folder):
    return tito.check(folder).skipped
