"""What a process may hold in memory: its share of the machine, or of the container that it runs in."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["fair_share", "memory_limit"]

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_UNKNOWN = 8 << 30


def memory_limit() -> int:
    """Bytes of memory: the machine's, or the least that a control group allows this process."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = _UNKNOWN
    return min([physical, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """The limits of the own control group and of those above it; in a container its own stands at the root."""
    try:
        told = [line.split(":", 2) for line in _OWN.read_text(encoding="utf-8").splitlines()]
    except OSError:
        told = []
    # Version 2 has one hierarchy without a name, version 1 one a controller.
    roots = {_CGROUPS: "memory.max", _CGROUPS / "memory": "memory.limit_in_bytes"}
    own = {_CGROUPS: "/", _CGROUPS / "memory": "/"}
    for number, controllers, path in (parts for parts in told if len(parts) == 3):
        if number == "0" and not controllers:
            own[_CGROUPS] = path
        elif "memory" in controllers.split(","):
            own[_CGROUPS / "memory"] = path
    found = []
    for root, name in roots.items():
        inside = Path(own[root].lstrip("/"))
        for group in (inside, *inside.parents):
            try:
                found.append(int((root / group / name).read_text(encoding="ascii")))
            except (OSError, ValueError):
                # Not there, or `max`.
                continue
    return found


def fair_share() -> int:
    """A quarter of the memory, divided by the processes that a launcher started on this machine."""
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return memory_limit() // 4 // max(1, int(beside) if beside.isdigit() else 1)
