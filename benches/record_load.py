"""Load for a recorder: a client that costs next to nothing, and processes that are started and stopped around it.

The client is plain asyncio: one connection a worker, requests that are made once, replies that are only looked at for
their end. What it measures is the other side.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "tests" / "scripted_engine.py"


@dataclass(frozen=True)
class Timed:
    """One call, seconds."""

    first: float
    whole: float
    status: int
    failed: bool
    """The reply holds an error, or does not end as it should."""
    reply: bytes


class Worker:
    """One connection that sends one request after the other."""

    def __init__(self, url, key="none"):
        parts = urlsplit(url)
        self.host, self.port, self.path = parts.hostname, parts.port, parts.path
        self.key = key
        self.reader = self.writer = None

    def request(self, body, headers=""):
        """The bytes of a request."""
        head = f"POST {self.path}/chat/completions HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        return f"{head}Authorization: Bearer {self.key}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def call(self, request, *, keep=False):
        """Sends a request (made by `request`), reads the reply to its end."""
        begun = time.perf_counter()
        try:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 24)
            self.writer.write(request)
            head = await self.reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            lower = head.lower()
            first = None
            parts = []
            if b"transfer-encoding: chunked" in lower:
                while True:
                    size = int(await self.reader.readuntil(b"\r\n"), 16)
                    first = first or time.perf_counter()
                    data = await self.reader.readexactly(size + 2)
                    if size == 0:
                        break
                    parts.append(data[:-2])
            else:
                length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
                parts.append(await self.reader.readexactly(length))
                first = time.perf_counter()
            ended = time.perf_counter()
            if b"connection: close" in lower:
                self.close()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            self.close()
            now = time.perf_counter()
            return Timed(now - begun, now - begun, 0, True, b"")
        text = b"".join(parts)
        stream = b"text/event-stream" in lower
        failed = status != 200 or b'"error":' in text or (stream and not text.endswith(b"data: [DONE]\n\n"))
        return Timed(first - begun, ended - begun, status, failed, text if keep else b"")

    def close(self):
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def body(*, words="hello", stream=False, **more):
    """A request."""
    asked = {"model": "scripted", "messages": [{"role": "user", "content": words}], **more}
    return json.dumps(asked | ({"stream": True} if stream else {})).encode()


async def closed_loop(url, make, *, workers, calls, key="none", pause=0.0):
    """`calls` calls of `workers` workers, each sending the next when the last has ended; (calls, seconds)."""
    left = iter(range(calls))
    done = []

    async def work(number):
        worker = Worker(url, key)
        await asyncio.sleep(pause * number)
        for n in left:
            done.append(await worker.call(worker.request(*make(n))))
        worker.close()

    begun = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(workers)))
    return done, time.perf_counter() - begun


@contextlib.contextmanager
def process(*command, **more):
    """A process that prints its URL first: (process, URL)."""
    started = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, **more)
    try:
        url = started.stdout.readline().strip()
        if not url.startswith("http"):
            raise SystemExit(f"{command}: {url!r}")
        yield started, url
    finally:
        started.terminate()
        started.wait(30)


def engine(**options):
    """A scripted engine in a process of its own."""
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return process(sys.executable, ENGINE, *arguments)


def bare(upstream):
    """A proxy that records nothing."""
    return process(sys.executable, Path(__file__).with_name("record_bare.py"), upstream)


@contextlib.contextmanager
def recorder(upstream, *arguments, out=None):
    """A recorder in a process of its own; its log goes with it unless `out` is given."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tito", "record", "--upstream", upstream, "--out", out or f"{folder}/log"]
        with process(*command, "--quiet", *arguments) as started:
            yield started


@contextlib.contextmanager
def litellm(upstream, python):
    """LiteLLM's proxy, of the Python it is installed in."""
    model = {"model_name": "scripted", "litellm_params": {"model": "hosted_vllm/scripted", "api_base": upstream}}
    model["litellm_params"]["api_key"] = "none"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps({"model_list": [model]}))
        port = free_port()
        command = [Path(python).parent / "litellm", "--config", config, "--port", str(port), "--host", "127.0.0.1"]
        with open(Path(folder) / "log", "wb") as log:
            # It refuses to start without a key of its own; the other ways ask for none either.
            env = {**os.environ, "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
            started = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, env=env)
        try:
            url = f"http://127.0.0.1:{port}/v1"
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=1).read()
                    break
                time.sleep(0.5)
            else:
                raise SystemExit((Path(folder) / "log").read_text()[-2000:])
            yield started, url
        finally:
            started.terminate()
            started.wait(30)


def free_port():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def memory(pid):
    """Resident memory of a process and its children, MiB."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            if int(status.parent.name) == pid or lines.get("PPid", "").strip() == str(pid):
                total += int(lines.get("VmRSS", "0 kB").split()[0])
    return total / 1024


def cpu_seconds(pid):
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
