"""Our own server: an OpenAI-compatible face on transformers, for a CPU, for tests and for small models.

`engine` samples, `wire` reads requests and shapes replies as vLLM does, `app` is HTTP. One sequence at a time, every id
given back. Needs the extra `serve`.
"""
