"""Node packs that store their device at import have the real one after attach."""

from pathlib import Path

import pytest

from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import NewDriver

PACK = """
import torch
from comfy import model_management
from comfy.model_management import get_torch_device

device = get_torch_device()
offload = torch.device("cpu")


def helper(positional, place=get_torch_device(), *, named=get_torch_device()):
    return place, named


class TellsDevices:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "run", (), True
    DEVICE = get_torch_device()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @staticmethod
    def static(place=get_torch_device()):
        return place

    def method(self, place=get_torch_device()):
        return place

    def run(self):
        found = {
            "global": device,
            "class": self.DEVICE,
            "default": helper(1)[0],
            "named default": helper(1)[1],
            "static method": self.static(),
            "method": self.method(),
        }
        now = str(model_management.get_torch_device())
        wrong = [name for name, value in found.items()
                 if (str(value), value.index) != (now, model_management.get_torch_device().index)]
        return {"ui": {"text": [now, str(offload), *wrong]}}


NODE_CLASS_MAPPINGS = {"TellsDevices": TellsDevices}
"""
GRAPH = {"1": graphs.node("TellsDevices")}


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    pack = tmp_path / "packs" / "takes_device"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(PACK, encoding="utf-8")
    file = tmp_path / "paths.yaml"
    file.write_text(f"test:\n    custom_nodes: {pack.parent}\n", encoding="utf-8")
    return [str(file)]


@pytest.mark.parametrize(("cuda", "device"), [("1", "cuda"), ("0", "cpu")])
def test_a_device_that_a_pack_stored_at_import_is_the_real_one_after_attach(
    new_driver: NewDriver, paths: list[str], cuda: str, device: str
) -> None:
    driver = new_driver(TREE_CUDA=cuda)
    assert driver.load(extra_model_paths=paths) == {"event": "loaded"}
    assert "takes_device.device" in driver.facts()["report"]["devices"]["takes_device"]
    assert driver.texts(GRAPH, output="1") == [device, "cpu"]
    assert driver.attach() == {"event": "attached"}
    assert driver.texts(GRAPH, output="1") == [device, "cpu"]


@pytest.mark.comfyui
def test_a_device_that_a_pack_stored_at_import_is_the_real_one_on_a_real_comfyui(
    new_driver: NewDriver, paths: list[str]
) -> None:
    driver = new_driver("real")
    assert driver.load(extra_model_paths=paths) == {"event": "loaded"}
    facts = driver.facts()
    device = "cuda:0" if facts["available"] else "cpu"
    assert driver.texts(GRAPH, output="1") == [device, "cpu"]
