"""Installs a ``snapshot.json`` into a ComfyUI folder: packs, their packages, their scripts.

The image build runs it as ``python -m comfysnap_server.nodepacks.install``, and ``comfysnap
comfyui nodes`` calls ``install_snapshot``. It prints what it did and writes it to
``comfysnap-nodes.json`` beside ``custom_nodes``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from comfysnap_server.nodepacks.fetch import FetchError, Sources, fetch_pack, remove
from comfysnap_server.nodepacks.manifest import (
    NodeSnapshot,
    Pack,
    SnapshotError,
    read_snapshot,
)
from comfysnap_server.nodepacks.requirements import (
    PackRequirement,
    find_conflicts,
    installed_versions,
    read_requirements,
)

REPORT_FILE: Final = "comfysnap-nodes.json"
PINNED: Final = ("torch", "torchvision", "torchaudio", "triton")
"""Packages that stay at the image's version: built for its CUDA, and for each other."""
OURS: Final = ("pydantic>=2.12", "pillow>=11", "packaging>=26.1")
"""What the worker beside ComfyUI needs; the dependency group ``worker``."""
SCRIPT_TIMEOUT: Final = 1800.0


@dataclass
class Report:
    """What became of every pack."""

    installed: list[str] = field(default_factory=list[str])
    commits: dict[str, str] = field(default_factory=dict[str, str])
    """Full commits of the git packs that were fetched."""
    disabled: list[str] = field(default_factory=list[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Required packs, with the reason."""
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    """Optional packs, with the reason."""
    conflicts: list[str] = field(default_factory=list[str])
    pips_left_out: dict[str, str] = field(default_factory=dict[str, str])


class InstallError(Exception):
    """Required packs could not be installed; ``report`` names each with its reason."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(", ".join(report.failed))


@dataclass(frozen=True)
class Python:
    """The interpreter that ComfyUI runs in."""

    executable: str
    path: tuple[str, ...]
    """Its ``sys.path``."""
    environment: Mapping[str, str]

    @classmethod
    def at(cls, executable: str, environment: Mapping[str, str]) -> "Python":
        """PackRequirement an interpreter for its path."""
        code = "import json, sys; print(json.dumps([p for p in sys.path if p]))"
        done = subprocess.run([executable, "-I", "-c", code], capture_output=True, check=True)
        return cls(executable, tuple(json.loads(done.stdout)), environment)

    def run(self, command: list[str], *, folder: Path | None = None) -> tuple[bool, str]:
        """Whether a command went well, and what it said."""
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=dict(self.environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=SCRIPT_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            return False, f"timed out after {SCRIPT_TIMEOUT:.0f} s"
        return done.returncode == 0, done.stdout

    def install(
        self, arguments: list[str], *, kept: Mapping[str, str] | None = None, dry: bool = False
    ) -> tuple[bool, str]:
        """Install packages with uv, held to the versions in ``kept`` (default: as installed)."""
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder) / "constraints.txt"
            held = exact(self.kept() if kept is None else kept)
            constraints.write_text("\n".join([*held, *OURS]) + "\n", encoding="utf-8")
            command = ["uv", "pip", "install", "--python", self.executable]
            command += ["--constraints", str(constraints), *(["--dry-run"] if dry else [])]
            return self.run([*command, *arguments])

    def kept(self) -> dict[str, str]:
        """Installed versions of ``PINNED``."""
        return installed_versions(PINNED, self.path)


class Installer:
    """One installation; its steps run in the order of ``run``."""

    def __init__(
        self, snapshot: NodeSnapshot, comfyui: Path, sources: Sources, python: Python
    ) -> None:
        self.snapshot = snapshot
        self.custom_nodes = comfyui / "custom_nodes"
        self.comfyui = comfyui
        self.sources = sources
        self.python = python
        self.report = Report(disabled=list(snapshot.disabled))
        self.packs: list[Pack] = list(snapshot.packs)
        self.existing = {
            pack.folder for pack in snapshot.packs if (self.custom_nodes / pack.folder).exists()
        }
        """Folders that were there before; they are not removed when their pack fails."""

    def run(self) -> Report:
        """Install everything.

        Raises:
            InstallError: A required pack failed.
        """
        try:
            for step in (self.fetch, self.settle_conflicts, self.install_pips,
                         self.install_requirements, self.run_scripts):  # fmt: skip
                step()
                if self.report.failed:
                    raise InstallError(self.report)
            self.report.installed = [pack.folder for pack in self.packs]
        finally:
            (self.comfyui / REPORT_FILE).write_text(json.dumps(asdict(self.report), indent=2))
        return self.report

    def fetch(self) -> None:
        """Fetch all packs, several at once."""
        self.custom_nodes.mkdir(parents=True, exist_ok=True)

        def fetch(pack: Pack) -> str | None:
            try:
                commit = fetch_pack(pack, self.custom_nodes, self.sources)
            except FetchError as error:
                return f"{error.code}: {error}"
            if commit:
                self.report.commits[pack.folder] = commit
            return None

        packs = tuple(self.packs)
        with ThreadPoolExecutor(8) as pool:
            for pack, reason in zip(packs, pool.map(fetch, packs), strict=True):
                if reason:
                    self.give_up(pack, reason)

    def settle_conflicts(self) -> None:
        """Leave out the optional packs that take part in a conflict; the others fail."""
        while conflicts := find_conflicts(self.asks(), self.python.kept()):
            named = {ask.pack for conflict in conflicts for ask in conflict.asks}
            concerned = [pack for pack in self.packs if pack.folder in named]
            optional = [pack for pack in concerned if not pack.required]
            for pack in optional[-1:] or concerned:
                said = [str(c) for c in conflicts if any(a.pack == pack.folder for a in c.asks)]
                self.report.conflicts += [
                    text for text in said if text not in self.report.conflicts
                ]
                self.give_up(pack, f"conflict: {'; '.join(said)}")

    def asks(self) -> list[PackRequirement]:
        """What the packs that are still in ask for."""
        return [
            ask
            for pack in self.packs
            for ask in read_requirements(pack.folder, self.requirements_file(pack))
        ]

    def install_pips(self) -> None:
        """Install the frozen packages: together, or one by one when some cannot be had here."""
        wanted: list[str] = []
        for text in self.snapshot.pips:
            try:
                name = canonicalize_name(Requirement(text).name)
            except InvalidRequirement:
                self.report.pips_left_out[text] = "cannot be read"
                continue
            if name in PINNED or name.startswith("nvidia-"):
                self.report.pips_left_out[text] = "the image has its own"
            elif name != "comfysnap" and not name.startswith("comfysnap-"):
                wanted.append(text)
        if not wanted or self.python.install(wanted)[0]:
            return
        for text in wanted:
            done, said = self.python.install([text])
            if not done:
                self.report.pips_left_out[text] = last_lines(self.sources.redact(said))

    def install_requirements(self) -> None:
        """Install what the packs ask for, in one resolution."""
        self.drop_unresolvable()
        files = self.requirement_files(self.packs)
        if files and not self.report.failed:
            done, said = self.python.install(files)
            say(self.sources.redact(said))
            if not done:
                self.fail_all("packages", said)

    def drop_unresolvable(self) -> None:
        """Find the packs whose packages cannot be had beside those of the ones before."""
        together = self.requirement_files(self.packs)
        if not together or self.python.install(together, dry=True)[0]:
            return
        standing: list[Pack] = []
        for pack in sorted(self.packs, key=lambda pack: not pack.required):
            files = self.requirement_files([*standing, pack])
            done, said = self.python.install(files, dry=True) if files else (True, "")
            if done:
                standing.append(pack)
            else:
                self.give_up(pack, f"packages: {last_lines(self.sources.redact(said))}")

    def run_scripts(self) -> None:
        """Run each pack's ``install.py``, and see that none changed what must stay."""
        kept = self.python.kept()
        for pack in tuple(self.packs):
            folder = self.custom_nodes / pack.folder
            if not (folder / "install.py").is_file():
                continue
            done, said = self.python.run([self.python.executable, "install.py"], folder=folder)
            say(self.sources.redact(said))
            if not done:
                self.give_up(pack, f"install.py: {last_lines(self.sources.redact(said))}")
            elif (now := self.python.kept()) != kept:
                changed = ", ".join(set(exact(now)) ^ set(exact(kept)))
                self.give_up(pack, f"install.py changed {changed}")
                done, said = self.python.install(exact(kept), kept=kept)
                if not done:
                    self.fail_all(f"putting back what {pack.folder} changed", said)

    def give_up(self, pack: Pack, reason: str) -> None:
        """Take a pack out; a required one makes the installation fail."""
        self.packs.remove(pack)
        outcome = self.report.failed if pack.required else self.report.left_out
        outcome[pack.folder] = reason
        if pack.folder not in self.existing:
            remove(self.custom_nodes / pack.folder)

    def fail_all(self, what: str, said: str) -> None:
        """Fail without a single pack to blame."""
        self.report.failed[what] = last_lines(self.sources.redact(said))

    def requirements_file(self, pack: Pack) -> Path:
        """Where a pack lists its packages."""
        return self.custom_nodes / pack.folder / "requirements.txt"

    def requirement_files(self, packs: Iterable[Pack]) -> list[str]:
        """Options that name the requirement files there are."""
        files = [self.requirements_file(pack) for pack in packs]
        return [part for file in files if file.is_file() for part in ("-r", str(file))]


def exact(versions: Mapping[str, str]) -> list[str]:
    """Requirements for these versions."""
    return [f"{name}=={version}" for name, version in versions.items()]


def last_lines(text: str, count: int = 12) -> str:
    """The end of a log."""
    return "\n".join(text.strip().splitlines()[-count:])


def say(text: str) -> None:
    """A line of the build's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_report(report: Report) -> None:
    """The report for people."""
    for pack in report.installed:
        commit = report.commits.get(pack)
        say(f"  installed  {pack}" + (f" at {commit}" if commit else ""))
    for pack in report.disabled:
        say(f"  disabled   {pack}")
    for pack, reason in report.left_out.items():
        say(f"  LEFT OUT   {pack} (optional): {reason}")
    for pip, reason in report.pips_left_out.items():
        say(f"  not taken  {pip}: {reason}")
    for pack, reason in report.failed.items():
        say(f"  FAILED     {pack}: {reason}")


def install_snapshot(
    snapshot: NodeSnapshot, comfyui: Path, sources: Sources, python: str = sys.executable
) -> Report:
    """Install node packs into a ComfyUI checkout.

    Args:
        snapshot: What to install.
        comfyui: The checkout.
        sources: Where packs come from.
        python: The interpreter that ComfyUI runs in; its folder is searched for uv first.

    Raises:
        InstallError: A required pack failed, or git or uv is missing.
        OSError: The interpreter cannot be started.
        subprocess.CalledProcessError: The interpreter does not work.
    """
    comfyui = comfyui.resolve()
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", os.defpath)])
    missing = {
        name: f"not found; {advice}"
        for name, advice in (("git", "install git"), ("uv", "install it: pip install uv"))
        if shutil.which(name, path=path) is None
    }
    if missing:
        raise InstallError(Report(failed=missing))
    environment = sources.without_tokens() | {"COMFYUI_PATH": os.fspath(comfyui), "PATH": path}
    return Installer(snapshot, comfyui, sources, Python.at(python, environment)).run()


class Arguments(argparse.Namespace):
    """The command line."""

    snapshot: Path
    comfyui: Path
    registry: str
    token: list[str]
    pause: float
    python: str


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 when a required pack failed."""
    parser = argparse.ArgumentParser(prog="nodepacks.install", description=__doc__)
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--registry", default=Sources.registry)
    parser.add_argument("--token", action="append", default=[], metavar="HOST=VARIABLE")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--pause", type=float, default=Sources.pause, help="between attempts, in s")
    given = parser.parse_args(arguments, namespace=Arguments())
    sources = Sources(
        registry=given.registry,
        files=given.snapshot.parent / "custom_nodes",
        tokens=dict(pair.split("=", 1) for pair in given.token),
        pause=given.pause,
    )
    try:
        snapshot = read_snapshot(given.snapshot)
    except SnapshotError as error:
        say(f"{given.snapshot}: {error}")
        return 1
    try:
        print_report(install_snapshot(snapshot, given.comfyui, sources, given.python))
    except InstallError as error:
        print_report(error.report)
        say(f"required node packs failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
