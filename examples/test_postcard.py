from comfysnap_client import Client
from comfysnap_client.testing import MockServer
from comfysnap_schema.workflows.flux import FluxInput, FluxOutput


async def test_a_fox_is_drawn(comfysnap_server: MockServer) -> None:
    comfysnap_server.on(FluxInput).succeeds(FluxOutput(images=[comfysnap_server.image()]))

    async with Client.from_env() as client:
        out = await client.infer_sync(FluxInput(prompt="a fox"))
        assert (await out.images[0].read()).startswith(b"\x89PNG")

    assert comfysnap_server.inputs_of(FluxInput)[0].prompt == "a fox"
