"""Every exception of the server is in one tree, which is drawn where its root is defined."""

import ast
import inspect
import re
from pathlib import Path

import comfysnap_server
from comfysnap_server import errors

ROOT = Path(comfysnap_server.__file__).parent


def defined() -> dict[str, list[str]]:
    """The bases of each public class that is named like an exception, or derives from one."""
    classes: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    found: set[str] = set()
    known = {"Exception", "BaseException", "ValueError", "RuntimeError", "OSError", "SchemaError"}
    known |= {"ProjectError", "HTTPException", "KeyError", "TypeError"}
    while more := {
        name for name in classes.keys() - found if known.union(found) & {*classes[name]}
    }:
        found |= more
    return {name: classes[name] for name in found if not name.startswith("_")}


def drawn() -> dict[str, str | None]:
    """The parent of each exception in the drawing."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (inspect.getdoc(errors) or "").splitlines():
        if match := re.fullmatch(r"    ([\u2502 \u251c\u2514\u2500]*)(\w+)(  .*)?", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            parents[match[2]] = path[depth - 1] if depth else None
    return parents


def test_the_drawing_names_every_exception_below_its_parent() -> None:
    found, tree = defined(), drawn()
    assert {*found} == {*tree}
    wrong = {name for name, parent in tree.items() if parent and parent not in found[name]}
    assert wrong == set()
    assert [name for name, parent in tree.items() if parent is None] == ["ComfysnapServerError"]
