"""Draws postcards: an application that uses comfysnap."""

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from comfysnap_client import Client, ErrorCode, JobFailed, Progress
from comfysnap_schema.workflows.flux import FluxInput


class Busy(Exception):
    """The GPU is out of memory."""


async def draw(client: Client, place: str, folder: Path, *, bar: list[float] | None = None) -> Path:
    """Draw the postcard of a place and save it."""

    def show(progress: Progress) -> None:
        if bar is not None:
            bar.append(progress.fraction)

    try:
        output = await client.infer_sync(
            FluxInput(prompt=f"a postcard of {place}", width=768, height=512),
            timeout=300,
            on_progress=show if bar is not None else None,
        )
    except JobFailed as error:
        if error.code == ErrorCode.OUT_OF_MEMORY:
            raise Busy(place) from error
        raise
    return await output.images[0].save(folder / f"{place}.png")


async def draw_all(client: Client, places: Sequence[str]) -> dict[str, str]:
    """Draw many concurrently and return the state of each."""
    states: dict[str, str] = {}
    inputs = [FluxInput(prompt=f"a postcard of {place}") for place in places]
    async with aclosing(client.map(inputs, concurrency=4)) as results:
        async for result in results:
            place = places[result.index]
            states[place] = "drawn" if result.error is None else str(result.error)
    return states
