"""Failures of a call, as its client is told of them."""

from __future__ import annotations

import json

__all__ = ["CallError", "chat_error", "client_gone", "refused", "said"]


class CallError(Exception):
    """A call that ends in a failure: `outcome` is one of the closed list, `status` the HTTP status.

    `retry` False asks OpenAI's clients not to try again: it would fail in the same way.
    """

    def __init__(self, outcome: str, message: str, *, status: int = 502, retry: bool = True) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.status = status
        self.retry = retry


def chat_error(error: CallError) -> bytes:
    """A failure in OpenAI's shape, as a body or as the data of an event.

    >>> json.loads(chat_error(CallError("missing_ids", "no ids")))["error"]["code"]
    'missing_ids'
    """
    told = {"message": f"tito record: {error}", "type": "tito_record_error", "param": None, "code": error.outcome}
    return json.dumps({"error": told}).encode()


def refused(message: str, status: int = 400) -> CallError:
    """A request that is refused, and would be again."""
    return CallError("refused", message, status=status, retry=False)


def client_gone() -> CallError:
    """Nobody is there to be told."""
    return CallError("client_closed", "the client went away")


def said(error: BaseException) -> str:
    """What an error of another library says, with its name.

    >>> said(TimeoutError()), said(OSError("no route"))
    ('TimeoutError', 'OSError: no route')
    """
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
