"""Lists of pictures on a real ComfyUI: a graph runs with any number that its map allows."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfysnap_schema.workflow import Workflow
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import REAL, NewDriver

NODES: dict[str, Any] = {
    "LoadImage": {
        "input": {"required": {"image": [[], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
    },
    "ImageBatch": {
        "input": {"required": {"image1": ["IMAGE"], "image2": ["IMAGE"]}},
        "output": ["IMAGE"],
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING"]}},
        "output": [],
        "output_node": True,
    },
}
GRAPH = {
    **{str(place): graphs.node("LoadImage", image="example.png") for place in (1, 2, 3)},
    "4": graphs.node("ImageBatch", image1=["1", 0], image2=["2", 0]),
    "5": graphs.node("ImageBatch", image1=["4", 0], image2=["3", 0]),
    "6": graphs.node("SaveImage", images=["5", 0], filename_prefix="x"),
}
SPEC = """
name = "batch"
[inputs.images]
each = ["1.inputs.image", "2.inputs.image", "3.inputs.image"]
[outputs.out]
node = "6"
many = true
"""


@pytest.mark.parametrize("kind", [REAL])
def test_a_picture_comes_out_for_each_that_goes_in(
    kind: str, new_driver: NewDriver, tmp_path: Path
) -> None:
    folder = tmp_path / "batch"
    folder.mkdir()
    (folder / "graph.json").write_text(json.dumps(GRAPH))
    (folder / "nodes.json").write_text(json.dumps(NODES))
    (folder / "workflow.toml").write_text(SPEC)
    workflow = Workflow.load(folder)
    assert workflow.parameters["images"].min_items == 1
    driver = new_driver(kind)
    assert driver.load() == {"event": "loaded"}, driver.log
    files: dict[str, bytes] = {}
    for color in ("red", "green", "blue"):
        picture = io.BytesIO()
        Image.new("RGB", (16, 16), color).save(picture, "PNG")
        files[f"{color}.png"] = picture.getvalue()
        graph = workflow.build({"images": [*files]})
        done, job = driver.run(graph, output="6", files=files)
        assert done["status"] == "succeeded", done
        assert len(job.files()) == len(files)
