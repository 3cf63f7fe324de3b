"""Lists that a new map offers as comments: several files as one, and LoRAs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy import CATALOGUE_FILE, Catalogue
from comfysnap_schema.propose.folder import write_workflow
from comfysnap_schema.propose.proposal import propose
from comfysnap_schema.workflow import Workflow, check_workflow
from tests.schema.conftest import comfysnap
from tests.schema.graphs import node

MODEL: Any = {"input": {"required": {"name": [["a.safetensors"]]}}, "output": ["MODEL"]}
CLIP: Any = {"input": {"required": {"name": [["a.safetensors"]]}}, "output": ["CLIP"]}
PATCH: Any = {"input": {"required": {"model": ["MODEL"]}}, "output": ["MODEL"]}
ENCODE: Any = {"input": {"required": {"clip": ["CLIP"], "text": ["STRING"]}}, "output": ["*"]}
SAMPLE: Any = {
    "input": {"required": {"model": ["MODEL"], "positive": ["*"], "seed": ["INT"]}},
    "output": ["LATENT"],
}
SAVE: Any = {"input": {"required": {"images": ["LATENT"]}}, "output": [], "output_node": True}
SWITCH: Any = {
    "input": {
        "required": {
            "on_false": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t"}}],
            "on_true": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "t"}}],
        }
    },
    "output": ["COMFY_MATCHTYPE_V3"],
}
CLASSES: dict[str, Any] = {
    "Switch": SWITCH,
    "UNETLoader": MODEL, "CLIPLoader": CLIP, "Patch": PATCH, "CLIPTextEncode": ENCODE,
    "KSampler": SAMPLE, "SaveImage": SAVE,
}  # fmt: skip


def map_of(graph: Any, catalogue: Catalogue | None, folder: Path) -> str:
    write_workflow(folder, graph, propose(graph, catalogue, name="mine"), catalogue)
    return (folder / "workflow.toml").read_text()


def offered(text: str, *names: str) -> str:
    """The map with the named lists made its own."""
    for name in names:
        (block,) = re.findall(rf"(?m)^# \[inputs\.{name}\]\n(?:# .+\n)+", text)
        text = text.replace(block, re.sub(r"(?m)^# ", "", block))
    return text


def without(text: str, *names: str) -> str:
    """The map without the named inputs."""
    for name in names:
        text = re.sub(rf"(?m)^\[inputs\.{name}\]\n(?:.+\n)+", "", text)
    return text


def example(root: Path, name: str) -> tuple[Any, Catalogue]:
    folder = root / name
    return json.loads((folder / "graph.json").read_text()), Catalogue.read(folder / CATALOGUE_FILE)


def test_files_of_one_kind_may_be_one_list(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "workflows" / "mine"
    text = map_of(*example(root, "examples/edit"), folder)
    names = re.findall(r"(?m)^\[inputs\.(\w+)\]\n(?:.+\n)*kind = \"image\"", text)
    assert f"# One list in place of {', '.join(names)}, for callers who have fewer.\n" in text
    (folder / "workflow.toml").write_text(without(offered(text, "images", "loras"), *names))
    workflow = Workflow.load(folder)
    assert check_workflow(workflow).issues == ()
    assert workflow.parameters["images"].max_items == 3
    assert workflow.parameters["loras"].type == "loras"


def test_loras_come_behind_the_loader_of_what_makes_the_output(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "workflows" / "mine"
    text = map_of(*example(root, "workflows/sdxl"), folder)
    assert "# LoRAs that callers name, behind 'Base model'.\n# [inputs.loras]\n" in text
    (folder / "workflow.toml").write_text(offered(text, "loras"))
    assert check_workflow(Workflow.load(folder)).issues == ()
    graph = Workflow.load(folder).apply({"prompt": "x", "loras": [{"name": "a"}]})
    assert graph["10"]["inputs"]["model"] == ["loras:0", 0]


def sampled(**more: Any) -> Any:
    return {
        "1": node("UNETLoader", name="a.safetensors"),
        "2": node("CLIPLoader", name="a.safetensors"),
        "3": node("Patch", model=["1", 0]),
        "4": node("CLIPTextEncode", text="a fox", clip=["2", 0]),
        "5": node("KSampler", model=["3", 0], positive=["4", 0], seed=1),
        "6": node("SaveImage", images=["5", 0]),
        **more,
    }


@pytest.mark.parametrize(
    ("more", "of_clip"),
    [
        ({}, '# clip_after = "2"\n'),
        ({"4": node("CLIPTextEncode", text="a fox")}, ""),
        (
            {
                "3": node("Patch", model=["8", 0]),
                "8": node("Switch", on_false=["1", 0], on_true=["9", 0]),
                "9": node("Patch", model=["1", 0]),
            },
            '# clip_after = "2"\n',
        ),
        (
            {
                "7": node("CLIPLoader", name="a.safetensors"),
                "8": node("CLIPTextEncode", text="", clip=["7", 0]),
                "5": node("KSampler", model=["3", 0], positive=["8", 0], negative=["4", 0], seed=1),
            },
            "",
        ),
    ],
)
def test_the_only_loader_of_a_clip_is_named_too(more: Any, of_clip: str, tmp_path: Path) -> None:
    text = map_of(sampled(**more), Catalogue.parse(CLASSES), tmp_path / "mine")
    assert f'# type = "loras"\n# after = "1"\n{of_clip}\n' in text


@pytest.mark.parametrize(
    "more",
    [
        {"3": node("Patch", model=["3", 0])},
        {"5": node("KSampler", positive=["4", 0], seed=1)},
        {"5": node("KSampler", model=["4", 0], positive=["4", 0], seed=1)},
        {"3": node("Unknown", model=["1", 0])},
    ],
)
def test_without_a_known_loader_there_are_no_loras(more: Any, tmp_path: Path) -> None:
    text = map_of(sampled(**more), Catalogue.parse(CLASSES), tmp_path / "mine")
    assert "loras" not in text


def test_lists_need_a_catalogue(root: Path, tmp_path: Path) -> None:
    graph, _ = example(root, "examples/edit")
    assert "[inputs.loras]" not in map_of(graph, None, tmp_path / "mine")


def test_an_update_moves_the_nodes_of_lists_that_are_not_offered(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    graph, catalogue = example(root, "examples/edit")
    text = map_of(graph, catalogue, tmp_path / "workflows" / "mine")
    (after,) = re.findall(r'(?m)^# after = "(.+)"', text)
    renamed = re.sub(r'"(\d+)"(?=: \{|, \d)', r'"9\1"', json.dumps(graph))
    (tmp_path / "export.json").write_text(renamed)
    assert comfysnap("update", "mine", "export.json")[0] == 0
    moved = (tmp_path / "workflows" / "mine" / "workflow.toml").read_text()
    assert f'# after = "9{after}"\n' in moved
    assert f'# after = "{after}"\n' not in moved


def test_a_single_file_is_no_list(root: Path, tmp_path: Path) -> None:
    text = map_of(*example(root, "workflows/img2img"), tmp_path / "mine")
    assert 'kind = "image"' in text
    assert "each = " not in text
