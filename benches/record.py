"""What a recorder costs, beside no proxy, a proxy that records nothing and LiteLLM's proxy, in one run.

    python benches/record.py [--litellm PYTHON] [--only latency,rate,streams,prompt] [--rounds 3]

First it asserts that what comes through is what the engine sends. "no proxy" and "bare aiohttp" ask the engine for what
the recorder asks it for, ids and usage, so that the engine does the same for all; LiteLLM's proxy asks for neither.
Then: latency that is added at 64 open calls, calls a second, memory at 1,000 open streams, and what a prompt of 200 kB
adds. Ways take turns, so that a noisy machine is noisy to all; a difference is one of quantiles over all rounds.
"""

import argparse
import asyncio
import contextlib
import json
import os
import urllib.request

import record_load as load

TOKENS, GAP = 20, 0.02
IDS = {"return_token_ids": True}
USAGE = {"stream_options": {"include_usage": True}}


def ways(upstream, python, stack, *, only_flush=False):
    """{name: (URL, process or None)} of everything that is compared."""
    found = {"no proxy": (upstream, None)}
    if not only_flush:
        process, url = stack.enter_context(load.bare(upstream))
        found["bare aiohttp"] = (url, process)
    for durability in ("flush",) if only_flush else ("flush", "fsync"):
        process, url = stack.enter_context(load.recorder(upstream, "--durability", durability))
        found[f"tito {durability}"] = (url, process)
    if python:
        process, url = stack.enter_context(load.litellm(upstream, python))
        found["litellm"] = (url, process)
    return found


def assert_equal(found):
    """Every way gives the same message (LiteLLM rewrites the reply, so there the text alone is compared)."""
    for stream in (False, True):
        texts = {}
        for name, (url, _) in found.items():
            request = urllib.request.Request(f"{url}/chat/completions", load.body(stream=stream))
            request.add_header("Content-Type", "application/json")
            request.add_header("Authorization", "Bearer none")
            with urllib.request.urlopen(request) as reply:
                body = reply.read().decode()
            texts[name] = text_of(body, stream)
        assert len(set(texts.values())) == 1, texts


def text_of(body, stream):
    if not stream:
        return json.loads(body)["choices"][0]["message"]["content"]
    chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def asked(name, *, stream):
    """What a request of one way asks for besides."""
    return (IDS | (USAGE if stream else {})) if name in ("no proxy", "bare aiohttp") else {}


async def measure(url, *, stream, calls, workers, pause=0.0, words="hello", **more):
    text = load.body(stream=stream, words=words, **more)
    done, seconds = await load.closed_loop(url, lambda _: (text,), workers=workers, calls=calls, pause=pause)
    assert not any(call.failed for call in done), [call for call in done if call.failed][:1]
    return done, seconds


def latency(args):
    """Added latency, milliseconds, 64 calls open at a time that take about 0.4 s each."""
    print(f"\n## Added latency, ms: 64 open calls, {TOKENS} events {GAP * 1000:.0f} ms apart\n")
    print(
        "| way | reply | first byte p50 | p99 | whole call p50 | p99 | CPU ms a call |\n|---|---|---|---|---|---|---|"
    )
    with contextlib.ExitStack() as stack:
        _, upstream = stack.enter_context(load.engine(tokens=TOKENS, delay=GAP))
        found = ways(upstream, args.litellm, stack)
        assert_equal(found)
        for stream in (True, False):
            all_calls = {name: [] for name in found}
            cpu = dict.fromkeys(found, 0.0)
            for _ in range(args.rounds):
                for name, (url, process) in found.items():
                    before = load.cpu_seconds(process.pid) if process else 0
                    more = asked(name, stream=stream)
                    done, _ = asyncio.run(
                        measure(url, stream=stream, calls=640, workers=64, pause=TOKENS * GAP / 64, **more)
                    )
                    cpu[name] += (load.cpu_seconds(process.pid) if process else 0) - before
                    all_calls[name] += done
            base = all_calls["no proxy"]
            for name, done in all_calls.items():
                cells = []
                for field in ("first", "whole"):
                    for q in (0.5, 0.99):
                        value = load.quantile([getattr(c, field) for c in done], q)
                        if name != "no proxy":
                            value -= load.quantile([getattr(c, field) for c in base], q)
                        cells.append(f"{value * 1000:.2f}")
                kind = "stream" if stream else "whole"
                own = f"{cpu[name] / len(done) * 1000:.2f}" if name != "no proxy" else ""
                print(f"| {name}{' (itself)' if name == 'no proxy' else ''} | {kind} | {' | '.join(cells)} | {own} |")


def rate(args):
    """Small calls a second, as many as go through."""
    print("\n## Small calls a second, 64 workers, replies of 4 ids at once\n")
    print("| way | calls/s, median of rounds | CPU µs a call |\n|---|---|---|")
    with contextlib.ExitStack() as stack:
        _, upstream = stack.enter_context(load.engine(tokens=4))
        found = ways(upstream, args.litellm, stack)
        seconds = {name: [] for name in found}
        cpu = {name: [] for name in found}
        for _ in range(args.rounds):
            for name, (url, process) in found.items():
                calls = 600 if name == "litellm" else 6000
                before = load.cpu_seconds(process.pid) if process else 0
                more = asked(name, stream=False)
                done, took = asyncio.run(measure(url, stream=False, calls=calls, workers=64, **more))
                seconds[name].append(took / len(done))
                cpu[name].append(((load.cpu_seconds(process.pid) if process else 0) - before) / len(done))
        for name in found:
            took, own = load.quantile(seconds[name], 0.5), load.quantile(cpu[name], 0.5)
            print(f"| {name} | {1 / took:,.0f} | {own * 1e6:.0f} |")


def streams(args):
    """Memory with 1,000 streams open."""
    print(
        "\n## 1,000 open streams\n\n| way | open | MiB before | MiB at 1,000 open | MiB after |\n|---|---|---|---|---|"
    )
    with contextlib.ExitStack() as stack:
        _, upstream = stack.enter_context(load.engine(tokens=100, delay=0.2))
        found = ways(upstream, None, stack, only_flush=True)
        url, process = found["tito flush"]

        async def hold():
            await measure(url, stream=True, calls=10, workers=10, scripted={"tokens": 2})
            before = load.memory(process.pid)
            opened = asyncio.ensure_future(measure(url, stream=True, calls=1000, workers=1000, words="x" * 8000))
            most = 0.0
            for _ in range(15):
                await asyncio.sleep(1)
                most = max(most, load.memory(process.pid))
            with urllib.request.urlopen(url.removesuffix("/v1") + "/healthz") as reply:
                held = json.loads(reply.read())["open"]
            await opened
            print(f"| tito flush | {held:,} | {before:.0f} | {most:.0f} | {load.memory(process.pid):.0f} |")

        asyncio.run(hold())


def prompt(args):
    """What a prompt of 200 kB adds."""
    print("\n## A prompt of 200 kB (50,000 ids come back), one call at a time, ms\n")
    print("| way | p50 | p90 |\n|---|---|---|")
    with contextlib.ExitStack() as stack:
        _, upstream = stack.enter_context(load.engine(tokens=4))
        found = ways(upstream, args.litellm, stack)
        all_calls = {name: [] for name in found}
        for _ in range(args.rounds):
            for name, (url, _) in found.items():
                more = asked(name, stream=False)
                done, _ = asyncio.run(measure(url, stream=False, calls=100, workers=1, words="word " * 40_000, **more))
                all_calls[name] += done
        base = [call.whole for call in all_calls["no proxy"]]
        for name, done in all_calls.items():
            cells = []
            for q in (0.5, 0.9):
                value = load.quantile([call.whole for call in done], q)
                cells.append(f"{(value if name == 'no proxy' else value - load.quantile(base, q)) * 1000:.2f}")
            print(f"| {name}{' (itself)' if name == 'no proxy' else ', added'} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", metavar="PYTHON", help="a Python in which litellm[proxy] is installed")
    parser.add_argument("--only", default="latency,rate,streams,prompt")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cores, busy = os.cpu_count(), os.getloadavg()[0]
    print(f"{cores} cores, load {busy:.1f} when it began; the engine and the load run on the same cores")
    for name in args.only.split(","):
        {"latency": latency, "rate": rate, "streams": streams, "prompt": prompt}[name](args)


if __name__ == "__main__":
    main()
