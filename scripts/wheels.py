"""Build the wheels, and go through the first hour with them: ``make wheels``.

Each environment is new and has nothing of this clone: one for each Python that is found here, and
one with the lowest dependencies that the packages allow.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from release import PROJECTS, ROOT, version_of

PYTHONS = ("3.11", "3.12", "3.13")
LOWEST = "3.11"
"""Python of the environment with the lowest dependencies."""
STEP_S = 300.0
_MODULES = {
    "comfysnap": None, "comfysnap_schema": "comfysnap_schema",
    "comfysnap_client": "comfysnap_client", "comfysnap_server": "comfysnap_server",
}  # fmt: skip


class WheelError(Exception):
    """A wheel, or a step with it, is not what it must be."""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command without anything of this clone in its environment; return what it printed."""
    hidden = re.compile(r"(COMFY|COMFYSNAP_|PYTHON|PYTEST_|VIRTUAL_ENV|UV_PROJECT|COVERAGE_)")
    environment = {k: v for k, v in os.environ.items() if not hidden.match(k)} | variables
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=STEP_S, check=False,
    )  # fmt: skip
    if done.returncode:
        words = " ".join(str(part) for part in command)
        raise WheelError(f"{words}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> None:
    """Build each package: a source distribution, and the wheel from it."""
    run("uv", "build", "--quiet", "--all-packages", "--out-dir", folder, cwd=ROOT)


def check_wheel(wheel: Path, version: str) -> None:
    """Check what a wheel has: metadata, licence, types, and no file that is not its own."""
    name = wheel.name.partition("-")[0]
    module = _MODULES[name]
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        info = f"{name}-{version}.dist-info"
        metadata = HeaderParser().parsestr(opened.read(f"{info}/METADATA").decode())
        required = {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"}
    if module is not None:
        required.add(f"{module}/py.typed")
    problems = [f"has no {path}" for path in sorted(required - set(names))]
    problems += [
        f"has a file that is not its own: {path}"
        for path in names
        if path.partition("/")[0] not in (info, module)
    ]
    for key in ("Summary", "License-Expression", "Requires-Python", "Classifier"):
        if not metadata.get_all(key):
            problems.append(f"has no {key}")
    if len(metadata.get_payload()) < 200:
        problems.append("has no README")
    if metadata["Version"] != version:
        problems.append(f"has version {metadata['Version']}")
    if problems:
        raise WheelError("\n".join(f"{wheel.name} {problem}" for problem in problems))


def find_python(version: str) -> Path | None:
    """An interpreter of this version on this machine, also one of pyenv that is not active."""
    command = ["uv", "python", "find", "--no-python-downloads", "--no-project", version]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return Path(found.stdout.strip())
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return next(iter(sorted(pyenv.glob(f"versions/{version}.*/bin/python"))), None)


def lowest(folder: Path) -> Path:
    """A file of constraints: the lowest version of each declared dependency."""
    file = folder / "lowest.txt"
    run(
        "uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--all-extras",
        "--python-version", LOWEST, "--no-header", "--no-annotate",
        *(f"--no-emit-package={name.replace('_', '-')}" for name in _MODULES),
        "-o", file, *PROJECTS, cwd=ROOT,
    )  # fmt: skip
    return file


def install(
    place: Path, python: Path, wheels: Path, version: str, constraints: Path | None
) -> Path:
    """Install the wheels into a new environment, with pip or, to the lowest versions, with uv.

    Returns:
        The folder of its commands.
    """
    env = place / "env"
    run("uv", "venv", "--quiet", "--seed", "--no-project", "--python", python, env, cwd=place)
    commands = env / ("Scripts" if sys.platform == "win32" else "bin")
    wanted = ("--find-links", wheels, f"comfysnap[store,testing]=={version}")
    if constraints is None:
        pip = (commands / "python", "-m", "pip")
        run(*pip, "install", "--quiet", "--disable-pip-version-check", *wanted, cwd=place)
        run(*pip, "check", cwd=place)
    else:
        options = ("--quiet", "--python", env, "--constraints", constraints)
        run("uv", "pip", "install", *options, *wanted, cwd=place)
    return commands


def first_hour(place: Path, commands: Path, version: str) -> None:
    """Go through what a newcomer does, with the installed command."""
    comfysnap = commands / "comfysnap"
    python = commands / "python"
    code = "import comfysnap_{0} as m; print(m.__file__)"
    for module in ("schema", "client", "server"):
        found = Path(run(python, "-c", code.format(module), cwd=place).strip())
        if (place / "env").resolve() not in found.resolve().parents:
            raise WheelError(f"{found} is not in the environment")
    _expect(f"comfysnap {version}", run(comfysnap, "--version", cwd=place))
    _expect("saved", run(comfysnap, "demo", "a red fox", cwd=place))
    if not list(place.glob("comfysnap-out/*.png")):
        raise WheelError("comfysnap demo saved no picture")
    run(comfysnap, "init", "shop", cwd=place)
    shop = place / "shop"
    _expect("hello", run(comfysnap, "deploy", "--dry-run", cwd=shop))
    export = ROOT / "workflows" / "flux" / "graph.json"
    _expect("next: comfysnap generate", run(comfysnap, "new", "postcard", export, cwd=shop))
    run(comfysnap, "generate", cwd=shop)
    run(comfysnap, "generate", "--check", cwd=shop)
    run(comfysnap, "check", cwd=shop)
    _expect("1 passed", run(python, "-m", "pytest", "-q", cwd=shop))
    downstream = place / "downstream"
    shutil.copytree(ROOT / "tests" / "downstream" / "project", downstream)
    _expect(" passed", run(python, "-m", "pytest", "-q", cwd=downstream))


def _expect(text: str, printed: str) -> None:
    if text not in printed:
        raise WheelError(f"expected {text!r}, got:\n{printed}")


def main() -> int:
    """Build, check and try the wheels; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="keep the distributions in this folder")
    parser.add_argument(
        "--build-only", action="store_true", help="build and check, install nothing"
    )
    options = parser.parse_args()
    version = version_of(ROOT)
    with tempfile.TemporaryDirectory(prefix="comfysnap-wheels-") as folder:
        place = Path(folder)
        out: Path = (options.out or place / "dist").resolve()
        build(out)
        wheels = sorted(out.glob(f"comfysnap*-{version}-py3-none-any.whl"))
        if len(wheels) != len(_MODULES):
            raise WheelError(f"expected {len(_MODULES)} wheels, got {[w.name for w in wheels]}")
        for wheel in wheels:
            check_wheel(wheel, version)
        print(f"built {', '.join(wheel.name for wheel in wheels)}", flush=True)
        if not options.build_only:
            return _try_all(place, out, version)
    return 0


def _try_all(place: Path, wheels: Path, version: str) -> int:
    runs: list[tuple[str, str, Path | None]] = [(f"Python {one}", one, None) for one in PYTHONS]
    runs.append((f"Python {LOWEST}, lowest dependencies", LOWEST, lowest(place)))
    for number, (title, wanted, constraints) in enumerate(runs):
        python = find_python(wanted)
        if python is None:
            print(f"{title}: skipped, there is no Python {wanted} here", flush=True)
            continue
        started = time.monotonic()
        room = place / str(number)
        room.mkdir()
        first_hour(room, install(room, python, wheels, version, constraints), version)
        print(f"{title}: passed in {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WheelError as failure:
        sys.exit(f"error: {failure}")
