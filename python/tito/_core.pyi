"""The native half of tito: arrays in, arrays out, the GIL released around work that is worth it.

Ids are int32 everywhere. A list of ids is accepted where an array is, and converted once.
"""

import os
from collections.abc import Sequence
from typing import Any, Final, Literal, Self, final, overload

import numpy as np
import numpy.typing as npt

from tito.profile import Profile

_Ids = npt.NDArray[np.int32]
_Opened = Literal["yes", "pair", "no"]

__all__ = [
    "CallLog",
    "Copies",
    "DataError",
    "EventStream",
    "Exchanges",
    "Found",
    "Progress",
    "Reply",
    "Request",
    "ThinkRule",
    "TitoError",
    "Tokenizer",
    "UsageError",
    "WorldError",
    "__version__",
    "amend_request",
    "built_in_profile",
    "built_in_profiles",
    "call_ids",
    "capture_format",
    "content_hash",
    "convert",
    "convert_part",
    "defaults_json",
    "expand_turns",
    "find_think",
    "formats_json",
    "in_name_order",
    "is_sealed",
    "judge_parts",
    "labels",
    "lay_packs",
    "list_inputs",
    "loss_mask",
    "loss_weights",
    "plan_packs",
    "plan_parts",
    "request_mentions",
    "rows_metadata",
    "scan_file",
    "schema_json",
    "settle_parts",
    "split_file",
    "strip_reply",
    "strip_think",
    "survey_part",
    "verify",
]

__version__: Final[str]

class TitoError(Exception):
    """Base of all errors. ``str(error)`` names the place; ``error.hint`` says what to do about it."""

    hint: str

class DataError(TitoError, ValueError):
    """The data is bad, or a check over a whole run failed (exit code 1)."""

class UsageError(TitoError, ValueError):
    """An option or an argument is wrong (exit code 2)."""

class WorldError(TitoError, OSError):
    """The operating system refused: disk, permission, missing file (exit code 3)."""

@final
class Found:
    """Where thinking is in one output.

    ``spans`` is an int64 array of shape (n, 2): half-open, sorted, disjoint.
    """

    @property
    def spans(self) -> npt.NDArray[np.int64]: ...
    @property
    def absent(self) -> bool: ...
    @property
    def unterminated(self) -> bool: ...
    @property
    def odd(self) -> bool: ...
    @property
    def split_marker(self) -> bool: ...

@final
class ThinkRule:
    """A profile made ready to search with; ``Profile`` makes and keeps its own."""

    def __new__(cls, profile_json: str) -> ThinkRule: ...

@final
class Tokenizer:
    """A tokenizer, from a folder with a ``tokenizer.json`` or the file itself; nothing is downloaded.

    Gives the ids of the ``tokenizers`` package, which it does not need. ``UsageError`` for a file that is no tokenizer
    or whose tokens are neither byte-level nor SentencePiece, ``WorldError`` for one that cannot be read.
    """

    def __new__(cls, path: str | os.PathLike[str]) -> Tokenizer: ...
    @property
    def hash(self) -> str:
        """Of vocabulary, merges and added tokens: a profile's ``tokenizer_hash``."""
    def encode(self, text: str) -> _Ids:
        """The ids of a text, int32: added tokens in it are one id each, nothing is put before or behind it."""
    def decode(self, ids: npt.ArrayLike) -> bytes:
        """The bytes of ids, exactly; ids without text (those of a padded embedding) give none."""

@final
class Progress:
    """How far a run is; safe to read from another thread while it runs."""

    def __new__(cls) -> Progress: ...
    @property
    def bytes(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def calls(self) -> int: ...
    @property
    def rows(self) -> int: ...
    def cancel(self) -> None: ...

def find_think(
    ids: npt.ArrayLike,
    /,
    *,
    prompt: npt.ArrayLike | None = None,
    opened: bool | _Opened | None = None,
    profile: Profile | None = None,
) -> Found:
    """Where thinking is in one output; nothing is cut.

    ``ids`` is one output, int32 of one dimension. How thinking begins is told by ``prompt`` (the ids the output
    answers) or by ``opened``: True or ``"yes"`` when the prompt ends inside thinking, ``"pair"`` when it ends in a
    closed pair, False or ``"no"`` when it ends in no marker. With neither, the first closer ends a span from the start.
    Behind the first opener of a tool call nothing is thinking.

    Without ``profile`` the ids are taken for Qwen3's: a guess. Raises ``UsageError`` for an id of 151,936 or more then,
    and for arrays that are no ids.

    >>> found = find_think([151667, 40, 151668, 271, 9707, 151645], opened=False)
    >>> found.spans.tolist(), found.absent, found.unterminated
    ([[0, 4]], False, False)
    """

@overload
def strip_think(
    ids: npt.ArrayLike,
    /,
    *,
    offsets: None = None,
    prompt: npt.ArrayLike | None = None,
    opened: bool | _Opened | None = None,
    profile: Profile | None = None,
) -> _Ids: ...
@overload
def strip_think(
    ids: npt.ArrayLike,
    /,
    *,
    offsets: npt.ArrayLike,
    opened: bool | _Opened | None = None,
    profile: Profile | None = None,
) -> tuple[_Ids, npt.NDArray[np.int64]]:
    """An output without its thinking: a new int32 array; the ids given are not touched.

    The rules, ``prompt``, ``opened`` and ``profile`` are those of ``find_think``; newline ids directly behind a closer
    go with the span, and a span that nothing closes stays. With ``offsets`` (int64, ascending, one more than there are
    outputs) ``ids`` holds many outputs one behind the other, and new values and offsets come back. An Arrow array of
    lists of int32 (anything with ``__arrow_c_array__``) gives an Arrow array.

    Without ``profile`` the ids are taken for Qwen3's: a guess. Raises ``UsageError`` for an id of 151,936 or more then,
    and for arrays that are no ids.

    >>> strip_think([151667, 40, 151668, 271, 9707, 151645]).tolist()
    [9707, 151645]
    >>> values, offsets = strip_think([40, 151668, 271, 9707, 9707, 151645], offsets=[0, 4, 6])
    >>> values.tolist(), offsets.tolist()
    ([9707, 9707, 151645], [0, 1, 3])
    """

def loss_mask(
    input_ids: npt.ArrayLike, output_ids: npt.ArrayLike, loss_spans: npt.ArrayLike | None = None
) -> npt.NDArray[np.int8]:
    """1 where loss falls, 0 elsewhere: int8, as long as ``input_ids`` and ``output_ids`` together.

    ``loss_spans`` are half-open positions in both together: an array (or list) of shape (n, 2) or, with weights,
    (n, 3); None means all of ``output_ids``. Raises ``UsageError`` for a span outside the row.

    >>> loss_mask([5, 6], [7, 8, 9]).tolist(), loss_mask([5, 6], [7, 8, 9], [(3, 5)]).tolist()
    ([0, 0, 1, 1, 1], [0, 0, 0, 1, 1])
    """

def labels(input_ids: npt.ArrayLike, output_ids: npt.ArrayLike, loss_spans: npt.ArrayLike | None = None) -> _Ids:
    """``input_ids`` and ``output_ids`` together, int32, with -100 where no loss falls (what PyTorch's loss ignores).

    ``loss_spans`` as in ``loss_mask``. Not shifted: position i is labelled with its own id, as trainers expect.

    >>> labels([5, 6], [7, 8, 9]).tolist()
    [-100, -100, 7, 8, 9]
    """

def loss_weights(
    input_ids: npt.ArrayLike, output_ids: npt.ArrayLike, loss_spans: npt.ArrayLike | None = None
) -> npt.NDArray[np.float32]:
    """What each position weighs: float32, as long as ``input_ids`` and ``output_ids`` together; ``loss_spans`` as in
    ``loss_mask``. A row's own weight is not in it.
    """

def plan_packs(
    lengths: npt.ArrayLike, length: int, *, drop_overlong: bool = False
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which rows go together into packs of ``length`` ids: first-fit-decreasing, no row cut, ties by position.

    ``lengths`` are whole numbers of 0 or more, one a row. Gives three int64 arrays: rows pack by pack (ascending inside
    one), where each pack starts in them and where the last ends, and the rows left out. Raises ``UsageError`` for a row
    longer than a pack unless ``drop_overlong``, and for a ``length`` below 1. O(n log n).

    >>> rows, starts, left_out = plan_packs([5, 3, 9, 3, 2], 8, drop_overlong=True)
    >>> rows.tolist(), starts.tolist(), left_out.tolist()
    ([0, 1, 3, 4], [0, 2, 4], [2])
    """

def lay_packs(
    ids: npt.ArrayLike,
    weights: npt.NDArray[np.float32],
    row_offsets: npt.ArrayLike,
    rows: npt.ArrayLike,
    starts: npt.ArrayLike,
) -> tuple[_Ids, _Ids, npt.NDArray[np.float32], _Ids, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Packs laid out, all behind each other: ids, labels, loss weights, position ids; then where each row starts in
    them, and where each pack does, with the end of the last.

    ``ids`` and ``weights`` hold all rows, ``row_offsets`` where each starts and the last ends; ``rows`` and ``starts``
    are those of ``plan_packs``. Labels are the ids, -100 where a weight is 0 and at the first id of each row, whose
    weight becomes 0. Raises ``UsageError`` for offsets and rows that do not fit the ids.
    """

@final
class Copies:
    """Weights to numbers of copies: at any point the copies so far differ from the weights so far by less than one.

    Systematic: a running sum, shifted by an offset made of ``seed``, is cut at whole numbers. Whole weights are exact.
    """

    def __new__(cls, seed: int) -> Copies: ...
    def draw(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Copies of each row; the sum runs on from call to call."""

def expand_turns(
    prompts: Sequence[npt.ArrayLike],
    outputs: Sequence[npt.ArrayLike],
    logprobs: Sequence[npt.NDArray[np.float32] | None],
    calls_json: str,
    options_json: str,
) -> tuple[list[tuple[_Ids, _Ids, npt.NDArray[np.float32] | None]], str]:
    """Rows of one rollout: ids (and logprobs if that column is asked for), the other columns as a JSON list.

    ``calls_json`` is a list of objects with the keys rollout_id, task_id, pair_id, agent, status, attempt, reward,
    source, call_id, choice, kind, turn, started, finish, stop_string, stop_token_ids, parse_error; all may be missing,
    others are refused. The option ``rows`` says what a row is. ``tito.expand_turns`` and ``tito.merge_calls`` wrap it.
    """

def convert(options_json: str, progress: Progress) -> str:
    """Runs a conversion; gives its report as JSON. ``tito.convert`` wraps it."""

def list_inputs(inputs: Sequence[str]) -> tuple[list[tuple[str, int, bool]], list[str]]:
    """The files that inputs stand for (name, bytes on disk, whether it was found in a folder that was named), and what
    stands in folders and is no file."""

def in_name_order(names: Sequence[str]) -> list[str]:
    """Paths or URLs in the order in which inputs are read: folder by folder, runs of digits by their number
    (``reply_2`` before ``reply_10``), all else by bytes."""

def scan_file(options_json: str, found: bool, progress: Progress) -> tuple[str, bytes]:
    """Scans the one file among the inputs: JSON of its name, bytes, hash and format; and what belongs together in it,
    for ``plan_parts``. That it holds no capture is an error unless ``found``."""

def plan_parts(
    scans: Sequence[bytes], sizes: Sequence[int], part_bytes: int
) -> tuple[list[tuple[int, list[int]]], list[tuple[int, bytes]]]:
    """The parts: bytes on disk, and the files, by their place in ``scans``. Then the files that parts share: place, and
    the part of each line for ``split_file``."""

def split_file(path: str, file_json: str, lines: bytes, folder: str, progress: Progress) -> None:
    """Writes the lines that each part has of a file to ``FOLDER/PART.jsonl.zst``. ``file_json`` is the scan's."""

def survey_part(options_json: str, progress: Progress) -> str:
    """Notes what the rollouts of a part weigh; gives what ``settle_parts`` takes."""

def settle_parts(options_json: str, surveys: Sequence[str], files: int) -> list[str]:
    """Normalises weights and divides sides over all parts; gives each what ``convert_part`` takes."""

def convert_part(options_json: str, weighing: str | None, progress: Progress) -> str:
    """Converts a part of a run, unjudged; gives what ``judge_parts`` takes."""

def judge_parts(options_json: str, weighing: str | None, files: Sequence[str], parts: Sequence[str]) -> str:
    """Judges a run by its parts, in their order; gives its report as JSON. ``files``: what the scans said of them."""

def verify(request_json: str, progress: Progress) -> str:
    """Compares rows with the captures they name; gives the account as JSON. ``tito.verify`` wraps it."""

@final
class Exchanges:
    """What the calls that are used were asked and answered: what ``tito.exchanges`` wraps.

    Made, it has read the captures once, as ``convert`` does with these options and no output. Raises what that raises.
    """

    def __new__(cls, options_json: str, progress: Progress) -> Exchanges: ...
    @property
    def report(self) -> str:
        """The report of ``convert``, as JSON."""
    def next_batch(self) -> list[dict[str, Any]] | None:
        """The exchanges of the next stretch of input, which may be none; None at the end.

        Keys: file, record, rollout (a number), rollout_id, task_id, pair_id, agent, status, attempt, reward, call_id,
        kind, turn, last, and as JSON bytes or None messages, tools, model, reply.
        """

def is_sealed(metadata: dict[str, str]) -> bool:
    """Whether a rows file's keys ``tito.*`` are those it was written with: their checksum is there and theirs."""

def rows_metadata(path: str) -> dict[str, str]:
    """What a rows file says of itself: its keys ``tito.*``; of JSON lines, what the manifest says that was written with
    these very bytes."""

def built_in_profile(name: str) -> str:
    """JSON of a built-in profile."""

def built_in_profiles() -> list[str]:
    """Names of the built-in profiles."""

def schema_json() -> str:
    """The row schema, as JSON: columns with name, type, nullability, meaning."""

def formats_json() -> str:
    """The capture formats that are read, as JSON: name, a line about each, and one record as an example."""

def capture_format(path: str) -> str | None:
    """The format of a file's captures, those that are known and not read included; None where it holds none."""

def content_hash(path: str) -> str:
    """The hash of a file's bytes, as manifests tell it: ``xxh3-128:`` and 32 hex digits. Raises WorldError."""

def defaults_json() -> str:
    """All options of ``convert`` with their defaults, as JSON."""

def call_ids(
    path: str, *, record: int | None = None, limit: int = 3, from_format: str | None = None
) -> list[dict[str, Any]]:
    """The first calls of a capture file, or those of one record (counted from 1), for ``tito show``.

    Keys: file, record, format, rollout_id, task_id, agent, status, reward, turn, call_id, kind, parse_error,
    prompt_ids, output_ids (int32 arrays or None), bad (what is wrong with the call, or None). A record that cannot be
    read has only file, record and bad.
    """

@final
class Request:
    """A request of the chat or the completions route. ``DataError`` for a text that is no JSON object."""

    def __new__(cls, body: bytes) -> Self: ...
    @property
    def model(self) -> str | None:
        """Model."""
    @property
    def stream(self) -> bool:
        """Server-sent events are asked for."""
    @property
    def wants_ids(self) -> bool:
        """The client itself asks for ids."""
    @property
    def wants_usage(self) -> bool:
        """The client itself asks for usage at the end of a stream."""
    @property
    def choices(self) -> int:
        """Choices of the reply: ``n`` for each prompt."""
    @property
    def tools(self) -> bool:
        """Tools are offered."""
    @property
    def messages(self) -> list[int]:
        """A hash of each message: of what it says, not of how it is written."""
    @property
    def chain(self) -> list[int]:
        """A hash of each message and all before it."""
    @property
    def roles(self) -> str:
        """First letter of each message's role."""

def amend_request(body: bytes, members: Sequence[tuple[str, str]], usage: bool) -> bytes:
    """The request with members (a key and JSON) put in place of its own; ``usage`` asks for usage in a stream."""

def request_mentions(body: bytes, text: str) -> bool:
    """Whether a message that no model wrote holds a text."""

def strip_reply(body: bytes) -> bytes:
    """A reply without its ids; everything else stays byte for byte."""

@final
class Reply:
    """What the reader of call logs makes of a reply. ``DataError`` for a text that is no JSON."""

    def __new__(cls, body: bytes) -> Self: ...
    @property
    def id(self) -> str | None:
        """The engine's id of it."""
    @property
    def usage(self) -> bool:
        """It tells the number of output ids."""
    @property
    def failed(self) -> bool:
        """The engine reports a failure of one of its choices."""
    @property
    def output_ids(self) -> int:
        """Of all choices."""
    @property
    def choices(self) -> tuple[tuple[int | None, int | None, str | None, bool, int, bool, str], ...]:
        """Of each: prompt ids, output ids (None: there are none), why they may not be used, whether the engine reports
        a failure, the message's hash, whether it calls tools, its text."""

@final
class EventStream:
    """A stream of server-sent events on its way to a client, and the reply that its deltas make."""

    def __new__(cls, choices: int, hide_ids: bool, hide_usage: bool) -> Self: ...
    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as they came; gives what goes on now. What ends the reply is held back."""
    def reply(self) -> bytes:
        """The reply so far, as one JSON object."""
    @property
    def held(self) -> bytes:
        """What was held back: the events from the last finish reason on."""
    @property
    def over(self) -> bool:
        """Nothing more is to come: the reply is done, or cannot be read."""
    @property
    def done(self) -> bool:
        """``[DONE]`` came."""
    @property
    def finished(self) -> bool:
        """Every choice has a finish reason."""
    @property
    def error(self) -> bytes | None:
        """The error that the engine sent in the stream, as JSON."""
    @property
    def fault(self) -> str | None:
        """Why an event could not be read."""
    @property
    def chunks(self) -> int:
        """Events with a chunk."""

@final
class CallLog:
    """A folder of segments, and the thread that writes to the last of them. ``WorldError`` where it cannot be had."""

    def __new__(cls, folder: str, limit: int, fsync: bool, opening: bytes) -> Self: ...
    @property
    def fd(self) -> int:
        """Readable when ``settled`` has news; to be closed by whoever opened the log."""
    @property
    def torn(self) -> int:
        """Bytes of torn lines that were cut off at the start."""
    @property
    def written(self) -> tuple[int, int]:
        """Segments begun, and bytes of lines written."""
    def append(
        self, head: bytes, request: bytes | None = None, response: bytes | None = None, here: bool = True
    ) -> tuple[int, bool]:
        """Hands a line over: the object ``head``, with request and response as further members. Gives its number, and
        whether ``settled`` tells of it already: with ``here`` short lines that need no sync are written at once.
        """
    def settled(self) -> tuple[int, list[tuple[int, int, str]]]:
        """The last line that was dealt with; first and last number of lines that are not in the log, and why."""
    def set_opening(self, opening: bytes) -> None:
        """What the next segment begins with (whole lines)."""
    def close(self) -> None:
        """Writes what waits, closes and packs the segment; ``settled`` tells afterwards what became of it."""
