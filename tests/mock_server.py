"""A server that speaks the wire of an engine and samples from a hash: honest, or with one bug that engines have had."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def content(path):
    """The path and what stands there: weights of one folder change when it is written again."""
    file = Path(path) / "adapter_model.safetensors"
    return f"{path} {hashlib.sha256(file.read_bytes()).hexdigest()}" if file.is_file() else path


class Mock:
    """`weights` is what each name samples from; `bugs` are names of the faults below."""

    def __init__(self, base="base", *, adapters=None, bugs=(), context=4096, answer=None, render=None, parse=None):
        self.base, self.bugs, self.context = base, set(bugs), context
        self.roots = {name: str(folder) for name, folder in (adapters or {}).items()}
        self.weights = {name: base if "deaf" in self.bugs else root for name, root in self.roots.items()}
        self.remembered = dict(self.weights)
        self.answer = answer or self._hash
        self.render = render or (lambda request: [1, 2, 3])
        self.parse = parse or (lambda ids: {"content": "text", "reasoning": None, "tool_calls": []})
        self.requests = []
        self.noise = 0.005

    def _hash(self, weights, prompt):
        digest = hashlib.sha256(f"{weights} {list(prompt)}".encode()).digest()
        return [1 + int.from_bytes(digest[i : i + 2]) for i in range(0, 16, 2)]

    def models(self):
        shared = {"object": "model", "max_model_len": self.context}
        cards = [{"id": self.base, "root": "/base", "parent": None, **shared}]
        return {"data": [*cards, *({"id": n, "root": r, "parent": self.base, **shared} for n, r in self.roots.items())]}

    def load(self, body):
        name, path = body["lora_name"], body["lora_path"]
        if name in self.roots and not body.get("load_inplace"):
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        if "small" in self.bugs:
            return 500, {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16.", "code": 500}}
        if "old_root" not in self.bugs or name not in self.roots:
            self.roots[name] = path
        means = path if "old_files" in self.bugs else content(path)
        if "keeps" in self.bugs:
            self.weights[name] = self.remembered.setdefault(name, means)
        elif "mixes" in self.bugs and self.remembered:
            self.weights[name] = next(iter(self.remembered.values()))
        else:
            self.weights[name] = self.base if "deaf" in self.bugs else means
        self.remembered.setdefault(name, self.weights[name])
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body):
        name = body["lora_name"]
        if "stubborn" not in self.bugs:
            del self.roots[name], self.weights[name]
        return 200, "Success"

    def sample(self, body, prompt):
        if len(prompt) == self.context:
            said = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
            return 400, {"error": {"message": said, "type": "BadRequestError", "param": "max_tokens", "code": 400}}
        if len(prompt) > self.context:
            said = f"This model's maximum context length is {self.context} tokens. However, ..."
            return 400, {"error": {"message": said, "type": "BadRequestError", "param": "input_tokens", "code": 400}}
        if body["model"] != self.base and body["model"] not in self.weights:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if "faulty" in self.bugs:
            return 500, {"error": {"message": "EngineCore encountered an issue.", "code": 500}}
        weights = self.weights.get(body["model"], self.base)
        silent = "silent" in self.bugs and body["model"] != self.base
        ids = [] if silent else list(self.answer(weights, prompt))[: body["max_tokens"]]
        ids = [-7, *ids[1:]] if "no_id" in self.bugs else ids
        seen = [*prompt[:-1], 0] if "other_prompt" in self.bugs else list(prompt)
        told = len(ids) + ("miscount" in self.bugs)
        usage = {"prompt_tokens": len(seen), "completion_tokens": told, "total_tokens": len(seen) + told}
        return 200, (None if "no_ids" in self.bugs else ids, seen, usage)

    def completions(self, body):
        prompt = body["prompt"] if isinstance(body["prompt"], list) else list(body["prompt"].encode())
        status, said = self.sample(body, prompt)
        if status != 200:
            return status, said
        ids, seen, usage = said
        weights = self.weights.get(body["model"], self.base)
        odds = [
            -(int(hashlib.sha256(f"{weights} {i}".encode()).hexdigest()[:4], 16) / 65536) for i in range(len(ids or ()))
        ]
        if "noisy" in self.bugs:
            odds = [value - self.noise * (len(self.requests) % 3) for value in odds]
        finish = "abort" if "aborts" in self.bugs else "stop"
        choice = {"index": 0, "text": "", "finish_reason": finish, "token_ids": ids, "prompt_token_ids": seen}
        return 200, {"choices": [{**choice, "logprobs": {"token_logprobs": odds}}], "usage": usage}

    def chat(self, body):
        status, said = self.sample(body, self.render(body))
        if status != 200:
            return status, said
        ids, seen, usage = said
        choice = {"index": 0, "message": {"role": "assistant", **self.parse(ids)}, "token_ids": ids}
        return 200, {"prompt_token_ids": seen, "choices": [{**choice, "finish_reason": "stop"}], "usage": usage}


ROUTES = {
    "/v1/completions": Mock.completions,
    "/v1/chat/completions": Mock.chat,
    "/v1/load_lora_adapter": Mock.load,
    "/v1/unload_lora_adapter": Mock.unload,
}


@contextmanager
def running(mock):
    """Serves while the block runs; gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, value):
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            if "garbage" in mock.bugs:
                data = b"<html>not an engine</html>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            if self.path == "/v1/models":
                self.answer(200, mock.models())
            elif self.path == "/version":
                self.answer(200, {"version": "0.32.0"})
            else:
                self.answer(404, {"error": {"message": "Not Found"}})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            mock.requests.append((self.path, body))
            self.answer(*ROUTES[self.path](mock, body))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
