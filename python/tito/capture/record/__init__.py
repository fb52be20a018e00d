"""Recording: a proxy between a harness and an engine that loses no call.

`app` serves, `call` brings one call through and records it, `session` says whose it is, `log` writes (the core's thread
does), `engine` knows what is behind, `translate` speaks for routes on which engines return no ids, `face` is Python's
way in, `process` sets up a process that only records, `preflight` tries an engine out, `view` shows what goes on. Needs
the extra `record` (aiohttp).
"""
