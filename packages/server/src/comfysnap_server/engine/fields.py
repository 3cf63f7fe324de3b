"""Finds the API fields behind inputs of a graph."""

from collections.abc import Mapping

from comfysnap_schema.comfy import Graph, InputPath, is_link, title_of
from comfysnap_schema.wire import FieldProblem


def field_for(
    graph: Graph, fields: Mapping[str, str], node: str, input_name: str | None = None
) -> str | None:
    """The API field that feeds an input, directly or through links; None if there is none.

    Args:
        graph: The graph that runs.
        fields: API fields by ``node.inputs.name``.
        node: The node with the problem.
        input_name: The input with the problem. None finds the field that feeds the node, if only
            one does.
    """
    if input_name is None:
        found = _fields_of(fields, node)
        return found.pop() if len(found) == 1 else None
    seen: set[str] = set()
    while node in graph and node not in seen:
        seen.add(node)
        direct = fields.get(str(InputPath(node, input_name)))
        if direct is not None:
            return direct
        value = graph[node]["inputs"].get(input_name)
        if not (isinstance(value, list) and is_link(value)):
            return None
        node = str(value[0])
        found = _fields_of(fields, node)
        if len(found) == 1:
            return found.pop()
    return None


def _fields_of(fields: Mapping[str, str], node: str) -> set[str]:
    return {field for path, field in fields.items() if InputPath.parse(path).node == node}


def node_problem(
    graph: Graph,
    fields: Mapping[str, str],
    node: str,
    message: str,
    *,
    input_name: str | None = None,
) -> FieldProblem:
    """A problem that names the API field, and the node with its title and class."""
    if node in graph:
        title, class_type = title_of(graph, node), graph[node]["class_type"]
        name = class_type if title == class_type else f"{title}, {class_type}"
        message = f"node {node} ({name}): {message}"
    return FieldProblem(
        field=field_for(graph, fields, node, input_name), message=message, node=node
    )
