"""The command that starts ComfyUI's interface, for the release of the checkout."""

import ast
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MANAGER_PACKAGE: Final = "comfyui_manager"


def read_options(checkout: Path) -> frozenset[str]:
    """The options of a checkout's ``main.py``, read without importing it.

    Raises:
        OSError: ``comfy/cli_args.py`` cannot be read.
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
    """Whether ``main.py``, run by that interpreter, can import ComfyUI-Manager.

    Raises:
        OSError: The interpreter cannot be started.
    """
    # main.py does not accept a namespace package either
    look = (
        f"import importlib.util, sys; spec = importlib.util.find_spec({MANAGER_PACKAGE!r}); "
        "sys.exit(0 if spec and spec.origin else 1)"
    )
    return subprocess.run([python, "-c", look], cwd=checkout, check=False).returncode == 0


@dataclass(frozen=True)
class UiCommand:
    """Command line of ComfyUI."""

    argv: list[str]
    manager: bool
    """Whether ComfyUI-Manager is on."""


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
    """Build the command with the options that the checkout's release supports.

    Args:
        checkout: Folder of ComfyUI.
        python: Interpreter that runs it.
        port: Port on loopback.
        own: Folder for user data: ``user``, ``input`` and ``output`` are created in it.
        database: Path of ComfyUI's asset database, in an existing folder on a local disk, because
            SQLite's locks do not work on a network volume.
        arguments: Additional arguments for ``main.py``; they cannot change the address.
        extra_model_paths: Files in the format of ``extra_model_paths.yaml``.

    Raises:
        OSError: The checkout or the interpreter does not exist.
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
        # assets are on by default in some releases, and scan the models volume at each start
        argv.append("--disable-assets")
    for file in extra_model_paths:
        argv += ["--extra-model-paths-config", file]
    if manager:
        argv.append("--enable-manager")
    return UiCommand(argv, manager)
