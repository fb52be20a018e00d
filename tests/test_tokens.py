"""The core's tokenizer: the ids of the `tokenizers` package, bytes exactly, the hash that profiles hold."""

import functools
import json
from pathlib import Path

import made_tokenizers as made
import numpy as np
import pytest
import tito
from hypothesis import given
from hypothesis import strategies as st
from tito import _core
from tito.profile.source import tokenizer_hash
from tokenizers import Tokenizer, decoders, models

CAPTURES = Path(__file__).parent / "captures"
REAL = {
    "qwen2.5": functools.partial(made.qwen, "qwen2.5"),
    "qwen3": functools.partial(made.qwen, "qwen3"),
    "qwen3.5": functools.partial(made.qwen, "qwen3.5"),
    "deepseek": made.deepseek,
}
TEXTS = [
    "",
    " ",
    "\n\n\n  \t\n x",
    "Hello, world! It's I'LL we'Re they'd.",
    "def f(x):\r\n\treturn x ** 2  # ünïcödé\r\n",
    "1234567890 3.14159 1,000,000 ٣٤٥ ⅷ",
    "日本語のテキスト、中文文本。한국어 텍스트",
    "e\u0301 cafe\u0301 A\u030a \u1e9b\u0323",  # not NFC
    "हिन्दी में मात्राएँ தமிழ் ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 😀😀😀",
    "<|im_start|>user\nhi<|im_end|>\n<think>\n\n</think>\n\n<tool_call>{}</tool_call>",
    "<｜User｜>a<｜Assistant｜><think>",
    "almost <|im_start |> and < |im_end|> and <thin k>",
    "\u00a0\u2003\u200b\ufeff\u2028 odd spaces",
    "a" * 3000,
    " " * 3000 + "x",
    "\n" * 2000 + "  y",
    "$$$###@@@!!!" * 200,
    "\x00\x01\x7f\x85 control",
    "العربية مع \u202eاتجاه",
    "\U0010ffff \ufffd \ue000",
    (Path(__file__).read_text(encoding="utf-8")),
]


@pytest.fixture(scope="module", params=REAL)
def pair(request, tmp_path_factory):
    """A tokenizer of the package, and the core's from the same file."""
    tokenizer = REAL[request.param]()
    file = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    tokenizer.save(str(file))
    return tokenizer, _core.Tokenizer(file.parent), file


def package_ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_ids_are_those_of_the_package(pair):
    package, core, _ = pair
    for text in TEXTS:
        ids = core.encode(text)
        assert ids.dtype == np.int32
        assert ids.tolist() == package_ids(package, text), text[:60]


@given(st.text(max_size=80))
def test_ids_of_any_text_are_those_of_the_package(pair, text):
    package, core, _ = pair
    assert core.encode(text).tolist() == package_ids(package, text)


@given(
    st.lists(st.sampled_from([" ", "  ", "\n", "\t", "a", "The", "don't", "12", "é", "日", "<think>", "🙂", "#", "_"]))
)
def test_ids_of_pieces_put_together_are_those_of_the_package(pair, parts):
    package, core, _ = pair
    text = "".join(parts)
    assert core.encode(text).tolist() == package_ids(package, text)


def test_the_hash_is_the_profile_s(pair):
    package, core, file = pair
    assert core.hash == tokenizer_hash(package)
    assert _core.Tokenizer(file).hash == core.hash


def test_built_in_profiles_are_of_these_tokenizers(tmp_path):
    for family in made.BUILT_IN:
        made.qwen(family).save(str(tmp_path / "tokenizer.json"))
        assert _core.Tokenizer(tmp_path).hash == tito.Profile.named(family).tokenizer_hash


def test_decoding_gives_back_every_byte(pair):
    package, core, _ = pair
    normal = package.normalizer.normalize_str if package.normalizer else str
    for text in TEXTS:
        assert core.decode(core.encode(text)) == normal(text).encode()


def test_every_id_has_the_bytes_of_its_token(pair):
    """The twin: GPT-2's letters turned into bytes one by one, added tokens as they stand."""
    package, core, _ = pair
    bytes_of = {letter: byte for byte, letter in made._byte_letters().items()}
    added = package.get_added_tokens_decoder()
    size = package.get_vocab_size(with_added_tokens=True)
    step = 7 if size > 100_000 else 1
    for i in [*range(0, size, step), *added]:
        token = added[i].content if i in added else package.id_to_token(i)
        whole = i not in added and all(letter in bytes_of for letter in token)
        expected = bytes(bytes_of[letter] for letter in token) if whole else token.encode()
        assert core.decode([i]) == expected, (i, token)


def test_a_character_cut_in_two_stays_whole_in_bytes(pair):
    _, core, _ = pair
    text = "𒀀𒁀 𓀀𓃰 🧿🪬 ꙮ ﷽"
    ids = core.encode(text).tolist()
    parts = [core.decode([i]) for i in ids]
    assert b"".join(parts) == text.encode() == core.decode(ids)
    assert any(not _is_utf8(part) for part in parts), "no id ends inside a character: the test tests nothing"


def _is_utf8(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_ids_without_text_give_none(pair):
    package, core, _ = pair
    size = package.get_vocab_size(with_added_tokens=True)
    assert core.decode([size, size + 100, 2**31 - 1]) == b""


# Other kinds


def sentence_piece():
    """A small unigram model with scores whose exponents Python and Rust write differently."""
    scores = [0.0, 0.0, 0.0, -1.5, -2.5e-05, -1e-07, -12345.678, -3.0000000000000004, -1e17, -0.1]
    tokens = ["<unk>", "<s>", "</s>", "▁", "▁he", "llo", "▁wor", "ld", "<0x0A>", "é"]
    tokenizer = Tokenizer(models.Unigram(list(zip(tokens, scores, strict=True)), unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def test_sentence_piece_is_decoded_and_hashed(tmp_path):
    package = sentence_piece()
    package.save(str(tmp_path / "tokenizer.json"))
    core = _core.Tokenizer(tmp_path)
    assert core.hash == tokenizer_hash(package)
    assert core.decode([1, 4, 5, 6, 7, 8, 9, 2]) == "<s> hello world\né</s>".encode()


def test_a_hash_tells_merges_and_added_tokens(tmp_path):
    seen = set()
    whole = json.loads(made.stand_in(("<a>", "<b>")).to_str())
    for change in range(4):
        parts = json.loads(json.dumps(whole))
        if change == 1:
            parts["model"]["merges"][:2] = parts["model"]["merges"][1::-1]
        elif change == 2:
            parts["added_tokens"][0]["special"] = False
        elif change == 3:
            parts["added_tokens"].pop()
        (tmp_path / "tokenizer.json").write_text(json.dumps(parts))
        core = _core.Tokenizer(tmp_path)
        assert core.hash == tokenizer_hash(Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
        seen.add(core.hash)
    assert len(seen) == 4


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(tito.WorldError, match=r"none/tokenizer\.json: cannot read") as caught:
        _core.Tokenizer(tmp_path / "none")
    assert caught.value.hint == "check the path; unless it begins with /, it starts in the folder where tito runs"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(tito.UsageError, match=r"tokenizer\.json: not a tokenizer: ") as caught:
        _core.Tokenizer(tmp_path)
    assert caught.value.hint == "name the folder of a model, or its tokenizer.json, with --tokenizer"
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(tito.UsageError) as caught:
        _core.Tokenizer(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/tokenizer.json: not a tokenizer: its decoder (WordPiece) is neither byte-level nor SentencePiece"
    )


# In a run


def test_a_tokenizer_must_be_the_profile_s(tmp_path):
    made.qwen("qwen3.5").save(str(tmp_path / "tokenizer.json"))
    capture = CAPTURES / "qwen3" / "calls.jsonl"
    with pytest.raises(tito.DataError) as caught:
        tito.convert(capture, tmp_path / "o.parquet", tokenizer=tmp_path)
    ours, theirs = tito.Profile.named("qwen3.5").tokenizer_hash, tito.Profile.named("qwen3").tokenizer_hash
    assert str(caught.value) == (
        f"{capture}: record 1, turn 0: --tokenizer {tmp_path} is not the tokenizer of these ids: its hash is {ours}, "
        f"that of profile qwen3 is {theirs}"
    )
    assert caught.value.hint == (
        "name the folder of the model that made the captures, or the profile of this one with --profile"
    )
    call = tito.Call(prompt_ids=_core.call_ids(str(capture))[0]["prompt_ids"], output_ids=[9707, 151645])
    with pytest.raises(tito.DataError, match="memory: record 1"):
        tito.expand_turns([call], tokenizer=tmp_path)


def test_a_tokenizer_alone_changes_no_row(tmp_path):
    made.qwen("qwen3").save(str(tmp_path / "tokenizer.json"))
    capture = CAPTURES / "qwen3" / "calls.jsonl"
    tito.convert(capture, tmp_path / "a.parquet")
    tito.convert(capture, tmp_path / "b.parquet", tokenizer=tmp_path)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_tokenizer_that_is_not_asked_for_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tokenizer.json").write_text("broken")
    capture = CAPTURES / "qwen3" / "calls.jsonl"
    tito.convert(capture, "o.parquet", policies=tito.Policies(think="strip"))
    with pytest.raises(tito.UsageError, match="not a tokenizer"):
        tito.convert(capture, "p.parquet", tokenizer=".")
    assert not Path("p.parquet").exists()
