"""Compiles top-level statements of a loaded module, to run them again once there is a device.

ComfyUI makes many decisions about the device while its modules are imported. Those made while CUDA
was hidden are made again by the release's own statements, so none of them is duplicated here.
"""

import ast
import inspect
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any


def compile_again(module: Any, names: Iterable[str]) -> CodeType | None:
    """Compile the module's top-level statements that bind one of ``names``, in their order.

    Args:
        module: A loaded module with a source file.
        names: Global names, or dotted attributes that the module sets on other modules. Functions
            and classes of these names are defined again too.

    Returns:
        Code for ``exec`` in the module's namespace; None if no statement binds them.
    """
    wanted = set(names)
    tree = ast.parse(inspect.getsource(module))
    kept = [statement for statement in tree.body if wanted & set(_bound(statement))]
    if not kept:
        return None
    tree.body = kept
    return compile(tree, module.__file__, "exec")


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement binds in its scope, and the attributes that it sets."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    for node in ast.iter_child_nodes(statement):
        if isinstance(node, ast.stmt):
            yield from _bound(node)
        elif isinstance(node, ast.ExceptHandler):
            for inner in node.body:
                yield from _bound(inner)
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield ast.unparse(node)
