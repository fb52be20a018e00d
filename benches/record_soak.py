"""A soak: calls with random faults, then the books. Every call is either recorded exactly or failed loudly.

    python benches/record_soak.py [--calls 20000] [--faults 0.3] [--kill 3] [--workers 64]

The engine misbehaves on a share of the calls, some clients hang up in the middle, and the recorder is killed (kill -9)
and started again a few times. At the end four books are compared, call by call: what the engine sent (its ledger), what
clients saw, what the log holds, and what `tito convert` makes of the log.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import record_load as load
import tito

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from records import lines

_ID = re.compile(rb'"id": ?"((?:chat)?cmpl-\d+-\d+)"')


async def harness(address, args, seen):
    """Sends the calls; `address` is asked for anew whenever the recorder is gone."""
    draw = random.Random(args.seed)
    left = iter(range(args.calls))

    async def work(number):
        worker, url = None, None
        for n in left:
            if url != address["url"] or worker is None:
                url = address["url"]
                worker = load.Worker(url)
            stream = draw.random() < 0.5
            more = {"n": 2} if draw.random() < 0.1 else {}
            tokens = draw.choice([1, 4, 30])
            text = load.body(stream=stream, words=f"{n} " + "x" * draw.choice([10, 100, 8000]), **more)
            text = text[:-1] + f', "scripted": {{"tokens": {tokens}}}}}'.encode()
            request = worker.request(text, f"x-tito-session: s{number}-{n // 500}\r\n")
            call = asyncio.ensure_future(worker.call(request, keep=True))
            if draw.random() < 0.02:
                done, _ = await asyncio.wait([call], timeout=draw.random() * 0.02)
                if not done:
                    call.cancel()
                    worker.close()
                    seen["hung up"] += 1
                    continue
            done = await call
            if not done.failed:
                seen["whole"] += 1
                ids.append(_ID.search(done.reply)[1].decode())
            elif done.status == 0 or not done.reply:
                seen["connection lost"] += 1
                await asyncio.sleep(0.5)
            else:
                seen["told of a failure"] += 1
        if worker is not None:
            worker.close()

    ids = []
    await asyncio.gather(*(work(number) for number in range(args.workers)))
    return ids


async def soak(args, upstream, log, seen):
    """The harness, and a recorder that is killed now and then."""
    import contextlib

    address, kills = {}, 0
    with contextlib.ExitStack() as stack:

        def start():
            process, address["url"] = stack.enter_context(
                load.recorder(upstream, "--durability", args.durability, "--segment-mb", "8", out=log)
            )
            return process

        process = start()
        running = asyncio.ensure_future(harness(address, args, seen))
        marks = [args.calls * (k + 1) // (args.kill + 1) for k in range(args.kill)]
        while not running.done():
            await asyncio.sleep(0.05)
            if kills < args.kill and sum(seen.values()) >= marks[kills]:
                process.kill()
                process.wait()
                kills += 1
                process = await asyncio.to_thread(start)
        return await running, kills


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--faults", type=float, default=0.3)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--kill", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", choices=("flush", "fsync"), default="fsync")
    args = parser.parse_args()
    seen = Counter()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "engine.jsonl"
        log = Path(folder) / "log"
        with load.engine(faults=args.faults, seed=args.seed, ledger=ledger) as (_, upstream):
            ids, kills = asyncio.run(soak(args, upstream, log, seen))
        sent = {entry["id"]: entry for entry in map(json.loads, ledger.read_text().splitlines())}
        calls = lines(log)
        report = tito.convert(log, Path(folder) / "rows.parquet")
        rows = Counter(row.call_id for row in tito.open_rows(Path(folder) / "rows.parquet"))
    good = {line["response"]["id"]: line for line in calls if "error" not in line}
    failed = Counter(line["error"]["type"] for line in calls if "error" in line)
    harmless = {None, "slow_bytes"}

    print(f"{args.calls:,} calls, {args.workers} at a time, faults in {args.faults:.0%}, {kills} times kill -9")
    print(f"engine    {len(sent):,} replies, {sum(e['fault'] not in harmless for e in sent.values()):,} of them faulty")
    print(f"clients   {dict(seen)}")
    print(f"log       {len(good):,} recorded, failures {dict(failed)}")
    print(f"convert   {report.calls_seen:,} seen, {report.rows:,} rows, skipped {report.skipped}")

    checks = {
        "every call has one outcome at its client": sum(seen.values()) == args.calls,
        "every whole reply that a client saw is in the log": set(ids) <= set(good),
        "no reply was seen or recorded twice": len(ids) == len(set(ids))
        and len(good) == len(calls) - sum(failed.values()),
        "nothing faulty is in the log": all(sent[i]["fault"] in harmless for i in good),
        "the log's ids are those that the engine sent": all(
            [choice["token_ids"] for choice in line["response"]["choices"]] == sent[i]["outputs"]
            and len(line["response"]["prompt_token_ids"]) == sent[i]["prompt"]
            for i, line in good.items()
        ),
        # It belongs to a client that hung up, or to a recorder that was killed.
        "what is recorded and was not seen was cut off": len(set(good) - set(ids))
        <= seen["hung up"] + seen["connection lost"],
        "a failure is in the log if and only if its client was told or had hung up": kills > 0
        or 0 <= sum(failed.values()) - failed["client_closed"] - seen["told of a failure"] <= seen["hung up"],
        # Who hangs up before the request is read has sent none.
        "only clients that hung up left no trace": kills > 0
        or 0 <= args.calls - len(set(ids) | set(good)) - sum(failed.values()) <= seen["hung up"],
        "every recorded choice gives its row": rows == Counter({i: len(sent[i]["outputs"]) for i in good}),
        "convert counts the log's calls": report.calls_seen == sum(rows.values()) + sum(failed.values()),
    }
    for what, held in checks.items():
        print(f"{'ok  ' if held else 'FAIL'} {what}")
    return int(not all(checks.values()))


if __name__ == "__main__":
    sys.exit(main())
