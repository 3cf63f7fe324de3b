"""The command that starts ComfyUI's own interface, fitted to the release of the checkout."""

import ast
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MANAGER_PACKAGE: Final = "comfyui_manager"


def read_options(checkout: Path) -> frozenset[str]:
    """The options that ``main.py`` of a checkout takes, read without importing anything.

    Raises:
        OSError: There is no ``comfy/cli_args.py``.
    """
    tree = ast.parse((checkout / "comfy" / "cli_args.py").read_bytes())
    return frozenset(
        argument.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    )


def has_manager(checkout: Path, python: str) -> bool:
    """Whether ``main.py``, run by that interpreter, would find the package of ComfyUI-Manager.

    Raises:
        OSError: The interpreter cannot be started.
    """
    # a folder of that name without __init__.py is not the package; main.py looks for the same
    look = (
        f"import importlib.util, sys; spec = importlib.util.find_spec({MANAGER_PACKAGE!r}); "
        "sys.exit(0 if spec and spec.origin else 1)"
    )
    return subprocess.run([python, "-c", look], cwd=checkout, check=False).returncode == 0


@dataclass(frozen=True)
class UiCommand:
    """How ``main.py`` is started."""

    argv: list[str]
    manager: bool
    """Whether ComfyUI-Manager's package is switched on."""


def comfyui_command(
    checkout: Path,
    python: str,
    *,
    port: int,
    own: Path,
    database: Path,
    arguments: Sequence[str] = (),
    extra_model_paths: Sequence[str] = (),
) -> UiCommand:
    """Fit the command to what the checkout's release and the interpreter have.

    Args:
        checkout: Folder of ComfyUI.
        python: The interpreter that runs it.
        port: Where it listens, on loopback alone.
        own: Keeps what people save, in ``user``, ``input`` and ``output``; they are created.
        database: File of ComfyUI's asset database, in an existing folder on a local disk: SQLite's
            locks do not hold on a network volume, where newer releases would put it.
        arguments: More arguments for ``main.py``; they cannot override the address.
        extra_model_paths: Files like ``extra_model_paths.yaml``, under any name.

    Raises:
        OSError: There is no such checkout or interpreter.
    """
    known = read_options(checkout)
    manager = "--enable-manager" in known and has_manager(checkout, python)
    argv = [python, str(checkout / "main.py"), *arguments]
    argv += ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    for kind in ("user", "input", "output"):
        (own / kind).mkdir(parents=True, exist_ok=True)
        argv += [f"--{kind}-directory", str(own / kind)]
    if "--database-url" in known:
        argv += ["--database-url", f"sqlite:///{database}"]
    if "--disable-assets" in known:
        # where assets are on by default, each start would scan the models volume again
        argv.append("--disable-assets")
    for file in extra_model_paths:
        argv += ["--extra-model-paths-config", file]
    if manager:
        argv.append("--enable-manager")
    return UiCommand(argv, manager)
