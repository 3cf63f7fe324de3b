"""Read by pyright, never run: ``# expect`` says what it must find on a line."""

from pathlib import Path
from typing import reveal_type

from comfysnap_client import Client
from comfysnap_schema.wire.files import FileByUrl
from comfysnap_schema.workflows import FluxInput, FluxOutput, HelloInput, Img2imgInput, VideoInput


async def right(client: Client) -> None:
    """All of this is fine, and typed."""
    out = await client.infer_sync(FluxInput(prompt="x"))
    reveal_type(out)  # expect type: FluxOutput
    reveal_type(out.images[0])  # expect type: ImageFile
    job = await client.infer_async(FluxInput(prompt="x", seed=2**63, width=512))
    reveal_type(job)  # expect type: Job[FluxOutput]
    reveal_type(await job.result())  # expect type: FluxOutput
    reveal_type(client.job("id", FluxOutput))  # expect type: Job[FluxOutput]
    video = await client.infer_sync(VideoInput(prompt="x", fps=24))
    reveal_type(video.video)  # expect type: VideoFile
    reveal_type(FluxInput(prompt="x").seed)  # expect type: int | None
    reveal_type(HelloInput().width)  # expect type: int


def files() -> None:
    """A file input takes what a caller may hold."""
    Img2imgInput(prompt="x", image=Path("a.png"))
    Img2imgInput(prompt="x", image=b"...")
    Img2imgInput(prompt="x", image="https://example.org/a.png")
    Img2imgInput(prompt="x", image=FileByUrl(url="https://example.org/a.png"))
    with Path("a.png").open("rb") as file:
        Img2imgInput(prompt="x", image=file)
    Img2imgInput(prompt="x", image=3)  # expect error: reportArgumentType


def wrong() -> None:
    """Each of these is a mistake that the checker finds."""
    FluxInput(promt="x")  # expect error: reportCallIssue
    FluxInput(prompt="x", steps="many")  # expect error: reportArgumentType
    FluxInput()  # expect error: reportCallIssue
    FluxInput(prompt="x", seed="1")  # expect error: reportArgumentType
    HelloInput(method="bicubical")  # expect error: reportArgumentType


def attributes(out: FluxOutput) -> object:
    """Outputs are what the workflow says."""
    return out.image  # expect error: reportAttributeAccessIssue
