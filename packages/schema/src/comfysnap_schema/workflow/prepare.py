"""``prepare.py``: Python code of a workflow folder that changes the graph after the input map."""

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
    """Import ``prepare`` from a folder's ``prepare.py``; None when the file does not exist.

    Raises:
        WorkflowError: ``prepare_failed`` (the import failed), ``no_prepare`` (no function
            ``prepare(graph, inputs)``).
    """
    path = folder / PREPARE_FILE
    if not path.is_file():
        return None
    function: Any = getattr(_import(path), "prepare", None)
    if not callable(function) or not _takes_two(function):
        raise WorkflowError(
            "no_prepare", "missing function prepare(graph, inputs) -> graph", file=str(path)
        )
    return cast("Prepare", function)


def run_prepare(
    function: Prepare, graph: Graph, inputs: Mapping[str, JsonValue], file: str
) -> Graph:
    """Call ``prepare`` with copies, and check that it returns a graph.

    Raises:
        InputError: ``prepare`` raised it, or ``ValueError``: it rejected the inputs.
        WorkflowError: ``prepare_failed`` (any other exception), ``prepare_result`` (it did not
            return a graph).
    """
    try:
        result: Any = function(copy.deepcopy(graph), copy.deepcopy(dict(inputs)))
    except InputError:
        raise
    except ValueError as error:
        message = str(error) or "prepare() rejected the inputs"
        raise InputError((FieldProblem(message=message),)) from error
    except Exception as error:  # the user's code may raise anything
        raise _failed(error, file) from error
    try:
        return parse_graph(result)
    except GraphError as error:
        where = f" (node {error.field})" if error.field else ""
        raise WorkflowError(
            "prepare_result", f"prepare() must return a graph: {error.message}{where}", file=file
        ) from error


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"comfysnap_prepare_{path.parent.name}", path)
    if spec is None or spec.loader is None:  # pragma: no cover -- a .py file always has a loader
        raise WorkflowError("prepare_failed", "not a Python module", file=str(path))
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
