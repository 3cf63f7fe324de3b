"""What only Modal can tell: whether secrets exist and the listed models lie on the volume."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from comfysnap_server.deploy import Deployment
from comfysnap_server.deploy.gateway_settings import KEYS_VARIABLE
from comfysnap_server.doctor.symptoms import Level, Symptom
from comfysnap_server.models import ModelsVolume

if TYPE_CHECKING:
    import modal


def check_online(deployment: Deployment) -> Iterator[Symptom]:
    """Ask Modal; nothing is built and no container is started."""
    yield from check_needs(deployment)
    yield from check_volume(deployment)


def check_needs(deployment: Deployment) -> Iterator[Symptom]:
    """Secrets and volumes that the settings name and Modal does not have."""
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
                    f"no secret {name!r}; make it: modal secret create {name} {_example(where)}"
                )
                yield Symptom(Level.ERROR, "secret_missing", where, message)
    for mount in settings.mounts:
        if not _exists(modal.Volume.from_name(mount.volume)):
            message = f"no volume {mount.volume!r}; make it: modal volume create {mount.volume}"
            yield Symptom(Level.ERROR, "volume_missing", "deploy.mounts", message)


def _example(where: str) -> str:
    if where == "deploy.keys_secret":
        return f'{KEYS_VARIABLE}=\'{{"OWNER": "HASH"}}\', with a HASH of `comfysnap key OWNER`'
    return "COMFY_ORG_API_KEY=KEY" if where == "deploy.api_key_secret" else "NAME=VALUE"


def _exists(thing: "modal.Secret | modal.Volume") -> bool:
    from modal.exception import NotFoundError

    try:
        thing.hydrate()
    except NotFoundError:
        return False
    return True


def check_volume(deployment: Deployment) -> Iterator[Symptom]:
    """Models of the list that the volume lacks."""
    listed = [entry.path for entry in deployment.settings.models if entry.path is not None]
    there = ModelsVolume(deployment.models_volume).files() if listed else {}
    for path in listed:
        if path not in there:
            message = f"{path} is not on volume {deployment.models_volume}: comfysnap models sync"
            yield Symptom(Level.WARNING, "model_not_synced", "deploy.models", message)
