"""In which order the nodes of a graph run, after the checks that ComfyUI makes first."""

from collections.abc import Callable, Collection, Iterator

from comfysnap_schema.comfy import Graph, is_link
from comfysnap_schema.wire import ErrorCode
from comfysnap_server.engine.fields import node_problem
from comfysnap_server.engine.protocol import EngineError, EngineJob


def links_of(graph: Graph, node: str) -> Iterator[tuple[str, str, int]]:
    """Input name, source node and slot of each linked input."""
    for name, value in graph[node]["inputs"].items():
        if isinstance(value, list) and is_link(value):
            yield name, str(value[0]), int(float(str(value[1])))


def order_of(
    job: EngineJob, targets: Collection[str], missing: Callable[[str], Collection[str]]
) -> list[str]:
    """The nodes that the targets need, sources first.

    Args:
        job: The job.
        targets: The output nodes.
        missing: The required inputs that a node lacks.

    Raises:
        EngineError: ``graph_invalid``: no output node, a link to a node that does not exist, a
            missing input, or a cycle.
    """
    if not targets:
        raise EngineError(ErrorCode.GRAPH_INVALID, "the graph has no output node")
    order: list[str] = []
    entered: set[str] = set()
    done: set[str] = set()
    stack = [(node, False) for node in sorted(targets, reverse=True)]
    while stack:
        node, leaving = stack.pop()
        if leaving:
            done.add(node)
            order.append(node)
        elif node not in done:
            if node in entered:
                raise _invalid(job, node, "the links form a cycle")
            entered.add(node)
            stack.append((node, True))
            stack += ((source, False) for source in _sources(job, node, missing, entered - done))
    return order


def _sources(
    job: EngineJob, node: str, missing: Callable[[str], Collection[str]], open_nodes: set[str]
) -> list[str]:
    sources: list[str] = []
    for name, source, slot in links_of(job.graph, node):
        if source not in job.graph:
            raise _invalid(job, node, f"{name} is linked to node {source}, which is missing", name)
        if slot < 0:
            raise _invalid(job, node, f"{name} is linked to output {slot}", name)
        if source in open_nodes:
            raise _invalid(job, node, "the links form a cycle", name)
        sources.append(source)
    for name in missing(node):
        raise _invalid(job, node, f"the required input {name} is missing", name)
    return sources


def _invalid(job: EngineJob, node: str, message: str, input_name: str | None = None) -> EngineError:
    found = node_problem(job.graph, job.fields, node, message, input_name=input_name)
    return EngineError(ErrorCode.GRAPH_INVALID, found.message, fields=(found,))
