"""The generated models and the contract's JSON Schema accept the same wire inputs."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from comfysnap_schema import workflows
from comfysnap_schema.base import WorkflowInput
from comfysnap_schema.codegen import generate
from comfysnap_schema.workflow import Workflow, load_workflows

MakeWorkflow = Callable[..., Path]
Model = type[WorkflowInput[Any]]

EVERYTHING = """
name = "everything"

[inputs.text]
type = "string"
max_length = 5

[inputs.plain]
default = "x"

[inputs.maybe_text]
type = "string"
required = false

[inputs.count]
default = 2
minimum = 1
maximum = 4

[inputs.size]
type = "integer"
minimum = 16
maximum = 64
multiple_of = 16

[inputs.unbounded]
default = 0

[inputs.strength]
default = 0.5
minimum = 0.0
maximum = 1.0

[inputs.maybe_strength]
type = "number"
required = false
maximum = 2

[inputs.seed]
random = true

[inputs.signed]
type = "integer"
minimum = -9223372036854775808
maximum = 9223372036854775807

[inputs.flag]
default = true

[inputs.maybe_flag]
type = "boolean"
required = false

[inputs.mode]
choices = ["a", "b", "1"]
default = "a"

[inputs.maybe_mode]
choices = ["a", "b"]
required = false

[inputs.level]
choices = [1, 2, 3]
default = 1

[inputs.scale]
choices = [0.5, 1.0, 2]
default = 0.5

[inputs.maybe_scale]
choices = [0.5, 1.5]
required = false

[inputs.mixed]
choices = ["auto", 1]
default = "auto"

[inputs.image]
kind = "image"

[inputs.mask]
kind = "mask"
required = false

[inputs.data]
type = "json"

[inputs.maybe_data]
type = "json"
required = false

[inputs.json]
default = "x"

[inputs.class]
default = 1

[inputs.int]
default = 1

[inputs.str]
default = "x"

[inputs.model_config]
default = "x"

[inputs.copy]
default = "x"

[inputs.list]
type = "integer"
required = false

[outputs.json]
node = "3"

[outputs.images]
node = "3"
kind = "video"
many = true
"""

NUMBERS = st.sampled_from(
    [0, -0.0, 1, 1.0, 2, 2.5, 3, 5.0, 16, 16.0, 17, 32, 64, 65, -1, 0.5, 1.5, 1e20, 1e300, 2**53,
     2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**25]
)  # fmt: skip
STRINGS = st.sampled_from(
    ["", "a", "b", "1", "1.0", "auto", "toolong", "äöü€😀", "12345678901234567890", "0", "-0", "00",
     "-1", "+1", " 1", "1 ", "1\n", "1_0", "٣", "18446744073709551615", "18446744073709551616",
     "-9223372036854775808", "-9223372036854775809", "true", "null", "9" * 50]
)  # fmt: skip
SHA = "0123456789abcdef" * 4
FILES = st.sampled_from(
    [{"sha256": SHA}, {"sha256": SHA.upper()}, {"sha256": SHA + "0"}, {"sha256": 1}, {},
     {"url": "https://example.org/a.png"}, {"url": "ftp://example.org"},
     {"url": "https://" + "a" * 5000},
     {"url": "https://example.org", "sha256": SHA}, {"data": "aGk="}, {"data": 5},
     {"data": "aGk=", "content_type": "image/png"}, {"data": "", "content_type": None},
     {"data": "", "content_type": "x" * 300}, {"path": "/etc/passwd"}]
)  # fmt: skip
VALUES = (
    st.none()
    | st.booleans()
    | NUMBERS
    | STRINGS
    | FILES
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.lists(st.integers(), max_size=2)
)


def model_of(source: str, class_name: str) -> Model:
    """A model as a module of its own would define it."""
    spec = importlib.util.spec_from_loader("generated_for_test", None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    exec(compile(source, "generated.py", "exec"), module.__dict__)  # noqa: S102 -- what we generated
    return cast("Model", getattr(module, class_name))


@pytest.fixture
def everything(make_workflow: MakeWorkflow) -> Workflow:
    prepare = "def prepare(graph, inputs):\n    return graph\n"
    return Workflow.load(make_workflow(EVERYTHING, folder="everything", prepare__py=prepare))


@pytest.fixture
def everything_model(everything: Workflow) -> Model:
    return model_of(generate({"everything": everything})["everything.py"], "EverythingInput")


def accepts(model: Model, inputs: object) -> bool:
    try:
        model.model_validate(inputs)
    except ValidationError:
        return False
    return True


def agree(schema: dict[str, Any], model: Model, inputs: dict[str, Any]) -> None:
    wire: dict[str, Any] = json.loads(json.dumps(inputs))
    files = {name for name, rule in schema["properties"].items() if "x-kind" in rule}
    if any(isinstance(wire.get(name), str) for name in files):
        return  # a URL as a plain string is the client's shorthand, not a wire form
    by_schema = jsonschema_rs.validator_for(schema).is_valid(wire)
    assert accepts(model, wire) is by_schema, wire


def valid_of(workflow: Workflow) -> dict[str, Any]:
    """Something valid for each required parameter."""
    plain: dict[str, Any] = {"string": "a", "integer": 16, "file": {"sha256": SHA}, "json": {}}
    return {p.name: plain[p.type] for p in workflow.parameters.values() if p.required}


@settings(
    max_examples=700, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_field_of_any_value_is_judged_alike(
    everything: Workflow, everything_model: Model, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([*everything.parameters, "unknown"]))
    agree(
        everything.contract.input_schema,
        everything_model,
        {**valid_of(everything), name: data.draw(VALUES)},
    )


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_set_of_fields_is_judged_alike(
    everything: Workflow, everything_model: Model, data: st.DataObject
) -> None:
    names = data.draw(st.sets(st.sampled_from([*everything.parameters])))
    base = valid_of(everything)
    agree(
        everything.contract.input_schema,
        everything_model,
        {name: base.get(name, everything.parameters[name].default) for name in sorted(names)},
    )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    inputs=st.dictionaries(
        st.sampled_from(
            ["prompt", "seed", "width", "steps", "guidance", "color", "method", "image", "strength"]
        ),
        VALUES,
    )
)
@example(inputs={"prompt": "a fox", "seed": str(2**64 - 1), "width": 512.0})
def test_the_committed_models_agree_with_their_contracts(
    root: Path, inputs: dict[str, Any]
) -> None:
    for name, workflow in load_workflows(root / "workflows").items():
        model: Model = getattr(workflows, f"{name.capitalize()}Input")
        agree(workflow.contract.input_schema, model, inputs)


def test_every_choice_and_bound_itself_is_accepted(
    everything: Workflow, everything_model: Model
) -> None:
    for name, rule in everything.parameters.items():
        for value in (rule.minimum, rule.maximum, rule.default, *(rule.choices or ())):
            if value is not None:
                inputs = {**valid_of(everything), name: value}
                assert accepts(everything_model, inputs), (name, value)


def test_what_a_model_accepts_completes_to_plain_integers(everything: Workflow) -> None:
    inputs = {**valid_of(everything), "seed": "18446744073709551615", "count": 3.0, "seed_": None}
    complete = everything.complete(inputs)
    assert complete["seed"] == 2**64 - 1
    assert complete["count"] == 3
    assert isinstance(complete["count"], int)
