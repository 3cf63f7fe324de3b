"""What only Modal can tell: whether secrets exist and the listed models lie on the volume."""

from collections.abc import Iterator

from comfysnap_server.deploy.deployment import Deployment
from comfysnap_server.deploy.models_volume import ModelsVolume
from comfysnap_server.deploy.symptoms import Level, Symptom


def check_online(deployment: Deployment) -> Iterator[Symptom]:
    """Ask Modal; nothing is built and no container is started."""
    yield from check_secrets(deployment)
    yield from check_volume(deployment)


def check_secrets(deployment: Deployment) -> Iterator[Symptom]:
    """Secrets that the settings name and Modal does not have."""
    import modal
    from modal.exception import NotFoundError

    settings = deployment.settings
    named = {
        "deploy.secrets": settings.secrets,
        "deploy.build_secrets": settings.build_secrets,
        "deploy.model_secrets": settings.model_secrets,
        "deploy.keys_secret": [deployment.keys_secret] if deployment.keys_secret else [],
    }
    for where, names in named.items():
        for name in names:
            try:
                modal.Secret.from_name(name).hydrate()
            except NotFoundError:
                message = (
                    f"there is no secret {name!r}; make it: modal secret create {name} KEY=..."
                )
                yield Symptom(Level.ERROR, "secret_missing", where, message)


def check_volume(deployment: Deployment) -> Iterator[Symptom]:
    """Models of the list that the volume lacks."""
    listed = [entry.path for entry in deployment.settings.models if entry.path is not None]
    there = ModelsVolume(deployment.models_volume).files() if listed else {}
    for path in listed:
        if path not in there:
            message = f"{path} is not on volume {deployment.models_volume}: comfysnap models sync"
            yield Symptom(Level.WARNING, "model_not_synced", "deploy.models", message)
