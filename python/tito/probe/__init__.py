"""Probes: what a served student does, in seconds, before anything is spent on it.

`prompts` reads what is asked, `assertions` judge one reply each, `templates` compare the prompts that were trained on
with those that the server makes, `run` asks and puts it together.
"""
