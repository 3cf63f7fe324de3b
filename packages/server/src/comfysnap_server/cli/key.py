"""``comfysnap key``: an API key and the hash of it, for ``[serve.keys]`` or a deployment."""

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from comfysnap_schema.cli.options import ProjectOption
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session

if TYPE_CHECKING:
    from comfysnap_server.deploy import Deployment


def key(
    owner: Annotated[str, typer.Argument(help="Name of the owner of the key and its jobs.")],
    deployed: Annotated[
        bool, typer.Option("--deployed", help="Add the key to the deployment, within a minute.")
    ] = False,
    revoke: Annotated[
        bool,
        typer.Option(
            "--revoke", help="Revoke all keys of the owner in the deployment, within a minute."
        ),
    ] = False,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
) -> None:
    """Create an API key. Only its hash is stored, in comfysnap.toml or the deployment.

    With --deployed and --revoke together, the new key replaces the owner's others. Exits with 1 if
    no gateway has started with the deployment's keys yet, with 3 if Modal cannot be reached.

    Example: comfysnap key alice
    """
    from comfysnap_server.gateway import hash_key, new_key

    fresh = new_key() if deployed or not revoke else None
    if deployed or revoke:
        from comfysnap_server.deploy import read_deployment

        deployment = read_deployment(project)
        if environment:
            os.environ["MODAL_ENVIRONMENT"] = environment
        with modal_session(quiet=True):
            _change(deployment, owner, hash_key(fresh) if fresh else None, revoke=revoke)
    if fresh:
        print(f"API key (not shown again):  {fresh}")
    if fresh and not deployed:
        print(
            f'\n[serve]\nauth = "keys"\n\n[serve.keys]\n{json.dumps(owner)} = "{hash_key(fresh)}"'
        )


def _change(deployment: "Deployment", owner: str, fresh: str | None, *, revoke: bool) -> None:
    import modal

    from comfysnap_server.deploy.keys import ENTRY, KEYS_VARIABLE, KeyTable

    if deployment.keys_secret is None:
        _stop(f'{deployment.name} has no keys; set auth = "keys" in [deploy]')
    entries = modal.Dict.from_name(f"{deployment.name}-keys", create_if_missing=True)
    entry: Any = entries.get(ENTRY)
    if entry is None:
        _stop(f"no gateway of {deployment.name} has read its keys yet; send it a request first")
    table = KeyTable.model_validate_json(entry)
    known = table.keys.get(owner, [])
    hashes = [] if revoke else [known] if isinstance(known, str) else list(known)
    try:
        text, changed = table.changed(owner, [*hashes, *([fresh] if fresh else [])])
    except ValueError:
        _stop("these are the only keys; add another one first")
    # first, because what starts with the old secret would put its keys back
    modal.Secret.from_name(deployment.keys_secret).update({KEYS_VARIABLE: text})
    entries.put(ENTRY, changed.model_dump_json())


def _stop(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(1)
