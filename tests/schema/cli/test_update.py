"""``comfysnap update``: new exports of graphs that have a map."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from comfysnap_schema.comfy import CATALOGUE_FILE
from comfysnap_schema.wire import GraphError, WorkflowError
from comfysnap_schema.workflow import Workflow, read_spec
from tests.schema.conftest import comfysnap

Graph = dict[str, dict[str, Any]]
Rename = Mapping[str, str]


@dataclass
class Project:
    """A project with the workflow ``mine``, and its graph to edit."""

    root: Path
    folder: Path
    graph: Graph

    def update(self, *options: object) -> tuple[int, str]:
        export = self.root / "export.json"
        export.write_text(json.dumps(self.graph))
        return comfysnap("update", "mine", export, *options)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def paths(self, name: str) -> str | list[str] | None:
        return read_spec(self.folder / "workflow.toml").inputs[name].path


@pytest.fixture
def start(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    def begin(workflow: str = "sdxl", *, catalogue: bool = True) -> Project:
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "workflows" / "mine"
        folder.mkdir(parents=True)
        source = root / "workflows" / workflow
        for name in ("graph.json", "workflow.toml", *([CATALOGUE_FILE] if catalogue else [])):
            shutil.copy(source / name, folder / name)
        return Project(tmp_path, folder, json.loads((folder / "graph.json").read_text()))

    return begin


@pytest.fixture
def project(start: Callable[..., Project]) -> Project:
    return start()


def renumbered(graph: Graph, ids: Rename) -> Graph:
    """The graph with other ids, in which links follow."""

    def moved(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        node, slot = cast("list[Any]", value)
        return [ids.get(node, node), slot]

    return {
        ids.get(node, node): {
            **entry,
            "inputs": {name: moved(value) for name, value in entry["inputs"].items()},
        }
        for node, entry in graph.items()
    }


def untitled(graph: Graph) -> Graph:
    return {n: {k: v for k, v in e.items() if k != "_meta"} for n, e in graph.items()}


def test_an_equal_export_changes_nothing(project: Project) -> None:
    before = project.files()
    assert project.update() == (0, "nothing to change\n")
    assert project.files() == before


def test_values_of_the_new_export_are_taken_and_the_map_stays(project: Project) -> None:
    project.graph["10"]["inputs"]["steps"] = project.graph["11"]["inputs"]["steps"] = 40
    text = (project.folder / "workflow.toml").read_bytes()
    code, output = project.update()
    assert code == 0
    assert "default: steps was 25, is now 40" in output
    assert (project.folder / "workflow.toml").read_bytes() == text
    steps = Workflow.load(project.folder).parameters["steps"]
    assert (steps.default, steps.maximum) == (40, 150)


@pytest.mark.parametrize("has_titles", [True, False])
def test_renumbered_nodes_are_followed_in_paths_outputs_and_comments(
    project: Project, has_titles: bool
) -> None:
    spec = project.folder / "workflow.toml"
    spec.write_text(
        "# Ours: keep.\n"
        + spec.read_text().replace(
            "[inputs.width]", '# path = "10.inputs.add_noise"\n[inputs.width]  # wide', 1
        )
    )
    ids = {node: str(100 + index) for index, node in enumerate(reversed(project.graph))}
    if not has_titles:
        project.graph = untitled(project.graph)
        (project.folder / "graph.json").write_text(json.dumps(project.graph))
    project.graph = renumbered(project.graph, ids)
    code, output = project.update()
    assert code == 0, output
    assert f"moved: node 6 is now {ids['6']}" in output
    assert project.paths("prompt") == [f"{ids['6']}.inputs.text", f"{ids['15']}.inputs.text"]
    text = spec.read_text()
    assert text.startswith("# Ours: keep.\n")
    assert f'# path = "{ids["10"]}.inputs.add_noise"\n[inputs.width]  # wide' in text
    assert 'description = "What to draw."' in text
    assert Workflow.load(project.folder).outputs["images"].node == ids["19"]


def test_renamed_titles_change_no_path(project: Project) -> None:
    for node, entry in project.graph.items():
        entry["_meta"] = {"title": f"Node {node}"}
    text = (project.folder / "workflow.toml").read_bytes()
    assert project.update()[0] == 0
    assert (project.folder / "workflow.toml").read_bytes() == text


def test_exchanged_titles_change_no_path(project: Project) -> None:
    six, seven = project.graph["6"], project.graph["7"]
    six["_meta"], seven["_meta"] = seven["_meta"], six["_meta"]
    assert project.update()[0] == 0
    assert project.paths("prompt") == ["6.inputs.text", "15.inputs.text"]


def test_an_added_node_is_listed_and_its_values_are_offered(
    start: Callable[..., Project], root: Path
) -> None:
    project = start()
    shutil.rmtree(project.folder)
    comfysnap("new", "mine", root / "workflows" / "sdxl" / "graph.json")
    sharpen = {"amount": 0.5, "image": ["17", 0]}
    project.graph["20"] = {"class_type": "Sharpen", "inputs": sharpen}
    project.graph["19"]["inputs"]["images"] = ["20", 0]
    code, output = project.update()
    assert code == 0
    assert "new: node 20 (Sharpen)" in output
    text = (project.folder / "workflow.toml").read_text()
    assert '# amount = { path = "20.inputs.amount" }' in text
    assert text.count("# The other values of the graph.") == 1


def test_a_removed_node_of_an_input_is_not_guessed(project: Project) -> None:
    project.graph["10"]["inputs"]["latent_image"] = ["30", 0]
    project.graph["30"] = {"class_type": "EmptySD3LatentImage", "inputs": {"width": 8, "height": 8}}
    del project.graph["5"]
    before = project.files()
    code, output = project.update()
    assert code == 1
    assert "unsure: inputs.width: node 5 (Size) is gone" in output
    assert project.files() == before
    code, output = project.update("--drop", "width", "--drop", "height", "--drop", "count")
    assert code == 0, output
    assert "BREAKS inputs.width: removed" in output
    assert "width" not in Workflow.load(project.folder).parameters


def test_an_input_with_several_places_keeps_those_that_are_left(project: Project) -> None:
    for node in ("11", "12", "15", "16"):
        del project.graph[node]
    project.graph["17"]["inputs"] = {"samples": ["10", 0], "vae": ["4", 2]}
    code, output = project.update()
    assert code == 0, output
    assert "gone: node 15 (Prompt (refiner))" in output
    assert project.paths("prompt") == "6.inputs.text"
    assert project.paths("refine_from_step") == "10.inputs.end_at_step"


def test_a_replaced_class_keeps_the_inputs_that_it_has(project: Project) -> None:
    project.graph["5"]["class_type"] = "EmptySD3LatentImage"
    code, output = project.update()
    assert code == 0, output
    assert "replaced: node 5 was EmptyLatentImage, is now EmptySD3LatentImage" in output
    assert "EmptySD3LatentImage is not in nodes.json" in output
    assert project.paths("width") == "5.inputs.width"


def test_a_node_that_another_class_took_the_place_of_keeps_its_inputs(project: Project) -> None:
    size = project.graph.pop("5")
    project.graph["40"] = {"class_type": "EmptySD3LatentImage", "inputs": size["inputs"]}
    project.graph["10"]["inputs"]["latent_image"] = ["40", 0]
    code, output = project.update()
    assert code == 0, output
    assert "moved: node 5 is now 40 (EmptySD3LatentImage), for inputs.width" in output
    assert "replaced: node 40 was EmptyLatentImage, is now EmptySD3LatentImage" in output
    assert project.paths("width") == "40.inputs.width"


def test_a_replaced_class_without_an_input_is_refused(project: Project) -> None:
    project.graph["5"] = {"class_type": "LatentFromPreset", "inputs": {"preset": "square"}}
    before = project.files()
    code, output = project.update()
    assert code == 1
    assert "unsure: inputs.width.path: node 5 (LatentFromPreset) has no value input" in output
    assert project.files() == before


def test_a_value_that_became_a_link_is_refused(project: Project) -> None:
    project.graph["30"] = {"class_type": "PrimitiveInt", "inputs": {"value": 9}}
    project.graph["5"]["inputs"]["width"] = ["30", 0]
    code, output = project.update()
    assert code == 1
    assert "5.inputs.width is linked to node 30" in output


@pytest.mark.parametrize("has_titles", [True, False])
def test_prompts_whose_links_were_exchanged_are_not_guessed(
    project: Project, has_titles: bool
) -> None:
    if not has_titles:
        project.graph = untitled(project.graph)
        (project.folder / "graph.json").write_text(json.dumps(project.graph))
    inputs = project.graph["10"]["inputs"]
    inputs["positive"], inputs["negative"] = inputs["negative"], inputs["positive"]
    before = project.files()
    code, output = project.update()
    assert code == 1
    assert "node 6 is no longer linked as it was, and node 7 is" in output
    assert project.files() == before
    assert project.update("--node", "6=6", "--node", "7=7")[0] == 0
    assert project.paths("prompt") == ["6.inputs.text", "15.inputs.text"]


def test_two_nodes_of_one_class_that_exchanged_their_ids_are_followed(project: Project) -> None:
    project.graph = renumbered(project.graph, {"6": "7", "7": "6"})
    code, output = project.update()
    assert code == 0, output
    assert "moved: node 6 is now 7 (Prompt (base)), for inputs.prompt" in output
    assert project.paths("prompt") == ["7.inputs.text", "15.inputs.text"]
    assert project.paths("negative_prompt") == ["6.inputs.text", "16.inputs.text"]


def test_links_that_were_drawn_anew_elsewhere_change_no_path(project: Project) -> None:
    project.graph["30"] = {
        "class_type": "LoraLoader",
        "inputs": {"model": ["4", 0], "clip": ["4", 1], "lora_name": "XL\\film.safetensors",
                   "strength_model": 1.0, "strength_clip": 1.0},
    }  # fmt: skip
    for node in ("6", "7"):
        project.graph[node]["inputs"]["clip"] = ["30", 1]
    project.graph["10"]["inputs"]["model"] = ["30", 0]
    text = (project.folder / "workflow.toml").read_bytes()
    code, output = project.update()
    assert code == 0, output
    assert "replaced the backslashes of Windows in 30.inputs.lora_name" in output
    assert (project.folder / "workflow.toml").read_bytes() == text
    graph = json.loads((project.folder / "graph.json").read_text())
    assert graph["30"]["inputs"]["lora_name"] == "XL/film.safetensors"


def test_nodes_that_look_the_same_are_not_guessed(project: Project) -> None:
    graph = untitled(project.graph)
    (project.folder / "graph.json").write_text(json.dumps(graph))
    ids = {node: f"n{node}" for node in graph}
    project.graph = renumbered(graph, ids)
    for node in ("n6", "n7"):
        project.graph[node]["inputs"] = {"text": "", "clip": ["n12", 1]}
    project.graph["n10"]["inputs"] |= {"positive": ["n15", 0], "negative": ["n16", 0]}
    code, output = project.update()
    assert code == 1
    assert "may be one of several CLIPTextEncode nodes" in output
    code, output = project.update("--node", "6=n6", "--node", "7=n7")
    assert code == 0, output


def test_bypassed_nodes_and_constants_move_too(start: Callable[..., Project]) -> None:
    project = start("hello")
    spec = project.folder / "workflow.toml"
    scaled = next(n for n, e in project.graph.items() if e["class_type"] == "ImageScale")
    saved = next(n for n, e in project.graph.items() if e["class_type"] == "SaveImage")
    spec.write_text(
        spec.read_text()
        + f'\n[inputs.scale]\nbypass = "{scaled}"  # off: as it is\n\n[inputs.both]\nbypass ='
        f' ["{scaled}"]\n\n[constants]\n"{saved}.inputs.filename_prefix" = "ours"  # kept\n'
    )
    (project.folder / "prepare.py").write_text("def prepare(graph, inputs):\n    return graph\n")
    project.graph = renumbered(project.graph, {node: f"n{node}" for node in project.graph})
    code, output = project.update()
    assert code == 0, output
    assert "prepare.py is not changed" in output
    workflow = Workflow.load(project.folder)
    assert workflow.parameters["scale"].bypass == workflow.parameters["both"].bypass
    assert workflow.parameters["scale"].bypass == (f"n{scaled}",)
    assert workflow.graph[f"n{saved}"]["inputs"]["filename_prefix"] == "ours"
    assert "# off: as it is" in spec.read_text()
    assert f'"n{saved}.inputs.filename_prefix" = "ours"  # kept' in spec.read_text()


EACH = """
[inputs.prompts]
each = ["6.inputs.text", "15.inputs.text"]  # base, refiner
min_items = 2
[inputs.loras]
type = "loras"
after = "4"
clip_after = "12"
"""


def with_lists(project: Project, more: str = EACH) -> Path:
    spec = project.folder / "workflow.toml"
    text = spec.read_text()
    start, end = text.index("[inputs.prompt]"), text.index("[inputs.negative_prompt]")
    spec.write_text(text[:start] + more + text[end:])
    return spec


def test_lists_keep_their_places_and_follow_their_nodes(project: Project) -> None:
    spec = with_lists(project)
    ids = {node: str(100 + index) for index, node in enumerate(reversed(project.graph))}
    project.graph = renumbered(project.graph, ids)
    code, output = project.update()
    assert code == 0, output
    moved = next(line for line in output.splitlines() if "moved: node 12 " in line)
    assert moved.endswith("for inputs.loras")
    inputs = read_spec(spec).inputs
    assert inputs["prompts"].each == [f"{ids['6']}.inputs.text", f"{ids['15']}.inputs.text"]
    assert (inputs["loras"].after, inputs["loras"].clip_after) == (ids["4"], ids["12"])
    assert "# base, refiner" in spec.read_text()


def test_a_list_that_loses_a_place_is_shorter(project: Project) -> None:
    spec = with_lists(project, EACH.replace("min_items = 2\n", ""))
    del project.graph["15"]
    project.graph["11"]["inputs"]["positive"] = ["6", 0]
    code, output = project.update()
    assert code == 0, output
    assert "inputs.prompts: max_items was 2, is now 1" in output
    assert read_spec(spec).inputs["prompts"].each == ["6.inputs.text"]


def test_loras_whose_loader_is_gone_are_refused(project: Project) -> None:
    with_lists(project)
    project.graph = {node: e for node, e in project.graph.items() if node != "12"}
    code, output = project.update()
    assert code == 1
    assert "unsure: inputs.loras: node 12" in output


def test_a_new_catalogue_keeps_the_loaders_of_loras(project: Project, tmp_path: Path) -> None:
    with_lists(project)
    nodes = json.loads((project.folder / CATALOGUE_FILE).read_text())
    names = ["a.safetensors", "b.safetensors"]
    nodes["LoraLoader"] = {
        "input": {
            "required": {
                "model": ["MODEL"], "clip": ["CLIP"], "lora_name": [names],
                "strength_model": ["FLOAT"], "strength_clip": ["FLOAT"],
            }
        },
        "output": ["MODEL", "CLIP"],
    }  # fmt: skip
    info = tmp_path / "object_info.json"
    info.write_text(json.dumps(nodes))
    code, output = project.update("--object-info", info)
    assert code == 0, output
    assert Workflow.load(project.folder).parameters["loras"].choices == tuple(names)


def test_a_bypassed_node_that_is_gone_is_refused(start: Callable[..., Project]) -> None:
    project = start("hello")
    spec = project.folder / "workflow.toml"
    scaled = next(n for n, e in project.graph.items() if e["class_type"] == "ImageScale")
    saved = next(n for n, e in project.graph.items() if e["class_type"] == "SaveImage")
    spec.write_text(f'{spec.read_text()}\n[inputs.scale]\nbypass = "{scaled}"\n')
    project.graph[saved]["inputs"]["images"] = project.graph[scaled]["inputs"]["image"]
    del project.graph[scaled]
    code, output = project.update()
    assert code == 1
    assert f"unsure: inputs.scale: node {scaled} " in output


def test_a_dry_run_writes_nothing(project: Project) -> None:
    before = project.files()
    project.graph["10"]["inputs"]["steps"] = project.graph["11"]["inputs"]["steps"] = 40
    code, output = project.update("--dry-run")
    assert code == 0
    assert "would write graph.json in " in output
    assert project.files() == before


def test_node_facts_are_added_to_a_workflow_made_without_them(
    start: Callable[..., Project], root: Path
) -> None:
    project = start(catalogue=False)
    nodes = root / "workflows" / "sdxl" / CATALOGUE_FILE
    code, output = comfysnap("update", "mine", "--object-info", nodes)
    assert code == 0, output
    assert "wrote nodes.json in " in output
    assert (project.folder / CATALOGUE_FILE).read_bytes() == nodes.read_bytes()
    assert comfysnap("update", "mine", "--object-info", nodes) == (0, "nothing to change\n")


def test_a_map_that_node_facts_contradict_is_refused(
    start: Callable[..., Project], root: Path
) -> None:
    project = start(catalogue=False)
    spec = project.folder / "workflow.toml"
    spec.write_text(spec.read_text().replace("maximum = 30.0", "maximum = 300.0"))
    before = project.files()
    nodes = root / "workflows" / "sdxl" / CATALOGUE_FILE
    code, output = comfysnap("update", "mine", "--object-info", nodes)
    assert code == 1
    assert "unsure: inputs.guidance.maximum: " in output
    assert project.files() == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--node", "6"), "invalid_node"),
        (("--node", "99=6"), "unknown_node"),
        (("--node", "6=99"), "unknown_node"),
        (("--drop", "no_such_input"), "unknown_name"),
    ],
)
def test_options_that_name_nothing_are_errors(
    project: Project, options: tuple[str, ...], code: str
) -> None:
    with pytest.raises(WorkflowError) as caught:
        project.update(*options)
    assert caught.value.code == code


def test_a_workflow_that_does_not_exist_and_an_update_of_nothing_are_errors(
    project: Project,
) -> None:
    for arguments, code in (
        (("other", "x.json"), "unknown_workflow"),
        (("mine",), "nothing_to_do"),
    ):
        with pytest.raises(WorkflowError) as caught:
            comfysnap("update", *arguments)
        assert caught.value.code == code
    with pytest.raises(GraphError):
        comfysnap("update", "mine", project.root / "missing.json")
