import asyncio

from comfysnap_client import Client
from comfysnap_schema.workflows.flux import FluxInput


async def main() -> None:
    async with Client.from_env() as client:  # COMFYSNAP_URL, COMFYSNAP_API_KEY
        out = await client.infer_sync(FluxInput(prompt="a fox in the snow", width=768))
        print(await out.images[0].save("fox.png"))


asyncio.run(main())
