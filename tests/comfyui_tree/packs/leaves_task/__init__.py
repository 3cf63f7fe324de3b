"""Schedules something on the server's loop when it is imported."""

import asyncio

from server import PromptServer


async def forever():
    await asyncio.Event().wait()


TASK = PromptServer.instance.loop.create_task(forever())
NODE_CLASS_MAPPINGS = {}
