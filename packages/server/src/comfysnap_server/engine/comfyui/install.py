"""Installs a ComfyUI for the local backend, into a folder of its own, and finds it again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from comfysnap_server.engine.comfyui.release import PINNED_COMMIT, REPOSITORY

MARKER: Final = "installed.json"
"""Written last: what lies in the folder is whole."""
OURS: Final = ("pydantic>=2.9", "pillow")
"""What the engine needs besides ComfyUI's requirements."""
AGAIN: Final = "run the same command again: it goes on where it stopped"

Run = Callable[[Sequence[str]], None]
"""Runs a command.

Raises:
    InstallError: It failed; the message holds the end of what it said.
"""


class InstallError(Exception):
    """A step failed; what was done stays, and is not done again."""


@dataclass(frozen=True)
class Installed:
    """A ComfyUI and the interpreter that can import it."""

    path: str
    python: str
    commit: str | None = None


def default_folder() -> Path:
    """``COMFYSNAP_COMFYUI``, or ``comfysnap/comfyui`` in the user's data folder."""
    named = os.environ.get("COMFYSNAP_COMFYUI")
    if named:
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "comfysnap" / "comfyui"


def find_comfyui(folder: Path | None = None) -> Installed | None:
    """The ComfyUI to use: of ``COMFYUI_PATH`` and ``COMFYUI_PYTHON``, or the one installed here.

    Without ``COMFYUI_PYTHON``, the checkout's own ``venv`` or ``.venv`` counts, else this
    interpreter.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        return Installed(named, os.environ.get("COMFYUI_PYTHON") or _python_of(Path(named)))
    return read_installed(folder or default_folder())


def read_installed(folder: Path) -> Installed | None:
    """What an install left in ``folder``; None when there is none, or an unfinished one."""
    try:
        data: Any = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        found = Installed(str(data["path"]), str(data["python"]), str(data["commit"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    usable = Path(found.path).is_dir() and Path(found.python).exists()
    return found if usable else None


def install(
    folder: Path,
    *,
    commit: str = PINNED_COMMIT,
    repository: str = REPOSITORY,
    torch: str = "auto",
    run: Run | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Installed:
    """Check out ComfyUI at ``commit`` and install its requirements; steps that were done before
    are left out.

    Args:
        folder: Gets ``ComfyUI/`` and ``venv/``.
        commit: Full hash, tag or branch.
        repository: Where to fetch it from.
        torch: uv's ``--torch-backend``: ``auto``, ``cpu``, ``cu128``, ...; pip takes no notice.
        run: Runs commands.
        say: Told of each step, for people.

    Raises:
        InstallError: A step failed.
    """
    run = run or run_command
    folder = folder.absolute()
    checkout, python = folder / "ComfyUI", folder / "venv" / "bin" / "python"
    known = read_installed(folder)
    if known is not None and known.commit == commit:
        say(f"already there: {known.path}")
        return known
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).unlink(missing_ok=True)
    say(f"fetching ComfyUI {commit[:12]} into {checkout}")
    _check_out(checkout, repository, commit, run)
    if not python.exists():
        say(f"making an environment in {python.parents[1]}")
        _make_environment(python.parents[1], run)
    say("installing the requirements (torch is large: minutes)")
    _install_requirements(python, checkout, torch, run)
    installed = Installed(str(checkout), str(python), commit)
    part = folder / (MARKER + ".part")
    part.write_text(json.dumps(asdict(installed), indent=2), encoding="utf-8")
    part.replace(folder / MARKER)
    return installed


def _check_out(checkout: Path, repository: str, commit: str, run: Run) -> None:
    if shutil.which("git") is None:
        raise InstallError("git is not installed, and it fetches ComfyUI")
    git = ["git", "-C", str(checkout)]
    if not (checkout / ".git").is_dir():
        run(["git", "init", "--quiet", str(checkout)])
    for lock in ("index.lock", "shallow.lock"):  # of a git that was killed
        (checkout / ".git" / lock).unlink(missing_ok=True)
    try:
        run([*git, "cat-file", "-e", f"{commit}^{{commit}}"])
    except InstallError:
        run([*git, "fetch", "--quiet", "--depth=1", repository, commit])
        run([*git, "checkout", "--quiet", "--force", "FETCH_HEAD"])
    else:
        run([*git, "checkout", "--quiet", "--force", commit])


def _make_environment(folder: Path, run: Run) -> None:
    if shutil.which("uv"):
        run(["uv", "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)])
    else:
        run([sys.executable, "-m", "venv", str(folder)])


def _install_requirements(python: Path, checkout: Path, torch: str, run: Run) -> None:
    wanted = ["-r", str(checkout / "requirements.txt"), *OURS]
    if shutil.which("uv"):
        backend = f"--torch-backend={torch}"
        run(["uv", "pip", "install", "--quiet", "--python", str(python), backend, *wanted])
    else:
        run([str(python), "-m", "pip", "install", "--quiet", *wanted])


def run_command(command: Sequence[str]) -> None:
    """Run a command; git asks nobody for a password."""
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise InstallError(
            f"`{' '.join(command[:5])} ...` failed: {' / '.join(said[-3:]) or 'it said nothing'}"
        )


def _python_of(checkout: Path) -> str:
    for name in ("venv", ".venv"):
        python = checkout / name / "bin" / "python"
        if python.exists():
            return str(python)
    return sys.executable
