"""Memory that this process may still use: of the machine, and of its control groups."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_PROC: Final = Path("/proc")
_UNLIMITED: Final = 1 << 60
"""Version 1 writes a number near 2**63 for a group without a limit."""


@dataclass(frozen=True)
class Memory:
    """Bytes of memory."""

    total: int
    available: int
    """Free, or taken by a page cache that can be dropped."""

    @property
    def share(self) -> float:
        """The available share, from 0 to 1."""
        return max(0.0, self.available / self.total) if self.total else 0.0


def memory(cgroups: Path = _CGROUPS, proc: Path = _PROC) -> Memory:
    """The tightest of the machine and the control groups of this process, versions 1 and 2, with
    their ancestors.

    Args:
        cgroups: Where control groups are mounted.
        proc: Where ``/proc`` is mounted.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = [Memory(total, _machine_available(proc, total)), *_groups(cgroups, proc)]
    return Memory(min(m.total for m in found), min(m.available for m in found))


def memory_headroom(total: int, share: float) -> float:
    """GiB of memory to keep free, within ``main.py``'s bounds of 2 and 10.

    Args:
        total: Bytes of memory that this process may use.
        share: Share of it, from 0 to 1; 0 disables the limit.
    """
    return min(10.0, max(2.0, total / 1024**3 * share)) if share else 0.0


def release() -> None:
    """Collect garbage, and give freed memory back to the system: glibc keeps what lies between
    tensors that are still in use, and the next model would not fit into the pieces."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _machine_available(proc: Path, total: int) -> int:
    try:
        with (proc / "meminfo").open() as lines:
            kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return total
    return kib * 1024


def _groups(cgroups: Path, proc: Path) -> Iterator[Memory]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names, root = ("memory.max", "memory.current", "inactive_file"), cgroups
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = cgroups / "memory"
        else:
            continue
        # in a container, the path may be the one outside of it: then only the root exists
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            found = _group(folder, *names)
            if found is not None:
                yield found
            if folder == root:
                break


def _group(folder: Path, limit: str, usage: str, cached: str) -> Memory | None:
    """Limit and rest of a group; None without a limit."""
    try:
        most = int((folder / limit).read_text())
        used = int((folder / usage).read_text())
        stat = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # "max" is not a number
        return None
    if most >= _UNLIMITED:
        return None
    droppable = sum(int(line.split()[1]) for line in stat if line.startswith(f"{cached} "))
    return Memory(most, most - used + droppable)
