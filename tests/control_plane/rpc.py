"""Answers Modal's RPCs with plain async methods."""

import functools
from abc import ABC
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto.api_grpc import ModalClientBase

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
            await stream.send_message(await method(self, request))

    return answer


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


def service(*parts: object) -> ModalClientBase:
    """A service with the RPCs of ``parts``; any other RPC fails with its name."""
    names = ModalClientBase.__abstractmethods__
    handlers: dict[str, Any] = {}
    for name in names:
        handlers[name] = next(
            (getattr(part, name) for part in parts if hasattr(part, name)), _unanswered(name)
        )
    kind = type("Service", (ModalClientBase, ABC), {n: _bound(h) for n, h in handlers.items()})
    return cast("ModalClientBase", kind())


def _bound(handler: Callable[[Stream[Any, Any]], Awaitable[None]]) -> Handler:
    async def answer(_: object, stream: Stream[Any, Any]) -> None:
        await handler(stream)

    return answer


def _unanswered(name: str) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    async def answer(_: Stream[Any, Any]) -> None:
        raise GRPCError(Status.UNIMPLEMENTED, f"the control plane for tests does not answer {name}")

    return answer
