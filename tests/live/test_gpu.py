"""Tests that need a GPU; ``make gpu`` runs them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_server.backends.local import LocalBackend
from tests.live.test_comfyui_backend import asked
from tests.server.backends.suite import run
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import Driver, NewDriver, paths_file, real_comfyui
from tests.server.engine.comfyui.main_py import copy_checkout, made_by

pytestmark = [pytest.mark.comfyui, pytest.mark.gpu, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def gpu() -> str:
    """The name of torch's device."""
    python, _ = real_comfyui()
    asked_for = "import torch; print(torch.cuda.get_device_name())"
    done = subprocess.run([python, "-c", asked_for], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no CUDA device: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


@pytest.fixture
def drivers(tmp_path: Path, gpu: str) -> Iterator[NewDriver]:
    """Start engine processes that require the GPU, loaded but not attached."""
    made: list[Driver] = []
    python, path = real_comfyui()

    def make(_kind: str = "real", *, preload: bool = False) -> Driver:
        folder = tmp_path / f"driver-{len(made)}"
        folder.mkdir()
        driver = Driver(python, path, folder)
        made.append(driver)
        loaded = driver.load(
            attach=False,
            device="cuda",
            extra_model_paths=[str(paths_file("real", folder))],
            disabled_nodes=["starts_thread"],
            preload=[f"checkpoints/{graphs.CHECKPOINT}"] if preload else [],
        )
        assert loaded == {"event": "loaded"}, (loaded, driver.log)
        return driver

    yield make
    for driver in made:
        driver.close()


def pixels(driver: Driver, seed: int) -> bytes:
    from PIL import Image

    done, job = driver.run(graphs.diffusion(seed=seed))
    assert done["status"] == "succeeded", done
    with Image.open(job.output / job.files()[0]) as image:
        return image.convert("RGB").tobytes()


def test_the_gpu_is_used_by_attach_but_not_by_load(drivers: NewDriver, gpu: str) -> None:
    driver = drivers()
    before = driver.facts()
    assert (before["initialized"], before["device"]) == (False, None)
    assert driver.attach() == {"event": "attached"}
    after = driver.facts()
    assert (after["cpu_state"], after["device"]) == ("GPU", gpu)
    assert after["dynamic_vram"]


def test_an_attached_process_is_in_the_same_state_as_main_py_on_this_gpu(
    gpu: str, tmp_path: Path
) -> None:
    checkout = copy_checkout(tmp_path / "ComfyUI")
    real = {"REAL_GPU": "1"}
    expected = made_by("main", checkout, environment=real)
    assert made_by("engine", checkout, environment=real) == expected
    assert expected["state"]["cpu_state"] == "GPU"


def test_the_same_seed_gives_the_same_picture_from_the_file_and_from_memory(
    drivers: NewDriver,
) -> None:
    from_file, from_memory = drivers(), drivers(preload=True)
    for driver in (from_file, from_memory):
        assert driver.attach() == {"event": "attached"}
    first = pixels(from_file, 3)
    assert first == pixels(from_memory, 3)
    assert first != pixels(from_file, 4)
    assert first == pixels(from_file, 3)


def test_a_sampler_on_the_gpu_is_interrupted_and_the_next_job_runs(drivers: NewDriver) -> None:
    driver = drivers()
    driver.attach()
    job = driver.start(graphs.diffusion(seed=40, steps=9000))
    job.until_step(2)
    job.interrupt()
    assert job.result()["status"] == "cancelled"
    assert driver.run(graphs.diffusion(seed=41))[0]["status"] == "succeeded"


async def test_forked_workers_run_on_the_gpu_and_their_jobs_report_it(
    tmp_path: Path, gpu: str
) -> None:
    python, path = real_comfyui()
    backend = LocalBackend(
        tmp_path / "data",
        engine="comfyui",
        engine_options={
            "path": str(path),
            "device": "cuda",
            "extra_model_paths": [str(paths_file("real", tmp_path))],
            "disabled_nodes": ["starts_thread"],
        },
        python=python,
    )
    await backend.start()
    try:
        for seed in (1, 2):
            job = await run(backend, asked(graphs.diffusion(seed=seed), output="9"))
            assert job.status is JobStatus.SUCCEEDED, job.error
            assert job.timings.device == gpu
            os.kill(await backend.worker_pid(), 9)
    finally:
        await backend.stop()
