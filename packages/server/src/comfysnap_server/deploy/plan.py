"""Describes what ``comfysnap deploy`` creates on Modal; needs no account."""

from collections.abc import Iterator
from dataclasses import dataclass

from comfysnap_server.deploy.deployment import Deployment
from comfysnap_server.deploy.image import Layer, gateway_layers, image_layers
from comfysnap_server.deploy.settings import FILES_DIR, MODELS_DIR


@dataclass(frozen=True)
class PlanLine:
    """A line of the plan: kind of object, its name, and its description."""

    part: str
    name: str
    text: str


def plan_lines(deployment: Deployment) -> list[PlanLine]:
    """The app, its functions, images, volumes and secrets, and what runs while idle.

    Raises:
        SchemaError: The project is not valid.
    """
    return list(_lines(deployment))


def _lines(deployment: Deployment) -> Iterator[PlanLine]:
    settings = deployment.settings
    yield PlanLine("app", deployment.name, f"from {deployment.file}")
    for workflow in deployment.workflows.values():
        default = " (default)" if workflow.name == deployment.project.default else ""
        text = f"contract {workflow.contract.hash}{default}"
        yield PlanLine("workflow", workflow.name, text)
    yield PlanLine("function", "Worker", _worker(deployment))
    yield PlanLine("function", "gateway", _gateway(deployment))
    yield PlanLine("function", "sweep", "CPU; every 30 minutes, at most one container")
    if deployment.webhook_secret:
        yield PlanLine("function", "deliver", "sends webhooks; CPU; at most 4 containers")
    for name, layers in (
        ("Worker", image_layers(deployment)),
        ("gateway", gateway_layers(deployment)),
    ):
        for number, layer in enumerate(layers, 1):
            yield PlanLine("image", f"{name} {number}", _layer(layer))
    yield PlanLine("volume", deployment.models_volume, f"at {MODELS_DIR}: models")
    retention = f"kept for {settings.retention_hours} hours"
    yield PlanLine(
        "volume", deployment.files_volume, f"at {FILES_DIR}: inputs and outputs, {retention}"
    )
    for mount in settings.mounts:
        mode = "read only" if mount.read_only else "writable"
        yield PlanLine("volume", mount.volume, f"at {mount.path}: {mode}")
    for name in ("jobs", "index"):
        yield PlanLine("dict", f"{deployment.name}-{name}", "job records; expire after 7 idle days")
    if deployment.webhook_secret:
        yield PlanLine("dict", f"{deployment.name}-webhooks", "webhooks; expire after 7 idle days")
    yield PlanLine("queue", f"{deployment.name}-progress", "progress of running jobs")
    yield from _secrets(deployment)
    yield PlanLine("idle cost", "Worker", _idle(settings.min_containers, deployment))
    yield PlanLine("idle cost", "gateway", _idle_gateway(deployment))


def _worker(deployment: Deployment) -> str:
    settings = deployment.settings
    gpu = " or ".join(settings.gpus or ["no GPU"])
    parts = [
        f"{settings.engine} on {gpu}",
        f"cpu {_amount(settings.cpu)}, memory {_amount(settings.memory)} MiB",
        f"{settings.min_containers} to {settings.max_containers} containers"
        + (f", {settings.buffer_containers} in reserve" if settings.buffer_containers else ""),
        f"stops after {settings.scaledown_window} s idle",
        f"jobs up to {settings.timeout} s, start up to {settings.startup_timeout} s",
        f"snapshot {settings.snapshot}",
    ]
    if settings.preload:
        parts.append(f"preloads {', '.join(settings.preload)}")
    if settings.after_restore:
        parts.append(f"loads after restore: {', '.join(settings.after_restore)}")
    if settings.warm_up:
        parts.append(f"warms up with {settings.warm_up}")
    if settings.region:
        parts.append(f"in {' or '.join(settings.region)}")
    return "; ".join(parts)


def _gateway(deployment: Deployment) -> str:
    gateway = deployment.settings.gateway
    access = {
        "proxy": "Modal's proxy auth (Modal-Key, Modal-Secret)",
        "keys": f"API keys from the secret {deployment.keys_secret}",
        "none": "NO AUTH: anyone can run jobs",
    }[deployment.settings.auth]
    return (
        f"HTTP API, {access}; cpu {_amount(gateway.cpu)}, memory {_amount(gateway.memory)} MiB; "
        f"{gateway.min_containers} to {gateway.max_containers} containers, "
        f"{gateway.max_inputs} requests each; snapshot {'on' if gateway.snapshot else 'off'}"
    )


def _layer(layer: Layer) -> str:
    when = "" if layer.built else " (added at container start)"
    return f"{layer.title}: {layer.detail}{when}"


def _secrets(deployment: Deployment) -> Iterator[PlanLine]:
    settings = deployment.settings
    for name in settings.secrets:
        yield PlanLine("secret", name, "environment of the GPU containers")
    if settings.api_key_secret:
        yield PlanLine("secret", settings.api_key_secret, "key for ComfyUI's paid API nodes")
    for name in settings.build_secrets:
        yield PlanLine("secret", name, "environment of the image build")
    for name in settings.model_secrets:
        yield PlanLine("secret", name, "environment of comfysnap models sync")
    if deployment.keys_secret:
        yield PlanLine("secret", deployment.keys_secret, "hashes of the API keys")
    if deployment.webhook_secret:
        yield PlanLine("secret", deployment.webhook_secret, "signs webhooks")


def _idle(count: int, deployment: Deployment) -> str:
    gpus = deployment.settings.gpus
    if not count:
        return "none: scales to zero"
    return f"{count} x {' or '.join(gpus) if gpus else 'CPU'} around the clock"


def _idle_gateway(deployment: Deployment) -> str:
    count = deployment.settings.gateway.min_containers
    return f"{count} x CPU around the clock" if count else "none: scales to zero"


def _amount(value: float | tuple[float, float] | tuple[int, int]) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:g} (limit {value[1]:g})"
    return f"{value:g}"
