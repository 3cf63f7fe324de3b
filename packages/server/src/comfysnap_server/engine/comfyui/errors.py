"""Converts ComfyUI's failures to errors of a job."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from comfysnap_schema.comfy import Graph, InputPath, is_link, title_of
from comfysnap_schema.wire import ErrorCode, FieldProblem
from comfysnap_server.engine.fields import node_problem
from comfysnap_server.engine.protocol import EngineError
from comfysnap_server.errors import ComfysnapServerError

MAX_MESSAGE: Final = 1000
"""Maximum length of a node's message, in characters."""

NO_DRAWING: Final = (
    "this node reads the workflow as ComfyUI's editor draws it (extra_pnginfo), which the folder of"
    " the workflow lacks: run `comfysnap update NAME` with an export in UI format or a picture"
)
_DRAWING: Final = "EXTRA_PNGINFO"
_OF_NONE: Final = frozenset({"TypeError", "KeyError", "AttributeError"})
"""Exceptions of nodes that read something from None."""

_MEMORY_TYPES: Final = frozenset(
    {"torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError", "MemoryError"}
)
_MEMORY_WORDS: Final = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
)
_BROKEN_WORDS: Final = (
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "misaligned address",
    "uncorrectable ecc",
    "device is lost",
)


class BrokenDeviceError(ComfysnapServerError):
    """The GPU context is broken for the life of the process, which must be restarted."""


def is_out_of_memory(exception_type: str, message: str) -> bool:
    """Whether a node's exception means that the GPU or the host is out of memory."""
    text = message.lower()
    return exception_type in _MEMORY_TYPES or any(word in text for word in _MEMORY_WORDS)


def is_broken_device(message: str) -> bool:
    """Whether a node's exception means that every later CUDA call will fail too."""
    text = message.lower()
    return any(word in text for word in _BROKEN_WORDS)


def reads_drawing(kind: Any) -> bool:
    """Whether a node class takes the editor's workflow, at least to save it."""
    try:
        hidden = kind.INPUT_TYPES().get("hidden", {})
        return any(_DRAWING in str(what).upper() for what in hidden.values())
    except Exception:  # a node pack's own code
        return False


def misses_drawing(kind: Any, message: Mapping[str, Any]) -> bool:
    """Whether a node of a class failed because the prompt came without the editor's workflow."""
    exception = str(message.get("exception_type")).rpartition(".")[2]
    return exception in _OF_NONE and reads_drawing(kind)


def validation_error(
    graph: Graph, fields: Mapping[str, str], error: Any, node_errors: Any
) -> EngineError:
    """Convert ComfyUI's validation result of an invalid graph; problems name the API fields."""
    reported: dict[str, Any] = error or {}
    problems = tuple(_problems(graph, fields, node_errors or {}))
    extra: dict[str, Any] = reported.get("extra_info") or {}
    node = extra.get("node_id")  # set if the class is unknown
    if not problems and node in graph:
        message = _clean(reported.get("message") or "unknown class")
        problems = (node_problem(graph, fields, node, message),)
    summary = reported.get("message") or "a node of the graph is invalid"
    details = None if problems else reported.get("details")
    text = _clean(f"{summary}: {details}" if details else summary)
    return EngineError(ErrorCode.GRAPH_INVALID, text, fields=problems)


def _problems(
    graph: Graph, fields: Mapping[str, str], node_errors: Mapping[str, Any]
) -> Iterator[FieldProblem]:
    for node, found in node_errors.items():
        for error in found.get("errors", ()):
            name = error.get("extra_info", {}).get("input_name")
            details = _clean(error.get("details") or "")
            message = _clean(error.get("message") or "invalid")
            text = f"{message} ({details})" if details else message
            yield node_problem(graph, fields, node, text, input_name=name)


def node_error(graph: Graph, fields: Mapping[str, str], message: Mapping[str, Any]) -> EngineError:
    """Convert ComfyUI's ``execution_error`` message; problems name the API fields that feed the
    node."""
    node = str(message.get("node_id"))
    kind = str(message.get("exception_type") or "Exception")
    text = _clean(str(message.get("exception_message") or ""))
    code = ErrorCode.OUT_OF_MEMORY if is_out_of_memory(kind, text) else ErrorCode.NODE_FAILED
    detail = text or kind.rpartition(".")[2]
    fed = feeding_fields(graph, fields, node)
    problem = node_problem(graph, fields, node, detail)
    problems = tuple(problem.model_copy(update={"field": field}) for field in fed) or (problem,)
    return EngineError(code, f"{describe_node(graph, node)} failed: {detail}", fields=problems)


def feeding_fields(graph: Graph, fields: Mapping[str, str], node: str) -> list[str]:
    """The API fields that feed a node directly, or through a node without linked inputs."""
    if node not in graph:
        return []
    found: dict[str, None] = {}
    for name, value in graph[node]["inputs"].items():
        _note(found, fields, node, name)
        source = value[0] if is_link(value) and isinstance(value, list) else None
        if isinstance(source, str) and source in graph:
            inputs = graph[source]["inputs"]
            if not any(is_link(item) for item in inputs.values()):
                for inner in inputs:
                    _note(found, fields, source, inner)
    return list(found)


def _note(found: dict[str, None], fields: Mapping[str, str], node: str, name: str) -> None:
    field = fields.get(str(InputPath(node, name)))
    if field is not None:
        found[field] = None


def describe_node(graph: Graph, node: str) -> str:
    """``node 3 (Base pass, KSampler)``."""
    if node not in graph:
        return f"node {node}"
    kind, title = graph[node]["class_type"], title_of(graph, node)
    return f"node {node} ({kind})" if title == kind else f"node {node} ({title}, {kind})"


def _clean(text: str) -> str:
    """Join lines and truncate to ``MAX_MESSAGE``."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"
