"""A folder whose files are read slowly by one stream, as on a network volume: a simulation.

Serves the files of a local folder through /dev/fuse (needs root, or CAP_SYS_ADMIN). Each open file
handles one request at a time, which takes a latency and its size over a rate; requests of different
handles overlap, up to a rate of all together. Read pages stay in the kernel's page cache.
"""

import ctypes
import errno
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

LATENCY: Final = 0.002
RATE: Final = 150e6
RATE_OF_ALL: Final = 1500e6
"""Bytes per second."""
_LARGEST_READ: Final = 1 << 20
_THREADS: Final = 32
_ROOT: Final = 1
_KEEP_CACHE: Final = 2
_ASYNC_READ: Final = 1 << 0
_MAX_PAGES: Final = 1 << 22
_IN: Final = struct.Struct("<IIQQIIII")
_OUT: Final = struct.Struct("<IiQ")
_INIT_OUT: Final = struct.Struct("<IIIIHHIIHHII24x")
_ATTR: Final = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY: Final = struct.Struct("<QQQQII")
_ATTR_OUT: Final = struct.Struct("<QII")
_OPEN_OUT: Final = struct.Struct("<QII")
_READ_IN: Final = struct.Struct("<QQII")
_STATFS: Final = struct.Struct("<QQQQQIII28x")
_DIRENT: Final = struct.Struct("<QQII")
_NEVER: Final = 3600


class SlowFolder:
    """Answers the kernel's requests about one flat folder.

    Args:
        device: /dev/fuse, opened and mounted.
        folder: What is served, as it is now. May be the mount point: it stays open from before.
    """

    def __init__(self, device: int, folder: Path) -> None:
        self._device = device
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        names = sorted(file.name for file in folder.iterdir() if file.is_file())
        self._files = dict(enumerate(names, 2))
        self._numbers = {os.fsencode(name): number for number, name in self._files.items()}
        self._handles: dict[int, tuple[int, threading.Lock]] = {}
        self._all = threading.Lock()
        self._free_at = 0.0
        self._operations: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup, 3: self._getattr, 14: self._open, 15: self._read, 18: self._release,
            25: lambda _node, _body: b"", 26: self._init, 27: lambda _node, _body: bytes(16),
            17: lambda _node, _body: _STATFS.pack(0, 0, 0, 0, 0, 4096, 255, 4096),
            28: self._readdir, 29: lambda _node, _body: b"",
        }  # fmt: skip

    def serve(self) -> None:
        """Answer until the folder is unmounted."""
        threads = [threading.Thread(target=self._loop, daemon=True) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _loop(self) -> None:
        while True:
            try:
                request = os.read(self._device, 1 << 17)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _length, code, unique, node, *_ = _IN.unpack_from(request)
            if code in (2, 36, 42):  # forgotten nodes and interrupts have no answer
                continue
            body, problem = b"", 0
            try:
                body = self._operations[code](node, request[_IN.size :])
            except KeyError:
                problem = errno.ENOSYS
            except OSError as error:
                problem = error.errno or errno.EIO
            with suppress(OSError):  # the reader was interrupted
                os.writev(self._device, [_OUT.pack(_OUT.size + len(body), -problem, unique), body])

    def _init(self, _node: int, body: bytes) -> bytes:
        major, minor, ahead, flags = struct.unpack_from("<IIII", body)
        return _INIT_OUT.pack(
            major, min(minor, 31), min(ahead, _LARGEST_READ), flags & (_ASYNC_READ | _MAX_PAGES),
            64, 48, 4096, 1, _LARGEST_READ // os.sysconf("SC_PAGE_SIZE"), 0, 0, 0,
        )  # fmt: skip

    def _attributes(self, node: int) -> bytes:
        if node == _ROOT:
            return _ATTR.pack(node, *[0] * 8, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 4096, 0)
        found = os.stat(self._files[node], dir_fd=self._folder)
        at = int(found.st_mtime)
        return _ATTR.pack(
            node, found.st_size, found.st_blocks, at, at, at, 0, 0, 0,
            stat.S_IFREG | 0o644, 1, 0, 0, 0, 4096, 0,
        )  # fmt: skip

    def _lookup(self, _node: int, body: bytes) -> bytes:
        node = self._numbers.get(body.rstrip(b"\0"))
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "not found")
        return _ENTRY.pack(node, 0, _NEVER, _NEVER, 0, 0) + self._attributes(node)

    def _getattr(self, node: int, _body: bytes) -> bytes:
        return _ATTR_OUT.pack(_NEVER, 0, 0) + self._attributes(node)

    def _open(self, node: int, _body: bytes) -> bytes:
        handle = os.open(self._files[node], os.O_RDONLY, dir_fd=self._folder)
        self._handles[handle] = handle, threading.Lock()
        return _OPEN_OUT.pack(handle, _KEEP_CACHE, 0)

    def _release(self, _node: int, body: bytes) -> bytes:
        (handle,) = struct.unpack_from("<Q", body)
        del self._handles[handle]
        os.close(handle)
        return b""

    def _read(self, _node: int, body: bytes) -> bytes:
        handle, place, size, _ = _READ_IN.unpack_from(body)
        opened, stream = self._handles[handle]
        with stream:
            started = time.perf_counter()
            data = os.pread(opened, size, place)
            with self._all:
                self._free_at = max(self._free_at, started) + size / RATE_OF_ALL
                until = max(self._free_at, started + LATENCY + size / RATE)
            time.sleep(max(0.0, until - time.perf_counter()))
        return data

    def _readdir(self, _node: int, body: bytes) -> bytes:
        _, place, size, _ = _READ_IN.unpack_from(body)
        answer = b""
        for index, (node, file) in enumerate(list(self._files.items())[place:], place + 1):
            name = os.fsencode(file)
            entry = _DIRENT.pack(node, index, len(name), stat.S_IFREG >> 12) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer


def why_not() -> str:
    """Why a slow folder cannot be mounted here; empty if it can."""
    if not sys.platform.startswith("linux") or not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    return "" if os.geteuid() == 0 else "mounting needs root"


@contextmanager
def slow_folder(folder: Path, mount_point: Path) -> Generator[Path]:
    """Mount ``folder`` slowly at another folder, or over itself, served by a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(mount_point)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "mounted\n":
            sys.exit(f"{mount_point}: cannot mount a FUSE folder here")
        yield mount_point
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def forget(path: Path) -> None:
    """Drop a file's pages from the page cache."""
    with path.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(folder: str, mount_point: str) -> None:
    """Mount, serve until SIGTERM, unmount."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    target = os.fsencode(mount_point)
    served = SlowFolder(device, Path(folder))
    if libc.mount(b"slow", target, b"fuse.slow", 1, options.encode()):  # MS_RDONLY
        sys.exit(os.strerror(ctypes.get_errno()))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=served.serve, daemon=True).start()
    number = Path(mount_point).stat().st_dev
    ahead = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    ahead.write_text(str(_LARGEST_READ >> 10))
    print("mounted", flush=True)
    signal.sigwait({signal.SIGTERM})
    libc.umount2(target, 2)  # MNT_DETACH


if __name__ == "__main__":
    main(*sys.argv[1:])
