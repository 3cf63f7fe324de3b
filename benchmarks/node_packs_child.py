"""One process of ``node_packs.py``: loads node packs as for a snapshot, runs their graphs, and
prints a report as one line of JSON. Run by ComfyUI's interpreter."""

import json
import logging
import os
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final, cast

from comfysnap_schema.wire.jobs import Progress, Timings
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.local.fork_server import thread_holders
from comfysnap_server.engine.comfyui.engine import ComfyUIEngine
from comfysnap_server.engine.protocol import EngineJob
from comfysnap_server.jobs.run import execute

FORK_LIMIT: Final = 60.0
"""Maximum seconds for a forked process to attach and run the graphs."""


class Runner:
    """Runs the graphs of packs on one engine."""

    def __init__(self, engine: ComfyUIEngine, graphs: dict[str, Any]) -> None:
        self._engine = engine
        self._graphs = graphs
        self._number = 0

    def once(self) -> dict[str, Any]:
        """Run all graphs; returns per pack its outputs or ``{"error": ...}``."""
        with tempfile.TemporaryDirectory(prefix="comfysnap-") as folder:
            return {name: self._run(one, Path(folder)) for name, one in self._graphs.items()}

    def _run(self, one: dict[str, Any], folder: Path) -> dict[str, Any]:
        self._number += 1
        own = folder / str(self._number)
        job = EngineJob(
            job_id=f"job_{os.getpid()}_{self._number}",
            graph=one["graph"],
            outputs={k: OutputSpec.model_validate(v) for k, v in one["outputs"].items()},
            input_dir=own / "input",
            output_dir=own / "output",
        )
        job.input_dir.mkdir(parents=True)
        job.output_dir.mkdir()
        end = execute(self._engine, job, lambda _: None).end(Timings(), Progress())
        if end.outputs is None:
            return {"error": str(end.error.detail if end.error else end.status)}
        return {"outputs": _without_urls(end.outputs)}


def _without_urls(value: Any) -> Any:
    """Outputs, with the hash of each file, without URLs, which contain the job's id."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _without_urls(item) for key, item in items if key != "url"}
    if isinstance(value, list):
        return [_without_urls(item) for item in cast("list[Any]", value)]
    return value


def in_fork(work: Callable[[], Any]) -> Any:
    """Run ``work`` in a forked child; returns its result, or a text if it hangs or ends early."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    data = b""
    deadline = time.monotonic() + FORK_LIMIT
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while selector.select(deadline - time.monotonic()):
            piece = os.read(reading, 1 << 16)
            if not piece:
                break
            data += piece
        else:
            os.kill(pid, signal.SIGKILL)
            data = json.dumps(f"hangs (over {FORK_LIMIT:.0f} s)").encode()
    os.close(reading)
    os.waitpid(pid, 0)
    return json.loads(data) if data else "ends early"


def process_state() -> dict[str, str]:
    """Process-wide state that a pack may change, as text."""
    torch: Any = sys.modules["torch"]
    log = logging.getLogger()
    found = {f"signal {s.name}": str(signal.getsignal(s)) for s in signal.Signals
             if s.value in signal.valid_signals()}  # fmt: skip
    found |= {f"env {name}": value for name, value in os.environ.items()}
    found |= {
        "sys.stdout": type(sys.stdout).__qualname__,
        "sys.stderr": type(sys.stderr).__qualname__,
        "sys.excepthook": getattr(sys.excepthook, "__qualname__", "?"),
        "logging level": str(log.level),
        "logging handlers": ", ".join(type(h).__name__ for h in log.handlers),
        "torch dtype": str(torch.get_default_dtype()),
        "torch gradients": str(torch.is_grad_enabled()),
        "torch matmul precision": str(torch.get_float32_matmul_precision()),
        "torch TF32": f"{torch.backends.cuda.matmul.allow_tf32} {torch.backends.cudnn.allow_tf32}",
        "torch cuDNN": f"{torch.backends.cudnn.benchmark} {torch.backends.cudnn.deterministic}",
        "torch threads": str(torch.get_num_threads()),
        "recursion limit": str(sys.getrecursionlimit()),
        "working folder": str(Path.cwd()),
    }
    return found


def replaced(checkout: Path, packs: Path) -> list[str]:
    """ComfyUI's functions and methods that node packs replaced."""
    found: set[str] = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if not file.startswith(f"{checkout}/") or file.startswith(f"{packs}/"):
            continue
        for owner, attributes in _owners(name, module):
            for attribute, value in attributes.items():
                code = getattr(_function(value), "__code__", None)
                if code is not None and code.co_filename.startswith(f"{packs}/"):
                    found.add(f"{owner}.{attribute}")
    return sorted(found)


def _owners(name: str, module: ModuleType) -> Iterator[tuple[str, dict[str, Any]]]:
    yield name, dict(vars(module))
    for kind in list(vars(module).values()):
        if isinstance(kind, type) and kind.__module__ == name:
            yield f"{name}.{kind.__name__}", dict(vars(kind))


def _function(value: Any) -> FunctionType | None:
    inner = getattr(value, "__func__", value)
    return inner if isinstance(inner, FunctionType) else None


def resident() -> int:
    """Resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def main() -> None:
    """``node_packs_child.py REQUEST``: ``packs`` and ``graphs`` as JSON; the answer on stdout."""
    out = os.dup(1)
    os.dup2(2, 1)
    request: dict[str, Any] = json.loads(sys.argv[1])
    engine = ComfyUIEngine(**request["options"])
    started = time.perf_counter()
    engine.load()
    answer: dict[str, Any] = {
        "seconds": time.perf_counter() - started,
        "resident": resident(),
        "phases": engine.report.seconds,
        "version": engine.report.version,
        "devices": engine.report.devices,
        "calls": [asdict(call) for call in engine.report.masked_calls],
        "state": process_state(),
        "replaced": replaced(engine.options.checkout, Path(request["packs"])),
        "threads": thread_holders(engine),
    }
    run = Runner(engine, request["graphs"])
    answer["fork"] = in_fork(lambda: _attach_and_run(engine, run))
    answer["first"] = _attach_and_run(engine, run)
    answer["again"] = run.once()
    answer["packs"] = [
        asdict(pack) for pack in engine.report.packs
    ]  # includes the after_restore packs
    os.write(out, json.dumps(answer).encode() + b"\n")
    sys.stderr.flush()
    os._exit(0)  # even if packs left threads running


def _attach_and_run(engine: ComfyUIEngine, run: Runner) -> dict[str, Any]:
    engine.attach()
    return run.once()


if __name__ == "__main__":
    main()
