"""Seconds of a job's stages, of which none is counted twice."""

import sys
import time
import types
from typing import Any

import pytest

from comfysnap_server.engine.comfyui.events import planned_nodes
from comfysnap_server.engine.comfyui.stages import StageClock
from tests.server.engine.comfyui import graphs

STEP = 0.02
NODES = {"loader": 5.0, "sampler": 3 * STEP, "saver": 1.0}


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Any:
    """ComfyUI's functions that load and sample; sampling loads first."""
    management, samplers = types.ModuleType("m"), types.ModuleType("s")

    def load_models_gpu() -> None:
        time.sleep(STEP)

    class CFGGuider:
        def sample(self, *, fails: bool = False) -> str:
            vars(management)["load_models_gpu"]()
            time.sleep(2 * STEP)
            if fails:
                raise ZeroDivisionError
            return "latent"

    vars(management)["load_models_gpu"] = load_models_gpu
    vars(samplers)["CFGGuider"] = CFGGuider
    monkeypatch.setitem(sys.modules, "comfy", types.ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    return types.SimpleNamespace(management=management, samplers=samplers)


@pytest.fixture
def clock(functions: Any) -> StageClock:
    clock = StageClock(lambda: "sampler")
    clock.install()
    return clock


def test_loading_inside_of_sampling_is_loading_alone(clock: StageClock, functions: Any) -> None:
    assert functions.samplers.CFGGuider().sample() == "latent"
    stages = clock.stages(NODES, loaders=["loader"], savers=["saver"], read=0.5)
    assert stages.load is not None
    assert stages.sample is not None
    assert 5.0 + STEP <= stages.load < 5.0 + stages.sample
    assert stages.sample >= 2 * STEP
    assert (stages.store, stages.read) == (1.0, 0.5)


def test_all_the_time_of_a_loader_is_loading(functions: Any) -> None:
    clock = StageClock(lambda: "loader")
    clock.install()
    functions.management.load_models_gpu()
    stages = clock.stages(NODES, loaders=["loader"], savers=[], read=None)
    assert stages.load == 5.0


def test_a_failed_job_leaves_nothing_to_the_next_one(clock: StageClock, functions: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        functions.samplers.CFGGuider().sample(fails=True)
    clock.reset()
    stages = clock.stages({}, loaders=[], savers=[], read=None)
    assert (stages.load, stages.sample, stages.store) == (0.0, 0.0, 0.0)


def test_a_release_without_a_function_is_measured_without_it(functions: Any) -> None:
    del functions.samplers.CFGGuider
    clock = StageClock(lambda: None)
    clock.install()
    functions.management.load_models_gpu()
    assert (clock.stages({}, loaders=[], savers=[], read=None).load or 0.0) >= STEP


def test_what_only_cached_nodes_need_does_not_run() -> None:
    graph = graphs.diffusion()
    assert "4" in planned_nodes(graph, ["9"])
    assert set(planned_nodes(graph, ["9"], {"3", "4"})) == {"9", "8"}
    assert planned_nodes(graph, ["9"], {"9"}) == []
