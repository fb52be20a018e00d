"""Reading a tokenizer: where its parts are, what identifies it, and text to ids with positions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tito.errors import WorldError, with_hint
from tito.profile.errors import PROFILE_EXTRA, NoTemplateError, ProfileError

_GIVE_TEMPLATE = "give the template with chat_template= (its text, or a Path to it)"


@dataclass(frozen=True)
class Source:
    """A tokenizer with what stands beside it."""

    name: str
    tokenizer: Any
    """A `tokenizers.Tokenizer` of our own, without truncation and padding."""
    chat_template: str
    special: Mapping[str, str]
    """Special tokens by name (`bos_token`, `eos_token`, ...), as templates see them."""
    stop_ids: tuple[int, ...]
    """The end-of-text ids of `generation_config.json`, in its order; empty where there is none."""
    model_ids: int | None
    """`vocab_size` of `config.json`: the rows of the embedding."""


def read_source(
    source: str | os.PathLike[str] | object,
    *,
    name: str | None = None,
    chat_template: str | os.PathLike[str] | None = None,
) -> Source:
    """Reads a tokenizer directory, a `tokenizer.json` or a transformers tokenizer; see `Profile.from_tokenizer`."""
    given = chat_template if chat_template is None or isinstance(chat_template, str) else _text(Path(chat_template))
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            return _from_directory(path, name, given)
        if path.is_file():
            return _from_file(path, name, given)
        raise ProfileError(
            f"{path}: no such directory or file", "name a directory with a tokenizer.json; nothing is downloaded"
        )
    return _from_object(source, name, given)


def _from_directory(path: Path, name: str | None, template: str | None) -> Source:
    file = path / "tokenizer.json"
    if not file.is_file():
        hint = "save a fast tokenizer there: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        raise ProfileError(f"{path}: no tokenizer.json", hint)
    config = _json(path / "tokenizer_config.json")
    special = _special({**_json(path / "special_tokens_map.json"), **config})
    if template is None:
        template = _directory_template(path, config)
    stop_ids, rows = _beside(path)
    return Source(
        name=name or path.resolve().name,
        tokenizer=_parse(file, _text(file)),
        chat_template=template,
        special=special,
        stop_ids=stop_ids,
        model_ids=rows,
    )


def _beside(path: Path) -> tuple[tuple[int, ...], int | None]:
    """What a model directory says beside the tokenizer: the end-of-text ids and the rows of the embedding."""
    eos = _json(path / "generation_config.json").get("eos_token_id")
    model = _json(path / "config.json")
    rows = model.get("vocab_size", _mapping(model.get("text_config")).get("vocab_size"))
    stop_ids = tuple(i for i in (eos if isinstance(eos, list) else [eos]) if isinstance(i, int))
    return stop_ids, rows if isinstance(rows, int) else None


def _directory_template(path: Path, config: Mapping[str, Any]) -> str:
    if (file := path / "chat_template.jinja").is_file():
        return _text(file)
    for holder in (_json(path / "chat_template.json"), config):
        if (found := _pick_template(holder.get("chat_template"))) is not None:
            return found
    where = "chat_template.jinja, chat_template.json or tokenizer_config.json"
    raise NoTemplateError(f"{path}: no chat template in {where}", _GIVE_TEMPLATE)


def _pick_template(value: object) -> str | None:
    """A template as configs hold it: a text, or several under names, of which `default` counts."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return _pick_template(value.get("default"))
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, Mapping)}
        return _pick_template(named.get("default"))
    return None


def _from_file(path: Path, name: str | None, template: str | None) -> Source:
    if template is None:
        raise NoTemplateError(f"{path}: a tokenizer file holds no chat template", _GIVE_TEMPLATE)
    special = _special(_json(path.parent / "tokenizer_config.json"))
    label = name or (path.resolve().parent.name if path.name == "tokenizer.json" else path.stem)
    return Source(label, _parse(path, _text(path)), template, special, (), None)


def _from_object(source: object, name: str | None, template: str | None) -> Source:
    backend = getattr(source, "backend_tokenizer", None) or getattr(source, "_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        kind = type(source).__name__
        raise ProfileError(f"{kind} is not a fast tokenizer", "pass a directory, a tokenizer.json or a fast tokenizer")
    origin = str(getattr(source, "name_or_path", "") or "")
    label = name or Path(origin).name or "unnamed"
    if template is None:
        template = _pick_template(getattr(source, "chat_template", None))
    if template is None:
        raise NoTemplateError(f"{label}: the tokenizer has no chat template", _GIVE_TEMPLATE)
    special = _special(_mapping(getattr(source, "special_tokens_map", None)))
    stop_ids, rows = _beside(Path(origin)) if origin and Path(origin).is_dir() else ((), None)
    return Source(label, _parse(Path(label), backend.to_str()), template, special, stop_ids, rows)


def tokenizer_hash(tokenizer: Any) -> str:
    """What makes two tokenizers one: every token and its id, the merges in order (or the scores), the added tokens.

    File bytes, the padded embedding size, normaliser and template do not count.
    """
    parts = json.loads(tokenizer.to_str())
    model = parts["model"]
    vocabulary, scores = model["vocab"], None
    if isinstance(vocabulary, list):
        vocabulary, scores = {entry[0]: n for n, entry in enumerate(vocabulary)}, [entry[1] for entry in vocabulary]
    # Some files hold the added tokens in the vocabulary too.
    vocabulary.update((token["content"], token["id"]) for token in parts["added_tokens"])
    flags = ("id", "content", "special", "lstrip", "rstrip", "single_word", "normalized")
    content = {
        "vocabulary": sorted(vocabulary.items(), key=lambda item: (item[1], item[0])),
        # Older files write a merge as "a b", newer ones as ["a", "b"].
        "merges": [m.split(" ") if isinstance(m, str) else m for m in model.get("merges") or []],
        "scores": scores,
        "added": [[token[flag] for flag in flags] for token in sorted(parts["added_tokens"], key=lambda t: t["id"])],
    }
    return _hash(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def template_hash(text: str) -> str:
    """Hash of a template's text; only line endings are made alike."""
    return _hash(text.replace("\r\n", "\n").replace("\r", "\n"))


def newline_ids(tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    r"""All ids below `vocab_size` whose text is only `\n`, ascending. `\r` is text: no template drops it."""
    texts = tokenizer.decode_batch([[i] for i in range(vocab_size)], skip_special_tokens=False)
    return tuple(i for i, text in enumerate(texts) if text and not text.strip("\n"))


def _hash(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _parse(path: Path, text: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as e:
        raise with_hint(WorldError("reading a tokenizer needs tokenizers"), PROFILE_EXTRA) from e
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as e:  # tokenizers raises plain Exception
        raise ProfileError(f"{path}: not a tokenizer: {e}", "name a tokenizer.json made by tokenizers") from e
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise ProfileError(f"{path}: not UTF-8 text: {e}", "name a text file") from None


def _json(path: Path) -> Mapping[str, Any]:
    """A JSON object beside the tokenizer; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as e:
        raise ProfileError(f"{path}: {e}", "repair the file or take it away") from None
    if not isinstance(value, dict):
        raise ProfileError(f"{path}: a JSON object was wanted", "repair the file or take it away")
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens of a tokenizer config: texts, or objects with `content`."""
    found = {}
    for key, value in config.items():
        content = value.get("content") if isinstance(value, Mapping) else value
        if key.endswith("_token") and content is not None and not isinstance(content, bool | list):
            found[key] = str(content)
    return found
