"""Files that are opened in a thread."""

import asyncio
import os
import threading
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from comfysnap_client.threads import opened


async def test_a_file_whose_opener_was_cancelled_is_closed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    opening = asyncio.create_task(opened(partial(pipe.open, "rb")))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    writer = await asyncio.to_thread(pipe.open, "wb", 0)  # opens the reading end too
    with writer, pytest.raises(BrokenPipeError):
        await asyncio.to_thread(_fill, writer)


def _fill(pipe: BinaryIO) -> None:
    while True:
        pipe.write(b"x")


async def test_a_file_that_cannot_be_opened_after_a_cancel_is_nobodys_error() -> None:
    cancelled, ended = threading.Event(), threading.Event()

    def fail() -> BinaryIO:
        cancelled.wait()
        try:
            raise FileNotFoundError
        finally:
            ended.set()

    opening = asyncio.create_task(opened(fail))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    cancelled.set()
    await asyncio.to_thread(ended.wait)


async def test_an_error_of_opening_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await opened((tmp_path / "missing").open)
