"""Begin and end of a rollout, told by whoever runs it: on disk before they are answered, or not true."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tito.capture.record.client import OpenAI, failure, read_body
from tito.capture.record.errors import CallError, refused
from tito.capture.record.log import NotWrittenError, line, when_settled
from tito.capture.record.replies import RolloutKey
from tito.capture.record.session import Rollout, Session
from tito.capture.record.tags import Tags, check_tags
from tito.errors import UsageError

if TYPE_CHECKING:
    from tito.capture.record.app import Recorder

__all__ = ["Rollouts"]

_BODY_BYTES = 16 << 20


class Rollouts:
    """The begins and ends of one recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._writing: set[asyncio.Future[str | None]] = set()

    async def serve(self, http: web.BaseRequest, name: str, path: str) -> web.StreamResponse:
        """Answers `/begin` or `/end` of the session `name`."""
        try:
            body = await read_body(http, _BODY_BYTES)
            told = json.loads(body) if body.strip() else {}
            if not isinstance(told, dict):
                raise UsageError("the body is a JSON object, or nothing")
            if path == "/begin":
                answer = await self.begin(name, check_tags(_begun(told), name))
            else:
                answer = await self.end(name, told)
        except (UsageError, ValueError, RecursionError) as error:
            return failure(refused(str(error)), OpenAI("rollout"))
        except NotWrittenError as error:
            return failure(CallError("not_written", str(error), status=503), OpenAI("rollout"))
        except CallError as error:
            return failure(error, OpenAI("rollout"))
        return web.json_response(answer)

    async def close(self) -> None:
        """Leaves nothing behind on the loop."""
        for task in list(self._writing):
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def begin(self, name: str, defaults: Tags) -> dict[str, Any]:
        """Begins a rollout of the session `name`; `NotWrittenError` where the log does not take it."""
        self.recorder.late.catch_up()
        session = self.recorder.sessions.begin(name, defaults)
        begun = session.defaults
        if session.unanswered is not None:
            _, written = session.unanswered
            session.unanswered = None
        else:

            def settled(failed: str | None) -> None:
                if failed is not None:
                    self.recorder.late.catch_up()
                    # Unless it has ended meanwhile, and perhaps begun anew.
                    if session.defaults is begun:
                        session.withdraw()

            written = self.recorder.log.append(line("begin", begun.record()))
            when_settled(written, settled)
        try:
            # Shielded: a session whose client goes away now has begun all the same. Told again, it is answered.
            await asyncio.shield(written)
        except asyncio.CancelledError:
            if session.defaults is begun:
                session.unanswered = defaults, written
            raise
        return {"session": name, "attempt": begun.attempt}

    async def end(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        """Ends what is open in the session `name`; `NotWrittenError` where the log does not take it."""
        check_tags(Tags(), name)
        head = _ended(told)
        self.recorder.late.catch_up()
        session = self.recorder.sessions.end(name)
        ended = session.ended
        # Told again word for word, as by a client that missed the answer, it is not written again.
        if session.told is None or session.told[0] != told:
            writes = {
                key: self.recorder.log.append(line("end", {**one.tags.record(), **head})) for key, one in ended.items()
            }
            self._writing.add(written := asyncio.ensure_future(self._ends(session, ended, writes)))
            written.add_done_callback(self._writing.discard)
            session.told = told, written
        # Shielded: an end whose client goes away now is written or taken back all the same.
        if (failed := await asyncio.shield(session.told[1])) is not None:
            raise NotWrittenError(failed)
        consumed = head.get("consumed")
        unknown = None
        if session.call_ids is not None:
            unknown = [call for call in consumed or () if call not in session.call_ids]
        return {"session": name, "calls": sum(rollout.calls for rollout in ended.values()), "unknown": unknown}

    async def _ends(
        self, session: Session, ended: dict[RolloutKey, Rollout], writes: dict[RolloutKey, asyncio.Future[None]]
    ) -> str | None:
        """Waits for ends to be written; those that are not are taken back, and why is told."""
        settled = await asyncio.gather(*writes.values(), return_exceptions=True)
        failed = {key: error for key, error in zip(writes, settled, strict=True) if error is not None}
        if failed:
            self.recorder.late.catch_up()
            if session.ended is ended:
                session.reopen(failed)
            return "; ".join({str(error) or "the log was closed" for error in failed.values()})
        return None


def _begun(told: dict[str, Any]) -> Tags:
    names = {"task_id": "task", "pair_id": "pair", "agent": "agent", "attempt": "attempt"}
    for name, value in told.items():
        wanted = int if name == "attempt" else str
        if name not in names:
            raise UsageError(f"begin: {name!r} is none of {', '.join(names)}")
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise UsageError(f"begin: {name} must be {'a whole number' if wanted is int else 'a text'}")
    return Tags(**{names[name]: value for name, value in told.items()})


def _ended(told: dict[str, Any]) -> dict[str, Any]:
    for name, value in told.items():
        # Python reads NaN, Infinity and 1e400 as numbers; JSON has none of them.
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        good = {
            "status": isinstance(value, str),
            "reward": number,
            "consumed": isinstance(value, list) and all(isinstance(call, str) for call in value),
        }
        if name not in good:
            raise UsageError(f"end: {name!r} is none of {', '.join(good)}")
        if value is not None and not good[name]:
            wanted = {"status": "a text", "reward": "a number", "consumed": "a list of ids of replies"}[name]
            raise UsageError(f"end: {name} must be {wanted}")
    return {**told, "ended": time.time()}
