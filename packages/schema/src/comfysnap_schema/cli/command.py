"""The command ``comfysnap``: loads the commands of every installed package and runs one."""

import io
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, cast

try:
    import typer
except ModuleNotFoundError as _missing:
    raise SystemExit(
        "error: typer is not installed; pip install 'comfysnap-schema[cli]'"
    ) from _missing

from comfysnap_schema.cli import check, diff, generate, new
from comfysnap_schema.wire import SchemaError

COMMANDS_GROUP = "comfysnap.commands"
"""Entry points that add commands; each is ``register(app: typer.Typer) -> None``."""

_EXTRAS = {
    "datamodel_code_generator": "comfysnap-schema[codegen]",
    "tomlkit": "comfysnap-schema[cli]",
    "rich": "comfysnap-schema[cli]",
}


def main() -> None:
    """Run the command line.

    Exit codes: 0 fine, 1 the thing asked for failed, 2 usage or bad input, 3 no connection or no
    permission, 4 timed out, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows cannot carry every prompt
            stream.reconfigure(errors="backslashreplace")
    try:
        build_app()()
    except KeyboardInterrupt:  # while the commands load; typer sees to the rest
        sys.exit(130)
    except SchemaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"error: {error.name} is not installed; pip install '{extra}'", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {told}", file=sys.stderr)
        sys.exit(1)


def build_app() -> typer.Typer:
    """The command with every plug-in that loads; one that does not is named on stderr."""
    app = typer.Typer(
        name="comfysnap",
        help="ComfyUI workflows as typed, cancellable, fast-starting APIs.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for plugin in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        _load(plugin, app)
    return app


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    for module in (new, generate, check, diff):
        module.register(app)


def _load(plugin: EntryPoint, app: typer.Typer) -> None:
    """Add the commands of one plug-in; a broken one must not take the others with it."""
    try:
        cast("Callable[[typer.Typer], None]", plugin.load())(app)
    except Exception as error:  # whatever a plug-in does on import
        print(
            f"warning: the commands of {plugin.value} are missing: {type(error).__name__}: {error}",
            file=sys.stderr,
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"comfysnap {version('comfysnap-schema')}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """ComfyUI workflows as typed, cancellable, fast-starting APIs."""
