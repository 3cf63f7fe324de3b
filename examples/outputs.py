import asyncio

from comfysnap_client import Client
from comfysnap_schema.workflows.flux import FluxInput


async def main() -> None:
    async with Client.from_env() as client:
        job = await client.infer_async(FluxInput(prompt="a fox in the snow", count=2))
        async for output in job.outputs():  # each as soon as its node is done
            for file in output.files:
                print(output.name, await file.save(file.name))


asyncio.run(main())
