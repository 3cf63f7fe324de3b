"""``comfysnap comfyui``: the ComfyUI that the local backend runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from comfysnap_server.engine.comfyui.release import PINNED_COMMIT, REPOSITORY


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="The ComfyUI that 'serve' runs jobs on.")
    group.command("install")(install)
    group.command("show")(show)
    app.add_typer(group, name="comfyui")


def install(
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to; default: COMFYSNAP_COMFYUI or the user's data folder."),
    ] = None,
    commit: Annotated[str, typer.Option(help="Commit, tag or branch.")] = PINNED_COMMIT,
    repository: Annotated[str, typer.Option(help="Where to fetch it from.")] = REPOSITORY,
    torch: Annotated[str, typer.Option(help="Build of torch: auto, cpu, cu128, ...")] = "auto",
) -> None:
    """Fetch ComfyUI and its requirements into a folder of its own; can be run again to go on."""
    from comfysnap_server.engine.comfyui import install as comfyui_install

    target = folder or comfyui_install.default_folder()
    try:
        done = comfyui_install.install(
            target, commit=commit, repository=repository, torch=torch, say=_say
        )
    except comfyui_install.InstallError as error:
        print(f"error: {error}\n{comfyui_install.AGAIN}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        print(f"\nstopped; {comfyui_install.AGAIN}", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"ComfyUI: {done.path}\nPython:  {done.python}")
    if folder is not None:
        print(f"tell 'serve' of it: export COMFYSNAP_COMFYUI={target.absolute()}")
    else:
        print("'comfysnap serve' takes it from now on; put models below ComfyUI/models")


def show() -> None:
    """Say which ComfyUI 'serve' would take."""
    from comfysnap_server.engine.comfyui.install import default_folder, find_comfyui
    from comfysnap_server.engine.comfyui.release import (
        TESTED,
        UnsupportedComfyError,
        is_tested,
        read_version,
    )

    found = find_comfyui()
    if found is None:
        print(f"none: COMFYUI_PATH is not set, and nothing is installed in {default_folder()}")
        raise typer.Exit(1)
    try:
        version = read_version(Path(found.path))
    except UnsupportedComfyError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    known = "tested" if is_tested(version) else f"the tests ran on {' to '.join(TESTED)}"
    print(f"ComfyUI: {found.path}\nversion: {version} ({known})\nPython:  {found.python}")


def _say(line: str) -> None:
    print(line, flush=True)
