"""A root folder for a container, with only what Modal would put into it.

Runs in the container's process before anything of Modal or of the app is imported, so it imports
only the standard library.
"""

import ctypes
import json
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

SYSTEM = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
"""Folders of this machine that stand for Modal's Debian."""
HOME = "/root"
"""Where Modal puts local sources, and the working folder."""

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18


def is_possible() -> bool:
    """Whether this machine lets a process have a root folder of its own."""
    probe = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import isolation; "
    done = subprocess.run(
        [sys.executable, "-c", probe + "isolation.unshare()"], capture_output=True, check=False
    )
    return done.returncode == 0


def unshare() -> None:
    """Give this process mounts of its own.

    Raises:
        OSError: The machine does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    flags = _CLONE_NEWNS if user == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
    _checked(ctypes.CDLL(None, use_errno=True).unshare(flags), "unshare")
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", "/", _MS_REC | _MS_PRIVATE)


def enter(plan: Path) -> None:
    """Make the folder of a plan the root folder of this process.

    Args:
        plan: JSON file with ``root``, ``binds`` (path in the container to a folder of this
            machine), ``read_only`` (those that cannot be written to) and ``blocked`` (top-level
            modules of packages that the image does not have).
    """
    given = json.loads(plan.read_text())
    root = Path(given["root"])
    unshare()
    for inside, outside in given["binds"].items():
        target = root / inside.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        _mount(outside, str(target), _MS_BIND | _MS_REC)
        if inside in given["read_only"]:
            _mount("none", str(target), _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    os.chroot(root)
    os.chdir(HOME)
    sys.path[0] = HOME
    hidden = frozenset(given["blocked"])
    sys.meta_path[:] = [_Without(finder, hidden) for finder in sys.meta_path]


class _Without:
    """A finder of modules that does not see packages which the image does not have."""

    def __init__(self, finder: Any, hidden: frozenset[str]) -> None:
        self._finder = finder
        self._hidden = hidden

    def find_spec(self, fullname: str, *rest: Any) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self._hidden:
            return None
        return self._finder.find_spec(fullname, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def _mount(source: str, target: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None)
    _checked(result, f"mount {source} at {target}")


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
