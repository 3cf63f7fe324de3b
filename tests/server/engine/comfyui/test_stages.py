"""Seconds of a job's stages, of which none is counted twice."""

import sys
import types
from typing import Any

import pytest

from comfysnap_server.engine.comfyui import stages
from comfysnap_server.engine.comfyui.events import planned_nodes
from comfysnap_server.engine.comfyui.stages import StageClock
from tests.server.engine.comfyui import graphs

STEP = 1.0
NODES = {"loader": 5.0, "sampler": 3 * STEP, "saver": 1.0}


class Time:
    """A clock that only the functions advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Any:
    """ComfyUI's functions that load and sample; sampling loads first."""
    management, samplers = types.ModuleType("m"), types.ModuleType("s")
    time = Time()

    def load_models_gpu() -> None:
        time.now += STEP

    class CFGGuider:
        def sample(self, *, fails: bool = False) -> str:
            vars(management)["load_models_gpu"]()
            time.now += 2 * STEP
            if fails:
                raise ZeroDivisionError
            return "latent"

    vars(management)["load_models_gpu"] = load_models_gpu
    vars(samplers)["CFGGuider"] = CFGGuider
    monkeypatch.setattr(stages, "time", time)
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
    seconds = clock.stages(NODES, loaders=["loader"], savers=["saver"], read=0.5)
    assert (seconds.load, seconds.sample) == (5.0 + STEP, 2 * STEP)
    assert (seconds.store, seconds.read) == (1.0, 0.5)


def test_all_the_time_of_a_loader_is_loading(functions: Any) -> None:
    clock = StageClock(lambda: "loader")
    clock.install()
    functions.management.load_models_gpu()
    seconds = clock.stages(NODES, loaders=["loader"], savers=[], read=None)
    assert seconds.load == 5.0


def test_a_failed_job_leaves_nothing_to_the_next_one(clock: StageClock, functions: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        functions.samplers.CFGGuider().sample(fails=True)
    clock.reset()
    seconds = clock.stages({}, loaders=[], savers=[], read=None)
    assert (seconds.load, seconds.sample, seconds.store) == (0.0, 0.0, 0.0)


def test_a_release_without_a_function_is_measured_without_it(functions: Any) -> None:
    del functions.samplers.CFGGuider
    clock = StageClock(lambda: None)
    clock.install()
    functions.management.load_models_gpu()
    assert clock.stages({}, loaders=[], savers=[], read=None).load == STEP


def test_what_only_cached_nodes_need_does_not_run() -> None:
    graph = graphs.diffusion()
    assert "4" in planned_nodes(graph, ["9"])
    assert set(planned_nodes(graph, ["9"], {"3", "4"})) == {"9", "8"}
    assert planned_nodes(graph, ["9"], {"9"}) == []
