"""Installs the packs of a ``snapshot.json`` into ComfyUI, with their packages and scripts.

The image build runs it as ``python -m comfysnap_server.nodepacks install``, and ``comfysnap comfyui
nodes`` calls ``install_packs``. The report is written to ``comfysnap-nodes.json`` beside
``custom_nodes``. Packs are fetched first, with tokens; what runs after that may run their code, and
has none.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from comfysnap_server import pins
from comfysnap_server.errors import CommandError
from comfysnap_server.nodepacks.fetch import fetch_pack, remove
from comfysnap_server.nodepacks.manifest import GitPack, NodeManifest, Pack
from comfysnap_server.nodepacks.requirements import (
    PackRequirement,
    find_conflicts,
    installed_versions,
    read_requirements,
)
from comfysnap_server.nodepacks.sources import PackFetchError, Sources

REPORT_FILE: Final = "comfysnap-nodes.json"
PINNED: Final = (*pins.TORCH_NAMES, "triton")
"""Packages that keep the image's version: they are built for its CUDA and for each other."""
SCRIPT_TIMEOUT: Final = 1800.0
"""Seconds, for each command."""

Step = Literal["fetch", "install"]
"""Part of an installation: fetch the packs, or install what was fetched."""


@dataclass
class Report:
    """Result of an installation, by pack."""

    installed: list[str] = field(default_factory=list[str])
    commits: dict[str, str] = field(default_factory=dict[str, str])
    """Git pack to its full commit."""
    sha256: dict[str, str] = field(default_factory=dict[str, str])
    """Other pack to the SHA-256 of its archive or file."""
    disabled: list[str] = field(default_factory=list[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Required pack to the reason."""
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    """Optional pack to the reason."""
    conflicts: list[str] = field(default_factory=list[str])
    pips_left_out: dict[str, str] = field(default_factory=dict[str, str])


class PackInstallError(CommandError):
    """Required packs could not be installed; ``report.failed`` has the reasons.

    Code: ``packs_failed``.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__("packs_failed", ", ".join(report.failed))


@dataclass(frozen=True)
class Python:
    """The Python interpreter that ComfyUI runs in."""

    executable: str
    path: tuple[str, ...]
    """Its ``sys.path``."""
    environment: Mapping[str, str]

    @classmethod
    def at(cls, executable: str, environment: Mapping[str, str]) -> "Python":
        """Start an interpreter to read its ``sys.path``.

        Raises:
            OSError: It cannot be started.
            subprocess.CalledProcessError: It fails.
        """
        code = "import json, sys; print(json.dumps([p for p in sys.path if p]))"
        done = subprocess.run(
            [executable, "-I", "-c", code], capture_output=True, check=True, env=dict(environment)
        )
        return cls(executable, tuple(json.loads(done.stdout)), environment)

    def run(self, command: list[str], *, folder: Path | None = None) -> tuple[bool, str]:
        """Run a command; returns whether it succeeded, and its output."""
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
        self, arguments: list[str], *, keep: Mapping[str, str] | None = None, dry: bool = False
    ) -> tuple[bool, str]:
        """Install packages with uv, without changing the versions in ``keep`` (default: those
        installed now); returns whether it succeeded, and the output."""
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder) / "constraints.txt"
            pinned = exact(self.pinned() if keep is None else keep)
            constraints.write_text("\n".join([*pinned, *pins.WORKER]) + "\n", encoding="utf-8")
            command = ["uv", "pip", "install", "--python", self.executable]
            command += ["--constraints", str(constraints), *(["--dry-run"] if dry else [])]
            return self.run([*command, *arguments])

    def pinned(self) -> dict[str, str]:
        """Installed versions of the packages in ``PINNED``."""
        return installed_versions(PINNED, self.path)


class Installer:
    """An installation of a snapshot's packs into a ComfyUI checkout."""

    def __init__(self, manifest: NodeManifest, comfyui: Path) -> None:
        self.manifest = manifest
        self.custom_nodes = comfyui / "custom_nodes"
        self.report_file = comfyui / REPORT_FILE
        self.report = Report(disabled=list(manifest.disabled))
        self.packs: list[Pack] = list(manifest.packs)
        self.existing = {
            pack.folder for pack in manifest.packs if (self.custom_nodes / pack.folder).exists()
        }
        """Folders that existed before; they are not removed if their pack fails."""

    def resume(self) -> None:
        """Go on after a fetch by another process."""
        self.report = Report(**json.loads(self.report_file.read_text()))
        self.packs = [pack for pack in self.packs if pack.folder not in self.report.left_out]
        self.existing = set[str]()

    def run(self, *steps: Callable[[], None]) -> Report:
        """Run steps in order, and write the report.

        Raises:
            PackInstallError: A required pack could not be installed.
        """
        try:
            for step in steps:
                step()
                if self.report.failed:
                    raise PackInstallError(self.report)
        finally:
            self.report_file.write_text(json.dumps(asdict(self.report), indent=2))
        return self.report

    def install(self, python: "Python") -> Report:
        """Install the packages of the fetched packs and run their scripts.

        Raises:
            PackInstallError: A required pack could not be installed.
        """
        self.python = python
        self.run(self.resolve_conflicts, self.install_pips, self.install_requirements,
                 self.run_scripts)  # fmt: skip
        self.report.installed = [pack.folder for pack in self.packs]
        return self.run()

    def fetch(self, sources: Sources) -> None:
        """Fetch all packs, up to 8 at once."""
        self.custom_nodes.mkdir(parents=True, exist_ok=True)

        def fetch(pack: Pack) -> str | None:
            try:
                found = fetch_pack(pack, self.custom_nodes, sources)
            except PackFetchError as error:
                return f"{error.code}: {error}"
            is_git = isinstance(pack, GitPack)
            (self.report.commits if is_git else self.report.sha256)[pack.folder] = found
            return None

        packs = tuple(self.packs)
        with ThreadPoolExecutor(8) as pool:
            for pack, reason in zip(packs, pool.map(fetch, packs), strict=True):
                if reason:
                    self.drop(pack, reason)

    def resolve_conflicts(self) -> None:
        """Drop packs with conflicting requirements: optional ones first, one at a time."""
        while conflicts := find_conflicts(self.requirements(), self.python.pinned()):
            named = {each.pack for conflict in conflicts for each in conflict.requirements}
            concerned = [pack for pack in self.packs if pack.folder in named]
            optional = [pack for pack in concerned if not pack.required]
            for pack in optional[-1:] or concerned:
                own = [
                    str(conflict)
                    for conflict in conflicts
                    if any(each.pack == pack.folder for each in conflict.requirements)
                ]
                self.report.conflicts += [text for text in own if text not in self.report.conflicts]
                self.drop(pack, f"conflict: {'; '.join(own)}")

    def requirements(self) -> list[PackRequirement]:
        """Requirements of the packs that were not dropped."""
        return [
            requirement
            for pack in self.packs
            for requirement in read_requirements(pack.folder, self.requirements_file(pack))
        ]

    def install_pips(self) -> None:
        """Install the packages of the snapshot: together, or one by one if that fails."""
        wanted: list[str] = []
        for text in self.manifest.pips:
            try:
                name = canonicalize_name(Requirement(text).name)
            except InvalidRequirement:
                self.report.pips_left_out[text] = "not a valid requirement"
                continue
            if name in PINNED or name.startswith("nvidia-"):
                self.report.pips_left_out[text] = "the version of the image is kept"
            elif name != "comfysnap" and not name.startswith("comfysnap-"):
                wanted.append(text)
        if not wanted or self.python.install(wanted)[0]:
            return
        for text in wanted:
            done, output = self.python.install([text])
            if not done:
                self.report.pips_left_out[text] = last_lines(output)

    def install_requirements(self) -> None:
        """Install the requirements of all packs in one resolution."""
        self.drop_unresolvable()
        files = self.requirement_files(self.packs)
        if files and not self.report.failed:
            done, output = self.python.install(files)
            print_line(output)
            if not done:
                self.fail_all("packages", output)

    def drop_unresolvable(self) -> None:
        """Drop the packs whose requirements cannot be installed with those of the packs before."""
        together = self.requirement_files(self.packs)
        if not together or self.python.install(together, dry=True)[0]:
            return
        installable: list[Pack] = []
        for pack in sorted(self.packs, key=lambda pack: not pack.required):
            files = self.requirement_files([*installable, pack])
            done, output = self.python.install(files, dry=True) if files else (True, "")
            if done:
                installable.append(pack)
            else:
                self.drop(pack, f"packages: {last_lines(output)}")

    def run_scripts(self) -> None:
        """Run each pack's ``install.py``; undo changes to ``PINNED`` and drop the pack."""
        before = self.python.pinned()
        for pack in tuple(self.packs):
            folder = self.custom_nodes / pack.folder
            if not (folder / "install.py").is_file():
                continue
            done, output = self.python.run([self.python.executable, "install.py"], folder=folder)
            print_line(output)
            if not done:
                self.drop(pack, f"install.py: {last_lines(output)}")
            elif (now := self.python.pinned()) != before:
                changed = ", ".join(set(exact(now)) ^ set(exact(before)))
                self.drop(pack, f"install.py changed {changed}")
                done, output = self.python.install(exact(before), keep=before)
                if not done:
                    self.fail_all(f"restoring what {pack.folder} changed", output)

    def drop(self, pack: Pack, reason: str) -> None:
        """Do not install a pack; if it is required, the installation fails."""
        self.packs.remove(pack)
        outcome = self.report.failed if pack.required else self.report.left_out
        outcome[pack.folder] = reason
        if pack.folder not in self.existing:
            remove(self.custom_nodes / pack.folder)

    def fail_all(self, step: str, output: str) -> None:
        """Make the installation fail when no single pack is the cause."""
        self.report.failed[step] = last_lines(output)

    def requirements_file(self, pack: Pack) -> Path:
        """Path of a pack's requirements.txt."""
        return self.custom_nodes / pack.folder / "requirements.txt"

    def requirement_files(self, packs: Iterable[Pack]) -> list[str]:
        """Options for uv: the requirements.txt of each pack that has one."""
        files = [self.requirements_file(pack) for pack in packs]
        return [part for file in files if file.is_file() for part in ("-r", str(file))]


def exact(versions: Mapping[str, str]) -> list[str]:
    """Requirements for exactly these versions."""
    return [f"{name}=={version}" for name, version in versions.items()]


def last_lines(text: str, count: int = 12) -> str:
    """The last ``count`` lines of a log."""
    return "\n".join(text.strip().splitlines()[-count:])


def print_line(text: str) -> None:
    """Print to the build's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_report(report: Report) -> None:
    """Print a report for people."""
    for pack in report.installed:
        commit, digest = report.commits.get(pack), report.sha256.get(pack, "")
        print_line(f"  installed  {pack} " + (f"at {commit}" if commit else f"sha256 {digest}"))
    for pack in report.disabled:
        print_line(f"  disabled   {pack}")
    for pack, reason in report.left_out.items():
        print_line(f"  SKIPPED    {pack} (optional): {reason}")
    for pip, reason in report.pips_left_out.items():
        print_line(f"  skipped    {pip}: {reason}")
    for pack, reason in report.failed.items():
        print_line(f"  FAILED     {pack}: {reason}")


def install_packs(
    manifest: NodeManifest,
    comfyui: Path,
    sources: Sources,
    python: str = sys.executable,
    *,
    step: Step | None = None,
) -> Report:
    """Install node packs into a ComfyUI checkout.

    After the fetch, the variables with the tokens are removed from this process: it starts code of
    packs, which could read them.

    Args:
        manifest: The packs and packages.
        comfyui: Folder of the checkout.
        sources: Where packs are fetched from.
        python: Interpreter that ComfyUI runs in; uv is looked up in its folder, then in PATH.
        step: Only fetch, or only install what an earlier call fetched. None: both.

    Raises:
        PackInstallError: A required pack could not be installed, or git or uv is missing.
        OSError: The interpreter cannot be started.
        subprocess.CalledProcessError: The interpreter fails.
    """
    comfyui = comfyui.resolve()
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", os.defpath)])
    missing = {
        name: f"not found; {advice}"
        for name, advice in (("git", "install git"), ("uv", "install it: pip install uv"))
        if shutil.which(name, path=path) is None
    }
    if missing:
        raise PackInstallError(Report(failed=missing))
    installer = Installer(manifest, comfyui)
    if step == "install":
        installer.resume()
    else:
        installer.run(lambda: installer.fetch(sources))
    if step == "fetch":
        return installer.report
    sources.forget_tokens()
    environment = {**os.environ, "COMFYUI_PATH": os.fspath(comfyui), "PATH": path}
    return installer.install(Python.at(python, environment))
