"""Runs top-level statements of a loaded module again, once what they asked for has an answer.

ComfyUI decides much about the device while its modules are imported. What it decided while CUDA was
hidden is decided again by the release's own statements, so nothing of them is repeated here.
"""

import ast
import inspect
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any


def compile_again(module: Any, names: Iterable[str]) -> CodeType | None:
    """The module's top-level statements that bind one of ``names``, in their order.

    Args:
        module: A loaded module with a source file.
        names: Global names of it, or dotted attributes that it sets on other modules. A function of
            that name is defined again too.

    Returns:
        Code for ``exec`` in the module's namespace; None when nothing binds them.
    """
    wanted = set(names)
    tree = ast.parse(inspect.getsource(module))
    kept = [statement for statement in tree.body if wanted & set(_bound(statement))]
    if not kept:
        return None
    tree.body = kept
    return compile(tree, module.__file__, "exec")


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement binds in its own scope, and the attributes that it sets."""
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
