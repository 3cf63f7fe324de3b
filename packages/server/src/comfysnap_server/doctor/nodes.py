"""Node classes against the pinned packs, and what loading a ComfyUI without GPU shows."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from comfysnap_schema.workflow import Workflow
from comfysnap_server.deploy import DeploySettings
from comfysnap_server.doctor.symptoms import Level, Symptom
from comfysnap_server.nodepacks import NodeSnapshot

PROBE_TIMEOUT: Final = 600.0
CUSTOM: Final = "custom_nodes."
PAID: Final = "comfy_api_nodes."
"""Module of the nodes that call services which cost money."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What a ComfyUI said when it was loaded with CUDA hidden."""

    classes: Mapping[str, str]
    """Node class to its module: ``nodes``, ``comfy_extras.nodes_x``, ``custom_nodes.pack``."""
    packs: Mapping[str, str | None]
    """Pack to why it did not load; None when it did."""
    touched: Sequence[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    """Calls to CUDA that packs made: pack, function, where, refused."""
    threads: Sequence[str] = ()
    """Packs that left threads behind."""
    open_files: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Pack to the sockets and files it left open."""
    own_failures: Sequence[str] = ()
    """Files of ComfyUI's own nodes that could not be imported."""
    self_test: str | None = None
    """Why a trivial graph did not run; None when it did."""


class ProbeError(Exception):
    """ComfyUI could not be loaded; the message ends with what it said."""


def probe(comfyui: Path, python: str) -> Probed:
    """Load a ComfyUI in a process of its own, with CUDA hidden.

    Args:
        comfyui: The checkout, with the pinned packs in its custom_nodes.
        python: An interpreter that has ComfyUI's packages.

    Raises:
        ProbeError: It does not load.
    """
    roots = {str(Path(str(_origin(name))).parents[1]) for name in _OURS}
    try:
        done = subprocess.run(
            [python, "-m", "comfysnap_server.doctor.probe_process", str(comfyui)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sorted(roots))},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"it took over {PROBE_TIMEOUT:.0f} s") from error
    found = [line for line in done.stdout.splitlines() if line.startswith('{"classes": ')]
    if done.returncode != 0 or not found:
        raise ProbeError("\n".join(done.stderr.strip().splitlines()[-15:]))
    return Probed(**json.loads(found[-1]))


_OURS: Final = ("comfysnap_schema", "comfysnap_server")


def _origin(name: str) -> str | None:
    spec = find_spec(name)
    return spec.origin if spec else None


def check_nodes(
    settings: DeploySettings,
    workflows: Sequence[Workflow],
    nodes: NodeSnapshot | None,
    probed: Probed | None,
) -> Iterator[Symptom]:
    """Node classes that the deployment does not provide, and packs whose commit is not written in
    full."""
    yield from _short_commits(nodes)
    pinned = {_plain(pack.folder) for pack in nodes.packs} if nodes else set[str]()
    disabled = {_plain(name) for name in nodes.disabled} if nodes else set[str]()
    for workflow in workflows:
        for class_type in sorted({node["class_type"] for node in workflow.graph.values()}):
            module = _module(workflow, class_type, probed)
            where = f"{workflow.name}: {class_type}"
            if module is None:
                yield _unknown(where, class_type, probed)
            elif module.startswith(CUSTOM):
                pack = module.removeprefix(CUSTOM).partition(".")[0]
                if _plain(pack) in disabled:
                    message = f"it comes from {pack}, which the snapshot disables"
                    yield Symptom(Level.ERROR, "class_not_pinned", where, message)
                elif _plain(pack) not in pinned:
                    message = f"it comes from {pack}, which no snapshot pins (deploy.nodes)"
                    yield Symptom(Level.ERROR, "class_not_pinned", where, message)
            elif module.startswith(PAID) and settings.api_key_secret is None:
                message = (
                    "a paid API node: name a secret with COMFY_ORG_API_KEY in deploy.api_key_secret"
                )
                yield Symptom(Level.ERROR, "api_key_missing", where, message)


def _short_commits(nodes: NodeSnapshot | None) -> Iterator[Symptom]:
    for pack in nodes.short_commits if nodes else ():
        message = (
            f"{pack.commit} is a short hash, which another commit may come to share; write all 40 "
            "digits, or run `comfysnap comfyui nodes SNAPSHOT --write-back`"
        )
        yield Symptom(Level.WARNING, "short_commit", f"git_custom_nodes.{pack.url}", message)


def _module(workflow: Workflow, class_type: str, probed: Probed | None) -> str | None:
    if probed is not None and class_type in probed.classes:
        return probed.classes[class_type]
    definition = workflow.catalogue.get(class_type) if workflow.catalogue else None
    return definition.module if definition else None


def _unknown(where: str, class_type: str, probed: Probed | None) -> Symptom:
    if probed is not None:
        message = f"ComfyUI on this machine, with its packs, has no class {class_type!r}"
        return Symptom(Level.ERROR, "unknown_class", where, message)
    message = "no nodes.json tells where it comes from; run the doctor with --comfyui"
    return Symptom(Level.NOTE, "unknown_class", where, message)


def check_probe(settings: DeploySettings, probed: Probed) -> Iterator[Symptom]:
    """A ComfyUI that cannot run a job, packs that do not load, want the GPU too early, or leave
    behind what a snapshot minds."""
    if probed.self_test is not None:
        yield Symptom(Level.ERROR, "comfyui_cannot_run", "ComfyUI", probed.self_test)
    for name in probed.own_failures:
        message = "could not be imported, so its node classes are missing; see ComfyUI's log"
        yield Symptom(Level.WARNING, "core_nodes_missing", name, message)
    for pack, reason in probed.packs.items():
        if reason is not None:
            yield Symptom(Level.ERROR, "pack_not_loaded", pack, reason)
    if settings.snapshot == "cpu":
        yield from _check_masked_load(settings, probed)


def _check_masked_load(settings: DeploySettings, probed: Probed) -> Iterator[Symptom]:
    early: dict[str, Mapping[str, Any]] = {}
    for call in probed.touched:
        pack = str(call["pack"])
        if pack not in early or call["refused"]:
            early[pack] = call
    for pack, call in early.items():
        if _plain(pack) in {_plain(name) for name in settings.after_restore}:
            continue
        advice = f'if it misbehaves, add it to after_restore = ["{pack}"]'
        message = f"asks torch.cuda.{call['function']} while it loads, at {call['where']}; {advice}"
        level = Level.ERROR if call["refused"] else Level.WARNING
        yield Symptom(level, "cuda_touched_in_load", pack, message)
    for pack, files in probed.open_files.items():
        message = f"leaves {', '.join(files)} open, which can break snapshots"
        yield Symptom(Level.WARNING, "open_after_load", pack, message)


def _plain(pack: str) -> str:
    return pack.lower().removesuffix(".py").replace("_", "-")
