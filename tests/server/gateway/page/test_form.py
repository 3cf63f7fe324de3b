"""What the forms send is what the contracts allow."""

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from comfysnap_schema.comfy import Catalogue
from comfysnap_schema.propose.folder import write_workflow
from comfysnap_schema.propose.proposal import propose
from comfysnap_schema.workflow import JsonSchema, Workflow
from comfysnap_server.gateway.inputs import InputValidator
from tests.paths import ROOT
from tests.schema.propose.proposals import read_templates, templates_folder
from tests.server.gateway.page.conftest import RunModule


def as_parsed(value: Any) -> Any:
    """JSON as the page reads it: whole numbers that JavaScript cannot hold are digits."""
    if isinstance(value, dict):
        return {key: as_parsed(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [as_parsed(item) for item in cast("list[Any]", value)]
    is_large = isinstance(value, int) and abs(value) >= 2**53
    return str(value) if is_large else value


def check(cases: list[dict[str, Any]], schemas: dict[str, JsonSchema]) -> Counter[str]:
    """Hold what forms send to the contracts; return how many cases of each kind there are."""
    validators = {name: InputValidator(schema) for name, schema in schemas.items()}
    counts: Counter[str] = Counter()
    for case in cases:
        assert case["how"] != "restored", case
        required = set(schemas[case["workflow"]]["required"])
        refused = {problem["field"] for problem in case["problems"]}
        if case["how"] == "untouched":
            assert refused <= required, case
        elif case["how"] == "changed":
            assert not refused, case
        else:
            assert refused == refused & {case["field"]} & required, case
        problems = validators[case["workflow"]].problems(case["inputs"])
        left = {problem.field for problem in problems}
        assert left <= refused, (case, problems)
        counts[case["how"]] += 1
    return counts


def test_every_field_left_alone_changed_or_cleared_sends_valid_inputs(
    run_module: RunModule, workflows: dict[str, Workflow]
) -> None:
    schemas = {name: one.contract.input_schema for name, one in workflows.items()}
    counts = check(run_module("form_cases.js", as_parsed(schemas)), schemas)
    fields = sum(len(schema["properties"]) for schema in schemas.values())
    assert counts["left alone"] == counts["cleared"] == fields
    assert counts["changed"] > 2 * fields


def template_schemas() -> dict[str, JsonSchema]:
    """The contracts that ``comfysnap new`` makes of ComfyUI's official templates."""
    folder = templates_folder()
    shared = Path(os.environ.get("COMFYSNAP_SHARED", ROOT.parent / "shared"))
    objects = shared / "object_info-0.33.json"
    if folder is None or not objects.is_file():
        pytest.skip("needs the official templates and the node catalogue of their ComfyUI")
    catalogue = Catalogue.read(objects)
    schemas: dict[str, JsonSchema] = {}
    for name, template in read_templates(folder, catalogue)[0].items():
        proposal = propose(template.graph, catalogue, name="x", drawing=template.drawing)
        with tempfile.TemporaryDirectory() as place:
            written = write_workflow(Path(place) / "x", template.graph, proposal, catalogue)
        schemas[name] = written.workflow.contract.input_schema
    return schemas


@pytest.mark.shared
@pytest.mark.timeout(600)
def test_forms_of_all_official_templates_send_valid_inputs(run_module: RunModule) -> None:
    schemas = template_schemas()
    counts = check(run_module("form_cases.js", as_parsed(schemas)), schemas)
    assert counts["left alone"] == sum(len(schema["properties"]) for schema in schemas.values())
    assert len(schemas) > 400
