"""Runs every check on a project, on this machine or with Modal."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from comfysnap_schema.wire import SchemaError
from comfysnap_schema.workflow import SPEC_FILE, Workflow, check_workflow
from comfysnap_server.deploy import (
    Deployment,
    SettingsError,
    comfyui_commit,
    read_deployment,
    read_nodes,
)
from comfysnap_server.deploy.gateway_settings import KEYS_VARIABLE, gateway_settings
from comfysnap_server.doctor.issue import Issue, Level
from comfysnap_server.doctor.settings import check_settings
from comfysnap_server.doctor.workflows import check_models, check_nodes, check_probe
from comfysnap_server.models import ModelsVolume
from comfysnap_server.nodepacks import NodeManifest, Probe

if TYPE_CHECKING:
    import modal


def examine(
    path: Path | None, *, probe: Probe | None = None
) -> tuple[list[Issue], Deployment | None]:
    """Check a project without network, account or GPU.

    Args:
        path: Project folder or its ``comfysnap.toml``. None: this folder or a parent.
        probe: What loading ComfyUI on this machine showed. None: its checks are left out.

    Returns:
        The issues, and the deployment if it could be read.
    """
    try:
        deployment = read_deployment(path)
    except SettingsError as error:
        return [_issue("settings", each) for each in error.errors], None
    except SchemaError as error:
        return [_issue("settings", error)], None
    return list(_examine(deployment, probe)), deployment


def _examine(deployment: Deployment, probe: Probe | None) -> Iterator[Issue]:
    workflows, issues = _load_workflows(deployment)
    yield from issues
    nodes: NodeManifest | None = None
    try:
        nodes = read_nodes(deployment)
        comfyui_commit(deployment, nodes)
    except SchemaError as error:
        yield _issue("settings", error)
    try:
        # the keys in the secret are not readable here
        gateway_settings(deployment, {KEYS_VARIABLE: "{}"})
    except SchemaError as error:
        yield _issue("settings", error)
    yield from check_settings(deployment, workflows, nodes)
    yield from check_nodes(deployment.settings, workflows, nodes, probe)
    yield from check_models(deployment, workflows)
    if probe is not None:
        yield from check_probe(deployment.settings, probe)


def _load_workflows(deployment: Deployment) -> tuple[list[Workflow], list[Issue]]:
    """The workflows that load, and the issues of all."""
    chosen: list[Workflow] = []
    issues: list[Issue] = []
    wanted = deployment.settings.workflows
    for spec in sorted(deployment.project.workflows.glob(f"*/{SPEC_FILE}")):
        try:
            workflow = Workflow.load(spec.parent)
            if wanted is None or workflow.name in wanted:
                chosen.append(workflow)
                issues += _check_graph(workflow)
        except SchemaError as error:
            issues.append(_issue("workflows", error))
    if all(issue.level is Level.NOTE for issue in issues):
        try:
            _ = deployment.workflows
        except SchemaError as error:
            issues.append(_issue("workflows", error))
    return chosen, issues


def _check_graph(workflow: Workflow) -> Iterator[Issue]:
    check = check_workflow(workflow)
    for problem in check.issues:
        yield Issue(Level.ERROR, "graph_invalid", workflow.name, problem)
    for note in check.notes:
        yield Issue(Level.NOTE, "not_judged", workflow.name, note)


def _issue(area: str, error: SchemaError) -> Issue:
    where = ": ".join(part for part in (error.file, error.field) if part) or area
    return Issue(Level.ERROR, error.code, where, error.message)


def check_modal(deployment: Deployment) -> Iterator[Issue]:
    """Check secrets and volumes on Modal; builds nothing and starts no container."""
    yield from check_resources(deployment)
    yield from check_volume(deployment)


def check_resources(deployment: Deployment) -> Iterator[Issue]:
    """Find secrets and volumes in the settings that do not exist on Modal."""
    import modal

    settings = deployment.settings
    secrets = {
        "deploy.secrets": settings.secrets,
        "deploy.api_key_secret": [settings.api_key_secret] if settings.api_key_secret else [],
        "deploy.build_secrets": settings.build_secrets,
        "deploy.model_secrets": settings.model_secrets,
        "deploy.keys_secret": [deployment.keys_secret] if deployment.keys_secret else [],
    }
    for where, names in secrets.items():
        for name in names:
            if not _exists(modal.Secret.from_name(name)):
                message = (
                    f"secret {name!r} not found; create it: modal secret create {name} "
                    f"{_example(where)}"
                )
                yield Issue(Level.ERROR, "secret_missing", where, message)
    for mount in settings.mounts:
        if not _exists(modal.Volume.from_name(mount.volume)):
            message = (
                f"volume {mount.volume!r} not found; create it: modal volume create {mount.volume}"
            )
            yield Issue(Level.ERROR, "volume_missing", "deploy.mounts", message)


def _example(where: str) -> str:
    if where == "deploy.keys_secret":
        return (
            f'{KEYS_VARIABLE}=\'{{"OWNER": "HASH"}}\', where `comfysnap key OWNER` prints the HASH'
        )
    return "COMFY_ORG_API_KEY=KEY" if where == "deploy.api_key_secret" else "NAME=VALUE"


def _exists(thing: "modal.Secret | modal.Volume") -> bool:
    from modal.exception import NotFoundError

    try:
        thing.hydrate()
    except NotFoundError:
        return False
    return True


def check_volume(deployment: Deployment) -> Iterator[Issue]:
    """Find listed models that are not on the volume."""
    listed = [entry.path for entry in deployment.settings.models if entry.path is not None]
    existing = ModelsVolume(deployment.models_volume).files() if listed else {}
    for path in listed:
        if path not in existing:
            message = (
                f"{path} is not on volume {deployment.models_volume}; run `comfysnap models sync`"
            )
            yield Issue(Level.WARNING, "model_not_synced", "deploy.models", message)
