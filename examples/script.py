from comfysnap_client.blocking import Client
from comfysnap_schema.workflows.flux import FluxInput

with Client.from_env() as client:
    out = client.infer_sync(FluxInput(prompt="a fox in the snow"))
    print(client.save(out.images[0], "fox.png"))
