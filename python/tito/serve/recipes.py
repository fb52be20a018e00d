"""Commands that serve a plan: vLLM, SGLang, llama.cpp, and our own server."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tito.errors import UsageError, WorldError, with_hint
from tito.serve.plan import Plan

__all__ = ["RECIPES", "Command", "command_for", "executable"]

# SGLang's names for the same forms.
_SGLANG_TOOL = {"hermes": "qwen25"}


@dataclass(frozen=True, slots=True)
class Command:
    """A server's command line, what is set in its environment, and what must be run before."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    before: tuple[tuple[str, ...], ...] = ()
    """Conversions that the user runs first."""

    def shown(self) -> str:
        """The whole as lines of a shell."""
        lines = [shlex.join(words) for words in self.before]
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        return "\n".join([*lines, f"{settings} {shlex.join(self.words)}".strip()])


def command_for(plan: Plan, engine: str, extra: Sequence[str] = ()) -> Command:
    """The command that serves a plan, with the user's own flags at the end. `UsageError` for a plan that the engine
    cannot serve."""
    made = RECIPES[engine](plan)
    return Command((*made.words, *extra), made.environment, made.before)


def _vllm(plan: Plan) -> Command:
    words = ["vllm", "serve", str(plan.base.folder.resolve()), "--served-model-name", plan.model]
    words += ["--host", plan.host, "--port", str(plan.port), "--dtype", plan.dtype]
    if plan.context is not None:
        words += ["--max-model-len", str(plan.context)]
    if plan.max_rank is not None:
        words += [
            "--enable-lora",
            "--max-lora-rank",
            str(plan.max_rank),
            "--max-loras",
            str(max(1, len(plan.adapters))),
        ]
        if plan.adapters:
            words += ["--lora-modules", *(f"{a.name}={a.folder}" for a in plan.adapters)]
    if plan.tool_parser is not None:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", plan.tool_parser]
    if plan.reasoning_parser is not None:
        words += ["--reasoning-parser", plan.reasoning_parser]
    if plan.chat_template is not None:
        words += ["--chat-template", str(plan.chat_template.resolve())]
    environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if plan.max_rank is not None else {}
    return Command(tuple(words), environment)


def _sglang(plan: Plan) -> Command:
    words = ["python", "-m", "sglang.launch_server", "--model-path", str(plan.base.folder.resolve())]
    words += ["--served-model-name", plan.model, "--host", plan.host, "--port", str(plan.port), "--dtype", plan.dtype]
    if plan.context is not None:
        words += ["--context-length", str(plan.context)]
    if plan.max_rank is not None:
        words += ["--enable-lora", "--max-lora-rank", str(plan.max_rank)]
        words += ["--max-loras-per-batch", str(max(2, len(plan.adapters) + 1))]
        if plan.adapters:
            words += ["--lora-paths", *(f"{a.name}={a.folder}" for a in plan.adapters)]
        else:
            words += ["--lora-target-modules", "all"]
    if plan.tool_parser is not None:
        words += ["--tool-call-parser", _SGLANG_TOOL.get(plan.tool_parser, plan.tool_parser)]
    if plan.reasoning_parser is not None:
        words += ["--reasoning-parser", plan.reasoning_parser]
    if plan.chat_template is not None:
        words += ["--chat-template", str(plan.chat_template.resolve())]
    return Command(tuple(words), {})


def _llama_cpp(plan: Plan) -> Command:
    """llama.cpp serves GGUF files, and one adapter at a time by name; it returns no ids of prompts."""
    if len(plan.adapters) > 1:
        raise with_hint(
            UsageError(f"llama.cpp: {len(plan.adapters)} adapters under names of their own"), "serve one, or use vllm"
        )
    base = str(plan.base.folder.resolve())
    gguf = f"{plan.model}.gguf"
    kind = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}.get(plan.dtype, "bf16")
    before = [("python", "convert_hf_to_gguf.py", base, "--outtype", kind, "--outfile", gguf)]
    words = ["llama-server", "--model", gguf, "--host", plan.host, "--port", str(plan.port), "--jinja"]
    words += ["--alias", plan.adapters[0].name if plan.adapters else plan.model]
    if plan.context is not None:
        words += ["--ctx-size", str(plan.context)]
    for adapter in plan.adapters:
        file = f"{adapter.name}.gguf"
        before.append(("python", "convert_lora_to_gguf.py", "--base", base, "--outfile", file, adapter.folder))
        words += ["--lora", file]
    if plan.chat_template is not None:
        words += ["--chat-template-file", str(plan.chat_template.resolve())]
    return Command(tuple(words), {}, tuple(before))


def _tito(plan: Plan) -> Command:
    words = [sys.executable, "-m", "tito.serve.own", str(plan.base.folder.resolve()), "--name", plan.model]
    words += ["--host", plan.host, "--port", str(plan.port), "--dtype", plan.dtype]
    if plan.context is not None:
        words += ["--max-model-len", str(plan.context)]
    if plan.max_rank is not None:
        words += ["--max-lora-rank", str(plan.max_rank)]
    for adapter in plan.adapters:
        words += ["--adapter", f"{adapter.name}={adapter.folder}"]
    if plan.tool_parser is not None:
        words += ["--tool-parser", plan.tool_parser]
    if plan.reasoning_parser is not None:
        words += ["--reasoning-parser", plan.reasoning_parser]
    if plan.chat_template is not None:
        words += ["--chat-template", str(plan.chat_template.resolve())]
    return Command(tuple(words), {})


RECIPES: Mapping[str, Callable[[Plan], Command]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": _llama_cpp,
    "tito": _tito,
}
"""Every engine by name."""


def executable(words: Sequence[str], engine: str) -> list[str]:
    """The words with the program's path; `WorldError` where it is not installed."""
    program, *rest = words
    if Path(program).is_absolute():
        return list(words)
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.is_file() else shutil.which(program)
    if found is None:
        raise with_hint(
            WorldError(f"{engine}: {program} is not installed here"),
            "install it, or print the command for another machine with --dry-run",
        )
    return [found, *rest]
