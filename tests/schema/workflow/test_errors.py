"""Every error in a workflow folder has a code, a file and a key."""

import json
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import GraphError, SchemaError, WorkflowError
from comfysnap_schema.wire.files import Kind
from comfysnap_schema.workflow.apply import Workflow, load_workflows
from tests.schema.conftest import GRAPH, MakeWorkflow

OUTPUT = '[outputs.images]\nnode = "3"\n'
NODES = json.dumps(
    {
        "EmptyImage": {
            "input": {
                "required": {
                    "width": ["INT", {"default": 512, "min": 1, "max": 1024}],
                    "height": ["INT", {"default": 512, "min": 1, "max": 4096, "step": 8}],
                    "batch_size": ["INT", {"default": 1, "min": 1, "max": 4096}],
                    "color": ["INT", {"default": 0, "min": 0, "max": 16777215}],
                }
            },
            "output": ["IMAGE"],
        },
        "ImageScale": {
            "input": {
                "required": {
                    "image": ["IMAGE"],
                    "upscale_method": [["nearest-exact", "area"]],
                    "width": ["INT", {"default": 512, "min": 0, "max": 2048, "step": 1}],
                    "height": ["INT", {"default": 512, "min": 0, "max": 2048, "step": 4}],
                    "crop": [["disabled", "center"]],
                },
                "optional": {
                    "sharpen": ["FLOAT", {"default": 0.5, "min": 0, "max": 1, "step": 0.1}],
                    "note": ["STRING", {"multiline": True}],
                    "keep": ["BOOLEAN", {"default": True}],
                    "lut": [["a.safetensors"]],
                    "picture": [["x.png"], {"image_upload": True}],
                    "sizes": ["COMBO", {"options": ["s", "m"], "multiselect": True}],
                    "odd": [[1, True, "x"]],
                    "anything": ["*"],
                },
            },
            "output": ["IMAGE"],
        },
        "SaveImage": {
            "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
            "output": [],
            "output_node": True,
        },
    }
)


def load_error(folder: Path) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        Workflow.load(folder)
    return caught.value


@pytest.mark.parametrize(
    ("entry", "code", "key"),
    [
        ('path = "2.inputs.width"\npaths = 1', "unknown_key", "paths"),
        ('path = "2.width"', "invalid_path", "path"),
        ('path = "9.inputs.width"', "no_such_path", "path"),
        ('path = "2.inputs.widht"', "no_such_path", "path"),
        ('path = ["2.inputs.width", "2.inputs.nope"]', "no_such_path", "path"),
        ('path = "2.inputs.image"', "path_is_linked", "path"),
        ('path = ["2.inputs.width", "2.inputs.crop"]', "types_differ", "path"),
        ('path = ["1.inputs.width", "2.inputs.width"]', "values_differ", "default"),
        ('type = "wide"', "invalid_value", "type"),
        ('path = "2.inputs.width"\ntype = "string"', "wrong_type", "type"),
        ('path = "2.inputs.crop"\ntype = "integer"', "wrong_type", "type"),
        ('path = "2.inputs.width"\nkind = "image"', "wrong_type", "kind"),
        ('path = "2.inputs.crop"\nkind = "text"', "wrong_type", "kind"),
        ('path = "2.inputs.crop"\nkind = "shape"', "invalid_value", "kind"),
        ('path = "2.inputs.crop"\nrandom = true', "wrong_type", "random"),
        ('path = "2.inputs.crop"\nbypass = "2"', "wrong_type", "type"),
        ('bypass = "77"', "no_such_node", "bypass"),
        ('path = "2.inputs.width"\nrandom = true\nrequired = true', "not_applicable", "required"),
        ('path = "2.inputs.width"\nminimum = 9\nmaximum = 8', "empty_range", "minimum"),
        ('path = "2.inputs.width"\nmaximum = 100', "default_out_of_range", "default"),
        ('path = "2.inputs.width"\nminimum = 1000', "default_out_of_range", "default"),
        ('path = "2.inputs.width"\nmultiple_of = 100', "default_out_of_range", "default"),
        ('path = "2.inputs.width"\ndefault = "wide"', "wrong_default_type", "default"),
        ('path = "2.inputs.width"\ndefault = true', "wrong_default_type", "default"),
        ('path = "2.inputs.crop"\ndefault = 3', "wrong_default_type", "default"),
        ('path = "2.inputs.crop"\nmax_length = 3', "default_out_of_range", "default"),
        ('path = "2.inputs.crop"\nmaximum = 3', "not_applicable", "maximum"),
        ('path = "2.inputs.width"\nmax_length = 3', "not_applicable", "max_length"),
        ('path = "2.inputs.width"\nmultiline = true', "not_applicable", "multiline"),
        ('path = "2.inputs.width"\nchoices = [512]\nminimum = 3', "not_applicable", "minimum"),
        ('path = "2.inputs.crop"\nkind = "image"\nchoices = ["a"]', "not_applicable", "choices"),
        ('path = "2.inputs.crop"\nkind = "image"\ndefault = "a"', "not_applicable", "default"),
        ('path = "2.inputs.crop"\nchoices = ["a"]', "default_not_a_choice", "default"),
        ('path = "2.inputs.width"\nchoices = [512.0]', "default_not_a_choice", "default"),
        ('path = "2.inputs.crop"\nchoices = ["a", "a"]', "duplicate_choice", "choices"),
        ('path = "2.inputs.crop"\nchoices = [1, true]', "mixed_choices", "choices"),
        ('path = "2.inputs.crop"\nchoices = []', "invalid_value", "choices"),
        ('path = "2.inputs.crop"\nchoices = [[1]]', "invalid_value", "choices.0"),
        (
            'path = "2.inputs.width"\ntype = "number"\ndefault = nan',
            "invalid_value",
            "default",
        ),
        ('path = "2.inputs.width"\nmaximum = inf', "invalid_value", "maximum"),
        ('path = "2.inputs.crop"\nmax_length = 0', "invalid_value", "max_length"),
        ("random = false", "unknown_type", "type"),
        ('path = "2.inputs.width"\nrandom = true\ndefault = 3', "not_applicable", "default"),
        ('path = "2.inputs.width"\nrequired = true\ndefault = 3', "not_applicable", "default"),
        ('path = "2.inputs.crop"\nkind = "image"\ntype = "string"', "wrong_type", "type"),
        ("path = []", "unknown_type", "type"),
        ('type = "string"', "no_path", "path"),
    ],
)
def test_an_invalid_entry_is_reported_with_its_key(
    make_workflow: MakeWorkflow, entry: str, code: str, key: str
) -> None:
    folder = make_workflow(f'name = "small"\n[inputs.it]\n{entry}\n{OUTPUT}')
    error = load_error(folder)
    assert (error.code, error.field, error.file) == (
        code, f"inputs.it.{key}", str(folder / "workflow.toml"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "code", "key"),
    [
        ('path = "1.inputs.width"\nmaximum = 2048', "widens", "maximum"),
        ('path = "1.inputs.width"\nminimum = 0', "widens", "minimum"),
        ('path = ["1.inputs.color", "2.inputs.width"]\ndefault = 8\nmaximum = 4096', "widens",
         "maximum"),
        ('path = "2.inputs.crop"\nchoices = ["disabled", "left"]', "unknown_choice", "choices"),
        ('path = "2.inputs.image"', "path_is_linked", "path"),
        ('path = "2.inputs.blur"', "no_such_path", "path"),
        ('path = "2.inputs.sharpen"\ntype = "string"', "wrong_type", "type"),
        ('path = "2.inputs.sharpen"\ndefault = 2.0', "default_out_of_range", "default"),
        ('path = "2.inputs.width"\ntype = "number"', "wrong_type", "type"),
        ('path = "2.inputs.keep"\nchoices = [true]', "not_applicable", "choices"),
    ],
)  # fmt: skip
def test_the_map_may_narrow_the_catalogue_but_not_widen_it(
    make_workflow: MakeWorkflow, entry: str, code: str, key: str
) -> None:
    folder = make_workflow(f'name = "small"\n[inputs.it]\n{entry}\n{OUTPUT}', nodes__json=NODES)
    error = load_error(folder)
    assert (error.code, error.field) == (code, f"inputs.it.{key}")


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        (f'name = "small"\nnmae = 1\n{OUTPUT}', "unknown_key", "nmae"),
        ('name = "small"\n[outputs.images]\nnode = "3"\nkid = 1', "unknown_key",
         "outputs.images.kid"),
        (f'name = "Small"\n{OUTPUT}', "invalid_value", "name"),
        ('name = "small"\n', "invalid_value", "outputs"),
        ('name = "small"\n[outputs]\n', "invalid_value", "outputs"),
        (f'name = "small"\n[inputs.Bad-name]\ntype = "string"\n{OUTPUT}', "invalid_value",
         "inputs.Bad-name"),
        (f"name = \n{OUTPUT}", "invalid_toml", None),
        ('name = "small"\n[outputs.images]\nnode = "9"', "no_such_node", "outputs.images.node"),
        ('name = "small"\n[outputs.images]\nnode = "2"', "not_an_output", "outputs.images.node"),
        (f'name = "small"\n{OUTPUT}[outputs.more]\nnode = "3"', "duplicate_output",
         "outputs.more.node"),
        (f'name = "small"\n{OUTPUT}[inputs.a]\npath = "2.inputs.width"\n[inputs.b]\n'
         'path = "2.inputs.width"', "duplicate_path", "inputs.b.path"),
        (f'name = "small"\n{OUTPUT}[inputs.a]\npath = ["2.inputs.width", "2.inputs.width"]',
         "duplicate_path", "inputs.a.path"),
        (f'name = "small"\n{OUTPUT}[inputs.a]\npath = "2.inputs.width"\n[constants]\n'
         '"2.inputs.width" = 3', "duplicate_path", "inputs.a.path"),
        (f'name = "small"\n{OUTPUT}[constants]\n"2.inputs.depth" = 3', "no_such_path",
         "constants.2.inputs.depth"),
        (f'name = "small"\n{OUTPUT}[inputs.a]\nbypass = "2"', "no_catalogue", "inputs.a.bypass"),
    ],
)  # fmt: skip
def test_an_invalid_file_is_reported_with_its_key(
    make_workflow: MakeWorkflow, text: str, code: str, field: str | None
) -> None:
    error = load_error(make_workflow(text))
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'name = "MyFlow"\n{OUTPUT}', "invalid workflow name 'MyFlow'"),
        (f'name = "small"\n[inputs.negativePrompt]\n{OUTPUT}',
         "invalid input name 'negativePrompt'"),
        ('name = "small"\n[outputs.theImages]\nnode = "3"', "invalid output name 'theImages'"),
    ],
)  # fmt: skip
def test_an_invalid_name_is_quoted_with_what_it_names(
    make_workflow: MakeWorkflow, text: str, message: str
) -> None:
    error = load_error(make_workflow(text))
    assert error.message.startswith(message)
    assert "snake_case" in error.message


@pytest.mark.parametrize(
    ("text", "table"),
    [
        (f'name = "small"\n[[inputs.a]]\npath = "2.inputs.width"\n{OUTPUT}', "[inputs.a]"),
        (f'name = "small"\ninputs = 3\n{OUTPUT}', "[inputs]"),
    ],
)
def test_a_missing_table_is_named_in_toml_syntax(
    make_workflow: MakeWorkflow, text: str, table: str
) -> None:
    error = load_error(make_workflow(text))
    assert error.code == "invalid_value"
    assert table in error.message


@pytest.mark.parametrize(("nodes", "code"), [("{", "invalid_json"), ("[]", "not_a_catalogue")])
def test_an_invalid_catalogue_file_is_reported(
    make_workflow: MakeWorkflow, nodes: str, code: str
) -> None:
    assert load_error(make_workflow(nodes__json=nodes)).code == code


def test_with_a_catalogue_an_output_must_be_an_output_node(make_workflow: MakeWorkflow) -> None:
    folder = make_workflow('name = "small"\n[outputs.images]\nnode = "1"\n', nodes__json=NODES)
    assert load_error(folder).code == "not_an_output"


def test_without_a_catalogue_a_node_named_for_showing_passes(make_workflow: MakeWorkflow) -> None:
    graph = {
        "1": {"class_type": "Show Text|pack", "inputs": {"text": "x"}},
        "2": {"class_type": "SaveText", "inputs": {"text": ["1", 0]}},
    }
    text = 'name = "small"\n[outputs.text]\nnode = "1"\nkind = "text"\n'
    assert Workflow.load(make_workflow(text, graph)).outputs["text"].kind is Kind.TEXT


def test_a_ui_format_export_says_how_to_export(make_workflow: MakeWorkflow) -> None:
    folder = make_workflow(graph={"nodes": [], "links": [], "version": 0.4})
    error = load_error(folder)
    assert isinstance(error, GraphError)
    assert error.code == "ui_format"
    assert "Export (API)" in error.message


def test_a_missing_map_is_reported(tmp_path: Path) -> None:
    assert load_error(tmp_path).code == "unreadable"


def test_a_map_that_is_not_text_is_reported(make_workflow: MakeWorkflow) -> None:
    folder = make_workflow()
    (folder / "workflow.toml").write_bytes(b"\xff\xfe")
    assert load_error(folder).code == "invalid_toml"


def test_two_workflows_with_one_name_are_rejected(make_workflow: MakeWorkflow) -> None:
    make_workflow(folder="one")
    folder = make_workflow(folder="two")
    with pytest.raises(WorkflowError) as caught:
        load_workflows(folder.parent)
    assert (caught.value.code, caught.value.field) == ("duplicate_name", "name")


def test_a_project_without_workflows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        load_workflows(tmp_path)
    assert caught.value.code == "no_workflows"


def test_the_catalogue_provides_what_the_map_omits(make_workflow: MakeWorkflow) -> None:
    entries = "".join(
        f'[inputs.{name}]\npath = "{path}"\n'
        for name, path in {
            "color": "1.inputs.color",
            "tall": "1.inputs.height",
            "width": "2.inputs.width",
            "height": "2.inputs.height",
            "method": "2.inputs.upscale_method",
            "sharpen": "2.inputs.sharpen",
            "note": "2.inputs.note",
            "keep": "2.inputs.keep",
            "lut": "2.inputs.lut",
            "picture": "2.inputs.picture",
            "sizes": "2.inputs.sizes",
            "odd": "2.inputs.odd",
            "anything": "2.inputs.anything",
        }.items()
        if name != "anything"
    )
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": "64", "height": 7, "batch_size": 1, "color": 255.0},
        },
        "2": {
            "class_type": "ImageScale",
            "inputs": {
                "image": ["1", 0], "upscale_method": "area", "width": "640", "height": 512,
                "crop": "disabled", "sharpen": 1, "keep": 1, "lut": "b.safetensors", "odd": 1,
            },
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }  # fmt: skip
    folder = make_workflow(f'name = "small"\n{entries}{OUTPUT}', graph, nodes__json=NODES)
    found = Workflow.load(folder).parameters
    assert (found["color"].type, found["color"].default) == ("integer", 255)
    assert found["tall"].multiple_of is None  # the graph's own 7 does not keep the step
    assert (found["width"].default, found["width"].maximum) == (640, 2048)
    assert found["height"].multiple_of == 4
    assert found["method"].choices == ("nearest-exact", "area")
    assert (found["sharpen"].default, found["sharpen"].multiple_of) == (1.0, None)
    assert isinstance(found["sharpen"].default, float)
    assert (found["note"].multiline, found["note"].required) == (True, True)
    assert found["keep"].default is True
    assert (found["lut"].choices, found["lut"].default) == (None, "b.safetensors")
    assert (found["picture"].type, found["picture"].kind) == ("file", Kind.IMAGE)
    assert found["sizes"].type == "json"
    assert found["odd"].choices is None


def test_several_places_share_the_tightest_rules(make_workflow: MakeWorkflow) -> None:
    text = (
        'name = "small"\n[inputs.size]\ndefault = 64\n'
        'path = ["1.inputs.height", "1.inputs.width", "2.inputs.height"]\n'
        f'[inputs.mode]\npath = ["2.inputs.crop", "2.inputs.upscale_method"]\n'
        f'choices = ["disabled"]\n{OUTPUT}'
    )
    folder = make_workflow(text, nodes__json=NODES)
    text = text.replace('choices = ["disabled"]', "required = true")
    (folder / "workflow.toml").write_text(text)
    assert load_error(folder).code == "types_differ"  # no choice is in both lists
    (folder / "workflow.toml").write_text(text.replace(', "2.inputs.upscale_method"', ""))
    size = Workflow.load(folder).parameters["size"]
    assert (size.minimum, size.maximum, size.multiple_of) == (1, 1024, 4)


def test_a_whole_number_in_the_graph_may_be_meant_as_a_float(make_workflow: MakeWorkflow) -> None:
    text = f'name = "small"\n[inputs.x]\npath = "2.inputs.width"\ntype = "number"\n{OUTPUT}'
    parameter = Workflow.load(make_workflow(text)).parameters["x"]
    assert (parameter.type, parameter.default) == ("number", 512.0)


@pytest.mark.parametrize("value", ["wide", "nan", "inf", [1], {}])
def test_a_value_that_comfyui_could_not_read_is_not_a_default(
    make_workflow: MakeWorkflow, value: object
) -> None:
    graph = json.loads(json.dumps(GRAPH))
    graph["2"]["inputs"]["sharpen"] = value
    text = f'name = "small"\n[inputs.it]\npath = "2.inputs.sharpen"\n{OUTPUT}'
    error = load_error(make_workflow(text, graph, nodes__json=NODES))
    assert (error.code, error.field) == ("wrong_default_type", "inputs.it.default")


def test_an_integer_place_and_a_float_place_take_an_integer(make_workflow: MakeWorkflow) -> None:
    graph = json.loads(json.dumps(GRAPH))
    graph["2"]["inputs"]["sharpen"] = 1.0
    graph["1"]["inputs"]["batch_size"] = 1
    text = (
        f'name = "small"\n[inputs.it]\npath = ["1.inputs.batch_size", "2.inputs.sharpen"]\n{OUTPUT}'
    )
    parameter = Workflow.load(make_workflow(text, graph, nodes__json=NODES)).parameters["it"]
    assert (parameter.type, parameter.default, parameter.maximum) == ("integer", 1, 1)


def test_a_place_of_any_type_takes_what_the_graph_has(make_workflow: MakeWorkflow) -> None:
    graph = json.loads(json.dumps(GRAPH))
    graph["2"]["inputs"]["anything"] = "x"
    text = f'name = "small"\n[inputs.it]\npath = "2.inputs.anything"\n{OUTPUT}'
    parameter = Workflow.load(make_workflow(text, graph, nodes__json=NODES)).parameters["it"]
    assert (parameter.type, parameter.default) == ("string", "x")
