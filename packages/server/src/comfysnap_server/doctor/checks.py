"""Runs every check on a project, on this machine or with Modal."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from comfysnap_schema.wire import SchemaError
from comfysnap_schema.workflow import SPEC_FILE, SettingsError, Workflow, check_workflow
from comfysnap_server.deploy import (
    DEFAULT_POOL,
    Deployment,
    comfyui_commit,
    make_deployment,
    read_chosen_project,
    read_nodes,
)
from comfysnap_server.doctor.issue import Level, ProjectIssue
from comfysnap_server.doctor.settings import check_access, check_settings
from comfysnap_server.doctor.workflows import check_models, check_nodes, check_probe
from comfysnap_server.jobs import SECRET_VARIABLE
from comfysnap_server.models import ModelsVolume
from comfysnap_server.nodepacks import NodeManifest, Probe
from comfysnap_server.serve_settings import read_serve

if TYPE_CHECKING:
    import modal


def examine(
    path: Path | None, *, probe: Probe | None = None
) -> tuple[list[ProjectIssue], Deployment | None]:
    """Check a project without network, account or GPU.

    Args:
        path: Project folder or its ``comfysnap.toml``. None: this folder or a parent.
        probe: What loading ComfyUI on this machine showed. None: its checks are left out.

    Returns:
        The issues, and the deployment if it could be read.
    """
    try:
        project = read_chosen_project(path)
    except SchemaError as error:
        return _issues(error), None
    issues: list[ProjectIssue] = []
    deployment: Deployment | None = None
    try:
        read_serve(project)
    except SchemaError as error:
        issues += _issues(error)
    try:
        deployment = make_deployment(project)
    except SchemaError as error:
        issues += _issues(error)
    return [*issues, *(_examine(deployment, probe) if deployment else ())], deployment


def _examine(deployment: Deployment, probe: Probe | None) -> Iterator[ProjectIssue]:
    workflows, issues = _load_workflows(deployment)
    yield from issues
    yield from check_access(deployment)
    yield from check_models(deployment, workflows)
    seen: set[ProjectIssue] = set()
    for pool in (deployment.of_pool(name) for name in (DEFAULT_POOL, *deployment.settings.pools)):
        served = [flow for flow in workflows if deployment.settings.pool_of(flow.name) == pool.pool]
        if not served and pool is deployment and deployment.settings.pools:
            continue  # it has no class
        for issue in _examine_pool(pool, served, probe):
            key = issue.where.removeprefix("deploy.")
            if pool is not deployment and key in deployment.settings.pools[pool.pool].own_keys:
                issue = replace(
                    issue,
                    where=f"{pool.table}.{key}",
                    fix=issue.fix.replace("[deploy]", f"[{pool.table}]", 1),
                )
            if issue not in seen:
                yield issue
            seen.add(issue)


def _examine_pool(
    pool: Deployment, workflows: list[Workflow], probe: Probe | None
) -> Iterator[ProjectIssue]:
    nodes: NodeManifest | None = None
    try:
        nodes = read_nodes(pool)
        comfyui_commit(pool, nodes)
    except SchemaError as error:
        yield from _issues(error)
    yield from check_settings(pool, workflows, nodes)
    yield from check_nodes(pool.settings, workflows, nodes, probe)
    if probe is not None:
        yield from check_probe(pool.settings, probe)


def _load_workflows(deployment: Deployment) -> tuple[list[Workflow], list[ProjectIssue]]:
    """The workflows that load, and the issues of all."""
    chosen: list[Workflow] = []
    issues: list[ProjectIssue] = []
    wanted = deployment.settings.workflows
    for spec in sorted(deployment.project.workflows.glob(f"*/{SPEC_FILE}")):
        try:
            workflow = Workflow.load(spec.parent)
            if wanted is None or workflow.name in wanted:
                chosen.append(workflow)
                issues += _check_graph(workflow)
        except SchemaError as error:
            issues += _issues(error)
    if all(issue.level is Level.NOTE for issue in issues):
        try:
            _ = deployment.workflows
        except SchemaError as error:
            issues += _issues(error)
    return chosen, issues


def _check_graph(workflow: Workflow) -> Iterator[ProjectIssue]:
    check = check_workflow(workflow)
    for problem in check.issues:
        yield ProjectIssue.error("graph_invalid", workflow.name, problem)
    for note in check.notes:
        yield ProjectIssue.note("not_judged", workflow.name, note)


def _issues(error: SchemaError) -> list[ProjectIssue]:
    found = error.errors if isinstance(error, SettingsError) else [error]
    return [
        ProjectIssue.error(
            each.code,
            ": ".join(part for part in (each.file, each.field) if part) or "project",
            each.message,
        )
        for each in found
    ]


def check_modal(deployment: Deployment) -> Iterator[ProjectIssue]:
    """Check secrets and volumes on Modal; builds nothing and starts no container."""
    yield from check_resources(deployment)
    yield from check_volume(deployment)


def check_resources(deployment: Deployment) -> Iterator[ProjectIssue]:
    """Find secrets and volumes in the settings that do not exist on Modal."""
    import modal

    settings = deployment.settings
    secrets = {
        "deploy.secrets": settings.secrets,
        "deploy.api_key_secret": [settings.api_key_secret] if settings.api_key_secret else [],
        "deploy.build_secrets": settings.build_secrets,
        "deploy.model_secrets": settings.model_secrets,
        "deploy.keys_secret": [deployment.keys_secret] if deployment.keys_secret else [],
        "deploy.webhook_secret": [deployment.webhook_secret] if deployment.webhook_secret else [],
    }
    for where, names in secrets.items():
        for name in names:
            if not _exists(modal.Secret.from_name(name)):
                fix = _command(where, name)
                message = f"secret {name!r} not found; create it: {fix}"
                yield ProjectIssue.error("secret_missing", where, message, fix)
    for mount in settings.mounts:
        if not _exists(modal.Volume.from_name(mount.volume)):
            fix = f"modal volume create {mount.volume}"
            message = f"volume {mount.volume!r} not found; create it: {fix}"
            yield ProjectIssue.error("volume_missing", "deploy.mounts", message, fix)


def _command(where: str, name: str) -> str:
    if where == "deploy.keys_secret":
        return "comfysnap keys add NAME --deployed"
    value = "COMFY_ORG_API_KEY=KEY" if where == "deploy.api_key_secret" else "NAME=VALUE"
    if where == "deploy.webhook_secret":
        value = f"{SECRET_VARIABLE}=SECRET, which `comfysnap webhooks secret` creates"
    return f"modal secret create {name} {value}"


def _exists(thing: "modal.Secret | modal.Volume") -> bool:
    from modal.exception import NotFoundError

    try:
        thing.hydrate()
    except NotFoundError:
        return False
    return True


def check_volume(deployment: Deployment) -> Iterator[ProjectIssue]:
    """Find listed models that are not on the volume."""
    listed = [entry.path for entry in deployment.settings.models if entry.path is not None]
    existing = ModelsVolume(deployment.models_volume).files() if listed else {}
    for path in listed:
        if path not in existing:
            message = (
                f"{path} is not on volume {deployment.models_volume}; run `comfysnap models sync`"
            )
            yield ProjectIssue.warning(
                "model_not_synced", "deploy.models", message, "comfysnap models sync"
            )
