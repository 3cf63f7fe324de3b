"""Describes what ``comfysnap deploy`` creates on Modal; needs no account."""

from collections.abc import Iterator
from dataclasses import dataclass

from comfysnap_server.deploy.deployment import Deployment
from comfysnap_server.deploy.image import Layer, gateway_layers, image_layers
from comfysnap_server.deploy.prices import (
    EXAMPLE_JOB_S,
    PRICES_OF,
    SOURCE,
    Rate,
    dollars,
    gateway_rate,
    worker_rate,
)
from comfysnap_server.deploy.settings import FILES_DIR, MODEL_CACHE_DIR, MODELS_DIR


@dataclass(frozen=True)
class PlanLine:
    """A line of the plan: kind of object, its name, and its description."""

    part: str
    name: str
    text: str


def plan_lines(deployment: Deployment) -> list[PlanLine]:
    """The app, its functions, images, volumes and secrets, and what it costs.

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
        if settings.pools:
            text += f"; pool {deployment.pool_of[workflow.name]}"
        yield PlanLine("workflow", workflow.name, text)
    for pool in deployment.pools:
        yield PlanLine("function", pool.class_name, _worker(pool))
    yield PlanLine("function", "gateway", _gateway(deployment))
    yield PlanLine("function", "sweep", "CPU; every 30 minutes, at most one container")
    if deployment.webhook_secret:
        yield PlanLine("function", "deliver", "sends webhooks; CPU; at most 4 containers")
    yield from _images(deployment)
    yield PlanLine("volume", deployment.models_volume, f"at {MODELS_DIR}: models")
    retention = f"kept for {settings.retention_hours} hours"
    yield PlanLine(
        "volume", deployment.files_volume, f"at {FILES_DIR}: inputs and outputs, {retention}"
    )
    if deployment.remote_models.enabled:
        hosts = ", ".join(deployment.remote_models.hosts)
        yield PlanLine("function", "fetch_models", f"CPU; downloads models from {hosts}")
        yield PlanLine(
            "volume", deployment.model_cache_volume, f"at {MODEL_CACHE_DIR}: models by URL"
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
    yield from _costs(deployment)


def _images(deployment: Deployment) -> Iterator[PlanLine]:
    shown: dict[tuple[str, ...], str] = {}
    for pool in deployment.pools:
        lines = tuple(_layer(layer) for layer in image_layers(pool))
        if lines in shown:
            yield PlanLine("image", pool.class_name, f"that of {shown[lines]}")
            continue
        shown[lines] = pool.class_name
        for number, line in enumerate(lines, 1):
            yield PlanLine("image", f"{pool.class_name} {number}", line)
    for number, layer in enumerate(gateway_layers(deployment), 1):
        yield PlanLine("image", f"gateway {number}", _layer(layer))


def _worker(deployment: Deployment) -> str:
    settings = deployment.settings
    gpu = " or ".join(settings.gpus or ["no GPU"])
    parts = [
        *([f"runs {', '.join(deployment.served)}"] if settings.pools else []),
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
        yield PlanLine("secret", name, "environment of downloads of models")
    if deployment.keys_secret:
        yield PlanLine("secret", deployment.keys_secret, "hashes of the API keys")
    if deployment.webhook_secret:
        yield PlanLine("secret", deployment.webhook_secret, "signs webhooks")


def _costs(deployment: Deployment) -> Iterator[PlanLine]:
    gateway = gateway_rate(deployment)
    for pool in deployment.pools:
        rate = worker_rate(pool)
        if rate is None:
            text = f"no price known for {(pool.settings.gpus or ['CPU'])[0]}"
            yield PlanLine("cost", pool.class_name, text)
            continue
        yield PlanLine("cost", pool.class_name, _cost(rate))
        both = [each.of(EXAMPLE_JOB_S) + each.tail for each in (rate, gateway)]
        text = f"{dollars(sum(both))} with both idle tails, when nothing else runs"
        yield PlanLine("cost", f"lone {EXAMPLE_JOB_S:g} s job", text)
    yield PlanLine("cost", "gateway", _cost(gateway))
    yield PlanLine("cost", "prices", f"of {PRICES_OF}, from {SOURCE}; without region surcharges")


def _cost(rate: Rate) -> str:
    rest = f"{dollars(rate.at_rest)} an hour at rest"
    rest += f" ({rate.min_containers} always run)" if rate.min_containers else " (scales to zero)"
    tail = f"{dollars(rate.tail)} per idle tail of {rate.scaledown_window:g} s"
    job = f"{dollars(rate.of(EXAMPLE_JOB_S))} per {EXAMPLE_JOB_S:g} s job"
    return f"{rest}; {tail}; {job}; {dollars(rate.of(3600))} an hour of one container"


def _amount(value: float | tuple[float, float] | tuple[int, int]) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:g} (limit {value[1]:g})"
    return f"{value:g}"
