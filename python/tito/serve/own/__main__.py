"""`python -m tito.serve.own MODEL`: what `tito serve --engine tito` starts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tito.adapter import BaseModel
from tito.errors import TitoError, WorldError, with_hint
from tito.profile.errors import NoTemplateError
from tito.profile.source import Source, read_source
from tito.profile.template import ChatTemplate
from tito.serve.own.engine import SERVE_EXTRA, Engine
from tito.serve.parsers import PARSERS


def main() -> int:
    """Loads everything, then serves until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m tito.serve.own", allow_abbrev=False)
    parser.add_argument("base", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-lora-rank", type=int, default=16)
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--tool-parser", choices=tuple(PARSERS))
    parser.add_argument("--reasoning-parser")
    parser.add_argument("--chat-template", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    try:
        return _serve(args)
    except TitoError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 3


def _serve(args: argparse.Namespace) -> int:
    try:
        import torch
        from aiohttp import web
    except ImportError as error:
        raise with_hint(WorldError(f"the server needs {error.name}"), SERVE_EXTRA) from error
    from tito.serve.own.app import Face, make_app

    torch.set_num_threads(args.threads)
    base = BaseModel(args.base)
    source, template = _source(args.base, args.chat_template)
    engine = Engine(base, dtype=args.dtype, context=args.max_model_len, max_rank=args.max_lora_rank)
    for pair in args.adapter:
        name, _, folder = pair.partition("=")
        engine.load(name, Path(folder))
    face = Face(
        engine=engine,
        model=args.name,
        root=str(args.base),
        source=source,
        template=template,
        tool_parser=args.tool_parser,
        reasoning_parser=args.reasoning_parser,
        stops=_stops(source),
    )
    web.run_app(make_app(face), host=args.host, port=args.port, print=None, access_log=None)
    return 0


def _stops(source: Source | None) -> frozenset[int]:
    """The ids that end an output: the model's own, or its tokenizer's end token."""
    if source is None or source.stop_ids:
        return frozenset(() if source is None else source.stop_ids)
    end = source.tokenizer.token_to_id(source.special.get("eos_token", ""))
    return frozenset(() if end is None else (end,))


def _source(folder: Path, chat_template: Path | None) -> tuple[Source | None, ChatTemplate | None]:
    if not (folder / "tokenizer.json").is_file():
        return None, None
    try:
        source = read_source(folder, chat_template=chat_template)
    except NoTemplateError:
        return read_source(folder, chat_template=""), None
    return source, ChatTemplate(source.chat_template, source.special)


if __name__ == "__main__":
    sys.exit(main())
