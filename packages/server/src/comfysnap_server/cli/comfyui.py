"""``comfysnap comfyui``: installs and shows the ComfyUI that ``comfysnap serve`` runs."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from comfysnap_server import pins


def install(
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder to install into. Default: COMFYSNAP_COMFYUI or the user's data folder."
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help=f"Release of ComfyUI. Default: {pins.VERSION}."),
    ] = None,
    commit: Annotated[
        str | None,
        typer.Option(help="Commit, tag or branch of ComfyUI, instead of --version."),
    ] = None,
    repository: Annotated[
        str, typer.Option(help="Address or folder to fetch ComfyUI from.")
    ] = pins.REPOSITORY,
    torch: Annotated[
        str,
        typer.Option(
            help="Build of torch: auto, cpu, cu130, cu128, ... cu130 is the locked one; auto takes "
            f"it if the NVIDIA driver is {pins.CUDA_DRIVER} or later, else what fits the machine."
        ),
    ] = "auto",
) -> None:
    """Install ComfyUI and its requirements into a folder. Run the command again to resume.

    The packages of the default release are locked and checked by hash, except torch and its CUDA
    packages in a build other than cu130. The requirements of another release are resolved as of
    the date of its commit.

    Example: comfysnap comfyui install --torch cpu
    """
    from comfysnap_server.engine.comfyui import install as comfyui_install

    target = folder or comfyui_install.default_folder()
    wanted = _wanted(version, commit)
    if repository.startswith((".", "/", "~")) and Path(repository).expanduser().is_dir():
        repository = str(Path(repository).expanduser().absolute())
    try:
        done = comfyui_install.install(
            target, commit=wanted, repository=repository, torch=torch, on_message=_print_message
        )
    except comfyui_install.InstallError as error:
        print(f"error: {error}\n{comfyui_install.AGAIN}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        print(f"\ninterrupted; {comfyui_install.AGAIN}", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"ComfyUI: {done.path}\nPython:  {done.python}")
    if folder is not None:
        print(f"To use it, run: export COMFYSNAP_COMFYUI={target.absolute()}")
    print(
        f"Next: put models into {done.path}/models, node packs with "
        "`comfysnap comfyui nodes SNAPSHOT`, and start `comfysnap serve`"
    )


def _wanted(version: str | None, commit: str | None) -> str:
    if version is not None and commit is not None:
        print("error: --version and --commit are mutually exclusive", file=sys.stderr)
        raise typer.Exit(2)
    if commit is not None and not pins.is_version(commit):
        return commit
    try:
        return pins.commit_of(version or commit or pins.VERSION)
    except pins.UnknownReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


def nodes(
    snapshot: Annotated[Path, typer.Argument(help="ComfyUI-Manager's snapshot.json.")],
    path: Annotated[
        Path | None,
        typer.Option(help="ComfyUI checkout. Default: that of `comfysnap comfyui show`."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(help="Interpreter with ComfyUI's packages. Default: that of the checkout."),
    ] = None,
    write_back: Annotated[
        bool,
        typer.Option("--write-back", help="Replace short commits in SNAPSHOT with full ones."),
    ] = False,
    registry: Annotated[
        str, typer.Option(help="Registry of the versions in cnr_custom_nodes.")
    ] = "https://api.comfy.org",
    token: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST=VARIABLE",
            help="Git host and the environment variable with its token. "
            "Default: github.com=GITHUB_TOKEN.",
        ),
    ] = None,
) -> None:
    """Install the node packs of a snapshot into the local ComfyUI, like the image build.

    Existing packs are updated to the version in the snapshot. A pack with local changes is not
    updated, which is an error unless it has "required": false in the snapshot. Exits with 1 if a
    required pack fails, with 2 if the snapshot is not valid.

    Example: comfysnap comfyui nodes snapshot.json --write-back
    """
    from comfysnap_server.engine.comfyui.install import find_comfyui, python_of
    from comfysnap_server.nodepacks import (
        PackInstallError,
        PackManifestError,
        Sources,
        complete_commits,
        install_packs,
        print_report,
        read_manifest,
    )

    found = find_comfyui()
    checkout = path or (Path(found.path) if found else None)
    marks = ("nodes.py", "custom_nodes")
    if checkout is None or not any((checkout / mark).exists() for mark in marks):
        missing = f"{checkout} is not a ComfyUI checkout: missing {' and '.join(marks)}"
        where = missing if checkout else "no ComfyUI found"
        print(
            f"error: {where}; use --path, set COMFYUI_PATH, or run `comfysnap comfyui install`",
            file=sys.stderr,
        )
        raise typer.Exit(2)
    same = found is not None and Path(found.path).resolve() == checkout.resolve()
    interpreter = python or (found.python if found and same else python_of(checkout))
    try:
        wanted = read_manifest(snapshot)
    except PackManifestError as error:
        print(f"error: {snapshot}: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    sources = Sources(
        registry=registry, files=snapshot.parent / "custom_nodes", tokens=_tokens(token)
    )
    print(f"installing node packs into {checkout / 'custom_nodes'}", flush=True)
    failed = ""
    try:
        report = install_packs(wanted, checkout, sources, interpreter)
    except PackInstallError as error:
        report, failed = error.report, str(error)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: cannot use {interpreter}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print_report(report)
    if write_back:
        for url in complete_commits(snapshot, report.commits):
            print(f"wrote the full commit of {url} to {snapshot}")
    elif any(pack.folder in report.commits for pack in wanted.short_commits):
        print(f"{snapshot} has short commits; use --write-back to replace them")
    if failed:
        print(f"error: required node packs failed: {failed}", file=sys.stderr)
        raise typer.Exit(1)


def _tokens(pairs: list[str] | None) -> dict[str, str]:
    if pairs is None:
        return {"github.com": "GITHUB_TOKEN"}
    for pair in pairs:
        if not all(pair.partition("=")):
            print(f"error: --token must be HOST=VARIABLE, got {pair!r}", file=sys.stderr)
            raise typer.Exit(2)
    return dict(pair.split("=", 1) for pair in pairs)


def show() -> None:
    """Show which ComfyUI `comfysnap serve` runs.

    Example: comfysnap comfyui show
    """
    from comfysnap_server.engine.comfyui.install import default_folder, find_comfyui
    from comfysnap_server.pins import (
        TESTED,
        UnsupportedComfyError,
        is_tested,
        read_version,
    )

    found = find_comfyui()
    if found is None:
        print(
            f"no ComfyUI found: COMFYUI_PATH is not set and {default_folder()} has no complete "
            "install; run `comfysnap comfyui install`"
        )
        raise typer.Exit(1)
    try:
        version = read_version(Path(found.path))
    except UnsupportedComfyError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    known = "tested" if is_tested(version) else f"not tested; tested: {TESTED[0]} to {TESTED[-1]}"
    print(f"ComfyUI: {found.path}\nversion: {version} ({known})")
    if found.commit:
        print(f"commit:  {found.commit}")
    print(f"Python:  {found.python}")


def _print_message(line: str) -> None:
    print(line, flush=True)


app = typer.Typer(
    no_args_is_help=True, help="Install and show the ComfyUI that `comfysnap serve` runs."
)
for _command in (install, nodes, show):
    app.command()(_command)
