"""The command ``comfysnap``: loads the commands of every installed package and runs one."""

import io
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, cast

try:
    import typer
    from rich.markup import escape
    from typer.core import TyperGroup
except ModuleNotFoundError as _missing:
    raise SystemExit(
        "error: typer is not installed; pip install 'comfysnap-schema[cli]'"
    ) from _missing

from comfysnap_schema.cli.check import check, diff
from comfysnap_schema.cli.generate import generate
from comfysnap_schema.cli.new import new
from comfysnap_schema.cli.update import update
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

    Exit codes: 0 success, 1 failure, 2 usage error or invalid input, 3 no connection or no
    permission, 4 timeout, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows cannot encode every prompt
            stream.reconfigure(errors="backslashreplace")
    try:
        build_app()()
    except KeyboardInterrupt:  # while the commands load; later, typer handles it
        sys.exit(130)
    except SchemaError as error:
        for each in getattr(error, "errors", [error]):
            print(f"error: {each}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"error: {error.name} is not installed; pip install '{extra}'", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


class _LiteralHelp(TyperGroup):
    """Shows square brackets in help texts, which typer would take for styles."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        _escape_help(self)


def _escape_help(command: Any) -> None:
    for each in (command, *command.params):
        each.help = escape(each.help or "")
    for inner in getattr(command, "commands", {}).values():
        _escape_help(inner)


def build_app() -> typer.Typer:
    """The command with every plug-in that loads; the others are reported on stderr."""
    app = typer.Typer(
        name="comfysnap",
        cls=_LiteralHelp,
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
    for command in (new, update, generate, check, diff):
        app.command()(command)


def _load(plugin: EntryPoint, app: typer.Typer) -> None:
    """Add the commands of one plug-in; a broken one must not disable the others."""
    try:
        cast("Callable[[typer.Typer], None]", plugin.load())(app)
    except Exception as error:  # a plug-in may raise anything on import
        print(
            f"warning: cannot load the commands of {plugin.value}: {type(error).__name__}: {error}",
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
