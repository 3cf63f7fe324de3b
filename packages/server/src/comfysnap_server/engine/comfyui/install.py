"""Installs a ComfyUI for the local backend into its own folder, and finds it again."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from comfysnap_server import pins
from comfysnap_server.errors import ComfysnapServerError

MARKER: Final = "installed.json"
"""Written last; marks a complete install."""
AGAIN: Final = "run the command again to resume"
DRIVER_FILE: Final = Path("/sys/module/nvidia/version")

_ERROR: Final = re.compile("error|fatal|\u00d7", re.IGNORECASE)

Run = Callable[[Sequence[str]], str]
"""Runs a command and returns its output.

Raises:
    InstallError: It failed; the message holds the end of its output.
"""


class InstallError(ComfysnapServerError):
    """A step failed; completed steps are kept and skipped the next time."""


@dataclass(frozen=True)
class Installed:
    """A ComfyUI and the interpreter that can import it."""

    path: str
    python: str
    commit: str | None = None
    torch: str | None = None
    """The ``torch`` argument of ``install``."""


def default_folder() -> Path:
    """``COMFYSNAP_COMFYUI``, or ``comfysnap/comfyui`` in the user's data folder."""
    named = os.environ.get("COMFYSNAP_COMFYUI")
    if named:
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "comfysnap" / "comfyui"


def find_comfyui(folder: Path | None = None) -> Installed | None:
    """Find the ComfyUI to use: ``COMFYUI_PATH`` and ``COMFYUI_PYTHON``, else our own install.

    Without ``COMFYUI_PYTHON``, the interpreter is that of the checkout's ``venv`` or ``.venv``,
    else this one.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        return Installed(named, os.environ.get("COMFYUI_PYTHON") or python_of(Path(named)))
    return read_installed(folder or default_folder())


def read_installed(folder: Path) -> Installed | None:
    """The complete install in ``folder``, or None."""
    try:
        data: Any = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        found = Installed(
            str(data["path"]), str(data["python"]), str(data["commit"]), data.get("torch")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    usable = Path(found.path).is_dir() and Path(found.python).exists()
    return found if usable else None


def install(
    folder: Path,
    *,
    commit: str = pins.COMMIT,
    repository: str = pins.REPOSITORY,
    torch: str = "auto",
    run: Run | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Installed:
    """Check out ComfyUI at ``commit`` and install its requirements; skips steps completed before.

    The packages of the default release come from the lock. Those of other commits are resolved as
    of the date of the commit.

    Args:
        folder: Target of ``ComfyUI/`` and ``venv/``.
        commit: Full hash, tag or branch.
        repository: URL or folder to fetch from.
        torch: Build of torch, a value of uv's ``--torch-backend``: ``cpu``, ``cu130``, ... With
            ``cu130`` the lock is installed unchanged, hashes included. It does not contain other
            builds, so with those it constrains only the other packages. ``auto`` is ``cu130`` if
            the NVIDIA driver supports it, else uv's choice for this machine.
        run: Runs commands.
        on_message: Called with a description of each step.

    Raises:
        InstallError: A step failed.
    """
    run = run or run_command
    folder = folder.absolute()
    checkout, python = folder / "ComfyUI", folder / "venv" / "bin" / "python"
    known = read_installed(folder)
    if known is not None and (known.commit, known.torch) == (commit, torch):
        on_message(f"already installed: {known.path}")
        return known
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).unlink(missing_ok=True)
    on_message(f"fetching ComfyUI {pins.describe(commit)} into {checkout}")
    head = _check_out(checkout, repository, commit, run)
    fresh = not python.exists()
    if fresh:
        on_message(f"creating an environment in {python.parents[1]}")
        _make_environment(python.parents[1], run)
    for message, command in _requirement_steps(folder, python, head, torch, fresh, run):
        on_message(message)
        run(command)
    installed = Installed(str(checkout), str(python), head, torch)
    part = folder / (MARKER + ".part")
    part.write_text(json.dumps(asdict(installed), indent=2), encoding="utf-8")
    part.replace(folder / MARKER)
    return installed


def _check_out(checkout: Path, repository: str, commit: str, run: Run) -> str:
    """Returns the full commit."""
    if shutil.which("git") is None:
        raise InstallError("git not found; install git")
    git = ["git", "-C", str(checkout)]
    if not (checkout / ".git").is_dir():
        run(["git", "init", "--quiet", str(checkout)])
    for lock in ("index.lock", "shallow.lock"):  # left by a git that was killed
        (checkout / ".git" / lock).unlink(missing_ok=True)
    place = commit
    if not (pins.is_commit(commit) and _has_commit(git, commit, run)):
        run([*git, "fetch", "--quiet", "--depth=1", repository, commit])
        place = "FETCH_HEAD"
    run([*git, "checkout", "--quiet", "--force", "--detach", place])
    return run([*git, "rev-parse", "HEAD"]).strip()


def _has_commit(git: list[str], commit: str, run: Run) -> bool:
    try:
        run([*git, "cat-file", "-e", f"{commit}^{{commit}}"])
    except InstallError:
        return False
    return True


def _make_environment(folder: Path, run: Run) -> None:
    if shutil.which("uv"):
        run(["uv", "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)])
    else:
        run([sys.executable, "-m", "venv", str(folder)])


def _requirement_steps(
    folder: Path, python: Path, commit: str, torch: str, fresh: bool, run: Run
) -> list[tuple[str, list[str]]]:
    """Messages and commands."""
    checkout = folder / "ComfyUI"
    uv = shutil.which("uv") is not None
    install = (
        ["uv", "pip", "install", "--quiet", "--python", str(python), "--compile-bytecode"]
        if uv
        else [str(python), "-m", "pip", "install", "--quiet"]
    )
    if uv and not fresh:
        # uv treats another build of the same version as installed
        install += [f"--reinstall-package={name}" for name in pins.TORCH_NAMES]
    locked = commit == pins.COMMIT
    size = f"torch {pins.TORCH} is several GB"
    if locked and (takes_lock(torch) or (torch == "auto" and not uv)):
        lock = ["--require-hashes", "-r", str(pins.lock_file())]
        return [(f"installing the locked packages ({size})", [*install, *lock])]
    if not uv:
        raise InstallError(
            f"uv not found, and only the locked packages of ComfyUI {pins.VERSION} (--torch "
            f"cu{pins.CUDA.replace('.', '')}) can be installed without it: pip install uv"
        )
    files = [checkout / name for name in ("requirements.txt", "manager_requirements.txt")]
    wanted = [part for file in files if file.is_file() for part in ("-r", str(file))]
    backend = f"--torch-backend={torch}"
    if locked:
        constraints = folder / "constraints.txt"
        constraints.write_text(_lock_for_another_torch(), encoding="utf-8")
        limits = ["--constraints", str(constraints)]
        message = f"installing the locked packages with another build of torch ({size})"
        return [(message, [*install, backend, *limits, *wanted, *pins.WORKER])]
    overrides = folder / "overrides.txt"
    overrides.write_text("\n".join(pins.WITHOUT_TORCH) + "\n", encoding="utf-8")
    date = run(["git", "-C", str(checkout), "log", "-1", "--format=%cI"]).strip()
    dated = ["--overrides", str(overrides), "--exclude-newer", date]
    return [
        (f"installing its requirements as of {date[:10]}", [*install, *dated, *wanted]),
        (
            f"installing torch ({size})",
            [*install, backend, *pins.torch_packages(pins.TORCH), *pins.WORKER],
        ),
    ]


def takes_lock(torch: str) -> bool:
    """Whether ``--torch`` selects the locked build on this machine."""
    if torch == "auto":
        return sys.platform == "darwin" or nvidia_driver() >= pins.CUDA_DRIVER
    return torch == f"cu{pins.CUDA.replace('.', '')}"


def nvidia_driver() -> int:
    """Major version of this machine's NVIDIA driver; 0 if there is no driver."""
    try:
        version = DRIVER_FILE.read_text(encoding="ascii")
    except (OSError, ValueError):
        return 0
    found = re.match(r"[0-9]+", version)
    return int(found[0]) if found else 0


def _lock_for_another_torch() -> str:
    """The lock without the dependencies of a torch build, and without torch's hashes."""
    kept: list[str] = []
    for entry in re.split(r"\n(?=[^\s#])", pins.lock_file().read_text(encoding="utf-8")):
        name = entry.partition("==")[0]
        if name in pins.TORCH_NAMES:
            kept.append(entry.partition(" ")[0])
        elif not name.startswith(("#", "nvidia-", "cuda-")) and name != "triton":
            kept.append(entry)
    return "\n".join(kept) + "\n"


def run_command(command: Sequence[str]) -> str:
    """Run a command and return its output; git never asks for a password."""
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        first = next(
            (i for i, line in enumerate(lines) if _ERROR.match(line)), max(0, len(lines) - 3)
        )
        # uv and pip print what failed first, and its cause last
        shown = [*lines[first : first + 2], *lines[first + 2 :][-1:]]
        raise InstallError(
            f"`{' '.join(command[:5])} ...` failed: {' / '.join(shown) or 'no output'}"
        )
    return done.stdout


def python_of(checkout: Path) -> str:
    """The interpreter in the checkout's ``venv`` or ``.venv``, else this one."""
    for name in ("venv", ".venv"):
        python = checkout / name / "bin" / "python"
        if python.exists():
            return str(python)
    return sys.executable
