from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from tests.contract.processes import environment

COMMANDS = [
    "serve",
    "mcp",
    "keys add",
    "keys list",
    "keys revoke",
    "purge",
    "demo",
    "doctor",
    "deploy",
    "rollback",
    "ui",
    "open",
    "models sync",
    "models list",
    "models rm",
    "webhooks list",
    "webhooks resend",
    "webhooks secret",
    "comfyui install",
    "comfyui nodes",
    "comfyui show",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_one_text_for_each_shared_option(command: str) -> None:
    wide = environment("none") | {"COLUMNS": "200", "TERM": "dumb"}
    result = CliRunner().invoke(build_app(), [*command.split(), "--help"], env=wide)
    assert result.exit_code == 0
    assert f"Example: comfysnap {command}" in result.output
    texts = {
        "--project": "Project folder or its comfysnap.toml. Default: this folder or a parent.",
        "--env ": "Modal environment.",
        "--json": "Print JSON.",
    }
    for option, text in texts.items():
        assert (option in result.output) == (text in result.output)


def every_command(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from every_command(command, (*path, name))


def test_every_help_shows_its_whole_text_with_square_brackets() -> None:
    """A bracketed word is added to each text, which rich would take for a style."""
    app = build_app()
    app.command("brackets", help="Reads [serve] and [[deploy.models]].")(brackets)
    wide = environment("none") | {"COLUMNS": "400", "TERM": "dumb"}
    commands = list(every_command(get_command(app)))
    assert len(commands) > len(COMMANDS)
    for path, command in commands:
        shown = " ".join(CliRunner().invoke(app, [*path, "--help"], env=wide).output.split())
        texts = [command.help, *(getattr(each, "help", None) for each in command.params)]
        for text in filter(None, texts):
            for paragraph in text.replace("\\[", "[").split("\n\n"):
                assert " ".join(paragraph.split()) in shown, (path, paragraph)
    shown = CliRunner().invoke(app, ["brackets", "--help"], env=wide).output
    assert "Reads [serve] and [[deploy.models]]." in shown
    assert "The table [serve.local]." in shown
    assert "'[red]' is not one of" in CliRunner().invoke(app, ["serve", "--engine=[red]"]).output


def brackets(
    size: Annotated[int, typer.Option(help="The table [serve.local].")] = 1,
) -> None:
    raise AssertionError(size)
