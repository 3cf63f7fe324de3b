"""LoRAs of a job, on a real ComfyUI: what they change, and what it says of a name it lacks."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfysnap_schema.workflow import Workflow
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import REAL, Driver, NewDriver, checkpoints

SPEC = """
name = "diffusion"
[inputs.loras]
type = "loras"
after = "4"
[outputs.out]
node = "9"
"""
NODES = {
    "CheckpointLoaderSimple": {
        "input": {"required": {"ckpt_name": [[graphs.CHECKPOINT]]}},
        "output": ["MODEL", "CLIP", "VAE"],
    }
}
MODEL = {"lora_unet_time_embed_0": (1280, 320), "lora_unet_time_embed_2": (1280, 1280)}
CLIP = {"lora_te_text_model_encoder_layers_0_self_attn_v_proj": (768, 768)}


def write_lora(path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """Random fp16 factors of rank 1."""
    rand = random.Random(0)
    tensors: dict[str, tuple[tuple[int, int], bytes]] = {}
    for name, (rows, columns) in shapes.items():
        for part, shape in (("lora_up", (rows, 1)), ("lora_down", (1, columns))):
            bits = b"".join(
                (0x3400 | rand.getrandbits(9) | rand.getrandbits(1) << 15).to_bytes(2, "little")
                for _ in range(shape[0] * shape[1])
            )
            tensors[f"{name}.{part}.weight"] = (shape, bits)
    header: dict[str, Any] = {}
    place = 0
    for name, (shape, data) in tensors.items():
        end = place + len(data)
        header[name] = {"dtype": "F16", "shape": [*shape], "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    content = b"".join(data for _, data in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


@pytest.fixture(params=[REAL])
def driver(request: pytest.FixtureRequest, new_driver: NewDriver, tmp_path: Path) -> Driver:
    """A loaded engine with a checkpoint and two LoRA files."""
    loras = tmp_path / "loras"
    (loras / "style").mkdir(parents=True)
    write_lora(loras / "style" / "ink.safetensors", MODEL)
    write_lora(loras / "words.safetensors", CLIP)
    weights = checkpoints(request.param, tmp_path)
    paths = tmp_path / "paths.yaml"
    paths.write_text(f"test:\n    checkpoints: {weights}\n    loras: {loras}\n")
    driver = new_driver(request.param)
    loaded = driver.load(extra_model_paths=[str(paths)])
    assert loaded == {"event": "loaded"}, driver.log
    return driver


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    folder = tmp_path / "diffusion"
    folder.mkdir()
    (folder / "graph.json").write_text(json.dumps(graphs.diffusion(steps=1)))
    (folder / "nodes.json").write_text(json.dumps(NODES))
    (folder / "workflow.toml").write_text(SPEC)
    return Workflow.load(folder)


@pytest.fixture
def draw(driver: Driver, workflow: Workflow) -> Callable[..., bytes]:
    def draw(*loras: dict[str, Any]) -> bytes:
        graph = workflow.build(workflow.complete({"loras": [*loras]}))
        done, job = driver.run(graph, output="9", fields=dict(workflow.fields))
        assert done["status"] == "succeeded", done
        (file,) = job.files()
        with Image.open(job.output / file) as image:
            return image.tobytes()

    return draw


def test_loras_change_the_model_and_the_text_encoder_as_strongly_as_they_say(
    draw: Callable[..., bytes],
) -> None:
    ink = {"name": "style/ink.safetensors"}
    words = {"name": "words.safetensors", "strength": 5}
    plain = draw()
    of_model, of_both, of_clip = draw(ink), draw(ink, words), draw(words)
    assert len({plain, of_model, of_both, of_clip}) == 4
    assert draw({**ink, "strength": 0}) == plain
    assert draw({**words, "clip_strength": 0}) == plain
    assert draw({**ink, "strength": 0.5}) not in (plain, of_model)
    assert draw() == plain


def test_a_lora_that_comfyui_does_not_have_is_an_error_of_its_field(
    driver: Driver, workflow: Workflow
) -> None:
    loras: list[Any] = [{"name": "style/ink.safetensors"}, {"name": "style/inc.safetensors"}]
    graph = workflow.build({"loras": loras})
    done, _ = driver.run(graph, output="9", fields=dict(workflow.fields))
    assert done["error"]["code"] == "graph_invalid"
    assert [found["field"] for found in done["error"]["fields"]] == ["loras[1].name"]
