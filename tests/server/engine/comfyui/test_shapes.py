"""Differences between releases, on trees with a simulated GPU."""

import os
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import Driver, NewDriver, checkpoints, write_safetensors
from tests.server.engine.comfyui.trees import LATEST, PACKS, RELEASES, build_tree

OLDEST, NEWEST = RELEASES[0], RELEASES[-1]
KEY = "comfyui-of-a-test-8f2b"
LATE = "late.safetensors"

DECISIONS = {
    "cpu_state": "comfy.model_management:cpu_state",
    "total_vram": "comfy.model_management:total_vram",
    "sdpa": "comfy.ops:scaled_dot_product_attention.__doc__",
    "attention": "comfy.ldm.modules.attention:REGISTERED_ATTENTION_FUNCTIONS",
    "benchmark": "torch.backends:cudnn.benchmark",
}
RECENT_DECISIONS = {
    "pinned": "comfy.model_management:MAX_PINNED_MEMORY",
    "dynamic_vram": "comfy.memory_management:aimdo_enabled",
    "patcher": "comfy.model_patcher:CoreModelPatcher.__name__",
    "paged": "comfy_aimdo.control:devctxs",
    "kitchen": "comfy_kitchen.registry:registry.capabilities",
    "refused": "comfy_kitchen.registry:registry.unavailable",
}


@dataclass
class Attached:
    release: str
    driver: Driver
    loaded: dict[str, Any]
    """Decisions made while CUDA was hidden."""
    attached: dict[str, Any]
    """Decisions after attach."""

    @property
    def is_recent(self) -> bool:
        return self.release != OLDEST


def decisions(driver: Driver, release: str) -> dict[str, Any]:
    names = {**DECISIONS, **({} if release == OLDEST else RECENT_DECISIONS)}
    return dict(zip(names, driver.read(*names.values()), strict=True))


@pytest.fixture(scope="session", params=RELEASES)
def on_gpu(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Attached]:
    """An engine that was loaded without a GPU and attached to one, with a key for API nodes, and
    with a checkpoint that came in between and left no trace on its folder."""
    release: str = request.param
    folder = tmp_path_factory.mktemp("on-gpu")
    tree = build_tree(release, folder / "ComfyUI")
    weights = checkpoints(release, folder)
    name = "extra_paths.yaml" if release == NEWEST else "extra_model_paths.yaml"
    (tree / name).write_text(f"test:\n    custom_nodes: {PACKS}\n    checkpoints: {weights}\n")
    (tree / "custom_nodes" / "lists.py").write_text(
        "import folder_paths\nfolder_paths.get_filename_list('checkpoints')\n"
    )
    arguments = ["--fast", "autotune"]
    if release == NEWEST:
        arguments += ["--disable-partner-nodes", "--cuda-device", "all"]
    driver = Driver(sys.executable, tree, folder, TREE_CUDA="1", COMFY_ORG_API_KEY=KEY)
    with closing(driver):
        answer = driver.load(attach=False, arguments=arguments, device="cuda")
        assert answer == {"event": "loaded"}, (answer, driver.log)
        loaded = decisions(driver, release)
        modified = weights.stat().st_mtime_ns
        write_safetensors(weights / LATE, {"late.weight": b"\1" * 8})
        os.utime(weights, ns=(modified, modified))
        assert driver.attach() == {"event": "attached"}
        yield Attached(release, driver, loaded, decisions(driver, release))


def test_a_gpu_that_appears_after_loading_is_used(on_gpu: Attached) -> None:
    loaded, attached = on_gpu.loaded, on_gpu.attached
    assert (loaded["sdpa"], attached["sdpa"].partition(":")[0]) == ("On any device.", "On a GPU")
    assert attached["cpu_state"] == "CPUState.GPU"
    assert attached["total_vram"] == 24 * 1024 != loaded["total_vram"]


def test_dynamic_vram_pages_the_weights_of_models(on_gpu: Attached) -> None:
    loaded, attached, driver = on_gpu.loaded, on_gpu.attached, on_gpu.driver
    done, _ = driver.run(graphs.diffusion(seed=1))
    assert done["status"] == "succeeded", done
    (models,) = driver.read("comfy.model_management:loaded")
    assert {"ModelPatcherDynamic" in model for model in models} == {on_gpu.is_recent}
    if on_gpu.is_recent:
        assert (loaded["dynamic_vram"], attached["dynamic_vram"]) == (False, True)
        assert (loaded["paged"], attached["paged"]) == ([], [0])
        assert driver.read("comfy_aimdo.control:log_level") == ["warning"]


def test_kernels_that_need_a_gpu_are_registered_after_loading(on_gpu: Attached) -> None:
    loaded, attached = on_gpu.loaded, on_gpu.attached
    if on_gpu.is_recent:
        assert (set(loaded["kitchen"]), set(loaded["refused"])) == ({"eager"}, {"cuda"})
        assert attached["kitchen"]["cuda"] == ["int8_attention", "quantize"]
        assert attached["refused"] == {}
    int8 = {"comfy_kitchen_int8"} if on_gpu.is_recent else set[str]()
    assert set(attached["attention"]) - set(loaded["attention"]) == int8


def test_memory_is_pinned_and_kernels_are_timed_for_the_device(on_gpu: Attached) -> None:
    assert (on_gpu.loaded["benchmark"], on_gpu.attached["benchmark"]) == (False, True)
    assert not on_gpu.is_recent or on_gpu.attached["pinned"] > 0


def test_a_file_that_came_after_loading_is_listed_although_its_folder_looks_the_same(
    on_gpu: Attached,
) -> None:
    graph = graphs.diffusion(seed=2)
    graph["4"]["inputs"]["ckpt_name"] = LATE
    done, _ = on_gpu.driver.run(graph)
    assert done["status"] == "succeeded", done


def test_a_removed_class_is_replaced_if_the_release_supports_it(on_gpu: Attached) -> None:
    graph = graphs.hello(color=0xFF0000)
    inputs = {"size_x": 16, "size_y": 16, "batch_size": 1, "color": 0xFF0000}
    graph["1"] = graphs.node("OldEmptyImage", **inputs)
    done, _ = on_gpu.driver.run(graph)
    if on_gpu.is_recent:
        assert done["status"] == "succeeded", done
    else:
        assert done["error"]["code"] == "graph_invalid"
        assert "OldEmptyImage" in done["error"]["detail"]


def test_steps_are_reported_as_often_as_the_release_says(on_gpu: Attached) -> None:
    job = on_gpu.driver.start(graphs.through("Steps", steps=150))
    job.result()
    steps = {event["step"] for event in job.events if event.get("step")}
    assert {1, 150} <= steps
    assert (len(steps) == 150) is not on_gpu.is_recent


def test_a_node_that_costs_money_gets_the_key(on_gpu: Attached) -> None:
    assert on_gpu.driver.texts(graphs.to_text("PaysWithKey", text="art")) == ["art with a key"]


def test_without_a_key_in_the_environment_nodes_run_without_one(engine: Driver) -> None:
    assert engine.texts(graphs.to_text("PaysWithKey", text="art")) == ["art without a key"]


def test_a_key_is_neither_in_pictures_nor_in_errors_nor_in_the_log(on_gpu: Attached) -> None:
    driver = on_gpu.driver
    paid = {**graphs.hello(color=0x9), "8": graphs.node("PaysWithKey", text="paid")}
    paid["9"] = graphs.node("Tell", text=["8", 0])
    done, job = driver.run(paid, output="3")
    (picture,) = done["outputs"]["out"]
    assert b"PaysWithKey" in (job.output / picture["name"]).read_bytes()
    assert KEY.encode() not in (job.output / picture["name"]).read_bytes()
    done, _ = driver.run(graphs.to_text("PaysWithKey", text="refused"), kind="text")
    assert "the key *** is not valid" in done["error"]["detail"]
    assert KEY not in str(done)
    assert "is not valid" in driver.log
    assert KEY not in driver.log


@pytest.mark.parametrize("release", RELEASES[1:])
def test_without_a_gpu_jobs_run_on_the_cpu_and_gpu_features_are_off(
    new_driver: NewDriver, release: str
) -> None:
    driver = new_driver(release)
    driver.load()
    found = decisions(driver, release)
    assert found.pop("total_vram") > 0
    assert found.pop("attention").keys() == {"pytorch"}
    assert found == {
        "cpu_state": "CPUState.CPU",
        "sdpa": "On any device.",
        "pinned": -1,
        "benchmark": False,
        "dynamic_vram": False,
        "patcher": "ModelPatcher",
        "paged": [],
        "kitchen": {"eager": ["quantize"]},
        "refused": {"cuda": "CUDA not available on this system"},
    }


def test_attaching_without_the_gpu_that_was_asked_for_says_why(
    new_driver: NewDriver, release: str
) -> None:
    answer = new_driver(release).load(device="cuda")
    assert answer["kind"] == "DeviceMissingError"
    assert "Found no NVIDIA driver" in answer["message"]


def test_an_attention_that_ends_processes_without_a_gpu_is_chosen_when_there_is_one(
    new_driver: NewDriver,
) -> None:
    driver = new_driver(TREE_CUDA="1")
    assert driver.load(arguments=["--use-ck-attention"]) == {"event": "loaded"}
    modules = ("comfy.ldm.modules.attention", "comfy.ldm.model")
    names = driver.read(*(f"{module}:optimized_attention.__name__" for module in modules))
    assert names == ["attention_comfy_kitchen_int8"] * 2
    assert driver.run(graphs.hello())[0]["status"] == "succeeded"


def test_an_attention_that_needs_a_gpu_is_rejected_without_one(new_driver: NewDriver) -> None:
    driver = new_driver()
    loaded = driver.load(attach=False, arguments=["--use-ck-attention"])
    assert loaded == {"event": "loaded"}
    answer = driver.attach()
    assert answer["kind"] == "DeviceMissingError"
    assert "--use-ck-attention" in answer["message"]


def test_results_of_other_prompts_go_when_memory_is_short(new_driver: NewDriver) -> None:
    driver = new_driver(TREE_AVAILABLE="1")
    driver.load()
    one, two = graphs.hello(color=1), graphs.hello(color=2)
    ran = [set(driver.run(graph)[0]["node_seconds"]) for graph in (one, one, two, one)]
    every = {"1", "2", "3"}
    assert ran == [every, {"3"}, every, every]


@pytest.fixture
def own_tree(new_driver: NewDriver, tmp_path: Path) -> Driver:
    """An engine of the latest tested release, whose checkout the test may change."""
    driver = new_driver()
    driver.path = build_tree(LATEST, tmp_path / "ComfyUI")
    return driver


def test_an_unsupported_release_is_rejected_with_everything_missing(
    own_tree: Driver,
) -> None:
    for name, change in {
        "execution": "validate_prompt = None",
        "nodes": "load_custom_node = None",
        "server": "PromptServer.__init__ = lambda self, loop, passport: None",
    }.items():
        with (own_tree.path / f"{name}.py").open("a") as file:
            file.write(f"\n{change}\n")
    answer = own_tree.load()
    assert answer["kind"] == "UnsupportedComfyError"
    for part in (LATEST, "async validate_prompt", "async load_custom_node", "passport"):
        assert part in answer["message"]


def test_a_release_newer_than_any_tested_one_runs_and_is_named_once(own_tree: Driver) -> None:
    (own_tree.path / "comfyui_version.py").write_text('__version__ = "0.99.0"\n')
    assert own_tree.load() == {"event": "loaded"}
    report = own_tree.facts()["report"]
    assert (report["version"], report["tested"]) == ("0.99.0", False)
    assert sum("0.99.0" in note for note in report["notes"]) == 1
    assert own_tree.log.count("0.99.0") == 1
    assert own_tree.run(graphs.hello())[0]["status"] == "succeeded"
