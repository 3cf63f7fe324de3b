"""Parts of the engine that do not need ComfyUI: caching, errors, outputs, interrupts."""

import os
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import Kind
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.engine.comfyui.cache import (
    KeptResult,
    job_local_nodes,
    names,
    tensor_bytes,
    to_drop,
)
from comfysnap_server.engine.comfyui.errors import (
    is_broken_device,
    is_out_of_memory,
    node_error,
)
from comfysnap_server.engine.comfyui.events import preview_jpeg
from comfysnap_server.engine.comfyui.folders import is_outside
from comfysnap_server.engine.comfyui.interrupt import REMEMBERED, Interrupts
from comfysnap_server.engine.comfyui.outputs import Folders, collect
from comfysnap_server.engine.comfyui.resources import held_resources
from comfysnap_server.engine.protocol import ProducedFile
from comfysnap_server.engine.registry import EngineChoiceError, make_engine
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import NewDriver, paths_file

KEPT = [KeptResult("model", 1, 0), KeptResult("old", 2, 60), KeptResult("new", 3, 60)]


@pytest.mark.parametrize(
    ("max_entries", "max_bytes", "scarce", "dropped"),
    [(None, 200, False, []), (None, 100, False, ["old"]), (None, 0, False, ["old", "new"]),
     (None, 200, True, ["model", "old"]), (2, 200, False, ["model"]),
     (1, 0, False, ["model", "old", "new"])],
)  # fmt: skip
def test_the_oldest_results_are_dropped_first_and_models_only_when_memory_is_low(
    max_entries: int | None, max_bytes: int, scarce: bool, dropped: list[str]
) -> None:
    assert dropped == to_drop(
        KEPT, latest=3, max_entries=max_entries, max_bytes=max_bytes, scarce=scarce
    )


def test_nodes_that_depend_on_an_output_node_are_not_kept_either() -> None:
    graph: Any = {
        "1": graphs.node("Loader"),
        "2": graphs.node("Save", x=["1", 0]),
        "3": graphs.node("UsesPath", x=["2", 0]),
        "4": graphs.node("Reads", file="a.png"),
        "5": graphs.node("Hashes", file="a.png"),
    }
    found = job_local_nodes(
        graph, [], ["a.png"], is_output=lambda kind: kind == "Save",
        has_fingerprint=lambda kind: kind == "Hashes",
    )  # fmt: skip
    assert found == {"2", "3", "4"}


def test_a_result_that_refers_to_a_file_of_the_job_is_detected() -> None:
    video = types.SimpleNamespace(_file="/jobs/1/input/a.mp4", frames=8)
    for value in ("/jobs/1/x", Path("/jobs/1/x"), [[{"a": ("/jobs/1/x",)}]], [[video]]):
        assert names(value, ("/jobs/1", "/elsewhere")), value
    assert not names([["x", 1, None, object(), types, {"a": "/jobs"}]], ("/jobs/1",))


def test_the_size_of_a_result_is_the_size_of_its_tensors() -> None:
    tensor = types.SimpleNamespace(element_size=lambda: 4, nelement=lambda: 10)
    assert tensor_bytes([[tensor, {"samples": tensor}], object(), "text"]) == 80


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torch.OutOfMemoryError", "x"),
        ("torch.cuda.OutOfMemoryError", "x"),
        ("MemoryError", ""),
        ("torch.AcceleratorError", "CUDA error: out of memory"),
        ("RuntimeError", "HIP out of memory. Tried"),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    ],
)
def test_every_form_of_out_of_memory_is_recognised(kind: str, message: str) -> None:
    assert is_out_of_memory(kind, message)
    assert not is_broken_device(message)


def test_other_errors_are_neither_out_of_memory_nor_a_broken_device() -> None:
    assert not is_out_of_memory("ValueError", "bad value")
    assert is_broken_device("CUDA error: device-side assert triggered")


def test_a_failing_node_names_every_field_that_feeds_it_also_through_a_value_node() -> None:
    graph: Any = {
        "1": graphs.node("PrimitiveInt", value=3),
        "2": graphs.node("Sampler", seed=["1", 0], steps=4, model=["3", 0]),
        "3": graphs.node("Loader", name="x"),
    }
    fields = {"1.inputs.value": "seed", "2.inputs.steps": "steps"}
    message = {"node_id": "2", "exception_type": "ValueError", "exception_message": "no\n"}
    problem = node_error(graph, fields, message).problem
    assert problem.code is ErrorCode.NODE_FAILED
    assert [found.field for found in problem.fields] == ["seed", "steps"]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..", "..\\x", "a\0b", "sub/../../x"]
)
def test_names_outside_a_folder_are_detected(name: str) -> None:
    assert is_outside(name)


@pytest.mark.parametrize("name", ["x.png", "sub/x.png", "..x.png", "a..b", "sub/../x.png"])
def test_names_inside_a_folder_are_accepted(name: str) -> None:
    assert not is_outside(name)


def test_only_the_latest_interrupts_are_kept() -> None:
    interrupts = Interrupts(lambda: None)
    for number in range(REMEMBERED + 10):
        interrupts.request(f"job_{number}")
    with interrupts.running("job_0"):
        assert not interrupts.requested
    with interrupts.running(f"job_{REMEMBERED + 9}"):
        assert interrupts.requested


def test_a_job_is_not_woken_when_it_is_not_waiting() -> None:
    """Its event loop may be closed by then."""
    gone = threading.Event()
    late: list[bool] = []

    def end_meanwhile() -> None:
        interrupts.wake_with(None)
        gone.set()

    ending = threading.Thread(target=end_meanwhile)
    interrupts = Interrupts(ending.start)
    with interrupts.running("job"):
        interrupts.wake_with(lambda: late.append(gone.wait(0.2)))
        interrupts.request("job")
        ending.join()
    assert late == [False]


def test_two_jobs_at_once_are_rejected() -> None:
    interrupts = Interrupts(lambda: None)
    with interrupts.running("one"), pytest.raises(RuntimeError), interrupts.running("two"):
        pass


def test_a_preview_that_is_too_large_is_dropped() -> None:
    from PIL import Image

    noise = Image.effect_noise((256, 256), 200)
    assert preview_jpeg(("JPEG", noise, 512), longest=256, max_bytes=1024) is None
    small = preview_jpeg(("JPEG", noise, 512), longest=16, max_bytes=4096)
    assert small is not None
    assert small.startswith(b"\xff\xd8\xff")
    assert preview_jpeg("no picture", longest=16, max_bytes=4096) is None


def test_a_thread_that_was_left_running_is_found() -> None:
    before = held_resources()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left")
    thread.start()
    try:
        assert list(held_resources().since(before).threads.values()) == ["left"]
    finally:
        stop.set()
        thread.join()


def test_a_folder_that_is_not_a_comfyui_checkout_is_rejected(
    new_driver: NewDriver, tmp_path: Any
) -> None:
    driver = new_driver()
    driver.path = tmp_path
    answer = driver.load()
    assert answer["kind"] == "UnsupportedComfyError"
    assert "execution.py" in answer["message"]


def test_an_unknown_argument_of_comfyui_is_rejected(new_driver: NewDriver) -> None:
    answer = new_driver().load(arguments=["--no-such-thing"])
    assert answer["kind"] == "UnsupportedComfyError"


def test_attaching_again_creates_new_folders_and_changes_nothing_else(
    new_driver: NewDriver, release: str
) -> None:
    driver = new_driver(release)
    driver.load()
    before = driver.facts()
    assert driver.attach() == {"event": "attached"}
    after = driver.facts()
    assert after["temp"] != before["temp"]
    assert after["cpu_state"] == before["cpu_state"] == "CPU"
    assert driver.run(graphs.hello())[0]["status"] == "succeeded"


def test_models_of_a_warm_up_before_a_gpu_snapshot_stay_loaded(
    new_driver: NewDriver, tmp_path: Path, release: str
) -> None:
    driver = new_driver(release)
    paths = paths_file(release, tmp_path)
    driver.load(custom_nodes=False, extra_model_paths=[str(paths)])
    warmed, _ = driver.run(graphs.diffusion(seed=1))
    assert "4" in warmed["node_seconds"], warmed
    assert driver.attach() == {"event": "attached"}
    done, _ = driver.run(graphs.diffusion(seed=2))
    assert done["status"] == "succeeded"
    assert set(done["node_seconds"]) == {"3", "8", "9"}


def test_an_unknown_option_is_rejected() -> None:
    with pytest.raises(EngineChoiceError, match="no_such_option"):
        make_engine("comfyui", {"path": "/nowhere", "no_such_option": 1})


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.FILE])
def test_a_link_out_of_the_jobs_folder_is_not_followed(tmp_path: Path, kind: Kind) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    output = tmp_path / "output"
    output.mkdir()
    (output / "link.txt").symlink_to(secret)
    ui = {"9": {"text_file": [{"filename": "link.txt", "subfolder": "", "type": "output"}]}}
    assert collect({}, {"text": OutputSpec(node="9", kind=kind)}, ui, Folders(output)) == {
        "text": []
    }


@pytest.mark.parametrize(
    "names",
    [
        {"filename": "a b.txt", "subfolder": "sub", "type": "output"},
        {"filename": "a b.txt", "subfolder": "{output}/sub", "type": "output"},
        {"filename": "{output}/sub/a b.txt"},
        {"filename": "sub/a b.txt", "subfolder": None, "type": None},
        {"filename": "a b.txt", "subfolder": "../sub", "type": "temp"},
    ],
)
def test_a_file_of_the_job_is_found_by_any_form_of_its_name(
    tmp_path: Path, names: dict[str, str | None]
) -> None:
    (tmp_path / ".temp").mkdir()
    file = tmp_path / "sub" / "a b.txt"
    file.parent.mkdir()
    file.write_text("made")
    item = {key: value and value.format(output=tmp_path) for key, value in names.items()}
    outputs = {"file": OutputSpec(node="9", kind=Kind.FILE)}
    (produced,) = collect({}, outputs, {"9": {"files": [item]}}, Folders(tmp_path))["file"]
    assert isinstance(produced, ProducedFile)
    assert produced.path == file


@pytest.mark.parametrize(
    "item",
    [
        {"filename": "a.txt", "type": ["output"]},
        {"filename": "a.txt", "type": "input"},
        {"filename": ["a.txt"]},
        {"filename": "x" * 5000},
        {"filename": "a\0.txt"},
        {"filename": "."},
        {"filename": "../x/../../a.txt"},
        {},
        True,
    ],
)
def test_items_that_are_not_files_are_skipped(tmp_path: Path, item: Any) -> None:
    (tmp_path / "a.txt").touch()
    output = tmp_path / "output"
    output.mkdir()
    outputs = {"file": OutputSpec(node="9", kind=Kind.FILE)}
    assert collect({}, outputs, {"9": {"files": [item]}}, Folders(output)) == {"file": []}


@pytest.mark.parametrize(("written", "is_found"), [(1000.0, True), (10.0, False)])
def test_only_files_that_the_job_wrote_are_taken_from_comfyuis_own_folder(
    tmp_path: Path, written: float, is_found: bool
) -> None:
    job, home = tmp_path / "job", tmp_path / "home"
    for folder in (job, home / "sub"):
        folder.mkdir(parents=True)
    file = home / "sub" / "a.txt"
    file.touch()
    os.utime(file, (written, written))
    folders = Folders(job, {"output": home}, since=1000.0)
    assert folders.find("output", "../job.txt") is None
    assert folders.find("output", "sub/a.txt") == (job / "sub" / "a.txt" if is_found else None)
    assert file.exists() is not is_found
