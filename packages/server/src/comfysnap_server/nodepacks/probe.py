"""Loads a ComfyUI and its node packs with CUDA hidden, to see what they do.

Runs as ``python -m comfysnap_server.nodepacks probe CHECKOUT`` in an interpreter with ComfyUI's
packages, so nothing else but the standard library, ``engine`` and packaging is imported here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from comfysnap_server.errors import CommandError

if TYPE_CHECKING:
    from comfysnap_server.engine.comfyui.engine import ComfyUIEngine

PROBE_TIMEOUT: Final = 600.0
"""Seconds."""
_PACKAGES: Final = ("comfysnap_schema", "comfysnap_server")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What loading a ComfyUI with CUDA hidden showed."""

    classes: Mapping[str, str]
    """Node class to its module: ``nodes``, ``comfy_extras.nodes_x``, ``custom_nodes.pack``."""
    packs: Mapping[str, str | None]
    """Pack to the error that kept it from loading; None if it loaded."""
    touched: Sequence[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    """Calls to CUDA by packs, each with pack, function, where and refused."""
    threads: Sequence[str] = ()
    """Packs that left threads running."""
    open_files: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Pack to the sockets and files it left open."""
    own_failures: Sequence[str] = ()
    """Files of ComfyUI's own nodes that could not be imported."""
    self_test: str | None = None
    """Error of a trivial graph; None if it ran."""


class ProbeError(CommandError):
    """ComfyUI cannot be loaded.

    Codes: ``timed_out``, ``load_failed`` (the message has the last lines of its output).
    """


def run_probe(comfyui: Path, python: str) -> Probe:
    """Load a ComfyUI in a new process, with CUDA hidden.

    Args:
        comfyui: The checkout, with the pinned packs in its custom_nodes.
        python: An interpreter with ComfyUI's packages.

    Raises:
        ProbeError: It cannot be loaded.
        OSError: The interpreter cannot be started.
    """
    roots = {str(Path(str(_origin(name))).parents[1]) for name in _PACKAGES}
    try:
        done = subprocess.run(
            [python, "-m", "comfysnap_server.nodepacks", "probe", str(comfyui)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sorted(roots))},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError("timed_out", f"timed out after {PROBE_TIMEOUT:.0f} s") from error
    found = [line for line in done.stdout.splitlines() if line.startswith('{"classes": ')]
    if done.returncode != 0 or not found:
        raise ProbeError("load_failed", "\n".join(done.stderr.strip().splitlines()[-15:]))
    return Probe(**json.loads(found[-1]))


def _origin(name: str) -> str | None:
    spec = find_spec(name)
    return spec.origin if spec else None


def probe(comfyui: str) -> None:
    """Print a ``Probe`` as one line of JSON."""
    from comfysnap_server.engine.comfyui.engine import ComfyUIEngine

    engine = ComfyUIEngine(path=comfyui, mask_cuda=True, api_nodes=True)
    engine.load()
    nodes: Any = sys.modules["nodes"]
    report = engine.report
    found: dict[str, Any] = {
        "classes": {
            name: getattr(kind, "RELATIVE_PYTHON_MODULE", "nodes")
            for name, kind in nodes.NODE_CLASS_MAPPINGS.items()
        },
        "packs": {pack.name: pack.reason for pack in report.packs},
        "touched": [
            {"pack": c.pack, "function": c.function, "where": c.where, "refused": c.refused}
            for c in report.masked_calls
            if c.pack != "comfyui"
        ],
        "threads": report.unsafe_to_fork,
        "open_files": {pack.name: pack.open_files for pack in report.packs if pack.open_files},
        "own_failures": report.own_failures,
        "self_test": _self_test(engine),  # last: what a job leaves open does not count
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def _self_test(engine: "ComfyUIEngine") -> str | None:
    from comfysnap_server.engine.comfyui.selftest import SelfTestError, self_test

    try:
        self_test(engine)
    except SelfTestError as error:
        return str(error)
    return None
