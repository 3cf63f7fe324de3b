"""``comfysnap new`` and ``comfysnap check``."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.catalogue import CATALOGUE_FILE, Catalogue
from comfysnap_schema.comfy.graph import InputPath, read_graph
from comfysnap_schema.propose.folder import write_workflow
from comfysnap_schema.propose.outputs import ProposedOutput
from comfysnap_schema.propose.proposal import propose
from comfysnap_schema.wire.errors import SchemaError
from comfysnap_schema.wire.files import Kind
from comfysnap_schema.workflow.apply import Workflow, load_workflows
from comfysnap_schema.workflow.check import check_workflow
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_schema.workflow.project import read_project
from tests.schema.conftest import MakeWorkflow, comfysnap


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "My Project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_two_commands_make_a_typed_module_in_an_empty_folder(project: Path, root: Path) -> None:
    code, output = comfysnap("new", "flux2", root / "workflows" / "flux" / "graph.json")
    assert code == 0
    assert "prompt" in output
    assert read_project(project / "comfysnap.toml").name == "my-project"
    assert comfysnap("generate")[0] == 0
    assert (
        "class Flux2Input(WorkflowInput[Flux2Output])"
        in (project / "comfysnap_models" / "flux2.py").read_text()
    )
    assert comfysnap("generate", "--check")[0] == 0
    assert comfysnap("check")[0] == 0
    assert {path.name for path in project.iterdir()} == {
        "comfysnap.toml", "comfysnap_models", "workflows",
    }  # fmt: skip


def test_the_catalogue_is_kept_beside_the_graph(project: Path, root: Path) -> None:
    source = root / "workflows" / "sdxl"
    code, _ = comfysnap(
        "new", "mine", source / "graph.json", "--object-info", source / CATALOGUE_FILE
    )
    assert code == 0
    workflow = Workflow.load(project / "workflows" / "mine")
    assert workflow.parameters["steps"].maximum == 150
    assert workflow.parameters["cfg"].maximum == 100
    assert workflow.graph == read_graph(source / "graph.json")
    assert comfysnap("check") == (0, "mine: ok\n")


def test_a_value_that_its_own_node_rejects_is_commented_out(
    project: Path, root: Path, tmp_path: Path
) -> None:
    source = root / "workflows" / "sdxl"
    graph = json.loads((source / "graph.json").read_text())
    graph["10"]["inputs"]["sampler_name"] = graph["11"]["inputs"]["sampler_name"] = "gone"
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    code, output = comfysnap(
        "new", "mine", tmp_path / "graph.json", "--object-info", source / CATALOGUE_FILE
    )
    assert code == 0
    assert "sampler is commented out" in output
    assert "sampler" not in Workflow.load(project / "workflows" / "mine").parameters
    assert "# [inputs.sampler]" in (project / "workflows" / "mine" / "workflow.toml").read_text()
    code, output = comfysnap("check")
    assert code == 1
    assert "sampler_name" in output


def test_a_picture_that_comfyui_saved_becomes_a_workflow(project: Path, root: Path) -> None:
    picture = root / "tests" / "schema" / "comfy" / "saved" / "still.png"
    code, output = comfysnap("new", "mine", picture)
    assert code == 0
    assert "output images: list of image, from node 3" in output
    assert len(Workflow.load(project / "workflows" / "mine").graph) == 8


def test_notes_and_malformed_classes_are_left_out_and_said_so(
    project: Path, tmp_path: Path, root: Path
) -> None:
    hello = root / "workflows" / "hello"
    graph = read_graph(hello / "graph.json")
    note = {"n.1": {"class_type": "MarkdownNote", "inputs": {"": "hi"}}}
    (tmp_path / "graph.json").write_text(json.dumps({"input": {"workflow": {**graph, **note}}}))
    nodes = json.loads((hello / CATALOGUE_FILE).read_text())
    (tmp_path / "info.json").write_text(json.dumps({**nodes, "Sloppy": {"output": "IMAGE"}}))
    code, output = comfysnap(
        "new", "mine", tmp_path / "graph.json", "--object-info", tmp_path / "info.json"
    )
    assert code == 0
    assert "editor: node n.1" in output
    assert "malformed node classes: Sloppy" in output
    assert Workflow.load(project / "workflows" / "mine").graph == graph


def test_an_existing_folder_is_not_overwritten(project: Path, root: Path) -> None:
    graph = root / "workflows" / "flux" / "graph.json"
    assert comfysnap("new", "mine", graph)[0] == 0
    before = (project / "workflows" / "mine" / "workflow.toml").read_bytes()
    with pytest.raises(SchemaError) as caught:
        comfysnap("new", "mine", graph)
    assert caught.value.code == "exists"
    assert (project / "workflows" / "mine" / "workflow.toml").read_bytes() == before


@pytest.mark.parametrize("name", ["Flux", "class", "9lives", "../up", "", "a b", "a\n"])
def test_a_name_that_cannot_be_a_module_is_rejected(project: Path, root: Path, name: str) -> None:
    with pytest.raises(SchemaError) as caught:
        comfysnap("new", name, root / "workflows" / "flux" / "graph.json")
    assert caught.value.code == "invalid_name"
    assert list(project.iterdir()) == []


@pytest.mark.parametrize(
    ("graph", "code"),
    [
        ({"nodes": [], "links": []}, "ui_format"),
        ([], "not_a_graph"),
        ({}, "empty_graph"),
        ({"1": {"class_type": "VAEDecode", "inputs": {}}, "2": {"class_type": "Blur",
         "inputs": {"x": ["1", 0]}}}, "no_outputs"),
    ],
)  # fmt: skip
def test_an_unusable_graph_leaves_no_files_behind(
    project: Path, tmp_path: Path, graph: Any, code: str
) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(graph))
    with pytest.raises(SchemaError) as caught:
        comfysnap("new", "mine", path)
    assert caught.value.code == code
    assert list(project.iterdir()) == []


def test_unknown_classes_are_noted_for_review(project: Path, tmp_path: Path, root: Path) -> None:
    graph = json.loads((root / "workflows" / "img2img" / "graph.json").read_text())
    graph["3"]["class_type"] = "Foreign Scale"
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    nodes = root / "workflows" / "img2img" / CATALOGUE_FILE
    code, output = comfysnap("new", "mine", tmp_path / "graph.json", "--object-info", nodes)
    assert code == 0
    assert "Foreign Scale" in output
    found = Workflow.load(project / "workflows" / "mine").parameters
    assert [entry.kind for entry in found.values() if entry.type == "file"] == [Kind.IMAGE]


def test_a_catalogue_without_the_classes_of_the_graph_is_not_saved(
    project: Path, tmp_path: Path, root: Path
) -> None:
    export = tmp_path / "graph.json"
    export.write_text('{"1": {"class_type": "Foreign Save", "inputs": {"images": 1}}}')
    nodes = root / "workflows" / "hello" / CATALOGUE_FILE
    proposal = propose(read_graph(export), name="mine")
    folder = project / "workflows" / "mine"
    outputs = (ProposedOutput(name="x", spec=OutputSpec(node="1"), enabled=True, reason="made up"),)
    write_workflow(
        folder, read_graph(export), replace(proposal, outputs=outputs), Catalogue.read(nodes)
    )
    assert not (folder / CATALOGUE_FILE).exists()


def test_a_proposal_that_cannot_load_leaves_no_files_behind(project: Path, root: Path) -> None:
    graph = read_graph(root / "workflows" / "flux" / "graph.json")
    outputs = (
        ProposedOutput(name="x", spec=OutputSpec(node="77"), enabled=True, reason="made up"),
    )
    proposal = replace(propose(graph, name="mine"), outputs=outputs)
    with pytest.raises(SchemaError) as caught:
        write_workflow(project / "workflows" / "mine", graph, proposal, None)
    assert caught.value.code == "no_such_node"
    assert list((project / "workflows").iterdir()) == []


def test_a_project_can_be_named(project: Path, tmp_path: Path, root: Path) -> None:
    (tmp_path / "comfysnap.toml").write_text('workflows = "flows"\n')
    graph = root / "workflows" / "flux" / "graph.json"
    assert comfysnap("new", "mine", graph, "--project", tmp_path)[0] == 0
    assert (tmp_path / "flows" / "mine" / "graph.json").is_file()
    assert list(project.iterdir()) == []


def test_check_lists_every_workflow_that_would_be_rejected(
    tmp_path: Path, make_workflow: MakeWorkflow, root: Path
) -> None:
    (tmp_path / "comfysnap.toml").write_text("")
    nodes = (root / "workflows" / "hello" / CATALOGUE_FILE).read_text()
    make_workflow(folder="right", nodes__json=nodes)
    make_workflow("name = 3\n", folder="unreadable")
    graph = json.loads((root / "workflows" / "hello" / "graph.json").read_text())
    graph["1"]["inputs"]["width"] = 0
    text = 'name = "wrong"\n[outputs.images]\nnode = "3"\n'
    make_workflow(text, graph, folder="wrong", nodes__json=nodes)
    code, output = comfysnap("check", "--project", tmp_path)
    assert code == 1
    assert output.splitlines()[0] == "small: ok"
    assert "unreadable: " in output
    assert "width" in output
    assert output.splitlines()[-1] == "2 issues"


def test_check_finds_duplicate_names(make_workflow: MakeWorkflow) -> None:
    project = make_workflow().parents[1]
    (project / "comfysnap.toml").write_text("")
    copy = make_workflow(folder="zz_copy")
    code, output = comfysnap("check", "--project", project)
    assert code == 1
    assert f"zz_copy: {copy / 'workflow.toml'}: name:" in output


def test_check_without_workflows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "comfysnap.toml").write_text("")
    with pytest.raises(SchemaError) as caught:
        comfysnap("check", "--project", tmp_path)
    assert caught.value.code == "no_workflows"


def test_check_notes_what_it_could_not_check(make_workflow: MakeWorkflow, root: Path) -> None:
    workflow = Workflow.load(make_workflow())
    assert len(check_workflow(workflow).notes) == 1
    nodes = json.loads((root / "workflows" / "hello" / CATALOGUE_FILE).read_text())
    del nodes["ImageScale"]
    result = check_workflow(Workflow.load(make_workflow(nodes__json=json.dumps(nodes))))
    assert result.issues == ()
    assert "ImageScale" in result.notes[0]


def test_a_slim_catalogue_without_the_output_node_causes_no_issue(
    make_workflow: MakeWorkflow, root: Path
) -> None:
    nodes = json.loads((root / "workflows" / "hello" / CATALOGUE_FILE).read_text())
    del nodes["SaveImage"]
    workflow = Workflow.load(make_workflow(nodes__json=json.dumps(nodes)))
    assert workflow.validate(workflow.graph) == []


def test_check_fills_required_inputs_with_simple_values(make_workflow: MakeWorkflow) -> None:
    text = """
name = "small"
[inputs.text]
type = "string"
[inputs.low]
type = "integer"
minimum = 5
[inputs.high]
type = "number"
maximum = -5
[inputs.flag]
type = "boolean"
[inputs.pick]
choices = ["a", "b"]
required = true
[inputs.image]
kind = "image"
[inputs.data]
type = "json"
[outputs.images]
node = "3"
"""
    source = (
        "def prepare(graph, inputs):\n"
        "    want = {'text': 'x', 'low': 5, 'high': -5.0, 'flag': True, 'pick': 'a',\n"
        "            'image': 'example.png', 'data': None}\n"
        "    if inputs != want:\n        raise ValueError(inputs)\n    return graph\n"
    )
    workflow = Workflow.load(make_workflow(text, prepare__py=source))
    assert check_workflow(workflow).issues == ()


def test_check_reports_that_prepare_rejects_the_defaults(make_workflow: MakeWorkflow) -> None:
    source = "def prepare(graph, inputs):\n    raise ValueError('no')\n"
    assert check_workflow(Workflow.load(make_workflow(prepare__py=source))).issues


def test_every_other_value_stands_commented_out_in_a_line_below_the_map(
    project: Path, root: Path
) -> None:
    source = root / "workflows" / "img2img"
    nodes = ("--object-info", source / CATALOGUE_FILE)
    assert comfysnap("new", "mine", source / "graph.json", *nodes)[0] == 0
    folder = project / "workflows" / "mine"
    before = Workflow.load(folder)
    spec = folder / "workflow.toml"
    head, mark, rest = spec.read_text().partition("# [inputs]\n")
    assert mark
    assert len(rest.splitlines()) == rest.count(" = { path = ")
    spec.write_text(head + "[inputs]\n" + "".join(f"{line[2:]}\n" for line in rest.splitlines()))
    after = Workflow.load(folder)
    offered = {path for parameter in after.parameters.values() for path in parameter.paths}
    commented = {path for path in offered if f'"{path}"' in head}
    plain = {
        InputPath(node, name)
        for node, entry in after.graph.items()
        for name, value in entry["inputs"].items()
        if not isinstance(value, list)
    }
    assert len(after.parameters) > len(before.parameters)
    assert plain - offered == {path for path in plain if f'# path = "{path}"' in head}
    assert commented == {path for entry in before.parameters.values() for path in entry.paths}


def drawing(**changes: Any) -> dict[str, Any]:
    """A UI export of an upscaler."""
    sizes = {"name": "a.safetensors", "directory": "upscale_models"}
    values: dict[str, tuple[str, list[Any], list[Any]]] = {
        "1": ("EmptyImage", [64, 64, 1, 255], []),
        "2": ("UpscaleModelLoader", ["a.safetensors"], []),
        "3": ("ImageUpscaleWithModel", [], [("upscale_model", 1), ("image", 2)]),
        "4": ("SaveImage", ["x"], [("images", 3)]),
    }
    nodes = [
        {
            "id": int(name), "type": kind, "widgets_values": widgets,
            "inputs": [{"name": slot, "type": "*", "link": link} for slot, link in links],
            "outputs": [{"name": "X", "type": "*"}],
            "properties": changes | (
                {"models": [sizes | {"url": "https://huggingface.co/o/n/resolve/main/a.safetensors"}]}
                if kind == "UpscaleModelLoader" else {}
            ),
        }
        for name, (kind, widgets, links) in values.items()
    ]  # fmt: skip
    links = [[1, 2, 0, 3, 0, "*"], [2, 1, 0, 3, 1, "*"], [3, 3, 0, 4, 0, "*"]]
    return {"nodes": nodes, "links": links}


UPSCALE: dict[str, Any] = {
    "EmptyImage": {"width": ["INT", {}], "height": ["INT", {}], "batch_size": ["INT", {}],
                   "color": ["INT", {}]},
    "UpscaleModelLoader": {"model_name": [["a.safetensors"]]},
    "ImageUpscaleWithModel": {"upscale_model": ["UPSCALE_MODEL"], "image": ["IMAGE"]},
    "SaveImage": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]},
}  # fmt: skip
MAKES = {"UpscaleModelLoader": ["UPSCALE_MODEL"], "SaveImage": []}


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A UI export, and the catalogue of its nodes."""

    def write(**properties: Any) -> tuple[Path, Path]:
        export, info = tmp_path / "drawing.json", tmp_path / "info.json"
        export.write_text(json.dumps(drawing(**properties)))
        entries: dict[str, Any] = {
            name: {
                "input": {"required": inputs}, "output": MAKES.get(name, ["IMAGE"]),
                "output_node": name == "SaveImage",
            }
            for name, inputs in UPSCALE.items()
        }  # fmt: skip
        info.write_text(json.dumps(entries))
        return export, info

    return write


def test_sources_in_a_drawing_are_kept_and_printed_to_paste(
    project: Path, exported: Callable[..., tuple[Path, Path]]
) -> None:
    export, info = exported(cnr_id="upscalers", ver="1.2.0")
    code, output = comfysnap("new", "mine", export, "--object-info", info)
    assert code == 0
    folder = project / "workflows" / "mine"
    text = (folder / "models.toml").read_text().partition("\n\n")[2]
    assert text.strip() in output
    assert json.loads((folder / "snapshot.json").read_text()) == {
        "cnr_custom_nodes": {"upscalers": "1.2.0"}
    }
    with (project / "comfysnap.toml").open("a") as file:
        file.write(f"\n{text}")
    code, output = comfysnap("new", "again", export, "--object-info", info)
    assert code == 0
    assert "deploy.models" not in output


def test_the_editors_workflow_is_kept_for_nodes_of_packs(
    project: Path, exported: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    export, info = exported()
    assert comfysnap("new", "mine", export, "--object-info", info)[0] == 0
    folder = project / "workflows" / "mine"
    assert json.loads((folder / "drawing.json").read_text()) == json.loads(export.read_text())
    assert Workflow.load(folder).drawing == json.loads(export.read_text())
    entries = json.loads(info.read_text())
    for entry in entries.values():
        entry["python_module"] = "nodes"
    info.write_text(json.dumps(entries))
    assert comfysnap("update", "mine", "--object-info", info)[0] == 0
    assert Workflow.load(folder).drawing is None
    (folder / CATALOGUE_FILE).unlink()
    assert Workflow.load(folder).drawing is not None
    (folder / "drawing.json").unlink()
    assert Workflow.load(folder).drawing is None


def test_an_update_renews_the_editors_workflow_or_notes_that_it_is_older(
    project: Path, exported: Callable[..., tuple[Path, Path]]
) -> None:
    export, info = exported()
    assert comfysnap("new", "mine", export, "--object-info", info)[0] == 0
    folder = project / "workflows" / "mine"
    kept = (folder / "drawing.json").read_bytes()
    graph = json.loads((folder / "graph.json").read_text())
    next(iter(graph.values()))["_meta"] = {"title": "Other"}
    api = project / "api.json"
    api.write_text(json.dumps(graph))
    code, output = comfysnap("update", "mine", api)
    assert code == 0, output
    assert "drawing.json is of the earlier graph" in output
    assert (folder / "drawing.json").read_bytes() == kept
    drawn = json.loads(export.read_text()) | {"extra": {"newer": True}}
    export.write_text(json.dumps(drawn))
    code, output = comfysnap("update", "mine", export)
    assert code == 0, output
    assert "drawing.json is of" not in output
    assert json.loads((folder / "drawing.json").read_text()) == drawn


def test_packs_that_cannot_be_pinned_are_noted(
    project: Path, exported: Callable[..., tuple[Path, Path]]
) -> None:
    export, info = exported(cnr_id="upscalers", ver="nightly")
    code, output = comfysnap("new", "mine", export, "--object-info", info)
    assert code == 0
    assert "node pack upscalers" in output
    assert not (project / "workflows" / "mine" / "snapshot.json").exists()


@pytest.mark.shared
@pytest.mark.parametrize("with_catalogue", [False, True])
def test_every_real_export_goes_through_without_an_edit(
    shared: Path, project: Path, with_catalogue: bool
) -> None:
    catalogue = Catalogue.read(shared / "object_info.json") if with_catalogue else None
    exports = sorted((shared / "workflows").glob("*.json"))
    assert exports
    for number, export in enumerate(exports):
        name = f"real_{number}"
        graph = read_graph(export)
        proposal = propose(graph, catalogue, name=name)
        scaffold = write_workflow(project / "workflows" / name, graph, proposal, catalogue)
        assert scaffold.disabled == {}
        assert check_workflow(scaffold.workflow).issues == ()
        assert scaffold.workflow.apply(without_seeds(scaffold.workflow)) == graph
    assert comfysnap("generate", "--out", project / "typed")[0] == 0
    assert len(load_workflows(project / "workflows")) == len(exports)


def without_seeds(workflow: Workflow) -> dict[str, Any]:
    """The defaults of a workflow."""
    inputs = workflow.complete({})
    return {name: v for name, v in inputs.items() if not workflow.parameters[name].random}
