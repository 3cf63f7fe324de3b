"""Many inputs at once, with backpressure."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from comfysnap_client.errors import ComfysnapError
from comfysnap_schema.base import WorkflowInput, WorkflowOutput

O = TypeVar("O", bound=WorkflowOutput)  # noqa: E741 -- the output, as in every signature here
O_co = TypeVar("O_co", bound=WorkflowOutput, covariant=True)


@dataclass(frozen=True, kw_only=True)
class MapResult(Generic[O_co]):
    """What became of one input of ``Client.map``.

    Attributes:
        index: Place of the input, from 0.
        inputs: The input itself.
        error: Why there is no output, or None.
    """

    index: int
    inputs: WorkflowInput[O_co]
    error: ComfysnapError | OSError | None
    _output: O_co | None

    @property
    def output(self) -> O_co:
        """The output.

        Raises:
            ComfysnapError: The input failed; the same as ``error``.
            OSError: A file of the input cannot be read.
        """
        if self.error is not None:
            raise self.error
        assert self._output is not None  # noqa: S101 -- one of the two is always set
        return self._output


async def run_map(
    run: Callable[[WorkflowInput[O]], Awaitable[O]],
    inputs: Iterable[WorkflowInput[O]] | AsyncIterable[WorkflowInput[O]],
    *,
    concurrency: int,
    ordered: bool,
) -> AsyncGenerator[MapResult[O]]:
    """Results of ``run`` over ``inputs``; closing the generator cancels what is under way."""
    if concurrency < 1:
        raise ValueError("concurrency is at least 1")
    source = aiter(inputs) if isinstance(inputs, AsyncIterable) else _steps(inputs)
    running: set[asyncio.Task[MapResult[O]]] = set()
    ready: dict[int, MapResult[O]] = {}
    draw: asyncio.Task[WorkflowInput[O] | None] | None = None
    drawn = told = 0
    exhausted = False
    try:
        while True:
            ahead = len(running) + len(ready)
            if draw is None and not exhausted and _room(len(running), ahead, concurrency):
                draw = asyncio.create_task(_next(source))
            waits = {*running, draw} if draw else running
            if not waits:
                return
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if draw is not None and draw.done():
                one, draw = draw.result(), None
                if one is None:
                    exhausted = True
                else:
                    running.add(asyncio.create_task(_one(run, drawn, one)))
                    drawn += 1
            ended = {task for task in running if task.done()}
            running -= ended
            ready.update({task.result().index: task.result() for task in ended})
            while ready and (place := told if ordered else min(ready)) in ready:
                told += 1
                yield ready.pop(place)
    finally:
        left: set[asyncio.Task[Any]] = {*running, draw} if draw else {*running}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _room(running: int, ahead: int, concurrency: int) -> bool:
    """Whether another input may start; a slow head of the line must not stop the others."""
    return running < concurrency and ahead < 2 * concurrency


async def _one(
    run: Callable[[WorkflowInput[O]], Awaitable[O]], index: int, inputs: WorkflowInput[O]
) -> MapResult[O]:
    try:
        return MapResult(index=index, inputs=inputs, error=None, _output=await run(inputs))
    except (ComfysnapError, OSError) as error:
        return MapResult(index=index, inputs=inputs, error=error, _output=None)


async def _next(source: AsyncIterator[WorkflowInput[O]]) -> WorkflowInput[O] | None:
    return await anext(source, None)


async def _steps(inputs: Iterable[WorkflowInput[O]]) -> AsyncGenerator[WorkflowInput[O]]:
    for one in inputs:
        yield one
