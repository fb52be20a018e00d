"""Parts on Ray: every file and every part is a task, tried again when its worker dies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from tito.errors import TitoError, WorldError, with_hint

__all__ = ["OnRay"]

_Task = TypeVar("_Task")
_Done = TypeVar("_Done")
# How often a task is tried again when the worker or its machine dies; an error of the data is not tried again.
_RETRIES = 3


class OnRay:
    """An executor. `address` is a cluster's (None: `RAY_ADDRESS`, else one is started here); every machine must have
    tito installed, and see the paths that are no URLs. `threads` is what each task may use."""

    def __init__(self, address: str | None = None, *, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise with_hint(WorldError("ray is not installed"), "pip install 'tito-distill[ray]'") from None
        self._ray: Any = ray
        self._threads = threads
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise with_hint(WorldError(f"ray: {error}"), "start it with `ray start --head`") from None

    def map(self, function: Callable[[_Task], _Done], items: Sequence[_Task]) -> Generator[tuple[int, _Done]]:
        """See `Executor`."""
        ray = self._ray
        remote = ray.remote(function).options(num_cpus=self._threads, max_retries=_RETRIES)
        waiting = {remote.remote(item): number for number, item in enumerate(items)}
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1)
                for reference in ready:
                    yield waiting.pop(reference), self._get(reference)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    def _get(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, TitoError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            message = f"ray: a task died {_RETRIES + 1} times: {str(error).splitlines()[0]}"
            raise with_hint(
                WorldError(message), "see the worker's log; too little memory is the usual reason"
            ) from None
