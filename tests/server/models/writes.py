"""Which files this process writes, makes, renames or deletes, by Python's audit events."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_CHANGED: Final = {
    "os.mkdir": slice(1), "os.remove": slice(1), "os.rmdir": slice(1), "os.truncate": slice(1),
    "os.chmod": slice(1), "os.chown": slice(1), "os.utime": slice(1), "os.setxattr": slice(1),
    "os.rename": slice(2), "os.link": slice(1, 2), "os.symlink": slice(1, 2),
}  # fmt: skip
"""Events, with the arguments that are paths of what changes."""
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_recorders: list[list[Path]] = []
_installed: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _recorders:
        return
    if event == "open":
        path, _, flags = arguments
        paths = (path,) if flags & _WRITES else ()
    else:
        paths = arguments[_CHANGED.get(event, slice(0))]
    for path in paths:
        if not isinstance(path, int):  # an open file was seen when it was opened
            changed = Path(os.fsdecode(path))
            for recorder in _recorders:
                recorder.append(changed.parent.resolve() / changed.name)


@contextmanager
def recorded_writes() -> Generator[list[Path]]:
    """The paths that any thread writes meanwhile, without those of compiled modules."""
    found: list[Path] = []
    if not _installed:  # a hook cannot be removed
        sys.addaudithook(_hook)
        _installed.append(True)
    _recorders.append(found)
    try:
        yield found
    finally:
        del _recorders[next(i for i, each in enumerate(_recorders) if each is found)]
        found[:] = [path for path in found if "__pycache__" not in path.parts]
