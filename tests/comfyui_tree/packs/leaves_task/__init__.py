"""Schedules a task on the server's loop on import."""

import asyncio

from server import PromptServer


async def forever():
    await asyncio.Event().wait()


TASK = PromptServer.instance.loop.create_task(forever())
NODE_CLASS_MAPPINGS = {}
