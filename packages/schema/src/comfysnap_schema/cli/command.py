"""The command ``comfysnap``: loads the commands of every installed package and runs one."""

import io
import sys
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Annotated, Any, Final, cast

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
from comfysnap_schema.cli.init import init
from comfysnap_schema.cli.new import new
from comfysnap_schema.cli.options import GROUPS, NOT_ON_WINDOWS, OTHER, START, WORKFLOWS
from comfysnap_schema.cli.update import update
from comfysnap_schema.wire import SchemaError
from comfysnap_schema.workflow import find_project

COMMANDS_GROUP = "comfysnap.commands"
"""Entry points that add commands; each is ``register(app: typer.Typer) -> None``."""

_EXTRAS = {
    "datamodel_code_generator": "comfysnap-schema[codegen]",
    "tomlkit": "comfysnap-schema[cli]",
    "rich": "comfysnap-schema[cli]",
}

_EXAMPLES: Final = (
    "comfysnap init shop",
    "comfysnap new postcard postcard.json",
    'comfysnap infer postcard prompt="Lisbon" --out pictures',
)
_FIRST: Final = {
    "demo": ("demo", "draw a picture: no account, no GPU, no ComfyUI"),
    "init": ("init shop", "create a project with an example workflow"),
    "new": ("new postcard postcard.json", "make an API from a workflow that ComfyUI exported"),
}
_IN_PROJECT: Final = {
    "check": ("check", "validate the workflows"),
    "serve": ("serve", "serve them at http://127.0.0.1:8000"),
    "infer": ("infer", "call the server, from another terminal"),
    "new": ("new NAME EXPORT.json", "add a workflow that ComfyUI exported"),
    "doctor": ("doctor", "find what a deployment lacks"),
    "deploy": ("deploy --dry-run", "show what would be made on Modal"),
}

_POSIX: Final = {"fcntl", "grp", "pwd", "resource", "termios"}
"""Modules of the standard library that Windows lacks."""


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
        if error.name in _POSIX:
            print(f"error: {NOT_ON_WINDOWS}", file=sys.stderr)
            sys.exit(2)
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
    """Shows square brackets in help texts, which typer would read as styles, and lists commands by
    group."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        _escape_help(self)
        for command in cast("dict[str, Any]", self.commands).values():
            command.rich_help_panel = _group(command)

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of their groups; those of other packages come last."""
        places = {group: place for place, group in enumerate((*GROUPS, OTHER))}
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: places[_group(self.commands[name])])


def _group(command: Any) -> str:
    group = command.rich_help_panel
    return group if group in GROUPS else OTHER


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
        epilog="\n\n".join(("Examples:", *_EXAMPLES)),
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    for plugin in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        _load(plugin, app)
    return app


def register(app: typer.Typer) -> None:
    """Add the commands of this package."""
    app.command(rich_help_panel=START)(init)
    for command in (new, update, generate, check, diff):
        app.command(rich_help_panel=WORKFLOWS)(command)


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
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """ComfyUI workflows as typed, cancellable, fast-starting APIs."""
    if context.invoked_subcommand is None:
        _print_next(cast("TyperGroup", context.command).commands)


def _print_next(commands: Collection[str]) -> None:
    """Print what to run next, of the commands that are installed."""
    project = find_project(Path.cwd())
    print("ComfyUI workflows as typed, cancellable, fast-starting APIs.\n")
    print(f"In the project {project.parent}:" if project else "To start:")
    steps = _IN_PROJECT if project else _FIRST
    for name, (command, purpose) in steps.items():
        if name in commands:
            print(f"  comfysnap {command:28} {purpose}")
    print("\nEvery command: comfysnap --help")
