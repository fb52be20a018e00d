"""What a call leaves for when its bytes are on their way.

Where a call belongs, and what a reply tells later prompts, is nothing that an engine or a client should wait for. Such
work is done in the order it was left: a moment later, or when somebody asks for what comes of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Late"]

# An engine or a client on the same processor has its turn before.
_SECONDS = 0.002


class Late:
    """See the module. One for a loop.

    An example::

        late.leave(partial(sessions.place, tags, request, body))
        late.catch_up()
    """

    def __init__(self) -> None:
        self._left: deque[Callable[[], object]] = deque()
        self._waits = False

    def leave(self, work: Callable[[], object]) -> None:
        """Leaves work, which `catch_up` does: the one that somebody calls, or that of the loop."""
        self._left.append(work)
        if not self._waits:
            self._waits = True
            asyncio.get_running_loop().call_later(_SECONDS, self.catch_up)

    def catch_up(self) -> None:
        """Does all that was left, and what that leaves in its turn."""
        while self.next():
            pass
        self._waits = False

    def next(self) -> bool:
        """Does what was left first; False where nothing is. What fails is told by the loop, and misses in whatever it
        was to bring.
        """
        if not self._left:
            return False
        work = self._left.popleft()
        try:
            work()
        except Exception as error:
            told = {"message": "the recorder failed in what a call left for later", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)
        return True
