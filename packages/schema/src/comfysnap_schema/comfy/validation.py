"""Checks a graph against the node catalogue with the verdict of ComfyUI's own validation.

The rules are those of ``validate_prompt`` and ``validate_inputs`` (ComfyUI: execution.py) and
``validate_node_input`` (comfy_execution/validation.py), told without running a node's own checks.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from comfysnap_schema.comfy.catalogue import Catalogue, NodeDef
from comfysnap_schema.comfy.graph import Graph, InputPath, title_of
from comfysnap_schema.comfy.rules import (
    Fault,
    check_link,
    check_value,
    describe_input,
    link_target,
    nearest,
)
from comfysnap_schema.wire import FieldProblem

_NO_FIELDS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that ComfyUI would refuse."""

    code: str
    """ComfyUI's name for it: ``value_not_in_list``, ``value_smaller_than_min``,
    ``value_bigger_than_max``, ``required_input_missing``, ``return_type_mismatch``,
    ``bad_linked_input``, ``invalid_input_type``, ``dependency_cycle``, ``missing_node_type``,
    ``prompt_no_outputs``; ours is ``not_an_output_node``."""
    message: str
    """What is wrong and what would be right, in one sentence."""
    field: str | None = None
    """The API parameter that feeds the place, when one does."""
    node: str | None = None
    input: str | None = None
    title: str | None = None
    """The node's title, or its class."""

    def problem(self) -> FieldProblem:
        """As it travels in a problem+json body."""
        return FieldProblem(field=self.field, message=str(self), node=self.node)

    def __str__(self) -> str:
        """``node 'title': input: message``."""
        node = f"node {self.node} ({self.title})" if self.node is not None else None
        return ": ".join(part for part in (node, self.input, self.message) if part)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Findings, and which output nodes would run.

    ComfyUI accepts a prompt when one output is valid, and leaves the others out without a word;
    here a graph is valid only without any finding.
    """

    findings: tuple[Finding, ...]
    outputs: Mapping[str, bool]
    """Output node to whether everything it needs is valid."""

    @property
    def accepted(self) -> bool:
        """Whether ComfyUI would run any of it."""
        return any(self.outputs.values())


def validate_graph(
    graph: Graph,
    catalogue: Catalogue,
    fields: Mapping[str, str] = _NO_FIELDS,
    *,
    outputs: Iterable[str] = (),
    check_models: bool = False,
) -> list[Finding]:
    """Everything ComfyUI would refuse, in the order of the graph; empty when it is valid.

    Nodes that no output needs are not checked, as in ComfyUI; their classes must exist.

    Args:
        graph: As it would be sent, with inputs in their places.
        catalogue: What the server's ``/object_info`` said.
        fields: ``node.inputs.name`` to the API parameter that feeds it.
        outputs: Ids of the nodes that a caller expects results from.
        check_models: Whether model files must be in the catalogue's lists. They are what the
            server held that was asked, seldom the one that runs the job, so by default the names
            of model files are trusted. Uploaded files are never checked: each job brings its own.
    """
    return list(
        judge_graph(graph, catalogue, fields, outputs=outputs, check_models=check_models).findings
    )


def judge_graph(
    graph: Graph,
    catalogue: Catalogue,
    fields: Mapping[str, str] = _NO_FIELDS,
    *,
    outputs: Iterable[str] = (),
    check_models: bool = False,
) -> Verdict:
    """As ``validate_graph``, with the verdict on each output node."""
    judge = _Judge(graph, catalogue, fields, check_models)
    return judge.verdict(tuple(outputs))


class _Judge:
    def __init__(
        self, graph: Graph, catalogue: Catalogue, fields: Mapping[str, str], check_models: bool
    ) -> None:
        self._graph = graph
        self._catalogue = catalogue
        self._fields = fields
        self._check_models = check_models
        self._found: dict[str, list[Finding]] = {}
        self._needs: dict[str, tuple[tuple[str, str], ...]] = {}
        self._valid: dict[str, bool] = {}

    def verdict(self, expected: tuple[str, ...]) -> Verdict:
        unknown = [self._unknown(node) for node in self._graph if self._def(node) is None]
        outputs = [node for node in self._graph if self._is_output(node)]
        for node in outputs:
            self._walk(node)
        findings = [*unknown, *self._not_outputs(expected)]
        if not outputs:
            findings.append(
                Finding(
                    code="prompt_no_outputs",
                    message="no node saves or shows a result; add one, such as SaveImage",
                )
            )
        findings += [found for node in self._graph for found in self._found.get(node, ())]
        return Verdict(
            findings=tuple(findings),
            outputs={node: self._valid[node] and not unknown for node in outputs},
        )

    def _def(self, node: str) -> NodeDef | None:
        return self._catalogue.get(self._graph[node]["class_type"])

    def _is_output(self, node: str) -> bool:
        known = self._def(node)
        return known is not None and known.output_node

    def _unknown(self, node: str) -> Finding:
        class_type = self._graph[node]["class_type"]
        return self._finding(
            node, None,
            Fault(
                "missing_node_type",
                f"no node class {class_type!r}{nearest(class_type, self._catalogue)}; "
                "is its node pack installed?",
            ),
        )  # fmt: skip

    def _not_outputs(self, expected: tuple[str, ...]) -> Iterator[Finding]:
        for node in expected:
            known = self._def(node) if node in self._graph else None
            if node not in self._graph or (known is not None and not known.output_node):
                yield Finding(
                    code="not_an_output_node",
                    message="a result is expected from it, but it saves and shows nothing",
                    node=node,
                    title=title_of(self._graph, node) if node in self._graph else None,
                )

    def _finding(self, node: str, name: str | None, fault: Fault) -> Finding:
        field = None if name is None else self._fields.get(str(InputPath(node, name)))
        return Finding(
            code=fault.code,
            message=fault.message,
            field=field,
            node=node,
            input=name,
            title=title_of(self._graph, node),
        )

    def _walk(self, start: str) -> None:
        """Check what ``start`` needs, depth first; a node is valid when all it needs is."""
        if start in self._valid:
            return
        self._open(start)
        path = {start: iter(self._needs[start])}
        while path:
            node, rest = next(reversed(path.items()))
            step = next(rest, None)
            if step is None:
                path.popitem()
                needs = all(self._valid.get(origin, False) for _, origin in self._needs[node])
                self._valid[node] = needs and not self._found[node]
                continue
            name, origin = step
            if origin in path:
                cycle = [*path][[*path].index(origin) :]
                self._found[node].append(self._finding(node, name, _cycle(cycle)))
            elif origin not in self._valid:
                self._open(origin)
                path[origin] = iter(self._needs[origin])

    def _open(self, node: str) -> None:
        """The findings of the node itself, and the nodes behind its good links."""
        found: list[Finding] = []
        needs: list[tuple[str, str]] = []
        known = self._def(node)
        values = self._graph[node]["inputs"]
        for name, definition in (known.expand(values) if known else {}).items():
            if name not in values:
                if definition.required:
                    fault = Fault(
                        "required_input_missing", f"missing; it takes {describe_input(definition)}"
                    )
                    found.append(self._finding(node, name, fault))
                continue
            value = values[name]
            if isinstance(value, list):
                fault = check_link(self._graph, self._catalogue, value, definition)
                if fault is None:
                    needs.append((name, link_target(value)))
            else:
                fault = check_value(value, definition, check_models=self._check_models)
            if fault is not None:
                found.append(self._finding(node, name, fault))
        self._found[node] = found
        self._needs[node] = tuple(needs)


def _cycle(nodes: list[str]) -> Fault:
    around = " -> ".join([*nodes, nodes[0]])
    return Fault("dependency_cycle", f"the nodes need each other: {around}; remove one link")
