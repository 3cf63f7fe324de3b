"""A workflow: a graph with its input map, ready to take inputs."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from comfysnap_schema.base import from_digits
from comfysnap_schema.comfy import (
    CATALOGUE_FILE,
    Catalogue,
    Graph,
    InputPath,
    Issue,
    is_link,
    read_editor_workflow,
    read_graph,
    validate_graph,
)
from comfysnap_schema.wire import FieldProblem, InputError, WorkflowError
from comfysnap_schema.workflow.bypass import Bypass, apply_bypasses, plan_bypass
from comfysnap_schema.workflow.contract import Contract, contract_of, travels_as_digits
from comfysnap_schema.workflow.history import CONTRACTS_FILE, History, read_history
from comfysnap_schema.workflow.loras import (
    LoraChain,
    apply_loras,
    plan_loras,
    with_lora_classes,
)
from comfysnap_schema.workflow.map import OutputSpec, Place, WorkflowSpec, read_spec
from comfysnap_schema.workflow.parameters import RANDOM_BELOW, Parameter
from comfysnap_schema.workflow.prepare import PREPARE_FILE, Prepare, load_prepare, run_prepare
from comfysnap_schema.workflow.removal import CannotRemoveError, remove_places
from comfysnap_schema.workflow.resolve import Resolver

GRAPH_FILE = "graph.json"
SPEC_FILE = "workflow.toml"
DRAWING_FILE = "drawing.json"
"""The workflow as ComfyUI's editor draws it, which some nodes of node packs read."""

_PACKS = "custom_nodes"
_SAVES = re.compile(r"save|preview|show|display|combine|output|export", re.IGNORECASE)


@dataclass(frozen=True)
class Workflow:
    """A graph with an input map."""

    folder: Path
    spec: WorkflowSpec
    graph: Graph
    """As exported, with the map's constants set; never changed."""
    parameters: Mapping[str, Parameter]
    catalogue: Catalogue | None = None
    """The slim node catalogue beside the graph, when there is one."""
    prepare: Prepare | None = field(default=None, compare=False)
    """The function in ``prepare.py``, if there is one."""
    bypasses: Mapping[str, tuple[Bypass, ...]] = field(
        default_factory=dict[str, tuple[Bypass, ...]]
    )
    """Parameter name to the nodes that ``false`` bypasses."""
    loras: Mapping[str, LoraChain] = field(default_factory=dict[str, LoraChain])
    """Parameter name to where its LoRAs go."""
    earlier: History | None = None
    """The content of ``contracts.json``, if there is one."""
    editor_workflow: Mapping[str, JsonValue] | None = field(default=None, compare=False)
    """The content of ``drawing.json``, if there is one."""

    @property
    def name(self) -> str:
        """Name in the routes."""
        return self.spec.name

    @property
    def outputs(self) -> Mapping[str, OutputSpec]:
        """Output name to the node that makes it."""
        return self.spec.outputs

    @cached_property
    def drawing(self) -> dict[str, JsonValue] | None:
        """``editor_workflow`` for the nodes that run; None where all are ComfyUI's own, which at
        most save it in their files."""
        if self.editor_workflow is None:
            return None
        modules: list[str] = []
        for class_type in {node["class_type"] for node in self.graph.values()}:
            known = self.catalogue.get(class_type) if self.catalogue else None
            modules.append(known.module if known else "")
        if all(module and not module.startswith(_PACKS) for module in modules):
            return None
        return dict(self.editor_workflow)

    @cached_property
    def contract(self) -> Contract:
        """Schemas and hash."""
        return contract_of(self.name, self.parameters, self.outputs)

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """``NODE.inputs.NAME`` to the API field that sets it."""
        found: dict[str, str] = {}
        for name, entry in self.parameters.items():
            for index, path in enumerate(entry.paths):
                found[str(path)] = f"{name}[{index}]" if entry.each else name
            if name in self.loras:
                found |= self.loras[name].fields(entry.max_items)
        return found

    @property
    def compatible(self) -> frozenset[str]:
        """Contract hashes that callers may send: the current one and compatible earlier ones."""
        return self.history.accepted

    @cached_property
    def history(self) -> History:
        """``contracts.json``, updated to the current contract."""
        if self.earlier is None:
            return History(self.contract)
        return self.earlier.advance(self.contract)

    @classmethod
    def load(cls, folder: Path) -> "Workflow":
        """Read a workflow folder: ``graph.json``, ``workflow.toml`` and, when they are there,
        ``nodes.json``, ``contracts.json``, ``drawing.json`` and ``prepare.py`` (which is imported).

        Raises:
            GraphError: ``graph.json`` is not a valid graph, or ``drawing.json`` not valid JSON.
            CatalogueError: ``nodes.json`` is not a valid catalogue.
            WorkflowError: The map is wrong, by itself or for the graph; ``file``, ``field`` and
                ``code`` say where and why.
        """
        spec = read_spec(folder / SPEC_FILE)
        exported = read_graph(folder / GRAPH_FILE)
        nodes = folder / CATALOGUE_FILE
        catalogue = Catalogue.load(nodes) if nodes.is_file() else None
        prepare = load_prepare(folder)
        file = str(folder / SPEC_FILE)
        resolver = Resolver(exported, catalogue, file)
        graph = _with_constants(resolver, spec)
        if catalogue is not None and any(e.type == "loras" for e in spec.inputs.values()):
            catalogue = with_lora_classes(catalogue)
        outputs = frozenset(output.node for output in spec.outputs.values())
        resolver = Resolver(graph, catalogue, file, outputs)
        parameters = {name: resolver.parameter(name, e) for name, e in spec.inputs.items()}
        _check_places(parameters, spec, prepare, file)
        _check_outputs(graph, spec, catalogue, file)
        bypasses = {
            name: tuple(
                plan_bypass(graph, catalogue, node, Place(file, f"inputs.{name}"))
                for node in parameter.bypass
            )
            for name, parameter in parameters.items()
            if parameter.bypass
        }
        _check_bypassed_outputs(bypasses, spec, file)
        loras = {
            name: plan_loras(graph, catalogue, entry, Place(file, f"inputs.{name}"))
            for name, entry in spec.inputs.items()
            if entry.type == "loras"
        }
        _check_bypassed_loaders(bypasses, loras, file)
        earlier = read_history(folder / CONTRACTS_FILE)
        drawn = folder / DRAWING_FILE
        drawing = read_editor_workflow(drawn) if drawn.is_file() else None
        return cls(
            folder, spec, graph, parameters, catalogue, prepare, bypasses, loras, earlier, drawing
        )

    def complete(self, inputs: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Complete valid wire inputs: fill in defaults, draw random seeds, convert digit strings.

        Optional inputs that are left out (or null) and have no default stay out: the graph keeps
        its own value.
        """
        result: dict[str, JsonValue] = {}
        for name, parameter in self.parameters.items():
            value = inputs.get(name)
            is_json = parameter.type == "json" and not parameter.each
            is_json_null = is_json and name in inputs and not parameter.nullable
            if value is not None or is_json_null:
                result[name] = _as_integer(parameter, value)
            elif parameter.random:
                result[name] = _random_value(parameter)
            elif parameter.default is not None:
                result[name] = parameter.default
        return result

    def apply(self, inputs: Mapping[str, JsonValue]) -> Graph:
        """A copy of the graph with ``inputs`` set, nodes that are bypassed or whose place has no
        value removed, and LoRAs added.

        Unchanged nodes are shared with ``graph``; ``prepare.py`` is not called.

        Args:
            inputs: From ``complete``, with files as names in ComfyUI's input folder.

        Raises:
            KeyError: Unknown parameter name.
            InputError: Lists leave places unused that cannot be removed together.
        """
        graph: Graph = dict(self.graph)
        touched: set[str] = set()
        for name, values in inputs.items():
            for path, value in self.parameters[name].placed(values):
                if path.node not in touched:
                    node = graph[path.node]
                    graph[path.node] = {**node, "inputs": dict(node["inputs"])}
                    touched.add(path.node)
                graph[path.node]["inputs"][path.name] = value
        if self.bypasses:
            off = (plans for name, plans in self.bypasses.items() if inputs.get(name) is False)
            apply_bypasses(graph, touched, [plan for plans in off for plan in plans])
        self._remove_unused(graph, touched, inputs)
        for name, chain in self.loras.items():
            loras = cast("list[dict[str, Any]]", inputs.get(name) or [])
            apply_loras(graph, touched, chain, loras)
        return graph

    def _remove_unused(
        self, graph: Graph, touched: set[str], inputs: Mapping[str, JsonValue]
    ) -> None:
        unused: dict[str, tuple[InputPath, ...]] = {}
        for name, value in inputs.items():
            parameter = self.parameters[name]
            if parameter.each and len(cast("list[JsonValue]", value)) < len(parameter.paths):
                unused[name] = parameter.paths[len(cast("list[JsonValue]", value)) :]
        if not unused:
            return
        places = [path for name in unused for path in self.parameters[name].paths]
        gone = [path for paths in unused.values() for path in paths]
        outputs = frozenset(output.node for output in self.outputs.values())
        try:
            remove_places(graph, touched, self.catalogue, places, gone, outputs)
        except CannotRemoveError as error:
            message = f"needs more values with these inputs: {error}"
            raise InputError((FieldProblem(field=next(iter(unused)), message=message),)) from error

    def build(self, inputs: Mapping[str, JsonValue]) -> Graph:
        """The graph to run: ``apply``, then ``prepare.py`` when there is one.

        Args:
            inputs: From ``complete``, with files as names in ComfyUI's input folder.

        Raises:
            InputError: ``prepare.py`` rejected the inputs.
            WorkflowError: ``prepare_failed`` or ``prepare_result``.
        """
        graph = self.apply(inputs)
        if self.prepare is None:
            return graph
        return run_prepare(self.prepare, graph, inputs, str(self.folder / PREPARE_FILE))

    def validate(self, graph: Graph) -> list[Issue]:
        """What ComfyUI would reject in ``graph`` (from ``build``), by API field and node; empty
        when it is valid, and when there is no node catalogue.

        Classes that the slim catalogue lacks are not checked: it has those of the exported graph.
        """
        if self.catalogue is None:
            return []
        needed = [output.node for output in self.outputs.values()]
        issues = validate_graph(graph, self.catalogue, self.fields, outputs=needed)
        if not issues:
            return []
        complete = all(node["class_type"] in self.catalogue for node in graph.values())
        return [
            issue
            for issue in issues
            if issue.code != "missing_node_type" and (complete or issue.code != "prompt_no_outputs")
        ]


def add_workflow(found: dict[str, Workflow], workflow: Workflow) -> None:
    """Add a workflow to those already loaded.

    Raises:
        WorkflowError: ``duplicate_name``.
    """
    if workflow.name in found:
        message = f"duplicate workflow name {workflow.name!r}: also used in"
        message += f" {found[workflow.name].folder}"
        file = str(workflow.folder / SPEC_FILE)
        raise WorkflowError("duplicate_name", message, file=file, field="name")
    found[workflow.name] = workflow


def find_workflows(folder: Path) -> list[Path]:
    """The workflow folders in ``folder``, in the order of their names.

    Raises:
        WorkflowError: ``no_workflows``.
    """
    found = sorted(spec.parent for spec in folder.glob(f"*/{SPEC_FILE}"))
    if not found:
        message = "no workflows yet; run `comfysnap new NAME EXPORT.json`"
        raise WorkflowError("no_workflows", message, file=str(folder))
    return found


def load_workflows(folder: Path) -> dict[str, Workflow]:
    """Load every workflow in ``folder``, by name.

    Raises:
        WorkflowError: ``no_workflows``, ``duplicate_name`` and those of ``Workflow.load``.
    """
    found: dict[str, Workflow] = {}
    for path in find_workflows(folder):
        add_workflow(found, Workflow.load(path))
    return found


def _with_constants(resolver: Resolver, spec: WorkflowSpec) -> Graph:
    graph: Graph = dict(resolver.graph)
    for text, value in spec.constants.items():
        path = resolver.path(text, f"constants.{text}")
        node = graph[path.node]
        graph[path.node] = {**node, "inputs": {**node["inputs"], path.name: value}}
    return graph


def _check_places(
    parameters: Mapping[str, Parameter], spec: WorkflowSpec, prepare: Prepare | None, file: str
) -> None:
    """Check that every parameter has a place, and that no place has two parameters."""
    taken = {InputPath.parse(text): f"constants.{text}" for text in spec.constants}
    for name, parameter in parameters.items():
        place = Place(file, f"inputs.{name}")
        free = parameter.paths or parameter.bypass or parameter.type == "loras"
        if not free and prepare is None:
            message = f"missing path: set where the value goes, or add a {PREPARE_FILE}"
            place.fail("no_path", message, "path")
        for path in parameter.paths:
            if path in taken:
                key = "each" if parameter.each else "path"
                place.fail("duplicate_path", f"{path} is already set by {taken[path]}", key)
            taken[path] = f"inputs.{name}"


def _check_outputs(
    graph: Graph, spec: WorkflowSpec, catalogue: Catalogue | None, file: str
) -> None:
    taken: dict[tuple[str, str], str] = {}
    for name, output in spec.outputs.items():
        place = Place(file, f"outputs.{name}")
        if output.node not in graph:
            place.fail("no_such_node", f"the graph has no node {output.node!r}", "node")
        if not _is_output(graph, output.node, catalogue):
            known = [node for node in graph if _is_output(graph, node, catalogue)]
            message = (
                f"node {output.node} ({graph[output.node]['class_type']}) is not an output node;"
                f" available: {', '.join(known) or 'none'}"
            )
            place.fail("not_an_output", message, "node")
        other = taken.setdefault((output.node, output.kind), name)
        if other != name:
            message = f"duplicate of outputs.{other}: the {output.kind} of node {output.node}"
            place.fail("duplicate_output", message, "node")


def _is_output(graph: Graph, node: str, catalogue: Catalogue | None) -> bool:
    """Whether a node can be an output. Without a catalogue, only a node that others read from is
    ruled out, unless its class name suggests that it saves or shows something."""
    class_type = graph[node]["class_type"]
    definition = catalogue.get(class_type) if catalogue else None
    if definition is not None:
        return definition.output_node
    if _SAVES.search(class_type):
        return True
    values = (value for entry in graph.values() for value in entry["inputs"].values())
    return not any(isinstance(v, list) and is_link(v) and v[0] == node for v in values)


def _check_bypassed_outputs(
    bypasses: Mapping[str, tuple[Bypass, ...]], spec: WorkflowSpec, file: str
) -> None:
    outputs = {output.node: name for name, output in spec.outputs.items()}
    for name, plans in bypasses.items():
        for plan in plans:
            if plan.node in outputs:
                message = f"node {plan.node} is needed for outputs.{outputs[plan.node]}"
                Place(file, f"inputs.{name}").fail("cannot_bypass", message, "bypass")


def _check_bypassed_loaders(
    bypasses: Mapping[str, tuple[Bypass, ...]], loras: Mapping[str, LoraChain], file: str
) -> None:
    """LoRAs cannot follow a node that may not be there."""
    for name, plans in bypasses.items():
        for plan in plans:
            for chain in loras.values():
                if plan.node in (chain.model[0], chain.clip[0] if chain.clip else None):
                    message = f"node {plan.node} is needed for inputs.{chain.parameter}"
                    Place(file, f"inputs.{name}").fail("cannot_bypass", message, "bypass")


def _as_integer(parameter: Parameter, value: JsonValue) -> JsonValue:
    """64-bit integers may travel as digits, and JSON's ``5.0`` is an integer."""
    if parameter.type != "integer":
        return value
    if isinstance(value, list):
        return [_as_integer(parameter, item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return from_digits(value) if travels_as_digits(parameter) else value


def _random_value(parameter: Parameter) -> int:
    lowest = max(int(parameter.minimum or 0), 0)
    highest = RANDOM_BELOW - 1 if parameter.maximum is None else int(parameter.maximum)
    step = int(parameter.multiple_of or 1)
    count = (min(highest, RANDOM_BELOW - 1) - lowest) // step + 1
    return lowest + step * secrets.randbelow(max(count, 1))
