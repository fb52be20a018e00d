"""Recording: a proxy between a harness and an engine that loses no call.

`app` serves, `call` brings one call through and records it, `client` and `connection` are its two ends, `session` says
whose it is, `replies` what later prompts tell of earlier ones, `rollout` answers begins and ends, `log` writes (the
core's thread does), `engine` knows what is behind, `translate` speaks for routes on which engines return no ids, `face`
is Python's way in, `process` sets up a process that only records, `preflight` tries an engine out, `view` shows what
goes on. Needs the extra `record` (aiohttp).
"""
