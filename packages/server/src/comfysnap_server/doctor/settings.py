"""Settings that cancel or contradict each other."""

from collections.abc import Iterator, Sequence

from comfysnap_schema.workflow import Workflow
from comfysnap_server.deploy import Deployment, DeploySettings
from comfysnap_server.doctor.symptoms import Level, Symptom
from comfysnap_server.nodepacks import NodeSnapshot


def check_settings(
    deployment: Deployment, workflows: Sequence[Workflow], nodes: NodeSnapshot | None
) -> Iterator[Symptom]:
    """What the settings say that they cannot mean together."""
    settings = deployment.settings
    yield from _snapshot(settings)
    yield from _after_restore(settings, nodes)
    yield from _warm_up(settings, workflows)
    yield from _scaling(settings)
    yield from _access(deployment)
    if settings.engine == "simulated":
        yield Symptom(
            Level.WARNING,
            "simulated_engine",
            "deploy.engine",
            "jobs are simulated: pictures of the right size that say so, no model is run",
        )


def _snapshot(settings: DeploySettings) -> Iterator[Symptom]:
    gpus = settings.gpus or []
    if settings.snapshot == "off" and settings.preload:
        yield Symptom(
            Level.WARNING,
            "preload_without_snapshot",
            "deploy.preload",
            'snapshot = "off": every cold start reads these files from the volume again',
        )
    if settings.snapshot != "gpu":
        return
    several = [gpu for gpu in gpus if gpu.partition(":")[2] not in {"", "1"}]
    if several:
        yield Symptom(
            Level.ERROR,
            "gpu_snapshot_of_several_gpus",
            "deploy.gpu",
            f'{several[0]}: Modal makes GPU snapshots of one GPU alone; use snapshot = "cpu"',
        )
    if not gpus:
        yield Symptom(
            Level.WARNING,
            "gpu_snapshot_without_gpu",
            "deploy.snapshot",
            'the simulated engine uses no GPU; this becomes snapshot = "cpu"',
        )
    if len(gpus) > 1:
        yield Symptom(
            Level.NOTE,
            "snapshot_per_gpu",
            "deploy.gpu",
            "each GPU type makes snapshots of its own: the first boots on each are slow",
        )
    yield Symptom(
        Level.NOTE,
        "gpu_snapshot_is_alpha",
        "deploy.snapshot",
        "GPU snapshots are an alpha feature of Modal; when a restore fails it boots without one",
    )


def _after_restore(settings: DeploySettings, nodes: NodeSnapshot | None) -> Iterator[Symptom]:
    if settings.after_restore and settings.snapshot != "cpu":
        yield Symptom(
            Level.WARNING,
            "after_restore_without_cpu_snapshot",
            "deploy.after_restore",
            f'snapshot = "{settings.snapshot}": the GPU is there while packs load, so none '
            "needs to wait for it",
        )
    pinned = {pack.folder for pack in nodes.packs} if nodes else set[str]()
    for name in settings.after_restore:
        if name not in pinned and f"{name}.py" not in pinned:
            yield Symptom(
                Level.ERROR,
                "unknown_pack",
                "deploy.after_restore",
                f"no pinned pack has the folder {name!r}; there are {_listed(pinned)}",
            )


def _warm_up(settings: DeploySettings, workflows: Sequence[Workflow]) -> Iterator[Symptom]:
    workflow = next((flow for flow in workflows if flow.name == settings.warm_up), None)
    if workflow is None:
        return
    needed = [name for name, entry in workflow.parameters.items() if entry.required]
    if needed:
        yield Symptom(
            Level.ERROR,
            "warm_up_needs_inputs",
            "deploy.warm_up",
            f"{workflow.name!r} cannot run with defaults alone: it requires {', '.join(needed)}",
        )


def _scaling(settings: DeploySettings) -> Iterator[Symptom]:
    if settings.min_containers and settings.gpus:
        yield Symptom(
            Level.WARNING,
            "paid_while_idle",
            "deploy.min_containers",
            f"{settings.min_containers} x {' or '.join(settings.gpus)} are paid for day and night",
        )
    if settings.buffer_containers >= settings.max_containers:
        yield Symptom(
            Level.WARNING,
            "buffer_without_room",
            "deploy.buffer_containers",
            f"max_containers {settings.max_containers} leaves no room for a buffer of "
            f"{settings.buffer_containers}",
        )
    if settings.max_attempts > 1 and settings.timeout * settings.max_attempts > 24 * 3600:
        yield Symptom(
            Level.NOTE,
            "long_attempts",
            "deploy.max_attempts",
            "all attempts of one job together may take more than a day",
        )


def _access(deployment: Deployment) -> Iterator[Symptom]:
    settings = deployment.settings
    if settings.auth == "none":
        yield Symptom(
            Level.WARNING,
            "open_to_all",
            "deploy.auth",
            "whoever finds the address runs jobs on your account",
        )
    if settings.auth != "keys" and settings.keys_secret:
        yield Symptom(
            Level.WARNING,
            "unused_keys",
            "deploy.keys_secret",
            f'not read with auth = "{settings.auth}"',
        )
    if settings.auth != "keys" and "keys" in deployment.project.serve:
        yield Symptom(
            Level.WARNING,
            "unused_keys",
            "serve.keys",
            f'not used on Modal with auth = "{settings.auth}"',
        )
    tokens = {entry.token_variable for entry in settings.models if entry.token is not None}
    tokens |= {entry.token_variable for entry in settings.models if entry.civitai is not None}
    if tokens and not settings.model_secrets:
        yield Symptom(
            Level.WARNING,
            "token_without_secret",
            "deploy.model_secrets",
            f"models name {_listed({str(token) for token in tokens})}, but no secret holds it",
        )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
