"""One engine process for all tests, on each release of the tree and on a real ComfyUI."""

import contextlib
import functools
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.engine.protocol import SCRATCH
from tests.paths import ROOT
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.trees import LATEST, PACKS, RELEASES, TREE, build_tree

__all__ = ["TREE"]

HERE = Path(__file__).parent
DRIVER = HERE / "driver.py"
SOURCES = [ROOT / "packages" / name / "src" for name in ("schema", "server")]
TIMEOUT = 100.0
Json = dict[str, Any]


@dataclass
class Running:
    """A job in the engine's process."""

    job_id: str
    folder: Path
    driver: "Driver"
    events: list[Json] = field(default_factory=list[Json])
    _new: "queue.Queue[Json]" = field(default_factory=lambda: queue.Queue[Json]())

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def fractions(self) -> list[float]:
        return [event["fraction"] for event in self.events if event["event"] == "progress"]

    def add(self, event: Json) -> None:
        self._new.put(event)

    def until(self, wanted: Callable[[Json], bool]) -> Json:
        while True:
            event = self._new.get(timeout=TIMEOUT)
            self.events.append(event)
            if wanted(event):
                return event
            assert event["event"] != "done", event

    def until_step(self, step: int) -> Json:
        return self.until(lambda event: (event.get("step") or 0) >= step)

    def interrupt(self) -> None:
        self.driver.interrupt(self.job_id)

    def result(self) -> Json:
        return self.until(lambda event: event["event"] == "done")

    def files(self) -> list[str]:
        return sorted(p.relative_to(self.output).as_posix()
                      for p in self.output.rglob("*") if p.is_file())  # fmt: skip


class Driver:
    """The engine's process."""

    def __init__(
        self,
        python: str,
        path: Path,
        folder: Path,
        *,
        command: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self.path = path
        self._folder = folder
        self._numbers = itertools.count(1)
        self._jobs: dict[str, Running] = {}
        self._answers: queue.Queue[Json] = queue.Queue()
        paths = os.pathsep.join(map(str, SOURCES))
        env = {**os.environ, "PYTHONPATH": paths, SCRATCH: str(folder), **environment}
        self._log = (folder / "driver.log").open("wb")
        self._process = subprocess.Popen(
            command or [python, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, env=env,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def log(self) -> str:
        return (self._folder / "driver.log").read_text(errors="replace")

    def load(self, *, attach: bool = True, **options: Any) -> Json:
        self._send(do="load", attach=attach, options={"path": str(self.path), **options})
        return self.answer()

    def attach(self) -> Json:
        self._send(do="attach")
        return self.answer()

    def facts(self) -> Json:
        self._send(do="facts")
        return self.answer()

    def aimdo(self) -> Json:
        self._send(do="aimdo")
        return self.answer()

    def read(self, *names: str) -> list[Any]:
        """The value of ``module:attribute`` in the process, or its text."""
        self._send(do="read", names=names)
        return self.answer()["values"]

    def interrupt(self, job_id: str) -> None:
        self._send(do="interrupt", job_id=job_id)

    def new_id(self) -> str:
        return f"job_{next(self._numbers):026}"

    def start(
        self,
        graph: Mapping[str, Any],
        *,
        output: str | None = None,
        kind: str = "image",
        outputs: Mapping[str, Json] | None = None,
        job_id: str | None = None,
        files: Mapping[str, bytes] | None = None,
        **more: Any,
    ) -> Running:
        job_id = job_id or self.new_id()
        folder = self._folder / job_id
        for name in ("input", "output"):
            (folder / name).mkdir(parents=True)
        for name, data in (files or {}).items():
            (folder / "input" / name).write_bytes(data)
        job = self._jobs[job_id] = Running(job_id, folder, self)
        node = output or list(graph)[-1]
        wanted = outputs or {"out": {"node": node, "kind": kind, "many": True}}
        self._send(do="run", job_id=job_id, graph=graph, outputs=wanted, folder=str(folder), **more)
        return job

    def run(self, graph: Mapping[str, Any], **options: Any) -> tuple[Json, Running]:
        job = self.start(graph, **options)
        return job.result(), job

    def texts(self, graph: Mapping[str, Any], **options: Any) -> list[str]:
        done, _ = self.run(graph, kind="text", **options)
        assert done["status"] == "succeeded", done
        return done["outputs"]["out"]

    def answer(self) -> Json:
        return self._answers.get(timeout=TIMEOUT)

    def wait(self) -> int:
        """Wait for the end of the process; returns its exit code."""
        return self._process.wait(TIMEOUT)

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _send(self, **request: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                event = json.loads(line)
                if "job" in event:
                    self._jobs[event["job"]].add(event)
                else:
                    self._answers.put(event)
        self._answers.put({"event": "process ended"})


def real_comfyui() -> tuple[str, Path]:
    """Interpreter and checkout; skips the test if they are not set."""
    path, python = os.environ.get("COMFYUI_PATH"), os.environ.get("COMFYUI_PYTHON")
    if not path or not python:
        pytest.skip("needs COMFYUI_PATH and COMFYUI_PYTHON")
    return python, Path(path)


def checkpoints(kind: str, folder: Path) -> Path:
    """A folder with random weights: a few bytes for a tree, SD 1.5's shapes for the real one."""
    if kind != "real":
        return write_safetensors(folder / graphs.CHECKPOINT, {"a.weight": b"\1" * 64}).parent
    python, path = real_comfyui()
    own = path / "models" / "checkpoints"
    if not (own / graphs.CHECKPOINT).exists():
        script, target = HERE / "random_checkpoint.py", folder / graphs.CHECKPOINT
        subprocess.run([python, str(script), str(path), str(target)], check=True)
        return folder
    return own


def write_safetensors(path: Path, tensors: Mapping[str, bytes]) -> Path:
    """A safetensors file of fp16 vectors."""
    header: Json = {"__metadata__": {"made": "for a test"}}
    place = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "F16", "shape": [len(data) // 2],
                        "data_offsets": [place, place + len(data)]}  # fmt: skip
        place += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors.values()))
    return path


REAL = pytest.param("real", marks=pytest.mark.comfyui)


def paths_file(kind: str, folder: Path, *, packs: Path = PACKS) -> Path:
    """An ``extra_model_paths.yaml`` that names node packs and a checkpoint."""
    file = folder / "paths.yaml"
    weights = checkpoints(kind, folder)
    file.write_text(f"test:\n    custom_nodes: {packs}\n    checkpoints: {weights}\n")
    return file


NewDriver = Callable[..., Driver]
Trees = Callable[[str], Path]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Checkouts of the tree by release, shared by all tests."""

    @functools.cache
    def tree(release: str) -> Path:
        return build_tree(release, tmp_path_factory.mktemp(f"ComfyUI-{release}"))

    return tree


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each release of the tree."""
    return request.param


def _make(kind: str, folder: Path, trees: Trees, **environment: str) -> Driver:
    python, path = real_comfyui() if kind == "real" else (sys.executable, trees(kind))
    return Driver(python, path, folder, **environment)


@pytest.fixture
def new_driver(tmp_path: Path, trees: Trees) -> Iterator[NewDriver]:
    """Start engine processes, without loading, on a release of the tree or the real ComfyUI."""
    made: list[Driver] = []

    def make(kind: str = LATEST, **environment: str) -> Driver:
        folder = tmp_path / f"driver-{len(made)}"
        folder.mkdir()
        made.append(_make(kind, folder, trees, **environment))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture(scope="session", params=[*RELEASES, REAL])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trees: Trees
) -> Generator[Driver]:
    """A loaded and attached engine with all test packs and a preloaded checkpoint."""
    folder = tmp_path_factory.mktemp("engine")
    driver = _make(request.param, folder, trees)
    with contextlib.closing(driver):
        loaded = driver.load(
            extra_model_paths=[str(paths_file(request.param, folder))],
            preload=[f"checkpoints/{graphs.CHECKPOINT}"],
            after_restore=["asks_cuda_late"],
            disabled_nodes=["not_wanted"],
        )
        assert loaded == {"event": "loaded"}, (loaded, driver.log)
        yield driver
