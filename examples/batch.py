import asyncio

from comfysnap_client import Client
from comfysnap_schema.workflows.hello import HelloInput


async def main() -> None:
    colors = (0xCC3311, 0x009988, 0x0077BB)
    inputs = [HelloInput(color=color) for color in colors]
    async with Client.from_env() as client:
        async for result in client.map(inputs, concurrency=2):
            if result.error is None:
                print(await result.output.images[0].save(f"{result.index}.png"))
            else:
                print(result.index, result.error)


asyncio.run(main())
