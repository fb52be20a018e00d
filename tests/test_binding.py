"""What the binding takes and gives: lists, arrays of every layout, Arrow batches; and its errors."""

import itertools
import json
import pickle

import dumps
import numpy as np
import pyarrow as pa
import pytest
import reference
import runs
import strategies
import tito
from hypothesis import given
from hypothesis import strategies as st
from tito import _core

IDS = [5, 151667, 198, 40, 151668, 271, 9707, 151645]
KEPT = [9707, 151645]
NO_IDS = "ids are one-dimensional arrays (or lists) of whole numbers from 0 to 2147483647"
QWEN35 = tito.Profile.named("qwen3.5")


def unaligned(ids):
    data = b"\0" + np.array(ids, np.int32).tobytes()
    return np.frombuffer(data, np.int32, offset=1)


def read_only(ids):
    array = np.array(ids, np.int32)
    array.flags.writeable = False
    return array


LAYOUTS = {
    "list": list,
    "tuple": tuple,
    "int32": lambda ids: np.array(ids, np.int32),
    "int64": lambda ids: np.array(ids, np.int64),
    "uint32": lambda ids: np.array(ids, np.uint32),
    "uint64": lambda ids: np.array(ids, np.uint64),
    "big endian": lambda ids: np.array(ids, ">i4"),
    "every other": lambda ids: np.repeat(np.array(ids, np.int32), 2)[::2],
    "backwards": lambda ids: np.array(ids[::-1], np.int32)[::-1],
    "column": lambda ids: np.stack([np.array(ids, np.int32)] * 3, axis=1)[:, 1],
    "read only": read_only,
    "unaligned": unaligned,
    "numpy scalars": lambda ids: [np.int64(one) for one in ids],
    "arrow": lambda ids: pa.array(ids, pa.int32()),
    "sliced arrow": lambda ids: pa.array([1, *ids, 2], pa.int32())[1:-1],
    "pandas-like": lambda ids: memoryview(np.array(ids, np.int32)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_are_taken_from_every_layout(layout):
    make = LAYOUTS[layout]
    stripped = tito.strip_think(make(IDS))
    assert (stripped.tolist(), stripped.dtype, stripped.ndim) == (KEPT, np.int32, 1)
    assert tito.find_think(make(IDS)).spans.tolist() == [[0, 6]]
    assert tito.strip_think(make([7, 8])).tolist() == [7, 8]
    assert tito.strip_think(make(IDS), prompt=make([151644, 77091, 198])).tolist() == [5, *KEPT]
    assert tito.labels(make([1]), make(IDS)).tolist() == [-100, *IDS]
    assert tito.loss_mask(make([1]), make(IDS)).tolist() == [0] + [1] * len(IDS)


@pytest.mark.parametrize("empty", [[], (), np.array([]), np.array([], np.int32), pa.array([], pa.int32())])
def test_no_ids_are_fine(empty):
    stripped = tito.strip_think(empty)
    assert (stripped.tolist(), stripped.dtype) == ([], np.int32)
    assert tito.loss_mask(empty, empty).tolist() == []


def test_what_goes_in_is_not_changed():
    ids = np.array(IDS, np.int32)
    stripped = tito.strip_think(ids)
    stripped[:] = 0
    same = tito.strip_think(np.array(KEPT, np.int32))
    same[:] = 0
    assert ids.tolist() == IDS


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1]], "ids: 2 dimensions, not 1"),
        (np.zeros((2, 2), np.int32), "ids: 2 dimensions, not 1"),
        (np.int32(5), "ids: 0 dimensions, not 1"),
        (None, "ids: 0 dimensions, not 1"),
        ("abc", "ids: 0 dimensions, not 1"),
        ([1.0], "ids: values of type float64, not whole numbers"),
        (np.array([1], np.float32), "ids: values of type float32, not whole numbers"),
        ([True], "ids: values of type bool, not whole numbers"),
        (["7"], "ids: values of type <U1, not whole numbers"),
        ([None], "ids: values of type object, not whole numbers"),
        ([10**30], "ids: values of type object, not whole numbers"),
        ([3, -1], "ids: -1 is no id"),
        (np.array([3, -1], np.int32), "ids: -1 is no id"),
        (np.array([3, -(2**31)], np.int32), "ids: -2147483648 is no id"),
        (np.array([3, -1], np.int64), "ids: -1 is no id"),
        ([2**31], "ids: 2147483648 is no id"),
        (np.array([2**32 + 5], np.uint64), "ids: 4294967301 is no id"),
        (unaligned([3, -1]), "ids: -1 is no id"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(ids, message):
    for call in (tito.strip_think, tito.find_think):
        with pytest.raises(tito.UsageError) as caught:
            call(ids)
        assert (str(caught.value), caught.value.hint) == (message, NO_IDS)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1], [2, 3]], "ids: not one list of numbers"),
        ([True, 2], "ids: True at position 0 is no whole number"),
        ((7, 0, 1, np.False_), "ids: False at position 3 is no whole number"),
        (np.ma.array([1, 2], mask=[0, 1]), "ids: values are masked"),
        (np.ma.array([1, 2], np.int32, mask=[1, 0]), "ids: values are masked"),
    ],
)
def test_what_numpy_would_make_ids_of_is_refused(ids, message):
    for call in (tito.strip_think, tito.find_think):
        with pytest.raises(tito.UsageError) as caught:
            call(ids)
        assert str(caught.value) == message
    assert tito.strip_think([0, 1, np.int64(1)]).tolist() == [0, 1, 1]
    assert tito.strip_think(np.ma.array([1, 2], mask=[0, 0])).tolist() == [1, 2]


@pytest.mark.parametrize("at", [0, 3])
def test_ids_of_another_family_are_refused_without_a_profile(at):
    ids = [1, 2, 3, 4]
    ids[at] = 151936
    hint = 'name the family: profile=tito.Profile.named("qwen3.5"), or tito.Profile.from_tokenizer(DIR)'
    for call in (tito.strip_think, tito.find_think):
        with pytest.raises(tito.UsageError) as caught:
            call(ids)
        expected = f"id 151936 at position {at} is not a Qwen3 id, and without profile= Qwen3 is assumed"
        assert (str(caught.value), caught.value.hint) == (expected, hint)
        with pytest.raises(tito.UsageError, match=r"is not a Qwen3 id"):
            call([1], prompt=ids)
    assert tito.strip_think(ids, profile=QWEN35).tolist() == ids
    assert tito.strip_think([151935]).tolist() == [151935]


def test_how_the_prompt_ended():
    ids = [40, 151668, 271, 9707]
    header = [151644, 77091, 198]
    for opened, kept in ((True, [9707]), ("yes", [9707]), ("pair", [9707]), (False, ids), ("no", ids), (None, [9707])):
        assert tito.strip_think(ids, opened=opened).tolist() == kept, opened
    assert tito.strip_think(ids, prompt=header).tolist() == ids
    assert tito.strip_think(ids, prompt=[*header, 151667, 198]).tolist() == [9707]
    assert tito.strip_think(ids, prompt=[*header, 151667, 271, 151668, 271]).tolist() == [9707]
    assert tito.strip_think(ids, prompt=[1, 2]).tolist() == [9707]
    for wrong in ("maybe", 1, 0, [], 1.0):
        with pytest.raises(tito.UsageError) as caught:
            tito.strip_think(ids, opened=wrong)
        assert str(caught.value) == 'opened: not True, False, "yes", "pair" or "no"'
        assert caught.value.hint == "or give prompt= and leave it out"
    with pytest.raises(tito.UsageError) as caught:
        tito.strip_think(ids, opened=True, prompt=header)
    assert str(caught.value) == "prompt and opened are both given"
    with pytest.raises(tito.UsageError) as caught:
        tito.strip_think(ids, profile="qwen3")
    assert str(caught.value) == "profile: not a tito.Profile"


@given(strategies.rollouts(), st.sampled_from(("yes", "pair", "no", None)), st.booleans())
def test_the_twin_finds_the_same(drawn, opened, by_prompt):
    family, rollouts = drawn
    profile = tito.Profile.named(family.name)
    plain = json.loads(profile.to_json())
    for rollout in rollouts:
        for call in rollout.calls:
            how = reference.opened_by(call.prompt, plain) if by_prompt else opened or "unknown"
            given_ = {"prompt": call.prompt} if by_prompt else {"opened": opened}
            found = tito.find_think(call.output, profile=profile, **given_)
            expected = reference.find_think(call.output, how, plain)
            assert found.spans.tolist() == expected["spans"]
            assert found.spans.dtype == np.int64
            assert found.spans.shape == (len(expected["spans"]), 2)
            for flag in ("absent", "unterminated", "odd", "split_marker"):
                assert getattr(found, flag) == expected[flag]
            stripped = tito.strip_think(call.output, profile=profile, **given_)
            assert stripped.tolist() == reference.strip_think(call.output, how, plain)


# Batches

BATCH = [[1, 151667, 2, 151668, 3], [], [151667, 4], [5, 151668, 6, 7]]


def test_offsets():
    values, offsets = np.concatenate([np.array(one, np.int32) for one in BATCH]), np.cumsum([0, *map(len, BATCH)])
    for form in (offsets, offsets.tolist(), offsets.astype(np.int32), offsets.astype(np.uint64)):
        kept, ends = tito.strip_think(values, offsets=form)
        assert (kept.dtype, ends.dtype, ends[0]) == (np.int32, np.int64, 0)
        lists = [kept[a:b].tolist() for a, b in itertools.pairwise(ends)]
        assert lists == [tito.strip_think(one).tolist() for one in BATCH]
    kept, ends = tito.strip_think([], offsets=[0], opened=False)
    assert (kept.tolist(), ends.tolist()) == ([], [0])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 3, 2, 4], "list 1 is 3..2, but there are 4 values"),
        ([0, 5, 4], "list 0 is 0..5, but there are 4 values"),
        ([0, -1, 4], "list 0 is 0..-1, but there are 4 values"),
        ([0, 2**62], f"offsets: they go from 0 to {2**62}, and there are 4 ids"),
        ([0, 3], "offsets: they go from 0 to 3, and there are 4 ids"),
        ([1, 4], "offsets: they go from 1 to 4, and there are 4 ids"),
        ([], "offsets: there are none, and there are 4 ids"),
        ([True, 4], "offsets: True at position 0 is no whole number"),
        ([0.0, 2.0], "offsets: values of type float64, not whole numbers"),
        ([[0, 2]], "offsets: 2 dimensions, not 1"),
    ],
)
def test_offsets_that_are_wrong(offsets, message):
    with pytest.raises(tito.UsageError) as caught:
        tito.strip_think(np.arange(4), offsets=offsets)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_arrow_lists(kind):
    array = pa.array([*BATCH[:2], None, *BATCH[2:]], kind(pa.int32()))
    expected = [None if one is None else tito.strip_think(one).tolist() for one in array.to_pylist()]
    stripped = tito.strip_think(array)
    stripped.validate(full=True)
    assert (stripped.type.id, stripped.to_pylist()) == (array.type.id, expected)
    for start, end in ((0, 2), (1, 4), (3, 5), (2, 3), (2, 2), (5, 5)):
        part = tito.strip_think(array[start:end])
        part.validate(full=True)
        assert part.to_pylist() == expected[start:end]
    opened = tito.strip_think(array, opened=False)
    assert opened.to_pylist()[4] == [5, 151668, 6, 7]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_a_slice_is_judged_alone(kind):
    array = pa.array([[1], [248068], [None], [-1]], kind(pa.int32()))
    assert tito.strip_think(array[:1]).to_pylist() == [[1]]
    assert tito.strip_think(array[:2], profile=QWEN35).to_pylist() == [[1], [248068]]
    for at, message in ((1, "is not a Qwen3 id"), (2, "without nulls"), (3, "-1 is no id")):
        with pytest.raises(tito.UsageError, match=message):
            tito.strip_think(array[at : at + 1])


def test_what_a_null_list_covers_is_left_out():
    values = pa.array([1, 151667, 4, 151668, 5], pa.int32())
    array = pa.ListArray.from_arrays([0, 1, 4, 5], values, mask=pa.array([False, True, False]))
    assert tito.strip_think(array).to_pylist() == [[1], None, [5]]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.list_(pa.string()), pa.list_(pa.list_(pa.int32())), pa.int64()]
)
def test_arrow_arrays_of_another_type_are_refused(kind):
    with pytest.raises(tito.UsageError, match=r"^ids: "):
        tito.strip_think(pa.array([], kind))
    with pytest.raises(tito.UsageError, match=r"^prompt: a batch has many prompts"):
        tito.strip_think(pa.array([[1]], pa.list_(pa.int32())), prompt=[1])


# Loss


@given(
    st.lists(st.integers(0, 9), max_size=9),
    st.lists(st.integers(0, 9), max_size=9),
    st.lists(st.tuples(st.integers(0, 18), st.integers(0, 18), st.sampled_from((0.0, 0.5, 1.0))), max_size=3),
    st.booleans(),
)
def test_loss_mask_and_labels(prompt, output, spans, weighted):
    ids = prompt + output
    spans = [(min(a, b), max(a, b), w) for a, b, w in spans if max(a, b) <= len(ids)]
    weights = [0.0] * len(ids)
    for start, end, weight in spans:
        weights[start:end] = [weight if weighted else 1.0] * (end - start)
    taken = sorted((start, end) for start, end, _ in spans if start < end)
    if any(after[0] < before[1] for before, after in itertools.pairwise(taken)):
        with pytest.raises(tito.UsageError, match=r" overlap$"):
            tito.labels(prompt, output, spans)
        return
    given_ = spans if weighted else [(start, end) for start, end, _ in spans]
    mask, labels = tito.loss_mask(prompt, output, given_), tito.labels(prompt, output, given_)
    assert (mask.dtype, labels.dtype) == (np.int8, np.int32)
    assert mask.tolist() == [weight != 0 for weight in weights]
    assert labels.tolist() == [one if weight else -100 for one, weight in zip(ids, weights, strict=True)]
    whole = [-100] * len(prompt) + output
    assert tito.labels(prompt, output).tolist() == whole
    assert tito.loss_mask(prompt, output).tolist() == [0] * len(prompt) + [1] * len(output)


@pytest.mark.parametrize("spans", [[(0, 4)], [(-1, 1)], [(2, 1)], [(0.5, 1)], [(float("nan"), 1)], [(0, float("inf"))]])
def test_spans_outside_the_row_are_refused(spans):
    for call in (tito.loss_mask, tito.labels):
        with pytest.raises(tito.UsageError, match=r"^loss_spans: .* is not inside the 3 ids of the row$") as caught:
            call([1], [2, 3], spans)
        assert caught.value.hint == "spans are half-open and count from the start of input_ids"


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(1,)], "loss_spans: (1,) is no span"),
        ([(0, 1, 1.0, 2)], "loss_spans: (0, 1, 1.0, 2) is no span"),
        ([2, 4], "loss_spans: 2 is no span"),
        (["ab"], "loss_spans: 'ab' is no span"),
        ([{"start": 0}], "loss_spans: {'start': 0} is no span"),
        (7, "loss_spans: 7 is no list of spans"),
        ([(1, 3, -1)], "loss_spans: the weight of [1, 3) is -1"),
        ([(1, 3, float("nan"))], "loss_spans: the weight of [1, 3) is NaN"),
        ([(1, 3, 1e39)], "loss_spans: the weight of [1, 3) is inf"),
    ],
)
def test_what_is_no_span_is_refused(spans, message):
    for call in (tito.loss_mask, tito.labels):
        with pytest.raises(tito.UsageError) as caught:
            call([1], [2, 3], spans)
        assert str(caught.value) == message


# Errors


def test_errors_are_of_the_kinds_that_python_knows():
    assert issubclass(tito.DataError, ValueError)
    assert issubclass(tito.UsageError, ValueError)
    assert issubclass(tito.WorldError, OSError)
    for kind in (tito.DataError, tito.UsageError, tito.WorldError):
        assert issubclass(kind, tito.TitoError)
        assert getattr(_core, kind.__name__) is kind


def test_errors_survive_a_pickle(tmp_path):
    caught = []
    for path, options in ((tmp_path / "no", {}), (tmp_path, {}), (tmp_path, {"think": "x"})):
        with pytest.raises(tito.TitoError) as info:
            runs.count(path, **options)
        caught.append(info.value)
    assert [type(error) for error in caught] == [tito.WorldError, tito.DataError, tito.UsageError]
    for error in caught:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.hint) == (type(error), str(error), error.hint)
        assert error.hint


def test_a_profile_that_is_none_is_refused():
    for text in ("", "{}", "[]", json.dumps({**runs.QWEN3, "extra": 1}), json.dumps({**runs.QWEN3, "version": 2})):
        with pytest.raises(tito.UsageError, match=r"^(not a profile|profile )"):
            _core.ThinkRule(text)


def test_calls_of_a_file(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", dumps.line(0), "{", dumps.line(2), dumps.line(3), dumps.line(4))
    shown = _core.call_ids(str(dump))
    assert [entry["record"] for entry in shown]
    assert len(shown) <= 4
    [only] = _core.call_ids(str(dump), record=4)
    assert (only["turn"], only["prompt_ids"].tolist(), only["bad"]) == (3, dumps.prompt(3), None)
    [bad] = _core.call_ids(str(dump), record=2)
    assert bad["bad"].startswith("not JSON")


def test_the_hash_of_a_file(tmp_path):
    """As the reference implementation of XXH3 has it."""
    given = {b"": "99aa06d3014798d86001c324468d497f", bytes(range(256)) * 1000: "548512d98989de2d776474c39d20f9aa"}
    for data, digest in given.items():
        (tmp_path / "file").write_bytes(data)
        assert _core.content_hash(str(tmp_path / "file")) == f"xxh3-128:{digest}"
    with pytest.raises(tito.WorldError, match="none: cannot read: No such file or directory"):
        _core.content_hash(str(tmp_path / "none"))
