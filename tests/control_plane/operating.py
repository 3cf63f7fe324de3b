"""RPCs that show a deployment, change its autoscalers, read its logs, and delete it."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from modal_proto import api_pb2

from tests.control_plane.containers import Container
from tests.control_plane.deploying import data_of
from tests.control_plane.rpc import not_found, unary
from tests.control_plane.scheduler import Scheduler
from tests.control_plane.state import ENVIRONMENT, App, State
from tests.control_plane.stores import StoreCalls


@dataclass(frozen=True)
class Line:
    """A line of a container's output."""

    at: float
    text: str
    container: Container
    call_id: str


class OperateCalls:
    """Answers ``modal.App``, ``Function.autoscaler``, ``logs`` and what stops and deletes."""

    def __init__(self, state: State, scheduler: Scheduler, stores: StoreCalls) -> None:
        self._state = state
        self._scheduler = scheduler
        self._stores = stores

    @unary
    async def AppGetOrCreate(
        self, request: api_pb2.AppGetOrCreateRequest
    ) -> api_pb2.AppGetOrCreateResponse:
        app = self._state.app(request.app_name)
        return api_pb2.AppGetOrCreateResponse(app_id=app.id, handle_metadata=_metadata(app))

    @unary
    async def AppGetInfo(self, request: api_pb2.AppGetInfoRequest) -> api_pb2.AppGetInfoResponse:
        return api_pb2.AppGetInfoResponse(info=_metadata(self._state.apps[request.app_id]))

    @unary
    async def AppDeploymentHistory(
        self, request: api_pb2.AppDeploymentHistoryRequest
    ) -> api_pb2.AppDeploymentHistoryResponse:
        response = api_pb2.AppDeploymentHistoryResponse()
        app = self._state.apps[request.app_id]
        for version in sorted(app.published, reverse=True):
            response.app_deployment_histories.add(
                app_id=app.id,
                version=version,
                client_version="1.6.4",
                deployed_at=app.deployed_at.get(version, 0.0),
                deployed_by="someone",
                tag=app.tags.get(version, ""),
            )
        return response

    @unary
    async def AppStop(self, request: api_pb2.AppStopRequest) -> Empty:
        """End the app: its containers are killed, and its name is free."""
        app = self._state.apps[request.app_id]
        self._state.drop_functions(app, set())
        for container in self._containers(app):
            container.kill()
        app.version, app.functions, app.classes = 0, {}, {}
        app.name = ""
        return Empty()

    @unary
    async def TaskList(self, request: api_pb2.TaskListRequest) -> api_pb2.TaskListResponse:
        response = api_pb2.TaskListResponse()
        for container in self._containers(self._state.apps[request.app_id]):
            response.tasks.add(
                task_id=container.task_id,
                app_id=request.app_id,
                started_at=container.started_at,
                enqueued_at=container.started_at,
            )
        return response

    @unary
    async def ContainerStop(
        self, request: api_pb2.ContainerStopRequest
    ) -> api_pb2.ContainerStopResponse:
        """Kill a container; its inputs run again in others."""
        for pool in self._scheduler.pools.values():
            for container in pool.containers:
                if container.task_id == request.task_id:
                    container.kill()
        return api_pb2.ContainerStopResponse()

    def _containers(self, app: App) -> list[Container]:
        ours = {f.id for f in self._state.functions.values() if f.app_id == app.id}
        pools = (pool for key, pool in self._scheduler.pools.items() if key in ours)
        return [container for pool in pools for container in pool.containers]

    @unary
    async def FunctionGetById(
        self, request: api_pb2.FunctionGetByIdRequest
    ) -> api_pb2.FunctionGetByIdResponse:
        function = self._state.function(request.function_id)
        return api_pb2.FunctionGetByIdResponse(
            function=data_of(function.definition), handle_metadata=function.handle()
        )

    @unary
    async def FunctionGetCurrentStats(
        self, request: api_pb2.FunctionGetCurrentStatsRequest
    ) -> api_pb2.FunctionStats:
        """Frozen containers wait for a restore, and are none that run."""
        pool = self._scheduler.pool(request.function_id)
        live = [c for c in pool.containers if c.wanted]
        return api_pb2.FunctionStats(
            backlog=len(pool.pending),
            num_total_tasks=len(live),
            num_running_inputs=sum(len(c.running) for c in live),
        )

    @unary
    async def FunctionGetSchedulingParams(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        settings = self._state.function(request.function_id).definition.autoscaler_settings
        response = api_pb2.FunctionGetSchedulingParamsResponse()
        response.autoscaler_configuration.settings.CopyFrom(settings)
        return response

    @unary
    async def FunctionUpdateSchedulingParams(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        """Until the next deploy."""
        function = self._state.function(request.function_id)
        settings = function.definition.autoscaler_settings
        settings.MergeFrom(request.settings)
        await self._scheduler.adjust(self._scheduler.pool(function.id))
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=settings)

    @unary
    async def FunctionCallFromId(
        self, request: api_pb2.FunctionCallFromIdRequest
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self._state.call(request.function_call_id)
        function = self._state.function(call.function_id)
        metadata = api_pb2.FunctionCallHandleMetadata(
            app_id=function.app_id, function_id=function.id
        )
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.id, num_inputs=1, metadata=metadata
        )

    @unary
    async def AppCountLogs(
        self, request: api_pb2.AppCountLogsRequest
    ) -> api_pb2.AppCountLogsResponse:
        response = api_pb2.AppCountLogsResponse(app_id=request.app_id)
        start, end, width = _seconds(request.since), _seconds(request.until), request.bucket_secs
        lines = [line.at for line in self._lines(request)]
        while start < end:
            bucket = response.buckets.add(
                stderr_logs=sum(start <= at < start + width for at in lines)
            )
            bucket.bucket_start_at.CopyFrom(_timestamp(start))
            start += width
        return response

    @unary
    async def AppFetchLogs(
        self, request: api_pb2.AppFetchLogsRequest
    ) -> api_pb2.AppFetchLogsResponse:
        response = api_pb2.AppFetchLogsResponse()
        for line in self._lines(request):
            batch = response.batches.add(
                task_id=line.container.task_id, function_id=line.container.function.id
            )
            batch.items.add(
                data=line.text + "\n",
                timestamp=line.at,
                timestamp_ns=int(line.at * 1e9),
                file_descriptor=api_pb2.FILE_DESCRIPTOR_STDERR,
                function_call_id=line.call_id,
                container_id=line.container.task_id,
            )
        return response

    def _lines(
        self, request: "api_pb2.AppCountLogsRequest | api_pb2.AppFetchLogsRequest"
    ) -> list[Line]:
        since, until = _seconds(request.since), _seconds(request.until)
        found = [
            line
            for container in self._scheduler.everyone
            if container.function.app_id == request.app_id
            and request.function_id in ("", container.function.id)
            and request.task_id in ("", container.task_id)
            for line in _lines(container)
            if since <= line.at < until
            and request.function_call_id in ("", line.call_id)
            and request.search_text in line.text
        ]
        return sorted(found, key=lambda line: line.at)

    @unary
    async def DictDelete(self, request: api_pb2.DictDeleteRequest) -> Empty:
        self._stores.dicts.pop(request.dict_id, None)
        self._state.forget(request.dict_id)
        return Empty()

    @unary
    async def QueueDelete(self, request: api_pb2.QueueDeleteRequest) -> Empty:
        self._stores.queues.pop(request.queue_id, None)
        self._state.forget(request.queue_id)
        return Empty()

    @unary
    async def VolumeDelete(self, request: api_pb2.VolumeDeleteRequest) -> Empty:
        self._state.forget(request.volume_id)
        return Empty()


def _metadata(app: App) -> api_pb2.AppHandleMetadata:
    if not app.version:
        raise not_found(f"app {app.id!r} is stopped")
    lifecycle = api_pb2.AppLifecycle(
        app_state=api_pb2.APP_STATE_DEPLOYED,
        version=app.version,
        created_at=app.deployed_at[min(app.deployed_at)],
        deployed_at=app.deployed_at[app.version],
        deployed_by="someone",
    )
    return api_pb2.AppHandleMetadata(
        description=app.name,
        app_id=app.id,
        environment_name=ENVIRONMENT,
        lifecycle=lifecycle,
        functions=app.functions,
    )


def _lines(container: Container) -> Iterator[Line]:
    """Its output; a line belongs to the call that ran when it was written."""
    written = container.output
    marks = [(0, container.started_at, ""), *container.marks, (len(written), time.time(), "")]
    for (start, at, call_id), (end, _, _) in itertools.pairwise(marks):
        for number, text in enumerate(written[start:end].decode(errors="replace").splitlines()):
            yield Line(at + number * 1e-6, text, container, call_id)


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
