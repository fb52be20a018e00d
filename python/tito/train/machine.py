"""What a process may hold in memory, and what of it is left: of the machine, or of the container that it runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["fair_share", "memory_left", "memory_limit"]

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_UNKNOWN = 8 << 30


def memory_limit() -> int:
    """Bytes of memory: the machine's, or the least that a control group allows this process."""
    return min([_physical(), *(limit for limit, _ in _control_groups())])


def memory_left() -> int:
    """Bytes of memory that are not in use: the machine's, or the least that a control group leaves, as a rank's share:
    each rank of this machine loads as much."""
    try:
        free = _numbers(_MEMINFO)["MemAvailable:"] * 1024
    except (OSError, KeyError, ValueError):
        free = _physical()
    return max(0, min([free, *(limit - used for limit, used in _control_groups())])) // _ranks_here()


def fair_share() -> int:
    """A quarter of the memory, divided by the processes that a launcher started on this machine."""
    return memory_limit() // 4 // _ranks_here()


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _ranks_here() -> int:
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(beside) if beside.isdigit() else 1)


def _control_groups() -> Iterator[tuple[int, int]]:
    """Limit and use of the own control group and of those above it; in a container its own stands at the root."""
    try:
        told = [line.split(":", 2) for line in _OWN.read_text(encoding="utf-8").splitlines()]
    except OSError:
        told = []
    # Version 2 has one hierarchy without a name, version 1 one a controller. Of its two counts of file pages version 1
    # has the groups below only in the second, as its use has.
    roots = {
        _CGROUPS: ("memory.max", "memory.current", "inactive_file"),
        _CGROUPS / "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    own = {_CGROUPS: "/", _CGROUPS / "memory": "/"}
    for number, controllers, path in (parts for parts in told if len(parts) == 3):
        if number == "0" and not controllers:
            own[_CGROUPS] = path
        elif "memory" in controllers.split(","):
            own[_CGROUPS / "memory"] = path
    for root, (limit, use, cached) in roots.items():
        inside = Path(own[root].lstrip("/"))
        for group in (inside, *inside.parents):
            try:
                allowed = int((root / group / limit).read_text(encoding="ascii"))
            except (OSError, ValueError):
                # Not there, or `max`.
                continue
            yield allowed, _in_use(root / group, use, cached)


def _in_use(group: Path, use: str, cached: str) -> int:
    """Bytes that a control group uses, without the file pages that the system drops when memory is asked for."""
    try:
        used = int((group / use).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    try:
        return max(0, used - _numbers(group / "memory.stat").get(cached, 0))
    except (OSError, ValueError):
        return used


def _numbers(file: Path) -> dict[str, int]:
    """The first number behind each name, one name a line."""
    lines = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return {parts[0]: int(parts[1]) for parts in lines if len(parts) > 1}
