"""A workflow: a graph with its input map, ready to take inputs."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from comfysnap_schema.contract import Contract, contract_of
from comfysnap_schema.errors import GraphError, WorkflowError
from comfysnap_schema.files import FILE_KINDS
from comfysnap_schema.graph import Graph, InputPath, is_link, read_graph
from comfysnap_schema.parameters import RANDOM_BELOW, Parameter, ParameterType
from comfysnap_schema.spec import InputSpec, OutputSpec, WorkflowSpec, read_spec

GRAPH_FILE = "graph.json"
SPEC_FILE = "workflow.toml"


@dataclass(frozen=True)
class Workflow:
    """A graph with an input map."""

    folder: Path
    spec: WorkflowSpec
    graph: Graph
    """As exported; never changed."""
    parameters: Mapping[str, Parameter]

    @property
    def name(self) -> str:
        """As in the routes."""
        return self.spec.name

    @property
    def outputs(self) -> Mapping[str, OutputSpec]:
        """Output name to the node that makes it."""
        return self.spec.outputs

    @cached_property
    def contract(self) -> Contract:
        """Schemas and hash."""
        return contract_of(self.name, self.parameters, self.outputs)

    @classmethod
    def load(cls, folder: Path) -> "Workflow":
        """Read ``graph.json`` and ``workflow.toml`` of a folder.

        Raises:
            GraphError: The graph is none.
            WorkflowError: The map is wrong, alone or against the graph.
        """
        spec = read_spec(folder / SPEC_FILE)
        graph = read_graph(folder / GRAPH_FILE)
        file = str(folder / SPEC_FILE)
        parameters = {
            name: _resolve(name, entry, graph, file) for name, entry in spec.inputs.items()
        }
        for name, output in spec.outputs.items():
            if output.node not in graph:
                raise WorkflowError(
                    "no_such_node",
                    f"the graph has no node {output.node!r}",
                    file=file,
                    field=f"outputs.{name}.node",
                )
        return cls(folder, spec, graph, parameters)

    def complete(self, inputs: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Valid inputs with defaults filled in and random seeds drawn."""
        result: dict[str, JsonValue] = {}
        for name, parameter in self.parameters.items():
            value = inputs.get(name)
            if value is not None:
                result[name] = _wire_value(parameter, value)
            elif parameter.random:
                result[name] = secrets.randbelow(RANDOM_BELOW)
            elif parameter.default is not None:
                result[name] = parameter.default
        return result

    def apply(self, inputs: Mapping[str, JsonValue]) -> Graph:
        """A copy of the graph with ``inputs`` (complete; files as names in ComfyUI's input
        folder) in their places; nodes that nothing touches are shared with the original."""
        graph: Graph = dict(self.graph)
        touched: set[str] = set()
        for name, value in inputs.items():
            for path in self.parameters[name].paths:
                if path.node not in touched:
                    node = graph[path.node]
                    graph[path.node] = {**node, "inputs": dict(node["inputs"])}
                    touched.add(path.node)
                graph[path.node]["inputs"][path.name] = value
        return graph

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """``node.inputs.name`` to the API field that feeds it."""
        return {str(path): name for name, entry in self.parameters.items() for path in entry.paths}


def load_workflows(folder: Path) -> dict[str, Workflow]:
    """Every workflow below ``folder``, by name.

    Raises:
        WorkflowError: ``no_workflows``, ``duplicate_name`` and those of ``Workflow.load``.
    """
    found: dict[str, Workflow] = {}
    for spec in sorted(folder.glob(f"*/{SPEC_FILE}")):
        workflow = Workflow.load(spec.parent)
        if workflow.name in found:
            raise WorkflowError(
                "duplicate_name",
                f"{workflow.name!r} is also the name in {found[workflow.name].folder}",
                file=str(spec),
                field="name",
            )
        found[workflow.name] = workflow
    if not found:
        raise WorkflowError("no_workflows", f"no */{SPEC_FILE} below it", file=str(folder))
    return found


def _resolve(name: str, entry: InputSpec, graph: Graph, file: str) -> Parameter:
    raw = [entry.path] if isinstance(entry.path, str) else (entry.path or [])
    paths = tuple(_checked_path(text, graph, file, f"inputs.{name}.path") for text in raw)
    present: Any = graph[paths[0].node]["inputs"].get(paths[0].name) if paths else None
    value = None if is_link(present) else present
    kind = entry.kind if entry.kind in FILE_KINDS else None
    default = entry.default if entry.default is not None else (None if kind else value)
    required = entry.required if entry.required is not None else default is None
    return Parameter(
        name=name,
        type="file" if kind else _type_of(entry, value),
        paths=paths,
        bypass=tuple([entry.bypass] if isinstance(entry.bypass, str) else entry.bypass or ()),
        title=entry.title or "",
        description=entry.description,
        required=required and not entry.random,
        default=None if required or entry.random else default,
        minimum=entry.minimum,
        maximum=entry.maximum,
        multiple_of=entry.multiple_of,
        choices=tuple(entry.choices) if entry.choices else None,
        multiline=bool(entry.multiline),
        max_length=entry.max_length,
        random=entry.random,
        kind=kind,
    )


def _checked_path(text: str, graph: Graph, file: str, field: str) -> InputPath:
    try:
        path = InputPath.parse(text)
    except GraphError as error:
        raise WorkflowError(error.code, error.message, file=file, field=field) from error
    if path.node not in graph:
        raise WorkflowError(
            "no_such_path", f"the graph has no node {path.node!r}", file=file, field=field
        )
    return path


def _type_of(entry: InputSpec, value: object) -> ParameterType:
    known: dict[type, ParameterType] = {
        bool: "boolean", int: "integer", float: "number", str: "string",
    }  # fmt: skip
    if entry.type is not None:
        return entry.type  # pyright: ignore[reportReturnType]
    return known.get(type(entry.default if value is None else value), "json")


def _wire_value(parameter: Parameter, value: JsonValue) -> JsonValue:
    """64-bit integers may travel as strings."""
    if parameter.type == "integer" and isinstance(value, str):
        return int(value)
    return value
