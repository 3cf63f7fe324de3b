"""Finds the pages of libraries that a job touches, in a fork that is thrown away.

A restored process has none of its libraries' pages mapped, and neither has a fork: what a small job
maps in a fork before the snapshot, a job after the restore will need.
"""

import array
import contextlib
import importlib
import json
import logging
import os
import select
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from comfysnap_schema.comfy import Graph
from comfysnap_schema.workflow import OutputSpec
from comfysnap_server.engine.comfyui.readahead import Piece
from comfysnap_server.engine.protocol import SCRATCH, EngineJob
from comfysnap_server.errors import ComfysnapServerError

GRAPH: Final[Graph] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 255},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "test"}},
}
"""Consists of nodes that every release has; needs no model and no GPU."""

LARGEST_PIECE: Final = 1 << 20
GAP: Final = 256 << 10
"""Bytes that are read along: less than what a request to a network volume costs."""
LIMIT_S: Final = 60
"""Seconds; a fork that takes longer hangs."""
_FUNCTIONS: Final = (
    "abs", "argmax", "argmin", "ceil", "cos", "count_nonzero", "exp", "floor", "frac", "log",
    "ones_like", "sigmoid", "sin", "sqrt", "zeros_like",
)  # fmt: skip
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PRESENT: Final = 1 << 63
_OF_A_FILE: Final = 1 << 61
_PROC: Final = Path("/proc/self")


class LibraryPagesError(ComfysnapServerError):
    """The pages cannot be found out; the message is the reason."""


@contextlib.contextmanager
def small_job(job_id: str) -> Generator[EngineJob]:
    """A job with ``GRAPH``, in folders that are deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="comfysnap-") as folder:
        job = EngineJob(
            job_id=job_id,
            graph=GRAPH,
            outputs={"image": OutputSpec.model_validate({"node": "2", "kind": "image"})},
            input_dir=Path(folder, "input"),
            output_dir=Path(folder, "output"),
        )
        job.input_dir.mkdir()
        job.output_dir.mkdir()
        yield job


def use_libraries(folder: Path, *, on_cpu: bool) -> None:
    """Call what a job with a model calls and the small job does not: a tokenizer, the reader of
    weights, and with ``on_cpu`` the kernels of a diffusion model. What is missing is left out."""
    for use in (_tokenize, _read_weights, *([_compute] if on_cpu else [])):
        with contextlib.suppress(Exception):
            use(folder)


def _tokenize(_: Path) -> None:
    importlib.import_module("comfy.sd1_clip").SDTokenizer().tokenize_with_weights("a fox")


def _read_weights(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    file = folder / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    importlib.import_module("comfy.utils").load_torch_file(str(file))


def _compute(_: Path) -> None:
    torch: Any = importlib.import_module("torch")
    with torch.no_grad():
        for kind in (torch.float32, torch.float16, torch.bfloat16):
            _run_layers(torch, kind)
        for kind in (torch.float32, torch.float64):
            _run_functions(torch, kind)
        layer = torch.nn.Linear(8, 8)
        layer.half().load_state_dict({name: t.half() for name, t in layer.state_dict().items()})
        torch.randn(64, generator=torch.manual_seed(1)).mul(255).to(torch.uint8).numpy()
        torch.full((8, 8), -1.0).triu_(1).masked_fill(torch.arange(8) > 3, 0.0).any().item()


def _run_layers(torch: Any, kind: Any) -> None:
    functional: Any = torch.nn.functional
    image, many = torch.randn(2, 64, 16, 16).to(kind), torch.randn(64).to(kind)
    kernel, weights = torch.randn(64, 64, 3, 3).to(kind), torch.randn(128, 64).to(kind)
    image = functional.conv2d(image, kernel, many, padding=1)
    image = functional.silu(functional.group_norm(image, 32, many, many), inplace=True)
    image = functional.conv2d(image, kernel[:, :, :1, :1])
    image = functional.interpolate(image, scale_factor=2.0, mode="nearest")
    image = functional.conv2d(functional.pad(image, (0, 1, 0, 1)), kernel, many, stride=2)
    rows = functional.layer_norm(image.flatten(2).transpose(1, 2), (64,), many, many)
    left, right = functional.linear(rows, weights).chunk(2, -1)
    heads = (left * functional.gelu(right)).reshape(2, -1, 4, 16).transpose(1, 2)
    heads = functional.scaled_dot_product_attention(heads, heads, heads).softmax(-1)
    torch.cat([heads, heads]).add_(1).div_(2).clamp_(0, 1).float().mean().item()
    functional.embedding(torch.tensor([1, 2]), weights)
    image.permute(0, 2, 3, 1).contiguous().movedim(-1, 1).std()


def _run_functions(torch: Any, kind: Any) -> None:
    row = torch.linspace(0.1, 1, 64, dtype=kind)
    for name in _FUNCTIONS:
        getattr(torch, name)(row)
    (1 - row.pow(2) / 3 - row).cumprod(0)[row.argsort()].unsqueeze(0).expand(4, 64).clone()


def touched_pages(
    job: Callable[[Path], None], *, limit: float = LIMIT_S, proc: Path = _PROC
) -> list[Piece]:
    """Run a job in a fork, and return the pages of libraries that it mapped, in pieces.

    Args:
        job: Gets a folder that is deleted afterwards.
        limit: Seconds until the fork is killed.
        proc: Where the kernel shows a process itself.

    Raises:
        LibraryPagesError: This kernel shows no page map (as gVisor), or the job failed.
    """
    if not (proc / "pagemap").exists():
        raise LibraryPagesError(f"this kernel has no page map ({proc / 'pagemap'})")
    try:
        with tempfile.TemporaryDirectory(prefix="comfysnap-") as folder:
            said: Any = json.loads(_run_in_fork(job, Path(folder), limit, proc))
    except (OSError, ValueError) as error:  # ValueError: it was killed while it wrote
        raise LibraryPagesError(f"cannot run a fork: {error}") from error
    if isinstance(said, str):
        raise LibraryPagesError(said)
    return [Piece(*fields) for fields in said]


def _run_in_fork(job: Callable[[Path], None], folder: Path, limit: float, proc: Path) -> bytes:
    status = 0
    reading, writing = os.pipe()
    try:
        try:
            child = _fork()
            if child == 0:
                _be_the_fork(job, folder, writing, proc)
        finally:
            os.close(writing)
        text = _read(reading, limit)
        if text is None:
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # where the kernel reaps them
            _, status = os.waitpid(child, 0)
    finally:
        os.close(reading)
    if text is None:
        raise LibraryPagesError(f"the fork took longer than {limit:g} s")
    if not text:
        raise LibraryPagesError(f"the fork ended with {os.waitstatus_to_exitcode(status)}")
    return text


def _read(channel: int, limit: float) -> bytes | None:
    """All that is written to a pipe; None if that is not over in time."""
    parts: list[bytes] = []
    poll, deadline = select.poll(), time.monotonic() + limit
    poll.register(channel, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        part = os.read(channel, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def _fork() -> int:
    with warnings.catch_warnings():  # of threads: the child uses none of their locks, or is killed
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_the_fork(job: Callable[[Path], None], folder: Path, writing: int, proc: Path) -> NoReturn:
    try:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
        logging.disable(logging.CRITICAL)
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(silence, stream)
        os.environ[SCRATCH] = str(folder)
        try:
            job(folder)
            answer = [astuple(piece) for piece in in_pieces(mapped_pages(proc))]
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        with open(writing, "wb") as channel:
            channel.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


@dataclass(frozen=True)
class _Mapping:
    start: int
    end: int
    offset: int
    path: str


def libraries(proc: Path = _PROC) -> set[str]:
    """Paths of the libraries that this process has mapped; empty where that cannot be read."""
    try:
        lines = (proc / "maps").read_text().splitlines()
    except OSError:
        return set()
    return {mapping.path for mapping in _of_libraries(lines)}


def mapped_pages(proc: Path = _PROC) -> dict[str, set[int]]:
    """The pages of libraries that this process has mapped: numbers in their files, by path.

    Raises:
        OSError: The page map cannot be read.
    """
    found: dict[str, set[int]] = {}
    with (proc / "pagemap").open("rb", buffering=0) as pagemap:
        for mapping in _of_libraries((proc / "maps").read_text().splitlines()):
            count = (mapping.end - mapping.start) // _PAGE
            entries = array.array("Q")
            entries.frombytes(os.pread(pagemap.fileno(), count * 8, mapping.start // _PAGE * 8))
            first = mapping.offset // _PAGE
            found.setdefault(mapping.path, set()).update(
                first + index
                for index, entry in enumerate(entries)
                if entry & _PRESENT and entry & _OF_A_FILE
            )
    return found


def _of_libraries(lines: Iterable[str]) -> list[_Mapping]:
    """The mappings of files of which a part is executable, from ``/proc/self/maps``."""
    mappings: list[_Mapping] = []
    libraries: set[str] = set()
    for line in lines:
        place, access, offset, _device, _inode, *path = line.split(maxsplit=5)
        if path and path[0].startswith("/") and not path[0].endswith(" (deleted)"):
            start, _, end = place.partition("-")
            mappings.append(_Mapping(int(start, 16), int(end, 16), int(offset, 16), path[0]))
            if "x" in access:
                libraries.add(path[0])
    return [mapping for mapping in mappings if mapping.path in libraries]


def in_pieces(pages: Mapping[str, Collection[int]]) -> Iterator[Piece]:
    """Join pages to pieces of at most ``LARGEST_PIECE`` bytes, over gaps of at most ``GAP``; files
    of which more is needed come first."""
    for path, numbers in sorted(pages.items(), key=lambda item: -len(item[1])):
        start = end = -1
        for place in sorted(number * _PAGE for number in numbers):
            if end >= 0 and place - end <= GAP and place + _PAGE - start <= LARGEST_PIECE:
                end = place + _PAGE
                continue
            if end >= 0:
                yield Piece(path, start, end - start)
            start, end = place, place + _PAGE
        if end >= 0:
            yield Piece(path, start, end - start)
