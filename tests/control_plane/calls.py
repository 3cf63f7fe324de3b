"""Function calls, which clients make and await, and containers run."""

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.control_plane.containers import Container
from tests.control_plane.rpc import streaming, unary
from tests.control_plane.scheduler import Scheduler
from tests.control_plane.state import Call, Input, State

HEARTBEAT_S = 12.0
"""Seconds until a heartbeat is answered; a cancellation answers it early."""


class FunctionCalls:
    """Answers the RPCs of function calls."""

    def __init__(self, state: State, scheduler: Scheduler) -> None:
        self._state = state
        self._scheduler = scheduler

    def make(
        self,
        function_id: str,
        item: api_pb2.FunctionInput,
        invocation: "api_pb2.FunctionCallInvocationType.ValueType",
    ) -> Call:
        """A call that is not yet queued."""
        call = Call(self._state.new_id("fc"), function_id, invocation, now=self._state.now)
        call.input = Input(self._state.new_id("in"), call, item)
        self._state.calls[call.id] = call
        return call

    @unary
    async def FunctionMap(self, request: api_pb2.FunctionMapRequest) -> api_pb2.FunctionMapResponse:
        self._state.function(request.function_id)
        (item,) = request.pipelined_inputs
        call = self.make(request.function_id, item.input, request.function_call_invocation_type)
        await self._scheduler.submit(call)
        response = api_pb2.FunctionMapResponse(function_call_id=call.id)
        response.pipelined_inputs.add(idx=item.idx, input_id=call.input.id, input_jwt=call.input.id)
        return response

    @unary
    async def FunctionGetOutputs(
        self, request: api_pb2.FunctionGetOutputsRequest
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self._state.call(request.function_call_id)
        if call.output is None and request.timeout > 0:
            try:
                async with asyncio.timeout(request.timeout):
                    await call.done.wait()
            except TimeoutError:
                pass
        if call.is_expired:
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=0)
        if call.output is None:
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=1)
        return api_pb2.FunctionGetOutputsResponse(outputs=[call.output], idxs=[0])

    @unary
    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest) -> Empty:
        call = self._state.call(request.function_call_id)
        if call.output is None:
            await self._scheduler.cancel(call, terminate=request.terminate_containers)
        return Empty()

    @unary
    async def FunctionGetCallGraph(
        self, request: api_pb2.FunctionGetCallGraphRequest
    ) -> api_pb2.FunctionGetCallGraphResponse:
        call = self._state.call(request.function_call_id)
        function = self._state.function(call.function_id)
        status = call.output.result.status if call.output else 0
        response = api_pb2.FunctionGetCallGraphResponse()
        response.inputs.add(input_id=call.input.id, function_call_id=call.id, status=status)
        response.function_calls.add(
            function_call_id=call.id,
            function_name=function.name,
            module_name=function.definition.module_name,
        )
        return response

    @streaming
    async def FunctionCallGetDataIn(
        self, request: api_pb2.FunctionCallGetDataRequest
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self._state.call(request.function_call_id)
        async for chunk in self._chunks(call, call.data_in, request.last_index):
            yield chunk

    @streaming
    async def FunctionCallGetDataOut(
        self, request: api_pb2.FunctionCallGetDataRequest
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self._state.call(request.function_call_id)
        async for chunk in self._chunks(call, call.data_out, request.last_index):
            yield chunk

    async def _chunks(
        self, call: Call, chunks: list[api_pb2.DataChunk], last: int
    ) -> AsyncIterator[api_pb2.DataChunk]:
        while True:
            for chunk in chunks[last:]:
                yield chunk
            last = len(chunks)
            if call.done.is_set():
                return
            await call.more(chunks, last)

    @unary
    async def FunctionCallPutDataOut(self, request: api_pb2.FunctionCallPutDataRequest) -> Empty:
        call = self._state.call(request.function_call_id)
        async with call.changed:
            call.data_out.extend(request.data_chunks)
            call.changed.notify_all()
        return Empty()


class ContainerCalls:
    """Answers the RPCs of one container."""

    def __init__(self, scheduler: Scheduler, container: Container) -> None:
        self._scheduler = scheduler
        self._container = container

    @unary
    async def ContainerHello(self, request: Empty) -> Empty:
        return Empty()

    @unary
    async def ContainerHeartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest
    ) -> api_pb2.ContainerHeartbeatResponse:
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                input_id = await self._container.cancels.get()
        except TimeoutError:
            return api_pb2.ContainerHeartbeatResponse()
        return api_pb2.ContainerHeartbeatResponse(
            cancel_input_event=api_pb2.CancelInputEvent(input_ids=[input_id])
        )

    @unary
    async def ContainerCheckpoint(self, request: api_pb2.ContainerCheckpointRequest) -> Empty:
        await self._scheduler.checkpointed(self._container)
        return Empty()

    @unary
    async def FunctionGetInputs(
        self, request: api_pb2.FunctionGetInputsRequest
    ) -> api_pb2.FunctionGetInputsResponse:
        item = await self._scheduler.take(self._container)
        response = api_pb2.FunctionGetInputsResponse()
        if item is not None:
            response.inputs.add(
                input_id=item.id,
                input=item.item,
                function_call_id=item.call.id,
                function_call_invocation_type=item.call.invocation,
                retry_count=item.retries,
            )
        elif self._container.phase == "stopping":
            response.inputs.add(kill_switch=True)
        return response

    @unary
    async def FunctionPutOutputs(self, request: api_pb2.FunctionPutOutputsRequest) -> Empty:
        for output in request.outputs:
            await self._scheduler.put_output(self._container, output)
        return Empty()

    @unary
    async def ContainerStop(
        self, request: api_pb2.ContainerStopRequest
    ) -> api_pb2.ContainerStopResponse:
        await self._scheduler.stop(self._container, graceful=request.graceful)
        return api_pb2.ContainerStopResponse()

    @unary
    async def FunctionGetDynamicConcurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.target_concurrency)

    @unary
    async def TaskResult(self, request: api_pb2.TaskResultRequest) -> Empty:
        await self._scheduler.start_failed(self._container, request.result)
        return Empty()
