"""Runs under COMFYUI_PYTHON: a real ComfyUI's own node list and validation, over pipes.

One line of JSON in, one out. First ``{"files": [...]}``, names that every model folder and the
input folder shall hold; the answer has ``object_info`` and what of the rules JSON hides. Then
``{"graph": ...}``; the answer is the result of ``validate_prompt``.
"""

import asyncio
import contextlib
import importlib
import inspect
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def load(root: str, work: Path) -> tuple[Any, Any, Any]:
    """Load ComfyUI's modules in its own order, on the CPU, with temporary folders."""
    os.chdir(root)
    sys.path.insert(0, root)
    importlib.import_module("comfy.options").enable_args_parsing(False)
    importlib.import_module("comfy.cli_args").args.cpu = True
    importlib.import_module("utils.extra_config")
    nodes = importlib.import_module("nodes")
    execution = importlib.import_module("execution")
    server = importlib.import_module("server")
    folders = importlib.import_module("folder_paths")
    folders.set_input_directory(str(work / "input"))
    folders.set_output_directory(str(work / "output"))
    for name in list(folders.folder_names_and_paths):
        folders.add_model_folder_path(name, str(work / "models" / name), is_default=True)
    return nodes, execution, (server, folders)


def make_files(work: Path, folders: Any, names: list[str]) -> None:
    """Create empty files of these names in every folder that is listed."""
    places = [work / "models" / name for name in folders.folder_names_and_paths]
    for place in [*places, work / "input", work / "output"]:
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            file = place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def tuples(nodes: Any) -> Iterator[tuple[str, str]]:
    """Class and input of choices written as a tuple: ComfyUI checks only lists, and JSON hides
    which it was."""
    for name, kind in nodes.NODE_CLASS_MAPPINGS.items():
        groups = kind.INPUT_TYPES()
        for group in ("required", "optional"):
            for entry, spec in groups.get(group, {}).items():
                if isinstance(spec[0], tuple):
                    yield name, entry


def own_checks(nodes: Any) -> dict[str, list[str]]:
    """Class to the inputs that it checks by a function of its own, which replaces ComfyUI's check
    of ranges and choices: ``**`` stands for all, ``input_types`` for the types of links."""
    found: dict[str, list[str]] = {}
    for name, kind in nodes.NODE_CLASS_MAPPINGS.items():
        if hasattr(kind, "GET_BASE_CLASS"):
            real_override = importlib.import_module("comfy_api.internal").first_real_override
            check = real_override(kind, "validate_inputs")
        else:
            check = getattr(kind, "VALIDATE_INPUTS", None)
        if check is not None:
            spec = inspect.getfullargspec(check)
            found[name] = [*spec.args, *(["**"] if spec.varkw else [])]
    return found


async def serve(root: str, work: Path, answers: Any) -> None:
    """Answer requests until the input ends."""
    nodes, execution, (server, folders) = load(root, work)
    make_files(work, folders, json.loads(sys.stdin.readline())["files"])
    app = server.PromptServer(asyncio.get_running_loop())
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=True)
    rules = inspect.getsource(execution.validate_inputs)
    names_cycles = "dependency_cycle" in rules
    if names_cycles:  # today's rules
        nodes.NODE_CLASS_MAPPINGS.update(importlib.import_module("odd_classes").odd_classes())
    route = next(route for route in app.routes if getattr(route, "path", "") == "/object_info")
    if hasattr(server, "seed_assets"):  # 0.9 to 0.14 scan for new files by default
        server.seed_assets = len
    response = await route.handler(None)
    first = {
        "object_info": json.loads(response.text),
        "checks_new_combos": "Combo" in rules,
        "names_cycles": names_cycles,
        "tuples": list(tuples(nodes)),
        "own_checks": own_checks(nodes) if names_cycles else {},
    }
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        graph = json.loads(line)["graph"]
        ok, error, outputs, node_errors = await execution.validate_prompt("p", graph, None)
        answer = {
            "ok": ok,
            "error": error and {"type": error["type"], "details": error["details"]},
            "outputs": sorted(outputs),
            "node_errors": {  # code and input of each
                node: [
                    [each["type"], each["extra_info"].get("input_name")] for each in entry["errors"]
                ]
                for node, entry in node_errors.items()
            },
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    answers = sys.stdout
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(sys.stderr):
        asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), answers))
