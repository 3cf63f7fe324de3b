"""Checks settings against each other."""

from collections.abc import Iterator, Sequence
from typing import Final

from comfysnap_schema.workflow import Workflow
from comfysnap_server.deploy import Deployment, DeploySettings
from comfysnap_server.doctor.issue import ProjectIssue
from comfysnap_server.nodepacks import NodeManifest

_CPU_SNAPSHOT: Final = '[deploy]\nsnapshot = "cpu"'


def check_settings(
    deployment: Deployment, workflows: Sequence[Workflow], nodes: NodeManifest | None
) -> Iterator[ProjectIssue]:
    """Find settings that contradict each other, have no effect, cost money or are unsafe."""
    settings = deployment.settings
    yield from _snapshot(settings)
    yield from _after_restore(settings, nodes)
    yield from _warm_up(settings, workflows)
    yield from _scaling(settings)
    if settings.engine == "simulated":
        yield ProjectIssue.warning(
            "simulated_engine",
            "deploy.engine",
            "jobs are simulated: images of the right size, without running a model",
        )


def _snapshot(settings: DeploySettings) -> Iterator[ProjectIssue]:
    gpus = settings.gpus or []
    if settings.snapshot == "off" and settings.preload:
        yield ProjectIssue.warning(
            "preload_without_snapshot",
            "deploy.preload",
            'no effect with snapshot = "off": every cold start reads these files from the volume',
            _CPU_SNAPSHOT,
        )
    if settings.snapshot != "gpu":
        return
    several = [gpu for gpu in gpus if gpu.partition(":")[2] not in {"", "1"}]
    if several:
        yield ProjectIssue.error(
            "gpu_snapshot_of_several_gpus",
            "deploy.gpu",
            f'{several[0]}: Modal takes GPU snapshots of one GPU only; use snapshot = "cpu"',
            _CPU_SNAPSHOT,
        )
    if not gpus:
        yield ProjectIssue.warning(
            "gpu_snapshot_without_gpu",
            "deploy.snapshot",
            'the simulated engine does not use a GPU; snapshot = "cpu" is used instead',
            _CPU_SNAPSHOT,
        )
    if len(gpus) > 1:
        yield ProjectIssue.note(
            "snapshot_per_gpu",
            "deploy.gpu",
            "each GPU type has its own snapshots, so the first starts on each are slow",
        )
    yield ProjectIssue.note(
        "gpu_snapshot_is_alpha",
        "deploy.snapshot",
        "GPU snapshots are an alpha feature of Modal; if a restore fails, the container starts "
        "without one",
    )


def _after_restore(settings: DeploySettings, nodes: NodeManifest | None) -> Iterator[ProjectIssue]:
    if settings.after_restore and settings.snapshot != "cpu":
        yield ProjectIssue.warning(
            "after_restore_without_cpu_snapshot",
            "deploy.after_restore",
            f'no effect with snapshot = "{settings.snapshot}": packs load with the GPU available',
        )
    pinned = {pack.folder for pack in nodes.packs} if nodes else set[str]()
    for name in settings.after_restore:
        if name not in pinned and f"{name}.py" not in pinned:
            yield ProjectIssue.error(
                "unknown_pack",
                "deploy.after_restore",
                f"unknown node pack {name!r}; available: {_listed(pinned)}",
            )


def _warm_up(settings: DeploySettings, workflows: Sequence[Workflow]) -> Iterator[ProjectIssue]:
    workflow = next((flow for flow in workflows if flow.name == settings.warm_up), None)
    if workflow is None:
        return
    needed = [name for name, entry in workflow.parameters.items() if entry.required]
    if needed:
        yield ProjectIssue.error(
            "warm_up_needs_inputs",
            "deploy.warm_up",
            f"{workflow.name!r} must run with defaults only, but requires {', '.join(needed)}",
        )


def _scaling(settings: DeploySettings) -> Iterator[ProjectIssue]:
    if settings.min_containers and settings.gpus:
        yield ProjectIssue.warning(
            "paid_while_idle",
            "deploy.min_containers",
            f"{settings.min_containers} x {' or '.join(settings.gpus)} cost money around the clock",
        )
    if settings.buffer_containers >= settings.max_containers:
        yield ProjectIssue.warning(
            "buffer_without_room",
            "deploy.buffer_containers",
            f"must be less than max_containers ({settings.max_containers}), "
            f"got {settings.buffer_containers}",
            f"[deploy]\nmax_containers = {settings.buffer_containers + 1}",
        )
    if settings.max_attempts > 1 and settings.timeout * settings.max_attempts > 24 * 3600:
        yield ProjectIssue.note(
            "long_attempts",
            "deploy.max_attempts",
            "all attempts of one job can take more than a day in total",
        )


def check_access(deployment: Deployment) -> Iterator[ProjectIssue]:
    """Find settings of access, keys and tokens that are unsafe or have no effect."""
    settings = deployment.settings
    if settings.auth == "none":
        yield ProjectIssue.warning(
            "open_to_all",
            "deploy.auth",
            "anyone who knows the URL can run jobs at your cost",
            '[deploy]\nauth = "proxy"',
        )
    if settings.auth != "keys" and settings.keys_secret:
        yield ProjectIssue.warning(
            "unused_keys", "deploy.keys_secret", f'no effect with auth = "{settings.auth}"'
        )
    if settings.auth != "keys" and "keys" in deployment.project.serve:
        yield ProjectIssue.warning(
            "unused_keys", "serve.keys", f'no effect on Modal with auth = "{settings.auth}"'
        )
    tokens = {entry.token_variable for entry in settings.models if entry.token is not None}
    tokens |= {entry.token_variable for entry in settings.models if entry.civitai is not None}
    if tokens and not settings.model_secrets:
        yield ProjectIssue.warning(
            "token_without_secret",
            "deploy.model_secrets",
            f"models use {_listed({str(token) for token in tokens})}; set model_secrets to the "
            "secret with it",
            '[deploy]\nmodel_secrets = ["huggingface"]',
        )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
