"""Judges a workflow as it would run with its defaults."""

from dataclasses import dataclass

from pydantic import JsonValue

from comfysnap_schema.comfy import CATALOGUE_FILE
from comfysnap_schema.wire import InputError
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_schema.workflow.parameters import Parameter
from comfysnap_schema.workflow.prepare import PREPARE_FILE


@dataclass(frozen=True)
class Check:
    """The outcome for one workflow."""

    findings: tuple[str, ...]
    """What would be refused; empty when it would run."""
    notes: tuple[str, ...]
    """What could not be judged."""


def check_workflow(workflow: Workflow) -> Check:
    """Build the graph from defaults and validate it.

    Raises:
        WorkflowError: ``prepare.py`` failed.
    """
    inputs = workflow.complete(examples(workflow))
    try:
        graph = workflow.build(inputs)
    except InputError as error:
        return Check((f"{PREPARE_FILE} refused the defaults: {error}",), ())
    if workflow.catalogue is None:
        note = f"no {CATALOGUE_FILE}, so ranges, choices and links were not judged"
        return Check((), (note,))
    unknown = sorted({n["class_type"] for n in graph.values()} - set(workflow.catalogue))
    notes = tuple(f"{name} is not in {CATALOGUE_FILE}, so it was not judged" for name in unknown)
    return Check(tuple(map(str, workflow.validate(graph))), notes)


def examples(workflow: Workflow) -> dict[str, JsonValue]:
    """A value for each required parameter: what the graph holds, else the plainest one."""
    found: dict[str, JsonValue] = {}
    for name, parameter in workflow.parameters.items():
        if not parameter.required:
            continue
        places = [workflow.graph[p.node]["inputs"].get(p.name) for p in parameter.paths]
        present = next((value for value in places if value is not None), None)
        found[name] = _plainest(parameter) if present is None else present
    return found


def _plainest(parameter: Parameter) -> JsonValue:
    if parameter.choices:
        return parameter.choices[0]
    number = 0 if parameter.minimum is None else max(0, parameter.minimum)
    number = number if parameter.maximum is None else min(number, parameter.maximum)
    plain: dict[str, JsonValue] = {
        "string": "x",
        "integer": int(number),
        "number": float(number),
        "boolean": True,
        "file": "example.png",
    }
    return plain.get(parameter.type)
