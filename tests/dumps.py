"""Small dumps by hand: one call, one file, said in a line."""

import json

PROMPT = [151644, 872, 198, 13048, 151645, 198, 151644, 77091, 198]
PROMPT_35 = [248045, 846, 198, 13048, 248046, 198, 248045, 74455, 198, 248068, 198]
OUTPUT = [9707, 151645]
THOUGHT = [151667, 198, 40, 151668, 271, 9707, 151645]


def prompt(n):
    """A prompt unlike all others."""
    return [*PROMPT[:3], 1000 + n, *PROMPT[3:]]


def line(n=0, *, output=None, **more):
    """One native line: call c<n> of rollout r."""
    output = [*OUTPUT[:1], 1000 + n, *OUTPUT[1:]] if output is None else output
    call = {"rollout_id": "r", "turn": n, "call_id": f"c{n}", "prompt_ids": prompt(n), "output_ids": output}
    return json.dumps({**call, **more})


def reply(n=0, **more):
    """One chat completion."""
    choice = {"index": 0, "finish_reason": "stop", "stop_reason": None, "token_ids": [9707, 1000 + n, 151645]}
    usage = {"prompt_tokens": len(prompt(n)), "completion_tokens": 3}
    made = {"id": f"c{n}", "object": "chat.completion", "prompt_token_ids": prompt(n), "choices": [choice]}
    return {**made, "usage": usage, **more}


def logged(n=0, response=None, **more):
    """One line of a call log."""
    return json.dumps({"session_id": "r", "turn": n, "response": response or reply(n), **more})


def write(path, *lines, end="\n"):
    """A file of these lines."""
    path.write_bytes(b"".join(x if isinstance(x, bytes) else (x + end).encode() for x in lines))
    return path
