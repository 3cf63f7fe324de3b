"""The environment of node packs, and what they leave behind in the process."""

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.comfyui.conftest import Driver, NewDriver

NODES = """
    class Node:
        CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ()

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def run(self):
            return ()

    NODE_CLASS_MAPPINGS = {"Node": Node}
"""


def write_pack(folder: Path, name: str, code: str, *, prestartup: str | None = None) -> None:
    pack = folder / name
    pack.mkdir(parents=True)
    code = textwrap.dedent(code) + textwrap.dedent(NODES)
    (pack / "__init__.py").write_text(code, encoding="utf-8")
    if prestartup is not None:
        script = pack / "prestartup_script.py"
        script.write_text(textwrap.dedent(prestartup), encoding="utf-8")


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    return tmp_path / "packs"


def load(driver: Driver, packs: Path, **options: Any) -> dict[str, dict[str, Any]]:
    paths = packs.parent / "paths.yaml"
    paths.write_text(f"test:\n    custom_nodes: {packs}\n", encoding="utf-8")
    loaded = driver.load(extra_model_paths=[str(paths)], **options)
    assert loaded == {"event": "loaded"}
    return {pack["name"]: pack for pack in driver.facts()["report"]["packs"]}


def test_a_pack_finds_comfyuis_folder_in_the_environment(
    new_driver: NewDriver, packs: Path
) -> None:
    notes = packs.parent / "environment.json"
    script = f"""
        import json, os
        with open({str(notes)!r}, "w") as file:
            json.dump(dict(os.environ), file)
    """
    write_pack(packs, "looks", "", prestartup=script)
    driver = new_driver(COMFYUI_PATH="/nowhere")
    load(driver, packs)
    assert json.loads(notes.read_text())["COMFYUI_PATH"] == str(driver.path)


def test_libraries_are_configured_not_to_start_threads_on_import(
    new_driver: NewDriver, packs: Path
) -> None:
    notes = packs.parent / "environment.json"
    script = f"""
        import json, os
        with open({str(notes)!r}, "w") as file:
            json.dump(dict(os.environ), file)
    """
    write_pack(packs, "looks", "", prestartup=script)
    load(new_driver(), packs)
    found = json.loads(notes.read_text())
    assert found["TOKENIZERS_PARALLELISM"] == "false"
    assert found["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_file_that_a_prestartup_script_left_open_is_counted_for_its_pack(
    new_driver: NewDriver, packs: Path
) -> None:
    log = packs.parent / "pack.log"
    script = f"import sys\nsys.left_open = open({str(log)!r}, 'w')\n"
    write_pack(packs, "logs", "", prestartup=script)
    assert load(new_driver(), packs)["logs"]["open_files"] == [os.path.realpath(log)]


def test_a_thread_that_a_prestartup_script_left_makes_forking_unsafe(
    new_driver: NewDriver, packs: Path
) -> None:
    script = """
        import threading, time
        threading.Thread(target=time.sleep, args=(600,), daemon=True, name="early").start()
    """
    write_pack(packs, "threads", "", prestartup=script)
    driver = new_driver()
    assert load(driver, packs)["threads"]["threads"] == ["early"]
    assert driver.facts()["unsafe_to_fork"] == ["threads"]


def test_a_thread_that_ends_while_comfyui_loads_leaves_forking_safe(
    new_driver: NewDriver, packs: Path
) -> None:
    code = """
        import threading, time
        threading.Thread(target=time.sleep, args=(0.2,), name="reads a folder").start()
    """
    write_pack(packs, "reads", code)
    driver = new_driver()
    assert load(driver, packs)["reads"]["threads"] == []
    assert driver.facts()["unsafe_to_fork"] == []


def test_a_thread_is_counted_for_the_pack_whose_thread_started_it(
    new_driver: NewDriver, packs: Path
) -> None:
    code = """
        import sys, threading, time

        def start_another():
            sys.other_pack_loads.wait(60)
            threading.Thread(target=time.sleep, args=(600,), daemon=True, name="late").start()
            sys.late_started.set()

        sys.other_pack_loads, sys.late_started = threading.Event(), threading.Event()
        threading.Thread(target=start_another, daemon=True, name="first").start()
    """
    write_pack(packs, "a_starts", code)
    write_pack(
        packs, "b_loads", "import sys\nsys.other_pack_loads.set()\nsys.late_started.wait(60)\n"
    )
    loaded = load(new_driver(), packs)
    assert loaded["a_starts"]["threads"] == ["late"]
    assert loaded["b_loads"]["threads"] == []


def test_a_file_that_was_closed_while_comfyui_loads_is_not_counted(
    new_driver: NewDriver, packs: Path
) -> None:
    log = packs.parent / "pack.log"
    write_pack(packs, "a_opens", f"import sys\nsys.left_open = open({str(log)!r}, 'w')\n")
    write_pack(packs, "b_closes", "import sys\nsys.left_open.close()\n")
    assert load(new_driver(), packs)["a_opens"]["open_files"] == []
