"""What a process that does nothing but record may set for the whole of itself: how memory is kept, how many files.

Not for `tito.recording`, whose process belongs to somebody else.
"""

from __future__ import annotations

import ctypes
import gc
import resource
from contextlib import suppress

__all__ = ["raise_file_limit", "settle_memory"]

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 64 << 20
_LARGE = 32 << 20
_YOUNG = 20_000
# Two for each of the most calls that may be open by default, and many more.
_FILES = 65_536


def settle_memory() -> None:
    """Keeps memory that calls free for the calls after them, and looks for garbage less often.

    The C library gives large buffers back to the system as soon as they are free: of the 3.1 ms of processor time of a
    call with a prompt of 200 kB, 1.1 went into page faults. What is alive now stays so, and is not looked through
    again: a small call takes 330 µs, not 395.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        # A C library without it (macOS, musl) keeps memory as it likes.
        return
    mallopt(_TRIM_THRESHOLD, _KEPT)
    mallopt(_MMAP_THRESHOLD, _LARGE)


def raise_file_limit() -> None:
    """As many open files as the system lets this process have: the usual 1,024 are fewer than two a call."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has limits that it does not tell.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
