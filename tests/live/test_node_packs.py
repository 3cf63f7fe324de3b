"""Public node packs on a real ComfyUI, loaded as for a memory snapshot.

``COMFYSNAP_NODE_PACKS`` is a folder like ``custom_nodes`` with them; docs/guides/node-packs.md
lists the tested commits. Packs write into ComfyUI's folder, so the tests work on a copy.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.comfyui.conftest import Driver, real_comfyui

pytestmark = pytest.mark.comfyui

GRAPHS = Path(__file__).parent / "node_packs"
PACKS = ["ComfyUI-Manager", *sorted(path.stem for path in GRAPHS.glob("*.json"))]


@dataclass
class Loaded:
    """All packs in one engine process."""

    driver: Driver
    facts: dict[str, Any]
    threads: int
    """State of the process between load and attach."""

    def pack(self, name: str) -> dict[str, Any]:
        """The pack's report; skips the test if the folder does not contain it."""
        found = {pack["name"]: pack for pack in self.facts["report"]["packs"]}
        if name not in found:
            pytest.skip(f"COMFYSNAP_NODE_PACKS does not contain {name}")
        return found[name]

    def run(self, name: str) -> list[str]:
        """Outputs of the pack's graph: texts, and hashes of files."""
        self.pack(name)
        one = json.loads((GRAPHS / f"{name}.json").read_text(encoding="utf-8"))
        [spec] = one["outputs"].values()
        kind = spec.get("kind", "image")
        done, _ = self.driver.run(one["graph"], output=spec["node"], kind=kind)
        assert done["status"] == "succeeded", done["error"]
        return [
            made if isinstance(made, str) else made["sha256"] for made in done["outputs"]["out"]
        ]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    packs = os.environ.get("COMFYSNAP_NODE_PACKS")
    if not packs:
        pytest.skip("needs COMFYSNAP_NODE_PACKS")
    python, checkout = real_comfyui()
    folder = tmp_path_factory.mktemp("node-packs")
    copy = folder / "ComfyUI"
    own = {".git", "models", "output", "temp", "user"}

    def ignored(source: str, names: list[str]) -> set[str]:
        return own & set(names) if Path(source) == checkout else set()

    shutil.copytree(checkout, copy, ignore=ignored)
    shutil.copytree(packs, folder / "packs", ignore=shutil.ignore_patterns(".git"))
    paths = folder / "paths.yaml"
    paths.write_text(f"test:\n    custom_nodes: {folder / 'packs'}\n", encoding="utf-8")
    driver = Driver(python, copy, folder)
    try:
        answer = driver.load(attach=False, mask_cuda=True, extra_model_paths=[str(paths)])
        assert answer == {"event": "loaded"}, (answer, driver.log[-3000:])
        facts = driver.facts()
        threads = len(list(Path(f"/proc/{facts['pid']}/task").iterdir()))
        assert driver.attach() == {"event": "attached"}
        yield Loaded(driver, facts, threads)
    finally:
        driver.close()


@pytest.mark.parametrize("name", PACKS)
def test_a_pack_loads_with_cuda_hidden(loaded: Loaded, name: str) -> None:
    pack = loaded.pack(name)
    assert (pack["loaded"], pack["reason"]) == (True, None), loaded.driver.log[-3000:]
    calls = loaded.facts["report"]["masked_calls"]
    assert [call for call in calls if call["pack"] == name and call["refused"]] == []


@pytest.mark.parametrize("name", [name for name in PACKS if name != "ComfyUI-Manager"])
def test_a_graph_of_a_pack_has_the_same_outputs_each_time(loaded: Loaded, name: str) -> None:
    made = loaded.run(name)
    assert made
    assert made == loaded.run(name)


def test_only_managers_that_use_the_network_leave_threads(loaded: Loaded) -> None:
    packs = loaded.facts["report"]["packs"]
    left = {pack["name"]: pack["threads"] for pack in packs if pack["threads"]}
    assert set(left) <= {"ComfyUI-Manager"}
    assert loaded.threads <= 1 + sum(map(len, left.values()))


def test_kjnodes_has_the_real_device_after_attach(loaded: Loaded) -> None:
    loaded.pack("ComfyUI-KJNodes")
    assert "mask_nodes.main_device" in loaded.facts["report"]["devices"]["ComfyUI-KJNodes"]


def test_manager_finds_comfyui_and_its_open_log_is_counted(loaded: Loaded) -> None:
    files = loaded.pack("ComfyUI-Manager")["open_files"]
    log = os.path.realpath(loaded.driver.path / "user" / "comfyui.log")
    assert log in files
    assert f"ComfyUI Path: {loaded.driver.path}\n" in Path(log).read_text(encoding="utf-8")
