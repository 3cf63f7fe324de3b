"""Answers Modal's RPCs with plain async methods."""

import functools
from abc import ABC
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto.api_grpc import ModalClientBase

from tests.control_plane.faults import Faults

Self = TypeVar("Self")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

Handler = Callable[[Any, Stream[Any, Any]], Awaitable[None]]


def unary(method: Callable[[Self, Request], Awaitable[Response]]) -> Handler:
    """Make a handler of a method that takes a request and returns the response."""

    @functools.wraps(method)
    async def answer(self: Self, stream: Stream[Request, Response]) -> None:
        request = await stream.recv_message()
        if request is not None:
            _note_environment(self, method.__name__, request)
            await stream.send_message(await method(self, request))

    return answer


def _note_environment(part: object, rpc: str, request: Message) -> None:
    """Remember which environment a request named, if it did."""
    name, state = getattr(request, "environment_name", ""), getattr(part, "_state", None)
    if name and state is not None:
        state.environments[rpc].add(name)


def streaming(method: Callable[[Self, Request], AsyncIterator[Response]]) -> Handler:
    """Make a handler of a method that takes a request and yields responses."""

    @functools.wraps(method)
    async def answer(self: Self, stream: Stream[Request, Response]) -> None:
        request = await stream.recv_message()
        if request is not None:
            async for response in method(self, request):
                await stream.send_message(response)

    return answer


def not_found(what: str) -> GRPCError:
    """Error that the client raises as ``modal.exception.NotFoundError``."""
    return GRPCError(Status.NOT_FOUND, what)


def service(faults: Faults, caller: str, *parts: object) -> ModalClientBase:
    """A service with the RPCs of ``parts``; any other RPC fails with its name.

    Args:
        faults: Plan of failing and slow RPCs.
        caller: Whose requests it answers, in the plan and in its count.
        parts: Objects with a method for each RPC.
    """
    handlers: dict[str, Any] = {}
    for name in ModalClientBase.__abstractmethods__:
        handler = next((getattr(part, name) for part in parts if hasattr(part, name)), None)
        handlers[name] = _bound(
            handler or _unanswered(name), functools.partial(faults.before, caller, name)
        )
    kind = type("Service", (ModalClientBase, ABC), handlers)
    return cast("ModalClientBase", kind())


class _FailingStream:
    """A stream whose response is lost after the work was done."""

    def __init__(self, stream: Stream[Any, Any], error: GRPCError) -> None:
        self._stream = stream
        self._error = error

    async def recv_message(self) -> Any:
        return await self._stream.recv_message()

    async def send_message(self, _: object) -> None:
        raise self._error


def _bound(
    handler: Callable[[Any], Awaitable[None]], before: Callable[[], Awaitable[Status | None]]
) -> Handler:
    async def answer(_: object, stream: Stream[Any, Any]) -> None:
        lost = await before()
        if lost is None:
            await handler(stream)
        else:
            await handler(_FailingStream(stream, GRPCError(lost, "the response is lost")))

    return answer


def _unanswered(name: str) -> Callable[[Any], Awaitable[None]]:
    async def answer(_: object) -> None:
        raise GRPCError(Status.UNIMPLEMENTED, f"the control plane for tests does not answer {name}")

    return answer
