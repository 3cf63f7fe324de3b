"""A process that loaded ComfyUI is dumped by CRIU and continues in clones of its image."""

import functools
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import DRIVER, Driver, Json, paths_file, real_comfyui

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(600)]
PACK = """
import random

import numpy
import torch


class Draws:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = ("INT",), "run", "test", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        numbers = [random.random(), numpy.random.rand(), torch.rand(1).item()]
        return {"ui": {"text": [str(number) for number in numbers]},
                "result": (random.randrange(2**31),)}


NODE_CLASS_MAPPINGS = {"Draws": Draws}
"""


@functools.cache
def why_not() -> str:
    """Why CRIU cannot be used here; empty if it can."""
    missing = [name for name in ("criu", "unshare") if shutil.which(name) is None]
    if missing:
        return f"needs {' and '.join(missing)}"
    version = _output("criu", "--version").split()[1]
    if int(version.partition(".")[0]) < 4:
        return f"needs criu 4 or later, found {version}"
    try:
        _output("criu", "check")
        _output(*NAMESPACE, "true")
    except subprocess.CalledProcessError as error:
        lines = f"{error.stdout}{error.stderr}".strip().splitlines()
        return f"{' '.join(error.cmd)} failed: {lines[-1] if lines else error.returncode}"
    return ""


# each clone has the frozen process's id, so it needs a namespace in which the id is free
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Frozen:
    """A dumped process and the folder of its image."""

    images: Path
    facts: Json
    aimdo: Json
    streams: list[str]
    """CRIU's names of its standard input, output and error."""

    def restore(self, folder: Path) -> Driver:
        """Restore a clone with its own streams."""
        folder.mkdir()
        command = [*NAMESPACE, "criu", "restore", "-D", str(self.images),
                   "-o", str(folder / "restore.log")]  # fmt: skip
        for number, name in enumerate(self.streams):
            command += ["--inherit-fd", f"fd[{number}]:{name.removeprefix('/')}"]
        _, path = real_comfyui()
        return Driver(command[0], path, folder, command=command)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Generator[Frozen]:
    """A loaded engine that is not attached and did not run a job."""
    python, path = real_comfyui()
    if why_not():
        pytest.skip(why_not())
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "packs").mkdir()
    (folder / "packs" / "draws.py").write_text(PACK)
    images = folder / "images"
    images.mkdir()
    session = ("setsid", python, str(DRIVER))  # CRIU dumps only whole sessions
    with closing(Driver(python, path, folder, command=session)) as driver:
        paths = str(paths_file("real", folder, packs=folder / "packs"))
        loaded = driver.load(attach=False, device="cpu", extra_model_paths=[paths])
        assert loaded == {"event": "loaded"}, (loaded, driver.log)
        facts, aimdo = driver.facts(), driver.aimdo()
        pid = facts["pid"]
        open_files = Path(f"/proc/{pid}/fd")
        streams = [str((open_files / str(number)).readlink()) for number in (0, facts["out"], 2)]
        dump = ("criu", "dump", "-t", str(pid), "-D", str(images), "-o", "dump.log")
        done = subprocess.run(dump, capture_output=True)
        assert done.returncode == 0, (images / "dump.log").read_text()[-2000:]
        assert driver.wait() == -signal.SIGKILL
    yield Frozen(images, facts, aimdo, streams)
    shutil.rmtree(images)


@pytest.fixture
def clones(frozen: Frozen, tmp_path: Path) -> Iterator[tuple[Driver, Driver]]:
    """Two clones that run at the same time."""
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(closing(frozen.restore(tmp_path / name))) for name in "ab"
        )
        yield first, second


def pixels(driver: Driver, graph: graphs.Graph) -> bytes:
    done, job = driver.run(graph, output="9")
    assert done["status"] == "succeeded", (done, driver.log)
    with Image.open(job.output / job.files()[0]) as image:
        return image.convert("RGB").tobytes()


def test_a_restored_process_still_has_its_libraries_attaches_and_runs_jobs(
    frozen: Frozen, tmp_path: Path
) -> None:
    with closing(frozen.restore(tmp_path / "clone")) as clone:
        facts = clone.facts()
        assert (facts["pid"], facts["device"]) == (frozen.facts["pid"], None)
        assert clone.aimdo() == frozen.aimdo
        assert frozen.aimdo == {"event": "aimdo"} or frozen.aimdo["mapped"]
        assert clone.attach() == {"event": "attached"}
        assert clone.facts()["device"]
        assert clone.run(graphs.hello())[0]["status"] == "succeeded"
        assert len(set(pixels(clone, graphs.diffusion()))) > 1
        assert clone.aimdo() == frozen.aimdo


def test_clones_of_one_image_have_different_random_numbers_and_pictures(
    clones: tuple[Driver, Driver],
) -> None:
    drawn = graphs.diffusion()
    drawn["1"] = graphs.node("Draws")
    drawn["3"]["inputs"]["seed"] = ["1", 0]
    for clone in clones:
        assert clone.attach() == {"event": "attached"}
    temp, other_temp = (clone.facts()["temp"] for clone in clones)
    assert temp != other_temp
    numbers, others = (clone.texts({"1": graphs.node("Draws")}) for clone in clones)
    assert all(one != other for one, other in zip(numbers, others, strict=True))
    one, other = (pixels(clone, drawn) for clone in clones)
    assert one != other
    one, other = (pixels(clone, graphs.diffusion(seed=5)) for clone in clones)
    assert one == other
