"""Threads, files, sockets and child processes of this process, which affect snapshots and forks."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WRITABLE: Final = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class ProcessResources:
    """Resources of a process at one moment."""

    threads: dict[int, str]
    """Kernel thread id to name."""
    open_files: dict[int, str]
    """Sockets, event queues and files open for writing, by descriptor."""
    children: frozenset[int]

    def union(self, others: "ProcessResources") -> "ProcessResources":
        """The resources in either."""
        return ProcessResources(
            self.threads | others.threads,
            self.open_files | others.open_files,
            self.children | others.children,
        )

    def still_in(self, now: "ProcessResources") -> "ProcessResources":
        """The resources that still exist in ``now``."""
        return ProcessResources(
            {k: v for k, v in self.threads.items() if k in now.threads},
            {k: v for k, v in self.open_files.items() if now.open_files.get(k) == v},
            self.children & now.children,
        )

    def since(self, earlier: "ProcessResources") -> "ProcessResources":
        """The resources that did not exist in ``earlier``."""
        return ProcessResources(
            {k: v for k, v in self.threads.items() if k not in earlier.threads},
            {k: v for k, v in self.open_files.items() if earlier.open_files.get(k) != v},
            self.children - earlier.children,
        )


def held_resources() -> ProcessResources:
    """Current resources of this process; empty on systems without ``/proc``."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return ProcessResources({}, {}, frozenset())
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    threads = {
        int(task.name): names.get(int(task.name)) or _text(task / "comm")
        for task in tasks.iterdir()
    }
    return ProcessResources(threads, _open_files(), _children())


def _open_files() -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        special = target.startswith(("socket:", "anon_inode:", "pipe:"))
        if special or (target.startswith("/") and _writable(entry.name)):
            found[int(entry.name)] = target
    return found


def _writable(descriptor: str) -> bool:
    for line in _text(Path("/proc/self/fdinfo") / descriptor).splitlines():
        if line.startswith("flags:"):
            return bool(int(line.split()[1], 8) & _WRITABLE)
    return False


def _children() -> frozenset[int]:
    found = _text(Path(f"/proc/self/task/{os.getpid()}/children"))
    return frozenset(int(pid) for pid in found.split())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
