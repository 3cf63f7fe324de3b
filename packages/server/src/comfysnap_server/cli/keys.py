"""``comfysnap keys``: the API keys of a local server or of a deployment."""

import json
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from comfysnap_schema.cli.options import JsonOption, ProjectOption
from comfysnap_schema.wire import Scope
from comfysnap_server.cli.modal_session import EnvironmentOption, modal_session

if TYPE_CHECKING:
    from comfysnap_server.gateway import KeyRecord, KeyStore

app: Final = typer.Typer(help="Add, list and revoke API keys.", no_args_is_help=True)

DataOption = Annotated[Path, typer.Option(help="Data folder of the server.")]
KeysFileOption = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", help="File of keys. Default: keys.json in the data folder."
    ),
]
DeployedOption = Annotated[
    bool,
    typer.Option("--deployed", help="Keys of the deployment on Modal instead of a local server."),
]
_DATA: Final = Path(".comfysnap")
_AGE: Final = re.compile(r"(\d{1,6}) ?(s|m|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE: Final = re.compile(r"(\d{1,15}) ?(?:([KMGT])i?B?|B)?", re.IGNORECASE)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the key: a-z, A-Z, 0-9, . _ @ -")],
    owner: Annotated[
        str | None,
        typer.Option(
            help="Owner of its jobs; keys of one owner share jobs and budgets. Default: NAME."
        ),
    ] = None,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do. Repeatable. Default: infer and read."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests a minute. Default: the server's.")
    ] = None,
    max_unfinished_jobs: Annotated[
        int | None, typer.Option(min=1, help="Unfinished jobs of the owner. Default: the server's.")
    ] = None,
    max_stored_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Files and jobs of the owner, as 20GiB. Default: the server's."
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Webhook of jobs that name none. Default: that of serve.webhooks."
        ),
    ] = None,
    expires_in: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Refuse the key after this time, as 90d. Default: never."),
    ] = None,
    deployed: DeployedOption = False,
    data: DataOption = _DATA,
    keys: KeysFileOption = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create an API key and print it once; only its SHA-256 is stored.

    A running server accepts it at once, the gateways of a deployment within a minute. Exits with 1
    if there is a key of that name, with 3 if Modal cannot be reached.

    Example: comfysnap keys add alice --requests-per-minute 120
    """
    from comfysnap_server.gateway import KEY_NAME, KeyRecord, hash_key, new_key

    for given in (name, owner or name):
        if not KEY_NAME.fullmatch(given):
            _stop(f"invalid name {given!r}: use up to 64 of a-z, A-Z, 0-9, . _ @ -", 2)
    key, now = new_key(), datetime.now(UTC).replace(microsecond=0)
    record = KeyRecord(
        name=name,
        owner=owner or name,
        hash=hash_key(key),
        ends_with=key[-4:],
        scopes=tuple(dict.fromkeys(scope or (Scope.INFER, Scope.READ))),
        requests_per_minute=requests_per_minute,
        max_unfinished_jobs=max_unfinished_jobs,
        max_stored_bytes=_bytes(max_stored_bytes),
        webhook=webhook,
        created=now,
        expires=None if expires_in is None else now + parse_age(expires_in),
    )
    with _store(project, environment, keys or data / "keys.json", deployed=deployed) as store:
        store.add(record)
        if as_json:
            print(json.dumps({**record.shown(), "key": key}, indent=2))
            return
        print(f"API key (not shown again):  {key}")
        print(f"{_described(record)}\nstored in {store.where}", file=sys.stderr)


@app.command("list")
def list_keys(
    deployed: DeployedOption = False,
    data: DataOption = _DATA,
    keys: KeysFileOption = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys with their owners, scopes and budgets, and the last 4 characters of each.

    Keys in [serve.keys] of comfysnap.toml are not listed. Exits with 3 if Modal cannot be reached.

    Example: comfysnap keys list
    """
    with _store(project, environment, keys or data / "keys.json", deployed=deployed) as store:
        records = store.read().keys
        if as_json:
            print(json.dumps([record.shown() for record in records], indent=2))
            return
        for record in records:
            print(_described(record))
        if not records:
            print(f"no keys in {store.where}", file=sys.stderr)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    deployed: DeployedOption = False,
    data: DataOption = _DATA,
    keys: KeysFileOption = None,
    project: ProjectOption = None,
    environment: EnvironmentOption = None,
) -> None:
    """Delete a key. Jobs of its owner stay; links that it made work for up to an hour.

    A running server refuses it at once, the gateways of a deployment within a minute. Exits with 1
    if the key is not known, with 3 if Modal cannot be reached.

    Example: comfysnap keys revoke alice
    """
    with _store(project, environment, keys or data / "keys.json", deployed=deployed) as store:
        store.revoke(name)
        print(f"revoked {name}", file=sys.stderr)


def parse_age(text: str) -> timedelta:
    """``90d``, ``12h``, ``30m``; exits with 2 on anything else."""
    found = _AGE.fullmatch(text.strip())
    if found is None:
        _stop(f"invalid time {text!r}: use a number and s, m, h, d or w, for example 30d", 2)
    try:
        return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    except OverflowError:
        _stop(f"invalid time {text!r}: too long", 2)


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    size = int(found[1]) * 1024 ** " KMGT".index((found[2] or " ").upper()) if found else 0
    if size < 1:
        _stop(f"invalid size {text!r}: use bytes, KiB, MiB, GiB or TiB, for example 20GiB", 2)
    return size


@contextmanager
def _store(
    project: Path | None, environment: str | None, file: Path, *, deployed: bool
) -> "Generator[KeyStore]":
    """The keys of the server that the options name; its errors end the command."""
    from comfysnap_server.gateway import KeyFile, KeyStoreError

    try:
        if not deployed:
            yield KeyFile(file)
            return
        from comfysnap_server.deploy import read_deployment

        deployment = read_deployment(project)
        if deployment.keys_secret is None:
            _stop(f'{deployment.name} has no keys; set auth = "keys" in [deploy]')
        if environment:
            os.environ["MODAL_ENVIRONMENT"] = environment
        with modal_session(quiet=True):
            from comfysnap_server.deploy.keys import DeploymentKeyStore

            yield DeploymentKeyStore(deployment.name, deployment.keys_secret)
    except KeyStoreError as error:
        _stop(str(error))


def _described(record: "KeyRecord") -> str:
    shown: dict[str, Any] = record.shown()
    parts = [
        f"{shown.pop('name')}  owner {shown.pop('owner')}",
        f"scopes {','.join(shown.pop('scopes'))}",
    ]
    ends_with = shown.pop("ends_with", "")
    if ends_with:
        parts.append(f"ends with {ends_with}")
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in shown.items()]
    return "  ".join(parts)


def _stop(message: str, code: int = 1) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code)
