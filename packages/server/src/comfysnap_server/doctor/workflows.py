"""Checks what workflows need: node classes against the pinned packs, models against the list."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from comfysnap_schema.workflow import Workflow
from comfysnap_server.deploy import Deployment, DeploySettings
from comfysnap_server.doctor.issue import Level, ProjectIssue
from comfysnap_server.models import ModelReference, model_references, unused_files
from comfysnap_server.nodepacks import NodeManifest, Probe

CUSTOM: Final = "custom_nodes."
"""Prefix of the modules of node packs."""
PAID: Final = "comfy_api_nodes."
"""Prefix of the modules whose nodes call paid services."""


def check_nodes(
    settings: DeploySettings,
    workflows: Sequence[Workflow],
    nodes: NodeManifest | None,
    probe: Probe | None,
) -> Iterator[ProjectIssue]:
    """Find node classes that no pinned pack provides, and packs with a short commit."""
    yield from _short_commits(nodes)
    pinned = {_normalized(pack.folder) for pack in nodes.packs} if nodes else set[str]()
    disabled = {_normalized(name) for name in nodes.disabled} if nodes else set[str]()
    for workflow in workflows:
        for class_type in sorted({node["class_type"] for node in workflow.graph.values()}):
            module = _module(workflow, class_type, probe)
            where = f"{workflow.name}: {class_type}"
            if module is None:
                yield _unknown(where, class_type, probe)
            elif module.startswith(CUSTOM):
                pack = module.removeprefix(CUSTOM).partition(".")[0]
                if _normalized(pack) in disabled:
                    message = f"{pack} provides this class and is disabled in the snapshot"
                    yield ProjectIssue.error("class_not_pinned", where, message)
                elif _normalized(pack) not in pinned:
                    message = (
                        f"{pack} provides this class and is not in the snapshot (deploy.nodes)"
                    )
                    yield ProjectIssue.error("class_not_pinned", where, message)
            elif module.startswith(PAID) and settings.api_key_secret is None:
                message = (
                    "a paid API node; set deploy.api_key_secret to a secret with COMFY_ORG_API_KEY"
                )
                fix = '[deploy]\napi_key_secret = "comfy-org"'
                yield ProjectIssue.error("api_key_missing", where, message, fix)


def _short_commits(nodes: NodeManifest | None) -> Iterator[ProjectIssue]:
    for pack in nodes.short_commits if nodes else ():
        message = (
            f"{pack.commit} is a short hash, which can become ambiguous; use all 40 digits, or run "
            "`comfysnap comfyui nodes SNAPSHOT --write-back`"
        )
        yield ProjectIssue.warning("short_commit", f"git_custom_nodes.{pack.url}", message)


def _module(workflow: Workflow, class_type: str, probe: Probe | None) -> str | None:
    if probe is not None and class_type in probe.classes:
        return probe.classes[class_type]
    definition = workflow.catalogue.get(class_type) if workflow.catalogue else None
    return definition.module if definition else None


def _unknown(where: str, class_type: str, probe: Probe | None) -> ProjectIssue:
    if probe is not None:
        message = f"unknown class {class_type!r} in ComfyUI on this machine and its packs"
        return ProjectIssue.error("unknown_class", where, message)
    message = "cannot determine which node pack provides this class; use --comfyui"
    return ProjectIssue.note("unknown_class", where, message)


def check_probe(settings: DeploySettings, probe: Probe) -> Iterator[ProjectIssue]:
    """Find what keeps ComfyUI from running a job, and packs that fail to load, use CUDA while they
    load, or leave files open, which can break a snapshot."""
    if probe.self_test is not None:
        yield ProjectIssue.error("comfyui_cannot_run", "ComfyUI", probe.self_test)
    for name in probe.own_failures:
        message = "import failed, so its node classes are missing; see ComfyUI's log"
        yield ProjectIssue.warning("core_nodes_missing", name, message)
    for pack, reason in probe.packs.items():
        if reason is not None:
            yield ProjectIssue.error("pack_not_loaded", pack, reason)
    if settings.snapshot == "cpu":
        yield from _check_masked_load(settings, probe)


def _check_masked_load(settings: DeploySettings, probe: Probe) -> Iterator[ProjectIssue]:
    early: dict[str, Mapping[str, Any]] = {}
    for call in probe.touched:
        pack = str(call["pack"])
        if call["function"] == "current_device":
            continue  # the engine gives such a pack the true device later (pack_devices.py)
        if pack not in early or call["refused"]:
            early[pack] = call
    for pack, call in early.items():
        if _normalized(pack) in {_normalized(name) for name in settings.after_restore}:
            continue
        advice = f'if it fails on the GPU, set after_restore = ["{pack}"]'
        message = (
            f"calls torch.cuda.{call['function']} while it loads, at {call['where']}; {advice}"
        )
        level = Level.ERROR if call["refused"] else Level.WARNING
        listed = ", ".join(f'"{name}"' for name in (*settings.after_restore, pack))
        fix = f"[deploy]\nafter_restore = [{listed}]"
        yield ProjectIssue(level, "cuda_touched_in_load", pack, message, fix)
    for pack, files in probe.open_files.items():
        message = f"leaves {', '.join(files)} open, which can break a snapshot"
        yield ProjectIssue.warning("open_after_load", pack, message)


def _normalized(pack: str) -> str:
    """Name of a pack without differences of spelling."""
    return pack.lower().removesuffix(".py").replace("_", "-")


def check_models(deployment: Deployment, workflows: Sequence[Workflow]) -> Iterator[ProjectIssue]:
    """Find models that are not listed, are listed in another folder, or are never used."""
    settings = deployment.settings
    if settings.engine == "simulated":
        return
    listed = [entry.path for entry in settings.models if entry.path is not None]
    others = [str(entry) for entry in settings.models if entry.whole_repository]
    others += [f"volume {mount.volume}" for mount in settings.mounts]
    if settings.extra_model_paths:
        others.append(str(settings.extra_model_paths))
    reported: set[tuple[str, str]] = set()
    for workflow in workflows:
        for reference in model_references(workflow):
            key = (workflow.name, reference.name)
            if not reference.is_on:
                continue
            if key not in reported and not any(reference.is_at(path) for path in listed):
                reported.add(key)
                yield _missing(reference, listed, others)
    yield from _preload(deployment.preloaded, listed, others)
    for path in unused_files(listed, workflows, deployment.preloaded):
        yield ProjectIssue.note("unused_model", "deploy.models", f"no workflow uses {path}")


def _missing(
    reference: ModelReference, listed: Sequence[PurePosixPath], others: Sequence[str]
) -> ProjectIssue:
    where = f"{reference.workflow}: {reference.place}"
    folder = " or ".join(reference.folders) or "its folder"
    elsewhere = [path for path in listed if reference.has_name_of(path)]
    if elsewhere:
        message = (
            f"{reference.class_type} needs {reference.name} in {folder}; "
            f"deploy.models has it at {elsewhere[0]}"
        )
        return ProjectIssue.error("model_elsewhere", where, message)
    message = f"{reference.class_type} needs {reference.name} in {folder}; not in deploy.models"
    if reference.is_embedding:
        message = f"{message}; ComfyUI leaves out an embedding that it does not find"
        return ProjectIssue.warning("model_not_listed", where, message)
    if others:
        message += f", unless it is in {', '.join(others)}"
        return ProjectIssue.warning("model_not_listed", where, message)
    return ProjectIssue.error("model_not_listed", where, message, _table_of(reference))


def _table_of(reference: ModelReference) -> str:
    """The table of a model whose source is not known."""
    path = PurePosixPath(reference.name)
    folder = PurePosixPath(next(iter(reference.folders), "FOLDER"), path.parent)
    return (
        f"[[deploy.models]]\nfolder = {json.dumps(str(folder))}\n"
        f'repo = "OWNER/NAME"  # on Hugging Face; or url = "https://..."\n'
        f"file = {json.dumps(path.name)}"
    )


def _preload(
    preload: Sequence[str], listed: Sequence[PurePosixPath], others: Sequence[str]
) -> Iterator[ProjectIssue]:
    for name in preload:
        if PurePosixPath(name) not in listed:
            level = Level.WARNING if others else Level.ERROR
            message = f"{name} is not in deploy.models"
            yield ProjectIssue(level, "model_not_listed", "deploy.preload", message)
        if not name.endswith((".safetensors", ".sft")):
            message = f"{name}: only .safetensors files can be preloaded"
            yield ProjectIssue.error("not_preloadable", "deploy.preload", message)
