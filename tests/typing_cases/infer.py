"""Checked by pyright, never run: each ignored error must occur, or pyright reports the comment."""

from pathlib import Path
from typing import assert_type

from comfysnap_client import Client, Job, UntypedOutput, WebhookEvent, verify_webhook
from comfysnap_schema.wire.files import FileByUrl, ImageFile, VideoFile
from comfysnap_schema.workflows import FluxInput, FluxOutput, HelloInput, Img2imgInput, VideoInput


async def calls_are_typed(client: Client) -> None:
    output = await client.infer_sync(FluxInput(prompt="x"))
    assert_type(output, FluxOutput)
    assert_type(output.images[0], ImageFile)
    job = await client.infer_async(FluxInput(prompt="x", seed=2**63, width=512))
    assert_type(job, Job[FluxOutput])
    assert_type(await job.result(), FluxOutput)
    assert_type(client.job("id", FluxOutput), Job[FluxOutput])
    video = await client.infer_sync(VideoInput(prompt="x", fps=24))
    assert_type(video.video, VideoFile)
    assert_type(FluxInput(prompt="x").seed, int | None)
    assert_type(HelloInput().width, int)


def webhooks_are_typed(headers: dict[str, str], body: bytes) -> None:
    event = verify_webhook(headers, body, "whsec_...", FluxOutput)
    assert_type(event, WebhookEvent[FluxOutput])
    assert_type(event.output, FluxOutput | None)
    assert_type(verify_webhook(headers, body, ["old", "new"]).output, UntypedOutput | None)


def a_file_input_accepts_what_a_caller_may_hold() -> None:
    Img2imgInput(prompt="x", image=Path("a.png"))
    Img2imgInput(prompt="x", image=b"...")
    Img2imgInput(prompt="x", image="https://example.org/a.png")
    Img2imgInput(prompt="x", image=FileByUrl(url="https://example.org/a.png"))
    with Path("a.png").open("rb") as file:
        Img2imgInput(prompt="x", image=file)
    Img2imgInput(prompt="x", image=3)  # pyright: ignore[reportArgumentType]


def wrong_inputs_are_errors() -> None:
    FluxInput(promt="x")  # pyright: ignore[reportCallIssue]
    FluxInput(prompt="x", steps="many")  # pyright: ignore[reportArgumentType]
    FluxInput()  # pyright: ignore[reportCallIssue]
    FluxInput(prompt="x", seed="1")  # pyright: ignore[reportArgumentType]
    HelloInput(method="bicubical")  # pyright: ignore[reportArgumentType]


def an_unknown_output_is_an_error(output: FluxOutput) -> object:
    return output.image  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
