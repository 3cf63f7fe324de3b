"""Checked by pyright, never run: each ignored error must occur, or pyright reports the comment."""

from pathlib import Path
from typing import assert_type

from comfysnap_client import Client, Job, Lora, UntypedOutput, WebhookEvent, verify_webhook
from comfysnap_schema.wire.files import FileByUrl, FileInput, ImageFile, OutputFile, VideoFile
from comfysnap_schema.workflows import FluxInput, FluxOutput, HelloInput, Img2imgInput, VideoInput
from tests.typing_cases.edit import EditInput


async def calls_are_typed(client: Client) -> None:
    out = await client.infer_sync(FluxInput(prompt="x"))
    assert_type(out, FluxOutput)
    assert_type(out.images[0], ImageFile)
    job = await client.infer_async(FluxInput(prompt="x", seed=2**63, width=512))
    assert_type(job, Job[FluxOutput])
    assert_type(await job.result(), FluxOutput)
    assert_type(client.job("id", FluxOutput), Job[FluxOutput])
    async for output in job.outputs():
        assert_type(output.name, str)
        assert_type(output.files, list[OutputFile])
        for file in output.files:
            assert_type(await file.save("x"), Path)
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


def a_list_takes_what_its_items_may_be(given: list[FileInput]) -> None:
    EditInput(prompt="x", images=[Path("a.png"), b"...", "https://example.org/a.png"])
    EditInput(prompt="x", images=given, loras=[Lora(name="ink.safetensors", strength=1)])
    assert_type(EditInput(prompt="x", images=given).loras, list[Lora])
    EditInput(prompt="x")  # pyright: ignore[reportCallIssue]
    EditInput(prompt="x", images=Path("a.png"))  # pyright: ignore[reportArgumentType]
    EditInput(prompt="x", images=[3])  # pyright: ignore[reportArgumentType]
    EditInput(prompt="x", images=given, loras=["ink"])  # pyright: ignore[reportArgumentType]
    Lora(nmae="ink.safetensors")  # pyright: ignore[reportCallIssue]


def wrong_inputs_are_errors() -> None:
    FluxInput(promt="x")  # pyright: ignore[reportCallIssue]
    FluxInput(prompt="x", steps="many")  # pyright: ignore[reportArgumentType]
    FluxInput()  # pyright: ignore[reportCallIssue]
    FluxInput(prompt="x", seed="1")  # pyright: ignore[reportArgumentType]
    HelloInput(method="bicubical")  # pyright: ignore[reportArgumentType]


def an_unknown_output_is_an_error(output: FluxOutput) -> object:
    return output.image  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
