"""``Client.map``: many inputs concurrently, with backpressure."""

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

OutputT = TypeVar("OutputT", bound=WorkflowOutput)
OutputT_co = TypeVar("OutputT_co", bound=WorkflowOutput, covariant=True)


@dataclass(frozen=True, kw_only=True)
class MapResult(Generic[OutputT_co]):
    """The result of one input of ``Client.map``::

        async for result in client.map(inputs):
            print(result.index, result.error or "ok")

    Attributes:
        index: Position of the input, from 0.
        inputs: The input.
        error: The failure, or None.
    """

    index: int
    inputs: WorkflowInput[OutputT_co]
    error: ComfysnapError | OSError | None
    _output: OutputT_co | None

    @property
    def output(self) -> OutputT_co:
        """The output.

        Raises:
            ComfysnapError: The job failed; same as ``error``.
            OSError: A file of the input cannot be read.
        """
        if self.error is not None:
            raise self.error
        assert self._output is not None  # noqa: S101 -- set if there is no error
        return self._output


async def run_map(
    run: Callable[[WorkflowInput[OutputT]], Awaitable[OutputT]],
    inputs: Iterable[WorkflowInput[OutputT]] | AsyncIterable[WorkflowInput[OutputT]],
    *,
    concurrency: int,
    ordered: bool,
) -> AsyncGenerator[MapResult[OutputT]]:
    """Yield the results of ``run`` for ``inputs``; closing the generator cancels running ones."""
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1")
    source = aiter(inputs) if isinstance(inputs, AsyncIterable) else _as_async(inputs)
    running: set[asyncio.Task[MapResult[OutputT]]] = set()
    ready: dict[int, MapResult[OutputT]] = {}
    reading: asyncio.Task[WorkflowInput[OutputT] | None] | None = None
    started = yielded = 0
    exhausted = False
    try:
        while True:
            ahead = len(running) + len(ready)
            # The second limit: a slow first input must not block the others, nor start them all.
            may_start = len(running) < concurrency and ahead < 2 * concurrency
            if reading is None and not exhausted and may_start:
                reading = asyncio.create_task(_next(source))
            tasks = {*running, reading} if reading else running
            if not tasks:
                return
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                one, reading = reading.result(), None
                if one is None:
                    exhausted = True
                else:
                    running.add(asyncio.create_task(_one(run, started, one)))
                    started += 1
            ended = {task for task in running if task.done()}
            running -= ended
            ready.update({task.result().index: task.result() for task in ended})
            while ready and (index := yielded if ordered else min(ready)) in ready:
                yielded += 1
                yield ready.pop(index)
    finally:
        left: set[asyncio.Task[Any]] = {*running, reading} if reading else {*running}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _one(
    run: Callable[[WorkflowInput[OutputT]], Awaitable[OutputT]],
    index: int,
    inputs: WorkflowInput[OutputT],
) -> MapResult[OutputT]:
    try:
        return MapResult(index=index, inputs=inputs, error=None, _output=await run(inputs))
    except (ComfysnapError, OSError) as error:
        return MapResult(index=index, inputs=inputs, error=error, _output=None)


async def _next(source: AsyncIterator[WorkflowInput[OutputT]]) -> WorkflowInput[OutputT] | None:
    return await anext(source, None)


async def _as_async(
    inputs: Iterable[WorkflowInput[OutputT]],
) -> AsyncGenerator[WorkflowInput[OutputT]]:
    for one in inputs:
        yield one
