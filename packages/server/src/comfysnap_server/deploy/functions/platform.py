"""The Modal app, and the objects that its functions share."""

# modal's stubs leave the types of hydrate partly unknown
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import logging
import os
import sys
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import modal

from comfysnap_server.backends.modal import (
    DictRecords,
    FunctionCalls,
    FunctionFetcher,
    JobWebhooks,
    Patience,
    Platform,
    Pools,
    QueueFeed,
    VolumeFolder,
    WorkerModels,
    list_name,
)
from comfysnap_server.deploy.deployment import LOCAL_MODEL_CACHE, read_deployment
from comfysnap_server.deploy.settings import FILES_DIR, MODEL_CACHE_DIR, MODELS_DIR
from comfysnap_server.deploy.webhooks import FUNCTION, dict_name
from comfysnap_server.logs import formatter

log = logging.getLogger(__name__)

deployment: Final = read_deployment()
settings: Final = deployment.settings
app: Final = modal.App(deployment.name)

files_dir: Final = os.environ.get("COMFYSNAP_FILES_DIR", FILES_DIR)
"""Mount path of the files volume. Tests set the variable."""
files_volume: Final = modal.Volume.from_name(deployment.files_volume, create_if_missing=True)
models_volume: Final = modal.Volume.from_name(deployment.models_volume, create_if_missing=True)

remote_models: Final = deployment.remote_models
model_cache_dir: Final = os.environ.get("COMFYSNAP_MODEL_CACHE_DIR", MODEL_CACHE_DIR)
"""Mount path of the volume with the models by URL. Tests set the variable."""
model_cache_volume: Final = (
    modal.Volume.from_name(deployment.model_cache_volume, create_if_missing=True)
    if remote_models.enabled
    else None
)

_jobs: Final = modal.Dict.from_name(f"{deployment.name}-jobs", create_if_missing=True)
_index: Final = modal.Dict.from_name(f"{deployment.name}-index", create_if_missing=True)
_progress: Final = modal.Queue.from_name(f"{deployment.name}-progress", create_if_missing=True)


def make_keys() -> DictRecords:
    """The Dict with the keys of the gateways."""
    name = f"{deployment.name}-keys"
    return DictRecords(modal.Dict.from_name(name, create_if_missing=True), Patience(10))


def make_webhook_records() -> DictRecords:
    """The Dict with the webhooks."""
    name = dict_name(deployment.name)
    return DictRecords(modal.Dict.from_name(name, create_if_missing=True), Patience(10))


def _make_webhooks() -> JobWebhooks | None:
    if deployment.webhook_secret is None:
        return None
    spawn = modal.Function.from_name(deployment.name, FUNCTION).spawn.aio
    return JobWebhooks(make_webhook_records(), spawn)


def configure_logging() -> None:
    """Show our lines in Modal's logs; how other packages log is left to them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(deployment.project.serve.get("log_format"), times=False))
    for name in ("comfysnap", "comfysnap_server"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


@contextmanager
def resolving(*more: Any) -> Generator[None]:
    """Look up the shared objects meanwhile, and ``more``: all at once, and after the restore, as
    what was looked up before a snapshot is looked up again."""
    handles = (_jobs, _index, _progress, files_volume, *more)
    with ThreadPoolExecutor(len(handles)) as threads:
        looking = [threads.submit(handle.hydrate) for handle in handles]
        yield
    for found in looking:
        if error := found.exception():
            log.warning("a shared object is looked up when it is needed: %s", error)


def make_platform(methods: Mapping[str, Any] | None = None, *, patience: float = 60) -> Platform:
    """The shared objects, for the backend and the worker.

    Args:
        methods: Method that runs a job, of each pool. None in the worker.
        patience: Seconds in which a request to Modal that gets no answer is repeated.
    """
    asking = Patience(patience)
    return Platform(
        records=DictRecords(_jobs, asking),
        index=DictRecords(_index, asking),
        listings=lambda owner: DictRecords(
            modal.Dict.from_name(list_name(deployment.name, owner), create_if_missing=True), asking
        ),
        feed=QueueFeed(_progress, asking),
        calls=FunctionCalls(methods or {}, asking),
        files=VolumeFolder(files_volume, Path(files_dir), asking),
        pools=_pools() if methods else Pools(),
        models=None if methods else VolumeFolder(models_volume, Path(MODELS_DIR), asking),
        remote_models=None if methods else _worker_models(asking),
        webhooks=_make_webhooks(),
    )


def _pools() -> Pools:
    longest = {pool.pool: float(pool.settings.longest_run) for pool in deployment.pools}
    return Pools(deployment.pool_of, longest)


def model_cache(patience: Patience) -> VolumeFolder | None:
    """The volume with the models by URL; None where jobs may not name any."""
    if model_cache_volume is None:
        return None
    return VolumeFolder(model_cache_volume, Path(model_cache_dir), patience)


def _worker_models(patience: Patience) -> WorkerModels | None:
    volume = model_cache(patience)
    if volume is None:
        return None
    function = cast("Any", modal.Function.from_name(deployment.name, "fetch_models"))
    fetcher = FunctionFetcher(function, patience)
    return WorkerModels(fetcher, volume, Path(LOCAL_MODEL_CACHE), remote_models)


if not modal.is_local():
    configure_logging()
