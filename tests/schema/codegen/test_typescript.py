"""The TypeScript module of a project; tests/typescript compiles and runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.codegen import generate_typescript
from comfysnap_schema.wire import ProjectError, WorkflowError
from comfysnap_schema.workflow import Workflow, load_workflows
from tests.schema.codegen.test_agreement import EVERYTHING
from tests.schema.conftest import GRAPH, MakeWorkflow, comfysnap

LISTS_GRAPH: dict[str, Any] = {
    **GRAPH,
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
    "5": {"class_type": "Load", "inputs": {"image": "a.png", "note": "x"}},
    "6": {"class_type": "Load", "inputs": {"image": "b.png"}},
    "7": {"class_type": "Sum", "inputs": {"one": ["5", 0], "two": ["6", 0]}},
    "8": {"class_type": "Save", "inputs": {"images": ["7", 0]}},
}
LISTS_NODES: dict[str, Any] = {
    "CheckpointLoaderSimple": {
        "input": {"required": {"ckpt_name": [["base.safetensors"]]}},
        "output": ["MODEL", "CLIP", "VAE"],
        "python_module": "nodes",
    },
    "Load": {
        "input": {
            "required": {"image": [["a.png"], {"image_upload": True}]},
            "optional": {"note": ["STRING"]},
        },
        "output": ["IMAGE"],
    },
    "Sum": {
        "input": {"optional": {"one": ["IMAGE"], "two": ["IMAGE"]}}, "output": ["IMAGE"],
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
}  # fmt: skip
LISTS = """
name = "lists"
title = "Lists \\" of */ everything"

[inputs.images]
each = ["5.inputs.image", "6.inputs.image"]
min_items = 1

[inputs.sizes]
each = ["2.inputs.width", "2.inputs.height"]
default = [64, 64]
maximum = 512

[inputs.checkpoint]
path = "4.inputs.ckpt_name"
type = "model"
required = true

[inputs.note]
path = "5.inputs.note"

[inputs.loras]
type = "loras"
after = "4"
max_items = 3
minimum = 0.0

[inputs.styles]
type = "loras"
after = "4"
choices = ["ink.safetensors", "style/oil.safetensors"]

[outputs.video]
node = "8"
kind = "video"

[outputs.text]
node = "8"
kind = "text"

[outputs.values]
node = "8"
kind = "json"
many = true
"""


@pytest.fixture
def lists(make_workflow: MakeWorkflow) -> Workflow:
    nodes = json.dumps(LISTS_NODES)
    return Workflow.load(make_workflow(LISTS, LISTS_GRAPH, folder="lists", nodes__json=nodes))


@pytest.fixture
def everything(make_workflow: MakeWorkflow) -> Workflow:
    prepare = "def prepare(graph, inputs):\n    return graph\n"
    return Workflow.load(make_workflow(EVERYTHING, folder="everything", prepare__py=prepare))


def test_inputs_are_typed_and_have_their_rules(everything: Workflow) -> None:
    source = generate_typescript({"everything": everything})
    for line in (
        "  readonly text: string;",
        "  readonly plain?: string;",
        "  readonly maybe_text?: string | null;",
        "  readonly seed?: number | bigint | `${bigint}` | null;",
        '  readonly mode?: "a" | "b" | "1";',
        '  readonly maybe_mode?: "a" | "b" | null;',
        "  readonly scale?: 0.5 | 1 | 2;",
        '  readonly mixed?: "auto" | 1;',
        "  readonly image: FileInput;",
        "  readonly mask?: FileInput | null;",
        "  readonly data: JsonValue;",
        "  readonly maybe_data?: JsonValue;",
        '    text: { type: "string", required: true, maxLength: 5 },',
        '    size: { type: "integer", required: true, minimum: 16, maximum: 64, multipleOf: 16 },',
        '      minimum: "-9223372036854775808",',
        '    mask: { type: "file", nullable: true },',
        '    level: { type: "choice", choices: [1, 2, 3] },',
        '  outputs: { json: "file", images: "files" },',
        "  type FileInput,\n  type ImageFile,\n  type JsonValue,\n  type VideoFile,\n}",
        f'  contract: "{everything.contract.hash}",',
    ):
        assert line in source, line


def test_lists_models_and_loras_are_typed(lists: Workflow) -> None:
    source = generate_typescript({"lists": lists})
    styles = '"ink.safetensors" | "style/oil.safetensors"'
    for line in (
        "  readonly images: ReadonlyArray<FileInput>;",
        "  readonly sizes?: ReadonlyArray<number>;",
        "   * @defaultValue [64, 64]",
        "  readonly checkpoint: ModelInput;",
        "  readonly note?: string;",
        "  readonly loras?: ReadonlyArray<Lora>;",
        f"  readonly styles?: ReadonlyArray<NamedLora<{styles}>>;",
        '    loras: { type: "lora", items: [0, 3], minimum: 0, maximum: 100, urls: true },',
        '      choices: ["ink.safetensors", "style/oil.safetensors"],',
        '  outputs: { video: "file", text: "text", values: "jsons" },',
        "  readonly text: string;",
        "  readonly values: ReadonlyArray<JsonValue>;",
        '/** Lists " of *\\/ everything. */',
    ):
        assert line in source, line


def test_the_same_workflows_make_the_same_module(lists: Workflow, everything: Workflow) -> None:
    one = generate_typescript({"lists": lists, "everything": everything})
    assert one == generate_typescript({"everything": everything, "lists": lists})
    assert max(map(len, one.splitlines())) <= 100
    assert one.isascii()


def test_long_choices_stand_one_on_a_line(make_workflow: MakeWorkflow) -> None:
    choices = ["caf\u00e9", "\u200bhidden", *(f"a long choice with number {n}" for n in range(6))]
    text = "name = 'small'\n[inputs.mode]\npath = '2.inputs.crop'\n" + (
        f"choices = {json.dumps(choices)}\ndefault = 'caf\u00e9'\n[outputs.images]\nnode = '3'\n"
    )
    source = generate_typescript({"small": Workflow.load(make_workflow(text))})
    assert '  readonly mode?:\n    | "café"\n    | "\\u{200b}hidden"\n    | "a long' in source
    assert '      choices: [\n        "café",\n        "\\u{200b}hidden",\n' in source
    assert '   * @defaultValue "café"' in source or '/** @defaultValue "café" */' in source


def test_a_workflow_without_inputs_takes_none(make_workflow: MakeWorkflow) -> None:
    text = "name = 'small'\n[outputs.images]\nnode = '3'\n"
    source = generate_typescript({"small": Workflow.load(make_workflow(text))})
    assert "export type SmallInput = Record<string, never>;" in source
    assert "  inputs: {}," in source


@pytest.mark.parametrize(
    ("name", "constant", "prefix"),
    [
        ("control_net_2", "controlNet2", "ControlNet2"),
        ("delete", "deleteWorkflow", "Delete"),
        ("define_workflow", "defineWorkflowWorkflow", "DefineWorkflow"),
        ("file", "file", "FileWorkflow"),
        ("model", "model", "ModelWorkflow"),
    ],
)
def test_names_are_free_in_a_module_of_typescript(
    make_workflow: MakeWorkflow, name: str, constant: str, prefix: str
) -> None:
    text = f"name = '{name}'\n[outputs.images]\nnode = '3'\n"
    workflow = Workflow.load(make_workflow(text, folder=name))
    source = generate_typescript({name: workflow})
    assert f"export const {constant} = defineWorkflow<{prefix}Input, {prefix}Output>({{" in source


def test_two_workflows_of_one_name_in_typescript_are_an_error(
    make_workflow: MakeWorkflow, tmp_path: Path
) -> None:
    for name in ("a_b", "a__b"):
        make_workflow(f"name = '{name}'\n[outputs.images]\nnode = '3'\n", folder=name)
    with pytest.raises(WorkflowError) as caught:
        generate_typescript(load_workflows(tmp_path / "workflows"))
    assert (caught.value.code, caught.value.field) == ("duplicate_class", "name")


def test_the_command_writes_and_checks_the_module(
    make_workflow: MakeWorkflow, tmp_path: Path
) -> None:
    folder = make_workflow()
    (tmp_path / "comfysnap.toml").write_text('[generate]\ntypescript = "web/src/workflows.ts"\n')
    module = tmp_path / "web" / "src" / "workflows.ts"
    project = ("generate", "--project", tmp_path)
    assert comfysnap(*project, "--check") == (
        1,
        f"missing: {module}\nmissing: {folder / 'contracts.json'}\n"
        "to update them, run: comfysnap generate\n",
    )
    assert f"wrote {module}\n" in comfysnap(*project)[1]
    assert comfysnap(*project, "--check") == (0, "")
    assert comfysnap(*project) == (0, "")
    assert not list(tmp_path.glob("**/*.py"))
    module.write_text(module.read_text().replace("SmallInput", "Renamed"))
    code, output = comfysnap(*project, "--check")
    assert (code, output.splitlines()[0]) == (1, f"changed: {module}")
    other = tmp_path / "other.ts"
    assert comfysnap(*project, "--typescript", other) == (0, f"wrote {other}\n")


def test_both_languages_are_written_if_the_project_has_both(
    make_workflow: MakeWorkflow, tmp_path: Path
) -> None:
    make_workflow()
    (tmp_path / "comfysnap.toml").write_text('[generate]\nout = "typed"\ntypescript = "w.ts"\n')
    assert comfysnap("generate", "--project", tmp_path)[0] == 0
    assert (tmp_path / "typed" / "small.py").is_file()
    assert (tmp_path / "w.ts").is_file()


def test_a_module_written_by_hand_is_not_overwritten(
    make_workflow: MakeWorkflow, tmp_path: Path
) -> None:
    make_workflow()
    (tmp_path / "comfysnap.toml").write_text('[generate]\ntypescript = "mine.ts"\n')
    (tmp_path / "mine.ts").write_text("export const mine = 1;\n")
    with pytest.raises(ProjectError) as caught:
        comfysnap("generate", "--project", tmp_path)
    assert caught.value.code == "not_generated"
    (tmp_path / "mine.ts").write_text("")
    assert comfysnap("generate", "--project", tmp_path)[0] == 0
