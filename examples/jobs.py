import asyncio

from comfysnap_client import Client
from comfysnap_schema.workflows.flux import FluxInput, FluxOutput


async def main() -> None:
    async with Client.from_env() as client:
        job = await client.infer_async(FluxInput(prompt="a fox in the snow"))
        async for event in job.events():
            if event.progress is not None:
                print(f"{event.progress.fraction:.0%} {event.progress.node_title or ''}")

        later = client.job(job.id, FluxOutput)  # after a restart, the id is enough
        out = await later.result(timeout=300)  # past the deadline the job is cancelled
        print(await out.images[0].save("fox.png"))


asyncio.run(main())
