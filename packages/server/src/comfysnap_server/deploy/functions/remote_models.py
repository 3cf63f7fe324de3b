"""The function on CPU that downloads models by URL: it alone has their tokens, and writes to their
volume, so that no GPU container could read or change either."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import modal

from comfysnap_server.backends.modal import Patience, Platform, VolumeFolder, Wanted, fetch_into
from comfysnap_server.deploy.functions.platform import (
    app,
    deployment,
    make_platform,
    model_cache,
    model_cache_dir,
    model_cache_volume,
    remote_models,
    settings,
)
from comfysnap_server.deploy.image import build_gateway_image
from comfysnap_server.models.cache import ModelCache
from comfysnap_server.models.remote import RemoteModels

_MAX_JOBS: Final = 16
"""That download at once."""


@cache
def _parts() -> tuple[RemoteModels, VolumeFolder, Platform]:
    folder = model_cache(Patience(60))
    if folder is None:
        raise RuntimeError("jobs may not name models by URL")
    locks = Path(tempfile.gettempdir()) / "comfysnap-model-locks"  # a volume has none
    kept = ModelCache(folder.root, remote_models.cache_bytes, locks=locks)
    return RemoteModels(kept, remote_models), folder, make_platform()


async def _fetch(wanted: str) -> str:
    models, folder, platform = _parts()
    fetched = await fetch_into(Wanted.model_validate_json(wanted), models, folder, platform.feed)
    return fetched.model_dump_json()


if model_cache_volume is not None:

    @app.function(
        image=build_gateway_image(deployment),
        cpu=2.0,
        memory=2048,
        region=settings.region or None,
        volumes={model_cache_dir: model_cache_volume},
        secrets=[modal.Secret.from_name(name) for name in settings.model_secrets],
        timeout=settings.longest_run,
        max_containers=1,
    )
    @modal.concurrent(max_inputs=_MAX_JOBS)
    async def fetch_models(wanted: str) -> str:
        """See ``Fetcher.fetch``."""
        return await _fetch(wanted)
