"""Checks a workflow as it would run with its defaults."""

from dataclasses import dataclass

from pydantic import JsonValue

from comfysnap_schema.comfy import CATALOGUE_FILE
from comfysnap_schema.wire import InputError
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_schema.workflow.parameters import Parameter
from comfysnap_schema.workflow.prepare import PREPARE_FILE


@dataclass(frozen=True)
class CheckResult:
    """The result of checking one workflow."""

    issues: tuple[str, ...]
    """What would be rejected; empty when the workflow would run."""
    notes: tuple[str, ...]
    """What could not be checked."""


def check_workflow(workflow: Workflow) -> CheckResult:
    """Build the graph from its defaults and validate it; where it has lists, also with as few
    values as they may have, and with a LoRA.

    Raises:
        WorkflowError: ``prepare.py`` failed.
    """
    inputs = workflow.complete(examples(workflow))
    try:
        graph = workflow.build(inputs)
    except InputError as error:
        by = PREPARE_FILE if workflow.prepare else "the graph"
        return CheckResult((f"{by} rejected the defaults: {error}",), ())
    if workflow.catalogue is None:
        note = f"no {CATALOGUE_FILE}, so ranges, choices and links were not checked"
        return CheckResult((), (note,))
    unknown = sorted({n["class_type"] for n in graph.values()} - set(workflow.catalogue))
    notes = [f"{name} is not in {CATALOGUE_FILE}, so it was not checked" for name in unknown]
    issues = list(map(str, workflow.validate(graph)))
    if any(parameter.is_list for parameter in workflow.parameters.values()):
        try:
            other = workflow.build({**inputs, **_other_lists(workflow)})
            issues += map(str, workflow.validate(other))
        except InputError as error:
            notes.append(f"with as few values as the lists may have: {error}")
    return CheckResult(tuple(dict.fromkeys(issues)), tuple(notes))


def examples(workflow: Workflow) -> dict[str, JsonValue]:
    """A value for each required parameter: the one in the graph, else the simplest valid one."""
    found: dict[str, JsonValue] = {}
    for name, parameter in workflow.parameters.items():
        if not parameter.required:
            continue
        if parameter.is_list:
            found[name] = _values(workflow, parameter, max(parameter.min_items, 1))
            continue
        places = [workflow.graph[p.node]["inputs"].get(p.name) for p in parameter.paths]
        present = next((value for value in places if value is not None), None)
        found[name] = _simplest(parameter) if present is None else present
    return found


def _other_lists(workflow: Workflow) -> dict[str, JsonValue]:
    return {
        name: _values(workflow, entry, max(entry.min_items, entry.type == "loras"))
        for name, entry in workflow.parameters.items()
        if entry.is_list
    }


def _values(workflow: Workflow, parameter: Parameter, count: int) -> list[JsonValue]:
    """The first values of a list."""
    if parameter.type == "loras":
        names = [*(parameter.choices or ()), *("example.safetensors" for _ in range(count))]
        return [{"name": name} for name in names[:count]]
    places = [workflow.graph[p.node]["inputs"].get(p.name) for p in parameter.paths[:count]]
    return [_simplest(parameter) if value is None else value for value in places]


def _simplest(parameter: Parameter) -> JsonValue:
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
        "model": "example.safetensors",
    }
    return plain.get(parameter.type)
