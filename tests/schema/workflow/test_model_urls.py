"""Parameters that take a model: a file name that ComfyUI knows, or a URL."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
from pydantic import ValidationError

from comfysnap_schema.base import wire_inputs
from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.wire import Lora, ModelUrl, WorkflowError
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


LORAS = """
name = "small"
[inputs.loras]
type = "loras"
after = "4"
{extra}
[outputs.images]
node = "3"
"""
NODES = json.dumps(
    {
        "CheckpointLoaderSimple": {
            "input": {"required": {"ckpt_name": [["base.safetensors"]]}},
            "output": ["MODEL", "CLIP", "VAE"],
            "python_module": "nodes",
        }
    }
)
LISTED = 'choices = ["ink.safetensors"]'


def with_loras(make_workflow: MakeWorkflow, extra: str = "", folder: str = "small") -> Workflow:
    text = LORAS.format(extra=extra)
    return Workflow.load(make_workflow(text, LOADERS, folder=folder, nodes__json=NODES))


@pytest.mark.parametrize(
    ("lora", "fits", "fits_listed"),
    [
        ({"name": "ink.safetensors"}, True, True),
        ({"url": URL}, True, False),
        ({"url": URL, "sha256": SHA256, "strength": 0.5}, True, False),
        ({"name": "ink.safetensors", "url": URL}, False, False),
        ({}, False, False),
    ],
)
def test_a_lora_has_a_name_or_a_url_unless_the_map_lists_names(
    make_workflow: MakeWorkflow, lora: Any, fits: bool, fits_listed: bool
) -> None:
    free = with_loras(make_workflow).contract.input_schema
    listed = with_loras(make_workflow, LISTED).contract.input_schema
    assert jsonschema_rs.is_valid(free, {"loras": [lora]}) is fits
    assert jsonschema_rs.is_valid(listed, {"loras": [lora]}) is fits_listed


def test_listing_the_names_of_loras_is_a_breaking_change(make_workflow: MakeWorkflow) -> None:
    free = with_loras(make_workflow).contract
    listed = with_loras(make_workflow, LISTED, folder="listed").contract
    assert any(change.breaking for change in compare(free, listed))
    fields = {change.field for change in compare(listed, free)}
    assert {"inputs.loras[].url", "inputs.loras[].name"} <= fields


def test_generated_models_take_loras_by_url_unless_the_map_lists_names(
    make_workflow: MakeWorkflow, run_module: Callable[[str], Any]
) -> None:
    free = run_module(generate({"small": with_loras(make_workflow)})["small.py"])
    listed = run_module(generate({"small": with_loras(make_workflow, LISTED)})["small.py"])
    lora = Lora(url=URL, sha256=SHA256)
    assert free.SmallInput(loras=[lora]).loras == [lora]
    with pytest.raises(ValidationError, match="a URL is not allowed"):
        listed.SmallInput(loras=[lora])
    assert listed.SmallInput(loras=[Lora(name="ink.safetensors")]).loras


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either name or url"),
        ({"name": "a", "url": URL}, "either name or url"),
        ({"name": "a", "sha256": SHA256}, "only allowed with url"),
    ],
)
def test_a_lora_that_names_no_file_or_two_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Lora(**given)


def test_a_list_of_models_is_a_list_of_names_and_urls(
    make_workflow: MakeWorkflow, run_module: Callable[[str], Any]
) -> None:
    text = MODEL.replace('path = "4.inputs.ckpt_name"', 'each = ["5.inputs.unet_name"]')
    workflow = load(make_workflow, text)
    assert workflow.parameters["checkpoint"].folder == "diffusion_models"
    module = run_module(generate({"small": workflow})["small.py"])
    assert module.SmallInput(checkpoint=[URL]).checkpoint == [ModelUrl(url=URL)]
