"""Jobs in a control group whose memory holds one model, and not two."""

import os
import shutil
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import DRIVER, Driver, checkpoints, real_comfyui

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(600)]
CGROUPS = Path("/sys/fs/cgroup")
LIMIT = 1600 << 20
NAMES = ("one.safetensors", "two.safetensors")
ENTER = "echo $$ > {group}/cgroup.procs && exec {python} {driver}"


@pytest.fixture
def group() -> Generator[Path]:
    """A control group with a memory limit, of either version; skips where none can be made."""
    version_1 = (CGROUPS / "memory").is_dir()
    folder = (CGROUPS / "memory" if version_1 else CGROUPS) / f"comfysnap-test-{os.getpid()}"
    limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a control group: {error}")
    try:
        try:
            limit.write_text(str(LIMIT))
        except OSError as error:
            pytest.skip(f"cannot limit the memory of a control group: {error}")
        yield folder
    finally:
        with suppress(OSError):  # a process that is still ending
            folder.rmdir()


def test_a_switch_of_models_survives_where_memory_holds_one_and_not_two(
    group: Path, tmp_path: Path
) -> None:
    python, path = real_comfyui()
    source = checkpoints("real", tmp_path) / graphs.CHECKPOINT
    for name in NAMES:
        shutil.copyfile(source, tmp_path / name)
    paths = tmp_path / "paths.yaml"
    paths.write_text(f"test:\n    checkpoints: {tmp_path}\n")
    command = ENTER.format(group=group, python=python, driver=DRIVER)
    driver = Driver(python, path, tmp_path, command=["/bin/sh", "-c", command])
    with closing(driver):
        loaded = driver.load(extra_model_paths=[str(paths)], custom_nodes=False)
        assert loaded == {"event": "loaded"}, (loaded, driver.log)
        for seed, name in enumerate(NAMES * 2):
            graph = graphs.diffusion(seed=seed)
            graph["4"]["inputs"]["ckpt_name"] = name
            done, _ = driver.run(graph)
            assert done["status"] == "succeeded", done
            assert "4" in done["node_seconds"]  # loaded anew: the other model took its place
