"""Node packs are loaded, or reported with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import Driver, NewDriver
from tests.server.engine.comfyui.trees import PACKS


@pytest.fixture
def packs(engine: Driver) -> dict[str, dict[str, Any]]:
    return {pack["name"]: pack for pack in engine.facts()["report"]["packs"]}


def calls_of(engine: Driver, pack: str) -> dict[str, bool]:
    """By function, whether the call was refused."""
    calls = engine.facts()["report"]["masked_calls"]
    return {call["function"]: call["refused"] for call in calls if call["pack"] == pack}


def test_every_pack_is_loaded_or_reported_with_a_reason(packs: dict[str, dict[str, Any]]) -> None:
    ours = {path.name for path in PACKS.iterdir() if path.name != "__pycache__"}
    assert ours - {"not_wanted", "sleeping.disabled"} <= set(packs)
    assert all(pack["loaded"] != bool(pack["reason"]) or pack["prestartup"] is False
               for pack in packs.values())  # fmt: skip


@pytest.mark.parametrize("name", ["not_wanted", "sleeping.disabled"])
def test_disabled_packs_are_not_imported(packs: dict[str, dict[str, Any]], name: str) -> None:
    assert name not in packs


def test_a_pack_that_raises_is_reported_with_its_exception(
    packs: dict[str, dict[str, Any]],
) -> None:
    assert not packs["raises"]["loaded"]
    assert packs["raises"]["reason"] == "RuntimeError: broken on purpose"


def test_a_pack_that_calls_exit_does_not_end_the_process(packs: dict[str, dict[str, Any]]) -> None:
    assert packs["exits"]["reason"] == "SystemExit: 3"


def test_a_pack_without_nodes_is_reported(packs: dict[str, dict[str, Any]]) -> None:
    assert not packs["imports_nothing"]["loaded"]
    assert packs["imports_nothing"]["reason"]


def test_a_single_file_is_a_pack_too(engine: Driver) -> None:
    assert engine.texts(graphs.to_text("SingleFile")) == ["one file"]


def test_prestartup_scripts_run_before_the_packs(
    engine: Driver, packs: dict[str, dict[str, Any]]
) -> None:
    assert packs["prestarts"]["prestartup"] is True
    assert engine.texts(graphs.to_text("Prestarted")) == ["ran"]


def test_a_prestartup_script_that_fails_is_reported(packs: dict[str, dict[str, Any]]) -> None:
    assert packs["prestart_fails"]["prestartup"] is False
    assert "OSError: prestartup broken on purpose" in packs["prestart_fails"]["reason"]


def test_a_pack_that_left_a_thread_makes_forking_unsafe(
    engine: Driver, packs: dict[str, dict[str, Any]]
) -> None:
    assert packs["starts_thread"]["threads"] == ["left-behind"]
    assert engine.facts()["unsafe_to_fork"] == ["starts_thread"]


def test_a_pack_that_needs_the_server_finds_routes_and_a_running_loop(engine: Driver) -> None:
    assert engine.texts(graphs.to_text("HasRoutes")) == ["True"]


def test_a_pack_that_rewrites_posted_graphs_rewrites_those_of_jobs(engine: Driver) -> None:
    assert engine.texts(graphs.to_text("Text", text="{number}")) == ["17"]
    assert engine.texts(graphs.to_text("Text", text="{raise}")) == ["{raise}"]
    done, _ = engine.run(graphs.to_text("Text", text="{nothing}"), kind="text")
    assert done["error"]["code"] == "graph_invalid"
    assert engine.texts(graphs.to_text("Text", text="a word")) == ["a word"]


def test_a_node_can_ask_the_server_for_the_id_of_its_prompt(engine: Driver) -> None:
    done, job = engine.run(graphs.to_text("KnowsItsPrompt"), kind="text")
    assert done["outputs"]["out"] == [job.job_id]


def test_a_task_left_on_the_loop_is_cancelled_and_reported(engine: Driver) -> None:
    assert any("forever" in note for note in engine.facts()["report"]["notes"])


def test_a_pack_that_asks_for_cuda_is_recorded(engine: Driver) -> None:
    assert calls_of(engine, "asks_cuda") == {"is_available": False}
    assert engine.texts(graphs.to_text("AsksCuda")) == ["False"]


def test_a_pack_that_allocates_on_the_device_fails_with_its_name(
    engine: Driver, packs: dict[str, dict[str, Any]]
) -> None:
    assert not packs["allocates"]["loaded"]
    assert "after_restore" in packs["allocates"]["reason"]
    assert calls_of(engine, "allocates") == {"_lazy_init": True}


def test_a_pack_on_the_after_restore_list_is_loaded_by_attach_unmasked(
    engine: Driver, packs: dict[str, dict[str, Any]]
) -> None:
    assert packs["asks_cuda_late"]["after_restore"] is True
    assert calls_of(engine, "asks_cuda_late") == {}
    assert engine.texts(graphs.to_text("AsksCudaLate"))[0] in ("True", "False")


def test_a_pack_after_restore_finds_the_same_folders_as_others(engine: Driver) -> None:
    assert engine.texts(graphs.to_text("NotesFolders")) == [str(engine.path / "output")]


def test_a_pack_after_restore_sees_the_gpu(
    new_driver: NewDriver, release: str, tmp_path: Path
) -> None:
    driver = new_driver(release, TREE_CUDA="1")
    paths = tmp_path / "paths.yaml"
    paths.write_text(f"test:\n    custom_nodes: {PACKS}\n")
    options = {"extra_model_paths": [str(paths)], "after_restore": ["asks_cuda_late", "allocates"]}
    assert driver.load(attach=False, **options) == {"event": "loaded"}
    names = {pack["name"] for pack in driver.facts()["report"]["packs"]}
    assert not names & {"asks_cuda_late", "allocates"}
    assert driver.attach() == {"event": "attached"}
    assert driver.texts(graphs.to_text("AsksCuda")) == ["False"]
    assert driver.texts(graphs.to_text("AsksCudaLate")) == ["True"]
    facts = driver.facts()
    loaded = {pack["name"]: pack["loaded"] for pack in facts["report"]["packs"]}
    assert loaded["allocates"]
    assert facts["cpu_state"] == "GPU"


def test_the_mask_is_removed_after_loading(engine: Driver) -> None:
    facts = engine.facts()
    assert facts["cuda_functions"] == ["is_available", "device_count", "_lazy_init",
                                       "current_device"]  # fmt: skip
    assert json.dumps(facts["report"]["masked_calls"]).count("comfyui") > 0


def test_the_mask_is_removed_when_loading_fails(new_driver: NewDriver, tmp_path: Path) -> None:
    driver = new_driver(TREE_CUDA="1")
    answer = driver.load(preload=["checkpoints/absent.safetensors"])
    assert answer["kind"] == "PreloadError"
