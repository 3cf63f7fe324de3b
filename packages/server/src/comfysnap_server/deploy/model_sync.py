"""The Modal app that fills the models volume, in one CPU container."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import os
import queue
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Final

import modal

from comfysnap_server.deploy.deployment import read_deployment
from comfysnap_server.deploy.image import build_gateway_image
from comfysnap_server.deploy.settings import MAX_TIMEOUT, MODELS_DIR
from comfysnap_server.models import (
    DownloadProgress,
    Failed,
    ModelError,
    ModelsFolder,
    Stop,
    SyncEvent,
    SyncOptions,
    SyncPlan,
    sync,
)

PROGRESS_INTERVAL_S: Final = 0.5
"""Minimum time between two progress events of one file."""

deployment: Final = read_deployment()
settings: Final = deployment.settings
app: Final = modal.App(f"{deployment.name}-models")
models_dir: Final = os.environ.get("COMFYSNAP_MODELS_DIR", MODELS_DIR)
"""Mount path of the models volume. Tests set the variable."""
volume: Final = modal.Volume.from_name(deployment.models_volume, create_if_missing=True)


@app.function(
    image=build_gateway_image(deployment),
    cpu=4.0,
    memory=4096,
    region=settings.region or None,
    volumes={models_dir: volume},
    secrets=[modal.Secret.from_name(name) for name in settings.model_secrets],
    timeout=MAX_TIMEOUT,
    max_containers=1,
)
def sync_models(options: SyncOptions) -> Generator[SyncEvent]:
    """Download missing and wrong models into the volume; yields events."""
    volume.reload()
    events: queue.SimpleQueue[SyncEvent | None] = queue.SimpleQueue()
    stop = Stop()

    def work() -> None:
        try:
            sync(
                settings.models,
                ModelsFolder.at(Path(models_dir)),
                on_event=events.put,
                options=options,
                commit=volume.commit,
                stop=stop,
            )
        except ModelError as error:
            events.put(Failed("", error.code, str(error)))
        except Exception as error:  # the caller cannot see this thread
            events.put(Failed("", "internal", f"{type(error).__name__}: {error}"))
        finally:
            events.put(None)

    thread = threading.Thread(target=work, name="sync")
    thread.start()
    try:
        yield from throttled(events)
    finally:
        stop.set()
        thread.join()


def throttled(events: "queue.SimpleQueue[SyncEvent | None]") -> Generator[SyncEvent]:
    """Events until None, with fewer progress events and without tokens."""
    sent_at: dict[str, float] = {}
    while (event := events.get()) is not None:
        if isinstance(event, DownloadProgress):
            now = time.monotonic()
            if now - sent_at.get(event.path, 0.0) < PROGRESS_INTERVAL_S:
                continue
            sent_at[event.path] = now
        elif isinstance(event, SyncPlan):
            bare = tuple(replace(file, token=None) for file in event.pending)
            event = replace(event, pending=bare)
        yield event
