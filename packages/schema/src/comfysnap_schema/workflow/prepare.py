"""``prepare.py``: plain Python of a workflow folder that changes a graph after its map."""

import copy
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import JsonValue

from comfysnap_schema.comfy import Graph, parse_graph
from comfysnap_schema.wire import FieldProblem, GraphError, InputError, WorkflowError

PREPARE_FILE = "prepare.py"

Prepare = Callable[[Graph, dict[str, JsonValue]], Graph]


def load_prepare(folder: Path) -> Prepare | None:
    """The ``prepare`` of a folder, or None when it has no ``prepare.py``.

    Raises:
        WorkflowError: ``prepare_failed`` (it cannot be imported), ``no_prepare`` (there is no
            function ``prepare(graph, inputs)`` in it).
    """
    path = folder / PREPARE_FILE
    if not path.is_file():
        return None
    function: Any = getattr(_import(path), "prepare", None)
    if not callable(function) or not _takes_two(function):
        raise WorkflowError(
            "no_prepare", "it needs a function prepare(graph, inputs) -> graph", file=str(path)
        )
    return cast("Prepare", function)


def run_prepare(
    function: Prepare, graph: Graph, inputs: Mapping[str, JsonValue], file: str
) -> Graph:
    """Call ``prepare`` with copies, and see that a graph comes back.

    Raises:
        InputError: ``prepare`` raised it, or ``ValueError``: what the caller gave does not do.
        WorkflowError: ``prepare_failed`` (it raised something else), ``prepare_result`` (it handed
            back no graph).
    """
    try:
        result: Any = function(copy.deepcopy(graph), copy.deepcopy(dict(inputs)))
    except InputError:
        raise
    except ValueError as error:
        raise InputError((FieldProblem(message=str(error) or "prepare.py refused it"),)) from error
    except Exception as error:  # whatever a person's code does
        raise _failed(error, file) from error
    try:
        return parse_graph(result)
    except GraphError as error:
        where = f" (node {error.field})" if error.field else ""
        raise WorkflowError(
            "prepare_result", f"prepare must return the graph: {error.message}{where}", file=file
        ) from error


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"comfysnap_prepare_{path.parent.name}", path)
    if spec is None or spec.loader is None:  # pragma: no cover -- a .py file always has a loader
        raise WorkflowError("prepare_failed", "it is no Python module", file=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and Pydantic look their annotations up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(error, str(path)) from error
    return module


def _failed(error: Exception, file: str) -> WorkflowError:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f"line {frames[-1].lineno}: " if frames else ""
    return WorkflowError("prepare_failed", f"{where}{type(error).__name__}: {error}", file=file)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    return True
