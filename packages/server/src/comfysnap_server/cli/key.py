"""``comfysnap key``: an API key and the hash of it for ``[serve.keys]``."""

import json
from typing import Annotated

import typer


def key(
    owner: Annotated[str, typer.Argument(help="Name of the owner of the key and its jobs.")],
) -> None:
    """Create an API key. Only its hash is stored, in comfysnap.toml.

    Example: comfysnap key alice
    """
    from comfysnap_server.gateway import hash_key, new_key

    fresh = new_key()
    print(f"API key (not shown again):  {fresh}")
    print(f'\n[serve]\nauth = "keys"\n\n[serve.keys]\n{json.dumps(owner)} = "{hash_key(fresh)}"')
