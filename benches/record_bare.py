"""The least that a proxy in Python can be: aiohttp on both sides, and nothing is looked at or kept.

    python benches/record_bare.py URL

Prints its base URL. What the recorder takes beyond it is what recording costs.
"""

import asyncio
import sys

import aiohttp
from aiohttp import web
from tito.capture.record.face import loop_factory


async def serve(upstream):
    client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )

    async def answer(http):
        headers = {"Content-Type": "application/json"}
        async with client.post(f"{upstream}/chat/completions", data=await http.read(), headers=headers) as reply:
            kind = {"Content-Type": reply.headers["Content-Type"]}
            if "event-stream" not in kind["Content-Type"]:
                return web.Response(body=await reply.read(), headers=kind)
            response = web.StreamResponse(headers=kind)
            await response.prepare(http)
            while chunk := await reply.content.readany():
                await response.write(chunk)
            await response.write_eof()
            return response

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(sys.argv[1]))
