"""A deployment as it is on Modal now: versions, pools, jobs, and what changes or deletes it."""

# modal's stubs leave some types of its objects unknown
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx
import modal
import modal.exception

from comfysnap_server.backends.modal import (
    DictRecords,
    FunctionCalls,
    JobHistory,
    KnownJob,
    Patience,
    Platform,
    Pools,
    QueueFeed,
    VolumeFolder,
    list_name,
    listed_owners,
)
from comfysnap_server.deploy import Deployment, pool_of_class
from comfysnap_server.deploy.webhooks import dict_name
from comfysnap_server.operations.logs import LogLine, read_logs

PATIENCE_S: Final = 10.0
GATEWAY_S: Final = 60.0
"""How long the gateway may take to start."""
WARM_UP_ID: Final = "warm-up"
"""Names no job: a worker that is called with it does nothing."""


@dataclass(frozen=True)
class PoolState:
    """A pool's containers and queue, and the autoscaler as it is set now."""

    pool: str
    class_name: str
    containers: int
    running: int
    """Jobs that run."""
    queued: int
    """Jobs that wait for a container."""
    min_containers: int
    max_containers: int | None
    scaledown_window: int | None


class DeployedApp:
    """The Modal app of a deployment, in the environment that Modal's client uses.

    Raises:
        modal.exception.NotFoundError: It is not deployed.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._app = modal.App.lookup(deployment.name)
        self.info = self._app.info()

    @property
    def version(self) -> int | None:
        """The deployed version."""
        return self.info.lifecycle.version

    def history(self) -> list[dict[str, Any]]:
        """Versions, newest first, as ``modal app history --json`` has them."""
        command = [sys.executable, "-m", "modal", "app", "history", self.deployment.name, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout))

    def function(self, name: str) -> "modal.Function[Any, Any, Any] | None":
        """A function, or a GPU class by its name; None if this version does not have it."""
        ids = self.info.functions
        function_id = ids.get(name) or ids.get(f"{name}.*")
        if function_id is None:
            return None
        return modal.Function[Any, Any, Any].from_id(function_id)

    def pool_states(self) -> list[PoolState]:
        """The pools of the deployed version, which may differ from those of the project's file."""
        found: list[PoolState] = []
        for class_name in sorted({name.removesuffix(".*") for name in self.info.functions}):
            pool, function = pool_of_class(class_name), self.function(class_name)
            if pool is None or function is None:
                continue
            stats, scaling = function.get_current_stats(), function.autoscaler.settings()
            found.append(
                PoolState(
                    pool=pool,
                    class_name=class_name,
                    containers=stats.num_total_runners,
                    running=stats.num_running_inputs,
                    queued=stats.backlog,
                    min_containers=scaling.min_containers or 0,
                    max_containers=scaling.max_containers,
                    scaledown_window=scaling.scaledown_window,
                )
            )
        return found

    @cached_property
    def platform(self) -> Platform:
        """The records of its jobs; its files are not at hand here."""
        name, patience = self.deployment.name, Patience(PATIENCE_S)
        jobs, index = (
            modal.Dict.from_name(f"{name}-{part}", create_if_missing=True)  # as its containers do
            for part in ("jobs", "index")
        )
        progress = modal.Queue.from_name(f"{name}-progress", create_if_missing=True)
        volume = modal.Volume.from_name(self.deployment.files_volume)
        longest = {pool.pool: float(pool.settings.longest_run) for pool in self.deployment.pools}
        methods = {
            pool.pool: _method(name, pool.class_name)
            for pool in self.deployment.pools
            if self.function(pool.class_name) is not None
        }
        return Platform(
            records=DictRecords(jobs, patience),
            index=DictRecords(index, patience),
            listings=lambda owner: DictRecords(
                modal.Dict.from_name(list_name(name, owner), create_if_missing=True), patience
            ),
            feed=QueueFeed(progress, patience),
            calls=FunctionCalls(methods, patience),
            files=VolumeFolder(volume, Path(tempfile.gettempdir()) / "comfysnap-files", patience),
            pools=Pools(self.deployment.pool_of, longest),
        )

    @property
    def jobs(self) -> JobHistory:
        """Its jobs, of all owners."""
        return JobHistory(self.platform)

    def warm_up(self) -> Iterator[str]:
        """Start the gateway and a container of each pool; yields what it did, a line each.

        A worker's call names no job, so it ends as soon as its container has started. The sweep is
        run too: it moves jobs that wait in a pool which this version does not have.
        """
        gateway = self.function("gateway")
        for pool in self.deployment.pools:
            if self.function(pool.class_name) is not None:
                _method(self.deployment.name, pool.class_name).spawn(WARM_UP_ID, None)
                yield f"warm-up: a container of {pool.class_name} starts"
        modal.Function.from_name(self.deployment.name, "sweep").spawn()
        url = gateway.get_web_url() if gateway else None
        if url:
            yield f"warm-up: {_call_gateway(url)}"

    def logs_of(self, job: KnownJob, *, whole_container: bool) -> list[LogLine]:
        """See ``read_logs``."""
        return read_logs(self._app, job, whole_container=whole_container)

    def stop(self) -> None:
        """End the app and its containers; its name is free then."""
        self._app.stop()


def _call_gateway(url: str) -> str:
    """Ask for its health, which needs no key of ours but may need Modal's proxy auth."""
    names = {"Modal-Key": "MODAL_KEY", "Modal-Secret": "MODAL_SECRET"}
    headers = {name: os.environ[key] for name, key in names.items() if os.environ.get(key)}
    started = time.monotonic()
    try:
        status = httpx.get(f"{url}/health", headers=headers, timeout=GATEWAY_S).status_code
    except httpx.HTTPError as error:
        return f"the gateway did not answer: {type(error).__name__}"
    if status == HTTPStatus.UNAUTHORIZED:
        return "the gateway starts with its first request; set MODAL_KEY and MODAL_SECRET for one"
    return f"the gateway answered {status} in {time.monotonic() - started:.1f} s"


def _method(app: str, class_name: str) -> Any:
    worker: Any = modal.Cls.from_name(app, class_name)()
    return worker.run


def find_deployed(deployment: Deployment) -> DeployedApp | None:
    """The app, if it is deployed."""
    try:
        return DeployedApp(deployment)
    except modal.exception.NotFoundError:
        return None


def object_names(deployment: Deployment) -> list[tuple[str, str]]:
    """Kind and name of the objects that only this deployment uses, without volumes."""
    name = deployment.name
    names = [f"{name}-jobs", f"{name}-index"]
    if deployment.keys_secret:
        names.append(f"{name}-keys")
    if deployment.webhook_secret:
        names.append(dict_name(name))
    index = modal.Dict.from_name(f"{name}-index", create_if_missing=True)  # as its containers do
    owners = asyncio.run(listed_owners(DictRecords(index, Patience(PATIENCE_S))))
    names += [list_name(name, owner) for owner in owners]
    return [*(("dict", each) for each in names), ("queue", f"{name}-progress")]


def delete_objects(objects: Iterable[tuple[str, str]], volumes: Iterable[str]) -> None:
    """Delete these objects of a deployment, and these volumes; missing ones are fine."""
    for kind, name in objects:
        named = modal.Dict.objects if kind == "dict" else modal.Queue.objects
        named.delete(name, allow_missing=True)
    for volume in volumes:
        modal.Volume.objects.delete(volume, allow_missing=True)
