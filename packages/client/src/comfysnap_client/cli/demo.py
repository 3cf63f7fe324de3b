"""The client process of ``comfysnap demo``: run flux, show the progress, save the image."""

import os
import signal
import sys
import threading
from pathlib import Path

from comfysnap_client.cli.run import free_path, run
from comfysnap_client.cli.show import ProgressBar, describe
from comfysnap_client.client import Client
from comfysnap_schema.wire import JobStatus, Progress
from comfysnap_schema.workflows.flux import FluxInput

TIMEOUT_S = 600.0


async def draw(client: Client, prompt: str, folder: Path) -> Path:
    """Run flux, show the current node, save the image into ``folder`` and return its path."""
    printed = ""

    with ProgressBar() as bar:

        def show(progress: Progress) -> None:
            nonlocal printed
            bar.progress(progress, JobStatus.RUNNING)
            node = describe(progress.model_copy(update={"steps": None}), JobStatus.RUNNING)
            if node != printed and not sys.stderr.isatty():
                print(f"  {progress.fraction:4.0%}  {node}", flush=True)
                printed = node

        job = await client.infer_async(FluxInput(prompt=prompt, width=768, height=512))
        output = await job.result(on_progress=show)
        return await output.images[0].save(free_path(folder, output.images[0].name))


def main(url: str, prompt: str, folder: str) -> int:
    """Draw, print the path of the image, and return the exit code of ``comfysnap infer``."""

    async def work(client: Client) -> None:
        print(f"saved {await draw(client, prompt, Path(folder))}")

    threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    return run(url, TIMEOUT_S, work, cancels=True)


def _interrupt_at_end_of_input() -> None:
    """Stop when standard input closes, which means that the parent process has ended."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
