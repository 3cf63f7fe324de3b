"""Parameters that take a model: a file name that ComfyUI knows, or a URL."""

from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
from pydantic import ValidationError

from comfysnap_schema.base import wire_inputs
from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.wire import ModelUrl, WorkflowError
from comfysnap_schema.workflow import Workflow, check_workflow, compare
from tests.schema.conftest import GRAPH, MakeWorkflow

URL = "https://models.example.com/a.safetensors"
SHA256 = "0" * 64

LOADERS: dict[str, Any] = {
    **GRAPH,
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
    "5": {"class_type": "UNETLoader", "inputs": {"unet_name": "unet.safetensors"}},
    "6": {"class_type": "SomeLoader", "inputs": {"file": "some.safetensors"}},
}
MODEL = """
name = "small"
[inputs.checkpoint]
path = "4.inputs.ckpt_name"
type = "model"
[outputs.images]
node = "3"
"""


def load(make_workflow: MakeWorkflow, text: str = MODEL, **files: str) -> Workflow:
    return Workflow.load(make_workflow(text, LOADERS, **files))


@pytest.mark.parametrize(
    ("path", "extra", "folder"),
    [
        ('"4.inputs.ckpt_name"', "", "checkpoints"),
        ('"5.inputs.unet_name"', "", "diffusion_models"),
        ('"5.inputs.unet_name"', 'folder = "unet"', "diffusion_models"),
        ('"6.inputs.file"', 'folder = "upscale_models"', "upscale_models"),
    ],
)
def test_a_model_has_the_folder_of_its_loader_or_of_the_map(
    make_workflow: MakeWorkflow, path: str, extra: str, folder: str
) -> None:
    text = MODEL.replace('"4.inputs.ckpt_name"', f"{path}\n{extra}")
    assert load(make_workflow, text).parameters["checkpoint"].folder == folder


@pytest.mark.parametrize(
    "path", ['"6.inputs.file"', '["4.inputs.ckpt_name", "5.inputs.unet_name"]']
)
def test_a_folder_that_cannot_be_guessed_must_be_set(
    make_workflow: MakeWorkflow, path: str
) -> None:
    text = MODEL.replace('"4.inputs.ckpt_name"', f'{path}\ndefault = "x.safetensors"')
    with pytest.raises(WorkflowError) as error:
        load(make_workflow, text)
    assert (error.value.code, error.value.field) == ("unknown_folder", "inputs.checkpoint.folder")


@pytest.mark.parametrize(
    "extra", ['choices = ["a.safetensors"]', "max_length = 5", "default = 5", 'type = "string"']
)
def test_what_does_not_apply_to_a_model_is_refused(make_workflow: MakeWorkflow, extra: str) -> None:
    text = MODEL.replace('type = "model"', f'folder = "checkpoints"\n{extra}')
    if "type" not in extra:
        text = text.replace("[outputs", 'type = "model"\n[outputs')
    with pytest.raises(WorkflowError) as error:
        load(make_workflow, text)
    assert error.value.code in {"not_applicable", "wrong_default_type"}


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("other.safetensors", True),
        ({"url": URL}, True),
        ({"url": URL, "sha256": SHA256}, True),
        ({"url": URL, "sha256": None}, True),
        ("", False),
        (5, False),
        ({}, False),
        ({"sha256": SHA256}, False),
        ({"url": "ftp://x/a.safetensors"}, False),
        ({"url": URL, "sha256": "abc"}, False),
        ({"url": URL, "name": "a"}, False),
    ],
)
def test_the_contract_takes_a_name_or_a_url(
    make_workflow: MakeWorkflow, value: Any, fits: bool
) -> None:
    schema = load(make_workflow).contract.input_schema
    assert jsonschema_rs.is_valid(schema, {"checkpoint": value}) is fits


def test_taking_urls_too_breaks_no_caller(make_workflow: MakeWorkflow) -> None:
    names = load(make_workflow, MODEL.replace('type = "model"', "")).contract
    urls = load(make_workflow).contract
    assert names.hash != urls.hash
    assert [change.code for change in compare(names, urls)] == ["wider"]
    assert any(change.breaking for change in compare(urls, names))


def test_a_model_without_a_place_has_the_folder_of_the_map(make_workflow: MakeWorkflow) -> None:
    text = MODEL.replace('path = "4.inputs.ckpt_name"', 'folder = "loras"\nrequired = true')
    prepare = "def prepare(graph, inputs):\n    return graph\n"
    workflow = load(make_workflow, text, prepare__py=prepare)
    assert workflow.parameters["checkpoint"].folder == "loras"
    assert check_workflow(workflow).issues == ()


def test_generated_models_take_names_urls_and_hashes(
    make_workflow: MakeWorkflow, run_module: Callable[[str], Any]
) -> None:
    workflow = load(make_workflow)
    source = generate({"small": workflow})["small.py"]
    assert "checkpoint: ModelInput = " in source
    module = run_module(source)
    assert module.SmallInput().checkpoint == "base.safetensors"
    hashed = ModelUrl(url=URL, sha256=SHA256)
    given: dict[Any, Any] = {
        "other.safetensors": "other.safetensors",
        URL: ModelUrl(url=URL),
        hashed: hashed,
    }
    for value, expected in given.items():
        inputs = module.SmallInput(checkpoint=value)
        assert wire_inputs(inputs) == {"checkpoint": expected}
    as_json = {"url": URL, "sha256": SHA256}
    assert module.SmallInput(checkpoint=as_json).checkpoint == hashed
    for wrong in (5, {"url": "ftp://x"}, "http:" + "//x" * 4000):
        with pytest.raises(ValidationError):
            module.SmallInput(checkpoint=wrong)
