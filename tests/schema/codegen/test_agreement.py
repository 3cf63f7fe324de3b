"""The generated models and the contract's JSON Schema accept the same wire inputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from comfysnap_schema import workflows
from comfysnap_schema.base import WorkflowInput
from comfysnap_schema.codegen.emit import generate
from comfysnap_schema.workflow.apply import Workflow, load_workflows
from tests.schema.conftest import MakeWorkflow

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


def accepts(model: Model, inputs: object) -> bool:
    try:
        model.model_validate(inputs)
    except ValidationError:
        return False
    return True


class Judges:
    """Both validators of one workflow."""

    def __init__(self, workflow: Workflow, model: Model) -> None:
        self.workflow = workflow
        self.model = model
        self.schema = jsonschema_rs.validator_for(workflow.contract.input_schema)
        self.files = {p.name for p in workflow.parameters.values() if p.type == "file"}

    def agree(self, inputs: dict[str, Any]) -> None:
        wire: dict[str, Any] = json.loads(json.dumps(inputs))
        if any(isinstance(wire.get(name), str) for name in self.files):
            return  # a URL as a plain string is the client's shorthand, not a wire form
        assert accepts(self.model, wire) is self.schema.is_valid(wire), wire


@pytest.fixture
def everything(make_workflow: MakeWorkflow) -> Workflow:
    prepare = "def prepare(graph, inputs):\n    return graph\n"
    return Workflow.load(make_workflow(EVERYTHING, folder="everything", prepare__py=prepare))


@pytest.fixture
def judges(everything: Workflow, run_module: Callable[[str], Any]) -> Judges:
    source = generate({"everything": everything})["everything.py"]
    return Judges(everything, run_module(source).EverythingInput)


def valid_of(workflow: Workflow) -> dict[str, Any]:
    """Something valid for each required parameter."""
    plain: dict[str, Any] = {"string": "a", "integer": 16, "file": {"sha256": SHA}, "json": {}}
    return {p.name: plain[p.type] for p in workflow.parameters.values() if p.required}


MANY = settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MANY
@given(data=st.data())
def test_both_agree_on_one_field_of_any_value(judges: Judges, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*judges.workflow.parameters, "unknown"]))
    judges.agree({**valid_of(judges.workflow), name: data.draw(VALUES)})


@MANY
@given(data=st.data())
def test_both_agree_on_any_set_of_fields(judges: Judges, data: st.DataObject) -> None:
    parameters = judges.workflow.parameters
    names = data.draw(st.sets(st.sampled_from([*parameters])))
    valid = valid_of(judges.workflow)
    judges.agree({name: valid.get(name, parameters[name].default) for name in sorted(names)})


@pytest.fixture
def committed(root: Path) -> list[Judges]:
    return [
        Judges(workflow, getattr(workflows, f"{name.capitalize()}Input"))
        for name, workflow in load_workflows(root / "workflows").items()
    ]


@MANY
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
    committed: list[Judges], inputs: dict[str, Any]
) -> None:
    for judges in committed:
        judges.agree(inputs)


def test_every_choice_and_bound_itself_is_accepted(judges: Judges) -> None:
    for name, rule in judges.workflow.parameters.items():
        for value in (rule.minimum, rule.maximum, rule.default, *(rule.choices or ())):
            if value is not None:
                inputs = {**valid_of(judges.workflow), name: value}
                assert accepts(judges.model, inputs), (name, value)


def test_what_a_model_accepts_completes_to_plain_integers(everything: Workflow) -> None:
    inputs = {**valid_of(everything), "seed": "18446744073709551615", "count": 3.0, "seed_": None}
    complete = everything.complete(inputs)
    assert complete["seed"] == 2**64 - 1
    assert complete["count"] == 3
    assert isinstance(complete["count"], int)
