"""Serving: servers that are checked before they start and believed only when it is seen.

`plan` checks, `recipes` are command lines, `launch` runs one, `client` speaks to it, `effect` compares two served
models, `swap` loads and unloads, `record` is `serving.json`, `parsers` reads tool calls, `own` is a server of ours.
"""
